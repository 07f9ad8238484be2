"""Tests of multi_hot beyond the conformance table: duplicates, bad labels, `out`, gradients."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import torchext
from tests import ROOT
from tests.memory import peak_megabytes, reads_in_place, reads_proc
from tests.onehot.bad_labels import assert_names_the_lowest, assert_raises_on_every_path

Encode = Callable[[Tensor], Tensor]


def test_duplicate_labels_count_once_and_their_weights_are_added() -> None:
    indices, weights = torch.tensor([[2, 0, 2]]), torch.tensor([[0.25, 1.0, 0.5]])
    assert torchext.multi_hot(indices, 3).tolist() == [[1, 0, 1]]
    assert torchext.multi_hot(indices, 3, weights=weights).tolist() == [[1, 0, 0.75]]
    assert torchext.multi_hot(indices, 3, weights=weights, on_value=3, off_value=1).tolist() == [[3, 1, 2.5]]
    assert torchext.multi_hot(indices.expand(4, 3), 3, dim=0).tolist() == [[1] * 4, [0] * 4, [1] * 4]


@pytest.mark.parametrize("dim", [0, -1])
def test_a_routing_map_equals_scatter_and_histc(dim: int) -> None:
    scores = torch.rand(700, 128)
    weights, experts = scores.topk(8)
    routing = torchext.multi_hot(experts, 128, dim=dim)
    assert torch.equal(routing, torch.zeros(700, 128).scatter_(1, experts, 1.0).movedim(-1, dim))
    assert torch.equal(routing.sum(1 + dim), torch.histc(experts.float(), 128, 0, 127))
    weighted = torchext.multi_hot(experts, 128, dim=dim, weights=weights)
    assert torch.equal(weighted, torch.where(routing == 1, scores.movedim(-1, dim), 0))


@pytest.mark.parametrize("dim", [0, -1])
def test_half_precision_weights_are_added_in_float32(dim: int) -> None:
    indices, weights = torch.zeros(20, 1000, dtype=torch.int64), torch.ones(20, 1000, dtype=torch.bfloat16)
    out = torchext.multi_hot(indices, 2, weights=weights, dim=dim)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out.select(dim, 0), torch.full((20,), 1000.0, dtype=torch.bfloat16))


@pytest.mark.parametrize("dim", [0, -1])
def test_weights_are_added_in_the_order_of_the_labels(dim: int) -> None:
    indices, weights = torch.randint(0, 3, (40, 50)), torch.randn(40, 50)
    expected = torch.zeros(40, 3)
    for k in range(50):
        expected[torch.arange(40), indices[:, k]] += weights[:, k]
    assert torch.equal(torchext.multi_hot(indices, 3, weights=weights, dim=dim), expected.movedim(-1, dim))


def test_ignored_and_bad_labels_add_nothing_for_any_weight() -> None:
    indices = torch.tensor([[0, 9, 1], [-3, 1, 1]])
    weights = torch.tensor([[1.0, torch.nan, 2.0], [torch.inf, 3.0, 4.0]])
    out = torchext.multi_hot(indices, 2, weights=weights, invalid="zero", ignore_index=0)
    assert out.tolist() == [[0, 2], [0, 7]]
    assert torchext.multi_hot(indices, 2, invalid="zero", off_value=-1).tolist() == [[1, 1], [-1, 1]]


def _encodings() -> dict[str, Encode]:
    return {
        "rows": lambda y: torchext.multi_hot(y, 3),
        "planes": lambda y: torchext.multi_hot(y, 3, dim=0),
        "weighted rows": lambda y: torchext.multi_hot(y, 3, weights=torch.ones(y.shape)),
        "weighted planes": lambda y: torchext.multi_hot(y, 3, weights=torch.ones(y.shape), dim=0),
    }


def _zeroing() -> dict[str, Encode]:
    return {
        "rows": lambda y: torchext.multi_hot(y, 3, invalid="zero", off_value=2),
        "weighted rows": lambda y: torchext.multi_hot(y, 3, weights=torch.ones(y.shape), invalid="zero"),
    }


@pytest.mark.parametrize("encode", [pytest.param(encode, id=name) for name, encode in _encodings().items()])
def test_bad_labels_raise_on_every_path(encode: Encode) -> None:
    assert_raises_on_every_path(encode)


@pytest.mark.parametrize("dim", [0, 1])
def test_the_error_names_the_lowest_bad_label(dim: int) -> None:
    assert_names_the_lowest(lambda labels: torchext.multi_hot(labels, 21, dim=dim))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dim", [0, 1])
def test_out_is_written_unless_a_label_is_bad(dim: int, weighted: bool) -> None:
    indices = torch.randint(0, 5, (6, 3))
    weights = torch.rand(6, 3) if weighted else None
    expected = torchext.multi_hot(indices, 5, weights=weights, dim=dim)
    for out in (torch.full(expected.shape, 7.0), torch.full(expected.T.shape, 7.0).T):
        version = out._version
        assert torchext.multi_hot(indices, 5, weights=weights, dim=dim, out=out) is out
        assert torch.equal(out, expected)
        assert out._version > version
        out.fill_(7)
        with pytest.raises(IndexError):
            torchext.multi_hot(indices - 5, 5, weights=weights, dim=dim, out=out)
        assert bool((out == 7).all())


def test_out_that_overlaps_an_input_raises() -> None:
    memory = torch.zeros(20, dtype=torch.int64)
    with pytest.raises(ValueError, match="out: expected a tensor that shares no memory with indices"):
        torchext.multi_hot(memory[:4].view(2, 2), 10, out=memory.view(2, 10))
    weights = torch.zeros(20)
    with pytest.raises(ValueError, match="out: expected a tensor that shares no memory with weights"):
        torchext.multi_hot(torch.zeros(2, 2).long(), 10, weights=weights[:4].view(2, 2), out=weights.view(2, 10))


def test_out_in_compiled_code() -> None:
    indices, out = torch.randint(0, 5, (4, 6)), torch.zeros(4, 5)
    compiled = torch.compile(lambda y, out: torchext.multi_hot(y, 5, out=out) * 2, fullgraph=True)
    assert torch.equal(compiled(indices, out), 2 * torchext.multi_hot(indices, 5))
    assert torch.equal(out, torchext.multi_hot(indices, 5))


def test_the_gradient_of_weights_is_a_gather() -> None:
    experts = torch.rand(50, 16).topk(4).indices
    weights, upstream = torch.rand(50, 4, requires_grad=True), torch.randn(16, 50)
    (torchext.multi_hot(experts, 16, weights=weights, dim=0) * upstream).sum().backward()
    assert torch.equal(weights.grad, upstream.T.gather(1, experts))


@pytest.mark.parametrize("encode", [pytest.param(encode, id=name) for name, encode in _zeroing().items()])
def test_bad_labels_are_zeros_in_compiled_code(encode: Encode) -> None:
    labels = torch.tensor([[0, 1, 2], [1, 7, -9]])
    torch.testing.assert_close(torch.compile(encode, fullgraph=True)(labels), encode(labels))


def test_off_value_may_be_negative_zero() -> None:
    indices = torch.tensor([[0, 2], [9, 1]])
    for weights in (None, torch.ones(2, 2)):
        for dim in (0, 1):
            calls = [f(indices, 4, weights=weights, dim=dim, off_value=-0.0, invalid="zero")
                     for f in (torchext.multi_hot, torchext.reference.multi_hot)]  # fmt: skip
            assert torch.equal(calls[0].view(torch.int32), calls[1].view(torch.int32))


@reads_proc
@reads_in_place
def test_planes_of_two_rows_need_few_megabytes() -> None:
    call = "torchext.multi_hot(torch.zeros(2, 1).long(), {}, dim=0, dtype=torch.uint8)"
    prepare = f"import torch, torchext\n{call.format(8)}"
    assert peak_megabytes(prepare, f"out = {call.format(1 << 24)}") < 32 + 32 + 32  # the result, marks of hits, code


@reads_proc
@reads_in_place
def test_errors_for_lack_of_memory_name_operation_and_size() -> None:
    code = """
import resource, torch, torchext
indices, weights = torch.zeros(1, 1).long(), torch.ones(1, 1).half()
torchext.multi_hot(indices, 2, weights=weights)
(line,) = [line for line in open("/proc/self/status") if line.startswith("VmSize")]
limit = int(line.split()[1]) * 1024 + 3 * 2**30  # the result has 2 GiB, the sums of a row 4
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    torchext.multi_hot(indices, 2**30, weights=weights)
except RuntimeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "multi_hot: no memory for 1073741824 times 4 bytes" in done.stdout, done.stderr


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestBadLabelsOnCuda:
    def test_a_bad_label_adds_nothing_and_is_recorded(self) -> None:
        out = torchext.multi_hot(torch.tensor([[0, 9], [1, 2]], device="cuda"), 3)
        assert out.tolist() == [[1, 0, 0], [0, 1, 1]]
        with pytest.raises(IndexError, match=r"label 9 at position \(0, 1\) is outside \[0, 3\)"):
            torchext.check_errors()
