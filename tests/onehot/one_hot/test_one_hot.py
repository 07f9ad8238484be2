"""Tests of one_hot beyond the conformance table: bad labels, `out`, compiled code and wrong arguments."""

from __future__ import annotations

import re
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import torchext
from tests.conformance.table import INTEGERS

needs_kernels = pytest.mark.skipif(torchext.doctor().libraries[0].problem is not None, reason="needs compiled kernels")


def test_rows_sum_to_one_and_their_maximum_is_the_label() -> None:
    labels = torch.randint(0, 13, (5, 7))
    encoded = torchext.one_hot(labels, 13)
    assert torch.equal(encoded.sum(-1), torch.ones(5, 7))
    assert torch.equal(encoded.argmax(-1), labels)


def test_equals_pytorch_one_hot_with_int64() -> None:
    labels = torch.randint(0, 13, (5, 7))
    assert torch.equal(torchext.one_hot(labels, dtype=torch.int64), F.one_hot(labels))
    assert torch.equal(torchext.one_hot(labels, 20, dtype=torch.int64), F.one_hot(labels, 20))


def test_number_of_classes_ignores_the_ignored_label() -> None:
    labels = torch.tensor([0, 3, 255], dtype=torch.uint8)
    assert torchext.one_hot(labels, ignore_index=255).shape == (3, 4)


def test_a_negative_ignore_index_equals_no_unsigned_label() -> None:
    with pytest.raises(IndexError, match="label 255"):
        torchext.one_hot(torch.tensor([255], dtype=torch.uint8), 3, ignore_index=-1)


@pytest.mark.parametrize("classes", [5, 255, 256, 300])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32], ids=str)
def test_large_masks_equal_small_ones(dtype: torch.dtype, classes: int) -> None:
    # The kernels divide large outputs into other blocks than small ones.
    labels = torch.randint(classes, (2, 3, 5003 if classes < 100 else 2503))
    labels[0, 0, 0] = classes - 1
    whole = torchext.one_hot(labels.repeat(1, 40, 1), classes, dim=1, dtype=dtype)
    assert whole.nbytes > 2**22
    part = torchext.one_hot(labels, classes, dim=1, dtype=dtype)
    assert torch.equal(whole, part.repeat(1, 1, 40, 1))
    assert torch.equal(part.argmax(1) if dtype != torch.uint8 else part.int().argmax(1), labels)


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_finds_bad_labels_of_every_dtype_at_every_position(dtype: torch.dtype) -> None:
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


def test_the_error_names_the_lowest_bad_label() -> None:
    labels = torch.zeros(8, 512, 512, dtype=torch.int64)
    labels[0, 3, 7] = 21
    labels[4:] = -1
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with pytest.raises(IndexError, match=r"label 21 at position \(0, 3, 7\) is outside \[0, 21\)"):
            torchext.one_hot(labels, 21, dim=1)


def test_positions_in_errors_do_not_depend_on_strides() -> None:
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


def test_out_is_written_and_marked_as_changed() -> None:
    labels = torch.randint(0, 5, (4, 6))
    expected = torchext.one_hot(labels, 5, dim=1)
    for out in (torch.full((4, 5, 6), 7.0), torch.full((4, 6, 5), 7.0).transpose(1, 2)):
        version = out._version
        assert torchext.one_hot(labels, 5, dim=1, out=out) is out
        assert torch.equal(out, expected)
        assert out._version > version


def test_out_is_unchanged_if_a_label_is_bad() -> None:
    labels = torch.zeros(3, 70, dtype=torch.int64)
    labels[2, 60] = 5
    for dim in (1, 2):
        out = torch.full((3, 5, 70) if dim == 1 else (3, 70, 5), 7.0)
        with pytest.raises(IndexError):
            torchext.one_hot(labels, 5, dim=dim, out=out)
        assert bool((out == 7).all())


def test_out_that_overlaps_the_labels_raises() -> None:
    memory = torch.zeros(20, dtype=torch.int64)
    with pytest.raises(ValueError, match="out: expected a tensor that shares no memory with labels"):
        torchext.one_hot(memory[:4], 5, out=memory.view(4, 5))


