"""Tensors with more than 2^31 elements, or with elements so far apart that 32-bit indices do not reach them."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import torchext
from tests.conformance.rooms import OPERATIONS
from tests.conformance.table import Dtypes, Operation, Sample, outputs, requiring_grad, total
from torchext.onehot.labels import class_indices

pytestmark = [
    pytest.mark.skipif(
        torchext.doctor().libraries[0].problem is not None,
        reason="the references need several times the memory of the result",
    ),
    pytest.mark.xdist_group("large"),
]


GIB = 2**30


def _lacks_memory() -> str | None:
    """The reason why a GPU is too small for these tests, which need about 10 GiB of its memory."""
    total_bytes = torch.cuda.get_device_properties("cuda").total_memory
    return None if total_bytes >= 23 * GIB else f"needs a GPU of 24 GB, this one has {total_bytes / 1e9:.0f} GB"


def _cuda() -> Any:
    reason = _lacks_memory()
    skip = pytest.mark.skipif(reason is not None, reason=reason or "")
    return pytest.param("cuda", marks=[pytest.mark.cuda, skip])


on_every_device = pytest.mark.parametrize("device", ["cpu", *([_cuda()] if torch.cuda.is_available() else [])])


@pytest.fixture(scope="module", autouse=True)
def _memory() -> Iterator[None]:
    yield
    _buffer.cache_clear()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


_MOST_BYTES = 2  # for each element of tensors whose elements are far apart


@functools.cache
def _buffer(device: str) -> Tensor:
    """Memory for one tensor at a time. On a CPU, pages that are not accessed need no memory."""
    return torch.empty((2**31 + 2**24) * _MOST_BYTES, dtype=torch.uint8, device=device)


def _far_apart(tensor: Tensor, dim: int) -> Tensor:
    """The same values, with the last one along a dimension 2^31 elements after the first."""
    strides = list(tensor.select(dim, 0).contiguous().stride())
    strides.insert(dim, -(-(2**31) // (tensor.shape[dim] - 1)))
    return _buffer(tensor.device.type).view(tensor.dtype).as_strided(tensor.shape, strides).copy_(tensor)


def _smallest(operation: Operation, argument: int) -> Dtypes:
    """The dtypes for which an argument needs the least memory."""

    def size(dtypes: Dtypes) -> tuple[int, bool]:
        dtype = dtypes[argument] if isinstance(dtypes, tuple) else dtypes
        return dtype.itemsize, dtype == torch.bool  # bool has few values and comes last

    return min(operation.dtypes, key=size)


def _placements(operation: Operation, sample: Sample, device: str) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """The arguments of a call, and the same with the elements of one of them far apart along one dimension."""
    for argument, shape in enumerate(sample.shapes):
        near = operation.arguments(sample, device, _smallest(operation, argument))
        tensor = near[argument]
        if tensor.dtype.itemsize > _MOST_BYTES or not 0 < tensor.numel() < 2**20:
            continue
        for dim in (d for d, size in enumerate(shape) if size > 1):
            yield near, [*near[:argument], _far_apart(tensor, dim), *near[argument + 1 :]]


# A kernel with 64-bit indices runs if an element of any tensor is too far from the first one.
@on_every_device
@pytest.mark.parametrize(
    ("operation", "sample"), [pytest.param(o, s, id=f"{o.name}-{s.name}") for o in OPERATIONS for s in o.samples]
)
def test_elements_may_be_far_apart(operation: Operation, sample: Sample, device: str) -> None:
    for near, far in _placements(operation, sample, device):
        expected = operation.function(*near, **sample.options)
        actual = operation.function(*far, **sample.options)
        for one, other in zip(outputs(actual), outputs(expected), strict=True):
            torch.testing.assert_close(one, other, equal_nan=True)
        if operation.differentiable:
            torch.testing.assert_close(_gradients(operation, sample, far), _gradients(operation, sample, near))


def _gradients(operation: Operation, sample: Sample, tensors: list[Tensor]) -> tuple[Tensor, ...]:
    leaves = requiring_grad(tensors)
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    if not wanted:
        return ()
    out = total(operation.function(*leaves, **sample.options)).to(leaves[0].device)
    return torch.autograd.grad(out, wanted, allow_unused=True, materialize_grads=True)


def test_every_operation_is_tested_with_elements_far_apart() -> None:
    without = {o.name for o in OPERATIONS if not any(list(_placements(o, s, "cpu")) for s in o.samples)}
    assert not without


@on_every_device
def test_class_indices_of_labels_far_apart(device: str) -> None:
    labels = _far_apart(torch.tensor([3, 1, 7], dtype=torch.uint8, device=device), 0)
    assert class_indices(labels, 5, None, False).tolist() == [3, 1, -1]


@on_every_device
def test_one_hot_of_more_than_2_to_the_31_entries(device: str) -> None:
    labels = torch.arange(2**20 + 5, device=device) % 2048
    out = torchext.one_hot(labels, 2048, dtype=torch.bool)
    assert out.numel() > 2**31
    assert torch.equal(out[-7:], torch.nn.functional.one_hot(labels[-7:], 2048).bool())
    assert int(out.view(torch.uint8)[-1].sum()) == 1


@on_every_device
def test_masks_of_more_than_2_to_the_31_entries(device: str) -> None:
    labels = (torch.arange(2**27 + 3, device=device) % 17).to(torch.uint8).unsqueeze(0)
    out = torchext.one_hot(labels, 17, dim=1, dtype=torch.uint8)
    assert out.numel() > 2**31
    assert torch.equal(out[0, :, -9:].T, torch.nn.functional.one_hot(labels[0, -9:].long(), 17).to(torch.uint8))


@on_every_device
def test_unfold_and_fold_of_more_than_2_to_the_31_entries(device: str) -> None:
    image = (torch.arange(2**14 * 2**13, device=device) % 251).to(torch.uint8).view(1, 1, 2**14, 2**13)
    columns = torchext.unfold(image, 4, padding=2)
    assert columns.numel() > 2**31
    rows, width = columns.view(16, 2**14 + 1, 2**13 + 1), 2**13
    assert torch.equal(rows[15, -3, : width - 1], image[0, 0, -1, 1:])
    total = torchext.fold(columns, image.shape[2:], 4, padding=2)
    assert torch.equal(total[0, 0, -9:-1, -9:-1], image[0, 0, -9:-1, -9:-1] * 16)


@on_every_device
def test_cam_pool_of_more_than_2_to_the_31_activations(device: str) -> None:
    weights = torch.linspace(0, 1, 32 * 33, device=device).view(1, 1, 32, 33).half()
    activations = weights.expand(2, 2**20, 32, 33)
    assert activations.numel() > 2**31
    maps = torchext.cam_pool(activations, activations)
    torch.testing.assert_close(maps, weights[0].expand(2, 32, 33))
