"""Tests of extracting and merging windows beyond the conformance table."""

from __future__ import annotations

import random
import warnings
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

import torchext
from tests.races import survives
from torchext.windows import tiles

# Most of these tests merge windows of geometries that leave the far edge uncovered.
pytestmark = pytest.mark.filterwarnings("ignore:merge_windows:UserWarning")

WEIGHTS = (None, "linear", "hann", "gaussian")


def some_geometry(seed: int) -> tuple[tuple[int, ...], dict[str, Any]]:
    """An image and windows that cover it."""
    rng = random.Random(seed)
    rank = rng.randint(1, 3)
    largest = (60, 20, 9)[rank - 1]
    image = tuple(rng.randint(1, largest) for _ in range(rank))
    size = tuple(rng.randint(1, largest // 2) for _ in range(rank))
    stride = tuple(rng.randint(1, k) for k in size)
    padding = tuple(rng.randint(0, 3) for _ in range(rank))
    return image, {"size": size, "stride": stride, "padding": padding, "partial": rng.choice(("pad", "shift"))}


def merged(windows: torch.Tensor, image: tuple[int, ...], geometry: dict[str, Any], **options: Any) -> torch.Tensor:
    rest = {name: value for name, value in geometry.items() if name in ("stride", "padding", "partial", "dilation")}
    return torchext.merge_windows(windows, image, **rest, **options)


@pytest.mark.parametrize("seed", range(40))
def test_merge_inverts_extract_with_every_weight(seed: int) -> None:
    image, geometry = some_geometry(seed)
    x = torch.randn(2, 3, *image, generator=torch.Generator().manual_seed(seed))
    windows = torchext.extract_windows(x, **geometry)
    assert torch.equal(windows, torchext.reference.extract_windows(x, **geometry))
    covered = merged(torch.ones_like(windows), image, geometry, normalize=False)
    for weight in WEIGHTS:
        result = merged(windows, image, geometry, weight=weight)
        torch.testing.assert_close(result, x, rtol=2e-6, atol=0)
        assert torch.equal(result[covered == 1], x[covered == 1])
        reference = torchext.reference.merge_windows
        rest = {name: geometry[name] for name in ("stride", "padding", "partial")}
        torch.testing.assert_close(result, reference(windows, image, **rest, weight=weight), rtol=2e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bfloat16, torch.complex64, torch.bool], ids=str)
def test_merging_separate_windows_is_exact_in_every_dtype(dtype: torch.dtype) -> None:
    x = torch.randint(-(2**62), 2**62, (2, 3, 12, 15)).to(dtype)
    for weight in WEIGHTS if dtype != torch.bool else (None,):
        windows = torchext.extract_windows(x, (4, 5))
        assert torch.equal(torchext.merge_windows(windows, (12, 15), weight=weight), x)
        offsets = torch.cartesian_prod(torch.arange(0, 12, 4), torch.arange(0, 15, 5))
        offsets = offsets[torch.randperm(len(offsets))]
        windows = torchext.gather_windows(x, offsets, (4, 5))
        assert torch.equal(torchext.scatter_windows(windows, offsets, (12, 15), weight=weight), x)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32, torch.float64, torch.complex128], ids=str)
def test_windows_of_every_width_are_extracted_and_merged(dtype: torch.dtype) -> None:
    """The kernels copy rows in parts of 1 to 64 bytes, for strips of neighbouring windows."""
    x = torch.randint(0, 256, (2, 3, 4, 90)).to(dtype)
    for width in range(1, 86):
        for stride in (width, width + 2, max(1, width - 1)):
            for partial in ("drop", "shift"):
                geometry: dict[str, Any] = {"size": (2, width), "stride": (2, stride), "partial": partial}
                windows = torchext.extract_windows(x, **geometry)
                assert torch.equal(windows, torchext.reference.extract_windows(x, **geometry))
                covered = merged(torch.ones_like(windows), (4, 90), geometry, normalize=False) != 0
                result = merged(windows, (4, 90), geometry)
                assert torch.equal(result.where(covered, 0), result)
                close = {} if stride >= width and partial == "drop" else {"rtol": 1e-3, "atol": 0}
                torch.testing.assert_close(result, x.where(covered, 0), **close or {"rtol": 0, "atol": 0})


