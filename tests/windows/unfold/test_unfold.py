"""Tests of unfold and fold beyond the conformance table."""

from __future__ import annotations

import copy
from collections import deque
from itertools import chain
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import torchext
from tests.conformance.table import COMPLEX, FLOATS, LABELS, Sample, make_values
from tests.windows.unfold.cases import FOLD, UNFOLD, pad_by_numpy
from torchext._core import checks, library
from torchext.windows import padding as _padding

MIRRORED = pytest.mark.parametrize("mode", [mode for mode in _padding.MODES if mode != "constant"])


@pytest.mark.parametrize(
    "sample", [s for s in UNFOLD.samples if not {"value", "padding_mode"} & s.options.keys()], ids=lambda s: s.name
)
def test_fold_is_the_adjoint_of_unfold(sample: Sample) -> None:
    (image,) = UNFOLD.arguments(sample, "cpu")
    columns = torchext.unfold(image, **sample.options)
    other = torch.randn_like(columns)
    folded = torchext.fold(other, image.shape[2:], **sample.options)
    torch.testing.assert_close((columns * other).sum(), (image * folded).sum())


def test_folding_ones_counts_the_windows_over_each_position() -> None:
    ones = torch.ones(1, 1, 9, 10, dtype=torch.int64)
    counts = torchext.fold(torchext.unfold(ones, 3, padding=1), (9, 10), 3, padding=1)
    assert counts[0, 0].tolist() == [[(2 + (0 < y < 8)) * (2 + (0 < x < 9)) for x in range(10)] for y in range(9)]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16], ids=str)
def test_windows_that_do_not_overlap_fold_back_exactly(dtype: torch.dtype) -> None:
    image = torch.randint(0, 256, (2, 3, 32, 48)).to(dtype)
    for size in (1, 2, 4, 8, 16):
        assert torch.equal(torchext.fold(torchext.unfold(image, size, stride=size), (32, 48), size, stride=size), image)


def test_unbatched_images() -> None:
    image = torch.randn(3, 8, 9)
    columns = torchext.unfold(image, 3)
    assert torch.equal(columns, F.unfold(image, 3))
    assert torch.equal(torchext.fold(columns, (8, 9), 3), F.fold(columns, (8, 9), 3))


def test_fold_sums_half_precision_in_float32() -> None:
    # In float16, 2048 + 1 is 2048: only a wider sum counts the ones.
    columns = torch.ones(1, 9, 9, dtype=torch.float16)
    columns[0, 0] = 2048
    total = torchext.fold(columns, 5, 3)
    expected = torchext.fold(columns.double(), 5, 3).half()
    assert torch.equal(total, expected)
    assert float(total[0, 0, 2, 2]) == 2056


def test_integers_wrap_around_and_bool_is_combined_by_or() -> None:
    assert torchext.fold(torch.full((1, 4, 4), 100, dtype=torch.uint8), 3, 2)[0, 0, 1, 1] == 400 % 256
    assert torchext.fold(torch.full((1, 4, 4), 2**62, dtype=torch.int64), 3, 2)[0, 0, 1, 1] == 0
    columns = torch.zeros(1, 4, 4, dtype=torch.bool)
    columns[0, 3, 0] = True
    assert torchext.fold(columns, 3, 2)[0, 0].tolist() == [[False] * 3, [False, True, False], [False] * 3]


def test_padding_of_a_bool_image_may_be_true() -> None:
    image = torch.zeros(1, 1, 2, 2, dtype=torch.bool)
    for value in (True, False):
        assert torchext.unfold(image, 2, padding=1, value=value)[0, 0, 0] == value
        assert torchext.extract_windows(image, 2, padding=1, value=value)[0, 0, 0, 0, 0, 0] == value
        assert torchext.sliding_window(lambda x: x.float(), image, 4, value=value).shape == image.shape
    with pytest.raises(TypeError, match="value: expected a number, got bool"):
        torchext.unfold(image.float(), 2, value=True)


def test_padding_may_be_infinite() -> None:
    columns = torchext.unfold(torch.zeros(1, 1, 2, 2), 3, padding=1, value=float("-inf"))
    assert columns.max() == 0
    assert columns.min() == float("-inf")


