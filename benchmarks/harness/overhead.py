"""Workloads that measure the overhead of a call with tiny inputs, in microseconds."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .workload import Fn, Workload

Setup = Callable[[torch.device], tuple[Tensor, ...]]


def randn(*shapes: tuple[int, ...], requires_grad: bool) -> Setup:
    return lambda device: tuple(torch.randn(shape, device=device, requires_grad=requires_grad) for shape in shapes)


def overhead(name: str, setup: Setup, ours: Fn, peers: dict[str, Fn], max_us: float) -> Workload:
    return Workload(
        name=name, family="overhead", setup=setup, ours=ours, peers=peers, max_us=max_us, measures_call=True
    )


def differentiable(name: str, *shapes: tuple[int, ...], ours: Fn, peers: dict[str, Fn]) -> tuple[Workload, Workload]:
    return (
        overhead(name, randn(*shapes, requires_grad=False), ours, peers, max_us=10.0),
        overhead(f"{name}, grad", randn(*shapes, requires_grad=True), ours, peers, max_us=14.0),
    )