def test_planes_are_merged_with_the_same_weights() -> None:
    """If there are several planes, the share of each window at a position is computed once for all of them."""
    x = torch.randn(2, 5, 300, dtype=torch.float64)
    for weight in WEIGHTS:
        windows = torchext.extract_windows(x, (40,), (7,), partial="shift")
        result = torchext.merge_windows(windows, (300,), (7,), partial="shift", weight=weight)
        torch.testing.assert_close(result, x, rtol=1e-14, atol=1e-14)
        for channel in range(5):
            alone = torchext.merge_windows(
                windows[:1, :, channel : channel + 1], (300,), (7,), partial="shift", weight=weight
            )
            assert torch.equal(alone[0, 0], result[0, channel])


def test_overlapping_integers_are_rounded_half_to_even() -> None:
    x = torch.randint(0, 256, (1, 3, 31, 29), dtype=torch.uint8)
    windows = torchext.extract_windows(x, 8, 3, partial="shift")
    for weight in WEIGHTS:
        assert torch.equal(torchext.merge_windows(windows, (31, 29), 3, partial="shift", weight=weight), x)
    pairs = torch.tensor([[[0, 0]], [[1, 3]], [[2, 5]]], dtype=torch.int16)
    assert torchext.merge_windows(pairs, 4, (1,)).tolist() == [[0, 0, 2, 5]]
    assert torchext.merge_windows(-pairs, 4, (1,)).tolist() == [[0, 0, -2, -5]]
    large = torch.tensor([[[2**62 + 1, 5]], [[5, 7]]])
    assert torchext.merge_windows(large, 3, (1,), weight="hann").tolist() == [[2**62 + 1, 5, 7]]
    assert torchext.merge_windows(large, 3, (1,), normalize=False).tolist() == [[2**62 + 1, 10, 7]]


def test_positions_without_windows_or_weight_are_zero() -> None:
    ones = torch.ones(1, 2, 1, 3)
    assert torchext.merge_windows(ones, 8, (4,)).tolist() == [[[1, 1, 1, 0, 1, 1, 1, 0]]]
    weight = torch.tensor([0.0, 1.0, 1.0])
    assert torchext.merge_windows(ones, 7, (4,), weight=weight).tolist() == [[[0, 1, 1, 0, 0, 1, 1]]]
    assert torchext.scatter_windows(ones[0], torch.tensor([[-1], [5]]), 7, weight=weight).tolist() == [
        [1, 1, 0, 0, 0, 0, 1]
    ]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.complex64])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("nothing", [float("inf"), float("nan")])
def test_elements_with_zero_weight_are_left_out_even_if_infinite(
    dtype: torch.dtype, normalize: bool, nothing: float
) -> None:
    weight = torch.tensor([0, 1, 2, 0], dtype=dtype.to_real())
    windows = torch.tensor([[[[nothing, 3, 5, nothing]], [[nothing, 7, 9, nothing]]]], dtype=dtype)
    expected = torch.tensor([[[0, 3, 5, 7, 9, 0] if normalize else [0, 3, 10, 7, 18, 0]]], dtype=dtype)
    for source in (torchext, torchext.reference):
        leaf = windows.clone().requires_grad_()
        merged = source.merge_windows(leaf, 6, 2, weight=weight, normalize=normalize)
        assert torch.equal(merged, expected)
        grad = torch.full_like(merged, nothing)
        grad[..., 1:5] = 1
        (by_window,) = torch.autograd.grad(merged, leaf, grad)
        share = [0, 1, 1, 0] if normalize else [0, 1, 2, 0]
        assert torch.equal(by_window, torch.tensor(share, dtype=dtype).expand_as(windows))
        offsets = torch.tensor([[0], [2]])
        assert torch.equal(source.scatter_windows(windows, offsets, 6, weight=weight, normalize=normalize), expected)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_large_integer_is_exact_next_to_an_element_with_zero_weight(order: tuple[int, int]) -> None:
    windows = torch.tensor([[[2**62 + 1, 5]], [[7, 2**62 + 1]]])
    weight = torch.tensor([0.0, 3.0])
    for source in (torchext, torchext.reference):
        result = source.scatter_windows(windows[list(order)], torch.tensor([[0], [-1]])[list(order)], 2, weight=weight)
        assert result.tolist() == [[2**62 + 1, 5]]


