"""Conformance tests of the CUDA kernels and their launchers, which run on the CPU."""

from __future__ import annotations

import torch
import torchext_on_host as on_host
from torch import Tensor

from tests.conformance.table import Operation, Sample, outputs, total
from tests.conformance.test_conformance import (  # noqa: F401  # these are tests
    _differentiable_part,
    assert_same,
    every_differentiable_sample,
    every_sample,
    test_derivatives_are_right_in_both_modes,
    test_equals_an_independent_formulation,
    test_equals_its_reference_in_every_dtype,
    test_reads_any_strides,
    test_refuses_wrong_input,
    test_transforms_agree,
    test_vmap_equals_a_loop,
)


@every_sample
def test_results_do_not_depend_on_processors_or_index_width(operation: Operation, sample: Sample) -> None:
    for dtype in (operation.default_dtype, operation.dtypes[0]):
        tensors = operation.arguments(sample, "cpu", dtype)
        results = []
        for processors, wide in ((132, False), (1, False), (132, True)):
            on_host.start(seed=3, processors=processors, wide=wide)
            results.append(outputs(operation.function(*tensors, **sample.options)))
        assert on_host.launches() > 0 or not any(out.numel() for out in results[0])
        assert_same(results[1], results[0], exact=True)
        assert_same(results[2], results[0], exact=not operation.pieces_follow_index_width)


@every_differentiable_sample
def test_gradients_of_mapped_calls_equal_a_loop(operation: Operation, sample: Sample) -> None:
    def gradients(*tensors: Tensor) -> tuple[Tensor, ...]:
        function, inputs = _differentiable_part(operation, sample, tensors)

        def energy(*inputs: Tensor) -> Tensor:
            return total(function(*inputs), power=2)

        return outputs(torch.func.grad(energy, tuple(range(len(inputs))))(*inputs))

    calls = [operation.arguments(sample, "cpu", seed=seed) for seed in (0, 1)]
    actual = torch.vmap(gradients)(*map(torch.stack, zip(*calls, strict=True)))
    expected = map(torch.stack, zip(*(gradients(*tensors) for tensors in calls), strict=True))
    torch.testing.assert_close(actual, tuple(expected))
