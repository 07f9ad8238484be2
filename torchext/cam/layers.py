"""Choice of the layer to explain, and the layout of its output."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torchext.cam.probe import first_tensor

Layer = nn.Module | str

# The largest number of class and register tokens that is tried.
_MOST_PREFIX_TOKENS = 16
# Patches are about square: the limit for the ratio of their sides, as a logarithm.
_SQUARE = 0.2
# A convolution whose padding does not keep the size of a map changes it by at most this much.
_BORDER = 2
# A sequence is padded by at most this much.
_MOST_PADDING = 16
# Modules for which PyTorch defines that channels are the second dimension, or the last.
_CHANNELS_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)
_CHANNELS_LAST = (nn.Linear, nn.Embedding, nn.RNNBase)
# Channels are the last dimension for these classes, but not for their subclasses, which may normalise the second.
_NORMS_LAST = (nn.LayerNorm, nn.RMSNorm)


class Layout(NamedTuple):
    """Where channels and space are in a layer's output.

    Attributes:
        grid: the spatial size.
        channels_last: whether the channels come after it.
        prefix: number of tokens before those of the grid; None if the output is not a sequence of tokens.
    """

    grid: tuple[int, ...]
    channels_last: bool
    prefix: int | None = None

    def maps(self, output: Tensor) -> Tensor:
        """The output ``(…, B, C, *S)`` or ``(…, B, N, C)`` as ``(…, B, C, *grid)``, without a copy."""
        if self.prefix is not None:
            output = output[..., self.prefix :, :].unflatten(-2, self.grid)
        return output.movedim(-1, -1 - len(self.grid)) if self.channels_last else output

    def channel_mask(self, mask: Tensor) -> Tensor:
        """View a mask ``(B, C)`` so that it broadcasts to the layer's output."""
        if self.prefix is not None:
            return mask.unsqueeze(1)
        ones = (1,) * len(self.grid)
        batch, channels = mask.shape
        return mask.view(batch, *ones, channels) if self.channels_last else mask.view(batch, channels, *ones)


def layout_of(
    layer: nn.Module,
    output: Sequence[int],
    input: Sequence[int],
    prefix: int | None = None,
    source: nn.Module | None = None,
) -> Layout:
    """The layout of an output.

    Args:
        layer: the module with this output. Convolutions, normalisations and linear layers define which dimension holds
            the channels.
        output: size of the layer's output.
        input: size of the model's input.
        prefix: number of tokens before those of the grid, if the model defines it.
        source: the module that defines the number of channels, as `channel_source` finds it; the layer itself if None.

    Raises:
        ValueError: an output without spatial dimensions, or with one that cannot be distinguished from the channels.
    """
    if not 3 <= len(output) <= 5 or 0 in output:
        raise ValueError(f"layer: expected an output (B, C, *S) with one to three spatial dims, got {tuple(output)}")
    image = tuple(input[2:])
    if len(output) == 3 and len(image) > 1:
        return _token_layout(output, image, prefix)
    if isinstance(layer, _CHANNELS_FIRST):
        channels_last = False
    elif isinstance(layer, _CHANNELS_LAST) or (type(layer) in _NORMS_LAST and _channels(layer) is not None):
        channels_last = True
    elif len(output) == 3:
        channels_last = _sequence_is_channels_last(source or layer, output, image)
    else:
        channels_last = _map_is_channels_last(source or layer, output, image)
    return Layout(tuple(output[1:-1] if channels_last else output[2:]), channels_last)


def channel_sources(model: nn.Module) -> dict[nn.Module, nn.Module]:
    """For each module the last one with a known number of channels, inside it or else registered before it."""
    last: nn.Module | None = None
    found: dict[nn.Module, nn.Module] = {}

    def visit(module: nn.Module) -> None:
        nonlocal last
        for child in module.children():
            if child not in found:  # a module may have several names
                visit(child)
        if _channels(module) is not None:
            last = module
        found[module] = last or module

    visit(model)
    return found


def channel_source(model: nn.Module, layer: nn.Module) -> nn.Module:
    """`channel_sources` of a single layer. The model is searched only if no module inside the layer has channels."""
    inside = channel_sources(layer)[layer]
    return channel_sources(model)[layer] if _channels(inside) is None else inside


def _channels(module: nn.Module) -> int | None:
    """The number of channels of the module's output, if its type defines it."""
    own = vars(module)  # a failed attribute lookup on a module is slow
    if isinstance(module, nn.RNNBase):
        return (module.proj_size or module.hidden_size) * (2 if module.bidirectional else 1)
    if isinstance(module, (*_CHANNELS_FIRST, *_CHANNELS_LAST)):
        names = ("out_channels", "num_features", "num_channels", "out_features", "embedding_dim")
        return next(int(own[name]) for name in names if name in own)
    normalized = own.get("normalized_shape")
    return normalized[0] if isinstance(normalized, (tuple, list)) and len(normalized) == 1 else None


