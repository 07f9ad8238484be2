"""Tests of window_weight, and of the cache of named weights."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

import torchext
from torchext.windows.weight import _cached, cached_weight

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
def test_weights_are_products_over_dimensions(kind: Any, size: tuple[int, ...], dtype: torch.dtype) -> None:
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


def test_wrong_arguments_raise() -> None:
    with pytest.raises(ValueError, match="kind: expected one of 'linear', 'hann', 'gaussian', got 'box'"):
        torchext.window_weight(4, "box")
    with pytest.raises(ValueError, match="size: expected at least 1 in each dimension"):
        torchext.window_weight((4, 0), "hann")
    with pytest.raises(ValueError, match=r"size: expected at most 2\^59 elements"):
        torchext.window_weight((2**30, 2**30), "linear")
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


# The window operations keep named weights for later calls.

FLOAT, CPU = torch.float32, torch.device("cpu")


@pytest.fixture
def empty_cache() -> Iterator[None]:
    _cached.cache_clear()
    yield
    _cached.cache_clear()


def merged(windows: Tensor, weight: Any = "hann") -> Tensor:
    return torchext.merge_windows(windows, 12, 4, weight=weight)


def windows_of(device: str = "cpu") -> Tensor:
    return torch.randn(2, 2, 1, 8, 8, device=device)


def merged_with_a_tensor(windows: Tensor) -> Tensor:
    return merged(windows, torchext.window_weight((8, 8), "hann", device=windows.device))


@pytest.mark.usefixtures("empty_cache")
class TestKeptWeights:
    def test_weights_are_computed_once_and_not_returned_to_callers(self) -> None:
        windows = windows_of()
        expected = merged(windows)
        assert torch.equal(merged(windows), expected)
        torchext.scatter_windows(windows.flatten(0, 1)[None], torch.zeros(4, 2).long(), 12, weight="hann")
        torchext.sliding_window(torch.tanh, torch.randn(1, 1, 12, 12), 8, overlap=0.5, weight="hann")
        assert _cached.cache_info().misses == 1
        assert _cached.cache_info().hits == 3
        torchext.window_weight((8, 8), "hann").zero_()
        assert torch.equal(merged(windows), expected)

    def test_weights_are_kept_by_size_kind_and_dtype(self) -> None:
        kinds = [((8, 8), "hann", FLOAT), ((8, 9), "hann", FLOAT), ((8, 8), "linear", FLOAT)]
        for size, kind, dtype in [*kinds, ((8, 8), "hann", torch.float64)] * 2:
            weight = cached_weight(size, kind, dtype, CPU, windows_of())  # type: ignore[arg-type]  # any str
            assert torch.equal(weight, torchext.window_weight(size, kind, dtype=dtype))  # type: ignore[arg-type]  # any str
        assert _cached.cache_info().misses == 4

    def test_few_weights_and_no_large_ones_are_kept(self) -> None:
        for n in range(1, 40):
            cached_weight((n,), "hann", FLOAT, CPU, windows_of())
        assert _cached.cache_info().currsize == 16
        large = [cached_weight((2**10, 2**10 + 1), "hann", FLOAT, CPU, windows_of()) for _ in range(2)]
        assert large[0] is not large[1]
        assert torch.equal(*large)

    def test_autograd_can_save_weights_kept_in_inference_mode(self) -> None:
        windows = windows_of().requires_grad_()
        with torch.inference_mode():
            expected = merged(windows)
        out = merged(windows)
        assert _cached.cache_info().hits == 1
        assert torch.equal(out, expected)
        out.sum().backward()
        assert torch.equal(windows.grad, torch.autograd.grad(merged_with_a_tensor(windows).sum(), windows)[0])

    @pytest.mark.parametrize("name", ["vmap", "grad", "jvp", "functionalize"])
    def test_transforms_keep_nothing(self, name: str) -> None:
        transforms: dict[str, Callable[[Callable[..., Tensor]], Callable[..., Any]]] = {
            "vmap": torch.vmap,
            "grad": lambda f: torch.func.grad(lambda x: f(x[0]).square().sum()),
            "jvp": lambda f: lambda x: torch.func.jvp(f, (x[0],), (x[1],)),
            "functionalize": lambda f: torch.func.functionalize(lambda x: f(x[0])),
        }
        several = torch.stack([windows_of(), windows_of()])
        expected = transforms[name](merged_with_a_tensor)(several)
        torch.testing.assert_close(transforms[name](merged)(several), expected)
        assert _cached.cache_info().currsize == 0
        merged(several[0])
        torch.testing.assert_close(transforms[name](merged)(several), expected)

    @pytest.mark.filterwarnings("error:.*lru_cache")  # the compiler warns if it traces through the cache
    def test_compilers_keep_nothing(self) -> None:
        windows = windows_of()
        expected = merged_with_a_tensor(windows)
        compiled = torch.compile(merged, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(windows), expected)
        exported = torch.export.export(_Merged(), (windows,), strict=False).module()
        torch.testing.assert_close(exported(windows), expected)
        assert _cached.cache_info().currsize == 0
        assert torch.equal(merged(windows), expected)
        torch._dynamo.reset()
        torch.testing.assert_close(compiled(windows), expected)

    @pytest.mark.parametrize("of_windows", [True, False])
    def test_fake_tensors_are_not_kept(self, of_windows: bool) -> None:
        real = windows_of()
        with FakeTensorMode() as mode:
            fake = mode.from_tensor(real) if of_windows else real
            cached_weight((8, 8), "hann", FLOAT, CPU, fake)
        assert _cached.cache_info().currsize == 0
        assert type(cached_weight((8, 8), "hann", FLOAT, CPU, real)) is Tensor
        with mode:
            assert merged(mode.from_tensor(real)).shape == (1, 12, 12)

    def test_capturing_a_cuda_graph_does_not_use_kept_weights(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module, made = sys.modules[cached_weight.__module__], []
        monkeypatch.setattr(module, "is_captured", lambda device: True)
        monkeypatch.setattr(module, "_cached", lambda *args: pytest.fail("a graph used a weight that may be freed"))
        monkeypatch.setattr(module, "window_weight", lambda *args, **options: made.append((*args, options["device"])))
        cached_weight((8, 8), "hann", FLOAT, torch.device("cuda"), windows_of())
        assert made == [((8, 8), "hann", torch.device("cuda"))]

    @pytest.mark.cuda
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    def test_cuda_streams_and_graphs_have_their_own_weights(self) -> None:
        windows = windows_of("cuda")
        expected = merged(windows)
        device = windows.device
        kept = cached_weight((8, 8), "hann", FLOAT, device, windows)
        assert cached_weight((8, 8), "hann", FLOAT, device, windows) is kept
        torch.cuda.synchronize()
        with torch.cuda.stream(torch.cuda.Stream()):
            assert cached_weight((8, 8), "hann", FLOAT, device, windows) is not kept
            assert torch.equal(merged(windows), expected)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = merged(windows)
        _cached.cache_clear()
        torch.cuda.empty_cache()
        captured.zero_()
        graph.replay()
        assert torch.equal(captured, expected)


class _Merged(torch.nn.Module):
    def forward(self, windows: Tensor) -> Tensor:
        return merged(windows)
