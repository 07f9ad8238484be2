"""Tests of mixup_one_hot beyond the conformance table: bad labels and permutations, and timm's formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import torchext
from tests.onehot.bad_labels import assert_names_the_lowest, assert_raises_on_every_path


@pytest.mark.parametrize("dim", [-1, 1])
def test_bad_labels_raise_on_every_path(dim: int) -> None:
    assert_raises_on_every_path(lambda labels: torchext.mixup_one_hot(labels, 0.5, 3, dim=dim))


@pytest.mark.parametrize("dim", [1, 2])
def test_the_error_names_the_lowest_bad_label(dim: int) -> None:
    assert_names_the_lowest(lambda labels: torchext.mixup_one_hot(labels, 0.3, 21, dim=dim))


def test_bad_labels_are_zeros_in_compiled_code() -> None:
    def encode(labels: Tensor) -> Tensor:
        return torchext.mixup_one_hot(labels, 0.25, 3, invalid="zero", label_smoothing=0.5)

    labels = torch.tensor([[0, 1, 2], [1, 7, -9]])
    torch.testing.assert_close(torch.compile(encode, fullgraph=True)(labels), encode(labels))


def test_a_permutation_of_floats_raises() -> None:
    for dtype in (torch.float32, torch.bool):
        with pytest.raises(TypeError, match=f"^permutation: expected an integer dtype, got {dtype}$"):
            torchext.mixup_one_hot(torch.tensor([0, 1]), 0.5, 2, permutation=torch.zeros(2, dtype=dtype))


def _mixup_target(target: Tensor, num_classes: int, lam: float, smoothing: float) -> Tensor:
    """timm.data.mixup.mixup_target, written out."""
    off_value = smoothing / num_classes
    on_value = 1.0 - smoothing + off_value

    def one_hot(x: Tensor) -> Tensor:
        x = x.long().view(-1, 1)
        return torch.full((x.shape[0], num_classes), off_value).scatter_(1, x, on_value)

    return one_hot(target) * lam + one_hot(target.flip(0)) * (1.0 - lam)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_mixup_equals_timm(lam: float, smoothing: float) -> None:
    labels = torch.randint(0, 100, (33,))
    ours = torchext.mixup_one_hot(labels, lam, 100, label_smoothing=smoothing)
    torch.testing.assert_close(ours, _mixup_target(labels, 100, lam, smoothing))
    torch.testing.assert_close(ours.sum(1), torch.ones(33))


def test_a_label_without_a_class_adds_nothing() -> None:
    labels = torch.tensor([0, 255, 1], dtype=torch.uint8)
    out = torchext.mixup_one_hot(labels, 0.75, 2, ignore_index=255, permutation=torch.tensor([1, 2, 2]))
    assert out.tolist() == [[0.75, 0], [0, 0.25], [0, 1]]
    smooth = torchext.mixup_one_hot(labels, 0.75, 2, ignore_index=255, label_smoothing=0.5)
    one = torchext.one_hot(labels, 2, ignore_index=255, label_smoothing=0.5)
    torch.testing.assert_close(smooth, 0.75 * one + 0.25 * one.flip(0))


def test_a_bad_permutation_raises_before_it_is_used() -> None:
    labels = torch.tensor([0, 1, 2])
    for bad in (torch.tensor([0, 1, 3]), torch.tensor([0, 1, -1]), torch.tensor([0, 1, 2**62])):
        message = f"permutation: entry {int(bad[2])} at position (2,) is outside [0, 3)"
        for encode in (
            torchext.mixup_one_hot,
            torchext.reference.mixup_one_hot,
            torch.compile(torchext.mixup_one_hot, fullgraph=True),
        ):
            with pytest.raises(IndexError) as error:
                encode(labels, 0.5, 3, permutation=bad)
            assert str(error.value) == message


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("dim", [-1, 1])
def test_a_nan_in_lam_makes_its_sample_nan(dim: int, dtype: torch.dtype) -> None:
    labels, lam = torch.tensor([[0, 1], [2, 0], [1, 1]]), torch.tensor([0.5, torch.nan, 0.25])
    out = torchext.mixup_one_hot(labels, lam, 3, dim=dim, dtype=dtype)
    assert out[1].isnan().all()
    assert not out[[0, 2]].isnan().any()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestBadLabelsOnCuda:
    def test_a_bad_permutation_is_not_used_and_is_recorded(self) -> None:
        labels, permutation = torch.tensor([0, 1], device="cuda"), torch.tensor([2**40, 0], device="cuda")
        out = torchext.mixup_one_hot(labels, 0.75, 2, permutation=permutation)
        assert out.tolist() == [[0.75, 0], [0.25, 0.75]]
        with pytest.raises(IndexError, match=rf"^permutation: entry {2**40} at position \(0,\) is outside \[0, 2\)$"):
            torchext.check_errors()
