"""Tests of the CUDA kernels beyond the conformance table: random calls, orders of threads, launches, indices."""

from __future__ import annotations

import contextlib
import math
import os
import random
from typing import Any

import numpy as np
import pytest
import torch
import torchext_on_host as on_host
from torch import Tensor

import torchext
from tests.conformance.random_call import Draw, assert_equal_results, results
from tests.conformance.rooms import OPERATIONS
from tests.conformance.table import Operation, outputs, requiring_grad
from tests.conformance.test_conformance import assert_same
from tests.races import survives
from tests.windows.tiles.test_tiles import test_nonzero_bytes_of_bool_are_true_in_merge_windows  # noqa: F401  # of these kernels too
from tests.windows.unfold.test_unfold import test_nonzero_bytes_of_bool_are_true_in_fold  # noqa: F401  # as above
from torchext.windows.padding import MODES

SEEDS = range(8)
CALLS_A_SEED = 12
with_random_calls = pytest.mark.parametrize(
    "operation", [pytest.param(o, id=o.name) for o in OPERATIONS if o.random_call is not None]
)


@pytest.mark.parametrize("seed", SEEDS)
@with_random_calls
def test_random_calls_equal_their_references(operation: Operation, seed: int) -> None:
    for i in range(CALLS_A_SEED):
        draw = Draw(1000 * seed + i)
        call = operation.random_call(draw)
        expected = results(call.reference, call)
        on_host.start(seed=seed, processors=draw.one_of(1, 132), wide=draw.flip())
        actual = results(call.function, call)
        assert_equal_results(operation, call, actual, expected)


@pytest.mark.parametrize("seed", SEEDS[:3])
@with_random_calls
def test_results_do_not_depend_on_the_order_of_threads(operation: Operation, seed: int) -> None:
    for i in range(CALLS_A_SEED):
        call = operation.random_call(Draw(1000 * seed + i))
        if call.args[0].is_floating_point():
            noise = torch.randn(call.args[0].shape, generator=torch.Generator().manual_seed(seed))
            call = call._replace(args=((call.args[0] + noise).to(call.args[0].dtype), *call.args[1:]))
        found = []
        for order in (1, 2, 3):
            on_host.start(seed=order, processors=2)
            found.append(results(call.function, call))
        for other in found[1:]:
            if isinstance(other, str):
                assert other == found[0], str(call)
                continue
            assert_same(other, found[0], exact=True)


def _last_offset(tensor: Tensor) -> int:
    return sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


@with_random_calls
def test_indices_have_64_bits_if_32_bits_are_too_few(operation: Operation) -> None:
    """If a call needs one more index than 32 bits are assumed to hold, it launches the kernels with 64-bit indices."""
    if not operation.functional:
        pytest.skip("the kernels are called for parts of the arguments")
    for seed in range(40):
        call = operation.random_call(Draw(seed))
        args = [value for i, value in enumerate(call.args) if i not in call.not_indexed]
        read = [value for value in (*args, *call.options.values()) if isinstance(value, Tensor) and value.numel()]
        bytes_of = []
        needed = 0
        for limit in ({}, {"wide": True}, None):
            on_host.start(seed=0, processors=2, **({"most_32": needed - 1} if limit is None else limit))
            found = outputs(call.function(*call.args, **call.options))
            bytes_of.append(on_host.argument_bytes())
            sizes = [result.numel() for result in found if not operation.result_has_wide_indices]
            needed = max([0, *sizes] + [_last_offset(tensor) for tensor in read])
        assert bytes_of[2] == bytes_of[1], f"{call}\n{bytes_of}"
    _forget_bad_labels()


def _forget_bad_labels() -> None:
    """Clear the record of bad labels, after calls of which only the launches matter."""
    with contextlib.suppress(IndexError):
        torchext.check_errors("cpu")