def test_nan_and_infinity_pass_through() -> None:
    image = torch.zeros(1, 1, 3, 3)
    image[0, 0, 0, 0], image[0, 0, 2, 2] = float("nan"), float("inf")
    assert torchext.unfold(image, 2).isnan().sum() == 1
    folded = torchext.fold(torchext.unfold(image, 2), 3, 2)
    assert folded[0, 0, 0, 0].isnan()
    assert folded[0, 0, 2, 2] == float("inf")


@pytest.mark.parametrize(
    "wrong",
    [
        {"kernel_size": 0}, {"kernel_size": 9}, {"kernel_size": (9, 2)}, {"kernel_size": 3, "dilation": 5},
        {"kernel_size": 3, "dilation": 0}, {"kernel_size": 3, "stride": 0}, {"kernel_size": 3, "padding": -1},
    ],
    ids=str,
)  # fmt: skip
def test_geometries_that_raise_in_pytorch_raise(wrong: dict[str, int]) -> None:
    image = torch.zeros(1, 1, 8, 8)
    with pytest.raises(RuntimeError):
        F.unfold(image, **wrong)
    with pytest.raises(ValueError, match="expected"):
        torchext.unfold(image, **wrong)
    with pytest.raises(RuntimeError):
        F.fold(torch.zeros(1, 9, 9), 8, **wrong)
    with pytest.raises(ValueError, match="expected"):
        torchext.fold(torch.zeros(1, 9, 9), 8, **wrong)


def test_a_single_int_is_used_for_all_dimensions_of_the_input() -> None:
    assert torchext.unfold(torch.zeros(2, 3, 4, 5, 6), 2).shape == (2, 24, 60)
    assert torchext.unfold(torch.zeros(3, 5, 6), 2).shape == (12, 20)
    assert torchext.unfold(torch.zeros(2, 3, 9), (2,)).shape == (2, 6, 8)
    assert torchext.fold(torch.zeros(2, 6, 8), 9, (2,)).shape == (2, 3, 9)


def test_sums_are_rounded_like_the_reference() -> None:
    for sample in FOLD.samples:
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            tensors = FOLD.arguments(sample, "cpu", dtype)
            assert torch.equal(
                torchext.fold(*tensors, **sample.options), torchext.reference.fold(*tensors, **sample.options)
            )


def test_numpy_integers_are_sizes() -> None:
    numpy = pytest.importorskip("numpy")
    image = torch.randn(1, 2, 8, 8)
    assert torch.equal(torchext.unfold(image, numpy.int64(2), stride=numpy.int32(2)), F.unfold(image, 2, stride=2))
    assert torch.equal(torchext.unfold(image, numpy.array(2)), F.unfold(image, 2))
    for pair in (numpy.array([2, 3]), range(2, 4), torch.Size((2, 3)), deque([2, 3])):
        columns = torchext.unfold(image, pair)
        assert torch.equal(columns, F.unfold(image, (2, 3)))
        assert torch.equal(torchext.fold(columns, numpy.array([8, 8]), pair), F.fold(columns, 8, (2, 3)))
        windows = torchext.extract_windows(image, pair)
        assert windows.shape[-2:] == (2, 3)
        assert torchext.merge_windows(windows, numpy.array([8, 8])).shape == image.shape
        assert torchext.window_weight(pair, "hann").shape == (2, 3)
        assert torchext.patchify(image[..., :6], pair).shape == (1, 8, 12)
    assert torchext.unfold(torch.zeros(1, 2, 8), numpy.array([2])).shape == (1, 4, 7)


def test_errors_for_sizes_that_are_not_ints_name_the_argument() -> None:
    numpy = pytest.importorskip("numpy")
    for wrong in (
        numpy.array([2.0, 2.0]),
        numpy.ones((2, 2), int),
        numpy.array(2.0),
        "22",
        {2, 3},
        torch.tensor([2, 2]),
    ):
        for name in ("kernel_size", "dilation", "stride"):
            with pytest.raises(TypeError, match=f"{name}: expected an int"):
                torchext.unfold(torch.zeros(1, 1, 8, 8), **{"kernel_size": 2, name: wrong})


