"""Sliding-window inference: a model is run on the windows of a large input, and its outputs are merged."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from fractions import Fraction
from itertools import islice
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, TypeVar, overload

import torch
from torch import Tensor

from torchext._core import checks
from torchext._core.containers import map_leaves
from torchext._core.dtypes import DTYPES, accumulation_dtype
from torchext._core.library import is_recorded, is_traced, outside_of_compilers
from torchext._core.progress import tqdm
from torchext._native import load
from torchext.windows import arrays
from torchext.windows import padding as _padding
from torchext.windows.arrays import Array
from torchext.windows.merging import rows_of
from torchext.windows.outputs import Geometry, Outputs, as_code, check_output, common_divisor, units_of
from torchext.windows.padding import PaddingMode
from torchext.windows.tiles import _gather, extract_windows, merge_windows
from torchext.windows.tiling import Inside, Tiles, check_overlap, extract_tiles, stride_of, tile
from torchext.windows.weight import Weight, check_weight

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh
    from typing_extensions import Unpack

__all__ = ["sliding_window"]

_STATIC_SIZES = (
    "export with static sizes of the image, or export the model of one window and loop over torchext.window_grid"
)

_T = TypeVar("_T")
_Out = TypeVar("_Out")


class _Options(TypedDict, total=False):
    """The options of `sliding_window` for type checkers, which read them twice."""

    overlap: float | Sequence[float]
    halo: int | Sequence[int]
    scale: float | Sequence[float] | None
    batch_size: int
    weight: Weight
    skip: Callable[[Tensor], bool | Tensor] | None
    padding_mode: PaddingMode
    value: float
    output_device: torch.device | str | int | None
    argmax: bool
    progress: bool
    mesh: DeviceMesh | None


@overload
def sliding_window(
    model: Callable[[Tensor], _T],
    input: Tensor | Array,
    size: int | Sequence[int],
    *,
    out: None = None,
    **options: Unpack[_Options],
) -> _T: ...
@overload
def sliding_window(
    model: Callable[[Tensor], Any],
    input: Tensor | Array,
    size: int | Sequence[int],
    *,
    out: _Out,
    **options: Unpack[_Options],
) -> _Out: ...


@outside_of_compilers
def sliding_window(
    model: Callable[[Tensor], Any],
    input: Tensor | Array,
    size: int | Sequence[int],
    *,
    overlap: float | Sequence[float] = 0.25,
    halo: int | Sequence[int] = 0,
    scale: float | Sequence[float] | None = None,
    batch_size: int = 4,
    weight: Weight = "gaussian",
    skip: Callable[[Tensor], bool | Tensor] | None = None,
    padding_mode: PaddingMode = "constant",
    value: float = 0.0,
    out: Any = None,
    output_device: torch.device | str | int | None = None,
    argmax: bool = False,
    progress: bool = False,
    mesh: DeviceMesh | None = None,
) -> Any:
    """Run a model on the windows of an input, and merge its outputs by a weighted mean where windows overlap.

    Windows are on a grid, and the last window of each axis is moved back inside. An input smaller than a window is
    padded evenly, and the outputs for the padding are removed, but at least one position remains. Windows, weights and
    results are those of MONAI's ``sliding_window_inference``, except that a step between windows is rounded to an
    integer if it differs from it by at most 1e-9.

    The model's outputs may have any number of channels and any resolution, which are determined from the first batch:
    the position of a window in an output is its position in the input times the ratio of the sizes, rounded down. If
    rounding changes a position, a warning says which `scale` to pass, so that nothing is rounded. Outputs may be nested
    tuples, lists, mappings and dataclasses.

    Without gradients, the memory is that of one batch of windows, the result, and the sum of the weights for one row of
    windows of one sample. If the sums cannot be accumulated in the result (for labels, half precision, a padded input,
    `skip`, a mesh, or an `out` that is an array), the memory of the sums for one row of windows is added.

    Args:
        model: maps windows ``(B, C, *size)`` to outputs ``(B, C', *S')`` of a float or complex dtype. Exceptions that
            it raises are not caught.
        input: ``(N, C, *S)`` with one to three spatial dimensions, any dtype and strides. Windows are copies. Instead
            of a tensor, it may be anything with a shape, a dtype and slices, such as `numpy.memmap` or a zarr array:
            then it is read one window at a time.
        size: size of a window, one number or one for each spatial dimension; for an input of three dimensions, which
            may be ``(N, C, T)`` or ``(C, H, W)``, one number is an error.
        overlap: how much of a window the next window covers as well, one number or one for each dimension: an int is a
            number of positions, a float a fraction in [0, 1).
        halo: the margin that is removed from each window's output, in positions of the input, except at the border of
            the image. It is in addition to the overlap, which is that of the parts that are kept. If it is at least the
            radius of a network's receptive field, the result is that of the network on the whole image. If an output is
            smaller than the window by this margin on each side, as that of a network without padding, nothing is
            removed from it, and the result is smaller than the image by the same margin.
        scale: the ratio of an output's size to the input's, one number or one for each dimension. None takes it from
            the first batch. With a number, windows start only at multiples of its denominator (8 for 1/8), so that no
            position in the output is rounded. `size` has to be such a multiple, `halo` is rounded up to one, and fewer
            positions than the denominator may be left out at the far end of the image. For several outputs, pass the
            ratio of the smallest; those of the others have to be multiples of it.
        batch_size: the number of windows in each call of the model, of one or several samples; the last call may have
            fewer.
        weight: the weight of each position of a window in the mean where windows overlap. None (the same for all),
            ``"linear"``, ``"hann"`` or ``"gaussian"`` (see `torchext.window_weight`), or a tensor ``(*size)`` without
            negative numbers, used as a constant. Outputs with the weight 0 are left out, including infinite ones and
            NaN. Where all weights are 0, the result is 0. With a halo, the weights are those of the part that is kept,
            or the centre of the tensor.
        skip: a function of one window ``(C, *size)`` that returns True if the model need not run on it. Such windows
            are left out, and positions that no other window covers are 0. The other windows are read twice.
        padding_mode: how an input smaller than a window is padded: ``"constant"``, ``"reflect"``, ``"replicate"``,
            ``"circular"`` or ``"symmetric"``, of any width, as in `numpy.pad`.
        value: the value of the padding in constant mode.
        out: a tensor, or an array such as `numpy.memmap`, into which the result is written, one row of windows at a
            time; for several outputs a container of the same structure. Its dtype may be another one that PyTorch
            casts to, such as uint8 for labels. Outputs must not have a gradient.
        output_device: the device on which outputs are merged, and of the result; None is the input's device.
        argmax: return the channel with the largest score at each position (the first of several) instead of the scores,
            of which only one row of windows is in memory at a time. Scores of half precision are compared in float32,
            before they would be rounded to the dtype of the result. A single channel is an error.
        progress: show a progress bar, which requires ``tqdm``: ``torchext-ops[progress]``.
        mesh: a one-dimensional device mesh. All ranks call with the same input; each runs the model on a part of the
            windows, and each returns the whole result. Gradients are not supported.

    Returns:
        `out`, or else the structure that the model returned for the first batch, with tensors ``(N, C', *S·S'/size)``
        in the model's dtype, summed in float32 for half precision; with `argmax` int64 labels ``(N, *S·S'/size)``. If
        no windows overlap, the result is bit for bit the model's output, or 0 where the weight is 0. Tensors have the
        class and the attributes of an input of a subclass, such as ``monai.data.MetaTensor``; the model gets plain
        tensors.

    Raises:
        ImportError: `progress` is True and ``tqdm`` is not installed.
        TypeError: a wrong type or dtype, also of the model's output.
        ValueError: a wrong shape or option; an output of a wrong shape, or whose size is no whole fraction or multiple
            of the window's and does not agree with `halo` and `scale`; or outputs that differ in structure, shape or
            dtype from those for the first windows.

    Note:
        Deterministic if the model is. Differentiable any number of times in the input and in tensors that the model
        uses; the outputs of all windows are then kept. torch.compile does not trace this function: compile the model.
        A program that is exported with dynamic sizes of the input calls the model once for all windows; it requires
        outputs of the size of a window, and the defaults of `halo`, `scale`, `skip`, `out` and `mesh`.

    Examples:
        >>> photo = torch.rand(1, 3, 100, 150)
        >>> blur = torch.nn.AvgPool2d(3, stride=1, padding=1)
        >>> torchext.sliding_window(blur, photo, 64).shape
        torch.Size([1, 3, 100, 150])
        >>> exact = torchext.sliding_window(blur, photo, 64, overlap=0, halo=1)
        >>> torch.allclose(exact, blur(photo))
        True
        >>> model = lambda windows: {"twice": windows.repeat(1, 1, 2, 2), "half": windows[..., ::2, ::2]}
        >>> result = torchext.sliding_window(model, photo, (64, 32), overlap=(0.25, 16))
        >>> {name: tuple(tensor.shape) for name, tensor in result.items()}
        {'twice': (1, 3, 200, 300), 'half': (1, 3, 50, 75)}
    """
    if not callable(model):
        raise TypeError(f"model: expected a callable, got {type(model).__name__}")
    arrays.check("input", input)
    dtype = arrays.dtype_of("input", input)
    if dtype not in DTYPES:
        raise checks.not_in_dtypes("input", dtype)
    # A program has a call of the model for each batch of windows. For symbolic sizes it has one call for all of them.
    in_one_call = isinstance(input, Tensor) and any(isinstance(k, torch.SymInt) for k in input.shape)
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]  # it would fix the plan of the windows
        raise TypeError(
            "sliding_window: expected a call that torch.jit.trace does not record; export it with torch.export.export, "
            "or trace the model alone and pass the traced model"
        )
    shape = tuple(input.shape) if in_one_call else tuple(map(int, input.shape))
    rank = len(shape) - 2
    if not 1 <= rank <= 3 or 0 in shape[1:]:
        raise ValueError(f"input: expected (N, C, *S) with 1 to 3 spatial dimensions, got shape {shape}")
    if rank == 1 and not checks.is_sequence(size):
        raise ValueError(
            f"size: expected (size,) for signals (N, C, T), or an input with a batch, input[None], for an image "
            f"(C, H, W); one int is ambiguous for an input of shape {shape}"
        )
    window = checks.sizes("size", size, rank, least=1)
    checks.fits("size", size, window, "a window")
    margins = checks.sizes("halo", halo, rank, least=0)
    ratios = _check_scale(scale, rank)
    units = (1,) * rank if ratios is None else units_of(ratios)
    if any(k % unit for k, unit in zip(window, units, strict=True)):
        raise ValueError(
            f"size: expected multiples of {as_code(units)} for scale {as_code(ratios or units)}, got {window}"
        )
    # A wider halo than necessary does no harm.
    wide = tuple(-(-margin // unit) * unit for margin, unit in zip(margins, units, strict=True))
    kept = tuple(k - 2 * margin for k, margin in zip(window, wide, strict=True))
    if min(kept) < 1:
        raise ValueError(f"halo: expected less than half of the window {window}, got {as_code(wide)}")
    shares = check_overlap(overlap, kept)
    batch_size = checks.integer("batch_size", batch_size)
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
    check_weight(weight, window)
    if skip is not None and not callable(skip):
        raise TypeError(f"skip: expected a callable, got {type(skip).__name__}")
    mode = _padding.mode_number("padding_mode", padding_mode)
    value = checks.holds("value", value, dtype)
    outs = None if out is None else _check_outs(out, input)
    argmax, progress = checks.flag("argmax", argmax), checks.flag("progress", progress)
    device = input.device if isinstance(input, Tensor) else torch.device("cpu")
    device = device if output_device is None else checks.device("output_device", output_device)
    group, ranks, this_rank = _check_mesh(mesh)
    if in_one_call and isinstance(input, Tensor):
        given = {"halo": any(margins), "scale": ratios is not None, "skip": skip is not None, "out": out is not None}
        _refuse({**given, "mesh": mesh is not None})
        strides = tuple(max(stride_of(k, share), 1) for k, share in zip(window, shares, strict=True))
        return _run_on_all(model, input, window, strides, weight, padding_mode, value, device, argmax)

    samples, extents = shape[0], shape[2:]
    missing = [max(k - extent, 0) for k, extent in zip(window, extents, strict=True)]
    pads = [(count // 2, count - count // 2) for count in missing]
    padded = tuple(map(max, window, extents))
    windows, kept_parts = tile(padded, window, shares, wide, units)
    inside = [
        Inside(before, min(extent, covered))
        for (before, _), extent, covered in zip(pads, extents, windows.extent, strict=True)
    ]
    # The model has cut off the halo of the argument, not a wider one.
    geometry = Geometry(windows, kept_parts, inside, margins, ratios)
    outputs = Outputs(geometry, samples, weight, device, argmax, group, skip is not None, outs)
    image = input.as_subclass(Tensor) if isinstance(input, Tensor) and _is_subclass(input) else input
    reader = _Reader(image, windows, [] if not any(missing) else pads, mode, value)
    read = (
        reader.recorded(batch_size, skip is None)
        if isinstance(image, Tensor) and (is_recorded(image) or is_traced((image,)))
        else reader.read()
    )

    numbers = range(this_rank, samples * prod(windows.grid), ranks)

    # A function, so that the tensors of a batch are freed before the next batch.
    def run(numbers: Sequence[int]) -> None:
        batch = read(numbers)
        outputs.add(model(batch), len(batch), numbers)
        if geometry.rounded:
            scale = as_code([common_divisor(axis) for axis in zip(*geometry.rounded, strict=True)])
            geometry.rounded.clear()
            warnings.warn(
                "sliding_window: the positions of windows in the output are not integers, and windows are merged at "
                f"rounded positions; pass scale={scale}, which moves them",
                stacklevel=4,
            )

    with _bar(len(numbers), shown=progress and this_rank == 0) as bar:
        batches: Iterator[Sequence[int]] = (numbers[i : i + batch_size] for i in range(0, len(numbers), batch_size))
        if skip is not None:
            needed = _needed(numbers, reader.copy, skip, bar)
            batches = iter(lambda: list(islice(needed, batch_size)), [])
        for batch in batches:
            run(batch)
            if bar is not None:
                bar.update(len(batch))
    if not outputs.layouts:
        # There is no window, or none for this rank: one call determines the structure of the output.
        first = read(range(1))
        outputs.add(model(first), len(first), ())
    result = outputs.finish()
    if out is not None:
        return out
    return map_leaves(result, lambda _, leaf: _like(leaf, input) if isinstance(leaf, Tensor) else leaf)


def _needed(
    numbers: Sequence[int], read: Callable[[Sequence[int]], Tensor], skip: Callable[[Tensor], Any], bar: Any
) -> Iterator[int]:
    """The windows that `skip` does not leave out. It reads each of them once more than the model."""
    for number in numbers:
        left_out = skip(read([number])[0])
        if getattr(left_out, "shape", None) == ():  # of PyTorch or NumPy
            left_out = left_out.item()
        if not checks.flag("skip", left_out):
            yield number
        elif bar is not None:
            bar.update(1)


def _is_subclass(tensor: Tensor) -> bool:
    """Whether a tensor has a class of its own, but is a tensor in memory like others."""
    kind = type(tensor)
    plain = kind in (Tensor, torch.nn.Parameter)
    return not plain and kind.__torch_dispatch__ is Tensor.__torch_dispatch__


def _like(result: Tensor, input: Any) -> Tensor:
    """The result in the class of the input, with the attributes that the input has, such as an image's metadata."""
    if not isinstance(input, Tensor) or not _is_subclass(input):
        return result
    like = result.as_subclass(type(input))
    vars(like).update({name: copy(attribute) for name, attribute in vars(input).items()})
    return like


