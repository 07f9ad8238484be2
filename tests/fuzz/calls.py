"""The three kinds of calls: valid ones, ones with a wrong argument, and such calls of `torch.ops.torchext`."""

from __future__ import annotations

import contextlib
import inspect
import math
import random
import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import torchext
from tests.conformance.random_call import Call, Draw, assert_equal_results, results
from tests.conformance.table import COMPLEX, FLOATS, LABELS, MOVED, Operation, outputs, requiring_grad, total
from tests.fuzz.isolated import Report

DTYPES = (*FLOATS, *LABELS, *COMPLEX, *MOVED)
NUMBERS = (
    0, -1, 1, 2, 3, 7, 2**31 - 1, 2**31, -(2**31), 2**32, 2**40, 2**62, 2**63 - 1, -(2**63), 2**63, 2**70, -(2**70),
    10**400, 0.5, -0.0, 1.5, 1e30, 1e300, math.nan, math.inf, -math.inf, True, False, 1j,
)  # fmt: skip
OTHERS: tuple[Any, ...] = (
    None, "", "raise", "zero", "\0", "\ud800", b"raise", (), [], {}, {1}, range(2), range(2**62), object(), int, len,
    np.int64(3), np.float32(2), np.zeros(2), np.array(3), torch.device("meta"), torch.Size([2]), slice(None), Ellipsis,
)  # fmt: skip


class HypothesisDraw(Draw):
    """Lets Hypothesis make the choices, so that it can search for the smallest call with a fault."""

    def __init__(self, data: Any) -> None:
        super().__init__(data.draw(st.integers(0, 2**16)))
        self.data = data
        self.rng = self

    def between(self, low: int, high: int) -> int:
        return self.data.draw(st.integers(low, high))

    def one_of(self, *choices: Any) -> Any:
        return choices[self.between(0, len(choices) - 1)]

    def flip(self) -> bool:
        return self.between(0, 1) == 1

    shuffle = random.Random.shuffle  # calls `_randbelow`; for `Draw.laid_out`

    def _randbelow(self, count: int) -> int:
        return self.between(0, count - 1)


def valid(operation: Operation, draw: Draw) -> Callable[[Report], None]:
    call = operation.random_call(draw)

    def run(report: Report) -> None:
        report(call=str(call))
        before = _bytes_of(call)
        actual = results(call.function, call)
        assert _bytes_of(call) == before, "arguments changed"
        assert_equal_results(operation, call, actual, results(call.reference, call))

    return run


def wrong(operation: Operation, draw: Draw) -> Callable[[Report], None]:
    right = operation.random_call(draw)
    function = right.function
    signature = inspect.signature(function)
    arguments = signature.bind(*right.args, **right.options).arguments
    name = draw.one_of(*signature.parameters)
    arguments[name] = replaced(draw, arguments.get(name, signature.parameters[name].default))
    call = right._replace(args=(), options=arguments)

    def run(report: Report) -> None:
        report(call=str(call), argument=name, elements=_elements(arguments.values()))
        before = _bytes_of(call)
        actual = _outcome(lambda: function(**arguments))
        if isinstance(actual, Exception):
            assert _bytes_of(call) == before, "arguments changed"
            _assert_clear(actual, signature.parameters)
        expected = _outcome(lambda: call.reference(**arguments))
        if not (_lacked_memory(actual) or _lacked_memory(expected)):
            kinds = [_kind(result) for result in (actual, expected)]
            # PyTorch may raise a RuntimeError where the kernel raises an error that names the argument.
            refused = isinstance(actual, Exception) and isinstance(expected, RuntimeError)
            assert refused or kinds[0] == kinds[1], f"{kinds[0]} where its reference gives {kinds[1]}"

    return run


def raw(operation: Operation, draw: Draw) -> Callable[[Report], None]:
    call = operation.random_call(draw)
    which, position = draw.between(0, 3), draw.between(0, 15)
    # Hypothesis is not available in the other process: choices there are made from a seed.
    chosen = Draw(draw.between(0, 2**32 - 1))

    def run(report: Report) -> None:
        recorded = _recorded(operation, call)
        if not recorded:
            return
        overload, arguments = recorded[which % len(recorded)]
        place = position % len(arguments)
        named = overload._schema.arguments[place].name
        arguments[place] = replaced(chosen, arguments[place])
        text = str(Call(f"torch.ops.{overload}", tuple(arguments), {}))
        report(call=text, argument=f"{overload}: {named}", elements=_elements(arguments))
        found = _outcome(lambda: overload(*arguments))
        if isinstance(found, Exception):
            _assert_not_internal(found)

    return run


KINDS = {"valid": valid, "wrong": wrong, "raw": raw}


def replaced(draw: Draw, value: Any) -> Any:
    """Another value, in most cases of the same type, so that it passes the first check."""
    if draw.between(0, 5) == 0:
        return draw.one_of(*OTHERS, *NUMBERS, *DTYPES, torch.zeros(2, 3), torch.ones(3, dtype=torch.int64))
    if isinstance(value, Tensor):
        return _tensor(draw, value)
    if isinstance(value, torch.dtype):
        return draw.one_of(*DTYPES, torch.quint8)
    if isinstance(value, (tuple, list, torch.Size)) and len(value):
        items, place = list(value), draw.between(0, len(value) - 1)
        change = draw.between(0, 5)
        if change == 0:
            del items[place]
        elif change == 1:
            items.append(items[place])
        else:
            items[place] = replaced(draw, items[place])
        return type(value)(items) if type(value) is not torch.Size else tuple(items)
    if isinstance(value, str):
        return draw.one_of(*(other for other in OTHERS if isinstance(other, (str, bytes, type(None)))))
    if isinstance(value, (bool, int, float)):
        return draw.one_of(*NUMBERS)
    return draw.one_of(*OTHERS, *NUMBERS)


