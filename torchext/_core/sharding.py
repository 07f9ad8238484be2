"""How operations run on DTensors: each rank by itself, on shards from which the whole result follows.

The rule of an operation is the argument ``sharding`` of `torchext._core.library.define`. It is called with the
operation's arguments, in which each tensor is replaced by an object that has only its shape. It returns the ways to run
on shards, in addition to running on whole tensors: how the results are placed, and how each tensor argument has to be
placed for that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

# The dimension that is sharded, the whole on each rank, or on each rank a summand of the whole. DTensor has classes for
# these, but to import them takes long.
Placement = int | Literal["replicate", "partial"]
REPLICATE: Literal["replicate"] = "replicate"
PARTIAL: Literal["partial"] = "partial"
Option = tuple[Placement, Sequence[Placement]]
Rule = Callable[..., Sequence[Option]]

_rules: dict[torch._ops.OpOverload, Rule] = {}
_registered: set[torch._ops.OpOverload] = set()


def add(overload: torch._ops.OpOverload, rule: Rule) -> None:
    """Remember the rule of an operation."""
    for argument in overload._schema.arguments:
        if _holds(argument, torch.IntType):
            break
        if _holds(argument, torch.ListType):
            raise ValueError(
                f"{overload}: expected an int before the list {argument.name}: DTensor keeps results by the arguments "
                "from the first int on, and would give those of other sizes"
            )
    _rules[overload] = rule


def _holds(argument: Any, kind: type) -> bool:
    type_ = argument.type
    return isinstance(type_.getElementType() if isinstance(type_, torch.OptionalType) else type_, kind)


def register() -> None:
    """Tell DTensor the rules; called when a DTensor is met, since DTensor takes long to import."""
    if len(_registered) == len(_rules):
        return
    from torch.distributed.tensor.experimental import register_sharding

    for overload, rule in _rules.items():
        if overload not in _registered:
            register_sharding(overload)(_placements(overload, rule))
            _registered.add(overload)


# Dynamo shall call it instead of tracing it. `torch.compiler.assume_constant_result` does just this, after importing
# all of torch._dynamo.
register._dynamo_marked_constant = True  # type: ignore[attr-defined]  # functions have no declared attributes


def _placements(overload: torch._ops.OpOverload, rule: Rule) -> Callable[..., list[tuple[list[Any], list[Any]]]]:
    """A rule in DTensor's own terms."""
    from torch.distributed.tensor import Partial, Replicate, Shard

    arguments, results = overload._schema.arguments, len(overload._schema.returns)
    tensor_at = [i for i, argument in enumerate(arguments) if _holds(argument, torch.TensorType)]

    def placement(place: Placement) -> Any:
        return Shard(place) if isinstance(place, int) else Replicate() if place == REPLICATE else Partial()

    def placements(*args: Any) -> list[tuple[list[Any], list[Any]]]:
        options: list[Option] = [(REPLICATE, [REPLICATE] * len(tensor_at)), *rule(*args)]
        found = []
        for of_results, of_tensors in options:
            inputs: list[Any] = [None] * len(args)
            for i, place in zip(tensor_at, of_tensors, strict=True):
                inputs[i] = None if args[i] is None else placement(place)
            found.append(([placement(of_results)] * results, inputs))
        return found

    return placements


def by_first(*_: Any) -> list[Option]:
    """The rule of an operation on one tensor whose samples, along its first dimension, are independent."""
    return [(0, [0])]


def replicated_like(value: Tensor, like: Any) -> Tensor:
    """A tensor that each rank has, as it can be combined with another: a DTensor where that is one."""
    if type(like).__name__ != "DTensor":
        return value
    from torch.distributed.tensor import DTensor, Replicate

    mesh = like.device_mesh
    return DTensor.from_local(value, mesh, [Replicate()] * mesh.ndim, run_check=False)


def largest_on_all_ranks(tensor: Tensor, largest: Callable[[Tensor], Tensor]) -> int:
    """The largest of what `largest` finds in the shards of a tensor; every rank waits for the others."""
    if type(tensor).__name__ != "DTensor":
        return int(largest(tensor))
    from torch.distributed.tensor import DTensor, Partial

    shard, mesh = tensor.to_local(), tensor.device_mesh  # type: ignore[attr-defined]  # of a DTensor
    return int(DTensor.from_local(largest(shard), mesh, [Partial("max")] * mesh.ndim, run_check=False).full_tensor())


def whole(tensor: Tensor) -> Tensor:
    """The tensor that a DTensor is a part of; every rank waits for the others."""
    if type(tensor).__name__ != "DTensor":
        return tensor
    of_all: Tensor = tensor.full_tensor()  # type: ignore[attr-defined]  # of a DTensor
    return of_all