def test_bool_is_combined_by_or() -> None:
    windows = torch.tensor([[[True, False]], [[False, True]]])
    assert torchext.merge_windows(windows, 3, (1,)).tolist() == [[True, False, True]]
    assert torchext.scatter_windows(windows, torch.zeros(2, 1, dtype=torch.int64), 3).tolist() == [[True, True, False]]


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular", "symmetric"])
@pytest.mark.parametrize("seed", range(6))
def test_the_gradient_of_padding_sums_copies(mode: str, seed: int) -> None:
    rng = random.Random(seed)
    rank = rng.randint(1, 3)
    image = tuple(rng.randint(7, 10) for _ in range(rank))
    geometry = {
        "size": tuple(rng.randint(1, 4) for _ in image), "stride": tuple(rng.randint(1, 3) for _ in image),
        "dilation": tuple(rng.randint(1, 2) for _ in image), "padding": tuple(rng.randint(0, 3) for _ in image),
        "padding_mode": mode,
    }  # fmt: skip
    x = torch.randint(-9, 9, (2, 3, *image)).double().requires_grad_()
    windows = torchext.extract_windows(x, **geometry)
    other = torch.randint(-9, 9, windows.shape).double()
    (grad,) = torch.autograd.grad(windows, x, other)
    assert (windows * other).sum() == (x * grad).sum()  # the adjoint
    places = torch.arange(float(x[0, 0].numel())).view(1, 1, *image)
    source = torchext.extract_windows(places, **geometry | ({"value": -1.0} if mode == "constant" else {})).long()
    index = torch.where(source < 0, places.numel(), source).expand_as(other)
    rows = other.movedim(1 + rank, 1).flatten(2), index.movedim(1 + rank, 1).flatten(2)
    expected = torch.zeros(2, 3, places.numel() + 1, dtype=torch.float64).scatter_add(2, rows[1], rows[0])
    assert torch.equal(grad, expected[..., :-1].view_as(x))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("named", [False, True], ids=["every sample", "sample in offsets"])
