"""How the operations run on DTensors: each shard by itself where samples are independent."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor

from torchext._cam_methods import GIVEN

Placements = tuple[list[Any], list[Any]]
_Rule = TypeVar("_Rule", bound=Callable[..., list[Placements]])


def replicated(value: Tensor, like: Any) -> Tensor:
    """A tensor that each rank has as a DTensor beside another."""
    from torch.distributed.tensor import DTensor, Replicate

    mesh = like.device_mesh
    return DTensor.from_local(value, mesh, [Replicate()] * mesh.ndim, run_check=False)


@cache
def register() -> None:
    """Tell DTensor the sharding rules; once, when the first DTensor is met."""
    from torch.distributed.tensor import Partial, Replicate, Shard
    from torch.distributed.tensor.experimental import register_sharding

    def rule_of(operation: Any) -> Callable[[_Rule], _Rule]:
        """PyTorch gives its own decorator no types."""
        return register_sharding(operation)

    def rules(arguments: int, tensors: int, shards: list[tuple[int, int]]) -> list[Placements]:
        """Replicated, or sharded along (output dimension, input dimension); scalars have no placement."""
        scalars = [None] * (arguments - tensors)
        everywhere: list[Placements] = [([Replicate()], [Replicate()] * tensors + scalars)]
        return everywhere + [([Shard(out)], [Shard(into)] * tensors + scalars) for out, into in shards]

    ops: Any = torch.ops.torchext

    @rule_of(ops.one_hot.default)
    def one_hot(labels: Any, num_classes: int, dim: int, *rest: Any) -> list[Placements]:
        shards = [(d + (d >= dim), d) for d in range(len(labels.shape))]
        return rules(3 + len(rest), 1, shards)

    @rule_of(ops.multi_hot.default)
    def multi_hot(indices: Any, weights: Any, num_classes: int, dim: int, *rest: Any) -> list[Placements]:
        rows = len(indices.shape) - 1
        options = [None] * (2 + len(rest))
        everywhere = [Replicate(), Replicate() if weights is not None else None, *options]
        placements: list[Placements] = [([Replicate()], everywhere)]
        for d in range(rows):
            inputs = [Shard(d), Shard(d) if weights is not None else None, *options]
            placements.append(([Shard(d + (d >= dim))], inputs))
        return placements

    # Samples mix with each other: they are whole on each rank.
    @rule_of(ops.mixup_one_hot.default)
    def mixup(labels: Any, partners: Any, lam: Any, share: float, total: float, num_classes: int, dim: int,
              *rest: Any) -> list[Placements]:  # fmt: skip
        beside = [Replicate() if value is not None else None for value in (partners, lam)]
        inputs = [*beside, *[None] * (4 + len(rest))]
        placements: list[Placements] = [([Replicate()], [Replicate(), *inputs])]
        for d in range(1, len(labels.shape)):
            placements.append(([Shard(d + (d >= dim))], [Shard(d), *inputs]))
        return placements

    @rule_of(ops.class_indices.default)
    def class_indices(labels: Any, *rest: Any) -> list[Placements]:
        return rules(1 + len(rest), 1, [(d, d) for d in range(len(labels.shape))])

    # Samples are independent. Channels are not sharded: C·∏kernel rows split unevenly where C does.
    def one_tensor_by_batch(tensor: Any, *rest: Any) -> list[Placements]:
        return rules(1 + len(rest), 1, [(0, 0)])

    by_batch = [ops.unfold, ops.fold, ops.extract_windows, ops.patchify, ops.unpatchify]
    rule_of([operation.default for operation in by_batch])(one_tensor_by_batch)

    # Targets, where there are several, stand before the samples; they share the activations.
    @rule_of(ops.cam_pool.default)
    def cam_pool(activations: Any, gradients: Any, method: int, *rest: Any) -> list[Placements]:
        several = len(gradients.shape) > (2 if method == GIVEN else len(activations.shape))
        scalars = [None] * (1 + len(rest))
        placements: list[Placements] = [
            ([Replicate()] * 3, [Replicate(), Replicate(), *scalars]),
            ([Shard(int(several))] * 3, [Shard(0), Shard(int(several)), *scalars]),
        ]
        if several:
            placements.append(([Shard(0)] * 3, [Replicate(), Shard(0), *scalars]))
        return placements

    @rule_of(ops.merge_windows.default)
    def merge_windows(windows: Any, weight: Any, *rest: Any) -> list[Placements]:
        beside = [Replicate() if weight is not None else None, *[None] * len(rest)]
        return [([placement], [placement, *beside]) for placement in (Replicate(), Shard(0))]

    # Windows that name their sample find it in a whole image only; the others are cut out of each sample.
    @rule_of(ops.gather_windows.default)
    def gather_windows(input: Any, offsets: Any, size: Any) -> list[Placements]:
        everywhere: Placements = ([Replicate()], [Replicate(), Replicate(), None])
        by_window: Placements = ([Shard(0)], [Replicate(), Shard(0), None])
        by_sample: Placements = ([Shard(0)], [Shard(0), Replicate(), None])
        return [everywhere, by_window if offsets.shape[1] > len(size) else by_sample]

    @rule_of(ops.scatter_windows.default)
    def scatter_windows(
        windows: Any, offsets: Any, weight: Any, samples: int, output_size: Any, *rest: Any
    ) -> list[Placements]:
        beside = [Replicate() if weight is not None else None, *[None] * (2 + len(rest))]
        everywhere: Placements = ([Replicate()], [Replicate(), Replicate(), *beside])
        by_sample: Placements = ([Shard(0)], [Shard(0), Replicate(), *beside])
        return [everywhere] if offsets.shape[1] > len(output_size) else [everywhere, by_sample]

    # The sums over places are of one sample each; without samples all places are in one sum.
    @rule_of(ops.class_overlap.default)
    def class_overlap(scores: Any, labels: Any, dim: int, samples: int, *rest: Any) -> list[Placements]:
        scalars = [None] * (2 + len(rest))
        batch = [([Shard(d)] * 3, [Shard(d)] * 2 + scalars) for d in range(samples)]
        return [([Replicate()] * 3, [Replicate()] * 2 + scalars), *batch]

    @rule_of(ops.class_overlap_backward.default)
    def class_overlap_backward(
        grad_intersection: Any, grad_total: Any, scores: Any, labels: Any, dim: int, samples: int, *rest: Any
    ) -> list[Placements]:
        return rules(6 + len(rest), 4, [(d, d) for d in range(samples)])

    # What is summed over shards of labels is a part of the whole sum.
    def sums(samples: int, label_dims: int, tensors: int, scalars: int) -> list[Placements]:
        """Sums of one or several tensors of labels and what they label, sharded along a dimension of the labels."""
        whole = [([Replicate()], [Replicate()] * tensors + [None] * scalars)]
        return whole + [
            ([Shard(d) if d < samples else Partial()], [Shard(d)] * tensors + [None] * scalars)
            for d in range(label_dims)
        ]

    @rule_of(ops.class_counts.default)
    def class_counts(labels: Any, num_classes: int, samples: int, *rest: Any) -> list[Placements]:
        return sums(samples, len(labels.shape), 1, 2 + len(rest))

    @rule_of(ops.confusion_counts.default)
    def confusion_counts(predicted: Any, target: Any, num_classes: int, samples: int, *rest: Any) -> list[Placements]:
        return sums(samples, len(target.shape), 2, 2 + len(rest))

    @rule_of(ops.class_sums.default)
    def class_sums(values: Any, labels: Any, num_classes: int, samples: int, *rest: Any) -> list[Placements]:
        scalars, rank = [None] * (2 + len(rest)), len(labels.shape)
        by_feature: list[Placements] = [
            ([Shard(d - rank + samples + 1)], [Shard(d), Replicate(), *scalars]) for d in range(rank, len(values.shape))
        ]
        return sums(samples, rank, 2, len(scalars)) + by_feature

    @rule_of(ops.class_rows.default)
    def class_rows(rows: Any, labels: Any, samples: int, *rest: Any) -> list[Placements]:
        scalars, rank = [None] * (1 + len(rest)), len(labels.shape)
        by_label: list[Placements] = [
            ([Shard(d)], [Shard(d) if d < samples else Replicate(), Shard(d), *scalars]) for d in range(rank)
        ]
        by_feature: list[Placements] = [
            ([Shard(d - samples - 1 + rank)], [Shard(d), Replicate(), *scalars])
            for d in range(samples + 1, len(rows.shape))
        ]
        return [([Replicate()], [Replicate(), Replicate(), *scalars]), *by_label, *by_feature]
