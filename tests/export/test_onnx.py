"""ONNX: every row of the conformance table is exported, and onnxruntime returns the results of the operation."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree

import torchext
from tests.conformance.table import COMPLEX, MOVED, Operation, Sample
from tests.export.calls import Calls, Groups, every_operation, groups_of, small, with_batch_of

pytest.importorskip("onnxscript", reason="in requirements/dev.txt")
onnxruntime = pytest.importorskip("onnxruntime", reason="in requirements/dev.txt")


def exported(module: torch.nn.Module, arguments: Any, dynamic: Any = None, opset: int = 18) -> Any:
    """A session of onnxruntime for the exported module."""
    program = torch.onnx.export(
        module.eval(), arguments, dynamo=True, dynamic_shapes=dynamic, opset_version=opset, verbose=False
    )
    assert program.model.opset_imports[""] == opset
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(program.model_proto.SerializeToString(), options)


def run(session: Any, *tensors: Tensor) -> list[Tensor]:
    inputs = zip(session.get_inputs(), tensors, strict=True)
    return [torch.from_numpy(result) for result in session.run(None, {i.name: t.numpy() for i, t in inputs})]


def samples_of(operation: Operation) -> list[Sample]:
    """The small calls; onnxruntime has no complex numbers and no sums of empty tensors, and NumPy no bfloat16."""
    samples = [s for s in small(operation) if 0 not in map(math.prod, s.shapes)]
    return [s for s in samples if s.options.get("dtype") not in (*COMPLEX, *MOVED, torch.bfloat16)]


def float32_groups(operation: Operation, samples: Sequence[Sample]) -> Groups:
    """The arguments in float32 instead of float64, for which onnxruntime has no Resize."""
    groups = groups_of(operation, samples)
    return tuple(tuple(t.float() if t.dtype == torch.float64 else t for t in group) for group in groups)


def check(session: Any, calls: Calls, groups: Groups) -> None:
    tensors = [tensor for group in groups for tensor in group]
    torch.testing.assert_close(run(session, *tensors), _pytree.tree_leaves(calls(*groups)))


@every_operation
def test_onnxruntime_returns_the_results_of_the_operation(operation: Operation) -> None:
    samples = samples_of(operation)
    calls, groups = Calls(operation.function, samples), float32_groups(operation, samples)
    check(exported(calls, groups), calls, groups)


@every_operation
def test_a_model_of_onnx_takes_any_batch(operation: Operation) -> None:
    samples = with_batch_of(17, samples_of(operation))
    calls, groups = Calls(operation.function, samples), float32_groups(operation, samples)
    dynamic = tuple(tuple({0: torch.export.Dim.DYNAMIC} for _ in group) for group in groups)
    session = exported(calls, groups, (dynamic,), opset=20)
    check(session, calls, groups)
    check(session, calls, float32_groups(operation, with_batch_of(29, samples)))


def test_the_export_warns_of_labels_that_would_raise() -> None:
    labels = torch.tensor([0, 2, 1])
    with pytest.warns(UserWarning, match=r"a program of ONNX cannot raise an error"):
        session = exported(torchext.nn.OneHot(3), (labels,))
    expected = torchext.one_hot(torch.tensor([0, 7, -1]), 3, invalid="zero")
    assert torch.equal(run(session, torch.tensor([0, 7, -1]))[0], expected)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*cannot raise an error")
        exported(torchext.nn.OneHot(3, invalid="zero"), (labels,))


@pytest.mark.parametrize("options", [{"partial": "shift"}, {"padding": 3, "value": 2.0, "partial": "pad"}], ids=str)
def test_a_few_large_windows_are_slices(options: dict[str, Any]) -> None:
    class Extract(torch.nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return torchext.extract_windows(image, 16, 12, **options)

    image = torch.randn(2, 3, 40, 45)
    program = torch.onnx.export(Extract(), (image,), dynamo=True, verbose=False)
    assert not {"Gather", "GatherND"} & {node.op_type for node in program.model_proto.graph.node}
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    assert torch.equal(run(session, image)[0], Extract()(image))


class _Call(torch.nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: Tensor) -> Any:
        return self.function(*tensors)


def operators(model: torch.nn.Module, *tensors: Tensor) -> set[str]:
    """The names of the operators of the exported model."""
    program = torch.onnx.export(model.eval(), tensors, dynamo=True, verbose=False)
    return {node.op_type for node in program.model_proto.graph.node}


@pytest.mark.parametrize("options", [{}, {"padding": 1}, {"stride": 3}, {"dilation": 2}], ids=str)
def test_the_last_axis_of_unfold_is_copied_in_slices(options: dict[str, Any]) -> None:
    # onnxruntime reads an index along the last axis element by element.
    assert "GatherND" not in operators(torchext.nn.Unfold(3, **options), torch.randn(2, 3, 9, 12))
    assert "Gather" not in operators(_Call(lambda x: torchext.unfold(x, (3,), **options)), torch.randn(2, 3, 12))


def test_labels_are_counted_in_few_passes() -> None:
    labels = torch.tensor([[0, 2, 1]])
    slow = {"And", "Or", "Not", "Less", "GreaterOrEqual", "Equal", "Where"}
    counts = _Call(lambda y: torchext.class_counts(y, 3, ignore_index=255, invalid="zero"))
    assert not slow & operators(counts, labels)
    matrix = _Call(lambda a, b: torchext.confusion_matrix(a, b, 3, ignore_index=255, invalid="zero"))
    assert not slow & operators(matrix, labels, labels)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64], ids=str)
def test_labels_outside_of_the_classes_are_not_counted(dtype: torch.dtype) -> None:
    limits = (0, 1) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    # 2^32 + 1 is 1 if it is converted to int32.
    values = {limits[0], -5, -4, -2, -1, 0, 1, 2, 3, 4, 5, 6, 255, 256, 2**32 + 1, limits[1] - 1, limits[1]}
    labels = torch.tensor([value for value in sorted(values) if limits[0] <= value <= limits[1]]).to(dtype)
    predicted, target = labels.repeat(len(labels)), labels.repeat_interleave(len(labels))

    def count(predicted: Tensor, target: Tensor) -> list[Tensor]:
        return [
            result
            for classes in (1, 3, 2**9)
            for ignored in (None, 1, 255, -1)
            for result in (
                torchext.class_counts(predicted, classes, ignore_index=ignored, invalid="zero"),
                torchext.confusion_matrix(predicted, target, classes, ignore_index=ignored, invalid="zero"),
            )
        ]

    results = run(exported(_Call(count), (predicted, target)), predicted, target)
    torch.testing.assert_close(results, count(predicted, target))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32], ids=str)
def test_images_of_integers_are_rounded_and_clamped(dtype: torch.dtype) -> None:
    within = [0.5, 1.5, -0.5, 2.4, 126.6, 254.5, 7.0]
    values = [*within, 300.0, -300.0, 4e4, -4e4, 3e9, -3e9, math.nan, math.inf, -math.inf]
    tokens = torch.tensor(values).reshape(1, 4, 4)
    model = _Call(lambda tokens: torchext.unpatchify(tokens, 2, 2, dtype=dtype))
    assert torch.equal(run(exported(model, (tokens,)), tokens)[0], model(tokens))
    if dtype.itemsize < 4:
        assert "IsInf" not in operators(model, tokens)


def test_scores_at_labels_that_are_left_out_may_be_nan() -> None:
    class Overlap(torch.nn.Module):
        def forward(self, scores: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
            return tuple(torchext.class_overlap(scores, labels, invalid="zero"))

    scores, labels = torch.rand(2, 3, 4), torch.tensor([[0, 1, 7, 2], [1, 1, 0, -1]])
    scores[0, :, 2] = scores[1, :, 3] = torch.nan
    expected = Overlap()(scores, labels)
    assert not expected[0].isnan().any()
    torch.testing.assert_close(run(exported(Overlap(), (scores, labels)), scores, labels), list(expected))
