"""Mixed and smoothed targets compared with timm."""

from __future__ import annotations

import importlib.util
from importlib.metadata import distribution
from types import ModuleType

import pytest
import torch

import torchext


def _timm_mixup() -> ModuleType:
    """Load only this file of timm: the package requires torchvision."""
    spec = importlib.util.spec_from_file_location(
        "timm_mixup", str(distribution("timm").locate_file("timm/data/mixup.py"))
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_mixed_targets_equal_timm(lam: float, smoothing: float) -> None:
    labels = torch.randint(0, 10, (16,), generator=torch.Generator().manual_seed(0))
    expected = _timm_mixup().mixup_target(labels, 10, lam, smoothing)
    torch.testing.assert_close(torchext.mixup_one_hot(labels, lam, 10, label_smoothing=smoothing), expected)


def test_smoothed_targets_equal_timm() -> None:
    labels = torch.randint(0, 10, (16,), generator=torch.Generator().manual_seed(0))
    expected = _timm_mixup().mixup_target(labels, 10, 1.0, 0.1)
    torch.testing.assert_close(torchext.one_hot(labels, 10, label_smoothing=0.1), expected)
