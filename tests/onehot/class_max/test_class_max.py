"""Tests of class_max and class_min beyond the conformance table: equal values, NaN, empty classes, large inputs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import torchext
from tests.conformance.table import FLOATS, INTEGERS, LABELS
from tests.onehot.class_max.cases import extremes_by_class
from torchext._native import load

Extremes = Callable[..., torchext.ClassExtremes]
BOTH: tuple[Extremes, ...] = (torchext.class_max, torchext.class_min)
both = pytest.mark.parametrize("function", BOTH, ids=lambda function: function.__name__)
nan, inf = float("nan"), float("inf")


def skewed(count: int, classes: int) -> Tensor:
    """Labels most of which are in the first classes; some classes have no label."""
    return (torch.rand(count) ** 6 * classes).long()


@pytest.mark.parametrize("shape", [(20_000,), (20_000, 3), (9000, 20), (3000, 130), (100, 5000)], ids=str)
@pytest.mark.parametrize("classes", [3, 200, 3000])
@both
def test_values_equal_scatter_reduce(function: Extremes, shape: tuple[int, ...], classes: int) -> None:
    labels, values = skewed(shape[0], classes), torch.randint(-1000, 1000, shape) / 8  # many values are equal
    empty, reduce = (-inf, "amax") if function is torchext.class_max else (inf, "amin")
    index = labels.reshape(-1, *[1] * (len(shape) - 1)).expand_as(values)
    expected = torch.full((classes, *shape[1:]), empty).scatter_reduce_(0, index, values, reduce)
    place = torch.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    places = torch.where(expected.gather(0, index) == values, place, shape[0])
    first = torch.full(expected.shape, shape[0]).scatter_reduce_(0, index, places, "amin")
    columns = values.movedim(0, -1).contiguous().movedim(-1, 0)
    for threads in (1, 3, 7):
        torch.set_num_threads(threads)
        for laid_out in (values, columns):
            found = function(laid_out, labels, classes)
            assert torch.equal(found.values, expected)
            assert torch.equal(found.indices, torch.where(first < shape[0], first, -1))


@pytest.mark.parametrize("odd", [(), (nan,), (inf, -inf), (nan, inf, -inf, -0.0, 0.0)], ids=str)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("features", [(), (40,)], ids=str)
@both
def test_one_class_equals_max_and_min(
    function: Extremes,
    dtype: torch.dtype,
    odd: tuple[float, ...],
    features: tuple[int, ...],
) -> None:
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        values = torch.randint(-3, 4, (50, *features), generator=generator).to(dtype)
        if odd:
            chosen = torch.tensor(odd, dtype=dtype)[torch.randint(len(odd), values.shape, generator=generator)]
            values = torch.where(torch.rand(values.shape, generator=generator) < 0.1, chosen, values)
        labels = torch.zeros(50, dtype=torch.uint8)
        found, (best, _) = function(values, labels, 1), getattr(torch, function.__name__[-3:])(values, 0)
        torch.testing.assert_close(found.values[0], best, rtol=0, atol=0, equal_nan=True)
        # PyTorch does not define which index of equal values it returns.
        _, first = extremes_by_class(function is torchext.class_max)(values, labels, 1)
        assert torch.equal(found.indices, first)


def test_the_first_of_equal_values_is_found() -> None:
    labels = torch.tensor([1, 0, 1, 0, 1])
    assert torchext.class_max(torch.tensor([2, 3, 2, 3, 1]), labels, 2).indices.tolist() == [1, 0]
    assert torchext.class_min(torch.tensor([2, 3, 2, 3, 2]), labels, 2).indices.tolist() == [1, 0]
    for function in BOTH:
        for zeros in ([0.0, -0.0], [-0.0, 0.0]):
            found = function(torch.tensor(zeros), labels[:1].repeat(2), 2)
            assert found.indices.tolist() == [-1, 0]
            assert torch.signbit(found.values[1]) == torch.signbit(torch.tensor(zeros[0]))
        found = function(torch.tensor([1.0, nan, inf, nan, -inf]), torch.zeros(5, dtype=torch.int64), 1)
        assert found.values.isnan().all()
        assert found.indices.tolist() == [1]


@pytest.mark.parametrize("dtype", [*FLOATS, *LABELS], ids=str)
@pytest.mark.parametrize("features", [(), (5,)], ids=str)
def test_the_index_distinguishes_empty_classes_from_extreme_values(
    dtype: torch.dtype, features: tuple[int, ...]
) -> None:
    limits: tuple[float, float] = (-inf, inf)
    if dtype in INTEGERS:
        limits = torch.iinfo(dtype).min, torch.iinfo(dtype).max
    elif dtype == torch.bool:
        limits = False, True
    for function, worst in zip(BOTH, limits, strict=True):
        values = torch.tensor([worst] * 3, dtype=dtype).reshape(3, *[1] * len(features)).expand(3, *features)
        found = function(values, torch.tensor([2, 0, 2]), 4)
        assert found.values.dtype == dtype
        assert torch.equal(found.values, values[:1].expand(4, *features))
        assert found.indices.reshape(4, -1)[:, 0].tolist() == [1, -1, 0, -1]


def test_indices_are_positions_in_the_flattened_labels_of_a_sample() -> None:
    labels, values = torch.randint(0, 4, (3, 5, 7)), torch.randn(3, 5, 7, 2)
    found = torchext.class_max(values, labels, 4)
    assert torch.equal(values.reshape(-1, 2).gather(0, found.indices), found.values)
    assert torch.equal(labels.flatten()[found.indices], torch.arange(4)[:, None].expand(4, 2))
    mapped = torch.vmap(lambda x, y: torchext.class_max(x, y, 4))(values, labels)
    for sample in range(3):
        of_sample = torchext.class_max(values[sample], labels[sample], 4)
        assert torch.equal(mapped.indices[sample], of_sample.indices)
        assert torch.equal(mapped.values[sample], of_sample.values)


@both
def test_the_gradient_goes_to_the_element_at_the_index(function: Extremes) -> None:
    values = torch.tensor([[1.0, 4.0], [2.0, 4.0], [2.0, nan]], requires_grad=True)
    found = function(values, torch.tensor([0, 0, 5]), 3, invalid="zero")
    assert not found.indices.requires_grad
    found.values.backward(torch.tensor([[10.0, 20.0], [inf, nan], [1.0, 1.0]]))  # also for classes without a value
    assert values.grad is not None
    largest = function is torchext.class_max
    assert values.grad.tolist() == ([[0, 20], [10, 0], [0, 0]] if largest else [[10, 20], [0, 0], [0, 0]])


def test_nonzero_bytes_of_bool_are_true() -> None:
    labels = torch.randint(0, 3, (500,))
    for shape in ((500,), (500, 7)):
        memory = torch.randint(0, 3, shape, dtype=torch.uint8) * 100
        for function in BOTH:
            found, expected = (function(values, labels, 3) for values in (memory.view(torch.bool), memory != 0))
            assert torch.equal(found.values.view(torch.uint8), expected.values.view(torch.uint8))
            assert torch.equal(found.indices, expected.indices)


@pytest.mark.skipif(not load.is_loaded("_C"), reason="needs the compiled kernels")
@pytest.mark.parametrize(
    ("values", "labels", "samples", "text"),
    [
        (torch.ones(4, dtype=torch.complex64), torch.zeros(4, dtype=torch.int64), 0, "values: expected another dtype"),
        (torch.ones(3), torch.zeros(4, dtype=torch.int64), 0, r"values: expected sizes \(4\) from dimension 0 on"),
        (torch.ones(4), torch.zeros(4), 0, "labels: expected another dtype"),
        (torch.ones(4), torch.zeros(4, dtype=torch.int64), 2, "samples: expected at least 0 and at most 1"),
    ],
    ids=["complex", "shape", "float labels", "samples"],
)
def test_kernels_raise_for_unsupported_arguments(values: Tensor, labels: Tensor, samples: int, text: str) -> None:
    with pytest.raises(RuntimeError, match=f"class_extremes: {text}"):
        torch.ops.torchext.class_extremes(values, labels, 1, samples, True, None, True)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("shape", [(300_000,), (300_000, 3), (60_000, 128), (500, 5000)], ids=str)
@pytest.mark.parametrize("classes", [7, 1000, 20_000])
def test_cuda_equals_the_cpu(shape: tuple[int, ...], classes: int) -> None:
    labels, values = skewed(shape[0], classes), torch.randint(-1000, 1000, shape) / 8
    for function in BOTH:
        expected, found = function(values, labels, classes), function(values.cuda(), labels.cuda(), classes)
        assert all(torch.equal(one.cpu(), other) for one, other in zip(found, expected, strict=True))