def _refuse(options: dict[str, bool]) -> None:
    """Raise an error for the first option that is given, which would require the number of windows."""
    for name, is_given in options.items():
        if is_given:
            raise ValueError(f"{name}: expected the default in a program for images of any size; {_STATIC_SIZES}")


def _run_on_all(
    model: Callable[[Tensor], Any],
    image: Tensor,
    window: tuple[int, ...],
    stride: tuple[int, ...],
    weight: Weight,
    padding_mode: PaddingMode,
    value: float,
    device: torch.device,
    argmax: bool,
) -> Any:
    """Run the model on all windows in one call: a program without a loop has no other way to run any number of them."""
    rank = len(window)
    windows = extract_windows(image, window, stride, partial="shift", padding_mode=padding_mode, value=value)
    batch = windows.flatten(0, rank)

    def merge(path: str, output: Any) -> Any:
        if output is None:
            return None
        check_output(path, output, batch.shape[0], rank, argmax)
        if tuple(output.shape[2:]) != window:
            raise ValueError(
                f"model: expected {path} of the spatial size of a window {window} in a program for images of any size, "
                f"got {tuple(output.shape[2:])}; {_STATIC_SIZES}"
            )
        scores = output.to(device, accumulation_dtype(output.dtype) if argmax else output.dtype)
        grid = windows.shape[: 1 + rank]
        merged = merge_windows(scores.unflatten(0, grid), image.shape[2:], stride, partial="shift", weight=weight)
        return merged.argmax(1) if argmax else merged

    return map_leaves(model(batch), merge, "output")


