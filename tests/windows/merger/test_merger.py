"""The positions of windows, and merging windows as they arrive."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import torchext
from tests.conformance.random_call import Draw
from tests.conformance.table import Recorder
from tests.windows.merger.cases import random_window_merger
from torchext._core.library import reference_only


def _seen_offsets(image: tuple[int, ...], window: tuple[int, ...], overlap: Any) -> list[list[int]]:
    """The first positions of the windows that `sliding_window` extracts, found from values that name the position."""
    grids = torch.meshgrid(*(torch.arange(1.0, n + 1) for n in image), indexing="ij")
    seen: list[list[int]] = []

    def model(windows: Tensor) -> Tensor:
        for one in windows:
            corner = [int(one[d].max()) for d in range(len(image))]  # the padding is 0
            inside = [min(k, n) for k, n in zip(window, image, strict=True)]
            starts = [c - n for c, n in zip(corner, inside, strict=True)]
            pads = [max(k - n, 0) // 2 for k, n in zip(window, image, strict=True)]
            seen.append([s - p for s, p in zip(starts, pads, strict=True)])
        return windows

    torchext.sliding_window(model, torch.stack(grids).unsqueeze(0), window, overlap=overlap)
    return seen


@pytest.mark.parametrize(
    ("image", "window", "overlap"),
    [
        ((10,), (4,), 0.25),
        ((13, 22), (5, 6), 0.5),
        ((13, 22), (5, 6), (0.0, 0.9)),
        ((7, 9, 12), (4, 9, 5), (0.5, 0.25, 0.6)),
        ((5, 20), (8, 8), 0.5),  # smaller than the window
        ((4, 3), (9, 4), 0.25),
    ],
)
def test_a_grid_has_the_windows_of_sliding_window(image: Any, window: Any, overlap: Any) -> None:
    assert torchext.window_grid(image, window, overlap).tolist() == _seen_offsets(image, window, overlap)


def test_a_grid_takes_sizes_of_tensors_and_one_int_for_all_dimensions() -> None:
    image = torch.zeros(1, 3, 20, 30)
    grid = torchext.window_grid(image.shape[2:], 10, 0)
    assert grid.dtype == torch.int64
    assert torch.equal(grid, torchext.window_grid((20, 30), (10, 10), (0, 0)))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((20, 4), TypeError, r"size: expected a sequence of ints, such as image.shape\[2:\], got int"),
        (((20,) * 4, 4), ValueError, "size: expected 1 to 3 spatial dimensions"),
        (((20, 0), 4), ValueError, "size: expected at least 1"),
        (((20, 20), (4,)), ValueError, "window: expected an int or 2 of them"),
        (((20, 20), 0), ValueError, "window: expected at least 1"),
        (((20, 20), 4, 1.0), ValueError, "overlap: expected"),
        (((20, 20), 4, (0.5,)), ValueError, "overlap: expected"),
    ],
)
def test_a_grid_refuses_wrong_arguments(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        torchext.window_grid(*arguments)


@pytest.mark.parametrize("seed", range(200))
def test_random_windows_equal_those_of_scatter_windows(seed: int) -> None:
    draw = Draw(seed)
    call = random_window_merger(draw)
    windows, offsets = call.args
    options = dict(call.options)
    image, window, samples = (options.pop(name) for name in ("output_size", "window", "samples"))
    merger = torchext.WindowMerger(image, window, samples=samples, **options)
    at = draw.between(0, len(windows))
    for part in (slice(0, at), slice(at, None)):
        merger.add(windows[part], offsets[part])
    output_size = image if samples is None else (samples, *image)
    expected = torchext.reference.scatter_windows(windows, offsets, output_size, **options)
    tolerance = {torch.float16: 4e-3, torch.bfloat16: 3e-2}.get(windows.dtype, 1e-5)
    torch.testing.assert_close(merger.result(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shape", [(40, 60), (9, 40, 30), (70000,)])
def test_each_position_adds_windows_in_their_order(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    size = tuple(n // 3 for n in shape)
    offsets = torch.stack([torch.randint(-3, n, (24,)) for n in shape], 1)
    windows = torch.randn(24, 3, *size) * 10.0 ** torch.randint(-6, 6, (24, 1, *[1] * len(shape)))
    results = []
    for threads, batch in ((1, 24), (2, 24), (3, 5), (1, 1)):
        torch.set_num_threads(threads)
        merger = torchext.WindowMerger(shape, size, weight="gaussian")
        for some, at in zip(windows.split(batch), offsets.split(batch), strict=True):
            merger.add(some, at)
        results.append(merger.result())
    assert all(torch.equal(result, results[0]) for result in results)


def test_a_result_is_a_copy_and_more_windows_may_follow() -> None:
    for normalize in (True, False):
        merger = torchext.WindowMerger((3,), 2, normalize=normalize)
        merger.add(torch.tensor([[[1.0, 2.0]]]), torch.tensor([[0]]))
        first = merger.result()
        merger.add(torch.tensor([[[4.0, 6.0]]]), torch.tensor([[1]]))
        assert first.tolist() == [[1.0, 2.0, 0.0]]
        assert merger.result().tolist() == [[1.0, 3.0, 6.0] if normalize else [1.0, 6.0, 6.0]]


def test_a_merger_without_windows_is_0() -> None:
    merger = torchext.WindowMerger((2, 3), 2)
    merger.add(torch.ones(0, 4, 2, 2), torch.ones(0, 2, dtype=torch.int64))
    assert torch.equal(merger.result(), torch.zeros(4, 2, 3))


def test_windows_may_be_added_inside_and_outside_of_inference_mode() -> None:
    merger = torchext.WindowMerger((4,), 2)
    with torch.inference_mode():
        merger.add(torch.ones(1, 1, 2), torch.tensor([[0]]))
    merger.add(torch.ones(1, 1, 2) * 3, torch.tensor([[2]]))
    assert merger.result().tolist() == [[1.0, 1.0, 3.0, 3.0]]


def test_half_precision_is_rounded_once() -> None:
    windows = torch.full((4, 1, 1), 2049.0).to(torch.float16)  # 2048 in float16
    windows[0] = 1.0
    merger = torchext.WindowMerger((1,), 1, normalize=False)
    for window in windows.split(1):
        merger.add(window, torch.tensor([[0]]))
    assert merger.result().item() == 6144.0  # 6145 rounded once
    assert merger.result().dtype == torch.float16


def test_infinite_elements_with_the_weight_0_are_left_out() -> None:
    for context in (False, True):
        merger = torchext.WindowMerger((2,), 2, weight=torch.tensor([0.0, 1.0]))
        with reference_only() if context else torch.no_grad():
            merger.add(torch.tensor([[[torch.inf, 2.0]]]), torch.tensor([[0]]))
        assert merger.result().tolist() == [[0.0, 2.0]]


def test_merging_a_batch_is_one_call() -> None:
    merger = torchext.WindowMerger((64, 64), 16, weight="hann")
    with Recorder() as recorder:
        merger.add(torch.ones(9, 2, 16, 16), torch.randint(0, 48, (9, 2)))
    assert [str(overload) for overload, _ in recorder.calls] == ["torchext.blend_windows.default"]


def test_the_operation_passes_opcheck() -> None:
    windows, offsets = torch.randn(3, 2, 4, 4), torch.tensor([[0, 0], [2, 3], [-1, 5]])
    for totals in (torch.zeros(8, 8), None):
        for weight in (torch.rand(4, 4), None):
            arguments = (windows, offsets, weight, torch.zeros(2, 8, 8), totals)
            torch.library.opcheck(torch.ops.torchext.blend_windows.default, arguments)


def test_the_operation_adds_to_a_part_of_a_tensor() -> None:
    for context in (False, True):
        memory = torch.zeros(2, 10, 12)
        with reference_only() if context else torch.no_grad():
            torch.ops.torchext.blend_windows(
                torch.ones(1, 2, 3, 3), torch.tensor([[1, 1]]), None, memory[:, 2:8, 3:9], None
            )
        assert memory.sum() == 18
        assert (memory[:, 3:6, 4:7] == 1).all()


def test_raw_calls_with_strided_rows_are_refused() -> None:
    windows, offsets = torch.ones(1, 2, 3, 3), torch.tensor([[1, 1]])
    if torchext.doctor().libraries[0].problem is None:
        with pytest.raises(RuntimeError, match="blend_windows: sums: expected contiguous rows"):
            torch.ops.torchext.blend_windows(windows, offsets, None, torch.zeros(2, 8, 16)[..., ::2], None)
