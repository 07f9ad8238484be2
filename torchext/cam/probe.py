"""Running a model with hooks on its layers, and restoring its state."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torchext._core.containers import children_of, map_tensors, rebuilt, tensors_in
from torchext._core.memory import is_expanded

_locks: weakref.WeakKeyDictionary[nn.Module, threading.RLock] = weakref.WeakKeyDictionary()
_locks_lock = threading.Lock()


def _lock_of(model: nn.Module) -> threading.RLock:
    with _locks_lock:
        return _locks.setdefault(model, threading.RLock())


class _Eager:
    """A context in which nothing runs compiled. PyTorch has one such setting for all threads."""

    def __init__(self) -> None:
        self._lock, self._entered, self._stance = threading.Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            # Without torch._dynamo nothing is compiled, and its import is slow.
            if self._entered == 0 and "torch._dynamo" in sys.modules:
                try:
                    self._stance.enter_context(torch.compiler.set_stance("force_eager"))
                except RuntimeError as error:
                    raise RuntimeError(
                        "torchext.CAM: expected a call outside of torch.compile, got one inside; the model may be "
                        "compiled"
                    ) from error
            self._entered += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._entered -= 1
            if self._entered == 0:
                self._stance.close()


_eager = _Eager()


@contextmanager
def undisturbed(model: nn.Module, input: Any) -> Iterator[None]:
    """Run the model eagerly inside the block, and restore its buffers and the random state afterwards.

    Blocks of several threads for one model run one after the other.
    """
    modules = list(model.modules())
    device = next((tensor.device for tensor in (*tensors_in(input), *model.parameters())), torch.device("cpu"))
    with ExitStack() as stack:
        stack.enter_context(_lock_of(model))
        # Tensors that are created in inference mode cannot be part of a graph.
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.random.fork_rng(_forked(device), device_type=_fork_type(device)))
        stack.enter_context(_eager)  # hooks do not run in compiled code
        stack.enter_context(_without_other_ranks(modules))
        stack.enter_context(_kept_buffers(modules))
        stack.enter_context(_without_new_graphs(modules))
        yield


@contextmanager
def same_random_numbers(device: torch.device) -> Iterator[None]:
    """Draw the same random numbers in each of these blocks, and restore the random state afterwards."""
    with torch.random.fork_rng(_forked(device), device_type=_fork_type(device)):
        torch.default_generator.manual_seed(0)
        if device.type not in ("cpu", "meta"):
            torch.get_device_module(device).manual_seed(0)
        yield


def _forked(device: torch.device) -> list[int]:
    if device.type in ("cpu", "meta"):
        return []
    return [torch.accelerator.current_device_index() if device.index is None else device.index]


def _fork_type(device: torch.device) -> str:
    return "cuda" if device.type in ("cpu", "meta") else device.type


def no_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """A context in which autocast is off."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


