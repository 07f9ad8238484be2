"""What a call costs when there is nothing to do: tiny inputs, microseconds."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

import torchext

from ..cam.pool import chain
from .workload import Fn, Workload, register

Setup = Callable[[torch.device], tuple[Tensor, ...]]


def randn(*shapes: tuple[int, ...], requires_grad: bool) -> Setup:
    return lambda device: tuple(torch.randn(shape, device=device, requires_grad=requires_grad) for shape in shapes)


def overhead(name: str, setup: Setup, ours: Fn, peers: dict[str, Fn], max_us: float) -> Workload:
    return Workload(name=name, family="overhead", setup=setup, ours=ours, peers=peers, max_us=max_us)


def differentiable(name: str, shapes: tuple[tuple[int, ...], ...], ours: Fn, peers: dict[str, Fn]) -> None:
    register(
        overhead(name, randn(*shapes, requires_grad=False), ours, peers, max_us=10.0),
        overhead(f"{name}, grad", randn(*shapes, requires_grad=True), ours, peers, max_us=14.0),
    )


register(
    overhead(
        "one_hot 4×10",
        lambda device: (torch.randint(10, (4,), device=device),),
        lambda y: torchext.one_hot(y, 10),
        {
            "F.one_hot (int64)": lambda y: F.one_hot(y, 10),
            "F.one_hot.float": lambda y: F.one_hot(y, 10).float(),
            "zeros.scatter_": lambda y: torch.zeros(4, 10, device=y.device).scatter_(1, y[:, None], 1.0),
        },
        max_us=5.0,
    )
)
register(
    overhead(
        "class_sums 4×2 → 3",
        lambda device: (torch.randn(4, 2, device=device), torch.randint(3, (4,), device=device)),
        lambda values, y: torchext.class_sums(values, y, 3),
        {"zeros.index_add_": lambda values, y: torch.zeros(3, 2, device=y.device).index_add_(0, y, values)},
        max_us=10.0,
    )
)
differentiable(
    "unfold 1×1×4², k2",
    ((1, 1, 4, 4),),
    lambda x: torchext.unfold(x, 2),
    {"F.unfold": lambda x: F.unfold(x, 2)},
)
differentiable(
    "fold 1×4×9, k2",
    ((1, 4, 9),),
    lambda columns: torchext.fold(columns, (4, 4), 2),
    {"F.fold": lambda columns: F.fold(columns, (4, 4), 2)},
)
differentiable(
    "cam_pool 1×2×2²",
    ((1, 2, 2, 2), (1, 2, 2, 2)),
    lambda activations, gradients: torchext.cam_pool(activations, gradients),
    {"chain": chain()},
)
