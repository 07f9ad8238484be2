"""Running a model and looking inside, and leaving it as it was."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torchext._core.memory import is_expanded


@contextmanager
def undisturbed(model: nn.Module, input: Tensor) -> Iterator[None]:
    """Run the model eagerly inside; its buffers and the random state are as before afterwards."""
    modules = list(model.modules())
    with ExitStack() as stack:
        # Tensors made in inference mode can be part of no graph.
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.random.fork_rng(_forked(input.device), device_type=_fork_type(input.device)))
        # Our hooks never fire in compiled code. Without torch._dynamo nothing is compiled, and it is slow to import.
        if "torch._dynamo" in sys.modules:
            try:
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            except RuntimeError as error:
                raise RuntimeError("call it outside of torch.compile; the model itself may be compiled") from error
        stack.enter_context(_without_other_ranks(modules))
        stack.enter_context(_kept_buffers(modules))
        stack.enter_context(_without_new_graphs(modules))
        yield


def _forked(device: torch.device) -> list[int]:
    if device.type in ("cpu", "meta"):
        return []
    return [torch.accelerator.current_device_index() if device.index is None else device.index]


def _fork_type(device: torch.device) -> str:
    return "cuda" if device.type in ("cpu", "meta") else device.type


def no_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Inside, operations keep their dtypes."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


@contextmanager
def _without_other_ranks(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Inside, DistributedDataParallel only calls what it wraps.

    Its own forward waits for the other ranks and, once a gradient is recorded, expects a backward pass to all
    parameters, without which the next training step fails. Its `no_sync` keeps a static graph's hooks.
    """
    parallel = [module for module in modules if isinstance(module, nn.parallel.DistributedDataParallel)]
    before = [vars(module).get("forward") for module in parallel]
    for module in parallel:
        vars(module)["forward"] = module.module  # an attribute that is set would make it a second child
    try:
        yield
    finally:
        for module, forward in zip(parallel, before, strict=True):
            if forward is None:
                del vars(module)["forward"]
            else:
                vars(module)["forward"] = forward


@contextmanager
def _kept_buffers(modules: Sequence[nn.Module]) -> Iterator[None]:
    # A scripted module's dictionary knows no more than what is done with it here.
    registered = [(module, dict(module._buffers), set(module._non_persistent_buffers_set)) for module in modules]
    kept = _Values()
    for module, buffers, _ in registered:
        for buffer in buffers.values():
            if buffer is not None:
                kept.add(buffer, module.training)
    kept.copy()
    try:
        yield
    finally:
        kept.put_back()
        for module, buffers, names in registered:
            if not buffers and len(module._buffers) == 0:
                continue
            for name in dict(module._buffers).keys() - buffers.keys():
                del module._buffers[name]
            for name, kept_buffer in buffers.items():
                module._buffers[name] = kept_buffer
            module._non_persistent_buffers_set.intersection_update(names)
            module._non_persistent_buffers_set.update(names)


