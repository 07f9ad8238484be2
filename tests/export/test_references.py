"""References and decompositions are plain PyTorch in every program that is traced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounterWithBackend
from torch._inductor import lowering
from torch.fx.experimental.proxy_tensor import make_fx

import torchext
from tests.conformance.table import Operation
from tests.export.calls import Calls, every_operation, groups_of, small
from torchext._core import library
from torchext._native import load


def overloads(graph: torch.fx.Graph) -> list[torch._ops.OpOverload]:
    return [node.target for node in graph.nodes if isinstance(node.target, torch._ops.OpOverload)]


def is_plain(graph: torch.fx.Graph) -> bool:
    return {target.namespace for target in overloads(graph)} <= {"aten", "prims"}


@every_operation
def test_compiled_references_are_plain_pytorch(operation: Operation) -> None:
    samples, graphs = small(operation), list[torch.fx.Graph]()

    def keep(module: torch.fx.GraphModule, _: list[Any]) -> Callable[..., Any]:
        graphs.append(module.graph)
        return module.forward

    groups, calls = groups_of(operation, samples), Calls(operation.reference, samples)
    compiled = torch.compile(calls, backend=aot_autograd(fw_compiler=keep), fullgraph=True)
    torch.testing.assert_close(compiled(*groups), calls(*groups))
    assert len(graphs) == 1
    assert is_plain(graphs[0])


@every_operation
def test_exported_references_are_plain_pytorch(operation: Operation) -> None:
    samples = small(operation)
    groups, calls = groups_of(operation, samples), Calls(operation.reference, samples)
    program = torch.export.export(calls, groups)
    assert is_plain(program.graph)
    torch.testing.assert_close(program.module()(*groups), calls(*groups))


@every_operation
@pytest.mark.parametrize("mode", ["real", "symbolic"])
def test_references_that_make_fx_traces_are_plain_pytorch(operation: Operation, mode: str) -> None:
    samples = small(operation)
    groups, calls = groups_of(operation, samples), Calls(operation.reference, samples)
    traced = make_fx(calls, tracing_mode=mode)(*groups)
    assert is_plain(traced.graph)
    torch.testing.assert_close(traced(*groups), calls(*groups))


@every_operation
def test_decompositions_are_plain_pytorch_and_mutate_nothing(operation: Operation) -> None:
    samples = small(operation)
    groups, calls = groups_of(operation, samples), Calls(operation.function, samples)
    table = {**torch.export.default_decompositions(), **torchext.decompositions()}
    program = torch.export.export(calls, groups).run_decompositions(table)
    assert is_plain(program.graph)
    assert not any(target._schema.is_mutable for target in overloads(program.graph))
    torch.testing.assert_close(program.module()(*groups), calls(*groups))


def test_every_operation_that_writes_into_no_argument_has_a_decomposition() -> None:
    without = {name for name, o in library.operations.items() if o.overload not in torchext.decompositions()}
    assert without == {"blend_windows", "multi_hot_out", "one_hot_out", "take_bad_label"}
    assert all(library.operations[name].overload._schema.is_mutable for name in without - {"take_bad_label"})


def test_inductor_calls_operations_with_a_decomposition_in_continuous_integration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CI", "true")
    for overload in torchext.decompositions():
        if overload not in lowering.decompositions:  # without compiled kernels, it decomposes the operation
            lowering.make_fallback(overload)


def test_a_decomposition_takes_arguments_by_name() -> None:
    decompose = torchext.decompositions()[torch.ops.torchext.class_indices.default]
    assert decompose(torch.tensor([1, 7]), num_classes=3, ignore_index=None, raises=False).tolist() == [1, -1]


@pytest.mark.parametrize("function", ["one_hot", "class_counts"])
def test_a_decomposed_program_refuses_a_bad_label(function: str) -> None:
    class Model(torch.nn.Module):
        def forward(self, labels: torch.Tensor) -> torch.Tensor:
            return getattr(torchext, function)(labels, 3)

    labels = torch.tensor([0, 2, 1])
    module = torch.export.export(Model(), (labels,)).run_decompositions(torchext.decompositions()).module()
    assert torch.equal(module(labels), Model()(labels))
    with pytest.raises(RuntimeError, match=r"label is outside \[0, num_classes\)"):
        module(torch.tensor([0, 3, 1]))


def test_references_in_eager_code_name_the_bad_label() -> None:
    with pytest.raises(IndexError, match=r"label 3 at position \(1,\) is outside \[0, 3\)"):
        torchext.reference.one_hot(torch.tensor([0, 3, 1]), 3)


@pytest.mark.skipif(not load.is_loaded("_C"), reason="without kernels, compilers trace the references")
def test_operations_with_symbolic_sizes_are_not_replaced_by_their_decomposition() -> None:
    traced = make_fx(lambda x: torchext.unfold(x, 2), tracing_mode="symbolic")(torch.zeros(1, 2, 5, 6))
    assert {target.namespace for target in overloads(traced.graph)} == {"torchext"}


def test_compiled_references_are_compiled_once_and_refuse_bad_labels() -> None:
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda y: torchext.reference.one_hot(y, 3), backend=counter, fullgraph=True)
    labels = torch.tensor([0, 2, 1])
    for _ in range(2):
        assert torch.equal(compiled(labels), torchext.one_hot(labels, 3))
    with pytest.raises(RuntimeError, match=r"label is outside \[0, num_classes\)"):
        compiled(labels + 1)
    assert counter.frame_count == 1
