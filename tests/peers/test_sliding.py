"""sliding_window compared with MONAI's sliding_window_inference: values, time and memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from monai.inferers import sliding_window_inference
from torch import Tensor

import torchext
from tests.memory import peak_megabytes


def _compare(model: Callable[[Tensor], Any], image: Tensor, size: Any, *, weight: str | None, **options: Any) -> None:
    mode = "constant" if weight is None else weight
    names = {"batch_size": "sw_batch_size", "value": "cval"}
    theirs = {names.get(name, name): option for name, option in options.items()}
    expected = sliding_window_inference(
        image, size, theirs.pop("sw_batch_size", 4), model, mode=mode, sigma_scale=0.125, **theirs
    )
    # The weights of MONAI have single precision for any input.
    ours = torchext.sliding_window(model, image, size, weight=weight, **options)
    torch.testing.assert_close(ours, expected, rtol=2e-6, atol=2e-6)


def _position_dependent(windows: Tensor) -> Tensor:
    """The result depends on the position in the window, so that wrong weights or windows change it."""
    ramp = torch.linspace(0, 1, windows.shape[2], dtype=windows.dtype)
    return windows.cumsum(-1) * ramp.view(-1, *[1] * (windows.dim() - 3))


GEOMETRIES = [
    ((2, 3, 50, 70), (16, 24), 0.25),
    ((1, 1, 64, 64), (16, 16), 0.5),
    ((1, 2, 33, 47), 10, 0.9),
    ((3, 1, 20, 90), (32, 32), 0.25),
    ((1, 2, 7, 9), (8, 16), 0.6),
    ((1, 1, 20, 22, 18), (8, 10, 12), (0.25, 0.5, 0.0)),
    ((2, 2, 9, 30, 12), (12, 12, 12), 0.3),
    ((2, 3, 101), (16,), 0.25),
]


@pytest.mark.parametrize("weight", [None, "gaussian"])
@pytest.mark.parametrize(("shape", "size", "overlap"), GEOMETRIES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_equals_monai(shape: tuple[int, ...], size: Any, overlap: Any, weight: str | None, dtype: torch.dtype) -> None:
    image = torch.randn(shape, dtype=dtype)
    for batch_size in (1, 5):
        _compare(_position_dependent, image, size, weight=weight, overlap=overlap, batch_size=batch_size)


@pytest.mark.parametrize("weight", [None, "gaussian"])
@pytest.mark.parametrize("ratio", [2, 0.5, 0.25, 1.5])
def test_equals_monai_at_another_resolution(ratio: float, weight: str | None) -> None:
    def model(windows: Tensor) -> Tensor:
        return F.interpolate(windows, scale_factor=ratio, mode="bilinear") ** 2

    _compare(model, torch.randn(2, 3, 52, 68), (16, 24), weight=weight)
    _compare(model, torch.randn(1, 3, 12, 68), (16, 24), weight=weight)


def test_equals_monai_for_dicts_and_tuples() -> None:
    _compare(lambda x: {"sums": x.cumsum(2), "both": torch.cat([x, x], 1)}, torch.randn(1, 2, 40, 50), 16, weight=None)
    _compare(lambda x: (x.cumsum(2), x[:, :1]), torch.randn(1, 2, 40, 50), 16, weight="gaussian")


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
def test_equals_monai_with_padding(mode: str) -> None:
    options = {"padding_mode": mode, **({"value": 2.5} if mode == "constant" else {})}
    _compare(_position_dependent, torch.randn(1, 2, 20, 30), (27, 16), weight="gaussian", **options)


def _model(windows: Tensor) -> Tensor:
    return windows.expand(-1, 14, -1, -1, -1) * 2


def _ours(volume: Tensor, argmax: bool) -> Tensor:
    return torchext.sliding_window(_model, volume, 64, argmax=argmax)


def _monai(volume: Tensor, argmax: bool) -> Tensor:
    scores = sliding_window_inference(volume, (64, 64, 64), 4, _model, mode="gaussian", sigma_scale=0.125)
    return scores.argmax(1) if argmax else scores


_PREPARE = """
import torch
from tests.peers.test_sliding import _monai, _ours
run, argmax = {"torchext": _ours, "MONAI": _monai}[sys.argv[1]], sys.argv[2] == "True"
volume = torch.rand(1, 1, 256, 128, 128)
run(volume[:, :, :70, :70, :70], argmax)
"""


def _seconds(run: Callable[[Tensor, bool], Tensor], volume: Tensor, argmax: bool) -> float:
    start = time.perf_counter()
    run(volume, argmax)
    return time.perf_counter() - start


@pytest.mark.parametrize("argmax", [False, True])
def test_takes_less_time_and_memory_than_monai(argmax: bool, capsys: pytest.CaptureFixture[str]) -> None:
    volume, contenders = torch.rand(1, 1, 256, 128, 128), {"torchext": _ours, "MONAI": _monai}
    torch.set_num_threads(1)  # threads that wait for each other on a busy machine would hide the difference
    rounds = [[_seconds(run, volume, argmax) for run in contenders.values()] for _ in range(4)]
    times = [min(seconds) for seconds in zip(*rounds, strict=True)]
    memory = [peak_megabytes(_PREPARE, "run(volume, argmax)", name, str(argmax)) for name in contenders]
    with capsys.disabled():
        print(f"\n1×1×256×128² to 14 {'labels' if argmax else 'scores'}, windows of 64³")
        for name, seconds, megabytes in zip(contenders, times, memory, strict=True):
            print(f"  {name:8} {1e3 * seconds:6.0f} ms {megabytes:6.0f} MB")
    assert times[0] < times[1]
    assert memory[0] < memory[1]
    # Scores have 235 MB, labels 34, a batch of outputs 63, and the sums for labels of one row of windows 59.
    assert memory[0] < (34 + 63 + 59 if argmax else 235 + 63) + 40


def test_the_classes_of_other_libraries_come_back() -> None:
    from monai.data import MetaTensor
    from torchvision import tv_tensors
    from transformers.modeling_outputs import SemanticSegmenterOutput

    image = torch.randn(1, 2, 40, 50)
    scan = MetaTensor(image, affine=2 * torch.eye(4), meta={"name": "scan"})
    result = torchext.sliding_window(lambda x: x * 2, scan, 16)
    expected = sliding_window_inference(scan, (16, 16), 4, lambda x: x * 2, mode="gaussian")
    assert type(result) is type(expected) is MetaTensor
    assert torch.equal(result.affine, expected.affine)
    assert result.meta["name"] == "scan"
    torch.testing.assert_close(result.as_tensor(), image * 2)
    assert type(torchext.sliding_window(lambda x: x * 2, tv_tensors.Image(image), 16)) is tv_tensors.Image
    output = torchext.sliding_window(lambda x: SemanticSegmenterOutput(logits=x * 2), image, 16)
    assert type(output) is SemanticSegmenterOutput
    assert output.loss is None
    torch.testing.assert_close(output.logits, image * 2)


def test_a_fraction_that_only_rounding_makes_less_than_an_integer_is_another_step_than_in_monai() -> None:
    seen: list[Tensor] = []

    def model(windows: Tensor) -> Tensor:
        seen.append(windows[:, 0, 0, 0])
        return windows

    ramp = torch.arange(400.0).expand(1, 1, 96, 400)
    sliding_window_inference(ramp, (96, 96), 100, model, overlap=(0, 40 / 96))
    torchext.sliding_window(model, ramp, 96, batch_size=100, overlap=(0, 40 / 96))
    assert [starts[1].item() for starts in seen] == [55, 56]
