"""Where channels and space are in a layer's output."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# Modules for which PyTorch defines that channels are the second dimension, or the last.
_CHANNELS_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)
_CHANNELS_LAST = (nn.Linear, nn.Embedding, nn.RNNBase)
# Channels are the last dimension for these classes, but not for their subclasses, which may normalise the second.
_NORMS_LAST = (nn.LayerNorm, nn.RMSNorm)


# A convolution whose padding does not keep the size of a map changes it by at most this much.
_BORDER = 2
# The limit for the ratio of the numbers by which two sides are divided, as a logarithm.
_DISTORTION = 0.2


class Part(NamedTuple):
    """The positions of a dimension from `start` to `stop`, of `total`."""

    start: int
    stop: int
    total: int


class Layout(NamedTuple):
    """Where channels and space are in a layer's output.

    Attributes:
        grid: the spatial size, in the order of the output's dimensions.
        channels_last: whether the channels come after it.
        first: the index of the first token of the grid; None if the output is not a sequence of tokens.
        axes: the dimension of the model's input to which each dimension of the grid belongs; None if it is unknown.
        reader: the name of the first convolution, if it reads the model's input.
        covered: the part of each dimension of the maps on which the input lies; None if it is all.
    """

    grid: tuple[int, ...]
    channels_last: bool
    first: int | None = None
    axes: tuple[int, ...] | None = None
    reader: str | None = None
    covered: tuple[Part, ...] | None = None

    @property
    def _order(self) -> list[int]:
        """The dimensions of the grid in the order of the input's dimensions."""
        rank = range(len(self.grid))
        return list(rank) if self.axes is None else sorted(rank, key=self.axes.__getitem__)

    @property
    def size(self) -> tuple[int, ...]:
        """The spatial size of the maps."""
        return tuple(self.grid[dim] for dim in self._order)

    def maps(self, output: Tensor) -> Tensor:
        """The output, possibly of several targets ``(T, …)``, as ``(…, B, C, *size)``, without a copy."""
        if self.first is not None:
            dim = -2 if self.channels_last else -1
            output = output.narrow(dim, self.first, math.prod(self.grid)).unflatten(dim, self.grid)
        rank = len(self.grid)
        if self.channels_last:
            output = output.movedim(-1, -1 - rank)
        return output.movedim([dim - rank for dim in self._order], list(range(-rank, 0)))

    def channel_mask(self, mask: Tensor, output: Tensor) -> Tensor:
        """A mask ``(B, C)`` as one of the layer's output, in which elements that are in no map are kept."""
        ones = (1,) * (output.dim() - 2)
        mask = mask.view(len(mask), *ones, -1) if self.channels_last else mask.view(*mask.shape, *ones)
        if self.first is None:
            return mask
        dim, count = 1 if self.channels_last else 2, math.prod(self.grid)
        counts = (self.first, count, output.shape[dim] - self.first - count)
        parts = (torch.ones_like(mask), mask, torch.ones_like(mask))
        return torch.cat([part.repeat_interleave(n, dim) for part, n in zip(parts, counts, strict=True)], dim)


class Reshaped(NamedTuple):
    """The layout of an output that a function of the caller turns into maps."""

    function: Callable[[Tensor], Tensor]
    output: tuple[int, ...]
    size: tuple[int, ...]
    axes: tuple[int, ...] | None = None
    first: int | None = None
    reader: str | None = None
    covered: tuple[Part, ...] | None = None

    def maps(self, output: Tensor) -> Tensor:
        """As `Layout.maps`."""
        if output.dim() > len(self.output):
            return torch.stack([self.function(target) for target in output])
        return self.function(output)

    def channel_mask(self, mask: Tensor, output: Tensor) -> Tensor:
        """As `Layout.channel_mask`."""
        maps, to_output = torch.func.vjp(self.function, torch.zeros_like(output))[:2]
        (removed,) = to_output((1 - mask).view(*mask.shape, *(1,) * (maps.dim() - 2)).expand_as(maps).contiguous())
        return 1 - removed


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
    layout: Layout | Reshaped
    activations: Tensor
    calls: int

    @property
    def maps(self) -> Tensor:
        """The activations as ``(B, C, *S)``."""
        return self.layout.maps(self.activations)


def reshaped(function: Callable[[Tensor], Tensor], output: Tensor) -> Reshaped:
    """The layout by a function of the caller.

    Raises:
        TypeError: the function does not return a float tensor.
        ValueError: it does not return maps ``(B, C, *S)``.
    """
    maps = function(output)
    if not isinstance(maps, Tensor) or not maps.is_floating_point():
        raise TypeError(f"reshape: expected a function that returns a float tensor, got {type(maps).__name__}")
    if not 3 <= maps.dim() <= 5 or 0 in maps.shape:
        raise ValueError(
            f"reshape: expected a function that returns maps (B, C, *S) with one to three spatial dimensions, got "
            f"{tuple(maps.shape)} for an output {tuple(output.shape)}"
        )
    return Reshaped(function, tuple(output.shape), tuple(maps.shape[2:]))


def certain_layout(layer: nn.Module, output: Sequence[int], source: nn.Module, input: Any) -> Layout | None:
    """The layout of an output if the modules define it, else None. The axes are not known.

    Args:
        layer: the module with this output.
        output: its size.
        source: the module that defines the number of channels, as `channel_sources` finds it.
        input: the model's input.
    """
    if not 3 <= len(output) <= 5 or 0 in output:
        return None
    if len(output) == 3 and isinstance(input, Tensor) and input.dim() > 3:
        return None  # a sequence of an image, or of a video, consists of tokens
    if isinstance(layer, nn.RNNBase) and layer.batch_first:
        return Layout(tuple(output[1:-1]), channels_last=True)
    channels, rank = _channels(source), len(output) - 2
    # If the last dimension has the same size, channels may have been moved there, except in the source itself.
    if isinstance(source, _CHANNELS_FIRST) and output[1] == channels and (layer is source or output[-1] != channels):
        is_flattened = isinstance(source, nn.modules.conv._ConvNd) and len(source.kernel_size) != rank
        return None if is_flattened else Layout(tuple(output[2:]), channels_last=False)
    # The order of positions is only known in maps: tokens may be in any.
    if isinstance(source, _CHANNELS_LAST + _NORMS_LAST) and rank > 1 and output[-1] == channels != output[1]:
        return Layout(tuple(output[1:-1]), channels_last=True)
    return None


def has_proportions(grid: Sequence[int], image: Sequence[int]) -> bool:
    """Whether a grid divides all sides of an image by about the same number, but for a border of a few positions."""
    if len(grid) != len(image):
        return False
    borders = [min(_BORDER, size // 4) for size in grid]
    most = [math.log(side / (size - border)) for size, side, border in zip(grid, image, borders, strict=True)]
    least = [math.log(side / (size + border)) for size, side, border in zip(grid, image, borders, strict=True)]
    return max(least) - min(most) < _DISTORTION


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


def check_all_channels(name: str, source: nn.Module, output: Tensor) -> None:
    """Check that an output has all channels, not those of one rank, as after weights that are sharded along them."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return
    from torch.distributed.tensor import DTensor

    sharded = [
        place.is_shard(0) and parameter.device_mesh.size(dim) > 1
        for parameter in source.parameters(recurse=False)
        if isinstance(parameter, DTensor)
        for dim, place in enumerate(parameter.placements)
    ]
    if any(sharded) and not isinstance(output, DTensor):
        raise ValueError(
            f"layer: expected all channels, got those of one rank from {name!r}, since its weights are a DTensor that "
            "is sharded along its outputs; choose a layer after which the channels are gathered or added up"
        )


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
