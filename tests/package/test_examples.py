"""Tests that run the scripts in examples/."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import torch

import torchext
from tests import ROOT
from torchext._native import load

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


def test_onnxruntime_runs_a_vit_and_a_segmentation() -> None:
    for package in ("onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="in requirements/dev.txt")
    difference, share = _load("onnx_models").main()
    assert difference < 1e-5
    assert share < 1e-3


@pytest.mark.skipif(not load.is_loaded("_C"), reason="requires the compiled kernels and the library of schemas")
def test_a_program_without_python_explains_a_photo(tmp_path: Path) -> None:
    cmake = shutil.which("cmake")
    assert cmake is not None, "in requirements/dev.txt"
    found, expected = _load("cpp/model").main(tmp_path)
    build, package = tmp_path / "build", Path(torchext.__file__).parent
    paths = [f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}", f"-DTORCHEXT={package}"]
    for arguments in (["-S", str(EXAMPLES / "cpp"), "-B", str(build), *paths], ["--build", str(build)]):
        subprocess.run([cmake, *arguments], check=True, capture_output=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [str(build / "explain"), *(str(tmp_path / name) for name in ("model.pt2", "photo.ppm", "map.pgm"))]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    assert done.stdout == f"class {found}\n"
    written = torch.frombuffer((tmp_path / "map.pgm").read_bytes()[-expected.numel() :], dtype=torch.uint8)
    assert (written.reshape(expected.shape).float() - expected * 255).abs().max() <= 0.51