def test_windows_at_offsets_equal_the_reference(seed: int, named: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    rng = random.Random(seed)
    rank = rng.randint(1, 3)
    # The output has more than one block.
    image = tuple(rng.randint(1, most) for most in ((40000,), (150, 600), (4, 90, 300))[rank - 1])
    size = tuple(rng.randint(1, 40) for _ in image)
    count = rng.randint(0, 40)
    offsets = torch.stack([torch.randint(-50, s + 10, (count,), generator=generator) for s in image], 1)
    offsets = torch.cat([offsets, offsets[:5]])  # some offsets occur twice
    if named:
        offsets = torch.cat([torch.randint(-1, 3, (len(offsets), 1), generator=generator), offsets], 1)
    x = torch.randn(2, 3, *image, generator=generator)
    windows = torchext.gather_windows(x, offsets, size)
    assert torch.equal(windows, torchext.reference.gather_windows(x, offsets, size))
    output_size = (2, *image) if named else image
    covered = torchext.scatter_windows(torch.ones_like(windows), offsets, output_size, normalize=False)
    for weight in WEIGHTS:
        result = torchext.scatter_windows(windows, offsets, output_size, weight=weight)
        torch.testing.assert_close(result, torch.where(covered > 0, x, 0), rtol=2e-6, atol=0)
        assert torch.equal(result[covered == 1], x[covered == 1])
        reference = torchext.reference.scatter_windows(windows, offsets, output_size, weight=weight)
        torch.testing.assert_close(result, reference, rtol=2e-6, atol=0)


def test_an_empty_batch_with_samples_in_the_offsets() -> None:
    for count in (0, 2):
        offsets = torch.zeros(count, 2, dtype=torch.int64)
        windows = torchext.gather_windows(torch.zeros(0, 1, 4), offsets, (2,))
        assert windows.shape == (count, 1, 2)
        for weight in (None, "hann"):
            image = torchext.scatter_windows(windows.requires_grad_(), offsets, (0, 4), weight=weight)
            assert image.shape == (0, 1, 4)
            assert torch.autograd.grad(image.sum(), windows)[0].tolist() == windows.tolist()
    for wrong in ((2, 0), (-1, 4), 0):
        with pytest.raises(ValueError, match="output_size: expected at least"):
            torchext.scatter_windows(windows, offsets, wrong)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("names_sample", [False, True])
@pytest.mark.parametrize("batch", [0, 2])
def test_vmap_over_windows_weights_and_offsets_also_if_empty(batch: int, names_sample: bool, weighted: bool) -> None:
    windows, weights = torch.rand(batch, 2, 3, 1, 4), torch.rand(batch, 4) if weighted else None
    dims = (0, 0 if weighted else None)
    merged = torch.vmap(lambda x, w: torchext.merge_windows(x, (8,), 2, weight=w), dims)(windows, weights)
    assert merged.shape == (batch, 2, 1, 8)
    offsets = torch.zeros(batch, 3, 1 + names_sample, dtype=torch.int64)
    windows, size = (windows[:, 0], (2, 8)) if names_sample else (windows, (8,))
    scatter = torch.vmap(lambda x, o, w: torchext.scatter_windows(x, o, size, weight=w), (0, *dims))
    assert scatter(windows, offsets, weights).shape == (batch, 2, 1, 8)
    gather = torch.vmap(lambda x, o: torchext.gather_windows(x, o, (4,)))
    assert gather(torch.zeros(batch, 2, 1, 8), offsets).shape == windows.shape


def test_offsets_may_be_extreme_integers() -> None:
    offsets = torch.tensor([[2**63 - 1, -(2**63)], [-(2**63), 0], [0, 2**62]])
    assert torchext.gather_windows(torch.ones(1, 5, 5), offsets, (3, 3)).sum() == 0
    assert torchext.scatter_windows(torch.ones(3, 1, 3, 3), offsets, (5, 5)).sum() == 0


def test_half_precision_is_summed_in_float32() -> None:
    windows = torch.full((1, 4097, 1, 1), 1.0, dtype=torch.float16)
    result = torchext.scatter_windows(windows, torch.zeros(4097, 1, dtype=torch.int32), 1, normalize=False)
    assert result.item() == 4096  # 4097 rounded to float16; a sum in float16 would stop at 2048


def test_a_weight_tensor_equals_the_named_weight() -> None:
    windows = torch.randn(2, 3, 3, 4, 8, 8)
    weight = torchext.window_weight((8, 8), "hann")
    by_name = torchext.merge_windows(windows, 20, 6, weight="hann")
    assert torch.equal(torchext.merge_windows(windows, 20, 6, weight=weight), by_name)


def test_unbatched_images() -> None:
    x = torch.randn(3, 9, 8)
    windows = torchext.extract_windows(x, (4, 4), 2, partial="pad")
    assert windows.shape == (4, 3, 3, 4, 4)
    torch.testing.assert_close(torchext.merge_windows(windows, (9, 8), 2, partial="pad"), x)
    offsets = torch.tensor([[0, 0], [5, 4]])
    windows = torchext.gather_windows(x, offsets, (4, 4))
    assert torch.equal(windows, torchext.gather_windows(x[None], offsets, 4)[0])
    assert torchext.scatter_windows(windows, offsets, (9, 8)).shape == x.shape


@pytest.mark.parametrize("shape", [(1, 5000), (300, 300), (4, 70, 70)], ids=str)
def test_same_bits_for_any_number_of_threads(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    image, size = shape[1:] if shape[0] == 1 else shape, 33
    windows = torch.randn(1, 300, 2, *[min(size, s) for s in image], generator=generator)
    offsets = torch.stack([torch.randint(-9, s, (300,), generator=generator) for s in image], 1)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(torchext.scatter_windows(windows, offsets, image, weight="gaussian"))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64], ids=str)
