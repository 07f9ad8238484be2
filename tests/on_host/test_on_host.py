"""What the conformance table cannot say of the CUDA kernels: random calls, orders of threads, launches, index math."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
import torch
import torchext_on_host as on_host
from cases import OPERATIONS, Operation, outputs
from random_calls import OPERATIONS as RANDOM_CALLS
from random_calls import Call, Draw
from test_conformance import assert_same
from torch import Tensor

import torchext
from torchext._padding import MODES

SEEDS = range(8)
CALLS_A_SEED = 12


def _results(function: Any, call: Call) -> tuple[Tensor, ...] | str:
    """The outputs, or the text of the error about a bad label."""
    out = call.options.get("out")
    if out is not None:
        out.fill_(1)
    try:
        results = tuple(result.clone() for result in outputs(function(*call.args, **call.options)))
        torchext.check_errors("cpu")
    except IndexError as error:
        return str(error)
    if out is not None:
        around = out._base.clone()
        around[out.storage_offset() :][: out.numel()] = 0
        assert not around.any()
    return results


def _tolerance(call: Call, dtype: torch.dtype) -> dict[str, float]:
    if call.name not in ("cam_pool", "class_means", "patchify", "unpatchify", "merge_windows", "scatter_windows"):
        return {"rtol": 0, "atol": 0}
    relative = {torch.float16: 4e-3, torch.bfloat16: 3e-2}.get(dtype, 1e-5)
    return {"rtol": relative, "atol": relative}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", RANDOM_CALLS)
def test_random_calls_equal_their_references(name: str, seed: int) -> None:
    for i in range(CALLS_A_SEED):
        draw = Draw(1000 * seed + i)
        call = RANDOM_CALLS[name](draw)
        expected = _results(getattr(torchext.reference, name), call)
        on_host.start(seed=seed, processors=draw.one_of(1, 132), wide=draw.flip())
        actual = _results(getattr(torchext, name), call)
        assert isinstance(actual, str) == isinstance(expected, str), f"{call}\n{actual}\n{expected}"
        if isinstance(expected, str):
            assert actual == expected, str(call)
            continue
        for one, other in zip(actual, expected, strict=True):
            torch.testing.assert_close(
                one, other, equal_nan=True, **_tolerance(call, one.dtype), msg=lambda text, call=call: f"{call}\n{text}"
            )


@pytest.mark.parametrize("seed", SEEDS[:3])
@pytest.mark.parametrize("name", RANDOM_CALLS)
def test_the_order_of_threads_changes_no_bit(name: str, seed: int) -> None:
    for i in range(CALLS_A_SEED):
        call = RANDOM_CALLS[name](Draw(1000 * seed + i))
        if call.args[0].is_floating_point():
            noise = torch.randn(call.args[0].shape, generator=torch.Generator().manual_seed(seed))
            call = call._replace(args=((call.args[0] + noise).to(call.args[0].dtype), *call.args[1:]))
        results = []
        for order in (1, 2, 3):
            on_host.start(seed=order, processors=2)
            results.append(_results(getattr(torchext, name), call))
        for other in results[1:]:
            if isinstance(other, str):
                assert other == results[0], str(call)
                continue
            assert_same(other, results[0], exact=True)


def test_division_by_multiplication_equals_division() -> None:
    for bits, quotient in ((32, on_host.quotient_32), (64, on_host.quotient_64)):
        most = 2 ** (bits - 1) - 1
        near_powers = {2**bit + d for bit in range(bits - 1) for d in range(-2, 3)}
        rng = random.Random(bits)
        of_any_size = (rng.randint(1, most >> rng.randrange(bits - 1)) for _ in range(2000))
        for divisor in sorted(d for d in {*range(1, 301), *near_powers, *of_any_size} if 1 <= d <= most):
            # Around multiples of the divisor, where a rounded reciprocal goes wrong first.
            multiples = [n // divisor * divisor + d for n in (*near_powers, most) for d in range(-2, 3)]
            numerators = [*range(300), most - 1, most, *multiples, *(rng.randint(0, most) for _ in range(20))]
            numerators = [n for n in numerators if 0 <= n <= most]
            found = quotient(np.array(numerators), divisor)
            assert found.tolist() == [n // divisor for n in numerators], divisor


@pytest.mark.parametrize("mode", range(len(MODES)))
def test_padding_shows_the_elements_that_numpy_shows(mode: int) -> None:
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
        assert far.max() < size  # kernels read ahead: some element, or the constant
        assert far.min() >= (-1 if name == "constant" else 0)


def test_the_taps_of_a_position_are_those_that_read_it() -> None:
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


def test_the_windows_until_a_position_are_those_that_start_there_or_before() -> None:
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


# Maps and weights beyond what shared memory holds; one position; many channels.
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


@pytest.mark.parametrize("operation", [pytest.param(o, id=o.name) for o in OPERATIONS])
def test_a_call_launches_as_many_kernels_whatever_its_batch(operation: Operation) -> None:
    launches = set()
    for batch in (2, 17, 29):
        sample = operation.batched(batch)
        tensors = operation.arguments(sample, "cpu")
        on_host.start(seed=0, processors=132)
        operation.function(*tensors, **sample.options)
        launches.add(on_host.launches())
    assert len(launches) == 1
    assert 1 <= launches.pop() <= operation.launches
