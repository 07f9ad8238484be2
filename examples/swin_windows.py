"""Attention inside shifted windows, as in the Swin Transformer (Liu et al., 2021).

A map is rolled and divided into windows, attention is computed inside each window, and the windows are merged.
`extract_windows` and `merge_windows` replace the views and permutations of usual implementations.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import torchext

BATCH, WIDTH, HEADS, MAP, WINDOW, SHIFT = 4, 96, 3, 56, 7, 3


class WindowAttention(nn.Module):
    """Self-attention between the positions of a window, ``(windows, positions, channels)``."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.project(tokens).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(1, 2).flatten(2))


def by_windows(maps: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
    windows = torchext.extract_windows(maps, WINDOW)  # (N, rows, columns, C, 7, 7)
    tokens = windows.flatten(4).transpose(3, 4).flatten(0, 2).contiguous()
    attended = attend(tokens).transpose(1, 2).reshape(windows.shape)
    return torchext.merge_windows(attended, (MAP, MAP))


def by_view(maps: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
    """The same as in the paper's code, with the channels last."""
    side = MAP // WINDOW
    cut = maps.permute(0, 2, 3, 1).reshape(BATCH, side, WINDOW, side, WINDOW, WIDTH)
    tokens = cut.permute(0, 1, 3, 2, 4, 5).reshape(-1, WINDOW * WINDOW, WIDTH)
    attended = attend(tokens).view(BATCH, side, side, WINDOW, WINDOW, WIDTH)
    return attended.permute(0, 1, 3, 2, 4, 5).reshape(BATCH, MAP, MAP, WIDTH).permute(0, 3, 1, 2)


@torch.no_grad()
def main() -> tuple[float, float]:
    torch.manual_seed(0)
    maps = torch.randn(BATCH, WIDTH, MAP, MAP)
    there_and_back = torchext.merge_windows(torchext.extract_windows(maps, WINDOW), (MAP, MAP))
    untouched = float((there_and_back - maps).abs().max())

    attend = WindowAttention()
    rolled = maps.roll((-SHIFT, -SHIFT), (2, 3))
    out, expected = (by(rolled, attend).roll((SHIFT, SHIFT), (2, 3)) for by in (by_windows, by_view))
    difference = float((out - expected).abs().max())
    print(f"{BATCH} maps of {WIDTH}×{MAP}² to {BATCH * (MAP // WINDOW) ** 2} windows of {WINDOW}² and back")
    print(f"largest difference after partition and reverse {untouched}, after attention in windows {difference}")
    return untouched, difference


if __name__ == "__main__":
    main()
