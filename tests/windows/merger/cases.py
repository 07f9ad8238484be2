"""The row of windows that are merged as they arrive in the conformance table."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import torchext
from tests.conformance.random_call import Call, Draw
from tests.conformance.table import COMPLEX, FLOATS, Operation, Sample, WrongCall, make_values
from tests.windows.tiles.cases import make_offsets, scatter_by_numpy
from torchext._core.library import reference_only


def merge_in_two_calls(windows: Tensor, offsets: Tensor, *, output_size: tuple[int, ...],
                       window: tuple[int, ...] | None = None, samples: int | None = None, weight: Any = None,
                       normalize: bool = True) -> Tensor:  # fmt: skip
    size = windows.shape[2:] if window is None else window
    merger = torchext.WindowMerger(output_size, size, samples=samples, weight=weight, normalize=normalize)
    if all(isinstance(one, Tensor) and one.dim() > 0 for one in (windows, offsets)):
        half = len(windows) // 2
        merger.add(windows[:half], offsets[:half])
        windows, offsets = windows[half:], offsets[half:]
    merger.add(windows, offsets)
    return merger.result()


def merge_by_reference(*args: Tensor, **options: Any) -> Tensor:
    with reference_only():
        return merge_in_two_calls(*args, **options)


def merge_by_numpy(windows: Tensor, offsets: Tensor, *, output_size: tuple[int, ...], samples: int | None = None,
                   **options: Any) -> Tensor:  # fmt: skip
    if samples is None:
        return scatter_by_numpy(windows.unsqueeze(0), offsets, output_size, **options).squeeze(0)
    return scatter_by_numpy(windows, offsets, (samples, *output_size), **options)


def random_window_merger(draw: Draw) -> Call:
    image = draw.sizes(draw.between(1, 3), 1, 3, 8, 20)
    size = draw.sizes(len(image), 1, 2, 4, 9, 33)
    samples = draw.one_of(None, draw.between(1, 3))
    count = draw.between(0, 12)
    columns = [torch.randint(-6, n + 3, (count,), generator=draw.generator) for n in image]
    if count and draw.flip():
        columns[0][draw.between(0, count - 1)] = draw.one_of(2**62, -(2**62))
    if samples is not None:
        columns.insert(0, torch.randint(-1, samples + 1, (count,), generator=draw.generator))
    windows = draw.values((count, draw.between(1, 4), *size), draw.one_of(*FLOATS, *COMPLEX))
    options: dict[str, Any] = {"output_size": image, "window": size, "samples": samples, "normalize": draw.flip()}
    if draw.flip():
        weight = 2.0 ** draw.values(size, torch.float32, 0, 2).to(torch.float32)
        nothing = draw.values(size, torch.bool)
        options["weight"] = weight.masked_fill(nothing, 0)
        windows = draw.laid_out(windows.masked_fill(nothing, float("inf")))
    offsets = draw.laid_out(torch.stack(columns, 1))
    return Call("WindowMerger", (windows, offsets), options, (1,), (merge_in_two_calls, merge_by_reference))


def _add(windows: Any, offsets: Any, **options: Any) -> torchext.WindowMerger:
    merger = torchext.WindowMerger((8, 6), (4, 3), **options)
    merger.add(windows, offsets)
    return merger


_windows = torch.zeros(2, 3, 4, 3)
_corners = torch.tensor([[0, 0], [4, 3]])

WINDOW_MERGER = Operation(
    name="WindowMerger",
    function=merge_in_two_calls,
    reference=merge_by_reference,
    independent=merge_by_numpy,
    make=(make_values, make_offsets),
    dtypes=(*((dtype, torch.int64) for dtype in (*FLOATS, *COMPLEX)), (torch.float32, torch.int32), (torch.float32, torch.uint8)),
    independent_dtypes=((torch.float32, torch.int64), (torch.complex128, torch.int16)),
    default_dtype=(torch.float64, torch.int64),
    samples=(
        Sample("mean", ((5, 2, 3, 4), (5, 2)), {"output_size": (8, 6)}),
        Sample("samples, blended", ((7, 2, 4), (7, 2)), {"output_size": (9,), "samples": 2, "weight": "hann"}),
        Sample("volume, sum", ((3, 2, 2, 3, 2), (3, 3)), {"output_size": (4, 5, 6), "weight": "linear", "normalize": False}),
        Sample("large", ((6, 5, 70, 130), (6, 3)), {"output_size": (90, 200), "samples": 2, "weight": "gaussian"}),
    ),
    wrong=(
        WrongCall("output", lambda: torchext.WindowMerger(8, 4), TypeError, "output_size: expected a sequence of ints, such as image.shape.2:., got int"),
        WrongCall("rank", lambda: torchext.WindowMerger((8,) * 4, 4), ValueError, "output_size: expected 1 to 3 spatial dimensions"),
        WrongCall("no output", lambda: torchext.WindowMerger((8, 0), 4), ValueError, "output_size: expected at least 1"),
        WrongCall("window", lambda: torchext.WindowMerger((8, 8), (4, 4, 4)), ValueError, "window: expected an int or 2 of them"),
        WrongCall("huge", lambda: torchext.WindowMerger((2**40, 2**40), 4), ValueError, "output_size: expected at most 2.59"),
        WrongCall("weight name", lambda: torchext.WindowMerger((8, 8), 4, weight="box"), ValueError, "weight: expected one of None, 'linear', 'hann', 'gaussian', got 'box'"),
        WrongCall("weight shape", lambda: torchext.WindowMerger((8, 8), 4, weight=torch.ones(4, 3)), ValueError, r"weight: expected shape \(4, 4\), that of a window, got \(4, 3\)"),
        WrongCall("weight grad", lambda: torchext.WindowMerger((8,), 4, weight=torch.ones(4, requires_grad=True)), ValueError, "weight: expected a constant"),
        WrongCall("samples", lambda: torchext.WindowMerger((8, 8), 4, samples=0), ValueError, "samples: expected at least 1, got 0"),
        WrongCall("flag", lambda: torchext.WindowMerger((8, 8), 4, normalize=1), TypeError, "normalize: expected a bool, got int"),
        WrongCall("device", lambda: torchext.WindowMerger((8, 8), 4, device="gpu"), ValueError, "device: expected the name of a device, got 'gpu'"),
        WrongCall("type", lambda: _add([1], _corners), TypeError, "windows: expected a tensor, got list"),
        WrongCall("dtype", lambda: _add(_windows.long(), _corners), TypeError, "windows: expected a floating or complex dtype, got torch.int64"),
        WrongCall("shape", lambda: _add(_windows.mT, _corners), ValueError, r"windows: expected \(K, C, 4, 3\), got shape \(2, 3, 3, 4\)"),
        WrongCall("no channels", lambda: _add(_windows[:, :0], _corners), ValueError, r"windows: expected \(K, C, 4, 3\), got shape"),
        WrongCall("gradient", lambda: _add(_windows.clone().requires_grad_(), _corners), ValueError, "windows: expected tensors without gradients .torch.no_grad."),
        WrongCall("other channels", lambda: _add(_windows, _corners).add(_windows[:, :1], _corners), ValueError, "windows: expected 3 channels as of the first windows, got 1"),
        WrongCall("other dtype", lambda: _add(_windows, _corners).add(_windows.double(), _corners), TypeError, "windows: expected torch.float32 as of the first windows, got torch.float64"),
        WrongCall("offsets type", lambda: _add(_windows, [[0, 0], [4, 3]]), TypeError, "offsets: expected a tensor, got list"),
        WrongCall("offsets dtype", lambda: _add(_windows, _corners.float()), TypeError, "offsets: expected an integer dtype, got torch.float32"),
        WrongCall("offsets shape", lambda: _add(_windows, _corners[:1]), ValueError, r"offsets: expected shape \(2, 2\), the first position of each window, got \(1, 2\)"),
        WrongCall("offsets columns", lambda: _add(_windows, _corners, samples=2), ValueError, r"offsets: expected shape \(2, 3\), the sample and the first position of each window, got \(2, 2\)"),
        WrongCall("result", lambda: torchext.WindowMerger((8, 8), 4).result(), RuntimeError, "WindowMerger.result: expected a call of add before"),
    ),
    launches=10,  # the sums are zeroed, two calls add to them, and the result is divided
    functional=False,
    random_call=random_window_merger,
    random_calls_round=True,
    differentiable=False,
)  # fmt: skip

OPERATIONS = (WINDOW_MERGER,)
