"""Raw calls of every operation with arguments that no public function passes. They raise or return, and never end the
process."""

from __future__ import annotations

import contextlib
import resource
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import ROOT
from tests.conformance.rooms import OPERATIONS
from tests.conformance.table import Recorder, requiring_grad, total

_INTS = (-(2**63), -(2**31), -1, 0, 1, 2, 3, 7, 64, 2**31, 2**40, 2**63 - 1)
_DTYPES = (torch.bool, torch.uint8, torch.int64, torch.float16, torch.float64, torch.complex64, torch.float8_e4m3fn,
           torch.bits8, torch.quint8)  # fmt: skip


def _tensors(tensor: Tensor) -> Iterator[Tensor]:
    """Tensors of other dtypes, numbers of dimensions, sizes, strides and values, or without memory."""
    for dtype in _DTYPES:
        yield (
            torch.zeros(tensor.shape, dtype=torch.bool)
            if dtype == torch.bool
            else torch.empty(tensor.shape, dtype=dtype)
        )
    yield tensor.to("meta")
    yield tensor.unsqueeze(0)
    yield tensor.new_zeros((1,) * 64)
    yield tensor.new_zeros((1,) * 65)
    yield tensor.flatten()
    yield tensor.new_zeros(())
    yield tensor.new_zeros(0)
    for dim, size in enumerate(tensor.shape):
        yield tensor.select(dim, 0) if size else tensor
        for other in (0, 1, size + 1):
            shape = (*tensor.shape[:dim], other, *tensor.shape[dim + 1 :])
            yield tensor.new_zeros(shape)
    if not tensor.dtype.is_complex and tensor.dtype != torch.bool:
        yield torch.full_like(
            tensor, torch.iinfo(tensor.dtype).max if not tensor.dtype.is_floating_point else torch.nan
        )


def _lists(values: list[Any]) -> Iterator[list[Any]]:
    yield from ([], values[:1], values[:-1], [*values, 1], values * 2, values * 40)
    for at in range(len(values)):
        for other in _INTS if all(isinstance(value, int) for value in values) else (float("nan"), float("inf")):
            yield [*values[:at], other, *values[at + 1 :]]
    for other in _INTS:
        yield [other] * len(values)


def _others(value: Any, kind: str) -> Iterator[Any]:
    """Other values for an argument of a well-formed call."""
    if "?" in kind:
        yield None
    if "Tensor" in kind:
        yield from _tensors(value if isinstance(value, Tensor) else torch.ones(2, 3))
    elif "[]" in kind or "List" in kind:
        yield from _lists(list(value or (1, 1)))
    elif "ScalarType" in kind:
        yield from _DTYPES
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, float):
        yield from (float("nan"), float("-inf"), 1e300)
    else:
        yield from _INTS


def _calls(name: str) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """The raw calls by an operation and its derivative, for the first sample of each number of dimensions."""
    (operation,) = [operation for operation in OPERATIONS if operation.name == name]
    seen = set()
    for sample in operation.samples:
        tensors = operation.arguments(sample, "cpu")
        if sum(tensor.numel() for tensor in tensors) > 4000:
            continue
        with Recorder() as recorder:
            out = operation.function(
                *(requiring_grad(tensors) if operation.differentiable else tensors), **sample.options
            )
            if operation.differentiable and total(out).requires_grad:
                total(out, 2).backward()
        for overload, args in recorder.calls:
            kinds = (overload, *(arg.dim() if isinstance(arg, Tensor) else type(arg) for arg in args))
            if kinds not in seen:
                seen.add(kinds)
                yield overload, args


def _call(name: str) -> None:
    """Make the calls in this process, with a limit on its memory: some calls request all that there is."""
    resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for overload, args in list(_calls(name)):
        arguments = overload._schema.arguments
        args = (*args, *(argument.default_value for argument in arguments[len(args) :]))
        for at, argument in enumerate(arguments):
            for other in _others(args[at], str(argument.real_type)):
                called = (*args[:at], other, *args[at + 1 :])
                print(overload, argument.name, *map(_text, called), flush=True)
                with contextlib.suppress(Exception):  # any error is allowed, as long as the process continues
                    overload(*called)


def _text(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else str(value)


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of the process")
@pytest.mark.parametrize("name", [operation.name for operation in OPERATIONS])
def test_no_raw_call_ends_the_process(name: str) -> None:
    command = [sys.executable, "-m", __name__, name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    *_, last = done.stdout.splitlines()
    assert done.returncode == 0, f"{last}\n{done.stderr}"


if __name__ == "__main__":
    _call(sys.argv[1])
