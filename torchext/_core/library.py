"""Registration of operations with PyTorch's dispatcher: schema, reference, fake kernel, vmap, sharding, derivatives.

An operation's schema is defined once, in Python, and its pure-PyTorch reference is registered for every device. A
compiled library only adds faster kernels for CPU and CUDA under the same name, so that without such a library the
dispatcher calls the reference.

This is the only module that uses private names of PyTorch. Forward-mode derivatives and nested transforms need them:
with ``torch.library.register_autograd``, forward-mode derivatives are zero without an error. If a PyTorch version
lacks those names, `_DERIVATIVES_FALL_BACK` is true. Derivatives are then registered with ``register_autograd``:
reverse mode and double backward work, and forward mode raises.

Each functional operation also has a decomposition, plain PyTorch code for programs that leave this process. It is in
the table that `decompositions` returns, and `torch._decomp.decomposition_table`, which the ONNX exporter reads, is
replaced by PyTorch's table followed by ours. PyTorch's own table is not changed: where it has a decomposition, Inductor
refuses to call an operation while the environment variable CI is set.
"""

from __future__ import annotations

import functools
import hashlib
import sys
import threading
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch._decomp import meta_table
from torch.autograd import forward_ad

from torchext._core import sharding as _sharding
from torchext._core import version as _version

try:
    from torch._C import _are_functorch_transforms_active, _AutoDispatchBelowAutograd
    from torch._functorch.autograd_function import (  # type: ignore[attr-defined]  # private, as said above
        enable_single_level_autograd_function,
    )
    from torch.autograd.function import _SingleLevelFunction

    _DERIVATIVES_FALL_BACK = not hasattr(forward_ad, "_current_level")
except ImportError:
    _DERIVATIVES_FALL_BACK = True

Kernel = Callable[..., Any]
VmapRule = Callable[..., tuple[Any, int]]
_P = ParamSpec("_P")
_R = TypeVar("_R")

_LIBRARY = torch.library.Library("torchext", "DEF")
_DECOMPOSITIONS: dict[Any, Kernel] = {}
# The exporter reads its items and FakeTensor looks operations up in it; neither requires a dict.
torch._decomp.decomposition_table = ChainMap(torch._decomp.decomposition_table, _DECOMPOSITIONS)  # type: ignore[assignment]


class Derivative(NamedTuple):
    """The derivative of an operation.

    Attributes:
        save: ``save(ctx, inputs, output)`` saves in `ctx` what `backward` and `jvp` read.
        backward: ``backward(ctx, *grad_outputs)`` returns one gradient or None for each argument.
        jvp: ``jvp(ctx, *tangents)`` returns the outputs' tangents. The tangent of an argument without one is None.
    """

    save: Callable[[Any, tuple[Any, ...], Any], None]
    backward: Callable[..., tuple[Any, ...]]
    jvp: Callable[..., Any]


class Operation(NamedTuple):
    """A registered operation."""

    name: str
    schema: str
    overload: torch._ops.OpOverload
    reference: Kernel
    traced: Kernel | None  # what compilers and exporters trace; None for an operation that they cannot trace
    traceable: bool


operations: dict[str, Operation] = {}


