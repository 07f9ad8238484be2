"""Every sample of the table on a simulated device without float64; test_other_devices.py runs it in a process."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.conformance import device
from tests.conformance.device import Accelerator, held, on_device
from tests.conformance.table import Operation, Sample, outputs
from tests.conformance.test_other_devices import every_sample

WIDE = {torch.float64, torch.complex128}


@pytest.fixture(scope="module", autouse=True)
def _device() -> None:
    device.register()


def narrow_dtypes(operation: Operation, sample: Sample) -> list[Any]:
    """The dtypes of the row without 64-bit floats."""
    if sample.options.get("dtype") in WIDE:
        return []
    return [d for d in operation.dtypes if WIDE.isdisjoint(d if isinstance(d, tuple) else (d,))]


def assert_same(actual: Any, expected: Any, *, atol: float = 0.0) -> None:
    for one, other in zip(outputs(actual), outputs(expected), strict=True):
        floats = one.dtype.is_floating_point or one.dtype.is_complex
        tolerance: dict[str, float] = {} if floats else {"rtol": 0, "atol": atol}
        torch.testing.assert_close(held(one), other, equal_nan=True, **tolerance)


@every_sample
def test_a_device_without_float64_has_the_results_of_the_cpu(operation: Operation, sample: Sample) -> None:
    # Weighted means of integers are rounded from float32 there.
    atol = 1.0 if isinstance(sample.options.get("weight"), str) else 0.0
    for dtype in narrow_dtypes(operation, sample):
        tensors = operation.arguments(sample, "cpu", dtype)
        expected = operation.reference(*tensors, **sample.options)
        with Accelerator() as accelerator:
            actual = operation.function(*on_device(tensors), **sample.options)
        assert accelerator.seen
        assert_same(actual, expected, atol=atol)
