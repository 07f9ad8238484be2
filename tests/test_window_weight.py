"""What window_weight promises."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import torchext

KINDS = ("linear", "hann", "gaussian")


def one(kind: str, i: int, n: int) -> float:
    if kind == "linear":
        return min(i + 1, n - i)
    if kind == "hann":
        return math.sin(math.pi * (i + 0.5) / n) ** 2
    return math.exp(-((i - (n - 1) / 2) ** 2) / (2 * (n / 8) ** 2))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1,), (7,), (2, 9), (8, 1, 5)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_each_place_weighs_the_product_of_its_axes(kind: Any, size: tuple[int, ...], dtype: torch.dtype) -> None:
    weight = torchext.window_weight(size, kind, dtype=dtype)
    expected = torch.empty(size, dtype=torch.float64)
    for at in torch.cartesian_prod(*(torch.arange(n) for n in size)).reshape(-1, len(size)).tolist():
        value = math.prod(one(kind, i, n) for i, n in zip(at, size, strict=True))
        expected[tuple(at)] = max(value, 1e-3) if kind == "gaussian" else value
    assert weight.dtype == dtype
    torch.testing.assert_close(weight, expected.to(dtype))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_weights_are_positive_and_symmetric(kind: Any, dtype: torch.dtype) -> None:
    for size in ((1, 1), (31, 16), (300, 200)):
        weight = torchext.window_weight(size, kind, dtype=dtype)
        assert weight.min() > 0
        assert weight.isfinite().all()
        assert torch.equal(weight, weight.flip(0, 1))


def test_refuses_what_makes_no_weight() -> None:
    with pytest.raises(ValueError, match="kind: expected one of 'linear', 'hann', 'gaussian', got 'box'"):
        torchext.window_weight(4, "box")
    with pytest.raises(ValueError, match="size: expected at least 1 in each dimension"):
        torchext.window_weight((4, 0), "hann")
    with pytest.raises(ValueError, match="size: expected at least one dimension"):
        torchext.window_weight((), "hann")
    with pytest.raises(TypeError, match=r"dtype: expected float16.*got torch.int64"):
        torchext.window_weight(4, "hann", dtype=torch.int64)
    with pytest.raises(ValueError, match=r"size: torch.float16 cannot hold the linear weight"):
        torchext.window_weight((1024, 1024), "linear", dtype=torch.float16)


def test_compiles_with_any_size() -> None:
    compiled = torch.compile(lambda x: torchext.window_weight(tuple(x.shape), "hann"), dynamic=True, backend="eager")
    for shape in ((3, 4), (9, 7)):
        assert torch.equal(compiled(torch.empty(shape)), torchext.window_weight(shape, "hann"))