def test_modules_have_the_attributes_of_pytorch_modules() -> None:
    for name in ("Unfold", "Fold"):
        sizes = {"output_size": (8, 8)} if name == "Fold" else {}
        theirs = getattr(nn, name)(**sizes, kernel_size=3, dilation=2, padding=1, stride=2)
        ours = copy.deepcopy(getattr(torchext.nn, name)(**sizes, kernel_size=3, dilation=2, padding=1, stride=2))
        for attribute in theirs.__constants__:
            assert getattr(ours, attribute) == getattr(theirs, attribute)
        theirs.kernel_size = ours.kernel_size = 4
        x = torch.randn(1, 32, 4) if name == "Fold" else torch.randn(1, 2, 8, 8)
        assert torch.equal(ours(x), theirs(x))
        assert torch.equal(torch.compile(ours, fullgraph=True, backend="eager")(x), theirs(x))
        assert "kernel_size=4" in repr(ours)
        assert not hasattr(ours, "kernel")


def test_gradients_of_float8_raise() -> None:
    image = torch.ones(1, 1, 4, 4).to(torch.float8_e4m3fn).requires_grad_()
    columns = torchext.unfold(image, 3)
    with pytest.raises(TypeError, match="input: expected bool, an integer dtype, float16"):
        torch.autograd.grad(columns, image, torch.ones(columns.shape).to(image.dtype))


def test_zero_padding_is_the_same_in_every_mode() -> None:
    image = torch.randn(2, 3, 5, 6)
    for mode in _padding.MODES:
        assert torch.equal(torchext.unfold(image, (2, 3), padding_mode=mode), torchext.unfold(image, (2, 3)))


@MIRRORED
def test_reads_a_channels_last_image_in_every_mode(mode: str) -> None:
    image = torch.randn(2, 5, 9, 10)
    columns = torchext.unfold(image.contiguous(memory_format=torch.channels_last), 3, padding=2, padding_mode=mode)
    assert torch.equal(columns, torchext.unfold(image, 3, padding=2, padding_mode=mode))


@MIRRORED
def test_unbatched_images_and_modules_accept_padding_modes(mode: str) -> None:
    image = torch.randn(3, 6, 7)
    module = torchext.nn.Unfold(3, padding=2, padding_mode=mode)
    assert torch.equal(module(image), torchext.unfold(image[None], 3, padding=2, padding_mode=mode)[0])
    assert f"padding_mode={mode!r}" in repr(module)


# Blocks of the CPU kernels begin and end inside the image, and inside the positions that the padding copies.
_CUT = (
    ((2, 1, 130, 157), {"kernel_size": 3, "padding": (1, 2)}),
    ((1, 2, 3, 30011), {"kernel_size": (2, 3), "padding": (2, 9), "stride": (1, 2)}),
    (
        (1, 1, 2, 3, 20011),
        {"kernel_size": (2, 1, 5), "padding": (1, 2, 20010), "dilation": (1, 1, 3), "stride": (1, 1, 7)},
    ),
    ((2, 1, 20011), {"kernel_size": (4,), "padding": (8,), "stride": (4,)}),
)


@MIRRORED
@pytest.mark.parametrize(("shape", "options"), _CUT, ids=str)
def test_the_gradient_sums_copies_in_the_padding(shape: tuple[int, ...], options: dict[str, Any], mode: str) -> None:
    image = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    padding = checks.sizes("padding", options["padding"], len(shape) - 2, least=0)
    columns = torchext.unfold(image, **options, padding_mode=mode)
    expected = torchext.unfold(pad_by_numpy(image, padding, mode), **{**options, "padding": 0})
    assert torch.equal(columns, expected)
    other = torch.randn_like(columns)
    (gradient,) = torch.autograd.grad(columns, image, other)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, image, other)[0])
    for threads in (1, 3):
        torch.set_num_threads(threads)
        columns = torchext.unfold(image, **options, padding_mode=mode)
        assert torch.equal(torch.autograd.grad(columns, image, other)[0], gradient)


@MIRRORED
def test_every_dtype_is_folded_in_every_mode(mode: str) -> None:
    operation = library.operations["fold"]
    output_size, *sizes = (6, 7), (3, 2), (1, 2), (4, 3), (2, 1)
    geometry, number = [*output_size, *chain(*sizes)], _padding.MODES.index(mode)
    rows, columns = torchext.unfold(torch.zeros(1, 3, *output_size), *sizes, padding_mode=mode).shape[1:]
    for dtype in (*FLOATS, *COMPLEX, *LABELS):
        windows = make_values((2, rows, columns), dtype, "cpu", torch.Generator().manual_seed(0))
        torch.testing.assert_close(
            operation.overload(windows, number, geometry), operation.reference(windows, number, geometry)
        )