@contextmanager
def _without_other_ranks(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Make DistributedDataParallel modules only call the module that they wrap.

    Their own forward waits for the other ranks. If a graph is recorded, it also expects a backward pass to all
    parameters, without which the next training step fails. `no_sync` does not remove the hooks of a static graph.
    """
    parallel = [module for module in modules if isinstance(module, nn.parallel.DistributedDataParallel)]
    before = [vars(module).get("forward") for module in parallel]
    for module in parallel:
        vars(module)["forward"] = module.module  # setattr would register it as another child
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
    # The dictionary of a scripted module has only the methods that are used here.
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
        kept.restore()
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
    """Detach tensors that a forward pass inside the block stored in attributes, such as the last attention weights.

    An attribute may also be a list or a dictionary of tensors.
    """
    before = {id(value): value for *_, value in _kept_with_graphs(modules)}
    try:
        yield
    finally:
        for container, key, value in _kept_with_graphs(modules):
            if id(value) not in before:
                container[key] = value.detach()


def _kept_with_graphs(modules: Sequence[nn.Module]) -> list[tuple[Any, Any, Tensor]]:
    containers: list[Any] = []
    for module in modules:
        containers.append(vars(module))
        for name, value in vars(module).items():
            if type(value) in (list, dict) and value and not name.startswith("_"):
                containers.append(value)
    return [
        (container, key, value)
        for container in containers
        for key, value in (container.items() if isinstance(container, dict) else enumerate(container))
        if type(value) is Tensor and value.grad_fn is not None
    ]


class _Values:
    """Copies of the values of tensors, to restore them.

    Tensors of one dtype and device are copied together, since a model has many buffers and most of them are small.
    """

    def __init__(self) -> None:
        self._groups: dict[Any, list[tuple[Tensor, int, bool]]] = {}
        self._copies: list[Tensor] = []

    def add(self, tensor: Tensor, always: bool) -> None:
        """Add a tensor, whose values are restored if it was written to, or always."""
        # PyTorch cannot write into an expanded tensor, so that its values neither change nor could be restored.
        if tensor.is_inference() or is_expanded(tensor):
            return
        is_row_major = type(tensor) is Tensor and tensor.layout == torch.strided and tensor.is_contiguous()
        key = (tensor.dtype, tensor.device) if is_row_major else id(tensor)
        self._groups.setdefault(key, []).append((tensor, tensor._version, always))

    @torch.no_grad()
    def copy(self) -> None:
        for key, added in self._groups.items():
            if isinstance(key, int):
                self._copies.append(added[0][0].clone())
            else:
                # Most buffers are vectors, for which a view would take longer than the copy.
                self._copies.append(torch.cat([t if t.dim() == 1 else t.view(-1) for t, _, _ in added]))

    def restore(self) -> None:
        for added, copy in zip(self._groups.values(), self._copies, strict=True):
            if not any(always or tensor._version != version for tensor, version, always in added):
                continue
            values = copy.split([tensor.numel() for tensor, _, _ in added]) if len(added) > 1 else (copy,)
            for (tensor, version, always), value in zip(added, values, strict=True):
                # Batch normalisation writes its statistics without changing the version, and so does .data here: a
                # caller's graph that saved the buffer would otherwise raise in its backward.
                if always or tensor._version != version:
                    tensor.data.copy_(value.view(tensor.shape) if value.layout == torch.strided else value)


@contextmanager
def kept_attributes(model: nn.Module) -> Iterator[None]:
    """Restore the attributes of all modules after the block.

    A tensor that a forward pass inside a transform stores in an attribute cannot be read outside of the transform.
    """
    before = [(module, dict(vars(module))) for module in model.modules()]
    try:
        yield
    finally:
        for module, attributes in before:
            current = vars(module)
            for name in current.keys() - attributes.keys():
                del current[name]
            current.update({name: value for name, value in attributes.items() if current.get(name) is not value})


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Set the model to eval mode inside the block, and restore the mode of each module afterwards."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def describe(value: Any) -> str:
    """A value as text for an error."""
    return f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def first_tensor(output: Any) -> Any:
    """A module's output, or the first of several outputs: attention blocks return their weights as well."""
    children = children_of(output)
    return first_tensor(next(iter(children.values()))) if children else output


def replace_first(output: Any, tensor: Tensor) -> Any:
    """The output with its first tensor replaced."""
    children = children_of(output)
    if not children:
        return tensor
    first = next(iter(children))
    return rebuilt(output, {**children, first: replace_first(children[first], tensor)})


class Subject(NamedTuple):
    """A model, and the function that calls it."""

    model: nn.Module
    forward: Callable[[nn.Module, Any], Any] | None = None

    def __call__(self, input: Any) -> Any:
        """The model's output. The model may change a copy of the input in place."""
        input = map_tensors(input, Tensor.clone)
        return self.model(input) if self.forward is None else self.forward(self.model, input)


Edit = Callable[[int, Tensor], Tensor]


@contextmanager
def hooked(layers: Sequence[nn.Module], edit: Edit) -> Iterator[None]:
    """Replace the output of each layer inside the block by ``edit(index of the layer, output)``."""

    def hook_of(index: int) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            tensor = first_tensor(output)
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
                raise ValueError(f"layer: expected an output of floats, got {describe(tensor)}")
            return replace_first(output, edit(index, tensor))

        return hook

    handles = [layer.register_forward_hook(hook_of(index)) for index, layer in enumerate(layers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Caught(NamedTuple):
    """The output of a layer in its last call, and the number of its calls."""

    output: Tensor
    calls: int


class _Recorder:
    """Keeps the output of each layer in one pass, and begins the graph with it."""

    def __init__(self, layers: int, with_graph: bool, create_graph: bool) -> None:
        self.caught: list[Caught | None] = [None] * layers
        self.stopped = False  # whether the model stopped recording the graph after a layer
        self._with_graph, self._create_graph = with_graph, create_graph

    def check(self) -> None:
        """Record whether the model stopped recording the graph."""
        began = self._with_graph and any(found is not None for found in self.caught)
        self.stopped = self.stopped or (began and not torch.is_grad_enabled())

    def __call__(self, index: int, output: Tensor) -> Tensor:
        """Keep an output; returns what the model continues with."""
        self.check()
        # A layer whose output depends on an earlier one stays in its graph. A single layer starts a new graph in each
        # of its calls, so that the graph before its last call is freed.
        follows = output.requires_grad and (self._create_graph or len(self.caught) > 1)
        leaf = output.detach().requires_grad_() if self._with_graph and not follows else output
        before = self.caught[index]
        self.caught[index] = Caught(leaf, 1 if before is None else before.calls + 1)
        torch.set_grad_enabled(self._with_graph)
        return leaf.clone()  # the model may change it in place


def run(
    subject: Subject, layers: Sequence[tuple[str, nn.Module]], input: Any, *, with_graph: bool,
    create_graph: bool = False,
) -> tuple[list[Caught], Any]:  # fmt: skip
    """Run the model; returns the layers' outputs and the model's output, with the graph between them if `with_graph`.

    The first pass records no graph before the first of the layers, unless `create_graph`. A model that calls a layer
    inside of `torch.no_grad` then has no graph after that block, because the end of the block restores the mode from
    before it. In that case a second pass records the whole graph.
    """
    for outside in (torch.enable_grad,) if create_graph else (torch.no_grad, torch.enable_grad):
        recorder = _Recorder(len(layers), with_graph, create_graph)
        with hooked([module for _, module in layers], recorder), outside():
            output = subject(input)
            recorder.check()
        if not recorder.stopped:
            break
    for (name, _), found in zip(layers, recorder.caught, strict=True):
        if found is None:
            raise ValueError(f"layer: the forward pass did not run {name!r}")
    return [found for found in recorder.caught if found is not None], output
