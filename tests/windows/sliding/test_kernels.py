"""The kernels that `sliding_window` calls, and how often."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

import torchext
from tests.conformance.table import Recorder
from torchext._native import load
from torchext.windows.blend import best_channels

compiled = pytest.mark.skipif(not load.is_loaded("_C"), reason="without kernels, windows are slices")


@compiled
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_batch_is_extracted_and_blended_with_one_call_each(channels_last: bool) -> None:
    photo = torch.rand(2, 3, 100, 90)
    if channels_last:
        photo = photo.contiguous(memory_format=torch.channels_last)
    calls = []
    with Recorder() as recorder:
        torchext.sliding_window(
            lambda windows: calls.append(len(windows)) or windows, photo, 20, overlap=0.5, batch_size=5
        )
    names = Counter(overload._schema.name for overload, _ in recorder.calls)
    rows, sums_of_weights = 2 * 9, 1
    assert names["torchext::gather_windows"] == len(calls)
    # A batch with windows of two rows is two calls.
    assert names["torchext::blend_windows"] <= len(calls) + rows + sums_of_weights


@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_both_zeros_of_the_model_are_kept_without_overlap(overlap: float) -> None:
    signs = torch.where(torch.rand(1, 2, 16, 24) > 0.5, 0.0, -0.0)
    result = torchext.sliding_window(lambda windows: windows, signs, 8, overlap=overlap, weight=None)
    assert torch.equal(result.signbit(), signs.signbit())


def test_a_result_of_no_weight_is_positive_zero() -> None:
    weight = torch.zeros(4)
    for overlap in (0.0, 0.5):
        result = torchext.sliding_window(
            lambda windows: windows, torch.ones(1, 1, 8), (4,), overlap=overlap, weight=weight
        )
        assert not result.any()
        assert not result.signbit().any()


def _scores(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    scores = torch.randint(-3, 4, shape).to(dtype)
    scores[torch.rand(shape) < 0.1] = torch.nan
    scores[torch.rand(shape) < 0.1] = -torch.inf
    return scores


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 5), (2, 100), (7, 3, 70), (40, 4, 5, 33), (3, 0, 4)])
def test_the_best_channel_is_that_of_max(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    scores = _scores(shape, dtype)
    expected = scores.max(0).indices
    assert torch.equal(best_channels(scores), expected)
    larger = torch.zeros(*(size + 2 for size in shape), dtype=dtype)
    part = larger[tuple(slice(1, size + 1) for size in shape)].copy_(scores)
    for threads in (1, 3):
        torch.set_num_threads(threads)
        assert torch.equal(best_channels(part), expected)
    torch.library.opcheck(torch.ops.torchext.best_channels.default, (scores,))


@compiled
@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (torch.zeros(4), "scores: expected 2 to 4 dimensions"),
        (torch.zeros(0, 4), "the number of channels: expected at least 1"),
        (torch.zeros(2, 4).half(), "scores: expected another dtype, got Half"),
        (torch.zeros(2, 8)[:, ::2], "scores: expected contiguous rows"),
    ],
)
def test_raw_calls_with_other_scores_are_refused(scores: Tensor, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        torch.ops.torchext.best_channels(scores)
