"""Tests of counts, sums and means of classes and of the confusion matrix beyond the conformance table."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import torchext
from tests.conformance.table import COMPLEX, FLOATS, INTEGERS, LABELS
from tests.memory import needs_gibibytes, peak_megabytes, reads_in_place, reads_proc
from tests.races import survives
from torchext._core.dtypes import accumulation_dtype
from torchext._native import load


def skewed(count: int, classes: int) -> Tensor:
    """Labels most of which are in the first classes; some classes have no label."""
    return (torch.rand(count) ** 6 * classes).long()


@pytest.mark.parametrize("count", [0, 1, 7, 5000, 200_000])
@pytest.mark.parametrize("classes", [1, 21, 1000, 20_000])
def test_counts_equal_bincount_and_sum_to_the_number_of_labels(count: int, classes: int) -> None:
    labels = skewed(count, classes)
    counts = torchext.class_counts(labels, classes)
    assert torch.equal(counts, torch.bincount(labels, minlength=classes))
    assert int(counts.sum()) == count
    weights = torch.randint(0, 8, (count,)) / 4
    weighted = torchext.class_counts(labels, classes, weights=weights)
    torch.testing.assert_close(weighted, torch.bincount(labels, weights, minlength=classes).to(torch.float32))


@pytest.mark.parametrize("shape", [(70_000, 3), (70_000, 20), (3000, 130), (300, 5000)], ids=str)
@pytest.mark.parametrize("classes", [3, 200, 3000])
def test_sums_equal_index_add(shape: tuple[int, int], classes: int) -> None:
    labels = skewed(shape[0], classes)
    values = torch.randn(shape, dtype=torch.float64)
    expected = values.new_zeros(classes, shape[1]).index_add_(0, labels, values)
    torch.testing.assert_close(torchext.class_sums(values, labels, classes), expected)
    columns = values.T.contiguous().T
    torch.testing.assert_close(torchext.class_sums(columns, labels, classes), expected)
    torch.testing.assert_close(
        torchext.class_means(values, labels, classes),
        expected / torch.bincount(labels, minlength=classes).clamp(min=1)[:, None],
    )


@pytest.mark.parametrize(
    ("shape", "classes"), [((300_000, 2), 1000), ((300_000,), 50), ((60_000, 130), 2000), ((60_000, 128), 21)], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_large_skewed_sums_have_the_same_bits_for_any_number_of_threads(
    shape: tuple[int, ...], classes: int, dtype: torch.dtype
) -> None:
    labels, values = skewed(shape[0], classes), torch.randn(shape).to(dtype)
    results = []
    for threads in (1, 2, 3, 3, 7):
        torch.set_num_threads(threads)
        results.append(torchext.class_sums(values, labels, classes))
    assert all(torch.equal(results[0].view(torch.uint8), other.view(torch.uint8)) for other in results[1:])


def test_half_precision_is_accumulated_in_float32() -> None:
    labels = torch.zeros(10_000, dtype=torch.uint8)
    for dtype in (torch.float16, torch.bfloat16):
        ones = torch.ones(10_000, 2, dtype=dtype)
        assert torchext.class_sums(ones, labels, 1).tolist() == torch.full((1, 2), 10_000).to(dtype).tolist()
        # The sum overflows float16, the mean does not.
        assert torchext.class_means(ones * 60, labels, 1).tolist() == [[60, 60]]


_WHOLE = (torch.int64, *FLOATS)
_DTYPES_OF_SUMS = {
    **{dtype: FLOATS for dtype in FLOATS},
    **{dtype: COMPLEX for dtype in COMPLEX},
    **{dtype: _WHOLE for dtype in LABELS},
}


@pytest.mark.parametrize(
    ("shape", "classes"),
    [((5000,), 3), ((300,), 300), ((3, 200, 7), 5), ((900, 1000), 140)],
    ids=["columns", "few labels", "rows", "ordered"],
)
@pytest.mark.parametrize("dtype", _DTYPES_OF_SUMS, ids=str)
def test_sums_in_every_dtype_equal_index_add(dtype: torch.dtype, shape: tuple[int, ...], classes: int) -> None:
    labels = skewed(math.prod(shape[:-1]) if len(shape) > 1 else shape[0], classes)
    whole = torch.randint(0 if dtype == torch.uint64 else -100, 100, shape)
    values = (whole + 1j * whole.flip(0) if dtype.is_complex else whole).to(dtype)
    flat = values.reshape(len(labels), -1)
    for wanted in (None, *_DTYPES_OF_SUMS[dtype]):
        # Sums of these floats are exact in float32, and are rounded once to a narrower dtype.
        wide = wanted if wanted in (torch.int64, torch.float64, torch.complex128) else accumulation_dtype(dtype)
        exact = torch.zeros(classes, flat.shape[1], dtype=wide).index_add_(0, labels, flat.to(wide))
        expected = exact.to(wanted or (dtype if dtype not in LABELS else torch.int64))
        shaped = labels.reshape(shape[: max(len(shape) - 1, 1)])
        expected = expected.reshape(classes, *shape[shaped.dim() :])
        for laid_out in (values, values.movedim(0, -1).contiguous().movedim(-1, 0)):
            sums = torchext.class_sums(laid_out, shaped, classes, dtype=wanted)
            assert sums.dtype == expected.dtype
            assert torch.equal(sums, expected)
        if len(shape) == 1:
            assert torch.equal(torchext.class_counts(labels, classes, weights=values, dtype=wanted), expected)
        if wanted in FLOATS or (wanted is None and dtype not in LABELS):
            counts = torch.bincount(labels, minlength=classes).clamp(min=1).reshape(-1, *[1] * (expected.dim() - 1))
            exact = exact.to(torch.complex128 if dtype.is_complex else torch.float64).reshape(expected.shape)
            means = torchext.class_means(values, shaped, classes, dtype=wanted)
            torch.testing.assert_close(means, (exact / counts).to(expected.dtype))


def test_sums_of_narrow_integers_and_many_halves_do_not_overflow() -> None:
    labels = torch.zeros(1000, dtype=torch.uint8)
    for dtype in (torch.uint8, torch.bool):
        ones = torch.ones(1000, dtype=dtype)
        assert torchext.class_counts(labels, 2, weights=ones).tolist() == [1000, 0]
        assert torchext.class_sums(ones.expand(3, 1000).T, labels, 2).tolist() == [[1000] * 3, [0] * 3]
    many = torch.zeros(100_000, dtype=torch.uint8)
    halves = torch.ones(100_000, dtype=torch.float16)
    assert torchext.class_counts(many, 1, weights=halves).tolist() == [float("inf")]
    assert torchext.class_counts(many, 1, weights=halves, dtype=torch.float32).tolist() == [100_000]
    assert torchext.class_means(halves, many, 1, dtype=torch.float64).tolist() == [1]


def test_floats_are_summed_in_a_requested_wider_dtype() -> None:
    values = torch.tensor([1.0, *[2.0**-30] * 64])
    labels = torch.zeros(65, dtype=torch.int64)
    assert torchext.class_sums(values, labels, 1, dtype=torch.float64).tolist() == [1 + 2.0**-24]
    assert torchext.class_sums(values + 0j, labels, 1, dtype=torch.complex128).tolist() == [1 + 2.0**-24]


@pytest.mark.parametrize(("value", "of"), [(2**62, torch.int64), (2**63 + 2**62, torch.uint64)])
def test_sums_of_64_bits_overflow_as_integers_but_not_as_floats(value: int, of: torch.dtype) -> None:
    labels, values = torch.zeros(4, dtype=torch.int64), torch.full((4,), value, dtype=of)
    assert torchext.class_sums(values, labels, 1).tolist() == [0]
    for dtype in (torch.float32, torch.float64):
        assert torchext.class_sums(values, labels, 1, dtype=dtype).tolist() == [4.0 * value]
        assert torchext.class_means(values, labels, 1, dtype=dtype).tolist() == [float(value)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
def test_gradients_have_the_dtype_of_the_values(dtype: torch.dtype) -> None:
    labels = torch.tensor([0, 2, 2])
    for kind in (torch.float16, torch.float32):
        values = torch.ones(3, 2, dtype=kind, requires_grad=True)
        for call in (torchext.class_sums, torchext.class_means):
            call_in = functools.partial(call, labels=labels, num_classes=3, dtype=dtype)
            out, tangent = torch.func.jvp(call_in, (values.detach(),), (torch.ones_like(values),))
            assert out.dtype == tangent.dtype == dtype
            assert torch.equal(tangent, out)
            (grad,) = torch.autograd.grad(call_in(values).sum(), values)
            assert grad.dtype == kind
            assert grad[:, 0].tolist() == ([1, 1, 1] if call is torchext.class_sums else [1, 0.5, 0.5])
            mapped = torch.vmap(call_in)(values.expand(2, 3, 2).detach())
            assert torch.equal(mapped, out.expand_as(mapped))


@pytest.mark.parametrize("classes", [1, 3000])
def test_the_error_of_the_reference_does_not_grow_with_the_number_of_labels(classes: int) -> None:
    # Added one after the other, these sums have an error of 4 percent, and beyond 20 million values they stop growing.
    labels, values = torch.zeros(4_000_000, dtype=torch.uint8), torch.full((4_000_000,), 0.1)
    mean = torchext.reference.class_means(values, labels, classes)[0]
    torch.testing.assert_close(mean, torch.tensor(0.1), rtol=1e-4, atol=0)
    ignored = torch.cat([labels, torch.ones_like(labels)])
    total = torchext.reference.class_counts(ignored, classes, weights=values.repeat(2), ignore_index=1)[0]
    torch.testing.assert_close(total, torch.tensor(4e5), rtol=1e-4, atol=0)


@pytest.mark.parametrize("classes", [3, 3000])
def test_sums_of_many_pieces_are_the_same_in_compiled_code(classes: int) -> None:
    values, labels = torch.randn(9011, 3), skewed(9011, classes)
    compiled = torch.compile(lambda x, y: torchext.class_sums(x, y, classes), fullgraph=True)
    # The order of the additions differs, and rounding errors grow with the sum of absolute values, which is thousands.
    expected = torchext.class_sums(values, labels, classes)
    torch.testing.assert_close(compiled(values, labels), expected, rtol=1e-5, atol=1e-3)


def test_gradients_are_rows_of_the_gradient_of_the_sums() -> None:
    labels = torch.tensor([0, 2, 255, 2])
    values = torch.randn(4, 3, requires_grad=True)
    incoming = torch.randn(3, 3)
    torchext.class_sums(values, labels, 3, ignore_index=255).backward(incoming)
    assert values.grad is not None
    assert torch.equal(values.grad, torch.stack([incoming[0], incoming[2], torch.zeros(3), incoming[2]]))


def test_values_of_ignored_labels_may_be_nan() -> None:
    values = torch.tensor([[1.0], [float("nan")], [float("inf")]])
    for classes in (2, 300_000):
        sums = torchext.class_sums(values.expand(3, 2), torch.tensor([1, 255, 255]), classes, ignore_index=255)
        assert sums[:2].tolist() == [[0, 0], [1, 1]] if classes > 255 else sums.tolist() == [[0, 0], [1, 1]]


def test_diagonal_and_sums_of_a_confusion_matrix() -> None:
    target, predicted = torch.randint(0, 21, (2, 3, 5000))
    matrix = torchext.confusion_matrix(predicted, target, 21)
    assert torch.equal(matrix, torch.bincount((target * 21 + predicted).flatten(), minlength=441).view(21, 21))
    assert torch.equal(matrix.sum(1), torchext.class_counts(target, 21))
    assert torch.equal(matrix.sum(0), torchext.class_counts(predicted, 21))
    assert int(matrix.diagonal().sum()) == int((target == predicted).sum())
    perfect = torchext.confusion_matrix(target, target, 21, normalize="true")
    assert torch.equal(perfect, torch.eye(21))


def test_confusion_matrix_ignores_predictions_for_ignored_targets() -> None:
    target = torch.tensor([0, 255, 1], dtype=torch.uint8)
    matrix = torchext.confusion_matrix(torch.tensor([0, -7, 0]), target, 2, ignore_index=255)
    assert matrix.tolist() == [[1, 0], [1, 0]]


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("position", [0, 2047, 89_999])
def test_finds_bad_labels_of_every_dtype_at_every_position(dtype: torch.dtype, position: int) -> None:
    labels = torch.zeros(3, 30_000, dtype=torch.int64)
    labels.view(-1)[position] = 21
    labels = labels.to(dtype)
    where = (position // 30_000, position % 30_000)
    text = f"label 21 at position {where} is outside [0, 21)"
    good = torch.zeros(3, 30_000, dtype=torch.bool)
    values = torch.ones(3, 30_000, 2)
    for strided in (labels, labels.T.contiguous().T):
        for call, message in (
            (lambda y: torchext.class_counts(y, 21), text),
            (lambda y: torchext.class_counts(y, 21, weights=values[..., 0]), text),
            (lambda y: torchext.class_sums(values, y, 21), text),
            (lambda y: torchext.class_means(values.movedim(-1, 0).contiguous().movedim(0, -1), y, 21), text),
            (lambda y: torchext.confusion_matrix(good, y, 21), f"target: {text}"),
            (lambda y: torchext.confusion_matrix(y, good, 21), f"predicted: {text}"),
        ):
            with pytest.raises(IndexError) as error:
                call(strided)
            assert str(error.value) == message


def test_bad_labels_raise_in_compiled_and_vmapped_code() -> None:
    labels, values = torch.tensor([[0, 1], [1, 7]]), torch.ones(2, 2)
    text = r"label 7 at position \(1, 1\) is outside \[0, 3\)"
    calls = {
        "counts": lambda y: torchext.class_counts(y, 3),
        "sums": lambda y: torchext.class_sums(values, y, 3),
        "means": lambda y: torchext.class_means(values, y, 3),
        "predicted: ": lambda y: torchext.confusion_matrix(y, y % 3, 3, normalize="true"),
        "target: ": lambda y: torchext.confusion_matrix(y % 3, y, 3),
    }
    for name, call in calls.items():
        message = name + text if name.endswith(": ") else text
        compiled = torch.compile(call, fullgraph=True, dynamic=True)
        torch.testing.assert_close(compiled(labels % 3), call(labels % 3))
        with pytest.raises(IndexError, match=message):
            compiled(labels)
    for call in (
        lambda y: torchext.class_counts(y, 3),
        lambda y: torchext.class_sums(values[0], y, 3),
        lambda y: torchext.confusion_matrix(y, y % 3, 3),
    ):
        with pytest.raises(IndexError, match=text):
            torch.vmap(call)(labels)


_PREPARE = """
import torch, torchext
count, classes = 1 << 21, 1024
labels = (torch.arange(count, dtype=torch.int32) % classes).to(torch.int16)
values = torch.ones(count, 32)
torchext.class_sums(values[:5000], labels[:5000], classes)
"""
_SUM_UP = """
for wide in (values, values.view(count // 4, 128)):
    for total in (classes, 40 * classes):
        torchext.class_sums(wide, labels[: len(wide)], total)
torchext.class_counts(labels, classes)
torchext.class_counts(labels, classes, weights=values[:, 0])
torchext.confusion_matrix(labels, labels, classes)
"""


def test_bad_labels_are_left_out_in_compiled_code() -> None:
    labels, values = torch.tensor([[0, 1, -5], [1, 7, 2]]), torch.rand(2, 3, 4)
    calls: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda y: torchext.class_counts(y, 3, invalid="zero"),
        lambda y: torchext.class_counts(y, 3, weights=values[..., 0], invalid="zero"),
        lambda y: torchext.class_sums(values, y, 3, invalid="zero"),
        lambda y: torchext.class_means(values, y, 3, invalid="zero"),
        lambda y: torchext.confusion_matrix(y.flip(0), y, 3, invalid="zero"),
    )
    for call in calls:
        torch.testing.assert_close(torch.compile(call, fullgraph=True)(labels), call(labels))


def test_a_normalised_confusion_matrix_is_finite_where_counts_are_not() -> None:
    labels = torch.zeros(100_000, dtype=torch.uint8)
    torch.set_default_dtype(torch.float16)  # its largest number is 65504
    try:
        matrix = torchext.confusion_matrix(labels, labels, 2, normalize="all")
    finally:
        torch.set_default_dtype(torch.float32)
    assert matrix.dtype == torch.float16
    assert matrix.tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize("count", [3, 5000])  # few labels are counted in another way than many
def test_nonzero_bytes_of_bool_are_true(count: int) -> None:
    labels = torch.randint(0, 256, (count,), dtype=torch.uint8)
    labels[:3] = torch.tensor([0, 2, 255])
    truth, values = labels.view(torch.bool), torch.rand(count, 3)
    for classes in (2, 300):
        assert torch.equal(torchext.class_counts(truth, classes), torchext.class_counts(labels != 0, classes))
        assert torch.equal(
            torchext.class_sums(values, truth, classes), torchext.class_sums(values, labels != 0, classes)
        )
        pairs = torchext.confusion_matrix(truth, truth, classes)
        assert torch.equal(pairs, torchext.class_counts(labels != 0, classes).diag())
    for call in (torchext.class_counts, torchext.reference.class_counts):
        with pytest.raises(IndexError, match=r"label 1 at position \(1,\) is outside \[0, 1\)"):
            call(truth, 1)


@pytest.mark.skipif(not load.is_loaded("_C"), reason="needs the compiled kernels")
@pytest.mark.parametrize(
    ("values", "dtype"),
    [(torch.float32, torch.float16), (torch.int32, torch.float64), (torch.int64, torch.int32),
     (torch.complex64, torch.float64), (torch.float32, torch.complex128)],
    ids=str,
)  # fmt: skip
def test_kernels_raise_for_unsupported_dtypes_of_the_result(values: torch.dtype, dtype: torch.dtype) -> None:
    ones, labels = torch.ones(4, dtype=values), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(RuntimeError, match="class_sums: no sums of "):
        torch.ops.torchext.class_sums(ones, labels, 1, 0, dtype, None, True)


@reads_proc
@reads_in_place
def test_memory_in_addition_to_the_result_is_for_sorting_the_labels() -> None:
    # A one-hot would have 8 GB, a copy of the labels 4 MB, a copy of the values 256 MB. The largest result has 20 MB,
    # and the sorted labels 8 MB.
    assert peak_megabytes(_PREPARE, _SUM_UP) < 64


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestOnCuda:
    @pytest.mark.parametrize("shape", [(300_000,), (300_000, 3), (60_000, 128), (500, 5000)], ids=str)
    @pytest.mark.parametrize("classes", [7, 1000, 20_000])
    def test_sums_have_the_same_bits_in_every_run(self, shape: tuple[int, ...], classes: int) -> None:
        labels, values = skewed(shape[0], classes).cuda(), torch.randn(shape, device="cuda")
        sums = torchext.class_sums(values, labels, classes)
        exact = torchext.class_sums(values.double().cpu(), labels.cpu(), classes)
        torch.testing.assert_close(sums.double().cpu(), exact, rtol=1e-4, atol=1e-3)
        for _ in range(3):
            assert torch.equal(torchext.class_sums(values, labels, classes), sums)

    def test_recorded_errors_name_the_argument(self) -> None:
        good, bad = torch.tensor([0, 1], device="cuda"), torch.tensor([0, 9], device="cuda")
        assert int(torchext.confusion_matrix(bad, good, 2).sum()) == 1
        with pytest.raises(IndexError, match=r"predicted: label 9 at position \(1,\) is outside \[0, 2\)"):
            torchext.check_errors()
        torchext.confusion_matrix(good, bad, 2)
        with pytest.raises(IndexError, match=r"target: label 9 at position \(1,\)"):
            torchext.check_errors()
        assert torchext.class_counts(bad, 2).tolist() == [1, 0]
        with pytest.raises(IndexError, match=r"^label 9"):
            torchext.check_errors()


def test_labels_may_change_during_the_call() -> None:
    prepare = (
        "others = torch.randint(0, 3000, (200_000,)), torch.full((200_000,), 7)\n"
        "changing, values = others[0].clone(), torch.ones(200_000, 64)"
    )
    assert survives(prepare, "torchext.class_sums(values, changing, 3000)")


@reads_in_place
@needs_gibibytes(40)
def test_class_sums_of_more_than_2_to_the_31_classes() -> None:
    classes = 2**31 + 10
    labels, values = torch.tensor([classes - 1, 2**31 - 1, classes - 1]), torch.tensor([7.0, 8.0, 1.0])
    sums = torchext.class_sums(values, labels, classes)
    assert [sums[classes - 1], sums[2**31 - 1], sums[9]] == [8, 8, 0]