def stamp() -> str:
    """A hash of the version and all schemas, which a build stores in its library.

    Only a library with the same stamp is loaded: one that was built for other schemas would misread its arguments.
    """
    parts = [_version.__version__, *sorted(operation.schema for operation in operations.values())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


class _State(threading.local):
    def __init__(self) -> None:
        # Not an attribute of the class, since Dynamo has a guard for whether the object itself has the attribute.
        self.reference_only = False


_state = _State()


@contextmanager
def reference_only() -> Iterator[None]:
    """Make this thread's calls inside the block run the references instead of going through the dispatcher."""
    before, _state.reference_only = _state.reference_only, True
    try:
        yield
    finally:
        _state.reference_only = before


def decompositions() -> dict[torch._ops.OpOverload, Callable[..., Any]]:
    """Return the decompositions of all operations into operations of PyTorch.

    Programs of `torch.export` contain calls of operations of torchext. A runtime without torchext, such as ExecuTorch,
    runs the program that ``program.run_decompositions`` returns for this table. `torch.onnx.export` uses the same
    decompositions by itself.

    Returns:
        A new dictionary. Its keys are the operations, except those that write into an argument; its values are
        functions with the same arguments, which mutate nothing. If an operation raises an IndexError for a label, the
        decomposed program raises a RuntimeError.

    Examples:
        >>> program = torch.export.export(torchext.nn.Unfold(2), (torch.zeros(1, 1, 4, 4),))
        >>> table = {**torch.export.default_decompositions(), **torchext.decompositions()}
        >>> any("torchext" in str(node.target) for node in program.run_decompositions(table).graph.nodes)
        False
    """
    return dict(_DECOMPOSITIONS)


def define(
    schema: str,
    *,
    reference: Kernel,
    fake: Kernel,
    vmap: VmapRule | None,
    sharding: _sharding.Rule | None,
    derivative: Derivative | None = None,
    decomposition: Kernel | None = None,
    traceable: bool = True,
) -> Callable[..., Any]:
    """Define an operation and return the function that calls it.

    Args:
        schema: ``name(Tensor x, SymInt k) -> Tensor``, sizes as SymInt.
        reference: the pure-PyTorch kernel, with the schema's arguments in order. Its output has to be new memory: if it
            is a view of a larger tensor, forward mode requires that the tangent is the same view of a larger tensor.
        fake: a kernel that returns an empty tensor of the result's shape and dtype.
        vmap: ``rule(call, batch_size, in_dims, *args) -> (output, out_dim)``, where `call` calls the operation and
            `out_dim` is that of all outputs, such as `vmap_in_front` and `vmap_over_samples`; None refuses vmap.
        sharding: ``rule(*args) -> options``, see `torchext._core.sharding`; None refuses DTensors. It needs an int
            before the first list in the schema.
        derivative: the derivative; None for an operation without one, whose outputs never require grad.
        decomposition: what compilers and exporters trace instead of the reference, with the same arguments: it reads
            no values and mutates nothing. None is the reference, if it is traceable.
        traceable: whether a compiler can trace through the reference (it reads no values and mutates nothing).
    """
    name = schema.partition("(")[0]
    qualified = f"torchext::{name}"
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    overload: torch._ops.OpOverload = getattr(torch.ops.torchext, name).default
    _LIBRARY.impl(name, reference, "CompositeExplicitAutograd")
    for key in ("NestedTensorCPU", "NestedTensorCUDA"):
        _LIBRARY.impl(name, _refuse_nested(overload), key)
    torch.library.register_fake(qualified, fake, lib=_LIBRARY)
    if sharding is not None:
        _sharding.add(overload, sharding)
    traced = decomposition or (reference if traceable else None)
    pure = _pure(reference, traced)
    if traced is not None:
        _DECOMPOSITIONS[overload] = _decomposition(overload, traced)
        # Otherwise the decomposition would replace the fake kernel for tensors with symbolic sizes.
        meta_table[overload] = fake
    operations[name] = Operation(name, schema, overload, reference, traced, traceable)
    call = _caller(overload, pure)
    if derivative is None:
        _LIBRARY.impl(name, torch.library.fallthrough_kernel, "Autograd")
    elif _DERIVATIVES_FALL_BACK:
        torch.library.register_autograd(
            qualified,
            derivative.backward,
            # The arguments are passed by these names.
            setup_context=lambda ctx, inputs, output: derivative.save(ctx, inputs, output),
            lib=_LIBRARY,
        )
    else:
        apply = _autograd_function(overload, derivative)
        _LIBRARY.impl(name, _autograd_kernel(apply), "Autograd")
        call = _differentiable_caller(overload, pure, apply)
    if vmap is not None:
        torch.library.register_vmap(
            qualified, lambda info, in_dims, *args: vmap(call, info.batch_size, in_dims, *args), lib=_LIBRARY
        )
    return call


def _decomposition(overload: torch._ops.OpOverload, traced: Kernel) -> Kernel:
    """A function with the arguments of the operation, by position or by name, that calls only operations of PyTorch."""

    def decompose(*args: Any, **kwargs: Any) -> Any:
        rest = overload._schema.arguments[len(args) :]
        with reference_only():
            return traced(*args, *(kwargs.get(argument.name, argument.default_value) for argument in rest))

    return decompose


def _refuse_nested(overload: torch._ops.OpOverload) -> Kernel:
    """A kernel that raises for nested tensors. The checks of arguments do not run in a direct call of the operation."""

    def kernel(*args: Any) -> Any:
        for argument, value in zip(overload._schema.arguments, args, strict=False):
            if isinstance(value, Tensor) and value.is_nested:
                raise TypeError(f"{argument.name}: expected a dense tensor, got a nested one")

    return kernel


def outside_of_compilers(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Wrap `function` so that torch.compile does not trace it or the functions that it calls.

    A compiled module or function that is called inside still runs compiled.
    """
    disabled: list[Callable[_P, _R]] = []  # made at the first call that needs it

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        # If torch._dynamo is not imported, nothing is compiled; importing it is slow.
        if "torch._dynamo" not in sys.modules:
            return function(*args, **kwargs)
        if not disabled:
            disabled.append(torch.compiler.disable(function))
        return disabled[0](*args, **kwargs)

    return call


def trace_references() -> None:
    """Let torch.compile trace through the references, in a process without compiled kernels.

    An operation is opaque to a compiler. With a compiled kernel it has to be, but a reference is ordinary PyTorch code
    that the compiler can fuse.
    """
    for operation in operations.values():
        if operation.traceable and operation.traced is not None:
            operation.overload.py_impl(torch._C.DispatchKey.CompositeImplicitAutograd)(operation.traced)


def trace_kernels() -> None:
    """Make operations opaque to compilers again; called when kernels are loaded after `trace_references`."""
    for operation in operations.values():
        if operation.overload.py_kernels.pop(torch._C.DispatchKey.CompositeImplicitAutograd, None) is not None:
            operation.overload._dispatch_cache.clear()


def is_traced(values: Iterable[Any]) -> bool:
    """Whether a compiler, an exporter or ``make_fx`` records a call with these arguments, which have no values yet."""
    if torch.compiler.is_compiling():
        return True
    proxies = torch._C._TorchDispatchModeKey.PROXY
    for mode_of in (torch._C._get_dispatch_mode, torch._ops._get_dispatch_mode_pre_dispatch):
        if mode_of(proxies) is not None:
            return True
    return any(type(value).__name__ == "FakeTensor" for value in values)


def is_readable(tensor: Tensor) -> bool:
    """Whether a reference may decide by the values of a tensor.

    They are read on the CPU alone, where this is no synchronisation, and never while the call is traced or transformed.
    """
    return type(tensor) is Tensor and tensor.is_cpu and not (in_transform() or is_traced((tensor,)))


def in_onnx_export() -> bool:
    """The same as `torch.onnx.is_in_onnx_export`, without importing the exporter."""
    flags = sys.modules.get("torch.onnx._internal.exporter._flags")
    return flags is not None and flags._is_onnx_exporting


# Dynamo calls it instead of tracing it, as in sharding.py.
in_onnx_export._dynamo_marked_constant = True  # type: ignore[attr-defined]  # functions have no declared attributes


def _pure(reference: Kernel, traced: Kernel | None) -> Kernel:
    """The pure-PyTorch kernel of an operation."""
    if traced is None or traced is reference:
        return reference
    return lambda *args: traced(*args) if is_traced(args) else reference(*args)


def _caller(overload: torch._ops.OpOverload, pure: Kernel) -> Callable[..., Any]:
    direct = overload._op

    def call(*args: Any) -> Any:
        if torch.compiler.is_compiling():
            return pure(*args) if _state.reference_only else overload(*args)
        if _state.reference_only:
            return pure(*args)
        return direct(*args)

    return call


def _require_grad(args: Sequence[Any], tensor_at: Sequence[int] = (0,)) -> bool:
    for i in tensor_at:
        if args[i] is not None and args[i].requires_grad:
            return torch.is_grad_enabled()
    return False


def in_transform() -> bool:
    """Whether the call is inside a transform of ``torch.func``, whose tensors must not be kept after it."""
    return not _DERIVATIVES_FALL_BACK and bool(_are_functorch_transforms_active())


def is_captured(device: torch.device) -> bool:
    """Whether the current stream of a device is captured into a CUDA graph, so that kernels are recorded, not run."""
    if device.type != "cuda" or not torch.cuda.is_initialized():
        return False
    with torch.cuda.device(device):  # is_current_stream_capturing has no argument for the device
        return torch.cuda.is_current_stream_capturing()


def is_recorded(tensor: Tensor) -> bool:
    """Whether autograd, forward mode or a transform of ``torch.func`` records computations on a tensor."""
    return _require_grad((tensor,)) or forward_ad.unpack_dual(tensor).tangent is not None or in_transform()


def _differentiable_caller(overload: torch._ops.OpOverload, pure: Kernel, apply: Kernel) -> Callable[..., Any]:
    direct = overload._op
    tensor_at = [i for i, argument in enumerate(overload._schema.arguments) if "Tensor" in str(argument.type)]

    # This does the same as the kernel at the Autograd key. Calling that through the dispatcher takes 5 microseconds.
    def call(*args: Any) -> Any:
        if torch.compiler.is_compiling():
            return pure(*args) if _state.reference_only else overload(*args)
        if _are_functorch_transforms_active():
            return overload(*args)
        if _state.reference_only:
            return pure(*args)
        if forward_ad._current_level >= 0 or _require_grad(args, tensor_at):
            return apply(*args)
        with _AutoDispatchBelowAutograd():
            return direct(*args)

    return call


def _autograd_function(overload: torch._ops.OpOverload, derivative: Derivative) -> Kernel:
    """The derivative as a single-level autograd function, the form that all transforms of PyTorch support."""

    direct = overload._op
    untyped: Any = _SingleLevelFunction  # PyTorch's type declarations do not allow static methods

    class Node(untyped):  # type: ignore[misc]  # the base is Any, as said above
        generate_vmap_rule = False

        @staticmethod
        def forward(*args: Any) -> Any:
            with _AutoDispatchBelowAutograd():
                return direct(*args)

        setup_context = staticmethod(derivative.save)
        backward = staticmethod(derivative.backward)
        jvp = staticmethod(derivative.jvp)

        # As in torch.autograd.Function, which is not a base of this class.
        @staticmethod
        def _compiled_autograd_key(ctx: Any) -> tuple[int]:
            return (ctx._autograd_function_id,)

    Node.__name__ = Node.__qualname__ = overload.name().partition("::")[2]
    return Node.apply


def _autograd_kernel(apply: Kernel) -> Kernel:
    apply_in_transform = enable_single_level_autograd_function()(apply)
    return lambda *args: apply_in_transform(*args) if _are_functorch_transforms_active() else apply(*args)


def to_front(tensor: Tensor, in_dim: int | None, batch_size: int) -> Tensor:
    """Move the mapped dimension of an argument of a vmapped call to the front; an argument without one is expanded."""
    if in_dim is None:
        return tensor.expand(batch_size, *tensor.shape)
    return tensor.movedim(in_dim, 0)


def vmap_in_front(*dims_at: int) -> VmapRule:
    """The vmap rule of an operation whose tensors can have one more dimension in front of all others.

    The arguments at the indices `dims_at` are dimensions or numbers of dimensions, which grow by one.
    """

    def rule(call: Kernel, batch_size: int, in_dims: Any, *args: Any) -> tuple[Any, int]:
        moved = [to_front(x, d, batch_size) if isinstance(x, Tensor) else x for x, d in zip(args, in_dims, strict=True)]
        for i in dims_at:
            moved[i] += 1
        return call(*moved), 0

    return rule


def vmap_over_samples(
    call: Kernel, batch_size: int, in_dims: Any, samples: Tensor, *options: Any
) -> tuple[Tensor, int]:
    """The vmap rule of an operation on one tensor of independent samples: the mapped dimension is one of samples."""
    samples = to_front(samples, in_dims[0], batch_size)
    return call(samples.flatten(0, 1), *options).unflatten(0, samples.shape[:2]), 0


def derivative_of(reference: Kernel, jvp: Callable[..., Tensor]) -> Derivative:
    """The derivative of a nonlinear operation: its backward is ``torch.func.vjp`` of the reference.

    `jvp` has to be written by hand, since PyTorch allows transforms inside of a backward but not inside of a jvp. It
    reads the call's arguments with ``call_arguments(ctx)``.
    """

    def save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.tensor_at = [i for i, value in enumerate(inputs) if isinstance(value, Tensor)]
        ctx.arguments = [None if isinstance(value, Tensor) else value for value in inputs]
        tensors = [inputs[i] for i in ctx.tensor_at]
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        arguments = call_arguments(ctx)
        needed = [i for i in ctx.tensor_at if ctx.needs_input_grad[i]]

        def function(*tensors: Tensor) -> Any:
            for i, tensor in zip(needed, tensors, strict=True):
                arguments[i] = tensor
            return reference(*arguments)

        transpose = torch.func.vjp(function, *(arguments[i] for i in needed))[1]
        gradients: list[Tensor | None] = [None] * len(arguments)
        for i, gradient in zip(needed, transpose(grad), strict=True):
            gradients[i] = gradient
        return tuple(gradients)

    return Derivative(save, backward, jvp)


def linear_derivative(backward: Callable[..., Tensor], jvp: Callable[..., Tensor], *, tensors: int = 0) -> Derivative:
    """The derivative of an operation that is linear in its first argument, apart from a constant.

    Args:
        backward: ``backward(ctx, grad, *options)`` returns the gradient of the first argument, of which `ctx` has the
            shape and the dtype; the options are the call's other arguments.
        jvp: ``jvp(tangent, *options)`` returns the tangent of the output.
        tensors: the number of options at the beginning that are tensors or None.
    """

    def save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.shape, ctx.dtype, ctx.options = inputs[0].shape, inputs[0].dtype, inputs[1 + tensors :]
        if tensors:
            ctx.save_for_backward(*inputs[1 : 1 + tensors])
            ctx.save_for_forward(*inputs[1 : 1 + tensors])
        ctx.differentiable = output.is_floating_point() or output.is_complex()
        if not ctx.differentiable:
            ctx.mark_non_differentiable(output)

    def gradients(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        options = (*ctx.saved_tensors, *ctx.options)
        return backward(ctx, grad, *options), *[None] * len(options)

    def tangent(ctx: Any, tangent: Tensor, *_: Any) -> Tensor | None:
        return jvp(tangent, *ctx.saved_tensors, *ctx.options) if ctx.differentiable else None

    return Derivative(save, gradients, tangent)


def call_arguments(ctx: Any) -> list[Any]:
    """The arguments of the call that `derivative_of` saved."""
    arguments = list(ctx.arguments)
    for i, tensor in zip(ctx.tensor_at, ctx.saved_tensors, strict=True):
        arguments[i] = tensor
    return arguments