class _Reader(NamedTuple):
    """Copies windows, padding those of an input that is smaller than a window."""

    image: Tensor | Array
    tiles: Tiles
    pads: Sequence[tuple[int, int]]
    mode: int
    value: float

    def read(self) -> Callable[[Sequence[int]], Tensor]:
        """A function that returns the windows with given numbers, if possible with one call of a kernel."""
        image, tiles = self.image, self.tiles
        if not isinstance(image, Tensor) or self.pads or not load.has_kernels(image.device):
            return self.copy
        size, rows, channels = tiles.size, image.detach(), image.shape[1]
        offsets = tiles.offsets(len(image)).to(image.device)
        channels_last = _memory_format(image) != torch.contiguous_format
        if channels_last:  # the channels of a position are consecutive, like positions
            rows = rows.movedim(1, -1).flatten(-2).unsqueeze(1)
            size = (*size[:-1], size[-1] * channels)
            offsets[:, -1] *= channels

        def gather(numbers: Sequence[int]) -> Tensor:
            windows = _gather(rows, rows_of(offsets, numbers), len(size), size)
            return windows.view(-1, *tiles.size, channels).movedim(-1, 1) if channels_last else windows

        return gather

    def copy(self, numbers: Sequence[int]) -> Tensor:
        """The windows with these numbers, in memory of their own."""
        image, extents = self.image, self.image.shape[2:]
        if isinstance(image, Tensor):
            image = image.detach()
        parts = []
        for sample, *grid in map(self.tiles.index_in_grid, numbers):
            box = self.tiles.at(grid)
            if self.pads:
                box = tuple(slice(at.start, min(at.stop, int(e))) for at, e in zip(box, extents, strict=True))
            parts.append(arrays.read(image, (slice(sample, sample + 1), slice(None), *box)))
        first = parts[0]
        layout = _memory_format(image) if isinstance(image, Tensor) else torch.contiguous_format
        shape = (sum(map(len, parts)), *first.shape[1:])
        windows = torch.cat(parts, out=load.empty(shape, first.dtype, first.device, layout))
        return self._padded(windows).contiguous(memory_format=layout) if self.pads else windows

    def recorded(self, batch_size: int, in_order: bool) -> Callable[[Sequence[int]], Tensor]:
        """A function that returns windows that are part of a graph, in order, or with any numbers."""
        assert isinstance(self.image, Tensor)
        image = self._padded(self.image)
        for axis, extent in enumerate(self.tiles.extent, 2):
            image = image.narrow(axis, 0, extent)
        windows = extract_tiles(image, self.tiles).flatten(0, len(self.tiles.size))
        if in_order:
            # With Tensor.split a model could not change its windows in place. That is safe here, since each is read
            # once.
            batches = iter(windows.unsafe_split(batch_size))
            return lambda numbers: next(batches)
        singles = windows.unsafe_split(1)
        return lambda numbers: torch.cat([singles[number] for number in numbers])

    def _padded(self, images: Tensor) -> Tensor:
        return _padding.pad(images, self.pads, self.mode, self.value) if self.pads else images


