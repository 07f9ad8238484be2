"""The calls that programs are made of: all small samples of a row of the conformance table at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.conformance.rooms import OPERATIONS
from tests.conformance.table import Operation, Sample, outputs

ROWS = [operation for operation in OPERATIONS if operation.functional]
every_operation = pytest.mark.parametrize("operation", [pytest.param(row, id=row.name) for row in ROWS])

Groups = tuple[tuple[Tensor, ...], ...]


def small(operation: Operation) -> list[Sample]:
    return [s for s in operation.samples if s.traced and sum(map(math.prod, s.shapes)) < 4000]


class Calls(torch.nn.Module):
    """Calls of a function with the options of samples, each with tensors of its own."""

    def __init__(self, function: Callable[..., Any], samples: Sequence[Sample]) -> None:
        super().__init__()
        self.function = function
        self.options = [sample.options for sample in samples]

    def forward(self, *groups: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
        calls = zip(groups, self.options, strict=True)
        return [outputs(self.function(*tensors, **options)) for tensors, options in calls]


def groups_of(operation: Operation, samples: Sequence[Sample]) -> Groups:
    return tuple(tuple(operation.arguments(sample, "cpu")) for sample in samples)


def with_batch_of(count: int, samples: Sequence[Sample]) -> list[Sample]:
    """The samples that have a batch, of this size."""
    batched = [s for s in samples if s.batched and all(s.shapes)]
    return [replace(s, shapes=tuple((count, *shape[1:]) for shape in s.shapes)) for s in batched]
