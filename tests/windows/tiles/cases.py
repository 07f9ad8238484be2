"""The rows of windows on a grid and at offsets in the conformance table."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

import torchext
from tests.conformance.random_call import Call, Draw
from tests.conformance.table import COMPLEX, FLOATS, INTEGERS, LABELS, MOVED, Operation, Sample, WrongCall, make_values
from tests.windows.unfold.cases import random_geometry


def _starts(image: int, k: int, s: int, d: int, p: int, partial: str) -> list[int]:
    """The positions at which the windows of a dimension start, found one after the other."""
    reach, starts = d * (k - 1) + 1, [-p]
    while starts[-1] + reach < image + p:
        starts.append(starts[-1] + s)
    if starts[-1] + reach > image + p:
        if partial == "drop":
            starts.pop()
        if partial == "shift":
            starts[-1] = image + p - reach if len(starts) > 1 else -p - (reach - image - 2 * p) // 2
    return starts


def _tiles(image: Sequence[int], size: Any, stride: Any = None, dilation: Any = 1, padding: Any = 0,
           partial: str = "drop") -> tuple[tuple[int, ...], list[tuple[np.ndarray[Any, Any], ...]]]:  # fmt: skip
    """The grid, and the positions of the taps of each window along each dimension."""
    each = [[v] * len(image) if isinstance(v, int) else list(v) for v in (size, stride or size, dilation, padding)]
    starts = [_starts(*axis, partial) for axis in zip(image, *each, strict=True)]
    taps = [np.arange(k) * d for k, d in zip(each[0], each[2], strict=True)]
    windows = itertools.product(*starts)
    return tuple(map(len, starts)), [tuple(map(operator.add, window, taps)) for window in windows]


_NUMPY_PADS = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap",
               "symmetric": "symmetric"}  # fmt: skip


def extract_by_numpy(input: Tensor, size: Any, stride: Any = None, *, padding_mode: str = "constant",
                     value: float = 0.0, **geometry: Any) -> Tensor:  # fmt: skip
    """Extract window by window from a padded array."""
    image = input.shape[2:]
    grid, windows = _tiles(image, size, stride, **geometry)
    margin = max(max(abs(at.min()), at.max() - s + 1) for w in windows for at, s in zip(w, image, strict=True))
    margin = min(int(margin), *(s - 1 for s in image)) if padding_mode != "constant" else int(margin)
    options = {"constant_values": value} if padding_mode == "constant" else {}
    pads = [(0, 0)] * 2 + [(margin, margin)] * len(image)
    padded = np.pad(input.cpu().numpy(), pads, mode=_NUMPY_PADS[padding_mode], **options)
    extracted = [padded[(slice(None), slice(None), *np.ix_(*(at + margin for at in w)))] for w in windows]
    stacked = torch.from_numpy(np.stack(extracted, axis=1))
    return stacked.unflatten(1, grid).to(input.device)


def _weights_by_definition(size: Sequence[int], weight: str | None) -> np.ndarray[Any, Any]:
    one = {
        None: lambda i, n: np.ones(n),
        "linear": lambda i, n: np.minimum(i + 1, n - i),
        "hann": lambda i, n: np.sin(np.pi * (i + 0.5) / n) ** 2,
        "gaussian": lambda i, n: np.exp(-((i - (n - 1) / 2) ** 2) / (2 * (n / 8) ** 2)),
    }[weight]
    product = functools.reduce(np.multiply.outer, [one(np.arange(n), n) for n in size])
    return np.maximum(product, 1e-3) if weight == "gaussian" else product


def _merge_by_numpy(
    windows: Tensor,
    positions: Sequence[tuple[int, tuple[np.ndarray[Any, Any], ...]]],
    shape: tuple[int, ...],
    weight: str | None,
    normalize: bool,
) -> Tensor:
    """Add the windows (L, C, *size) one after the other, each to its sample of an image (N, C, *S)."""
    array, size = windows.cpu().numpy(), windows.shape[2:]
    weights = _weights_by_definition(size, weight)
    sums, totals = np.zeros(shape, array.dtype), np.zeros((shape[0], *shape[2:]))
    for window, (sample, at) in zip(array, positions, strict=True):
        if not 0 <= sample < shape[0]:
            continue
        inside = [np.flatnonzero((x >= 0) & (x < s)) for x, s in zip(at, shape[2:], strict=True)]
        there = np.ix_(*(x[i] for x, i in zip(at, inside, strict=True)))
        taps = np.ix_(*inside)
        sums[sample][(slice(None), *there)] += weights[taps] * window[(slice(None), *taps)]
        totals[sample][there] += weights[taps]
    if normalize:
        sums = np.where(totals[:, None] > 0, sums / np.where(totals > 0, totals, 1)[:, None], 0)
    return torch.from_numpy(sums.astype(array.dtype)).to(windows.device)


def merge_by_numpy(windows: Tensor, output_size: Sequence[int], stride: Any = None, *, weight: str | None = None,
                   normalize: bool = True, **geometry: Any) -> Tensor:  # fmt: skip
    rank = len(output_size)
    _, positions = _tiles(output_size, windows.shape[2 + rank :], stride, **geometry)
    shape = (windows.shape[0], windows.shape[1 + rank], *output_size)
    merged = [
        _merge_by_numpy(one.flatten(0, rank - 1), [(0, at) for at in positions], (1, *shape[1:]), weight, normalize)
        for one in windows
    ]
    return torch.cat([windows.new_empty(0, *shape[1:]), *merged])


def _offset_positions(offsets: Tensor, size: Sequence[int]) -> list[tuple[int, tuple[np.ndarray[Any, Any], ...]]]:
    rows = offsets.cpu().to(torch.int64).numpy()
    named = rows.shape[1] > len(size)
    return [
        (int(row[0]) if named else 0, tuple(start + np.arange(k) for start, k in zip(row[named:], size, strict=True)))
        for row in rows
    ]


def gather_by_numpy(input: Tensor, offsets: Tensor, size: Sequence[int]) -> Tensor:
    margin = 16  # larger than all offsets of the samples
    image = np.pad(input.cpu().numpy(), [(0, 0)] * 2 + [(margin, margin)] * len(size))
    extracted = []
    for sample, at in _offset_positions(offsets, size):
        there = np.ix_(*(x + margin for x in at))
        if offsets.shape[1] == len(size):
            extracted.append(image[(slice(None), slice(None), *there)])
        else:
            known = 0 <= sample < len(image)
            extracted.append(image[sample if known else 0][(slice(None), *there)] * known)
    return torch.from_numpy(np.stack(extracted, axis=extracted[0].ndim - len(size) - 1)).to(input.device)


def scatter_by_numpy(windows: Tensor, offsets: Tensor, output_size: Sequence[int], *, weight: str | None = None,
                     normalize: bool = True) -> Tensor:  # fmt: skip
    rank = windows.dim() - 2 if offsets.shape[1] == windows.dim() - 1 else offsets.shape[1]
    size, channels = windows.shape[-rank:], windows.shape[-rank - 1]
    positions = _offset_positions(offsets, size)
    if offsets.shape[1] > rank:
        shape = (output_size[0], channels, *output_size[1:])
        return _merge_by_numpy(windows, positions, shape, weight, normalize)
    merged = [_merge_by_numpy(one, positions, (1, channels, *output_size), weight, normalize) for one in windows]
    return torch.cat(merged)


def make_offsets(shape: tuple[int, ...], dtype: torch.dtype, device: str, generator: torch.Generator) -> Tensor:
    """Offsets inside, across the edges and outside; as unsigned integers they wrap. The first column is a sample."""
    offsets = torch.randint(-4, 10, shape, generator=generator)
    offsets[:, 0] = torch.randint(-1, 3, shape[:1], generator=generator)
    return offsets.to(dtype).to(device)


def random_extract_windows(draw: Draw) -> Call:
    image, geometry = random_geometry(draw, 24)
    dilation = geometry["dilation"] if draw.flip() else 1
    partial = draw.one_of("drop", "pad", "shift")
    options: dict[str, Any] = {"partial": partial, "dilation": dilation}
    if partial != "shift":
        options["padding"] = geometry["padding"]
    reach = (
        (d if dilation != 1 else 1) * (k - 1) + 1
        for d, k in zip(geometry["dilation"], geometry["kernel_size"], strict=True)
    )
    if partial == "drop" or any(r > i for r, i in zip(reach, image, strict=True)):
        options["partial"] = "drop"
        options["padding"] = geometry["padding"]
    shape = (draw.between(1, 3), draw.between(1, 6), *image)
    windows = draw.values(shape, draw.one_of(*FLOATS, *INTEGERS, *COMPLEX, torch.bool))
    return Call("extract_windows", (windows, geometry["kernel_size"], geometry["stride"]), options)


def random_merge_windows(draw: Draw) -> Call:
    extract = random_extract_windows(draw)
    image = extract.args[0]
    shape = torchext.reference.extract_windows(*extract.args, **extract.options).shape
    windows, options = _weighted(draw, draw.values(tuple(shape), image.dtype), extract.args[1])
    return Call("merge_windows", (windows, image.shape[2:], extract.args[2]), {**extract.options, **options})


def _weighted(draw: Draw, windows: Tensor, size: tuple[int, ...]) -> tuple[Tensor, dict[str, Any]]:
    """The options for windows of this size, and the windows. Elements with the weight 0 may be infinite."""
    dtype = windows.dtype
    options: dict[str, Any] = {"normalize": dtype == torch.bool or draw.flip()}
    if dtype != torch.bool and draw.flip():
        weight = 2.0 ** draw.values(size, torch.float32, 0, 2).to(dtype if dtype.is_floating_point else torch.float64)
        options["weight"] = weight
        if draw.flip():
            nothing = draw.values(size, torch.bool)
            weight.masked_fill_(nothing, 0)
            if dtype.is_floating_point:
                windows = draw.laid_out(windows.masked_fill(nothing, float("inf")))
    return windows, options


def _offsets(draw: Draw, image: tuple[int, ...], samples: int | None) -> Tensor:
    # Sometimes more than the threads of a block.
    count = draw.between(0, 40) if draw.between(0, 5) else 300
    columns = [torch.randint(-6, size + 3, (count,), generator=draw.generator) for size in image]
    if count and draw.flip():
        columns[0][draw.between(0, count - 1)] = draw.one_of(2**62, -(2**62))
    if samples is not None:
        columns.insert(0, torch.randint(-1, samples + 1, (count,), generator=draw.generator))
    return draw.laid_out(torch.stack(columns, 1))


def random_gather_windows(draw: Draw) -> Call:
    image = draw.sizes(draw.between(1, 3), 1, 3, 8, 19)
    size = draw.sizes(len(image), 1, 2, 4, 9)
    samples = draw.between(1, 3)
    values = draw.values((samples, draw.between(1, 6), *image), draw.one_of(*FLOATS, *INTEGERS, *COMPLEX, torch.bool))
    return Call("gather_windows", (values, _offsets(draw, image, draw.one_of(None, samples)), size), {}, (1,))


def random_scatter_windows(draw: Draw) -> Call:
    image = draw.sizes(draw.between(1, 3), 1, 3, 8, 70)[: draw.between(1, 3)]
    image = image if len(image) < 3 else tuple(min(size, 9) for size in image)
    size = draw.sizes(len(image), 1, 2, 4, 9)
    samples, own = draw.between(1, 3), draw.flip()
    if own and draw.flip():
        # There are more samples, and therefore more bins, than threads in a block.
        samples, image = 300, tuple(min(size, 3) for size in image)
    offsets = _offsets(draw, image, samples if own else None)
    dtype = draw.one_of(*FLOATS, *INTEGERS, *COMPLEX, torch.bool)
    leading = (len(offsets),) if own else (samples, len(offsets))
    windows, options = _weighted(draw, draw.values((*leading, draw.between(1, 6), *size), dtype), size)
    return Call("scatter_windows", (windows, offsets, (samples, *image) if own else image), options, (1,))


_pixels = torch.zeros(2, 3, 8, 6)
_tiles_of_pixels = torch.zeros(2, 2, 2, 3, 4, 3)
_corners = torch.tensor([[0, 0], [4, 3]])
_two_windows = torch.zeros(2, 2, 3, 4, 3)

EXTRACT_WINDOWS = Operation(
    name="extract_windows",
    function=torchext.extract_windows,
    reference=torchext.reference.extract_windows,
    independent=extract_by_numpy,
    make=make_values,
    dtypes=(*FLOATS, *COMPLEX, *LABELS, *MOVED),
    independent_dtypes=(torch.float32, torch.float64, torch.complex64),
    default_dtype=torch.float64,
    samples=(
        Sample("plain", ((2, 3, 8, 6),), {"size": 3}),
        Sample("shifted", ((2, 3, 9, 11),), {"size": (4, 3), "stride": (3, 3), "partial": "shift"}),
        Sample("reflected, dilated", ((2, 2, 6, 7),), {"size": (3, 2), "stride": (2, 1), "dilation": (1, 2), "padding": (2, 1), "padding_mode": "reflect", "partial": "pad"}),
        Sample("small, circular", ((2, 3, 6),), {"size": (5,), "stride": (3,), "padding": (2,), "padding_mode": "circular"}),
        Sample("volume", ((1, 2, 4, 5, 6),), {"size": (2, 3, 2), "stride": (1, 2, 2), "padding": 1, "value": 1.0}),
        Sample("large", ((1, 3, 200, 150),), {"size": (180, 120), "stride": 20, "partial": "shift"}),
        Sample("empty batch", ((0, 3, 5, 6),), {"size": 3}),
    ),
    wrong=(
        WrongCall("reach", lambda: torchext.extract_windows(torch.ones(1, 1, 4, 4), (2**23 + 1, 1), dilation=(2**40, 1), partial="pad"), ValueError, "dilation: expected at most 2.59"),
        WrongCall("taps", lambda: torchext.extract_windows(torch.ones(1, 1, 4, 4), 2**40, partial="pad"), ValueError, "size: expected at most 2.59"),
        WrongCall("type", lambda: torchext.extract_windows(3, 2), TypeError, "input: expected a tensor, got int"),
        WrongCall("rank", lambda: torchext.extract_windows(_pixels[0, 0], 2), ValueError, r"input: expected 3 or 4 dimensions, got shape \(8, 6\)"),
        WrongCall("too large", lambda: torchext.extract_windows(_pixels, 9), ValueError, r"size: .*fit into input \(8, 6\).*got \(9, 9\)"),
        WrongCall("zero size", lambda: torchext.extract_windows(_pixels, (3, 0)), ValueError, "size: expected at least 1"),
        WrongCall("float size", lambda: torchext.extract_windows(_pixels, 2.0), TypeError, "size: expected an int or a sequence of ints, got float"),
        WrongCall("zero stride", lambda: torchext.extract_windows(_pixels, 2, 0), ValueError, "stride: expected at least 1"),
        WrongCall("length", lambda: torchext.extract_windows(_pixels, 2, (1, 1, 1)), ValueError, "stride: expected an int or 2"),
        WrongCall("negative padding", lambda: torchext.extract_windows(_pixels, 2, padding=-1), ValueError, "padding: expected at least 0"),
        WrongCall("mode", lambda: torchext.extract_windows(_pixels, 2, padding_mode="mirror"), ValueError, "padding_mode: expected one of 'constant'"),
        WrongCall("ambiguous", lambda: torchext.extract_windows(_pixels[0], 2), ValueError, r"size: expected \(size,\) for signals"),
        WrongCall("partial", lambda: torchext.extract_windows(_pixels, 2, partial="keep"), ValueError, "partial: expected one of 'drop', 'pad', 'shift', got 'keep'"),
        WrongCall("value", lambda: torchext.extract_windows(_pixels.byte(), 2, padding=1, value=-1), ValueError, "value: torch.uint8 cannot hold -1"),
        WrongCall("no channels", lambda: torchext.extract_windows(_pixels[:, :0], 2), ValueError, "input: expected channels"),
    ),
    launches=1,
    exact=True,
    random_call=random_extract_windows,
    other_sizes=tuple(Sample(f"{size}", ((4, 2, 8, 8),), {"size": size, "stride": 2}) for size in (4, 2)),
)  # fmt: skip

MERGE_WINDOWS = Operation(
    name="merge_windows",
    function=torchext.merge_windows,
    reference=torchext.reference.merge_windows,
    independent=merge_by_numpy,
    make=make_values,
    dtypes=(*FLOATS, *COMPLEX, *INTEGERS),
    independent_dtypes=(torch.float32, torch.float64, torch.complex128),
    default_dtype=torch.float64,
    samples=(
        Sample("apart", ((2, 2, 2, 3, 3, 4),), {"output_size": (7, 8)}),
        Sample("blended", ((2, 3, 3, 2, 4, 4),), {"output_size": (10, 10), "stride": 3, "weight": "hann"}),
        Sample("shifted", ((1, 3, 3, 2, 4, 5),), {"output_size": (9, 11), "stride": (3, 4), "partial": "shift", "weight": "linear"}),
        Sample("weighted sum, dilated", ((2, 5, 3, 4),), {"output_size": (19,), "stride": (3,), "dilation": 2, "padding": 1, "weight": "gaussian", "normalize": False}),
        Sample("volume", ((1, 3, 2, 3, 2, 2, 3, 2),), {"output_size": (4, 5, 6), "stride": (1, 2, 2)}),
        Sample("large", ((1, 3, 3, 1, 80, 90),), {"output_size": (200, 210), "stride": (60, 60), "weight": "gaussian"}),
        Sample("empty batch", ((0, 2, 2, 3, 3, 4),), {"output_size": (6, 8)}),
    ),
    wrong=(
        WrongCall("pixels", lambda: torchext.merge_windows(_tiles_of_pixels, 2**30), ValueError, "output_size: expected at most 2.59"),
        WrongCall("reach", lambda: torchext.merge_windows(torch.ones(1).expand(1, 1, 1, 1, 2**23 + 1, 1), (4, 1), dilation=(2**40, 1), partial="pad"), ValueError, "dilation: expected at most 2.59"),
        WrongCall("type", lambda: torchext.merge_windows(3, 2), TypeError, "windows: expected a tensor, got int"),
        WrongCall("dtype", lambda: torchext.merge_windows(_tiles_of_pixels.to(torch.float8_e5m2), 8), TypeError, "windows: expected bool, an integer dtype, float16"),
        WrongCall("rank", lambda: torchext.merge_windows(torch.zeros(2, 2), 2), ValueError, r"windows: expected \(N, \*grid, C, \*size\)"),
        WrongCall("grid", lambda: torchext.merge_windows(_tiles_of_pixels, (8, 9)), ValueError, r"windows: expected a grid of \(2, 3\) windows for output_size \(8, 9\), got \(2, 2\)"),
        WrongCall("output", lambda: torchext.merge_windows(_tiles_of_pixels, (8,)), ValueError, "output_size: expected an int or 2 of them"),
        WrongCall("weight name", lambda: torchext.merge_windows(_tiles_of_pixels, (8, 6), weight="box"), ValueError, "weight: expected one of None, 'linear', 'hann', 'gaussian', got 'box'"),
        WrongCall("weight type", lambda: torchext.merge_windows(_tiles_of_pixels, (8, 6), weight=2), TypeError, "weight: expected None, a str or a tensor, got int"),
        WrongCall("weight dtype", lambda: torchext.merge_windows(_tiles_of_pixels, (8, 6), weight=torch.ones(4, 3).long()), TypeError, "weight: expected float16.*got torch.int64"),
        WrongCall("weight layout", lambda: torchext.merge_windows(_tiles_of_pixels, (8, 6), weight=torch.ones(4, 3).to_sparse()), TypeError, "weight: expected a dense tensor, got torch.sparse_coo"),
        WrongCall("flag", lambda: torchext.merge_windows(_tiles_of_pixels, (8, 6), normalize="no"), TypeError, "normalize: expected a bool, got str"),
        WrongCall("weight shape", lambda: torchext.merge_windows(_tiles_of_pixels, (8, 6), weight=torch.ones(3, 4)), ValueError, r"weight: expected shape \(4, 3\), that of a window, got \(3, 4\)"),
        WrongCall("weight grad", lambda: torchext.merge_windows(_tiles_of_pixels, (8, 6), weight=torch.ones(4, 3, requires_grad=True)), ValueError, "weight: expected a constant"),
        WrongCall("bool", lambda: torchext.merge_windows(_tiles_of_pixels.bool(), (8, 6), weight="hann"), TypeError, "weight: expected None for windows of torch.bool"),
        WrongCall("empty", lambda: torchext.merge_windows(_tiles_of_pixels[:, :0], (8, 6)), ValueError, "windows: expected no empty dimension except the batch"),
    ),
    launches=1,
    random_call=random_merge_windows,
    random_calls_round=True,
    other_sizes=tuple(
        Sample(f"{size}", ((4, 3, 3, 2, 4, 4),), {"output_size": size, "stride": stride})
        for size, stride in (((8, 8), 2), ((10, 10), 3))
    ),
)  # fmt: skip
_OFFSET_DTYPES = ((torch.float32, torch.int32), (torch.float32, torch.uint8))

GATHER_WINDOWS = Operation(
    name="gather_windows",
    function=torchext.gather_windows,
    reference=torchext.reference.gather_windows,
    independent=gather_by_numpy,
    make=(make_values, make_offsets),
    dtypes=(*((dtype, torch.int64) for dtype in (*FLOATS, *COMPLEX, *LABELS, *MOVED)), *_OFFSET_DTYPES),
    independent_dtypes=((torch.float32, torch.int64), (torch.complex128, torch.int16)),
    default_dtype=(torch.float64, torch.int64),
    samples=(
        Sample("plain", ((2, 3, 8, 6), (5, 2)), {"size": (3, 4)}, batched=False),
        Sample("samples", ((2, 3, 9), (7, 2)), {"size": (4,)}),
        Sample("volume", ((1, 2, 4, 5, 6), (3, 4)), {"size": (2, 3, 2)}),
        Sample("empty batch", ((0, 3, 5, 6), (4, 2)), {"size": (2, 2)}, batched=False),
    ),
    wrong=(
        WrongCall("taps", lambda: torchext.gather_windows(_pixels, _corners, 2**40), ValueError, "size: expected at most 2.59"),
        WrongCall("offsets type", lambda: torchext.gather_windows(_pixels, [[0, 0]], 2), TypeError, "offsets: expected a tensor, got list"),
        WrongCall("offsets dtype", lambda: torchext.gather_windows(_pixels, _corners.float(), 2), TypeError, "offsets: expected an integer dtype, got torch.float32"),
        WrongCall("offsets shape", lambda: torchext.gather_windows(_pixels, _corners[:, :1], 2), ValueError, r"offsets: expected shape \(L, 2\), or \(L, 3\).*got \(2, 1\)"),
        WrongCall("one sample", lambda: torchext.gather_windows(_pixels[0], torch.zeros(2, 3).long(), (2, 2)), ValueError, "offsets: .*for an input without a batch"),
        WrongCall("size", lambda: torchext.gather_windows(_pixels, _corners, (2, 0)), ValueError, "size: expected at least 1"),
        WrongCall("rank", lambda: torchext.gather_windows(_pixels, _corners, (2, 2, 2, 2)), ValueError, "size: expected an int or 1 to 3"),
        WrongCall("device", lambda: torchext.gather_windows(_pixels, _corners.to("meta"), 2), ValueError, "offsets: expected device cpu as of input, got meta"),
    ),
    launches=1,
    exact=True,
    random_call=random_gather_windows,
    other_sizes=tuple(Sample(f"{size}", ((4, 2, 8, 8), (3, 2)), {"size": size}, batched=False) for size in (4, 2)),
)  # fmt: skip

SCATTER_WINDOWS = Operation(
    name="scatter_windows",
    function=torchext.scatter_windows,
    reference=torchext.reference.scatter_windows,
    independent=scatter_by_numpy,
    make=(make_values, make_offsets),
    dtypes=(*((dtype, torch.int64) for dtype in (*FLOATS, *COMPLEX, *INTEGERS)), *_OFFSET_DTYPES),
    independent_dtypes=((torch.float32, torch.int64), (torch.complex128, torch.int16)),
    default_dtype=(torch.float64, torch.int64),
    samples=(
        Sample("blended", ((2, 5, 2, 3, 4), (5, 2)), {"output_size": (8, 6), "weight": "hann"}, batched=False),
        Sample("samples", ((7, 2, 4), (7, 2)), {"output_size": (2, 9)}),
        Sample("volume, sum", ((3, 2, 2, 3, 2), (3, 4)), {"output_size": (2, 4, 5, 6), "weight": "linear", "normalize": False}),
        Sample("no windows", ((1, 0, 2, 3, 4), (0, 2)), {"output_size": (8, 6)}, batched=False),
    ),
    wrong=(
        WrongCall("rank", lambda: torchext.scatter_windows(torch.zeros(2), _corners, (8, 6)), ValueError, r"offsets: expected shape \(L, D\).*got \(2, 2\) for \(2,\)"),
        WrongCall("pixels", lambda: torchext.scatter_windows(_two_windows, _corners, 2**40), ValueError, "output_size: expected at most 2.59"),
        WrongCall("rows", lambda: torchext.scatter_windows(_two_windows, _corners[:1], (8, 6)), ValueError, "offsets: expected 2 rows, one for each window, got 1"),
        WrongCall("output", lambda: torchext.scatter_windows(_two_windows, _corners, (2, 8, 6)), ValueError, "output_size: expected an int or 2 of them"),
        WrongCall("flag", lambda: torchext.scatter_windows(_two_windows, _corners, (8, 6), normalize=[]), TypeError, "normalize: expected a bool, got list"),
        WrongCall("weight", lambda: torchext.scatter_windows(_two_windows, _corners, (8, 6), weight=torch.ones(3, 4)), ValueError, r"weight: expected shape \(4, 3\)"),
        WrongCall("dtype", lambda: torchext.scatter_windows(_two_windows.to(torch.complex32), _corners, (8, 6)), TypeError, "windows: expected bool, an integer dtype, float16"),
    ),
    launches=1,  # 6 for more windows than a block lists at once: they are sorted first
    random_call=random_scatter_windows,
    random_calls_round=True,
    other_sizes=tuple(
        Sample(f"{size}", ((4, 3, 2, 4, 4), (3, 2)), {"output_size": size}, batched=False) for size in ((8, 8), (9, 7))
    ),
)  # fmt: skip

OPERATIONS = (EXTRACT_WINDOWS, MERGE_WINDOWS, GATHER_WINDOWS, SCATTER_WINDOWS)