def _tensor(draw: Draw, like: Tensor) -> Any:
    def cut(tensor: Tensor) -> Tensor:
        return tensor.narrow(draw.between(0, tensor.dim() - 1), 0, 0)

    dtype, size = draw.one_of(*DTYPES), draw.one_of(2**20, 2**31, 2**40, 2**62)
    ways: tuple[Callable[[], Any], ...] = (
        lambda: like[None],
        lambda: like.flatten(),
        lambda: like.new_zeros(()),
        lambda: cut(like),
        lambda: torch.cat([like, like]),
        lambda: like.mT,
        lambda: like.to(dtype),
        lambda: like.to("meta"),
        lambda: like.to_sparse(),
        lambda: like.to_sparse_csr(),
        lambda: like.to_mkldnn(),
        lambda: torch.nested.nested_tensor([like]),
        lambda: torch.nested.nested_tensor([like], layout=torch.jagged),
        lambda: torch.quantize_per_tensor(like.float(), 1.0, 0, torch.qint8),
        lambda: torch._neg_view(like),
        lambda: like.to(torch.complex64).conj(),
        lambda: like.as_subclass(torch.nn.Parameter),
        lambda: like.float().requires_grad_(),
        lambda: like.new_zeros([1] * like.dim()).expand(like.shape),
        lambda: like.new_zeros([1] * like.dim()).expand([size, *like.shape[1:]]),
        lambda: like.new_zeros([*like.shape[:-1], 1]).expand([*like.shape[:-1], size]),
        lambda: torch.full_like(like, draw.one_of(*NUMBERS[:16], math.nan, math.inf)),
        lambda: like.numpy(),
        lambda: like.tolist(),
    )
    try:
        return draw.one_of(*ways)()
    except (RuntimeError, TypeError, IndexError, OverflowError, ValueError):  # PyTorch has no such tensor
        return torch.zeros((), dtype=dtype)


def _outcome(function: Callable[[], Any]) -> Any:
    try:
        found = tuple(result.clone() for result in outputs(function()))
        torchext.check_errors("cpu")
        return found
    except Exception as error:
        with contextlib.suppress(IndexError):
            torchext.check_errors("cpu")
        return error


def _kind(outcome: Any) -> str:
    if isinstance(outcome, Exception):
        return type(outcome).__name__
    return ", ".join(f"{result.dtype} of {tuple(result.shape)}" for result in outcome)


NO_MEMORY = "allocate memory|no memory for|Storage size calculation overflowed"


def _lacked_memory(outcome: Any) -> bool:
    return isinstance(outcome, RuntimeError) and bool(re.search(NO_MEMORY, str(outcome)))


INTERNAL = r"INTERNAL ASSERT|report a bug|std::|vector::|bad_alloc|but got false|^\s*$|deque|_M_|Unknown error"


def _assert_not_internal(error: Exception) -> None:
    text = f"{type(error).__name__}: {error}"
    internal = isinstance(error, (MemoryError, SystemError, AssertionError, NameError, RecursionError))
    assert not internal, text
    assert not re.search(INTERNAL, str(error)), text


def _assert_clear(error: Exception, names: Iterable[str]) -> None:
    """Check the type of an error, and that it names an argument unless PyTorch's dispatcher raised it."""
    _assert_not_internal(error)
    text = f"{type(error).__name__}: {error}"
    assert isinstance(error, (TypeError, ValueError, IndexError, RuntimeError)), text
    if not (isinstance(error, RuntimeError) or re.match(r"label \S+ at position", str(error))):
        assert any(re.match(rf"{name}\b", str(error)) for name in names), f"names no argument: {text}"


def _elements(values: Iterable[Any]) -> int:
    """The number of elements of the largest tensor, which can exceed the memory if all have the same address."""
    return max((value.numel() for value in values if _is_plain(value)), default=0)


def _bytes_of(call: Call) -> list[bytes]:
    """The bytes of all tensors that a call must not change."""
    values = [*call.args, *(value for name, value in call.options.items() if name != "out")]
    return [_memory(value) for value in values if _is_plain(value)]


def _is_plain(value: Any) -> bool:
    return (
        isinstance(value, Tensor)
        and not value.is_nested
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
    )


def _memory(value: Tensor) -> bytes:
    storage = value.untyped_storage()
    return torch.empty(0, dtype=torch.uint8).set_(storage).numpy().tobytes()


def _recorded(operation: Operation, call: Call) -> list[tuple[Any, list[Any]]]:
    """The calls of operations by a call and its derivative, with their arguments."""
    found: list[tuple[Any, list[Any]]] = []

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, overload: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if overload.namespace == "torchext" and args:
                found.append((overload, list(args)))
            return overload(*args, **(kwargs or {}))

    tensors = {i: value for i, value in enumerate(call.args) if isinstance(value, Tensor)}
    grown = tensors
    if operation.differentiable:
        grown = dict(zip(tensors, requiring_grad(list(tensors.values())), strict=True))
    options = {name: value for name, value in call.options.items() if name != "out"}
    with Record(), contextlib.suppress(IndexError):
        out = call.function(*(grown.get(i, value) for i, value in enumerate(call.args)), **options)
        loss = total(out)
        if operation.differentiable and loss.requires_grad:
            loss.abs().backward()
    with contextlib.suppress(IndexError):
        torchext.check_errors("cpu")
    return found
