"""The steps of `sliding_window` as separate functions: the positions of windows, and merging windows as they arrive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torchext._core import checks
from torchext._core.dtypes import COMPLEX_DTYPES, FLOAT_DTYPES, INTEGER_DTYPES, accumulation_dtype
from torchext._core.library import is_recorded, outside_of_compilers
from torchext._native import load
from torchext.windows.blend import blend
from torchext.windows.grid import Size
from torchext.windows.tiling import check_overlap, tile
from torchext.windows.weight import Weight, cached_weight, check_weight

__all__ = ["WindowMerger", "window_grid"]


def _spatial(name: str, size: Any) -> tuple[int, ...]:
    if not checks.is_sequence(size):
        raise TypeError(f"{name}: expected a sequence of ints, such as image.shape[2:], got {type(size).__name__}")
    if not 1 <= len(size) <= 3:
        raise ValueError(f"{name}: expected 1 to 3 spatial dimensions, got {checks.shown(size)}")
    sizes = checks.sizes(name, size, len(size), least=1)
    checks.fits(name, size, sizes)
    return sizes


def window_grid(
    size: Sequence[int],
    window: Size,
    overlap: float | Sequence[float] = 0.25,
    *,
    device: torch.device | str | None = None,
) -> Tensor:
    """Compute the positions of the windows of `sliding_window`.

    The last window of each axis is moved back inside. An image smaller than a window has one window along that axis,
    which extends beyond both edges evenly.

    Args:
        size: spatial size of the image, ``(*S)`` with D = one to three dimensions, such as ``image.shape[2:]``.
        window: size of a window, one int or one for each dimension.
        overlap: the part of a window that the next window covers as well, as in `sliding_window`: a fraction in [0, 1),
            or a number of positions if it is an int.
        device: device of the result; None is PyTorch's default device.

    Returns:
        The first position of each window, int64 ``(L, D)``, row-major: the last dimension changes fastest. They are the
        offsets of `gather_windows`, `scatter_windows` and `WindowMerger`.

    Raises:
        TypeError: a wrong type.
        ValueError: a wrong size or overlap.

    Examples:
        >>> torchext.window_grid((5, 8), 4, 0.5)
        tensor([[0, 0],
                [0, 2],
                [0, 4],
                [1, 0],
                [1, 2],
                [1, 4]])
    """
    image = _spatial("size", size)
    windows = checks.sizes("window", window, len(image), least=1)
    checks.fits("window", window, windows, "a window")
    overlaps = check_overlap(overlap, windows)
    device = None if device is None else checks.device("device", device)
    extents = [max(n, k) for n, k in zip(image, windows, strict=True)]
    tiles, _ = tile(extents, windows, overlaps, [0] * len(image), [1] * len(image))
    starts = [
        torch.tensor(starts, dtype=torch.int64, device=device) - max(k - n, 0) // 2
        for starts, n, k in zip(tiles.starts, image, windows, strict=True)
    ]
    return torch.cartesian_prod(*starts).view(-1, len(image))


class WindowMerger:
    """Merges windows into an image as they arrive; where windows overlap, it is their weighted mean.

    It is `scatter_windows` for windows that are not all in memory at the same time. It needs memory for the sums of the
    windows and, with `normalize`, for the sums of the weights.

    Args:
        output_size: spatial size of the image, ``(*S)`` with D = one to three dimensions.
        window: size of a window, one int or one for each dimension.
        weight: the weights of a window's elements: None (the same for all), ``"linear"``, ``"hann"`` or
            ``"gaussian"`` (see `window_weight`), or a constant float tensor ``(*size)``. Elements with the weight 0 are
            left out, including infinite ones and NaN.
        samples: the number of samples N if the offsets name the sample of each window; None is one image.
        normalize: divide by the sum of the weights at each position. False returns the sum of the weighted windows.
        device: the device on which windows are merged, to which they are moved; None is that of the first windows.

    Raises:
        TypeError: a wrong type or dtype.
        ValueError: a wrong size or option, or a weight that requires grad.

    Note:
        Deterministic: the same bits for the same calls and for any number of threads, also on a GPU, since each
        position adds its windows in their order. Not differentiable; `scatter_windows` is.

    Examples:
        >>> photo = torch.rand(1, 3, 100, 150)
        >>> blur = torch.nn.AvgPool2d(3, stride=1, padding=1)
        >>> merger = torchext.WindowMerger((100, 150), 64, weight="gaussian")
        >>> for offsets in torchext.window_grid((100, 150), 64).split(4):
        ...     merger.add(blur(torchext.gather_windows(photo[0], offsets, (64, 64))), offsets)
        >>> merged = merger.result()
        >>> merged.shape
        torch.Size([3, 100, 150])
        >>> torch.allclose(merged, torchext.sliding_window(blur, photo, 64)[0], atol=1e-6)
        True
    """

    def __init__(
        self,
        output_size: Sequence[int],
        window: Size,
        *,
        weight: Weight = None,
        samples: int | None = None,
        normalize: bool = True,
        device: torch.device | str | int | None = None,
    ) -> None:
        self._image = _spatial("output_size", output_size)
        self._size = checks.sizes("window", window, len(self._image), least=1)
        checks.fits("window", window, self._size, "a window")
        check_weight(weight, self._size)
        if isinstance(weight, Tensor) and weight.requires_grad:
            raise ValueError("weight: expected a constant, got a tensor that requires grad; detach it")
        self._weight = weight
        self._samples: tuple[int, ...] = ()
        if samples is not None:
            self._samples = (checks.integer("samples", samples),)
            if self._samples[0] < 1:
                raise ValueError(f"samples: expected at least 1, got {samples}")
        self._normalize = checks.flag("normalize", normalize)
        self._device = None if device is None else checks.device("device", device)
        self._sums: Tensor | None = None
        self._totals: Tensor | None = None
        self._weights: Tensor | None = None
        self._dtype = torch.float32

    @outside_of_compilers
    def add(self, windows: Tensor, offsets: Tensor) -> None:
        """Add windows.

        Args:
            windows: ``(K, C, *window)``, float16, bfloat16, float32, float64, complex64 or complex128, any strides; C
                and the dtype are those of the first call. K may be 0.
            offsets: the first position of each window, any integer dtype: ``(K, D)``, or ``(K, 1 + D)`` with the sample
                first if the merger has `samples`. Elements outside the image, and windows of samples that do not exist,
                are dropped.

        Raises:
            TypeError: a wrong type or dtype, or another dtype than that of the first windows.
            ValueError: a wrong shape, another number of channels than the first windows have, or windows that require
                grad.
        """
        self._check(windows, offsets)
        if self._sums is None:
            self._start(windows)
        assert self._sums is not None
        device = self._sums.device
        blend(windows.to(device), offsets.to(device, torch.int64), self._weights, self._sums, self._totals)

    def result(self) -> Tensor:
        """Return the image of all windows that were added.

        More windows may be added afterwards: the result is a copy.

        Returns:
            ``(C, *output_size)``, or ``(N, C, *output_size)`` with `samples`, in the windows' dtype. float16 and
            bfloat16 are summed in float32 and rounded once. Positions that no window covers, or whose weights have the
            sum 0, are 0.

        Raises:
            RuntimeError: no call of `add` came before.
        """
        if self._sums is None:
            raise RuntimeError("WindowMerger.result: expected a call of add before, which sets the channels and dtype")
        if self._totals is None:
            return self._sums.to(self._dtype, copy=True)
        totals = self._totals.unsqueeze(len(self._samples))
        return self._sums.div(totals.masked_fill(totals == 0, 1)).to(self._dtype)

    def _check(self, windows: Any, offsets: Any) -> None:
        checks.tensor("windows", windows)
        if windows.dtype not in FLOAT_DTYPES and windows.dtype not in COMPLEX_DTYPES:
            raise TypeError(f"windows: expected a floating or complex dtype, got {windows.dtype}")
        size = self._size
        if windows.dim() != len(size) + 2 or windows.shape[2:] != size or windows.shape[1] == 0:
            expected = ", ".join(map(str, ("K", "C", *size)))
            raise ValueError(f"windows: expected ({expected}), got shape {tuple(windows.shape)}")
        if is_recorded(windows):
            raise ValueError("windows: expected tensors without gradients (torch.no_grad), got one with a gradient")
        if self._sums is not None:
            channels = self._sums.shape[len(self._samples)]
            if windows.dtype != self._dtype:
                raise TypeError(f"windows: expected {self._dtype} as of the first windows, got {windows.dtype}")
            if windows.shape[1] != channels:
                raise ValueError(
                    f"windows: expected {channels} channels as of the first windows, got {windows.shape[1]}"
                )
        checks.tensor("offsets", offsets)
        if offsets.dtype not in INTEGER_DTYPES:
            raise TypeError(f"offsets: expected an integer dtype, got {offsets.dtype}")
        shape = (len(windows), len(self._samples) + len(size))
        if offsets.shape != shape:
            layout = "the sample and the first position" if self._samples else "the first position"
            raise ValueError(f"offsets: expected shape {shape}, {layout} of each window, got {tuple(offsets.shape)}")

    def _start(self, windows: Tensor) -> None:
        """Allocate the sums for the channels and dtype of the first windows."""
        dtype, device = accumulation_dtype(windows.dtype), self._device or windows.device
        shape = (*self._samples, windows.shape[1], *self._image)
        checks.fits("output_size", self._image, shape, "the sums")
        # Windows may be added both inside and outside of inference mode, which does not allow its tensors to change.
        with torch.inference_mode(False):
            if isinstance(self._weight, Tensor):
                self._weights = self._weight.to(device, dtype.to_real())
            elif self._weight is not None:
                self._weights = cached_weight(self._size, self._weight, dtype.to_real(), device, windows)
            if self._normalize:
                self._totals = load.empty((*self._samples, *self._image), dtype.to_real(), device).zero_()
            self._sums = load.empty(shape, dtype, device).zero_()
        self._dtype = windows.dtype
