"""Sharding rules for DTensors: on which shards each rank can run an operation by itself.

The rule of an operation is the argument ``sharding`` of `torchext._core.library.define`. It is called with the
operation's arguments, in which each tensor is replaced by an object that has only its shape. It returns a list of
options, in addition to replicated tensors: each is the placement of the results and, for each tensor argument, the
placement that it requires.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

# An int is the dimension that is sharded; "replicate" is the whole tensor on each rank; "partial" is on each rank a
# summand of the whole tensor. DTensor's own classes for these are not used because their import is slow.
Placement = int | Literal["replicate", "partial"]
REPLICATE: Literal["replicate"] = "replicate"
PARTIAL: Literal["partial"] = "partial"
Option = tuple[Placement, Sequence[Placement]]
Rule = Callable[..., Sequence[Option]]

_rules: dict[torch._ops.OpOverload, Rule] = {}
_registered: set[torch._ops.OpOverload] = set()


def add(overload: torch._ops.OpOverload, rule: Rule) -> None:
    """Add the rule of an operation."""
    for argument in overload._schema.arguments:
        if _holds(argument, torch.IntType):
            break
        if _holds(argument, torch.ListType):
            raise ValueError(
                f"{overload}: expected an int before the list {argument.name}: DTensor caches results by the arguments "
                "from the first int on, and would return the result for another list"
            )
    _rules[overload] = rule


def _holds(argument: Any, kind: type) -> bool:
    type_ = argument.type
    return isinstance(type_.getElementType() if isinstance(type_, torch.OptionalType) else type_, kind)


def register() -> None:
    """Register the rules with DTensor. Called at the first DTensor, since importing DTensor is slow."""
    if len(_registered) == len(_rules):
        return
    from torch.distributed.tensor.experimental import register_sharding

    for overload, rule in _rules.items():
        if overload not in _registered:
            register_sharding(overload)(_placements(overload, rule))
            _registered.add(overload)


# With this attribute, Dynamo calls `register` instead of tracing it. `torch.compiler.assume_constant_result` sets the
# same attribute, but imports all of torch._dynamo.
register._dynamo_marked_constant = True  # type: ignore[attr-defined]  # functions have no declared attributes


def _placements(overload: torch._ops.OpOverload, rule: Rule) -> Callable[..., list[tuple[list[Any], list[Any]]]]:
    """Convert a rule to the form that ``register_sharding`` takes."""
    from torch.distributed.tensor import Partial, Replicate, Shard

    arguments, results = overload._schema.arguments, len(overload._schema.returns)
    tensor_at = [i for i, argument in enumerate(arguments) if _holds(argument, torch.TensorType)]

    def converted(placement: Placement) -> Any:
        return Shard(placement) if isinstance(placement, int) else Replicate() if placement == REPLICATE else Partial()

    def placements(*args: Any) -> list[tuple[list[Any], list[Any]]]:
        options: list[Option] = [(REPLICATE, [REPLICATE] * len(tensor_at)), *rule(*args)]
        converted_options = []
        for result_placement, tensor_placements in options:
            inputs: list[Any] = [None] * len(args)
            for i, placement in zip(tensor_at, tensor_placements, strict=True):
                inputs[i] = None if args[i] is None else converted(placement)
            converted_options.append(([converted(result_placement)] * results, inputs))
        return converted_options

    return placements


def by_first(*_: Any) -> list[Option]:
    """The rule of an operation on one tensor whose samples, along its first dimension, are independent."""
    return [(0, [0])]


def replicated_like(value: Tensor, like: Any) -> Tensor:
    """Return `value`, which is the same on all ranks, as a replicated DTensor if `like` is a DTensor."""
    if type(like).__name__ != "DTensor":
        return value
    from torch.distributed.tensor import DTensor, Replicate

    mesh = like.device_mesh
    return DTensor.from_local(value, mesh, [Replicate()] * mesh.ndim, run_check=False)


def largest_on_all_ranks(tensor: Tensor, largest: Callable[[Tensor], Tensor]) -> int:
    """The maximum over all ranks of `largest` of the rank's shard. For a DTensor, every rank waits for the others."""
    if type(tensor).__name__ != "DTensor":
        return int(largest(tensor))
    from torch.distributed.tensor import DTensor, Partial

    shard, mesh = tensor.to_local(), tensor.device_mesh  # type: ignore[attr-defined]  # tensor is a DTensor
    return int(DTensor.from_local(largest(shard), mesh, [Partial("max")] * mesh.ndim, run_check=False).full_tensor())


def whole(tensor: Tensor) -> Tensor:
    """Return the full tensor of a DTensor, for which every rank waits for the others, or any other tensor as it is."""
    if type(tensor).__name__ != "DTensor":
        return tensor
    full: Tensor = tensor.full_tensor()  # type: ignore[attr-defined]  # tensor is a DTensor
    return full
