"""`sliding_window` in an exported program for images of any size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from torchext._core.containers import map_leaves
from torchext._core.dtypes import accumulation_dtype
from torchext.windows.outputs import check_output
from torchext.windows.padding import PaddingMode
from torchext.windows.tiles import extract_windows, merge_windows
from torchext.windows.weight import Weight

_ADVICE = "export with static sizes of the image, or export the model of one window and loop over torchext.window_grid"


def is_symbolic(shape: Sequence[int]) -> bool:
    """Whether sizes are symbols, which have any value in the program that is traced."""
    return any(isinstance(size, torch.SymInt) for size in shape)


def refuse(options: dict[str, bool]) -> None:
    """Raise an error for the first option that is given, which would require the number of windows."""
    for name, is_given in options.items():
        if is_given:
            raise ValueError(f"{name}: expected the default in a program for images of any size; {_ADVICE}")


def run_on_all(
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
                f"got {tuple(output.shape[2:])}; {_ADVICE}"
            )
        scores = output.to(device, accumulation_dtype(output.dtype) if argmax else output.dtype)
        grid = windows.shape[: 1 + rank]
        merged = merge_windows(scores.unflatten(0, grid), image.shape[2:], stride, partial="shift", weight=weight)
        return merged.argmax(1) if argmax else merged

    return map_leaves(model(batch), merge, "output")