def _memory_format(image: Tensor) -> torch.memory_format:
    """The memory format of windows: channels-last if the image is, for models that run faster with it."""
    channels_last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(image.dim(), torch.contiguous_format)
    row_major = image.is_contiguous() or not image.is_contiguous(memory_format=channels_last)
    return torch.contiguous_format if row_major else channels_last


def _check_scale(scale: Any, rank: int) -> tuple[Fraction, ...] | None:
    if scale is None:
        return None
    given = scale if checks.is_sequence(scale) else (scale,) * rank
    if len(given) != rank:
        raise ValueError(f"scale: expected a number or {rank} of them, got {checks.shown(given)}")
    numbers = [checks.number("scale", number, "None, a number or a sequence of numbers") for number in given]
    for number in numbers:
        if not 1e-3 <= number <= 1e3:
            raise ValueError(f"scale: expected at least 0.001 and at most 1000, got {scale}")
    return tuple(Fraction(number).limit_denominator(1000) for number in numbers)


def _check_outs(out: Any, input: Any) -> dict[str, Any]:
    """The arrays to write into, by the path of the output for which each is."""
    outs: dict[str, Any] = {}

    def add(path: str, leaf: Any) -> None:
        if leaf is None:
            return
        name = path.replace("output", "out", 1)
        arrays.check(name, leaf, "__setitem__")
        if isinstance(leaf, Tensor) and leaf.requires_grad:
            raise ValueError(f"{name}: expected a tensor that does not require grad; detach it")
        if isinstance(leaf, Tensor) and isinstance(input, Tensor):
            checks.no_overlap(name, leaf, "input", input)
        elif arrays.may_overlap(leaf, input):
            raise ValueError(f"{name}: expected an array that shares no memory with input, got one that may overlap it")
        outs[path] = leaf

    map_leaves(out, add, "output")
    return outs


def _check_mesh(mesh: Any) -> tuple[ProcessGroup | None, int, int]:
    """The group of processes, its size, and the rank of this process in it."""
    if mesh is None:
        return None, 1, 0
    from torch.distributed.device_mesh import DeviceMesh

    if not isinstance(mesh, DeviceMesh):
        raise TypeError(f"mesh: expected a torch.distributed.DeviceMesh, got {type(mesh).__name__}")
    if mesh.ndim != 1:
        raise ValueError(f"mesh: expected one dimension, got {mesh.ndim}; select one of them: mesh[name]")
    return mesh.get_group(), mesh.size(), mesh.get_local_rank()


def _bar(total: int, *, shown: bool) -> AbstractContextManager[Any]:
    return tqdm()(total=total, unit="window") if shown else nullcontext()