@contextmanager
def _without_new_graphs(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Afterwards tensors that a forward pass kept in attributes, say its last attention, hold no graph of it."""
    callers = {id(value): value for *_, value in _kept_with_graphs(modules)}
    try:
        yield
    finally:
        for module, name, value in _kept_with_graphs(modules):
            if id(value) not in callers:
                vars(module)[name] = value.detach()


def _kept_with_graphs(modules: Sequence[nn.Module]) -> list[tuple[nn.Module, str, Tensor]]:
    return [
        (module, name, value)
        for module in modules
        for name, value in vars(module).items()
        if type(value) is Tensor and value.grad_fn is not None
    ]


class _Values:
    """What tensors hold, to be put back. Those of one type are copied at once: a model has many, most of them small."""

    def __init__(self) -> None:
        self._alike: dict[Any, list[tuple[Tensor, int, bool]]] = {}
        self._copies: list[Tensor] = []

    def add(self, tensor: Tensor, always: bool) -> None:
        """Put it back if it was written to, or always."""
        # PyTorch writes into no expanded tensor: there is nothing to put back, and it could not be.
        if tensor.is_inference() or is_expanded(tensor):
            return
        joined = type(tensor) is Tensor and tensor.layout == torch.strided and tensor.is_contiguous()
        key = (tensor.dtype, tensor.device) if joined else id(tensor)
        self._alike.setdefault(key, []).append((tensor, tensor._version, always))

    @torch.no_grad()
    def copy(self) -> None:
        for key, added in self._alike.items():
            if isinstance(key, int):
                self._copies.append(added[0][0].clone())
            else:
                # Most are vectors, and a view takes longer than the copy.
                self._copies.append(torch.cat([one if one.dim() == 1 else one.view(-1) for one, _, _ in added]))

    def put_back(self) -> None:
        for added, copy in zip(self._alike.values(), self._copies, strict=True):
            if not any(always or one._version != version for one, version, always in added):
                continue
            values = copy.split([one.numel() for one, _, _ in added]) if len(added) > 1 else (copy,)
            for (one, version, always), value in zip(added, values, strict=True):
                # Batch normalisation writes its statistics without a new version; a graph that a caller still holds
                # must not see one either, hence .data.
                if always or one._version != version:
                    one.data.copy_(value.view(one.shape) if value.layout == torch.strided else value)


@contextmanager
def kept_attributes(model: nn.Module) -> Iterator[None]:
    """Afterwards the modules have the attributes that they had: inside a transform, what a model keeps in one, say its
    last attention, is a tensor of the transform that nobody outside can read."""
    before = [(module, dict(vars(module))) for module in model.modules()]
    try:
        yield
    finally:
        for module, attributes in before:
            now = vars(module)
            for name in now.keys() - attributes.keys():
                del now[name]
            now.update({name: value for name, value in attributes.items() if now.get(name) is not value})


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Inside, the model is in eval mode; afterwards each of its modules is in the mode that it was in."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def first_tensor(output: Any) -> Any:
    """What a module put out, or the first of several: attention blocks return their weights too."""
    return output[0] if isinstance(output, (tuple, list)) and output else output


def describe(value: Any) -> str:
    """What came, for an error."""
    return f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def replace_first(output: Any, tensor: Tensor) -> Any:
    """The output with another first tensor."""
    if isinstance(output, (tuple, list)):
        values = [tensor, *output[1:]]
        return type(output)(*values) if hasattr(output, "_fields") else type(output)(values)
    return tensor


Edit = Callable[[int, Tensor], Tensor]


@contextmanager
def hooked(layers: Sequence[nn.Module], edit: Edit) -> Iterator[None]:
    """Inside, ``edit(which layer, its output)`` takes the place of what the layers put out."""

    def hook_of(index: int) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            tensor = first_tensor(output)
            if not isinstance(tensor, Tensor) or tensor.dim() < 3:
                raise ValueError(f"layer: expected an output (B, C, *S) with spatial extent, got {describe(tensor)}")
            return replace_first(output, edit(index, tensor))

        return hook

    handles = [layer.register_forward_hook(hook_of(index)) for index, layer in enumerate(layers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Caught(NamedTuple):
    """What a layer put out in its last call, and how often it was called."""

    output: Tensor
    calls: int


def run(
    model: nn.Module, layers: Sequence[tuple[str, nn.Module]], input: Tensor, *, with_graph: bool
) -> tuple[list[Caught], Any]:
    """The layers' outputs and the model's, with the graph between them if it is wanted.

    No graph is recorded before the first of the layers, unless the model has one of them in a block without gradients:
    such a block puts back what it found, and only where it found them recorded does the graph go on behind it.
    """
    caught, output, broken_off = _run(model, layers, input, with_graph=with_graph, outside=torch.no_grad())
    if broken_off:
        caught, output, _ = _run(model, layers, input, with_graph=with_graph, outside=torch.enable_grad())
    for (name, _), found in zip(layers, caught, strict=True):
        if found is None:
            raise ValueError(f"layer: the forward pass did not run {name!r}")
    return [found for found in caught if found is not None], output


def _run(
    model: nn.Module, layers: Sequence[tuple[str, nn.Module]], input: Tensor, *, with_graph: bool,
    outside: AbstractContextManager[Any],
) -> tuple[list[Caught | None], Any, bool]:  # fmt: skip
    """The same, with whether the graph was broken off behind a layer."""
    caught: list[Caught | None] = [None] * len(layers)
    broken_off = False

    def is_broken_off() -> bool:
        return with_graph and any(found is not None for found in caught) and not torch.is_grad_enabled()

    def catch(index: int, output: Tensor) -> Tensor:
        nonlocal broken_off
        if not output.is_floating_point() or output.shape[0] != input.shape[0]:
            expected = f"floats for each of {input.shape[0]} samples"
            raise ValueError(f"layer: expected {expected} from {layers[index][0]!r}, got {describe(output)}")
        broken_off = broken_off or is_broken_off()
        # A later layer that follows from an earlier one is part of its graph. A single one begins a graph in each of
        # its runs, and what led to the run before is let go.
        follows = output.requires_grad and len(layers) > 1
        leaf = output.detach().requires_grad_() if with_graph and not follows else output
        before = caught[index]
        caught[index] = Caught(leaf, 1 if before is None else before.calls + 1)
        torch.set_grad_enabled(with_graph)
        return leaf.clone()  # which may be changed in place by what follows

    with hooked([module for _, module in layers], catch), outside:
        output = model(input)
        return caught, output, broken_off or is_broken_off()
