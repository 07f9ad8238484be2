"""Random valid calls of the public operations, from a seed: unusual sizes, strides, dtypes and options.

Values are small integers whose sums and products are exact in every dtype and order, unless an operation divides.
"""

from __future__ import annotations

import random
import reprlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import torchext
from tests.conformance.table import LABELS, Operation, outputs

EXTREMES = (2**63 - 1, -(2**63), -1, 2**31, 2**16)


class Call(NamedTuple):
    """One call of a function, and of its reference."""

    name: str
    args: tuple[Any, ...]
    options: dict[str, Any]
    not_indexed: tuple[int, ...] = ()  # positions in `args` of tensors that kernels read without an index
    functions: tuple[Callable[..., Any], Callable[..., Any]] | None = None  # None: `torchext.NAME` and its reference

    @property
    def function(self) -> Callable[..., Any]:
        return self.functions[0] if self.functions else getattr(torchext, self.name)

    @property
    def reference(self) -> Callable[..., Any]:
        return self.functions[1] if self.functions else getattr(torchext.reference, self.name)

    def __str__(self) -> str:
        parts = [_text(value) for value in self.args]
        parts += [f"{name}={_text(value)}" for name, value in self.options.items()]
        return f"{self.name}({', '.join(parts)})"


def _text(value: Any) -> str:
    if isinstance(value, Tensor):
        kind = str(value.dtype).removeprefix("torch.")
        if value.is_nested or value.layout != torch.strided or value.device.type != "cpu":
            return f"{kind} of {value.layout} on {value.device}"
        return f"{kind}{list(value.shape)} of strides {list(value.stride())}"
    return reprlib.repr(value) if isinstance(value, int) else repr(value)


def results(function: Any, call: Call) -> tuple[Tensor, ...] | str:
    """The outputs, or the text of the error about a bad label."""
    out = call.options.get("out")
    if out is not None:
        out.fill_(1)
    try:
        found = tuple(result.clone() for result in outputs(function(*call.args, **call.options)))
        torchext.check_errors("cpu")
    except IndexError as error:
        return str(error)
    if out is not None:
        around = out._base.clone()
        around[out.storage_offset() :][: out.numel()] = 0
        assert not around.any()
    return found


def assert_equal_results(operation: Operation, call: Call, actual: Any, expected: Any) -> None:
    """Compare what `results` returned for a kernel and for its reference."""
    assert isinstance(actual, str) == isinstance(expected, str), f"{call}\n{actual}\n{expected}"
    if isinstance(expected, str):
        assert actual == expected, str(call)
        return
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(
            one, other, equal_nan=True, **_tolerance(operation, one.dtype), msg=lambda text: f"{call}\n{text}"
        )


def _tolerance(operation: Operation, dtype: torch.dtype) -> dict[str, float]:
    if not operation.random_calls_round:
        return {"rtol": 0, "atol": 0}
    relative = {torch.float16: 4e-3, torch.bfloat16: 3e-2}.get(dtype, 1e-5)
    return {"rtol": relative, "atol": relative}


class Draw:
    """The source of random choices for one call."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)

    def one_of(self, *choices: Any) -> Any:
        return self.rng.choice(choices)

    def between(self, low: int, high: int) -> int:
        return self.rng.randint(low, high)

    def flip(self) -> bool:
        return self.rng.random() < 0.5

    def sizes(self, count: int, *choices: int) -> tuple[int, ...]:
        return tuple(self.one_of(*choices) for _ in range(count))

    def laid_out(self, tensor: Tensor) -> Tensor:
        """The same values in another order of memory, with gaps, or unaligned; one axis may be expanded instead."""
        if self.flip():
            return tensor
        order = list(range(tensor.dim()))
        self.rng.shuffle(order)
        gaps = [self.between(0, 2) for _ in order]
        memory = tensor.new_zeros([tensor.shape[axis] + gap for axis, gap in zip(order, gaps, strict=True)])
        view = memory[tuple(slice(gap, None) for gap in gaps)].permute([order.index(a) for a in range(tensor.dim())])
        view.copy_(tensor)
        axis = self.between(0, tensor.dim()) - 1
        if axis >= 0 and tensor.shape[axis] and self.between(0, 4) == 0:
            view = view.narrow(axis, 0, 1).expand(tensor.shape)
        return view

    def values(self, shape: tuple[int, ...], dtype: torch.dtype, low: int = -2, high: int = 2) -> Tensor:
        if dtype == torch.bool:
            return self.laid_out(torch.randint(0, 4, shape, generator=self.generator) == 0)
        if not (dtype.is_floating_point or dtype.is_complex):
            low, high = 0, 90
        numbers = torch.randint(low, high + 1, shape, generator=self.generator)
        return self.laid_out(numbers.to(dtype))

    def labels(self, shape: tuple[int, ...], classes: int, *, bad: bool) -> Tensor:
        """Labels of any dtype. With `bad`, up to three are bad, some of them extreme."""
        dtype = self.one_of(*LABELS)
        limit = 2 if dtype == torch.bool else classes
        labels = torch.randint(0, max(limit, 1), shape, generator=self.generator)
        if bad and dtype != torch.bool and labels.numel():
            for _ in range(self.between(0, 3)):
                place = self.between(0, labels.numel() - 1)
                labels.view(-1)[place] = self.one_of(classes, classes + 1, *EXTREMES)
        return self.laid_out(labels.to(dtype))

    def label_options(self, classes: int) -> dict[str, Any]:
        options = {"invalid": self.one_of("raise", "zero")}
        if self.flip():
            options["ignore_index"] = self.between(-1, classes)
        return options
