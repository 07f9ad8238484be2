"""torch.fx and torch.jit record the operations, or raise an error that says what does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

import torchext
from tests.conformance.table import Operation, outputs
from tests.export.calls import Calls, every_operation, groups_of, small
from torchext import unfold

MODULES: dict[str, tuple[torch.nn.Module, Callable[[], tuple[Tensor, ...]]]] = {
    "OneHot": (torchext.nn.OneHot(3), lambda: (torch.tensor([0, 2, 1]),)),
    "Unfold": (torchext.nn.Unfold(2), lambda: (torch.randn(1, 3, 6, 8),)),
    "Fold": (torchext.nn.Fold((6, 8), 2, stride=2), lambda: (torch.randn(1, 12, 12),)),
    "Patchify": (torchext.nn.Patchify(2), lambda: (torch.randn(1, 3, 6, 8),)),
    "Unpatchify": (torchext.nn.Unpatchify(2, (3, 4)), lambda: (torch.randn(1, 12, 12),)),
    "SlidingWindow": (torchext.nn.SlidingWindow(torch.nn.ReLU(), 4), lambda: (torch.randn(1, 3, 6, 8),)),
}


@pytest.mark.parametrize("name", MODULES)
def test_symbolic_trace_records_the_call_of_a_module(name: str) -> None:
    module, make = MODULES[name]
    traced, arguments = fx.symbolic_trace(torch.nn.Sequential(module)), make()
    (call,) = (node for node in traced.graph.nodes if node.op == "call_function")
    assert call.target.__name__ in {*torchext.reference.__all__, "sliding_window"}
    torch.testing.assert_close(traced(*arguments), module(*arguments))


@pytest.mark.parametrize("name", torchext.reference.__all__)
def test_symbolic_trace_records_the_call_of_a_function(name: str) -> None:
    def model(x: Any) -> Any:
        return getattr(torchext, name)(x, 2)

    (call,) = (node for node in fx.symbolic_trace(model).graph.nodes if node.op == "call_function")
    assert call.target is getattr(torchext, name)


def test_a_function_that_symbolic_trace_does_not_record_says_what_to_do() -> None:
    with pytest.raises(TypeError, match=r"input: expected a tensor, got a Proxy of torch\.fx; call the function as"):
        fx.symbolic_trace(lambda x: unfold(x, 2))


@every_operation
def test_jit_trace_records_the_operation(operation: Operation) -> None:
    sample = small(operation)[0]
    tensors = operation.arguments(sample, "cpu")

    def call(*tensors: Tensor) -> tuple[Tensor, ...]:
        return outputs(operation.function(*tensors, **sample.options))

    torch.testing.assert_close(torch.jit.trace(call, tuple(tensors))(*tensors), call(*tensors))


def test_jit_trace_of_sliding_window_says_what_to_do() -> None:
    module, image = torchext.nn.SlidingWindow(torch.nn.Conv2d(3, 4, 3, padding=1), 8), torch.randn(1, 3, 16, 24)
    with pytest.raises(TypeError, match=r"export it with torch\.export\.export, or trace the model alone"):
        torch.jit.trace(module, (image,))
    model = torch.jit.trace(module.model, (image[..., :8, :8],))
    torch.testing.assert_close(torchext.sliding_window(model, image, 8), module(image))


@every_operation
@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_make_fx_records_the_operation(operation: Operation, mode: str) -> None:
    samples = small(operation)
    groups, calls = groups_of(operation, samples), Calls(operation.function, samples)
    traced = make_fx(calls, tracing_mode=mode)(*groups)
    torch.testing.assert_close(traced(*groups), calls(*groups))
