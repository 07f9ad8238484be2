"""Devices for which there is no compiled kernel: one without float64, and tensors without values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import torchext
from tests.conformance.device import Accelerator, held, on_device
from tests.conformance.rooms import OPERATIONS
from tests.conformance.table import Operation, Sample, outputs

WIDE = {torch.float64, torch.complex128}


def rows(operations: Iterable[Operation]) -> list[Any]:
    """The samples except the large ones, which test the division into blocks in kernels."""
    small = ((o, s) for o in operations for s in o.samples if sum(map(math.prod, s.shapes)) < 20000)
    return [pytest.param(o, s, id=f"{o.name}-{s.name}") for o, s in small]


every_sample = pytest.mark.parametrize(("operation", "sample"), rows(OPERATIONS))
every_functional_sample = pytest.mark.parametrize(("operation", "sample"), rows(o for o in OPERATIONS if o.functional))


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


def calls_with(kind: str) -> dict[str, Callable[[], Any]]:
    """Calls with a tensor of another layout, by the argument that the error has to name."""
    floats = torch.rand(1, 3, 4, 4)
    if kind == "sparse":
        images, labels, whole = floats.to_sparse(), torch.tensor([0, 2]).to_sparse(), torch.rand(2).to_sparse()
    else:
        images = torch.quantize_per_tensor(floats, 0.1, 0, torch.quint8)
        labels = torch.quantize_per_tensor(torch.rand(2), 0.1, 0, torch.quint8)
        whole = labels
    return {
        "input": lambda: torchext.unfold(images, 2),
        "images": lambda: torchext.patchify(images, 2),
        "activations": lambda: torchext.cam_pool(images, floats),
        "gradients": lambda: torchext.cam_pool(floats, images),
        "windows": lambda: torchext.merge_windows(images.reshape(1, 1, 3, 4, 4) if kind == "quantised" else images, 4),
        "labels": lambda: torchext.one_hot(labels, 3),
        "indices": lambda: torchext.multi_hot(labels, 3),
        "values": lambda: torchext.class_sums(whole, torch.tensor([0, 2]), 3),
    }


@pytest.mark.filterwarnings("ignore:.*quantiz.*")
@pytest.mark.parametrize("kind", ["sparse", "quantised"])
def test_sparse_and_quantised_tensors_are_refused_by_name(kind: str) -> None:
    for name, call in calls_with(kind).items():
        with pytest.raises(TypeError, match=rf"^{name}: expected .*, got torch\.(sparse_coo|quint8)"):
            call()


@every_functional_sample
def test_fake_tensors_and_meta_have_the_shapes_of_results(operation: Operation, sample: Sample) -> None:
    tensors = operation.arguments(sample, "cpu")
    expected = outputs(operation.function(*tensors, **sample.options))
    with FakeTensorMode() as mode:
        faked = [mode.from_tensor(tensor) for tensor in tensors]
        fakes = outputs(operation.function(*faked, **sample.options))
    on_meta = outputs(operation.function(*(tensor.to("meta") for tensor in tensors), **sample.options))
    for one, *others in zip(expected, fakes, on_meta, strict=True):
        for other, device in zip(others, ("cpu", "meta"), strict=True):
            assert (other.shape, other.dtype, other.device.type) == (one.shape, one.dtype, device)
            assert other.is_contiguous()