def _channel_dim(source: nn.Module, output: Sequence[int]) -> int | None:
    """The dimension, 1 or -1, whose size is the number of channels. If both match, 1 after a convolution, else None."""
    dims = [dim for dim in (1, -1) if output[dim] == _channels(source)]
    return dims[0] if len(dims) == 1 or (dims and isinstance(source, _CHANNELS_FIRST)) else None


def _sequence_is_channels_last(source: nn.Module, output: Sequence[int], signal: Sequence[int]) -> bool:
    """Whether an output is ``(B, L, C)``, not ``(B, C, L)``."""
    dim = _channel_dim(source, output)
    if dim is not None:
        return dim == -1
    if len(signal) == 1 and max(output[1:]) > signal[0] + _MOST_PADDING >= min(output[1:]):
        return output[-1] > output[1]
    if _channels(source) is None:
        raise ValueError(
            f"layer: cannot distinguish channels from positions in an output {tuple(output)}; "
            "choose the convolution, normalisation or linear layer before or after it"
        )
    return not isinstance(source, _CHANNELS_FIRST)


def _map_is_channels_last(source: nn.Module, output: Sequence[int], image: Sequence[int]) -> bool:
    """Whether an output with two or three spatial dimensions is ``(B, *S, C)``, not ``(B, C, *S)``."""
    dim = _channel_dim(source, output)
    # After a convolution the last dimension may have this size by chance, or because channels were moved there.
    if dim == 1 or (dim == -1 and not isinstance(source, _CHANNELS_FIRST)):
        return dim == -1
    if len(image) != len(output) - 2:
        return False
    # A grid has the image's proportions, whether it is smaller or larger; the frames of a video may be divided by
    # another number. Maps are usually channels-first, so that these proportions need not be exact.
    first, last = tuple(output[2:]), tuple(output[1:-1])
    return _distortion(last[-2:], image[-2:]) < _distortion(first[-2:], image[-2:], _BORDER)


def _distortion(grid: Sequence[int], image: Sequence[int], border: int = 0) -> float:
    """The ratio of the factors by which the sides of the image were divided, as a logarithm.

    With `border`, the smallest ratio for a grid whose sides differ by up to `border`.
    """
    most = [math.log(i / max(g - border, 1)) for g, i in zip(grid, image, strict=True)]
    least = [math.log(i / (g + border)) for g, i in zip(grid, image, strict=True)]
    return max(0.0, max(least) - min(most))


def _token_layout(output: Sequence[int], image: Sequence[int], prefix: int | None) -> Layout:
    # The model's own number of prefix tokens is tried first. Some layers have fewer, before the class token is added.
    for counts in ((prefix or 0,), range(_MOST_PREFIX_TOKENS + 1)):
        fits = [
            (round(_distortion(grid, image), 3), count, grid)
            for count in counts
            if count < output[1]
            for grid in _grids(output[1] - count, image)
            if all(g <= i for g, i in zip(grid, image, strict=True))
        ]
        if fits and min(fits)[0] < _SQUARE:
            _, count, grid = min(fits)
            return Layout(grid, channels_last=True, prefix=count)
    raise ValueError(
        f"layer: expected tokens of a grid with the proportions of the input {tuple(image)}, got {tuple(output)}"
    )


