"""Choice of the layer to explain."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torchext._core.containers import tensors_in
from torchext.cam.layout import Layout
from torchext.cam.probe import Subject
from torchext.cam.targets import Chosen, Targets, class_scores
from torchext.cam.trace import Call, Trace, mixes_tokens

Layer = nn.Module | str

# Modules that return their input are not explained, but the module before them.
_PASSES_ON = (nn.Identity, nn.Dropout)
# How often a layout is tried for outputs of one size that modules define, and for others of this size.
_MOST_FAILURES = 2


def resolve(model: nn.Module, layer: Layer | Sequence[Layer]) -> list[tuple[str, nn.Module]]:
    """The names and modules of the argument `layer`.

    Raises:
        TypeError: neither a module nor a name, or a scripted module.
        ValueError: no such module in the model, or no layer at all.
    """
    several = isinstance(layer, (list, tuple)) and not isinstance(layer, nn.Module)
    chosen = list(layer) if several else [layer]  # type: ignore[arg-type]  # a module may be iterable
    if not chosen:
        raise ValueError("layer: expected a module, its name, or several of them, got none")
    found = [_find(model, entry) for entry in chosen]
    for _, module in found:
        check_runs_in_python("layer", module)
    return found


def _find(model: nn.Module, layer: Any) -> tuple[str, nn.Module]:
    if isinstance(layer, str):
        try:
            return layer, model.get_submodule(layer)
        except AttributeError:
            names = ", ".join(name for name, _ in model.named_children())
            raise ValueError(
                f"layer: expected a module of the model, whose children are {names}, got {layer!r}"
            ) from None
    if not isinstance(layer, nn.Module):
        raise TypeError(f"layer: expected a module or its name, got {type(layer).__name__}")
    for name, module in model.named_modules():
        if module is layer and name:
            return name, module
    raise ValueError(f"layer: expected a module of the model, got a {type(layer).__name__} outside of it")


def check_runs_in_python(name: str, module: nn.Module) -> None:
    """Check that `module` is not a scripted one, in which Python hooks do not run."""
    if isinstance(module, torch.jit.ScriptModule):
        raise TypeError(f"{name}: expected a module that runs in Python, got a scripted or traced one")


def find(subject: Subject, input: Any, targets: Targets) -> tuple[Call, Layout]:
    """Find the layer to explain, by a forward pass and a few experiments, when the caller names none.

    It is the last layer that the scores depend on and whose positions are a grid of the input. If that is a sequence of
    tokens of which the scores depend on none of the grid or on a single one, the class token, it is the layer whose
    output the last attention block reads.

    Raises:
        ValueError: there is no such layer, or no module runs.
    """
    trace = trace_of(subject, input, with_graph=True)
    if not trace.calls:
        raise ValueError(
            "layer: expected a model that calls its modules, got one that calls none; for an exported model, explain "
            "the original one, and for a single layer a model that has it as a child"
        )
    gradients, classes = _gradients(trace, targets)
    used = [call for call in trace.calls if call.name in gradients]
    # An output without a gradient may be one of frozen layers, or a constant such as a table of positions.
    for before in ([call for call in used if gradients[call.name] is not None], used):
        while (chosen := _last_map(trace, before, classes)) is not None:
            last, layout = chosen
            gradient = gradients[last.name]
            if layout.first is not None and (gradient is None or _positions(layout.maps(gradient)) <= 1):
                chosen = _read_by_last_attention(trace, used, gradients, last, layout)
            if chosen is not None:
                _warn_of_later_layers(used, chosen[0], classes)
                return _outermost(used, chosen[0]), chosen[1]
            before = before[: before.index(last)]
    raise ValueError(
        "layer: expected a model with a layer whose output has spatial dimensions, got none; pass layer= and "
        "reshape=, a function from its output to maps (B, C, *S)"
    )


def _outermost(calls: Sequence[Call], last: Call) -> Call:
    """The call with the same output that has the best known name.

    A container has the same output as its last child. The outermost of them is chosen, and of several on one level the
    last, which may have changed the output in place.
    """
    # Of a container with several outputs, the model may read another one.
    same = [
        call
        for call in calls
        if call is last or (call.output is last.output and call.is_alone and not isinstance(call.module, _PASSES_ON))
    ]
    # A module with several calls may have the name of another place than the container around the last one.
    around = [call for call in same if call.times == 1 and next(call.module.children(), None) is not None]
    named = [call for call in same if call.times == 1 or not around or around[-1].begun > call.begun]
    return min(reversed(named), key=lambda call: call.name.count("."))


def _warn_of_later_layers(calls: Sequence[Call], last: Call, classes: int | None) -> None:
    """Warn if most layers with positions are after the one that is explained: a later one may explain more.

    Layers with as many channels as a map of scores, `classes`, are left out.
    """
    batch = len(last.output)
    several = [
        call
        for call in calls
        if call is last or (_has_positions(call.output.shape, batch) and call.output.shape[1] != classes)
    ]
    after = several[[call.name for call in several].index(last.name) + 1 :]
    if 2 * len(after) > len(several):
        warnings.warn(
            f"torchext.CAM explains {last.name!r}, since the positions of the {len(after)} layers after it are not "
            f"known; for one of these, such as {after[-1].name!r}, pass layer= and reshape=, a function from its "
            "output to maps (B, C, *S)",
            stacklevel=4,
        )


def trace_of(subject: Subject, input: Any, *, with_graph: bool = False) -> Trace:
    """Trace a model with one sample, or with the whole batch if the model does not run with one."""
    if isinstance(input, Tensor) and len(input) > 1 and not subject.model.training:
        try:  # in training mode, a normalisation may require several samples
            return Trace(subject, input[:1], with_graph)
        except Exception:  # the model may raise any exception for another batch size
            pass
    return Trace(subject, input, with_graph)


def _gradients(trace: Trace, targets: Targets) -> tuple[dict[str, Tensor | None], int | None]:
    """The gradients of the scores with respect to layers' outputs, and the channels of a map of scores.

    A gradient is None for an output without a graph. Layers on which the scores do not depend are left out, also those
    whose gradients are all 0, unless all are.
    """
    calls = [call for call in trace.calls if call.output.is_floating_point()]
    followed = [call for call in calls if call.output.requires_grad]
    outputs = [tensor for tensor in tensors_in(trace.output) if tensor.requires_grad]
    gradients: Sequence[Tensor | None] = ()
    try:
        gradients = torch.autograd.grad(
            _scores(trace, targets), [*(call.output for call in followed), *outputs], allow_unused=True
        )
    except RuntimeError:  # the scores have no graph, or the model does not support gradients
        return dict.fromkeys(call.name for call in calls), None
    found = {call.name: g for call, g in zip(followed, gradients[: len(followed)], strict=True) if g is not None}
    found = {name: gradient for name, gradient in found.items() if gradient.any()} or found
    read = [o for o, gradient in zip(outputs, gradients[len(followed) :], strict=True) if gradient is not None]
    # Of the outputs on which the scores depend, the last one is what they are computed from.
    last = max(read, key=_age, default=None)
    classes = last.shape[1] if last is not None and last.dim() > 2 else None
    kept = [call.name for call in calls if call.name in found or not call.output.requires_grad]
    return {name: found.get(name) for name in kept}, classes


def _age(output: Tensor) -> int:
    """A number that is larger for a tensor that was computed later."""
    return -1 if output.grad_fn is None else output.grad_fn._sequence_nr()


def _scores(trace: Trace, targets: Targets) -> Tensor:
    """The sum of the scores of a traced pass, or of all outputs if it has no scores."""
    try:
        batch = len(trace.sample) if isinstance(trace.sample, Tensor) else len(class_scores(trace.output))
        if isinstance(targets, (list, tuple)) or (isinstance(targets, Tensor) and targets.dim() > 0):
            targets = targets[:batch]
        return Chosen(targets, trace.output, batch).scores.sum()
    except Exception:  # a function of the caller may raise any exception for a single sample
        outputs = [tensor for tensor in tensors_in(trace.output) if tensor.requires_grad]
        return sum((tensor.sum() for tensor in outputs), torch.zeros(()))


def _last_map(trace: Trace, calls: Sequence[Call], classes: int | None) -> tuple[Call, Layout] | None:
    """The last call whose positions are a grid of the input, if possible one of features.

    Layers with as many channels as a map of scores, `classes`, hold scores.
    """
    of_scores: tuple[Call, Layout] | None = None
    failures: dict[Any, int] = {}
    for call in reversed(calls):
        kind = call.output.shape, trace.is_certain(call)
        is_of_scores = of_scores is not None and call.output.shape == of_scores[0].output.shape
        if failures.get(kind, 0) < _MOST_FAILURES and not is_of_scores:
            try:
                layout = trace.layout(call)
            except ValueError:
                failures[kind] = failures.get(kind, 0) + 1
                continue
            if layout.maps(call.output).shape[1] != classes:
                return call, layout
            of_scores = of_scores or (call, layout)
    return of_scores


def _has_positions(shape: Sequence[int], batch: int) -> bool:
    """Whether an output may have channels and positions: a pooled vector has only channels."""
    return sum(size > 1 for size in (shape[1:] if shape[0] == batch else shape)) > 1


def _positions(gradient: Tensor) -> int:
    """The number of positions of maps ``(B, C, *S)`` with a gradient."""
    return int(gradient.flatten(2).any(1).any(0).sum())


def _read_by_last_attention(
    trace: Trace, calls: Sequence[Call], gradients: dict[str, Tensor | None], last: Call, layout: Layout
) -> tuple[Call, Layout] | None:
    """The call whose tokens the last attention block reads, or else the last whose tokens the scores depend on."""
    tokens = [call for call in calls if call.output.shape == last.output.shape]
    attention = [call for call in trace.calls if mixes_tokens(call.name, call.module)]
    read: list[Call] = []
    # The module that began last comes first. Modules inside of an attention block, such as its dropout or projection,
    # do not read the output of any of these layers.
    for block in sorted(attention, key=lambda call: -call.begun):
        read += [call for call in reversed(tokens) if any(call.output is value for value in block.inputs)][:1]
    for call in (*read[:1], *reversed(tokens)):
        gradient = gradients[call.name]
        if gradient is None or _positions(layout.maps(gradient)) > 0:
            try:
                return call, trace.layout(call)
            except ValueError:
                continue
    return None