def test_every_integer_is_written_with_nan_weights(dtype: torch.dtype, normalize: bool) -> None:
    weight = torch.tensor([1.0, float("nan"), 1.0, 1.0])
    windows = torch.full((1, 30, 1, 4), 5, dtype=dtype)
    torch.full((62,), 77, dtype=dtype)  # the content of memory that is not written
    result = torchext.merge_windows(windows, (62,), 2, weight=weight, normalize=normalize)[0, 0]
    assert set(result[3:60:2].tolist()) == {0}
    assert set(result.tolist()) <= {0, 5, 10}
    expected = torchext.reference.merge_windows(windows, (62,), 2, weight=weight, normalize=normalize)
    assert torch.equal(result, expected[0, 0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.complex64], ids=str)
def test_weights_may_have_infinite_inverses(dtype: torch.dtype) -> None:
    tiny, compute = (1e-310, torch.float64) if dtype == torch.float64 else (1e-39, torch.float32)
    for values in ([tiny] * 4, [0.0, tiny, 1.0, tiny]):
        weight = torch.tensor(values, dtype=compute)
        for planes in (1, 12):  # the shares are computed for each plane if there are few
            windows = torch.ones(1, 3, planes, 4, dtype=dtype)
            result = torchext.merge_windows(windows, (8,), (2,), weight=weight)
            expected = torch.ones(1, planes, 8, dtype=dtype)
            if weight[0] == 0:
                expected[..., 0] = 0
            torch.testing.assert_close(result, expected)
            offsets = torch.tensor([[0], [2], [4]])
            assert torch.equal(torchext.scatter_windows(windows, offsets, (8,), weight=weight), result)


def test_integers_with_weights_that_cancel() -> None:
    weight = torch.tensor([1.0, 1.0, -1.0])
    windows = torch.tensor([10, 20, 40]).view(1, 3, 1, 1).expand(1, 3, 1, 3)
    expected = torch.tensor([[[10, 15, 50, 0, 40]]])
    assert torch.equal(torchext.merge_windows(windows, (5,), (1,), weight=weight), expected)
    offsets = torch.tensor([[0], [1], [2]])
    assert torch.equal(torchext.scatter_windows(windows, offsets, (5,), weight=weight), expected)


def test_nan_weights_make_separate_windows_nan() -> None:
    result = torchext.merge_windows(torch.ones(1, 2, 1, 2), (4,), (2,), weight=torch.tensor([float("nan"), 1]))
    torch.testing.assert_close(result, torch.tensor([[[float("nan"), 1, float("nan"), 1]]]), equal_nan=True)


def test_offsets_beyond_the_largest_signed_integer_are_outside() -> None:
    offsets = torch.tensor([[2**64 - 1, 0], [1, 0]], dtype=torch.uint64)
    windows = torchext.gather_windows(torch.ones(1, 4, 4), offsets, (3, 3))
    assert windows.sum((1, 2, 3)).tolist() == [0, 9]
    assert torchext.scatter_windows(windows + 1, offsets, (4, 4), normalize=False).sum() == 9 * 2


def test_no_window_of_only_padding_is_added_after_a_gap() -> None:
    line = torch.arange(10.0).reshape(1, 10)
    windows = torchext.extract_windows(line, (2,), (7,), partial="pad")[:, 0]
    assert windows.tolist() == [[0, 1], [7, 8]]
    result = torchext.merge_windows(windows[:, None], (10,), (7,), partial="pad")
    assert result.tolist() == [[0, 1, 0, 0, 0, 0, 0, 7, 8, 0]]
    windows = torchext.extract_windows(line, (2,), (3,), partial="pad", value=-1)[:, 0]
    assert windows.tolist() == [[0, 1], [3, 4], [6, 7], [9, -1]]


