"""Counts, sums and means of classes, and the confusion matrix."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import torchext

from ..harness import floors
from ..harness.overhead import overhead
from ..harness.workload import Fn, Replaced, Workload, register
from .one_hot import Setup, labels


def ours_counts(classes: int) -> Fn:
    return lambda y: torchext.class_counts(y, classes)


def bincount(classes: int) -> Fn:
    return lambda y: torch.bincount(y.flatten(), minlength=classes)


def one_hot_sum(classes: int) -> Fn:
    return lambda y: F.one_hot(y.flatten().long(), classes).sum(0)


def histc(classes: int) -> Fn:
    return lambda y: torch.histc(y.flatten().float(), classes, 0, classes - 1).long()


def counts(name: str, setup: Setup, classes: int, **targets: Any) -> Workload:
    peers = {"bincount": bincount(classes), "histc": histc(classes)}
    return Workload(
        name=name,
        family="class_counts",
        setup=setup,
        ours=ours_counts(classes),
        peers=peers,
        compiled={"one_hot.sum": one_hot_sum(classes)},
        floor=floors.READ,
        **targets,
    )


register(
    counts("65536 → 1000", labels((65536,), 1000), 1000, max_peer=0.5, max_peer_of_threads={2: 0.35}),
    counts("routing 8192×8 → 128", labels((8192, 8), 128), 128, max_peer=1.0),
    counts(
        "masks 4M → 21, int64",
        labels((16, 512, 512), 21),
        21,
        max_peer=0.5,
        replaces=Replaced("bincount", shown="`class_counts` 4M → 21"),
    ),
    counts(
        "masks 4M → 21, uint8",
        labels((16, 512, 512), 21, torch.uint8),
        21,
        max_peer=1.0,
        in_short_run=True,
        profiled=True,
    ),
)


def weighted_peers(classes: int) -> dict[str, Fn]:
    return {
        "bincount(weights)": lambda w, y: torch.bincount(y, w, minlength=classes).to(w.dtype),
        "zeros.index_add_": index_add(classes),
    }


def index_add(classes: int) -> Fn:
    def peer(values: Tensor, y: Tensor) -> Tensor:
        return torch.zeros(classes, *values.shape[1:], device=values.device).index_add_(0, y, values)

    return peer


def scatter_add(classes: int) -> Fn:
    def peer(values: Tensor, y: Tensor) -> Tensor:
        zeros = torch.zeros(classes, values.shape[1], device=values.device)
        return zeros.scatter_add_(0, y[:, None].expand_as(values), values)

    return peer


def product(classes: int) -> Fn:
    return lambda values, y: F.one_hot(y, classes).float().T @ values


LARGEST_ONE_HOT = 1 << 27
"""Number of entries of the largest one-hot matrix that is timed: a product with a larger one takes 10 s and more."""


def sum_peers(count: int, classes: int) -> dict[str, Fn]:
    peers = {"zeros.index_add_": index_add(classes), "zeros.scatter_add_": scatter_add(classes)}
    if count * classes <= LARGEST_ONE_HOT:
        peers["one_hot.T @ values"] = product(classes)
    return peers


def values_and_labels(shape: tuple[int, ...], classes: int) -> Setup:
    setup = labels(shape[:1], classes)
    return lambda device: (torch.randn(shape, device=device), *setup(device))


def sums(name: str, shape: tuple[int, ...], classes: int, **targets: Any) -> Workload:
    peers = sum_peers(shape[0], classes) if len(shape) > 1 else weighted_peers(classes)
    return Workload(
        name=name,
        family="class_sums",
        setup=values_and_labels(shape, classes),
        ours=lambda values, y: torchext.class_sums(values, y, classes),
        peers=peers,
        compiled={"zeros.index_add_": index_add(classes)},
        floor=floors.READ,
        atol=1e-3,
        **targets,
    )


def averaged(sum_up: Fn, classes: int) -> Fn:
    def peer(values: Tensor, y: Tensor) -> Tensor:
        return sum_up(values, y) / torch.bincount(y, minlength=classes).clamp(min=1)[:, None]

    return peer


register(
    sums(
        "65536×128 → 1000",
        (65536, 128),
        1000,
        max_floor=1.5,
        max_peer=0.7,
        replaces=Replaced("zeros.index_add_"),
        profiled=True,
    ),
    sums("65536×128 → 10", (65536, 128), 10, max_peer=1.0, in_short_run=True),
    sums("65536×128 → 10000", (65536, 128), 10000, max_peer=1.0),
    sums("colours 1M×3 → 1000", (1 << 20, 3), 1000, max_peer=1.0),
    sums("weights 65536 → 1000", (65536,), 1000, max_peer=1.0),
    sums("weights 4M → 21", (1 << 22,), 21, max_peer=1.0),
    Workload(
        name="65536×128 → 1000, forward and backward",
        family="class_sums",
        setup=lambda device: (
            torch.randn(65536, 128, device=device, requires_grad=True),
            torch.randint(1000, (65536,), device=device),
            torch.randn(1000, 128, device=device),
        ),
        ours=lambda values, y: torchext.class_sums(values, y, 1000),
        peers={"zeros.index_add_": index_add(1000)},
        compiled={"zeros.index_add_": index_add(1000)},
        backward=True,
        floor=floors.READ_FRESH,
        max_peer=1.0,
    ),
    Workload(
        name="65536×128 → 1000",
        family="class_means",
        setup=values_and_labels((65536, 128), 1000),
        ours=lambda values, y: torchext.class_means(values, y, 1000),
        peers={name: averaged(peer, 1000) for name, peer in sum_peers(65536, 1000).items()},
        compiled={"zeros.index_add_": averaged(index_add(1000), 1000)},
        floor=floors.READ,
        max_peer=0.7,
    ),
)


def confusion(name: str, dtype: torch.dtype, **targets: Any) -> Workload:
    classes, shape = 21, (16, 512, 512)

    def by_bincount(predicted: Tensor, target: Tensor) -> Tensor:
        pairs = target.long() * classes + predicted
        return torch.bincount(pairs.flatten(), minlength=classes**2).view(classes, classes)

    return Workload(
        name=name,
        family="confusion_matrix",
        setup=lambda device: (*labels(shape, classes, dtype)(device), *labels(shape, classes, dtype)(device)),
        ours=lambda predicted, target: torchext.confusion_matrix(predicted, target, classes),
        peers={"bincount": by_bincount},
        compiled={"bincount": by_bincount},
        floor=floors.READ,
        **targets,
    )


register(
    confusion(
        "4M × 21, int64",
        torch.int64,
        max_peer=0.5,
        replaces=Replaced("bincount", "`bincount` of the pairs", "`confusion_matrix` 4M × 21"),
    ),
    confusion("4M × 21, uint8", torch.uint8, max_peer=0.5, in_short_run=True, profiled=True),
)

register(
    overhead(
        "class_sums 4×2 → 3",
        values_and_labels((4, 2), 3),
        lambda values, y: torchext.class_sums(values, y, 3),
        {"zeros.index_add_": index_add(3)},
        max_us=10.0,
    )
)
