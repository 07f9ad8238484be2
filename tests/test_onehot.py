"""What one_hot promises beyond the conformance table: bad labels on every path, `out`, and what consumes it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from cases import INTEGERS

import torchext


def test_rows_sum_to_one_and_point_at_the_label() -> None:
    labels = torch.randint(0, 13, (5, 7))
    encoded = torchext.one_hot(labels, 13)
    assert torch.equal(encoded.sum(-1), torch.ones(5, 7))
    assert torch.equal(encoded.argmax(-1), labels)


def test_is_pytorchs_one_hot_with_int64() -> None:
    labels = torch.randint(0, 13, (5, 7))
    assert torch.equal(torchext.one_hot(labels, dtype=torch.int64), F.one_hot(labels))
    assert torch.equal(torchext.one_hot(labels, 20, dtype=torch.int64), F.one_hot(labels, 20))


def test_counts_classes_without_the_ignored_label() -> None:
    labels = torch.tensor([0, 3, 255], dtype=torch.uint8)
    assert torchext.one_hot(labels, ignore_index=255).shape == (3, 4)


def test_a_negative_ignored_label_is_no_unsigned_label() -> None:
    with pytest.raises(IndexError, match="label 255"):
        torchext.one_hot(torch.tensor([255], dtype=torch.uint8), 3, ignore_index=-1)


@pytest.mark.parametrize("classes", [5, 255, 256, 300])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32], ids=str)
def test_large_masks_equal_small_ones(dtype: torch.dtype, classes: int) -> None:
    # The kernels cut what is large into other blocks than what is small.
    labels = torch.randint(classes, (2, 3, 5003 if classes < 100 else 2503))
    labels[0, 0, 0] = classes - 1
    whole = torchext.one_hot(labels.repeat(1, 40, 1), classes, dim=1, dtype=dtype)
    assert whole.nbytes > 2**22
    part = torchext.one_hot(labels, classes, dim=1, dtype=dtype)
    assert torch.equal(whole, part.repeat(1, 1, 40, 1))
    assert torch.equal(part.argmax(1) if dtype != torch.uint8 else part.int().argmax(1), labels)


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_finds_a_bad_label_of_every_dtype_wherever_it_is(dtype: torch.dtype) -> None:
    for shape, dim in (((3, 9000), 1), ((3, 9000), -1), ((3, 50, 200), 1)):
        labels = torch.zeros(shape).to(torch.int64)
        for position in (0, 4097, labels.numel() - 1):
            bad = labels.flatten().clone()
            bad[position] = 21
            where = tuple(int(i) for i in torch.unravel_index(torch.tensor(position), shape))
            message = f"label 21 at position {where} is outside [0, 21)"
            with pytest.raises(IndexError) as error:
                torchext.one_hot(bad.view(shape).to(dtype), 21, dim=dim, dtype=torch.uint8)
            assert str(error.value) == message


def test_names_the_lowest_of_several_bad_labels() -> None:
    labels = torch.zeros(8, 512, 512, dtype=torch.int64)
    labels[0, 3, 7] = 21
    labels[4:] = -1
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with pytest.raises(IndexError, match=r"label 21 at position \(0, 3, 7\) is outside \[0, 21\)"):
            torchext.one_hot(labels, 21, dim=1)


def test_a_position_counts_in_the_labels_own_order_whatever_the_strides() -> None:
    labels = torch.zeros(4, 6, dtype=torch.int64)
    labels[2, 5] = 9
    with pytest.raises(IndexError, match=r"label 9 at position \(5, 2\)"):
        torchext.one_hot(labels.T, 3)
    with pytest.raises(IndexError, match=r"label 9 at position \(5, 2\)"):
        torchext.one_hot(labels.T, 3, dim=1)


def test_bad_labels_raise_in_compiled_and_vmapped_code() -> None:
    labels = torch.tensor([[0, 1], [1, 7]])
    for dynamic in (False, True):
        compiled = torch.compile(lambda y: torchext.one_hot(y, 3).sum(0), fullgraph=True, dynamic=dynamic)
        assert torch.equal(compiled(labels % 3), torchext.one_hot(labels % 3, 3).sum(0))
        with pytest.raises(IndexError, match=r"label 7 at position \(1, 1\) is outside \[0, 3\)"):
            compiled(labels)
    with pytest.raises(IndexError, match=r"label 7 at position \(1, 1\) is outside \[0, 3\)"):
        torch.vmap(lambda y: torchext.one_hot(y, 3, dim=0))(labels)


def test_out_receives_the_result_and_counts_as_changed() -> None:
    labels = torch.randint(0, 5, (4, 6))
    expected = torchext.one_hot(labels, 5, dim=1)
    for out in (torch.full((4, 5, 6), 7.0), torch.full((4, 6, 5), 7.0).transpose(1, 2)):
        version = out._version
        assert torchext.one_hot(labels, 5, dim=1, out=out) is out
        assert torch.equal(out, expected)
        assert out._version > version


def test_out_is_untouched_when_a_label_is_bad() -> None:
    labels = torch.zeros(3, 70, dtype=torch.int64)
    labels[2, 60] = 5
    for dim in (1, 2):
        out = torch.full((3, 5, 70) if dim == 1 else (3, 70, 5), 7.0)
        with pytest.raises(IndexError):
            torchext.one_hot(labels, 5, dim=dim, out=out)
        assert bool((out == 7).all())


def test_out_must_not_overlap_the_labels() -> None:
    memory = torch.zeros(20, dtype=torch.int64)
    with pytest.raises(ValueError, match="out: expected memory apart from labels"):
        torchext.one_hot(memory[:4], 5, out=memory.view(4, 5))


def test_out_in_compiled_code() -> None:
    labels = torch.randint(0, 5, (4, 6))

    def write(y: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return torchext.one_hot(y, 5, out=out) * 2

    out = torch.zeros(4, 6, 5)
    assert torch.equal(torch.compile(write, fullgraph=True)(labels, out), 2 * torchext.one_hot(labels, 5))
    assert torch.equal(out, torchext.one_hot(labels, 5))


def test_holds_the_extremes_of_its_dtype() -> None:
    labels = torch.tensor([0, 1])
    for dtype, value in ((torch.int8, -128), (torch.uint8, 255), (torch.uint64, 2**63), (torch.int64, -(2**63))):
        assert torchext.one_hot(labels, 2, dtype=dtype, on_value=value)[0, 0].item() == value
    assert torchext.one_hot(labels, 2, on_value=float("inf"), dtype=torch.float16)[1, 1].item() == float("inf")


def test_follows_the_default_dtype() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        assert torchext.one_hot(torch.tensor([0]), 2).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_check_errors_and_debug_pass_where_nothing_is_wrong() -> None:
    torchext.check_errors("cpu")
    with torchext.debug():
        torchext.one_hot(torch.tensor([0, 1]), 2)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestBadLabelsOnCuda:
    def test_the_row_is_zero_and_the_error_waits(self) -> None:
        labels = torch.zeros(8, 40, 40, dtype=torch.uint8, device="cuda")
        labels[0, 3, 7] = 21
        labels[5] = 200
        out = torchext.one_hot(labels, 21, dim=1)
        assert int(out[0, :, 3, 7].sum()) == 0
        assert int(out.sum()) == labels.numel() - 1601
        with pytest.raises(IndexError) as error:
            torchext.check_errors()
        assert str(error.value) == "label 21 at position (0, 3, 7) is outside [0, 21)"
        torchext.check_errors()

    def test_debug_raises_at_once(self) -> None:
        with torchext.debug(), pytest.raises(IndexError, match=r"label -1 at position \(1,\)"):
            torchext.one_hot(torch.tensor([0, -1], device="cuda"), 3)

    def test_zero_records_nothing(self) -> None:
        out = torchext.one_hot(torch.tensor([0, -1], device="cuda"), 3, invalid="zero")
        assert out.sum() == 1
        torchext.check_errors()

    def test_compiled_code_records_too(self) -> None:
        compiled = torch.compile(lambda y: torchext.one_hot(y, 3).sum(), fullgraph=True)
        assert compiled(torch.tensor([0, 9], device="cuda")) == 1
        with pytest.raises(IndexError, match=r"label 9 at position \(1,\)"):
            torchext.check_errors("cuda")
