"""Tests that run the scripts in examples/."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tests import ROOT

EXAMPLES = ROOT / "examples"


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(name).name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_segmentation_loss_learns_every_class() -> None:
    assert float(_load("segmentation_loss").main().min()) > 0.6


def test_moe_routing_equals_scatter_and_histc() -> None:
    _load("moe_routing").main()


def test_vit_patch_embedding_equals_the_convolution() -> None:
    assert _load("vit_patch_embedding").main() < 1e-5


def test_swin_windows_are_partitioned_and_reversed_exactly() -> None:
    assert _load("swin_windows").main() == (0.0, 0.0)


def test_audio_overlap_add_restores_the_signal() -> None:
    assert max(_load("audio_overlap_add").main().values()) < 1e-5


def test_tiled_denoise_has_no_seam(tmp_path: Path) -> None:
    differences = _load("tiled_denoise").main(tmp_path / "picture.png")
    assert differences.blended_away_from_edges < 1e-5
    assert differences.blended < 0.5 / 255 < differences.edge_to_edge
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_an_own_operation_compiles_against_the_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    assert _load("own_op/own_op").main() == 0.0
