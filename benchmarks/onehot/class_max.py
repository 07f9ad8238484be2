"""The largest values of classes, and their positions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import torchext

from ..harness import floors
from ..harness.overhead import overhead
from ..harness.workload import Fn, Workload, register
from .class_sums import values_and_labels


def scatter_amax(classes: int) -> Fn:
    """Computes the values without their positions."""

    def peer(values: Tensor, y: Tensor) -> Tensor:
        index = y.reshape(-1, *[1] * (values.dim() - 1)).expand_as(values)
        empty = torch.full((classes, *values.shape[1:]), -torch.inf, device=values.device)
        return empty.scatter_reduce_(0, index, values, "amax", include_self=False)

    return peer


def two_passes(classes: int) -> Fn:
    """Computes the values first, and then the positions of equal values, as torch_scatter does."""

    def peer(values: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        index = y.reshape(-1, *[1] * (values.dim() - 1)).expand_as(values)
        empty = torch.full((classes, *values.shape[1:]), -torch.inf, device=values.device)
        largest = empty.scatter_reduce(0, index, values, "amax", include_self=False)
        count = y.shape[0]
        place = torch.arange(count, device=y.device).reshape(-1, *[1] * (values.dim() - 1))
        places = torch.where(largest.gather(0, index) == values, place, count)
        first = torch.full(largest.shape, count, device=y.device)
        first = first.scatter_reduce(0, index, places, "amin")
        return largest, torch.where(first < count, first, -1)

    return peer


def largest(name: str, shape: tuple[int, ...], classes: int, **targets: Any) -> tuple[Workload, Workload]:
    common: dict[str, Any] = {
        "family": "class_max",
        "setup": values_and_labels(shape, classes),
        "floor": floors.READ,
        "max_peer": 1.0,
    }
    return (
        Workload(
            name=name,
            ours=lambda values, y: tuple(torchext.class_max(values, y, classes)),
            peers={"scatter_reduce twice": two_passes(classes)},
            compiled={"scatter_reduce twice": two_passes(classes)},
            **common,
            **targets,
        ),
        Workload(
            name=f"{name}, values alone",
            ours=lambda values, y: torchext.class_max(values, y, classes).values,
            peers={"scatter_reduce": scatter_amax(classes)},
            compiled={"scatter_reduce": scatter_amax(classes)},
            **common,
        ),
    )


register(
    *largest("65536×128 → 1000", (65536, 128), 1000, in_short_run=True, profiled=True),
    *largest("65536×128 → 10", (65536, 128), 10),
    *largest("65536×128 → 10000", (65536, 128), 10000),
    *largest("4M → 21", (1 << 22,), 21),
    Workload(
        name="65536×128 → 1000, forward and backward",
        family="class_max",
        setup=lambda device: (
            torch.randn(65536, 128, device=device, requires_grad=True),
            torch.randint(1000, (65536,), device=device),
            torch.randn(1000, 128, device=device),
        ),
        ours=lambda values, y: torchext.class_max(values, y, 1000).values,
        peers={"scatter_reduce": scatter_amax(1000)},
        compiled={"scatter_reduce": scatter_amax(1000)},
        backward=True,
        floor=floors.READ_FRESH,
        max_peer=1.0,
    ),
    overhead(
        "class_max 4×2 → 3",
        values_and_labels((4, 2), 3),
        lambda values, y: tuple(torchext.class_max(values, y, 3)),
        {"scatter_reduce twice": two_passes(3)},
        max_us=12.0,
    ),
)
