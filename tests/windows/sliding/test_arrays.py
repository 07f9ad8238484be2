"""Tests of sliding_window with arrays that are read and written a part at a time, and with windows that are skipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import torchext
from tests.memory import peak_megabytes, reads_proc

numpy = pytest.importorskip("numpy")


class Slices:
    """An array of zarr or HDF5: it has a shape, a dtype and slices inside of it, and nothing else."""

    def __init__(self, array: Any) -> None:
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        self.largest = 0

    def _check(self, key: tuple[slice, ...]) -> tuple[slice, ...]:
        for axis, size in zip(key, self.shape, strict=True):
            assert axis == slice(None) or 0 <= axis.start < axis.stop <= size
        return key

    def __getitem__(self, key: tuple[slice, ...]) -> Any:
        part = self.array[self._check(key)]
        self.largest = max(self.largest, part.size)
        return part

    def __setitem__(self, key: tuple[slice, ...], values: Any) -> None:
        self.array[self._check(key)] = values


def shift(windows: Tensor) -> Tensor:
    return torch.cat([windows.float().cumsum(2), -windows.float()], 1)


@pytest.mark.parametrize("dtype", ["uint8", ">u2", "float32", ">f8", "complex64"])
def test_an_array_is_read_one_window_at_a_time(dtype: str) -> None:
    values = (numpy.arange(2 * 3 * 40 * 50).reshape(2, 3, 40, 50) % 251).astype(dtype)
    array = Slices(values)
    image = torch.from_numpy(values.astype(values.dtype.newbyteorder("=")))
    for size in (16, (64, 16)):  # the second is larger than the array, which is padded
        result = torchext.sliding_window(lambda x: x * 2.0, array, size, padding_mode="reflect")
        assert torch.equal(result, torchext.sliding_window(lambda x: x * 2.0, image, size, padding_mode="reflect"))
    assert array.largest <= 3 * 40 * 16


def test_an_array_may_return_tensors() -> None:
    class Tensors(Slices):
        def __getitem__(self, key: tuple[slice, ...]) -> Any:
            return self.array[self._check(key)]

    image = torch.randn(1, 2, 30, 40).bfloat16()
    result = torchext.sliding_window(shift, Tensors(image), 16)
    assert torch.equal(result, torchext.sliding_window(shift, image, 16))


@pytest.mark.parametrize("options", [{}, {"argmax": True}, {"weight": None, "overlap": 0}, {"halo": 2}], ids=str)
@pytest.mark.parametrize("extent", [40, 10])
def test_out_gets_the_result(options: Any, extent: int, tmp_path: Path) -> None:
    image = torch.randn(2, 3, extent, 50)
    expected = torchext.sliding_window(shift, image, 16, **options)
    numpy_dtype = expected.numpy().dtype
    in_file = numpy.memmap(tmp_path / "out", numpy_dtype, "w+", shape=tuple(expected.shape))
    for out in (
        torch.empty_like(expected),
        torch.empty(*expected.shape, 2, dtype=expected.dtype)[..., 1],
        numpy.empty(expected.shape, numpy_dtype),
        Slices(numpy.empty(expected.shape, numpy_dtype)),
        in_file,
    ):
        result = torchext.sliding_window(shift, image, 16, out=out, **options)
        assert result is out
        values = out.array if isinstance(out, Slices) else out
        assert torch.equal(torch.as_tensor(numpy.asarray(values)), expected)


def test_out_may_have_another_dtype_that_holds_the_result() -> None:
    image = torch.randn(1, 3, 40, 50)
    labels = numpy.empty((1, 40, 50), numpy.uint8)
    torchext.sliding_window(shift, image, 16, out=labels, argmax=True)
    assert torch.equal(torch.from_numpy(labels).long(), torchext.sliding_window(shift, image, 16, argmax=True))
    halves = torch.empty(1, 6, 40, 50, dtype=torch.float16)
    torchext.sliding_window(shift, image, 16, out=halves)
    assert torch.equal(halves, torchext.sliding_window(shift, image, 16).half())
    with pytest.raises(TypeError, match=r"out: expected a dtype for results of torch.float32, got torch.uint8"):
        torchext.sliding_window(shift, image, 16, out=numpy.empty((1, 6, 40, 50), numpy.uint8))


def test_out_has_the_structure_of_the_output() -> None:
    image = torch.randn(1, 3, 40, 50)
    outs = {"a": numpy.empty((1, 6, 40, 50), numpy.float32), "b": [torch.empty(1, 3, 40, 50), None]}
    result = torchext.sliding_window(lambda x: {"a": shift(x), "b": [x, None]}, image, 16, out=outs)
    assert result is outs
    torch.testing.assert_close(outs["b"][0], image)
    with pytest.raises(ValueError, match=r"out\['b'\]\[0\]: expected shape \(1, 1, 40, 50\), got \(1, 3, 40, 50\)"):
        torchext.sliding_window(lambda x: {"a": shift(x), "b": [x[:, :1], None]}, image, 16, out=outs)


def test_out_has_no_gradient_and_no_memory_of_the_input() -> None:
    image = torch.randn(1, 3, 40, 50, requires_grad=True)
    with pytest.raises(ValueError, match=r"out: expected outputs without gradients .* got output with one"):
        torchext.sliding_window(shift, image, 16, out=torch.empty(1, 6, 40, 50))
    array = numpy.zeros((1, 3, 40, 50), numpy.float32)
    with pytest.raises(ValueError, match=r"out: expected an array that shares no memory with input"):
        torchext.sliding_window(lambda x: x, array, 16, out=array)


@pytest.mark.parametrize("weight", [None, "gaussian", "tensor"])
@pytest.mark.parametrize("overlap", [0, 0.5])
@pytest.mark.parametrize("recorded", [False, True], ids=["plain", "recorded"])
def test_windows_that_are_skipped_weigh_nothing(weight: Any, overlap: float, recorded: bool) -> None:
    image = torch.randn(2, 1, 40, 44) + 3
    image[:, :, :20, :30] = 0
    image[1, :, 10:] = 0
    weight = torch.rand(12, 12) if weight == "tensor" else weight
    seen: list[Tensor] = []

    def model(windows: Tensor) -> Tensor:
        assert (windows != 0).flatten(1).any(1).all()
        seen.append(windows)
        return torch.cat([windows, torch.ones_like(windows)], 1)

    def is_background(window: Tensor) -> Tensor:
        assert window.shape == (1, 12, 12)
        return (window == 0).all()

    options: dict[str, Any] = {"overlap": overlap, "weight": weight, "batch_size": 5, "skip": is_background}
    leaf = image.clone().requires_grad_(recorded)
    result = torchext.sliding_window(model, leaf, 12, **options)
    assert result.requires_grad == recorded
    assert [len(windows) for windows in seen[:-1]] == [5] * (len(seen) - 1)
    covered = result[:, 1].detach().round()
    torch.testing.assert_close(result.detach(), torch.cat([image * covered[:, None], covered[:, None]], 1))
    assert 0 < covered.mean() < 1
    assert (covered[image[:, 0] != 0] == 1).all()
    labels = torchext.sliding_window(model, leaf, 12, argmax=True, **options)
    assert (labels[covered == 0] == 0).all()
    if recorded:
        (gradient,) = torch.autograd.grad(result[:, 0].sum(), leaf)
        torch.testing.assert_close(gradient[:, 0], covered)


def test_all_windows_may_be_skipped() -> None:
    for leaf in (torch.randn(1, 2, 30, 30), torch.randn(1, 2, 30, 30, requires_grad=True)):
        result = torchext.sliding_window(shift, leaf, 16, skip=lambda window: True)
        assert result.shape == (1, 4, 30, 30)
        assert not result.any()


def test_skip_with_complex_outputs_and_a_halo() -> None:
    image = torch.zeros(1, 1, 64, dtype=torch.complex64)
    image[..., 30:] = 1 + 2j
    result = torchext.sliding_window(lambda x: x * 1j, image, (16,), halo=3, skip=lambda window: not window.any())
    torch.testing.assert_close(result, image * 1j)


_PREPARE = """
import numpy, torch, torchext
class Made:
    shape, dtype = (1, 3, 8192, 8192), numpy.dtype(numpy.uint8)
    def __getitem__(self, key):
        sizes = [len(range(size)[axis]) for axis, size in zip(key, self.shape)]
        return numpy.ones(sizes, numpy.uint8)
class Nowhere(Made):
    shape, dtype = (1, 2, 8192, 8192), numpy.dtype(numpy.float32)
    def __setitem__(self, key, values):
        assert (values == 2).all()
def run(rows):
    Made.shape, Nowhere.shape = (1, 3, rows, 8192), (1, 2, rows, 8192)
    torchext.sliding_window(lambda x: x[:, :2].float() * 2, Made(), 256, overlap=0, out=Nowhere())
run(300)
"""


@reads_proc
def test_memory_of_arrays_is_needed_for_one_row_of_windows() -> None:
    # The sums of one row of windows have 17 MB, the arrays 192 and 512 MB.
    assert peak_megabytes(_PREPARE, "run(8192)") < 64
