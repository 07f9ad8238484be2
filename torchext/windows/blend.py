"""Adding weighted windows to an image in place, and the best channel of the result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torchext._core.library import define


def _blend_reference(
    windows: Tensor, offsets: Tensor, weight: Tensor | None, sums: Tensor, totals: Tensor | None
) -> None:
    size = windows.shape[2:]
    image = sums.shape[sums.dim() - len(size) :]
    names_sample = offsets.shape[1] > len(size)
    for window, row in zip(windows, offsets.tolist(), strict=True):
        sample, start = (row[0], row[1:]) if names_sample else (0, row)
        overlap = [(max(-at, 0), min(k, extent - at)) for at, k, extent in zip(start, size, image, strict=True)]
        if any(first >= end for first, end in overlap) or (names_sample and not 0 <= sample < len(sums)):
            continue
        taps: tuple[Any, ...] = (..., *(slice(first, end) for first, end in overlap))
        box: tuple[Any, ...] = (
            ...,
            *(slice(at + first, at + end) for at, (first, end) in zip(start, overlap, strict=True)),
        )
        added, target = window[taps].to(sums.dtype), (sums[sample] if names_sample else sums)[box]
        if weight is None:
            target += added
        else:
            # Elements with the weight 0 are left out: infinity times 0 would be NaN.
            target.addcmul_(added.masked_fill(weight[taps] == 0, 0), weight[taps])
        if totals is not None:
            target = (totals[sample] if names_sample else totals)[box]
            target += 1 if weight is None else weight[taps]


blend: Callable[..., None] = define(
    "blend_windows(Tensor windows, Tensor offsets, Tensor? weight, Tensor(a!) sums, Tensor(b!)? totals) -> ()",
    reference=_blend_reference,
    fake=lambda *_: None,
    vmap=None,
    sharding=None,
    traceable=False,
)
blend.__doc__ = """Add windows ``(K, C, *size)`` to ``sums`` in place, and their weights to ``totals``.

The offsets are ``(K, D)`` for sums ``(C, *S)`` and totals ``(*S)``, or ``(K, 1 + D)`` with the sample first for sums
``(N, C, *S)`` and totals ``(N, *S)``; elements outside the image are dropped. Sums have the accumulation dtype of the
windows, weights ``(*size)`` and totals its real dtype. Rows of sums and totals are contiguous. Each position adds its
windows in their order, so that the result has the same bits for any number of threads.
"""

best_channels: Callable[..., Tensor] = define(
    "best_channels(Tensor scores) -> Tensor",
    reference=lambda scores: scores.max(0).indices,
    fake=lambda scores: scores.new_empty(scores.shape[1:], dtype=torch.int64),
    vmap=None,
    sharding=None,
)
best_channels.__doc__ = """The channel with the largest of the scores ``(C, *S)`` at each position.

Scores are float32 or float64, with contiguous rows. As in `torch.argmax`, it is the first of several equal ones, and
the first NaN. The loop of `torch.max` takes many times longer.
"""
