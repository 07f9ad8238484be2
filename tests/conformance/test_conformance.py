"""Runs every check for every operation of the table, on every available device.

The suite runs twice: with the compiled kernels, and with TORCHEXT_DISABLE_NATIVE=1.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

import torchext
from tests.conformance.rooms import OPERATIONS
from tests.conformance.table import (
    MOVED,
    Dtypes,
    Operation,
    Recorder,
    Sample,
    WrongCall,
    has_derivative,
    outputs,
    requiring_grad,
    total,
)
from torchext._native import load

DEVICES = [
    "cpu",
    *([pytest.param("cuda", marks=pytest.mark.cuda)] if torch.cuda.is_available() else []),
]
on_every_device = pytest.mark.parametrize("device", DEVICES)


COMPILED = load.is_loaded("_C")


def _traced(operation: Operation) -> Sequence[Sample]:
    """The samples to trace: large ones, which test the division into blocks in kernels, take long and add nothing.

    Without kernels one sample is enough: its reference is traced as PyTorch's own operations, which takes seconds.
    """
    samples = [s for s in operation.samples if s.traced and sum(map(math.prod, s.shapes)) < 4000]
    return samples if COMPILED else samples[:1]


def _rows(differentiable: bool = False, traced: bool = False, functional: bool = False) -> list[Any]:
    return [
        pytest.param(operation, sample, id=f"{operation.name}-{sample.name}")
        for operation in OPERATIONS
        if (operation.differentiable or not differentiable) and (operation.functional or not (functional or traced))
        for sample in (_traced(operation) if traced else operation.samples)
    ]


every_sample = pytest.mark.parametrize(("operation", "sample"), _rows())
every_functional_sample = pytest.mark.parametrize(("operation", "sample"), _rows(functional=True))
every_traced_sample = pytest.mark.parametrize(("operation", "sample"), _rows(traced=True))
every_differentiable_sample = pytest.mark.parametrize(("operation", "sample"), _rows(differentiable=True))
every_operation = pytest.mark.parametrize("operation", [pytest.param(o, id=o.name) for o in OPERATIONS])
every_functional_operation = pytest.mark.parametrize(
    "operation", [pytest.param(o, id=o.name) for o in OPERATIONS if o.functional]
)


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def assert_same(actual: Any, expected: Any, *, exact: bool) -> None:
    for one, other in zip(outputs(actual), outputs(expected), strict=True):
        _assert_same_tensor(one, other, exact=exact)


def _assert_same_tensor(actual: Tensor, expected: Tensor, *, exact: bool) -> None:
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    assert actual.is_contiguous()
    if exact:
        assert torch.equal(_bits(actual), _bits(expected))
    elif actual.dtype.is_floating_point or actual.dtype.is_complex:
        torch.testing.assert_close(actual, expected)
    else:
        assert torch.equal(_bits(actual), _bits(expected))


def _call(operation: Operation, sample: Sample) -> Callable[..., Any]:
    return lambda *tensors: operation.function(*tensors, **sample.options)


def _differentiable_part(
    operation: Operation, sample: Sample, tensors: Sequence[Tensor]
) -> tuple[Callable[..., tuple[Tensor, ...]], list[Tensor]]:
    """The call as a function from arguments to outputs, limited to those with a derivative; and these arguments."""
    at = [i for i, tensor in enumerate(tensors) if has_derivative(tensor)]

    def function(*inputs: Tensor) -> tuple[Tensor, ...]:
        arguments = list(tensors)
        for i, tensor in zip(at, inputs, strict=True):
            arguments[i] = tensor
        return tuple(filter(has_derivative, outputs(operation.function(*arguments, **sample.options))))

    return function, [tensors[i] for i in at]


@on_every_device
@every_sample
def test_equals_its_reference_in_every_dtype(operation: Operation, sample: Sample, device: str) -> None:
    for dtype in operation.dtypes:
        tensors = operation.arguments(sample, device, dtype)
        actual = operation.function(*tensors, **sample.options)
        assert_same(actual, operation.reference(*tensors, **sample.options), exact=operation.exact)
        assert all(out.device.type == device for out in outputs(actual))


@on_every_device
@every_sample
def test_equals_an_independent_formulation(operation: Operation, sample: Sample, device: str) -> None:
    for dtype in operation.independent_dtypes:
        tensors = operation.arguments(sample, device, dtype)
        expected = [out.contiguous() for out in outputs(operation.independent(*tensors, **sample.options))]
        assert_same(operation.function(*tensors, **sample.options), expected, exact=False)


def _layouts(tensor: Tensor) -> Iterator[Tensor]:
    """The same values in other memory layouts."""
    if tensor.dim() >= 2:
        yield tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
        yield tensor.movedim(1, -1).contiguous().movedim(-1, 1)  # channels last
        yield tensor.transpose(0, 1).contiguous().transpose(0, 1)
    if tensor.dim() >= 1:
        spread = tensor.new_empty(*tensor.shape[:-1], 2 * tensor.shape[-1] + 1)[..., 1::2]
        yield spread.copy_(tensor)
    unaligned = tensor.new_empty(tensor.numel() + 1)[1:].view(tensor.shape)
    yield unaligned.copy_(tensor)


@on_every_device
@every_sample
def test_reads_any_strides(operation: Operation, sample: Sample, device: str) -> None:
    tensors = operation.arguments(sample, device)
    expected = operation.function(*tensors, **sample.options)
    for i, tensor in enumerate(tensors):
        for other in _layouts(tensor):
            actual = operation.function(*tensors[:i], other, *tensors[i + 1 :], **sample.options)
            assert_same(actual, expected, exact=operation.exact)
    if tensors[0].dim() >= 1 and tensors[0].numel():
        repeated = [tensor[:1].expand_as(tensor) if tensor.dim() else tensor for tensor in tensors]
        actual = operation.function(*repeated, **sample.options)
        expected = operation.function(*(tensor.contiguous() for tensor in repeated), **sample.options)
        assert_same(actual, expected, exact=operation.exact)


@every_sample
def test_gives_the_same_bits_for_any_number_of_threads(operation: Operation, sample: Sample) -> None:
    for dtype in (operation.default_dtype, operation.dtypes[0]):
        tensors = operation.arguments(sample, "cpu", dtype)
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(operation.function(*tensors, **sample.options))
        for other in results[1:]:
            assert_same(other, results[0], exact=True)


@pytest.mark.parametrize(
    ("operation", "wrong"), [pytest.param(o, w, id=f"{o.name}-{w.name}") for o in OPERATIONS for w in o.wrong]
)
def test_refuses_wrong_input(operation: Operation, wrong: WrongCall) -> None:
    def call() -> None:
        wrong.call()
        torchext.check_errors("cpu")  # if CUDA kernels run on the CPU, they only record a bad label

    with pytest.raises(wrong.error, match=wrong.message):
        call()


@on_every_device
@every_traced_sample
def test_passes_opcheck(operation: Operation, sample: Sample, device: str) -> None:
    tensors = operation.arguments(sample, device)
    with Recorder() as recorder:
        operation.function(*tensors, **sample.options)
    overload, args = recorder.calls[0]
    if operation.differentiable:
        args = tuple(requiring_grad([a])[0] if isinstance(a, Tensor) else a for a in args)
    torch.library.opcheck(overload, args)


@every_operation
def test_operations_that_take_lists_of_sizes_have_samples_of_other_sizes(operation: Operation) -> None:
    # DTensor caches shapes by the arguments of a call. It must not return those of a call with other sizes.
    sample = operation.samples[0]
    with Recorder() as recorder:
        operation.function(*operation.arguments(sample, "cpu"), **sample.options)
    types = {str(argument.type) for overload, _ in recorder.calls for argument in overload._schema.arguments}
    assert len(operation.other_sizes) == 2 or not any(type.startswith("List[") for type in types)


@on_every_device
@every_differentiable_sample
def test_derivatives_are_right_in_both_modes(operation: Operation, sample: Sample, device: str) -> None:
    function, tensors = _differentiable_part(operation, sample, requiring_grad(operation.arguments(sample, device)))
    if not tensors[0].numel():
        total(function(*tensors)).backward()
        assert tensors[0].grad is not None
        return
    assert gradcheck(function, tensors, check_forward_ad=True, fast_mode=True)
    assert gradgradcheck(function, tensors, check_fwd_over_rev=True, check_rev_over_rev=True, fast_mode=True)


@on_every_device
@pytest.mark.parametrize("operation", [pytest.param(o, id=o.name) for o in OPERATIONS if o.differentiable])
def test_derivatives_can_be_batched(operation: Operation, device: str) -> None:
    sample = operation.samples[0]
    function, tensors = _differentiable_part(operation, sample, requiring_grad(operation.arguments(sample, device)))
    batched = {"check_batched_grad": True, "check_batched_forward_grad": True}
    assert gradcheck(function, tensors, check_forward_ad=True, **batched)


@on_every_device
@every_differentiable_sample
def test_transforms_agree(operation: Operation, sample: Sample, device: str) -> None:
    tensors = operation.arguments(sample, device)
    if sum(t.numel() for t in tensors) > 500:
        tensors = [t[operation.small_part] for t in tensors]
    if not 0 < tensors[0].numel() < 1000:
        return  # the full Jacobian of a large sample does not fit into memory
    function, tensors = _differentiable_part(operation, sample, tensors)

    def energy(*inputs: Tensor) -> Tensor:
        return total(function(*inputs), power=3)

    reverse, forward = torch.func.jacrev(function)(*tensors), torch.func.jacfwd(function)(*tensors)
    torch.testing.assert_close(reverse, forward)
    if tensors[0].numel() <= 150:
        hessian = torch.func.hessian(energy)(*tensors)
        torch.testing.assert_close(hessian, torch.func.jacrev(torch.func.jacrev(energy))(*tensors))


@on_every_device
@every_functional_sample
def test_vmap_equals_a_loop(operation: Operation, sample: Sample, device: str) -> None:
    function = _call(operation, sample)
    first, second = (operation.arguments(sample, device, seed=seed) for seed in (0, 1))
    for in_dims in {(0,) * len(first), tuple(tensor.dim() for tensor in first)}:
        _check_vmap(function, first, second, in_dims)
    if len(first) > 1:
        for mapped in range(len(first)):
            _check_vmap(function, first, second, tuple(0 if i == mapped else None for i in range(len(first))))


def _check_vmap(
    function: Callable[..., Any], first: list[Tensor], second: list[Tensor], in_dims: tuple[int | None, ...]
) -> None:
    """Compare with two calls. Arguments without a mapped dimension are those of the first call."""
    calls = list(zip(first, second, in_dims, strict=True))
    stacked = [a if at is None else torch.stack([a, b], dim=at) for a, b, at in calls]
    other = function(*(a if at is None else b for a, b, at in calls))
    expected = [torch.stack(pair) for pair in zip(outputs(function(*first)), outputs(other), strict=True)]
    actual = torch.vmap(function, in_dims=in_dims)(*stacked)
    torch.testing.assert_close(outputs(actual), tuple(expected))
    actual = torch.vmap(function, in_dims=in_dims, out_dims=-1)(*stacked)
    torch.testing.assert_close(outputs(actual), tuple(out.movedim(0, -1) for out in expected))


def _with_batch_of(count: int, operation: Operation, sample: Sample, device: str) -> list[Tensor]:
    shapes = tuple((count, *shape[1:]) if shape and sample.batched else shape for shape in sample.shapes)
    return operation.arguments(Sample(sample.name, shapes, sample.options), device)


@on_every_device
@every_traced_sample
def test_compiles_to_one_graph_with_dynamic_shapes(operation: Operation, sample: Sample, device: str) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(_call(operation, sample), backend=counter, fullgraph=True, dynamic=True)
    for tensors in (operation.arguments(sample, device), _with_batch_of(17, operation, sample, device)):
        torch.testing.assert_close(compiled(*tensors), operation.function(*tensors, **sample.options))
    # A batch size that no other dimension has: PyTorch specialises on equal sizes, and on sizes 0 and 1.
    compilations, tensors = counter.frame_count, _with_batch_of(29, operation, sample, device)
    torch.testing.assert_close(compiled(*tensors), operation.function(*tensors, **sample.options))
    assert counter.frame_count == compilations


@on_every_device
@every_functional_operation
def test_inductor_compiles_forward_and_backward(operation: Operation, device: str) -> None:
    sample = operation.samples[0]

    tensors = operation.arguments(sample, device)
    call = _call(operation, sample)
    torch.testing.assert_close(torch.compile(call, fullgraph=True)(*tensors), call(*tensors))
    if operation.differentiable:
        function, tensors = _differentiable_part(operation, sample, requiring_grad(tensors))

        def loss(*inputs: Tensor) -> Tensor:
            return total(function(*inputs), power=2)

        compiled = torch.compile(loss, fullgraph=True)
        actual = torch.autograd.grad(compiled(*tensors), tensors)
        torch.testing.assert_close(actual, torch.autograd.grad(loss(*tensors), tensors))


class _Module(torch.nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return outputs(self.function(*tensors))


@on_every_device
@every_traced_sample
def test_exports_with_a_dynamic_batch(operation: Operation, sample: Sample, device: str) -> None:
    tensors = tuple(operation.arguments(sample, device))
    is_dynamic = sample.batched and tensors[0].dim() > 0 and tensors[0].shape[0] > 1
    if is_dynamic:
        tensors = tuple(_with_batch_of(17, operation, sample, device))
    dynamic = tuple({0: torch.export.Dim.AUTO} if is_dynamic and t.dim() else None for t in tensors)
    module = _Module(_call(operation, sample))
    program = torch.export.export(module, tensors, dynamic_shapes=(dynamic,))
    torch.testing.assert_close(program.module()(*tensors), module(*tensors))
    if is_dynamic:
        more = _with_batch_of(29, operation, sample, device)
        torch.testing.assert_close(program.module()(*more), module(*more))


@on_every_device
@pytest.mark.skipif(not COMPILED, reason="a package of the references takes minutes to compile")
def test_aot_inductor_packages_every_operation(device: str, tmp_path: Any) -> None:
    rows = [(operation, operation.samples[0]) for operation in OPERATIONS if operation.functional]
    tensors = tuple(tuple(operation.arguments(sample, device)) for operation, sample in rows)

    class Everything(torch.nn.Module):
        def forward(self, *groups: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
            return [outputs(o.function(*g, **s.options)) for (o, s), g in zip(rows, groups, strict=True)]

    program = torch.export.export(Everything(), tensors)
    path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "everything.pt2"))
    loaded = torch._inductor.aoti_load_package(path)
    torch.testing.assert_close(loaded(*tensors), Everything()(*tensors))


@on_every_device
@every_operation
def test_autocast_changes_nothing(operation: Operation, device: str) -> None:
    usual: set[Dtypes] = {torch.float32, torch.int64, (torch.float32, torch.int64), (torch.int64, torch.float32)}
    for dtype in usual.intersection(operation.independent_dtypes):
        tensors = operation.arguments(operation.samples[0], device, dtype)
        expected = operation.function(*tensors, **operation.samples[0].options)
        with torch.autocast(device, dtype=torch.bfloat16):
            actual = operation.function(*tensors, **operation.samples[0].options)
        assert_same(actual, expected, exact=True)


@on_every_device
@every_operation
def test_runs_in_deterministic_mode(operation: Operation, device: str) -> None:
    torch.use_deterministic_algorithms(True)
    try:
        for sample in operation.samples:
            tensors = operation.arguments(sample, device)
            if operation.differentiable:
                tensors = requiring_grad(tensors)
            out = operation.function(*tensors, **sample.options)
            if operation.differentiable:
                total(out).backward()
    finally:
        torch.use_deterministic_algorithms(False)


# Operations for which torch.use_deterministic_algorithms raises an error on a GPU: those of cuBLAS without
# CUBLAS_WORKSPACE_CONFIG, and others always. The in-place variants raise it as well.
_OF_CUBLAS = {
    "addbmm", "addmm", "addmv", "addr", "baddbmm", "bmm", "dot", "einsum", "linear", "matmul", "mm", "mv", "vdot",
}  # fmt: skip
_REFUSED = {
    "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward", "_ctc_loss_backward", "_embedding_bag",
    "_upsample_bicubic2d_aa_backward", "_upsample_bilinear2d_aa_backward", "adaptive_max_pool2d_backward",
    "avg_pool3d_backward", "bincount", "cumsum", "fractional_max_pool2d_backward", "fractional_max_pool3d_backward",
    "grid_sampler_2d_backward", "grid_sampler_3d_backward", "histc", "kthvalue", "max_unpool2d", "max_unpool3d",
    "median", "nanmedian", "nll_loss2d_forward", "nll_loss_forward", "put", "reflection_pad1d_backward",
    "reflection_pad2d_backward", "reflection_pad3d_backward", "scatter_reduce", "upsample_bicubic2d_backward",
    "upsample_bilinear2d_backward", "upsample_linear1d_backward", "upsample_trilinear3d_backward",
}  # fmt: skip


class _Names(TorchDispatchMode):
    """Records the names of the operations that are called inside the block."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.add(func._schema.name.partition("::")[2].removesuffix("_"))
        return func(*args, **(kwargs or {}))


