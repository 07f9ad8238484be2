"""The scripts in examples/ run."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

import torchext

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(name).name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_segmentation_loss_learns_every_class() -> None:
    assert float(_load("segmentation_loss").main().min()) > 0.6


@pytest.mark.skipif(not hasattr(torchext, "multi_hot"), reason="this build has no multi_hot")
def test_moe_routing_equals_scatter_and_histc() -> None:
    _load("moe_routing").main()


def test_an_own_operation_compiles_against_the_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    assert _load("own_op/own_op").main() == 0.0