def test_out_in_compiled_code() -> None:
    labels = torch.randint(0, 5, (4, 6))

    def write(y: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return torchext.one_hot(y, 5, out=out) * 2

    out = torch.zeros(4, 6, 5)
    assert torch.equal(torch.compile(write, fullgraph=True)(labels, out), 2 * torchext.one_hot(labels, 5))
    assert torch.equal(out, torchext.one_hot(labels, 5))


def test_values_may_be_the_extremes_of_the_dtype() -> None:
    labels = torch.tensor([0, 1])
    for dtype, value in ((torch.int8, -128), (torch.uint8, 255), (torch.uint64, 2**63), (torch.int64, -(2**63))):
        assert torchext.one_hot(labels, 2, dtype=dtype, on_value=value)[0, 0].item() == value
    assert torchext.one_hot(labels, 2, on_value=float("inf"), dtype=torch.float16)[1, 1].item() == float("inf")


def test_the_result_has_the_default_dtype() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        assert torchext.one_hot(torch.tensor([0]), 2).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_check_errors_and_debug_do_not_raise_without_bad_labels() -> None:
    torchext.check_errors("cpu")
    with torchext.debug():
        torchext.one_hot(torch.tensor([0, 1]), 2)


@pytest.mark.parametrize("dim", [0, 1])
def test_nonzero_bytes_of_bool_are_true(dim: int) -> None:
    labels = torch.tensor([[0, 1, 2], [128, 255, 0]], dtype=torch.uint8)
    assert torch.equal(torchext.one_hot(labels.view(torch.bool), 2, dim=dim), torchext.one_hot(labels != 0, 2, dim=dim))
    rows = [torchext.multi_hot(y, 2, weights=torch.ones(2, 3), dim=dim) for y in (labels.view(torch.bool), labels != 0)]
    assert torch.equal(*rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.complex64, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("dim", [0, 1])
def test_off_value_may_be_negative_zero(dtype: torch.dtype, dim: int) -> None:
    labels = torch.tensor([0, 9, 2])
    calls = (torchext.one_hot, torchext.reference.one_hot, torch.compile(torchext.one_hot, fullgraph=True))
    for on_value in (1, 3):
        options = {"dim": dim, "dtype": dtype, "on_value": on_value, "off_value": -0.0, "invalid": "zero"}
        encoded = [encode(labels, 3, **options).view(torch.uint8) for encode in calls]
        assert torch.equal(encoded[0], encoded[1])
        assert torch.equal(encoded[0], encoded[2])
    assert torchext.one_hot(labels[:1], 2, off_value=-0.0).signbit().tolist() == [[False, True]]


def test_bad_labels_are_zeros_in_compiled_code() -> None:
    labels = torch.tensor([[0, 1], [-1, 7]])

    def encode(y: Tensor) -> Tensor:
        return torchext.one_hot(y, 3, invalid="zero", label_smoothing=0.3)

    assert torch.equal(torch.compile(encode, fullgraph=True)(labels), encode(labels))


def test_errors_for_too_many_dimensions_name_the_argument() -> None:
    most = torch.zeros([2] + [1] * 62, dtype=torch.uint8)
    assert torchext.one_hot(most, 3, dim=3).shape == (2, 1, 1, 3, *[1] * 60)
    many, more = torch.zeros([2] + [1] * 63, dtype=torch.uint8), torch.zeros([2] + [1] * 69, dtype=torch.uint8)
    scalar = torch.zeros((), dtype=torch.uint8)
    for message, call in (
        ("labels: expected at most 63 dimensions, got 64", lambda: torchext.one_hot(many, 3, dim=3)),
        ("labels: expected at most 63 dimensions, got 70", lambda: torchext.one_hot(more, 3, dim=3)),
        ("labels: expected at most 63 dimensions, got 64", lambda: torchext.mixup_one_hot(many, 0.5, 3)),
        ("indices: expected at most 64 dimensions, got 70", lambda: torchext.multi_hot(more, 3)),
        ("labels: expected at most 64 dimensions, got 70", lambda: torchext.class_counts(more, 3)),
        ("predicted: expected at most 64 dimensions, got 70", lambda: torchext.confusion_matrix(more, more, 3)),
        ("labels: expected at most 63 dimensions, got 69", lambda: torchext.class_overlap(more.float(), more[0])),
        ("values: expected at most 64 dimensions, got 70", lambda: torchext.class_sums(more, torch.zeros(2).long(), 2)),
        ("values: expected at most 63 dimensions, got 64",
         lambda: torchext.class_sums(many, scalar, 2)),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            call()


@needs_kernels
def test_kernels_raise_for_too_many_dimensions() -> None:
    ops = torch.ops.torchext
    for dims in (64, 70):
        labels = torch.zeros([1] * dims, dtype=torch.int64)
        with pytest.raises(RuntimeError, match="64 dimensions"):
            ops.one_hot(labels, 3, 0, None, 1.0, 0.0, None, True)
    with pytest.raises(RuntimeError, match="64 dimensions"):
        ops.class_sums(torch.zeros([1] * 70), torch.zeros(1, dtype=torch.int64), 2, 0, None, None, True)


@needs_kernels
def test_errors_for_failed_allocations_name_size_and_dtype() -> None:
    with pytest.raises(RuntimeError, match=f"^no memory for a tensor of size 4×{2**56} and dtype Float") as error:
        torchext.one_hot(torch.zeros(4, dtype=torch.uint8), 2**56)
    assert "API call failed" not in str(error.value)
    if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13):
        assert "you tried to allocate" in str(error.value)


def test_numbers_may_be_numpy_numbers_but_not_bool_or_tensors() -> None:
    labels = torch.tensor([0, 2])
    for two in (np.float32(2), np.float64(2), np.int64(2), 2):
        assert torch.equal(torchext.one_hot(labels, 3, on_value=two), torchext.one_hot(labels, 3) * 2)
        assert torch.equal(torchext.multi_hot(labels[:, None], 3, off_value=two), 2 - torchext.one_hot(labels, 3))
    half = np.float32(0.5)
    assert torch.equal(
        torchext.one_hot(labels, 3, label_smoothing=half), torchext.one_hot(labels, 3, label_smoothing=0.5)
    )
    assert torch.equal(torchext.mixup_one_hot(labels, half, 3), torchext.mixup_one_hot(labels, 0.5, 3))
    for wrong in (True, torch.tensor(1.0), torch.ones(2), np.ones(2), "1", None, 1j):
        kind = type(wrong).__name__
        for name in ("on_value", "off_value", "label_smoothing"):
            with pytest.raises(TypeError, match=f"^{name}: expected a number, got {kind}$"):
                torchext.one_hot(labels, 3, **{name: wrong})
        if not isinstance(wrong, Tensor):
            with pytest.raises(TypeError, match=f"^lam: expected a number or a tensor, got {kind}$"):
                torchext.mixup_one_hot(labels, wrong, 3)


def test_an_integer_that_float64_cannot_hold_raises() -> None:
    labels = torch.tensor([0])
    for value in (2**63 - 1, 2**53 + 1, np.int64(2**53 + 1)):
        with pytest.raises(
            ValueError, match=f"^on_value: expected an integer that float64 holds exactly, got {value}$"
        ):
            torchext.one_hot(labels, 2, dtype=torch.int64, on_value=value)
    for value in (2**63, -(2**63) - 2**11, 0.5, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"^on_value: torch.int64 cannot hold"):
            torchext.one_hot(labels, 2, dtype=torch.int64, on_value=value)


def test_out_that_cannot_be_written_raises() -> None:
    labels, out = torch.tensor([[0, 1], [2, 0]]), torch.zeros(2, 2, 3)
    for transformed in (
        lambda: torch.vmap(lambda y: torchext.one_hot(y, 3, out=out[0]))(labels),
        lambda: torch.vmap(lambda y, o: torchext.one_hot(y, 3, out=o))(labels, out),
        lambda: torch.vmap(lambda y: torchext.multi_hot(y, 3, out=out[0, 0]))(labels),
        lambda: torch.func.grad(lambda x: (x * torchext.one_hot(labels, 3, out=out)).sum())(torch.ones(())),
    ):
        with pytest.raises(ValueError, match=r"^out: expected None inside a transform of torch\.func"):
            transformed()
    complex_out = torch.zeros(2, 2, 3, dtype=torch.complex64)
    for view in (complex_out.conj(), complex_out.conj().imag):
        with pytest.raises(ValueError, match=r"^out: .* conjugate or negative view"):
            torchext.one_hot(labels, 3, out=view)
    for strides in ((1, 1), (2, 1), (0, 1)):
        shared = torch.empty(10).as_strided((3, 3), strides)
        with pytest.raises(ValueError, match=r"^out: .* do not share memory, got shape"):
            torchext.one_hot(torch.tensor([0, 1, 2]), 3, out=shared)
    for strides in ((1, 3), (4, 1), (1, 4)):
        apart = torch.empty(12).as_strided((3, 3), strides)
        assert torch.equal(torchext.one_hot(torch.tensor([0, 1, 2]), 3, out=apart), torch.eye(3))


def test_layouts_without_strides_raise() -> None:
    dense = torch.tensor([[0, 1], [2, 0]])
    for labels in (
        dense.to_sparse(),
        dense.to_sparse_csr(),
        torch.nested.nested_tensor([dense[0], dense[1, :1]], layout=torch.jagged),
    ):
        with pytest.raises(TypeError, match=f"^labels: expected a dense tensor, got {labels.layout}$"):
            torchext.one_hot(labels, 3)
        with pytest.raises(TypeError, match=f"^input: expected a dense tensor, got {labels.layout}$"):
            torchext.unfold(labels, 1)
    with pytest.raises(TypeError, match=r"^labels: expected a dense tensor, got a nested one$"):
        torchext.one_hot(torch.nested.nested_tensor([dense[0], dense[1, :1]]), 3)


def test_number_of_classes_that_cannot_be_inferred_raises() -> None:
    largest = 2**63 - 1
    with pytest.raises(IndexError, match=rf"^label {largest} at position \(1,\) is outside \[0, {largest}\)$"):
        torchext.one_hot(torch.tensor([0, largest]))
    with pytest.raises(IndexError, match=rf"^label {2**64 - 1} at position \(1,\) is outside \[0, 1\)$"):
        torchext.one_hot(torch.tensor([0, 2**64 - 1], dtype=torch.uint64))
    with pytest.raises(ValueError, match=r"^num_classes: expected a number of classes for labels on meta"):
        torchext.one_hot(torch.zeros(3, dtype=torch.int64, device="meta"))


def test_check_errors_accepts_devices() -> None:
    for wrong in (1.5, [0]):
        with pytest.raises(TypeError, match=f"^device: expected a device, .*got {type(wrong).__name__}$"):
            torchext.check_errors(wrong)
    with pytest.raises(ValueError, match=r"^device: expected the name of a device, got 'banana'$"):
        torchext.check_errors("banana")
    torchext.check_errors("mps")  # this package has no kernels for this device


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_check_errors_of_a_missing_device_raises() -> None:
    with pytest.raises(ValueError, match=r"^device: expected an available device, got cuda:1"):
        torchext.check_errors("cuda:1")


def test_number_of_classes_is_required_if_labels_cannot_be_read() -> None:
    labels = torch.tensor([[0, 1], [2, 0]])
    with pytest.raises(ValueError, match=r"^num_classes: expected a number of classes under vmap, got -1$"):
        torch.vmap(torchext.one_hot)(labels)
    with pytest.raises(Exception, match=r"num_classes: expected a number of classes in compiled or exported code"):
        torch.compile(torchext.one_hot, fullgraph=True, backend="eager")(labels)
    compiled = torch.compile(torchext.one_hot, backend="eager")  # the graph breaks, so labels can be read
    assert torch.equal(compiled(labels), torchext.one_hot(labels))


def test_check_errors_reads_the_records_of_all_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    records = {1: [], 2: [-1, 5, 3, 0, 1, 2, 4]}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(
        torchext._native.load, "devices_with_labels", lambda count: [i for i in range(count) if i in records]
    )
    monkeypatch.setattr(torchext.onehot.labels, "_record_of", lambda device: records.pop(device.index))
    monkeypatch.setattr(torchext.onehot.labels, "is_captured", lambda device: False)
    with pytest.raises(IndexError, match=rf"^label {2**64 - 1} at position \(1, 1\) is outside \[0, 3\)$"):
        torchext.check_errors()
    assert records == {}


class _CapturedGpu:
    """A fake CUDA device with one recorded bad label. Its stream is captured, so nothing may synchronise with it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.captured = True
        self.labels: Any = SimpleNamespace(is_cuda=True, device=torch.device("cuda", 0))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: self.captured)
        monkeypatch.setattr(torchext._native.load, "devices_with_labels", lambda count: [0])
        monkeypatch.setattr(torchext.onehot.labels, "_record_of", self._record_of)

    def _record_of(self, device: torch.device) -> list[int]:
        if device.type == "cpu":
            return []
        assert not self.captured, "synchronised with a stream that is captured"
        return [9, 1, 3, 0, 0, 2]


def test_debug_does_not_check_during_a_capture_but_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, out = _CapturedGpu(monkeypatch), torch.zeros(3)

    def captures() -> None:
        with torchext.debug():
            assert torchext.onehot.labels.checked(out, gpu.labels) is out
            gpu.captured = False

    with pytest.raises(IndexError, match=r"^label 9 at position \(1,\)"):
        captures()
    with torchext.debug():
        with pytest.raises(IndexError, match=r"^label 9 at position \(1,\)"):
            torchext.onehot.labels.checked(out, gpu.labels)
        gpu.captured = True


def test_debug_inside_a_capture_does_not_check(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = _CapturedGpu(monkeypatch)
    with torchext.debug():
        torchext.onehot.labels.checked(torch.zeros(3), gpu.labels)


def test_check_errors_raises_in_a_capture_without_synchronising(monkeypatch: pytest.MonkeyPatch) -> None:
    _CapturedGpu(monkeypatch)
    for device in (None, "cuda:0"):
        with pytest.raises(
            RuntimeError, match=r"^check_errors: expected no capture of a CUDA graph on the current stream of cuda:0"
        ):
            torchext.check_errors(device)
    torchext.check_errors("cpu")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestBadLabelsOnCuda:
    def test_the_row_of_a_bad_label_is_zero_and_it_is_recorded(self) -> None:
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

    def test_debug_around_and_inside_a_capture(self) -> None:
        labels = torch.tensor([0, 1], device="cuda")
        torchext.one_hot(labels, 3)
        graph = torch.cuda.CUDAGraph()
        with torchext.debug(), torch.cuda.graph(graph), torchext.debug():
            out = torchext.one_hot(labels, 3)
            with pytest.raises(RuntimeError, match=r"^check_errors: expected no capture"):
                torchext.check_errors()
        labels[1] = 9

        def replays() -> None:
            with torchext.debug():
                graph.replay()

        with pytest.raises(IndexError, match=r"label 9 at position \(1,\)"):
            replays()
        assert out.tolist() == [[1, 0, 0], [0, 0, 0]]

    def test_invalid_zero_records_nothing(self) -> None:
        out = torchext.one_hot(torch.tensor([0, -1], device="cuda"), 3, invalid="zero")
        assert out.sum() == 1
        torchext.check_errors()

    def test_compiled_code_records_bad_labels(self) -> None:
        compiled = torch.compile(lambda y: torchext.one_hot(y, 3).sum(), fullgraph=True)
        assert compiled(torch.tensor([0, 9], device="cuda")) == 1
        with pytest.raises(IndexError, match=r"label 9 at position \(1,\)"):
            torchext.check_errors("cuda")
