"""How an operation reaches PyTorch's dispatcher: schema, reference, fake kernel, vmap and sharding rules, derivatives.

The dispatcher is the fallback. An operation's schema is defined here, once, and its pure-PyTorch reference is
registered for every device; a compiled library only adds faster kernels for CPU and CUDA under the same name.

This is the one module that knows private names of PyTorch. What it needs them for is forward-mode derivatives and
nested transforms: ``torch.library.register_autograd`` gives zero forward-mode derivatives, silently. Should those
names go, `_DERIVATIVES_FALL_BACK` becomes true: derivatives are registered by ``register_autograd``, reverse mode and
double backward go on, and forward mode raises instead of lying.
"""

from __future__ import annotations

import functools
import hashlib
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor
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
_P = ParamSpec("_P")
_R = TypeVar("_R")

_LIBRARY = torch.library.Library("torchext", "DEF")


class Derivative(NamedTuple):
    """The derivative of an operation.

    Attributes:
        save: ``save(ctx, inputs, output)`` keeps what the other two need.
        backward: ``backward(ctx, *grad_outputs)`` returns one gradient or None for each argument.
        jvp: ``jvp(ctx, *tangents)`` returns the outputs' tangents; an argument without one comes as None.
    """

    save: Callable[[Any, tuple[Any, ...], Any], None]
    backward: Callable[..., tuple[Any, ...]]
    jvp: Callable[..., Any]


class Operation(NamedTuple):
    """What is registered under one name."""

    name: str
    schema: str
    overload: torch._ops.OpOverload
    reference: Kernel
    traceable: bool


operations: dict[str, Operation] = {}


def stamp() -> str:
    """What the build leaves in a library, for this package alone to load it.

    A library of another version, or with kernels for other schemas, would be called with arguments that it misreads.
    """
    made_of = [_version.__version__, *sorted(operation.schema for operation in operations.values())]
    return hashlib.sha256("\n".join(made_of).encode()).hexdigest()[:16]


class _State(threading.local):
    reference_only = False


_state = _State()


@contextmanager
def reference_only() -> Iterator[None]:
    """Inside, this thread's calls run the references instead of going through the dispatcher."""
    before, _state.reference_only = _state.reference_only, True
    try:
        yield
    finally:
        _state.reference_only = before


