"""unfold and fold as replacements of those of PyTorch: equal arguments, values, gradients and error cases."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import torchext

Function = Callable[..., Tensor]


def _assert_the_same(ours: Function, theirs: Function, input: Tensor, *args: Any, **kwargs: Any) -> None:
    """Compare values and gradients. Sums may have another order, and may be more exact in half precision."""
    expected, actual = theirs(input, *args, **kwargs), ours(input, *args, **kwargs)
    torch.testing.assert_close(actual, expected)
    if input.requires_grad:
        other = torch.ones_like(expected)
        (gradient,) = torch.autograd.grad(actual, input, other)
        torch.testing.assert_close(gradient, torch.autograd.grad(expected, input, other)[0])


def test_arguments_have_the_names_order_and_defaults_of_pytorch() -> None:
    for ours, theirs in ((torchext.unfold, F.unfold), (torchext.fold, F.fold),
                         (torchext.nn.Unfold, torch.nn.Unfold), (torchext.nn.Fold, torch.nn.Fold)):  # fmt: skip
        parameters = list(inspect.signature(ours).parameters.values())
        expected = list(inspect.signature(theirs).parameters.values())
        for mine, other in zip(parameters, expected, strict=False):
            assert (mine.name, mine.default, mine.kind) == (other.name, other.default, other.kind)
        assert all(mine.kind is mine.KEYWORD_ONLY for mine in parameters[len(expected) :])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64, torch.bool], ids=str)
def test_unfold_equals_pytorch_for_its_own_test_samples(dtype: torch.dtype) -> None:
    pytest.importorskip("expecttest")  # imported by PyTorch's own tests
    from torch.testing._internal.common_methods_invocations import op_db

    (info,) = (info for info in op_db if info.name == "nn.functional.unfold")
    assert info.supports_dtype(dtype, "cpu")
    count = 0
    for sample in info.sample_inputs("cpu", dtype, requires_grad=dtype != torch.bool):
        _assert_the_same(torchext.unfold, F.unfold, sample.input, *sample.args, **sample.kwargs)
        count += 1
    assert count > 100


def test_modules_equal_pytorch_for_its_own_test_samples() -> None:
    pytest.importorskip("expecttest")
    from torch.testing._internal.common_nn import get_new_module_tests

    tests = [test for test in get_new_module_tests() if "old" in test.get("fullname", "").partition("_")[0]]
    assert len(tests) >= 6
    for test in tests:
        theirs = test["constructor"]()
        options = {name: getattr(theirs, name) for name in theirs.__constants__}
        ours = getattr(torchext.nn, type(theirs).__name__)(**options)
        input = torch.randn(test["input_size"], dtype=torch.float64, requires_grad=True)
        _assert_the_same(ours, theirs, input)


def _some_sizes(choose: random.Random, low: int, high: int, wrong: int) -> int | tuple[int, ...]:
    """An int or a pair of ints in [low, high], sometimes `wrong`."""

    def one() -> int:
        return wrong if choose.random() < 0.04 else choose.randint(low, high)

    return one() if choose.random() < 0.5 else (one(), one())


def _some_call(choose: random.Random) -> dict[str, Any]:
    return {
        "kernel_size": _some_sizes(choose, 1, 4, choose.choice([0, -1])),
        "dilation": _some_sizes(choose, 1, 3, choose.choice([0, -2])),
        "padding": _some_sizes(choose, 0, 3, -1),
        "stride": _some_sizes(choose, 1, 4, choose.choice([0, -1])),
    }


def _agrees(ours: Function, theirs: Function, input: Tensor, *args: Any, **kwargs: Any) -> bool:
    """Whether the call is valid; checks that both functions return the same, or that both raise an error."""
    try:
        theirs(input, *args, **kwargs)
    except RuntimeError:
        with pytest.raises(ValueError, match="expected"):
            ours(input, *args, **kwargs)
        return False
    _assert_the_same(ours, theirs, input, *args, **kwargs)
    return True


def test_unfold_accepts_the_same_arguments_as_pytorch() -> None:
    choose, right = random.Random(0), 0
    for _ in range(600):
        shape = [choose.choice([0, 1, 1, 2, 2, 2, 3]), choose.choice([0, *[1, 2] * 6]), *choose.choices(range(10), k=2)]
        input = torch.randn(shape if choose.random() < 0.7 else shape[1:], dtype=torch.float64, requires_grad=True)
        right += _agrees(torchext.unfold, F.unfold, input, **_some_call(choose))
    assert 200 < right < 500


def test_fold_accepts_the_same_arguments_as_pytorch() -> None:
    choose, right = random.Random(0), 0
    for _ in range(600):
        size, options = tuple(choose.choices(range(1, 10), k=2)), _some_call(choose)
        channels = choose.randint(1, 2)
        try:
            rows, columns = F.unfold(torch.zeros(1, channels, *size), **options).shape[1:]
        except RuntimeError:
            rows, columns = 4 * channels, 9
        rows, columns = (max(0, n + choose.choice([0] * 8 + [1, -1])) for n in (rows, columns))
        shape = (choose.randint(0, 3), rows, columns) if choose.random() < 0.7 else (rows, columns)
        input = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        output_size = size if choose.random() < 0.95 else (size[0], choose.choice([0, -1]))
        right += _agrees(torchext.fold, F.fold, input, output_size, **options)
    assert 100 < right < 500


def test_other_numbers_of_dimensions_raise() -> None:
    for shape in ((), (4,), (4, 4)):
        with pytest.raises((RuntimeError, IndexError)):
            F.unfold(torch.zeros(shape), 2)
        with pytest.raises(ValueError, match="input: expected 3 or 4 dimensions"):
            torchext.unfold(torch.zeros(shape), 2)
    for shape in ((), (4,), (1, 1, 4, 4)):
        with pytest.raises(RuntimeError):
            F.fold(torch.zeros(shape), 3, 2)
        with pytest.raises(ValueError, match="input: expected 2 or 3 dimensions"):
            torchext.fold(torch.zeros(shape), 3, 2)