# Tensors on meta take the same path as those on a GPU where it differs from that of the CPU.
@pytest.mark.parametrize("device", ["cpu", "meta"])
@every_differentiable_sample
def test_derivatives_call_only_operations_that_are_deterministic_on_a_gpu(
    operation: Operation, sample: Sample, device: str
) -> None:
    tensors = requiring_grad([tensor.to(device) for tensor in operation.arguments(sample, "cpu")])
    wanted = [tensor for tensor in tensors if tensor.requires_grad]
    with _Names() as names:
        out = operation.function(*tensors, **sample.options)
        first = torch.autograd.grad(_sum_of_squares(out, device), wanted, create_graph=True)
        _sum_of_squares(first, device).backward()
    assert not names.seen & _REFUSED
    if device != "cpu":  # matrix products are deterministic on the CPU
        assert not names.seen & _OF_CUBLAS


def _sum_of_squares(result: Any, device: str) -> Tensor:
    return total(result, 2).to(device)


class _NoFloat64(TorchDispatchMode):
    """Fails if a tensor inside the block has the dtype float64 or complex128."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for one in torch.utils._pytree.tree_leaves((args, kwargs, out)):
            assert not isinstance(one, Tensor) or one.dtype not in (torch.float64, torch.complex128), func
        return out


def _differentiate_twice(operation: Operation, sample: Sample, tensors: Sequence[Tensor]) -> None:
    leaves = requiring_grad(tensors)
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    # Only real numbers have gradients without an argument.
    result = total(operation.function(*leaves, **sample.options), 2)
    first = torch.autograd.grad(result.real if result.is_complex() else result, wanted, create_graph=True)
    second = total(first, 2)
    (second.real if second.is_complex() else second).backward()


# The device meta takes the part of an accelerator without float64.
@every_functional_sample
def test_needs_no_float64_if_no_tensor_has_it(
    operation: Operation, sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("labels", "class_sums"):  # labels on meta have no values to check
        monkeypatch.setattr(sys.modules[f"torchext.onehot.{module}"], "first_bad", lambda bad: bad.numel())
    wide = {torch.float64, torch.complex128}
    for dtype in operation.dtypes:
        if wide.isdisjoint([*(dtype if isinstance(dtype, tuple) else (dtype,)), sample.options.get("dtype")]):
            tensors = [tensor.to("meta") for tensor in operation.arguments(sample, "cpu", dtype)]
            with _NoFloat64():
                by_operation = outputs(operation.function(*tensors, **sample.options))
                by_reference = outputs(operation.reference(*tensors, **sample.options))
                added = not any(tensor.dtype in MOVED for tensor in tensors)
                if added and any(map(has_derivative, tensors)) and operation.differentiable:
                    _differentiate_twice(operation, sample, tensors)
            for one, other in zip(by_operation, by_reference, strict=True):
                assert (one.dtype, one.shape) == (other.dtype, other.shape)


@on_every_device
@every_operation
def test_works_in_inference_mode_and_with_subclasses_of_tensor(operation: Operation, device: str) -> None:
    tensors = operation.arguments(operation.samples[0], device)
    expected = operation.function(*tensors, **operation.samples[0].options)
    with torch.inference_mode():
        assert_same(operation.function(*tensors, **operation.samples[0].options), expected, exact=True)
    parameters = [torch.nn.Parameter(tensor, requires_grad=False) for tensor in tensors]
    assert_same(operation.function(*parameters, **operation.samples[0].options), expected, exact=True)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every_sample
def test_cuda_graphs_replay_and_nothing_synchronises(operation: Operation, sample: Sample) -> None:
    tensors = operation.arguments(sample, "cuda")
    expected = operation.function(*tensors, **sample.options)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        operation.function(*tensors, **sample.options)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = operation.function(*tensors, **sample.options)
    for out in outputs(captured):
        out.fill_(1)
    graph.replay()
    assert_same(captured, expected, exact=True)