def define(
    schema: str,
    *,
    reference: Kernel,
    fake: Kernel,
    vmap: Callable[..., tuple[Any, Any]] | None,
    sharding: _sharding.Rule | None,
    derivative: Derivative | None = None,
    traceable: bool = True,
) -> Callable[..., Any]:
    """Define an operation and return the function that calls it.

    Args:
        schema: ``name(Tensor x, SymInt k) -> Tensor``, sizes as SymInt.
        reference: the pure-PyTorch kernel, with the schema's arguments in order. It returns fresh memory: if an output
            is a view of something larger, forward mode demands a tangent that is the same view of its like.
        fake: the same for shapes and dtypes alone.
        vmap: ``rule(batch_size, in_dims, *args) -> (output, out_dim)``; None refuses vmap.
        sharding: ``rule(*args) -> options``, see `torchext._core.sharding`; None refuses DTensors. It needs an int
            before the first list in the schema.
        derivative: None for an operation without one, whose outputs never require grad.
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
    if vmap is not None:
        torch.library.register_vmap(
            qualified, lambda info, in_dims, *args: vmap(info.batch_size, in_dims, *args), lib=_LIBRARY
        )
    if sharding is not None:
        _sharding.add(overload, sharding)
    operations[name] = Operation(name, schema, overload, reference, traceable)
    if derivative is None:
        _LIBRARY.impl(name, torch.library.fallthrough_kernel, "Autograd")
        return _caller(overload, reference)
    if _DERIVATIVES_FALL_BACK:
        torch.library.register_autograd(qualified, derivative.backward, setup_context=derivative.save, lib=_LIBRARY)
        return _caller(overload, reference)
    apply = _autograd_function(overload, derivative)
    _LIBRARY.impl(name, _autograd_kernel(apply), "Autograd")
    return _differentiable_caller(overload, reference, apply)


def _refuse_nested(overload: torch._ops.OpOverload) -> Kernel:
    """For what no check of arguments has seen: a nested tensor may call itself strided."""

    def kernel(*args: Any) -> Any:
        for argument, value in zip(overload._schema.arguments, args, strict=False):
            if isinstance(value, Tensor) and value.is_nested:
                raise TypeError(f"{argument.name}: expected a dense tensor, got a nested one")

    return kernel


def outside_of_compilers(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """What compilers leave alone, with all that it calls; only what is compiled itself stays so inside."""
    left_alone: list[Callable[_P, _R]] = []

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        # Without torch._dynamo nothing is compiled, and it is slow to import.
        if "torch._dynamo" not in sys.modules:
            return function(*args, **kwargs)
        if not left_alone:
            left_alone.append(torch.compiler.disable(function))
        return left_alone[0](*args, **kwargs)

    return call


def trace_references() -> None:
    """Let compilers trace through the references; for a process that has no compiled kernels to call.

    An operation is opaque to a compiler. That is right where a kernel stands behind it, but a reference is ordinary
    PyTorch code that can be fused like any other.
    """
    for operation in operations.values():
        if operation.traceable:
            operation.overload.py_impl(torch._C.DispatchKey.CompositeImplicitAutograd)(operation.reference)


def trace_kernels() -> None:
    """Make operations opaque again, since kernels have been loaded after `trace_references`."""
    for operation in operations.values():
        if operation.overload.py_kernels.pop(torch._C.DispatchKey.CompositeImplicitAutograd, None) is not None:
            operation.overload._dispatch_cache.clear()


def _caller(overload: torch._ops.OpOverload, reference: Kernel) -> Callable[..., Any]:
    direct = overload._op

    def call(*args: Any) -> Any:
        if torch.compiler.is_compiling():
            return overload(*args)
        if _state.reference_only:
            return reference(*args)
        return direct(*args)

    return call


def _require_grad(args: Sequence[Any], tensor_at: Sequence[int] = (0,)) -> bool:
    for i in tensor_at:
        if args[i] is not None and args[i].requires_grad:
            return torch.is_grad_enabled()
    return False


def in_transform() -> bool:
    """Whether a transform of ``torch.func`` runs; what is made inside may belong to it."""
    return not _DERIVATIVES_FALL_BACK and bool(_are_functorch_transforms_active())


def is_captured(device: torch.device) -> bool:
    """Whether what is called now on a device becomes part of a CUDA graph, instead of running."""
    if device.type != "cuda" or not torch.cuda.is_initialized():
        return False
    with torch.cuda.device(device):  # PyTorch returns the current stream of the current device
        return torch.cuda.is_current_stream_capturing()


def is_recorded(tensor: Tensor) -> bool:
    """Whether autograd, forward mode or a transform of ``torch.func`` follows what is computed from a tensor."""
    return _require_grad((tensor,)) or forward_ad.unpack_dual(tensor).tangent is not None or in_transform()


def _differentiable_caller(overload: torch._ops.OpOverload, reference: Kernel, apply: Kernel) -> Callable[..., Any]:
    direct = overload._op
    tensor_at = [i for i, argument in enumerate(overload._schema.arguments) if "Tensor" in str(argument.type)]

    # What the kernel at the Autograd key would do, without the way there: that costs 5 microseconds a call.
    def call(*args: Any) -> Any:
        if torch.compiler.is_compiling() or _are_functorch_transforms_active():
            return overload(*args)
        if _state.reference_only:
            return reference(*args)
        if forward_ad._current_level >= 0 or _require_grad(args, tensor_at):
            return apply(*args)
        with _AutoDispatchBelowAutograd():
            return direct(*args)

    return call


def _autograd_function(overload: torch._ops.OpOverload, derivative: Derivative) -> Kernel:
    """The derivative as an autograd function, in the one form that every transform of PyTorch goes through."""

    direct = overload._op
    untyped: Any = _SingleLevelFunction  # PyTorch declares types that no static method meets

    class Node(untyped):  # type: ignore[misc]  # the base is Any, as said above
        generate_vmap_rule = False

        @staticmethod
        def forward(*args: Any) -> Any:
            with _AutoDispatchBelowAutograd():
                return direct(*args)

        setup_context = staticmethod(derivative.save)
        backward = staticmethod(derivative.backward)
        jvp = staticmethod(derivative.jvp)

    Node.__name__ = Node.__qualname__ = overload.name().partition("::")[2]
    return Node.apply


def _autograd_kernel(apply: Kernel) -> Kernel:
    def kernel(*args: Any) -> Any:
        if _are_functorch_transforms_active():
            with enable_single_level_autograd_function():
                return apply(*args)
        return apply(*args)

    return kernel


def to_front(tensor: Tensor, in_dim: int | None, batch_size: int) -> Tensor:
    """An argument of a vmapped call with its mapped dimension in front, repeated (without a copy) if it has none."""
    if in_dim is None:
        return tensor.expand(batch_size, *tensor.shape)
    return tensor.movedim(in_dim, 0)


def derivative_of(reference: Kernel, jvp: Callable[..., Tensor]) -> Derivative:
    """The derivative of an operation that is not linear: backward is the transpose of its reference.

    The tangent has to be written out: PyTorch lets a backward start transforms of its own, a jvp not. It finds the
    call's arguments in ``call_arguments(ctx)``.
    """

    def save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.tensor_at = [i for i, value in enumerate(inputs) if isinstance(value, Tensor)]
        ctx.arguments = [None if isinstance(value, Tensor) else value for value in inputs]
        tensors = [inputs[i] for i in ctx.tensor_at]
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        arguments = call_arguments(ctx)
        wanted = [i for i in ctx.tensor_at if ctx.needs_input_grad[i]]

        def function(*tensors: Tensor) -> Any:
            for i, tensor in zip(wanted, tensors, strict=True):
                arguments[i] = tensor
            return reference(*arguments)

        transpose = torch.func.vjp(function, *(arguments[i] for i in wanted))[1]
        gradients: list[Tensor | None] = [None] * len(arguments)
        for i, gradient in zip(wanted, transpose(grad), strict=True):
            gradients[i] = gradient
        return tuple(gradients)

    return Derivative(save, backward, jvp)


def call_arguments(ctx: Any) -> list[Any]:
    """The arguments of the call that `derivative_of` saved."""
    arguments = list(ctx.arguments)
    for i, tensor in zip(ctx.tensor_at, ctx.saved_tensors, strict=True):
        arguments[i] = tensor
    return arguments
