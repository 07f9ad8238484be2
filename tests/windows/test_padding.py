"""The padding modes of the window operations, compared with NumPy and PyTorch."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from tests.conformance.table import COMPLEX, FLOATS, LABELS, MOVED, make_values
from torchext.windows import padding as _padding

numpy = pytest.importorskip("numpy")

NUMPY_NAMES = {"replicate": "edge", "circular": "wrap"}
MODES = pytest.mark.parametrize("mode", range(len(_padding.MODES)), ids=_padding.MODES)


def _numpy_pad(array: object, pads: object, mode: int) -> object:
    name = _padding.MODES[mode]
    return numpy.pad(array, pads, NUMPY_NAMES.get(name, name), **({"constant_values": 7} if name == "constant" else {}))


@MODES
def test_padding_equals_numpy(mode: int) -> None:
    image = torch.randn(2, 3, 4, 5)
    for pads in itertools.product([(0, 0), (2, 1), (0, 2)], [(1, 0), (3, 3)]):
        expected = torch.from_numpy(_numpy_pad(image.numpy(), [(0, 0), (0, 0), *pads], mode))
        assert torch.equal(_padding.pad(image, pads, mode, 7.0), expected)


@MODES
def test_pads_every_dtype(mode: int) -> None:
    for dtype in (*FLOATS, *COMPLEX, *LABELS, *MOVED):
        image = make_values((2, 1, 5), dtype, "cpu", torch.Generator().manual_seed(0))
        padded = _padding.pad(image, [(2, 3)], mode)
        assert padded.dtype == dtype
        assert torch.equal(padded[..., 2:7].contiguous().view(torch.uint8), image.contiguous().view(torch.uint8))


@MODES
def test_add_back_is_the_adjoint_of_pad(mode: int) -> None:
    for pads in ([(2, 1)], [(3, 0), (1, 4)], [(1, 1), (0, 0), (2, 3)]):
        image = torch.randn(2, 5, 6, 7, dtype=torch.float64, requires_grad=True)
        padded = _padding.pad(image, pads, mode)
        other = torch.randn_like(padded)
        (expected,) = torch.autograd.grad(padded, image, other)
        torch.testing.assert_close(_padding.add_back(other, pads, mode), expected)


@MODES
def test_padding_works_under_every_transform(mode: int) -> None:
    pads = [(2, 1), (1, 3)]
    image = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: _padding.pad(x, pads, mode), image, check_forward_ad=True, check_batched_grad=True)
    mapped = torch.vmap(lambda x: _padding.pad(x, pads, mode), in_dims=2, out_dims=2)(image.movedim(0, 2))
    assert torch.equal(mapped.movedim(2, 0), _padding.pad(image, pads, mode))
    compiled = torch.compile(lambda x: _padding.pad(x, pads, mode), backend="aot_eager", fullgraph=True, dynamic=True)
    for size in (5, 7):
        image = torch.randn(3, size, size + 1)
        assert torch.equal(compiled(image), _padding.pad(image, pads, mode))


@MODES
def test_padding_wider_than_the_mode_allows_raises(mode: int) -> None:
    name = _padding.MODES[mode]
    widest = {"reflect": 3, "circular": 4, "symmetric": 4}.get(name)
    _padding.check("padding", mode, (widest or 9, 0), "input", (4, 1))
    if widest is not None:
        message = rf"padding: expected at most .* of input \(4, 5\) with padding_mode '{name}', got \({widest + 1}, 0\)"
        with pytest.raises(ValueError, match=message):
            _padding.check("padding", mode, (widest + 1, 0), "input", (4, 5))
        if name != "symmetric":
            with pytest.raises(RuntimeError):
                F.pad(torch.zeros(1, 1, 4, 5), (0, 0, widest + 1, 0), mode=name)


def test_padding_of_an_empty_dimension_raises() -> None:
    for mode in ("reflect", "replicate", "circular", "symmetric"):
        with pytest.raises(ValueError, match="padding: expected at most"):
            _padding.check("padding", _padding.mode_number("padding_mode", mode), (1,), "input", (0,))


def test_an_unknown_padding_mode_raises() -> None:
    with pytest.raises(ValueError, match=r"padding_mode: expected one of 'constant', 'reflect', .* got 'wrap'"):
        _padding.mode_number("padding_mode", "wrap")