def _grids(tokens: int, image: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """The possible grids of a number of tokens for an image."""
    if len(image) == 2:
        height = math.sqrt(tokens * image[0] / image[1])
        rows = {math.floor(height), math.ceil(height)} - {0}
        return ((row, tokens // row) for row in sorted(rows) if tokens % row == 0)
    # In a video, height and width are divided by the same number, frames possibly by another.
    frames = [count for count in range(1, image[0] + 1) if tokens % count == 0 and image[0] % count == 0]
    return ((count, *grid) for count in frames for grid in _grids(tokens // count, image[1:]))


def prefix_tokens(model: nn.Module) -> int | None:
    """The number of tokens before the patches, if a module of the model defines it, as in timm."""
    for module in model.modules():
        count = getattr(module, "num_prefix_tokens", None)
        if isinstance(count, int):
            return count
    return None


class Explained(NamedTuple):
    """A layer in one forward pass.

    Attributes:
        name: the layer's dotted name.
        module: the layer itself.
        layout: the layout of its output.
        activations: its output in the last call.
        calls: the number of calls.
    """

    name: str
    module: nn.Module
    layout: Layout
    activations: Tensor
    calls: int

    @property
    def maps(self) -> Tensor:
        """The activations as ``(B, C, *S)``."""
        return self.layout.maps(self.activations.detach())


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
        if module is layer:
            return name, module
    raise ValueError(f"layer: expected a module of the model, got a {type(layer).__name__} outside of it")


def check_runs_in_python(name: str, module: nn.Module) -> None:
    """Check that `module` is not a scripted one, in which Python hooks do not run."""
    if isinstance(module, torch.jit.ScriptModule):
        raise TypeError(f"{name}: expected a module that runs in Python, got a scripted or traced one")


class _Call(NamedTuple):
    """One call of a module: its inputs, its output, and the number of calls of modules that began before it."""

    name: str
    module: nn.Module
    inputs: list[Any]
    output: Tensor
    begun: int


@contextmanager
def _traced(model: nn.Module, calls: list[_Call]) -> Iterator[None]:
    begun = 0
    open_calls: list[int] = []

    def before(module: nn.Module, args: Any) -> None:
        nonlocal begun
        open_calls.append(begun)
        begun += 1

    def after(name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            began = open_calls.pop()
            tensor = first_tensor(output)
            if isinstance(tensor, Tensor):
                calls.append(_Call(name, module, [*args, *kwargs.values()], tensor, began))

        return hook

    handles = []
    for name, module in model.named_modules():
        if name and not isinstance(module, torch.jit.ScriptModule):
            handles += [
                module.register_forward_pre_hook(before),
                module.register_forward_hook(after(name), with_kwargs=True),
            ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


_PASSES_ON = (nn.Identity, nn.Dropout)
_MIXES_TOKENS = re.compile(r"atte?n|mixer|mixing", re.IGNORECASE)


def find(model: nn.Module, input: Tensor) -> tuple[str, nn.Module]:
    """Find the layer to explain, by one forward pass, when the caller names none.

    It is the last layer whose output has spatial dimensions. If that output is a sequence of tokens, it is the layer
    whose output the last attention block reads: after that block, the scores usually depend only on the class token.

    Raises:
        ValueError: no layer of the model has spatial dimensions, or no module runs.
    """
    # One sample is enough, except in training mode, where a normalisation may require several.
    sample = input if model.training else input[:1]
    calls: list[_Call] = []
    with _traced(model, calls), torch.no_grad():
        output = first_tensor(model(sample))
    if not calls:
        raise ValueError(
            "layer: expected a model that calls its modules, got one that calls none; for an exported model, explain "
            "the original one"
        )
    prefix, sources = prefix_tokens(model), channel_sources(model)
    spatial = [
        (call, layout) for call in calls if (layout := _spatial(call, sample, prefix, sources[call.module])) is not None
    ]
    # If the model's output is a map of scores, layers with as many channels hold scores, not features.
    classes = output.shape[1] if isinstance(output, Tensor) and output.dim() > 2 else None
    features = [(call, layout) for call, layout in spatial if layout.maps(call.output).shape[1] != classes] or spatial
    if not features:
        raise ValueError("layer: expected a model with a layer whose output has spatial dimensions, got none")
    last, layout = features[-1]
    if layout.prefix is not None:
        tokens = [call for call, found in features if found.prefix is not None]
        last = _read_by_last_attention(calls, tokens) or last
    # A container has the same output as its last child. The outermost of them is chosen, since its name is the best
    # known, and of several on one level the last, which may have changed the output in place.
    same = [call for call, _ in features if call.output is last.output and not isinstance(call.module, _PASSES_ON)]
    outermost = min(reversed(same or [last]), key=lambda call: call.name.count("."))
    return outermost.name, outermost.module


def _spatial(call: _Call, sample: Tensor, prefix: int | None, source: nn.Module) -> Layout | None:
    if call.output.shape[:1] != sample.shape[:1] or not call.output.is_floating_point():
        return None
    try:
        layout = layout_of(call.module, call.output.shape, sample.shape, prefix, source)
    except ValueError:
        return None
    rank = sample.dim() - 2
    return layout if math.prod(layout.grid) > 1 and len(layout.grid) == max(rank, 1) else None


def _read_by_last_attention(calls: Sequence[_Call], features: Sequence[_Call]) -> _Call | None:
    attention = [
        call
        for call in calls
        if _MIXES_TOKENS.search(type(call.module).__name__) or _MIXES_TOKENS.search(call.name.rpartition(".")[2])
    ]
    # The module that began last comes first. Modules inside of an attention block, such as its dropout or projection,
    # do not read the output of any of these layers.
    for call in sorted(attention, key=lambda call: -call.begun):
        inputs = [feature for feature in features if any(feature.output is value for value in call.inputs)]
        if inputs:
            return inputs[-1]
    return None