TRACED = {
    "unfold": lambda x: torchext.unfold(x, 3, padding=1, stride=2),
    "extract": lambda x: torchext.extract_windows(x, 3, 2, partial="shift"),
    "merge": lambda x: torchext.merge_windows(
        torchext.extract_windows(x, 3, 2, partial="shift"), x.shape[2:], 2, partial="shift", weight="hann"
    ),
    "patchify": lambda x: torchext.patchify(x, (2, 3), mean=0.5),
    "unpatchify": lambda x: torchext.unpatchify(torchext.patchify(x, (2, 3)), (2, 3), (4, 3), std=0.5),
    "sliding_window": lambda x: torchext.sliding_window(torch.tanh, x, 5),
}


@pytest.mark.parametrize("name", TRACED)
def test_gradients_are_traced_with_symbolic_sizes(name: str) -> None:
    x = torch.randn(2, 3, 8, 9)
    gradient = torch.func.grad(lambda image: TRACED[name](image).square().sum())
    gradient(x)  # fills the caches, which a tracer must not use
    traced = make_fx(gradient, tracing_mode="symbolic")(x)
    torch.testing.assert_close(traced(x), gradient(x))


def test_offsets_may_change_during_the_call() -> None:
    prepare = (
        "others = torch.randint(0, 400, (3000, 2)), torch.full((3000, 2), 100)\n"
        "changing, windows = others[0].clone(), torch.ones(1, 3000, 1, 60, 60)"
    )
    assert survives(prepare, "torchext.scatter_windows(windows, changing, (512, 512))")


def test_integers_are_written_for_every_nan_weight() -> None:
    windows, weight = torch.full((1, 2, 1, 4), 5), torch.ones(4, dtype=torch.float64)
    weight[1:3] = torch.tensor(0x7FF86D6F76656421).view(torch.float64)
    for normalize in (True, False):
        result = torchext.merge_windows(windows, (6,), 2, weight=weight, normalize=normalize)
        expected = torchext.reference.merge_windows(windows, (6,), 2, weight=weight, normalize=normalize)
        assert torch.equal(result, expected)


def test_nonzero_bytes_of_bool_are_true_in_merge_windows() -> None:
    windows = torch.tensor([[[[2, 0]], [[0, 255]]]], dtype=torch.uint8).view(torch.bool)
    result = torchext.merge_windows(windows, (3,), 1)
    assert result.view(torch.uint8)[0, 0, 1:2].tolist() == [0]
    both = torch.tensor([[[[2, 4]], [[8, 0]]]], dtype=torch.uint8).view(torch.bool)
    assert torchext.merge_windows(both, (3,), 1).view(torch.uint8)[0, 0, 1] == 1


_ENDS = {torch.int64: (-(2**63), 2**63 - 1), torch.uint64: (0, 2**64 - 1)}


@pytest.mark.parametrize("dtype", _ENDS, ids=str)
@pytest.mark.parametrize("weight", [None, torch.tensor([3.0])], ids=["unweighted", "weighted"])
def test_means_of_extreme_64_bit_integers_are_exact(dtype: torch.dtype, weight: Tensor | None) -> None:
    nowhere = torch.zeros(2, 1, dtype=torch.int64)
    for end in _ENDS[dtype]:
        windows = torch.tensor([end, end], dtype=dtype).view(2, 1, 1)
        for scatter in (torchext.scatter_windows, torchext.reference.scatter_windows):
            assert scatter(windows, nowhere, 1, weight=weight).tolist() == [[end]]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.int64, torch.uint64], ids=str)