def test_gradients_of_half_precision_are_summed_in_float32() -> None:
    # In float16, 2048 + 1 is 2048: only a wider sum counts the ones.
    image = torch.zeros(1, 1, 2, dtype=torch.float16, requires_grad=True)
    columns = torchext.unfold(image, (1,), padding=(10,), padding_mode="replicate")
    other = torch.ones_like(columns)
    other[0, 0, 10] = 2048
    assert torch.autograd.grad(columns, image, other)[0].tolist() == [[[2058, 11]]]


def test_nonzero_bytes_of_bool_are_true_in_fold() -> None:
    columns = torch.tensor([[[2, 4], [8, 0]]], dtype=torch.uint8).view(torch.bool)
    assert torchext.fold(columns, (3,), (2,)).view(torch.uint8)[0, 0, 1] == 1


BOTH = pytest.mark.parametrize("source", [torchext, torchext.reference], ids=["operation", "reference"])
FAR = {"kernel_size": 2, "dilation": 2**27 + 2, "padding": 2**28, "stride": 2**27 - 1}


def _taps_of_far_windows(size: int, mode: str) -> torch.Tensor:
    """The positions that each tap of each window reads along an axis, tap by tap; `size` if outside the image."""
    kernel, dilation, padding, stride = FAR.values()
    windows = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    at = torch.tensor([w * stride - padding + k * dilation for k in range(kernel) for w in range(windows)])
    if mode == "replicate":
        return at.clamp(0, size - 1)
    return torch.where((at >= 0) & (at < size), at, size)


@BOTH
@pytest.mark.parametrize("mode", ["constant", "replicate"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8, torch.complex128], ids=str)
def test_time_and_memory_do_not_depend_on_the_padded_size(source: Any, mode: Any, dtype: torch.dtype) -> None:
    image = make_values((2, 3, 5, 7), dtype, "cpu", torch.Generator().manual_seed(0))
    rows, columns = _taps_of_far_windows(5, mode), _taps_of_far_windows(7, mode)
    expected = F.pad(image, (0, 1, 0, 1), value=2)[:, :, rows][:, :, :, columns]
    expected = expected.unflatten(3, (2, -1)).unflatten(2, (2, -1)).transpose(3, 4).flatten(4).flatten(1, 3)
    for layout in (image, image.transpose(2, 3).contiguous().transpose(2, 3)):
        layout = layout.clone().requires_grad_(dtype.is_floating_point)
        actual = source.unfold(layout, **FAR, padding_mode=mode, value=2)
        assert torch.equal(actual, expected)
        if dtype.is_floating_point:
            (gradient,) = torch.autograd.grad(actual.sum(), layout)
            hits = torch.bincount(rows, minlength=6)[:5, None] * torch.bincount(columns, minlength=8)[:7]
            assert torch.equal(gradient, hits.to(dtype).expand_as(image))
    if mode == "constant":
        # Each position gets one element of the columns, so the values are unchanged.
        folded = source.fold(source.unfold(image, **FAR), (5, 7), **FAR)
        covered = torch.isin(torch.arange(5), rows)[:, None] & torch.isin(torch.arange(7), columns)
        assert torch.equal(folded, torch.where(covered, image, 0))


@BOTH
def test_a_window_may_span_more_than_the_memory(source: Any) -> None:
    columns = source.unfold(torch.ones(1, 1, 2, 2), 2, dilation=2**31 - 1, padding=2**30 - 1)
    assert torch.equal(columns, F.unfold(torch.ones(1, 1, 2, 2), 2, dilation=2**31 - 1, padding=2**30 - 1))
    options = {"kernel_size": 1, "padding": 2**28 - 1, "stride": 2**28}
    for dtype in (torch.uint8, torch.float16, torch.float32, torch.float64, torch.complex128):
        image = source.fold(torch.arange(9).to(dtype).expand(1, 1, 9), (4, 6), **options)
        assert [*image.nonzero().tolist(), image[0, 0, 1, 1].item()] == [[0, 0, 1, 1], 4]


def test_lengths_of_sequences_are_checked_before_their_values() -> None:
    class Unread(deque[int]):
        def __iter__(self) -> Any:
            raise AssertionError("read")

    for sizes in ({"kernel_size": Unread([2] * 9)}, {"kernel_size": 2, "stride": Unread([1] * 9)}):
        with pytest.raises(ValueError, match="got 9 of them"):
            torchext.unfold(torch.ones(1, 1, 4, 4), **sizes)