def test_rows_of_a_class_are_added_in_the_order_of_the_labels() -> None:
    # There are more features than lanes, and no more rows than in a piece, so that each sum is sequential.
    classes, features = 40, 33
    labels = torch.arange(50 * classes)[torch.randperm(50 * classes)] % classes
    values = torch.randn(len(labels), features)
    expected = np.stack([np.cumsum(values[labels == c].numpy(), axis=0)[-1] for c in range(classes)])
    for processors in (1, 132):
        on_host.start(seed=processors, processors=processors)
        assert torch.equal(torchext.class_sums(values, labels, classes), torch.from_numpy(expected))


def test_class_overlap_of_more_classes_than_a_block_sums_at_a_time() -> None:
    labels = torch.randint(0, 70, (8, 256))
    scores = torch.randint(0, 3, (8, 70, 256)).float()
    expected = torchext.reference.class_overlap(scores, labels)
    for seed in range(16):
        on_host.start(seed=seed)
        assert all(map(torch.equal, torchext.class_overlap(scores, labels), expected))


def _merged_in_order(
    windows: np.ndarray[Any, Any], rows: list[list[int]], weight: np.ndarray[Any, Any], image: tuple[int, ...]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The sums and the sums of the weights: windows (L, C, *size) are added one after the other in float32."""
    sums, totals = np.zeros((windows.shape[1], *image), np.float32), np.zeros(image, np.float32)
    for window, row in zip(windows, rows, strict=True):
        spans = [(max(at, 0), min(at + k, n), at) for at, k, n in zip(row, weight.shape, image, strict=True)]
        if any(begin >= end for begin, end, _ in spans):
            continue
        there = tuple(slice(begin, end) for begin, end, _ in spans)
        taps = tuple(slice(begin - at, end - at) for begin, end, at in spans)
        sums[(slice(None), *there)] += weight[taps] * window[(slice(None), *taps)]
        totals[there] += weight[taps]
    return sums, totals


def _random_windows(seed: int, image: tuple[int, ...], size: tuple[int, ...], count: int, channels: int) -> Any:
    """Windows whose sums depend on their order, their first positions, inside and outside, and weights, some of 0."""
    draw = torch.Generator().manual_seed(seed)
    windows = torch.randn(count, channels, *size, generator=draw)
    windows *= 10.0 ** torch.randint(-3, 4, (count, 1, *[1] * len(size)), generator=draw)
    starts = [torch.randint(-k - 1, n + 2, (count,), generator=draw) for k, n in zip(size, image, strict=True)]
    weight = torch.randint(0, 4, size, generator=draw) / 3
    return windows, torch.stack(starts, 1), weight


# A block has 256 threads, and lists up to as many windows at once.
with_windows_at_offsets = pytest.mark.parametrize(
    ("image", "size", "count"),
    [
        ((9,), (4,), 600),  # all in one tile
        ((9,), (4,), 256),
        ((9,), (4,), 257),
        ((700,), (1,), 900),
        ((700,), (300,), 40),
        ((3000,), (5,), 1200),
        ((40, 70), (1, 1), 700),
        ((40, 150), (9, 17), 300),
        ((70, 300), (20, 70), 300),  # larger than a tile
        ((33, 65), (90, 200), 20),  # larger than the image
        ((130, 6), (3, 4), 400),
        ((9, 10, 11), (2, 3, 4), 300),
        ((30, 5, 6), (40, 2, 9), 50),
        ((5, 40, 70), (1, 1, 1), 500),
        ((1, 1, 1), (1, 1, 1), 513),
    ],
)


@pytest.mark.parametrize("channels", [1, 6])
@with_windows_at_offsets
def test_windows_over_a_position_are_added_in_order(
    image: tuple[int, ...], size: tuple[int, ...], count: int, channels: int
) -> None:
    windows, offsets, weight = _random_windows(count, image, size, count, channels)
    sums, totals = _merged_in_order(windows.numpy(), offsets.tolist(), weight.numpy(), image)
    for seed, wide in ((0, False), (1, True)):
        on_host.start(seed=seed, processors=1 + seed, wide=wide)
        result = torchext.scatter_windows(windows, offsets, image, weight=weight, normalize=False)
        assert on_host.launches() == (1 if count <= 256 else 6)  # many windows are sorted first
        assert torch.equal(result, torch.from_numpy(sums))
        mean = torchext.scatter_windows(windows, offsets, image, weight=weight)
        expected = np.where(totals == 0, 0, sums / np.where(totals == 0, 1, totals))
        torch.testing.assert_close(mean, torch.from_numpy(expected), rtol=1e-6, atol=0)


@pytest.mark.parametrize("channels", [1, 6])
@with_windows_at_offsets
def test_windows_that_arrive_are_added_in_order(
    image: tuple[int, ...], size: tuple[int, ...], count: int, channels: int
) -> None:
    windows, offsets, weight = _random_windows(count, image, size, min(count, 300), channels)
    sums, totals = _merged_in_order(windows.numpy(), offsets.tolist(), weight.numpy(), image)
    for seed, wide in ((0, False), (1, True)):
        on_host.start(seed=seed, processors=1 + seed, wide=wide)
        memory, weights = torch.zeros(channels, *image), torch.zeros(image)
        for part in (slice(0, 280), slice(280, None)):
            torch.ops.torchext.blend_windows(windows[part], offsets[part], weight, memory, weights)
        assert torch.equal(memory, torch.from_numpy(sums))
        assert torch.equal(weights, torch.from_numpy(totals))


@pytest.mark.parametrize("samples", [1, 2, 300])
@pytest.mark.parametrize("count", [40, 700])
def test_windows_of_several_samples_are_added_in_order(samples: int, count: int) -> None:
    image, size = (7, 9), (3, 4)
    windows, offsets, weight = _random_windows(samples, image, size, count, 2)
    sample = torch.randint(-1, samples + 1, (count,))
    on_host.start(seed=samples, processors=2)
    result = torchext.scatter_windows(
        windows, torch.cat([sample[:, None], offsets], 1), (samples, *image), weight=weight, normalize=False
    )
    for n in range(samples):
        mine = sample == n
        sums, _ = _merged_in_order(windows[mine].numpy(), offsets[mine].tolist(), weight.numpy(), image)
        assert torch.equal(result[n], torch.from_numpy(sums))


# On one processor, an image of 8192 positions and more is merged in groups of rows and of channels.
@pytest.mark.parametrize(
    ("image", "geometry"),
    [
        ((97, 101), {"size": (16, 12), "stride": (8, 5), "partial": "shift"}),
        ((97, 101), {"size": (16, 12), "stride": (20, 12)}),  # rows without windows
        ((97, 101), {"size": (5, 3), "stride": (1, 2), "padding": (3, 2), "partial": "pad"}),
        ((97, 101), {"size": (3, 4), "stride": (2, 1), "dilation": (3, 5), "padding": 2}),
        ((97, 101), {"size": (200, 110), "stride": (3, 7), "partial": "pad"}),
        ((97, 101), {"size": (1, 1)}),
        ((2, 5000), {"size": (2, 7), "stride": (1, 3), "partial": "shift"}),
        ((9001,), {"size": (8,), "stride": (3,), "padding": (4,)}),
        ((7, 30, 47), {"size": (3, 5, 6), "stride": (2, 3, 5), "partial": "shift"}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.complex64, torch.uint8], ids=str)
@pytest.mark.filterwarnings("ignore:merge_windows:UserWarning")
def test_rows_of_windows_on_a_grid_are_merged_together(
    image: tuple[int, ...], geometry: dict[str, Any], dtype: torch.dtype
) -> None:
    shape = torchext.reference.extract_windows(torch.zeros(1, 1, *image), **geometry).shape
    values = torch.randn(1, *shape[1 : 1 + len(image)], 5, *geometry["size"]) * 30
    windows = values.abs().to(dtype) if dtype == torch.uint8 else values.to(dtype)
    rest = {name: value for name, value in geometry.items() if name != "size"}
    weight = torch.randint(0, 4, geometry["size"]) / 3
    for options in ({}, {"weight": weight}, {"weight": weight, "normalize": False}, {"normalize": False}):
        results = []
        for processors in (1, 132):  # with 132 processors, each position is merged alone
            on_host.start(seed=processors, processors=processors)
            results.append(torchext.merge_windows(windows, image, **rest, **options))
        assert torch.equal(results[0], results[1])
        expected = torchext.reference.merge_windows(windows, image, **rest, **options)
        tolerance = {"rtol": 4e-3, "atol": 4e-3} if dtype == torch.float16 else {"rtol": 1e-5, "atol": 1e-4}
        torch.testing.assert_close(results[0], expected, **tolerance)


@pytest.mark.parametrize("weighted", [False, True])
def test_blocks_that_write_several_tiles_of_vectors(weighted: bool) -> None:
    indices = torch.randint(0, 5, (2, 5008, 2))
    options: dict[str, Any] = {"dim": 1, "weights": torch.randint(0, 3, indices.shape).float() if weighted else None}
    on_host.start(seed=0, processors=1)
    actual = torchext.multi_hot(indices, 5, **options)
    assert torch.equal(actual, torchext.reference.multi_hot(indices, 5, **options))


def test_class_overlap_of_more_pieces_than_lanes_in_a_warp() -> None:
    labels = torch.randint(0, 2, (1, 9000))
    scores = torch.randint(0, 3, (1, 2, 9000)).float()
    on_host.start(seed=0, wide=True)  # pieces are shorter with 64-bit indices
    for one, other in zip(
        torchext.class_overlap(scores, labels), torchext.reference.class_overlap(scores, labels), strict=True
    ):
        assert torch.equal(one, other)


def test_division_by_multiplication_equals_division() -> None:
    for bits, quotient in ((32, on_host.quotient_32), (64, on_host.quotient_64)):
        most = 2 ** (bits - 1) - 1
        near_powers = {2**bit + d for bit in range(bits - 1) for d in range(-2, 3)}
        rng = random.Random(bits)
        of_any_size = (rng.randint(1, most >> rng.randrange(bits - 1)) for _ in range(2000))
        for divisor in sorted(d for d in {*range(1, 301), *near_powers, *of_any_size} if 1 <= d <= most):
            # Around multiples of the divisor, where a rounded reciprocal fails first.
            multiples = [n // divisor * divisor + d for n in (*near_powers, most) for d in range(-2, 3)]
            numerators = [*range(300), most - 1, most, *multiples, *(rng.randint(0, most) for _ in range(20))]
            numerators = [n for n in numerators if 0 <= n <= most]
            found = quotient(np.array(numerators), divisor)
            assert found.tolist() == [n // divisor for n in numerators], divisor


@pytest.mark.parametrize("mode", range(len(MODES)))
def test_padding_copies_the_same_elements_as_numpy(mode: int) -> None:
    name = {"replicate": "edge", "circular": "wrap"}.get(MODES[mode], MODES[mode])
    constant = {"constant_values": -1} if name == "constant" else {}
    for size in range(1, 12):
        widest = {"reflect": size - 1, "wrap": size, "symmetric": size}.get(name, size + 3)
        for padding in range(widest + 1):
            positions = np.arange(-padding, size + padding)
            shown = on_host.padding_source(mode, positions, size)
            assert shown.tolist() == np.pad(range(size), padding, name, **constant).tolist()
            for element in range(size):  # the inverse
                outside = [p for p, s in zip(positions, shown, strict=True) if s == element and not 0 <= p < size]
                assert on_host.padding_copies(mode, element, size, padding) == outside
        far = on_host.padding_source(mode, np.arange(-3 * size, 4 * size), size)
        assert far.max() < size  # kernels read ahead: any element, or the constant, but nothing outside
        assert far.min() >= (-1 if name == "constant" else 0)


def test_taps_at_a_position_are_those_that_read_it() -> None:
    rng = random.Random(0)
    for _ in range(600):
        image, kernel, dilation = rng.randint(1, 60), rng.randint(1, 5), rng.randint(1, 4)
        padding, stride = rng.randint(0, 4), rng.randint(1, 6)
        grid = (image + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        read: dict[int, list[tuple[int, int]]] = {}
        for tap in range(kernel):
            for window in range(grid):
                read.setdefault(window * stride - padding + tap * dilation, []).append((tap, window))
        for position in range(image if grid > 0 else 0):
            found = on_host.taps_at(position, image, kernel, dilation, padding, stride)
            assert found == read.get(position, []), (position, image, kernel, dilation, padding, stride)


def test_windows_until_a_position_start_at_or_before_it() -> None:
    rng = random.Random(0)
    for _ in range(500):
        grid, stride, first = rng.randint(1, 12), rng.randint(1, 6), rng.randint(-4, 3)
        last = first if grid == 1 else first + (grid - 1) * stride - rng.randint(0, 2)
        starts = np.minimum(first + stride * np.arange(grid), last)
        positions = np.arange(-9, 60)
        found = on_host.windows_until(positions, grid, stride, first, last)
        assert found.tolist() == (starts[None] <= positions[:, None]).sum(1).tolist()


def test_numbers_are_rounded_half_to_even_and_saturate_as_integers() -> None:
    cases = {
        torch.uint8: {254.5: 254, 255.5: 255, 0.5: 0, math.inf: 255, -math.inf: 0, math.nan: 0},
        torch.int8: {-128.5: -128, -1e9: -128, 127.6: 127, math.nan: 0},
        torch.int32: {-2147483648.0: -(2**31), 2147483648.0: 2**31 - 1},
        torch.uint32: {4294967295.4: 2**32 - 1, -0.4: 0},
    }
    for dtype, values in cases.items():
        for value, expected in values.items():
            out = torchext.unpatchify(torch.full((1, 1, 1), value, dtype=torch.float64), 1, 1, scale=1, dtype=dtype)
            assert out.item() == expected, (dtype, value)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint64], ids=str)
def test_weighted_sums_of_large_integers_saturate(dtype: torch.dtype) -> None:
    most = torch.full((1, 2, 1, 4), torch.iinfo(dtype).max, dtype=dtype)
    weight = torch.tensor([1.0, 2.0, 4.0, 1.0], dtype=torch.float64)
    result = torchext.merge_windows(most, (6,), 2, weight=weight, normalize=False)
    assert result.tolist() == [[[torch.iinfo(dtype).max] * 6]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.complex64, torch.int64], ids=str)
def test_positions_that_one_window_covers_are_exact(dtype: torch.dtype) -> None:
    numbers = 2**53 + torch.arange(35) if dtype == torch.int64 else torch.randn(35).to(dtype)
    result = torchext.merge_windows(numbers.view(1, 5, 1, 7), (35,), 7, weight="gaussian")
    assert_same(result, numbers.view(1, 1, 35), exact=True)


# Maps and weights that do not fit into shared memory; a single position; many channels.
@pytest.mark.parametrize(
    ("targets", "shape", "size", "method"),
    [
        (1, (2, 3, 99, 91), None, "gradcam"),
        (2, (1, 5, 70, 71), (30, 90), "xgradcam"),
        (2, (1, 3, 99, 91), None, "gradcam_elementwise"),
        (1, (1, 2125, 97, 89), None, "gradcam"),
        (1, (1, 4173, 2, 3), None, "gradcam"),
        (5, (1, 2048, 20, 10), None, "gradcam"),
        (5, (1, 900, 70, 120), None, "gradcam++"),
        (1, (2, 4200, 1, 1), None, "hirescam"),
    ],
)
@pytest.mark.parametrize("wide", [False, True])
def test_maps_beyond_shared_memory(targets: int, shape: Any, size: Any, method: str, wide: bool) -> None:
    activations, gradients = torch.randn(shape) + 3, torch.randn(targets, *shape)
    on_host.start(seed=targets, processors=4, wide=wide)
    options: dict[str, Any] = {"method": method, "normalize": "minmax", "size": size}
    actual = torchext.cam_pool(activations, gradients, **options)
    expected = torchext.reference.cam_pool(activations.double(), gradients.double(), **options)
    torch.testing.assert_close(actual, expected.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("method", "values"), [("xgradcam", (1.0, -1.0)), ("gradcam++", (-1.0, -1.0))])
def test_a_zero_denominator_gives_a_zero_weight(method: str, values: tuple[float, float]) -> None:
    maps = torchext.cam_pool(torch.tensor([[values]]), torch.ones(1, 1, 2), method=method, relu=False, normalize=None)
    assert not maps.any()


@pytest.mark.parametrize("method", ["gradcam", "gradcam_elementwise"])
def test_ranges_of_large_maps_with_the_channels_last(method: str) -> None:
    tensors = [torch.randn(1, 3, 99, 91).contiguous(memory_format=torch.channels_last) for _ in range(2)]
    expected = torchext.reference.cam_pool(*tensors, method=method, relu=False, normalize="minmax")
    for seed in range(3):
        on_host.start(seed=seed)
        actual = torchext.cam_pool(*tensors, method=method, relu=False, normalize="minmax")
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels_last", [False, True])
def test_backward_pass_of_maps_and_weights_computed_in_parts(channels_last: bool) -> None:
    shape, layout = (1, 130, 40, 30), torch.channels_last if channels_last else torch.contiguous_format
    tensors = [(torch.randn(shape) + mean).contiguous(memory_format=layout) for mean in (3, 0)]
    noise = torch.randn(1, 9, 50)
    gradients = []
    for function in (torchext.cam_pool, torchext.reference.cam_pool):
        leaves = requiring_grad(tensors)
        out = function(*leaves, relu=False, normalize="minmax", size=(9, 50))
        gradients.append(torch.autograd.grad((out * noise).sum(), leaves))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("operation", [pytest.param(o, id=o.name) for o in OPERATIONS])
def test_number_of_launches_does_not_depend_on_the_batch_size(operation: Operation) -> None:
    launches = set()
    for batch in (2, 17, 29):
        sample = operation.batched(batch)
        tensors = operation.arguments(sample, "cpu")
        on_host.start(seed=0, processors=132)
        operation.function(*tensors, **sample.options)
        launches.add(on_host.launches())
    assert len(launches) == 1
    assert 1 <= launches.pop() <= operation.launches


def test_the_gradient_of_sums_of_no_classes_is_zero() -> None:
    values = torch.randn(3, 4, requires_grad=True)
    torchext.class_sums(values, torch.tensor([0, 1, 2]), 0, invalid="zero").sum().backward()
    assert values.grad is not None
    assert not values.grad.any()


@pytest.mark.parametrize(
    ("others", "call"),
    [
        (
            "torch.arange(900) % 300, torch.full((900,), 7)",
            "torchext.class_sums(torch.ones(900, 2), changing, 300)",
        ),
        (
            "torch.arange(300).view(300, 1), torch.full((300, 1), 70)",
            "torchext.scatter_windows(torch.ones(1, 300, 1, 3), changing, 310)",
        ),
        (
            "torch.arange(150).view(150, 1), torch.full((150, 1), 70)",
            "torchext.scatter_windows(torch.ones(1, 150, 1, 3), changing, 160)",
        ),
    ],
    ids=["class_sums", "scatter_windows", "few windows"],
)
def test_labels_and_offsets_may_change_between_two_reads(others: str, call: str) -> None:
    load = f"import sys; sys.path.insert(0, {os.environ['TORCHEXT_ON_HOST']!r}); import torchext_on_host"
    assert survives(f"{load}\nothers = {others}\nchanging = others[0].clone()", call)