def test_means_of_integers_are_exact_without_float64(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "widest_float", lambda device: torch.float32)
    limits, generator = torch.iinfo(dtype), random.Random(0)
    near = [limits.min, limits.min + 1, limits.max, limits.max - 1, limits.max - 2, limits.max // 2]
    for count in (1, 2, 3, 4, 7):
        numbers = [[generator.choice([*near, *range(5)]) for _ in range(200)] for _ in range(count)]
        windows = torch.tensor(numbers, dtype=dtype).view(count, 1, 200)
        means = torchext.reference.scatter_windows(windows, torch.zeros(count, 1, dtype=torch.int64), (201,))
        expected = [round(Fraction(sum(of_place), count)) for of_place in zip(*numbers, strict=True)]
        assert means.tolist() == [[*expected, 0]]
    image = torch.randint(0, 100, (2, 3, 9, 7)).to(dtype)
    cut = torchext.extract_windows(image, 4, 2, partial="shift")
    for weight in (None, "linear"):
        result = torchext.reference.merge_windows(cut, (9, 7), 2, partial="shift", weight=weight)
        assert torch.equal(result, image)


def test_an_integer_with_zero_weight_is_0_without_other_windows() -> None:
    windows = torch.full((1, 2, 1, 4), 5)
    weight = torch.tensor([0.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    for source in (torchext, torchext.reference):
        assert source.merge_windows(windows, (6,), 2, weight=weight).tolist() == [[[0, 5, 5, 5, 5, 5]]]


def test_one_int_is_ambiguous_for_an_input_of_three_dimensions() -> None:
    photo = torch.zeros(3, 8, 8)
    for call in (
        lambda: torchext.extract_windows(photo, 4),
        lambda: torchext.gather_windows(photo, torch.zeros(2, 2, dtype=torch.int64), 4),
    ):
        with pytest.raises(
            ValueError,
            match=r"size: expected \(size,\) for signals \(N, C, T\) or \(size, size\) for an image \(C, H, W\)",
        ):
            call()
    assert torchext.unfold(photo, 4).shape == (3 * 16, 25)  # as in PyTorch


@pytest.mark.parametrize("dtype", [torch.float64, torch.uint8], ids=str)
@pytest.mark.parametrize("mode", ["reflect", "circular", "symmetric"])
def test_padding_may_be_wider_than_the_image(mode: Any, dtype: torch.dtype) -> None:
    numpy = pytest.importorskip("numpy")
    for image, padding in (((1, 1), 4), ((2, 3), 7), ((4, 5), (9, 2))):
        x = torch.randint(0, 200, (2, 3, *image)).to(dtype)
        pads = [(p, p) for p in (padding if isinstance(padding, tuple) else (padding, padding))]
        padded = torch.from_numpy(
            numpy.pad(x.numpy(), [(0, 0), (0, 0), *pads], mode={"circular": "wrap"}.get(mode, mode))
        )
        for partial in ("drop", "pad", "shift"):
            options: dict[str, Any] = {"partial": partial, "stride": (2, 3)}
            windows = torchext.extract_windows(x, (4, 5), padding=padding, padding_mode=mode, **options)
            inside = windows if partial != "pad" else windows[:, : (padded.shape[2] - 4) // 2 + 1]
            if partial == "pad":
                inside = inside[:, :, : (padded.shape[3] - 5) // 3 + 1]
                options["partial"] = "drop"
            assert torch.equal(inside, torchext.extract_windows(padded, (4, 5), **options))
    # The window after the far edge reads more padding than `padding`.
    line = torch.arange(3).view(1, 3)
    windows = torchext.extract_windows(line, (8,), padding_mode="reflect", partial="pad")
    assert windows[0, 0].tolist() == [0, 1, 2, 1, 0, 1, 2, 1]
    if dtype.is_floating_point:
        leaf = torch.randn(1, 1, 2, 3, dtype=dtype, requires_grad=True)
        torch.autograd.gradcheck(lambda x: torchext.extract_windows(x, 3, padding=4, padding_mode=mode), leaf)


def test_merging_warns_of_positions_at_the_far_edge_that_no_window_covers() -> None:
    windows = torch.ones(3, 1, 7)
    with pytest.warns(UserWarning, match=r"merge_windows: no window covers the last 3 positions .* \(24,\)") as caught:
        images = [torchext.merge_windows(windows, (24,)) for _ in range(2)]
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert images[0].tolist() == [[1.0] * 21 + [0.0] * 3]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torchext.merge_windows(torch.ones(4, 1, 7), (24,), partial="pad")
        torchext.merge_windows(windows, (21,))
        torchext.merge_windows(torch.ones(3, 1, 2), (18,), 7)  # the end is no longer than the gaps
