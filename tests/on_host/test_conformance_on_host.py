"""The conformance table drives the CUDA kernels and their launchers, every thread run on the host."""

from __future__ import annotations

import zlib

import pytest
import torchext_on_host as on_host
from cases import Operation, Sample, outputs
from test_conformance import (  # noqa: F401  # these are tests
    assert_same,
    every_sample,
    test_derivatives_are_right_in_both_modes,
    test_equals_an_independent_formulation,
    test_equals_its_reference_in_every_dtype,
    test_reads_any_strides,
    test_refuses_wrong_input,
    test_transforms_agree,
    test_vmap_equals_a_loop,
)


@pytest.fixture(autouse=True)
def _device(request: pytest.FixtureRequest) -> None:
    """Each test has an order of threads, a number of processors and a width of indices of its own."""
    choice = zlib.crc32(request.node.name.encode())
    on_host.start(seed=choice, processors=132 if choice & 1 else 1, wide=bool(choice & 2))


@every_sample
def test_the_width_of_indices_changes_no_bit(operation: Operation, sample: Sample) -> None:
    for dtype in (operation.default_dtype, operation.dtypes[0]):
        tensors = operation.arguments(sample, "cpu", dtype)
        results = []
        for wide in (False, True):
            on_host.start(seed=3, processors=132, wide=wide)
            results.append(outputs(operation.function(*tensors, **sample.options)))
        assert on_host.launches() > 0 or not any(out.numel() for out in results[0])
        assert_same(results[1], results[0], exact=True)
