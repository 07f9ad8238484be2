"""Rows of several labels, which torchext.multi_hot writes in one pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

import torchext

from ..harness import floors
from ..harness.workload import Fn, Inputs, Replaced, Workload, register

TOKENS, EXPERTS, TOP = 8192, 128, 8


def routed(device: torch.device) -> Inputs:
    weights, experts = torch.rand(TOKENS, EXPERTS, device=device).topk(TOP)
    return experts, weights


def experts_only(device: torch.device) -> Inputs:
    return routed(device)[:1]


def indices(rows: int, classes: int, hits: int) -> Callable[[torch.device], Inputs]:
    return lambda device: (torch.randint(classes, (rows, hits), device=device),)


def zeros(y: Tensor, classes: int) -> Tensor:
    return torch.zeros(*y.shape[:-1], classes, device=y.device)


def scatter(classes: int) -> Fn:
    return lambda y: zeros(y, classes).scatter_(-1, y, 1.0)


def one_hot_sum(classes: int) -> Fn:
    return lambda y: F.one_hot(y, classes).sum(-2).float()


def any_equal(classes: int) -> Fn:
    return lambda y: (y.unsqueeze(-1) == torch.arange(classes, device=y.device)).any(-2).float()


def weighted_scatter(classes: int) -> Fn:
    return lambda y, weights: zeros(y, classes).scatter_(-1, y, weights)


def weighted_scatter_add(classes: int) -> Fn:
    return lambda y, weights: zeros(y, classes).scatter_add_(-1, y, weights)


MAPS = {"zeros.scatter_": scatter(EXPERTS), "F.one_hot.sum": one_hot_sum(EXPERTS)}
WEIGHTED_MAPS = {
    "zeros.scatter_": weighted_scatter(EXPERTS),
    "zeros.scatter_add_": weighted_scatter_add(EXPERTS),
}

register(
    Workload(
        name="top 8 of 128 experts, 8192 tokens",
        family="multi_hot",
        setup=experts_only,
        ours=lambda y: torchext.multi_hot(y, EXPERTS),
        peers=MAPS,
        compiled={**MAPS, "(indices == arange).any": any_equal(EXPERTS)},
        floor=floors.FILL,
        max_peer=1.0,
        replaces=Replaced("zeros.scatter_", shown="`multi_hot` top 8 of 128, 8192 tokens"),
        in_short_run=True,
    ),
    Workload(
        name="top 8 of 128 experts, 8192 tokens, experts first",
        family="multi_hot",
        setup=experts_only,
        ours=lambda y: torchext.multi_hot(y, EXPERTS, dim=0),
        peers={"zeros.scatter_": lambda y: scatter(EXPERTS)(y).T.contiguous()},
        compiled={"zeros.scatter_": lambda y: scatter(EXPERTS)(y).T.contiguous()},
        floor=floors.FILL,
        max_peer=1.0,
    ),
    Workload(
        name="top 8 of 128 experts, 8192 tokens, weighted",
        family="multi_hot",
        setup=routed,
        ours=lambda y, weights: torchext.multi_hot(y, EXPERTS, weights=weights),
        peers=WEIGHTED_MAPS,
        compiled=WEIGHTED_MAPS,
        floor=floors.FILL,
        max_peer=1.0,
        profiled=True,
    ),
    Workload(
        name="top 8 of 128 experts, 8192 tokens, weighted, compiled, then a product and a sum",
        family="multi_hot",
        setup=lambda device: (*routed(device), torch.randn(TOKENS, EXPERTS, device=device)),
        ours=lambda y, weights, x: (torchext.multi_hot(y, EXPERTS, weights=weights) * x).sum(1),
        compile_ours=True,
        compiled={
            "zeros.scatter_": lambda y, weights, x: (weighted_scatter(EXPERTS)(y, weights) * x).sum(1),
            "zeros.scatter_add_": lambda y, weights, x: (weighted_scatter_add(EXPERTS)(y, weights) * x).sum(1),
        },
        floor=floors.READ,
        max_peer=1.0,
    ),
    Workload(
        name="256×20000, 30 labels each",
        family="multi_hot",
        setup=indices(256, 20000, 30),
        ours=lambda y: torchext.multi_hot(y, 20000),
        peers={"zeros.scatter_": scatter(20000)},
        compiled={"zeros.scatter_": scatter(20000)},
        floor=floors.FILL,
        max_peer=1.0,
    ),
)
