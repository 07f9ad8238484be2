"""Grids of windows: their geometry and its checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from torchext._core import checks
from torchext._core.dtypes import COMPLEX_DTYPES, DTYPES, FLOAT_DTYPES, LABEL_DTYPES

Size = int | Sequence[int]
Partial = Literal["drop", "pad", "shift"]
_PARTIALS: tuple[Partial, ...] = ("drop", "pad", "shift")


class Grid(NamedTuple):
    """A grid of windows, one entry for each dimension: window g starts at ``min(first + g·stride, last)``."""

    size: tuple[int, ...]
    grid: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    first: tuple[int, ...]
    last: tuple[int, ...]

    def flat(self) -> tuple[int, ...]:
        """All entries in one list, as the operations take them."""
        return (*self.size, *self.grid, *self.stride, *self.dilation, *self.first, *self.last)

    def padding(self, image_size: Sequence[int]) -> list[int]:
        """The largest number of positions on one side of each dimension of the image that windows cover."""
        sides = zip(image_size, *self, strict=True)
        return [
            max(-first, min(first + (g - 1) * s, last) + d * (k - 1) + 1 - image, 0)
            for image, k, g, s, d, first, last in sides
        ]


def is_known(condition: Any) -> bool:
    """Whether a comparison of sizes is true for all values of the symbols in it, without a guard."""
    if isinstance(condition, bool):
        return condition
    from torch.fx.experimental.symbolic_shapes import statically_known_true  # its import is slow

    return statically_known_true(condition)


def split(geometry: Sequence[int], kinds: int) -> list[Sequence[int]]:
    """Split a geometry, which is a concatenation of several kinds of sizes, such as kernel size and stride.

    Operations take it as one list, since each list argument of an operation takes a microsecond in each call.
    """
    rank = len(geometry) // kinds
    return [geometry[kind * rank : (kind + 1) * rank] for kind in range(kinds)]


def _along(image: int, k: int, d: int, p: int, s: int, partial: Partial) -> tuple[int, int, int]:
    """The number of windows along a dimension (less than 1 if none fits), and the first and the last start."""
    rest = image + 2 * p - d * (k - 1) - 1  # the length that the first window leaves
    if partial == "drop":
        grid = rest // s + 1
        return grid, -p, (grid - 1) * s - p
    if rest <= 0:
        start = -p - (-rest // 2 if partial == "shift" else 0)
        return 1, start, start
    # Not -(-rest // s): a division of ONNX rounds the quotient of a negative size up.
    grid = (rest + s - 1) // s + 1
    if partial == "pad" and s > d * (k - 1) + 1:  # with gaps between windows, none may start after the far edge
        grid = min(grid, (image + 2 * p + s - 1) // s)
    return grid, -p, (rest if partial == "shift" else (grid - 1) * s) - p


def fit_grid(
    image_size: Sequence[int],
    size: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
    *,
    partial: Partial,
) -> Grid:
    """The grid of windows on an image. A number of windows is less than 1 if none fits."""
    along = [_along(*axis, partial) for axis in zip(image_size, size, dilation, padding, stride, strict=True)]
    grid, first, last = zip(*along, strict=True)
    return Grid(tuple(size), grid, tuple(stride), tuple(dilation), first, last)


def check_grid(
    source: str,
    image_size: Sequence[int],
    name: str,
    size: Size,
    dilation: Size,
    padding: Size,
    stride: Size | None,
    partial: Partial = "drop",
) -> Grid:
    """Check options and return their grid; `source` and `name` are the arguments of the image and of the size."""
    rank = len(image_size)
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]  # its sizes are tensors
        image_size = tuple(checks.integer(source, extent) for extent in image_size)
    sizes = checks.sizes(name, size, rank, least=1)
    dilations = checks.sizes("dilation", dilation, rank, least=1)
    paddings = checks.sizes("padding", padding, rank, least=0)
    strides = checks.sizes("stride", sizes if stride is None else stride, rank, least=1)
    checks.option("partial", partial, _PARTIALS)
    for extent, k, d, p in zip(image_size, sizes, dilations, paddings, strict=True):
        checks.fits("padding", padding, (extent + 2 * p,), "a padded dimension")
        checks.fits("dilation", dilation, (d * (k - 1) + 1,), "a dimension of a dilated window")
    grid = fit_grid(image_size, sizes, dilations, paddings, strides, partial=partial)
    for count in grid.grid:
        if count < 1:
            otherwise = "" if name == "kernel_size" else ", or partial 'pad' or 'shift'"
            raise ValueError(
                f"{name}: expected windows that fit into {source} {tuple(image_size)} padded by {paddings}{otherwise}, "
                f"got {sizes} with dilation {dilations}"
            )
    checks.fits(source, tuple(image_size), image_size, "an image")
    checks.fits(name, size, (*sizes, *grid.grid), "the windows")
    return grid


def rank_of(name: str, sizes: Size, default: int) -> int:
    """The number of spatial dimensions: the length of `sizes`, or `default` if it is one int."""
    if type(sizes) is int or not checks.is_sequence(sizes):
        return default
    if not 1 <= len(sizes) <= 3:
        raise ValueError(f"{name}: expected an int or 1 to 3 of them, got {checks.shown(sizes)}")
    return len(sizes)


def check_image(input: Any, size_name: str, size: Size) -> tuple[int, bool]:
    """Check an image against a size; returns the number of spatial dimensions and whether there is a batch."""
    checks.tensor("input", input)
    if input.dtype not in DTYPES:
        raise checks.not_in_dtypes("input", input.dtype)
    rank = rank_of(size_name, size, 3 if input.dim() == 5 else 2)
    batched = input.dim() == rank + 2
    if not batched and input.dim() != rank + 1:
        raise ValueError(f"input: expected {rank + 1} or {rank + 2} dimensions, got shape {tuple(input.shape)}")
    if 0 in input.shape[-rank - 1 :]:
        raise ValueError(f"input: expected channels and an image without empty dimensions, got {tuple(input.shape)}")
    return rank, batched


def check_unambiguous(input: Any, size: Size) -> None:
    """Check that an image of three dimensions has a size for each of its spatial dimensions."""
    if isinstance(input, Tensor) and input.dim() == 3 and not checks.is_sequence(size):
        raise ValueError(
            "size: expected (size,) for signals (N, C, T) or (size, size) for an image (C, H, W), since one int is "
            f"ambiguous for an input of shape {tuple(input.shape)}"
        )


_SUMMED_DTYPES = LABEL_DTYPES | FLOAT_DTYPES | COMPLEX_DTYPES


def check_adds(name: str, dtype: torch.dtype) -> None:
    """Check that values of this dtype can be added."""
    if dtype not in _SUMMED_DTYPES:
        raise TypeError(
            f"{name}: expected bool, an integer dtype, float16, bfloat16, float32, float64, complex64 or complex128, "
            f"got {dtype}"
        )


_T = TypeVar("_T")
_PLAIN, _INT = frozenset({int, str, type(None)}), frozenset({int})


def _is_plain(value: Any) -> bool:
    kind = type(value)
    return _INT.issuperset(map(type, value)) if kind is tuple else kind in _PLAIN


def cached_check(check: Callable[..., _T], is_key: Callable[[Any], bool] = _is_plain) -> Callable[..., _T]:
    """Cache a check of options, which would take longer than a small kernel.

    Keys of a cache are compared by value: 2.0 and True would be accepted for the ints 2 and 1. Calls with an option for
    which `is_key` is false are therefore not cached.
    """
    cached = lru_cache(maxsize=1024)(check)

    def checked(source: Any, size: Any, *options: Any) -> _T:
        if torch.compiler.is_compiling() or not all(map(is_key, options)):
            return check(source, size, *options)
        try:
            return cached(source, size, *options)
        except TypeError:  # a symbolic size has no hash
            return check(source, size, *options)

    return checked
