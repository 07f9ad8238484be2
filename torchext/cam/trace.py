"""A traced forward pass of a model, and experiments about the position of each element of a layer's output.

Modules define the layout of most maps. It is not defined for tokens, which may stand in any order next to others, such
as class tokens, prompts or queries, and for maps of unknown modules. For them some cells of a grid over the input are
changed, and the layout is the one in which the changes of the output correlate with these cells. If there is none, the
positions are not known, and the caller has to define them.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from torchext._core.containers import tensors_in
from torchext.cam.layout import (
    Layout,
    Part,
    Reshaped,
    certain_layout,
    channel_sources,
    check_all_channels,
    has_proportions,
)
from torchext.cam.probe import Subject, first_tensor, replace_first, same_random_numbers

# Modules that mix tokens: their names, or those of their classes.
_MIXES_TOKENS = re.compile(r"(?<!fl)atte?n|mixer|mixing", re.IGNORECASE)
# The least correlation of changes and changed cells, for few cells and for many: chance is larger for few cells, and
# patches that overlap have a lower one.
_LEAST_AGREEMENT = (0.6, 0.4)
_CHANCES = 5  # the least correlation in standard deviations of that of unrelated cells
# The least difference from the next best correlation.
_LEAST_ADVANTAGE = 0.05
# The least number of cells that are tried in all experiments about a grid together.
_LEAST_CELLS = 48
# The least distance by which the centre of the changes moves, as a part of the dimension, if another end is changed.
_LEAST_MOVE = 0.04
# The most parts of a dimension of which the first and the last are changed to find the axes of a map.
_PARTS = 4
# A model may add this much padding before its first convolution.
_MOST_PADDING = 8
# The least number of rows of which parts are compared.
_LEAST_ROWS = 4
# Grids with fewer cells have to be all tokens of a sequence.
_FEW_CELLS = 8
# The number of elements of outputs that one pass of an experiment keeps, and that all passes keep together.
_KEPT_PER_PASS, _KEPT = 2**21, 2**25
# The number of grids that are tried for a sequence, and that of tokens before the grid if no module shows it.
_MOST_GRIDS, _MOST_TOKENS_BEFORE = 8, 2


_AnyLayout = TypeVar("_AnyLayout", Layout, Reshaped)


class Call(NamedTuple):
    """The last call of a module: its inputs and output, the number of calls before it, and how often it was called.

    The output is the first tensor of several if it is not alone.
    """

    name: str
    module: nn.Module
    inputs: list[Any]
    output: Tensor
    begun: int
    times: int
    is_alone: bool


class _Experiment(NamedTuple):
    """A change of the sample: in the cells that are True, along these axes, of this stride or of equal parts for 0."""

    cells: Tensor
    axes: tuple[int, ...]
    strides: tuple[int, ...]


_NOWHERE, _EVERYWHERE = (_Experiment(torch.tensor(everywhere), (), ()) for everywhere in (False, True))


@contextmanager
def _traced(model: nn.Module, calls: dict[str, Call]) -> Iterator[None]:
    starts = itertools.count()
    begun: defaultdict[nn.Module, list[int]] = defaultdict(list)  # a call that raises never ends
    counts: Counter[str] = Counter()

    def before(module: nn.Module, args: Any) -> None:
        begun[module].append(next(starts))

    def after(name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            began, tensor = begun[module].pop(), first_tensor(output)
            calls.pop(name, None)  # calls are in the order in which the last one of each module ended
            counts[name] += 1
            if not isinstance(tensor, Tensor):
                return None
            is_alone = tensor is output
            if not is_alone:
                # A module inside may have the same output. Only a copy shows whether the model reads it from this one.
                tensor = tensor.clone()
            calls[name] = Call(name, module, [*args, *kwargs.values()], tensor, began, counts[name], is_alone)
            return None if is_alone else replace_first(output, tensor)

        return hook

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if name and not isinstance(module, torch.jit.ScriptModule):
                for handle in (
                    module.register_forward_pre_hook(before),
                    module.register_forward_hook(after(name), with_kwargs=True),
                ):
                    stack.callback(handle.remove)
        yield


class Trace:
    """One forward pass of a model.

    Attributes:
        calls: the last call of each module, in the order in which they ended.
        output: the model's output.
    """

    def __init__(self, subject: Subject, sample: Any, with_graph: bool) -> None:
        self.subject = subject
        self.sample = sample.detach() if isinstance(sample, Tensor) else sample
        if with_graph and isinstance(sample, Tensor) and sample.is_floating_point():
            sample = self.sample.clone().requires_grad_()
        calls: dict[str, Call] = {}
        with _traced(subject.model, calls), torch.set_grad_enabled(with_graph), self._same_random_numbers():
            self.output = subject(sample)
        self.calls = list(calls.values())
        self._sources = channel_sources(subject.model)
        self._mixers = _token_mixers(subject.model)
        self._passes: defaultdict[Any, dict[str, Tensor]] = defaultdict(dict)
        self._left_to_keep = _KEPT
        if isinstance(self.sample, Tensor):
            self._others = _other_values(self.sample)

    def _same_random_numbers(self) -> AbstractContextManager[None]:
        """Without these, outputs of a model that draws random numbers differ for equal inputs."""
        tensors = tensors_in(self.sample)
        return same_random_numbers(tensors[0].device if tensors else torch.device("cpu"))

    def of(self, name: str, module: nn.Module) -> Call:
        """The last call of a module, which may have several names."""
        for call in reversed(self.calls):
            if call.module is module:
                return call
        raise ValueError(f"layer: the forward pass of one sample did not run {name!r}")

    def is_certain(self, call: Call) -> bool:
        """Whether modules define the layout of a call's output."""
        return self._certain(call) is not None

    def _certain(self, call: Call) -> Layout | None:
        return certain_layout(call.module, call.output.shape, self._sources[call.module], self.sample)

    def layout(self, call: Call) -> Layout:
        """The layout of a call's output.

        Raises:
            ValueError: its positions are not a grid of the input, or it is not known which.
        """
        check_all_channels(call.name, self._sources[call.module], call.output)
        shape, sample = tuple(call.output.shape), self.sample
        layout = self._certain(call)
        if isinstance(sample, Tensor) and shape[:1] != sample.shape[:1]:
            layout = None
        elif layout is not None and math.prod(layout.grid) > 1:
            axes = None if self._may_be_tokens_of_frames(layout) else self.axes_of(call, layout)
            layout = layout._replace(axes=axes) if axes or not self._has_axes(layout) else None
        elif isinstance(sample, Tensor) and layout is None and 3 <= len(shape) <= 5 and 0 not in shape:
            layout = self._sequence(call) if len(shape) == 3 else self._map(call)
        if layout is not None and math.prod(layout.grid) > 1:
            return self.with_padding(layout)
        if isinstance(sample, Tensor):
            batch, input = len(sample), f"an input {_in_text(sample.shape, len(sample))}"
        else:
            batch, input = -1, "the input"
        raise ValueError(
            f"layer: expected an output whose positions are a grid of {input}, got {_in_text(shape, batch)} from "
            f"{call.name!r}; choose another layer, or pass reshape=, a function from this output to maps (B, C, *S)"
        )

    def axes_of(self, call: Call, layout: Layout | Reshaped) -> tuple[int, ...] | None:
        """The input's dimensions to which those of maps belong, if that is clear."""
        if not isinstance(self.sample, Tensor):
            return None
        found = self._axes(call, layout.maps)[1:]
        usual = tuple(range(2, self.sample.dim()))
        # Windows and their positions, and frames and tokens, are two dimensions as well, but of channels-last outputs.
        is_channels_last = isinstance(layout, Layout) and layout.channels_last
        if not is_channels_last and has_proportions(layout.size, self.sample.shape[2:]) and self._has_usual_channels():
            # Where the experiments gave no answer, it is the usual one.
            found = tuple(axis or other for axis, other in zip(found, usual, strict=True))
        return found if _are_axes(found) and self._are_sizes_of(layout.size, found) else None

    def with_padding(self, layout: _AnyLayout) -> _AnyLayout:
        """The layout with the parts of its maps on which the sample lies. The others are padding."""
        reader = self._reader()
        return layout if reader is None else layout._replace(reader=reader.name, covered=self._covered(reader, layout))

    def _covered(self, reader: Call, layout: Layout | Reshaped) -> tuple[Part, ...] | None:
        """The parts if the first convolution reads another size than the sample's, and the same values for others."""
        axes = layout.axes
        if axes is None or min(axes) < 2 or reader.inputs[0].shape[2:] == self.sample.shape[2:]:
            return None
        read: list[Tensor] = []

        def keep(module: nn.Module, args: Any, kwargs: Any) -> None:
            read.append(next(iter((*args, *kwargs.values()))).detach())

        with torch.no_grad(), self._same_random_numbers(), ExitStack() as stack:
            stack.callback(reader.module.register_forward_pre_hook(keep, with_kwargs=True).remove)
            self.subject(torch.where(self._others == self.sample, _far_values(self.sample), self._others))
        before, after = reader.inputs[0].detach(), read[-1]
        if after.shape != before.shape:
            return None
        changed = (after != before).flatten(0, 1).any(0)
        parts = [_part(changed, axis - 2, reader.module) for axis in sorted(axes)]
        return tuple(parts) if any(part.stop - part.start < part.total for part in parts) else None

    def _reader(self) -> Call | None:
        """The first convolution, if it reads the sample, possibly of another size."""
        first = min((c for c in self.calls if isinstance(c.module, nn.modules.conv._ConvNd)), key=_begun, default=None)
        if first is None or not isinstance(self.sample, Tensor) or not first.inputs:
            return None
        read = first.inputs[0]
        is_sample = isinstance(read, Tensor) and read.dim() == self.sample.dim() > 2
        return first if is_sample and read.shape[:2] == self.sample.shape[:2] else None

    def _has_axes(self, layout: Layout) -> bool:
        """Whether each dimension of a grid has to belong to one of the input."""
        # Frequencies of a signal are a dimension of no axis.
        return isinstance(self.sample, Tensor) and len(layout.grid) <= self.sample.dim() - 2

    def _may_be_tokens_of_frames(self, layout: Layout) -> bool:
        """Whether a grid has more dimensions than a sequence, but fewer than the input."""
        return isinstance(self.sample, Tensor) and layout.channels_last and 1 < len(layout.grid) < self.sample.dim() - 2

    def _are_sizes_of(self, grid: Sequence[int], axes: Sequence[int]) -> bool:
        """Whether a grid enlarges all axes or none: the coordinates of many boxes, for example, are no map."""
        pairs = [(size, self.sample.shape[axis]) for size, axis in zip(grid, axes, strict=True)]
        return not (any(size > side for size, side in pairs) and any(2 * size < side for size, side in pairs))

    def _has_usual_channels(self) -> bool:
        """Whether a convolution reads the sample, so that its channels are dimension 1."""
        return any(map(self._reads_the_sample, self.calls))

    def _reads_the_sample(self, call: Call) -> bool:
        """Whether it is a convolution of the sample, possibly padded: the channels are dimension 1 then."""
        read = call.inputs[0] if isinstance(call.module, nn.modules.conv._ConvNd) and call.inputs else None
        if not isinstance(read, Tensor) or read.shape[:2] != self.sample.shape[:2] or read.dim() != self.sample.dim():
            return False
        return all(0 <= p - s <= _MOST_PADDING for p, s in zip(read.shape[2:], self.sample.shape[2:], strict=True))

    def _map(self, call: Call) -> Layout | None:
        """The layout of a map of an unknown module."""
        axes = self._axes(call, None)
        for channels_last, found in ((False, axes[1:]), (True, axes[:-1])):
            if _are_axes(found):
                grid = call.output.shape[1:-1] if channels_last else call.output.shape[2:]
                layout = Layout(tuple(grid), channels_last, axes=found)
                is_map = not self._may_be_tokens_of_frames(layout) and self._are_sizes_of(grid, found)
                return layout if is_map else None
        return None

    def _sequence(self, call: Call) -> Layout | None:
        """The layout of a sequence of tokens, or of a signal."""
        for channels_last in (True, False):
            for grid, strides in self._grids(call.output.shape[1 if channels_last else 2]).items():
                for axes in self._choices_of_axes(grid):
                    first = self._first_of(call, grid, channels_last, axes, strides)
                    if first is not None:
                        return Layout(grid, channels_last, first, axes)
        return None

    def _grids(self, positions: int) -> dict[tuple[int, ...], tuple[int, ...] | None]:
        """The grids that a number of tokens may have, those that a convolution shows first, with its strides."""
        shown: dict[tuple[int, ...], tuple[int, ...] | None] = {}
        for call in reversed(self.calls):
            if isinstance(call.module, nn.modules.conv._ConvNd):
                grid, strides = tuple(call.output.shape[2:]), tuple(call.module.stride)
                shown.setdefault(grid, strides)
                frames = len(call.output) // len(self.sample)
                if frames > 1:
                    shown.update({(frames, *grid): (1, *strides), (*grid, frames): (*strides, 1)})
        # Layers may merge neighbouring tokens.
        merged = {
            tuple(side // 2**k for side in grid): tuple(2**k * stride for stride in strides or ())
            for k in range(6)
            for grid, strides in shown.items()
            if all(side % 2**k == 0 for side in grid)
        }
        spatial = tuple(self.sample.shape[2:]) or tuple(self.sample.shape[1:])
        before = range(_MOST_TOKENS_BEFORE + 1)
        regular = {grid: None for count in before for grid in _regular_grids(positions - count, spatial)}
        near = {grid: strides for grid, strides in merged.items() if positions // 3 <= math.prod(grid)}
        found = [(grid, s) for grid, s in {**regular, **near}.items() if 1 < math.prod(grid) <= positions]
        # Of a few tokens, some are by chance where those of a smaller grid would be.
        found = [(grid, s) for grid, s in found if math.prod(grid) in (positions, *range(_FEW_CELLS, positions))]
        return dict(sorted(found, key=lambda item: item[1] is None)[:_MOST_GRIDS])

    def _choices_of_axes(self, grid: tuple[int, ...]) -> list[tuple[int, ...]]:
        """The dimensions of the input to which a grid may belong, the usual ones first."""
        sides = self.sample.shape
        usual = tuple(range(len(sides) - len(grid), len(sides)))
        is_usual = len(grid) == len(sides) - 2 and self._has_usual_channels()
        choices = [usual] if is_usual else [usual, *itertools.permutations(range(1, len(sides)), len(grid))]
        fits = [all(sides[axis] >= size for axis, size in zip(axes, grid, strict=True)) for axes in choices]
        return [axes for axes, fit in dict(zip(choices, fits, strict=True)).items() if fit and min(axes) > 0]

    # The experiments.

    def _first_of(
        self, call: Call, grid: tuple[int, ...], channels_last: bool, axes: tuple[int, ...],
        strides: tuple[int, ...] | None,
    ) -> int | None:  # fmt: skip
        """The index of the first token of a grid in a sequence, if changed cells of the input change their tokens."""
        cells = math.prod(grid)
        generator = torch.Generator().manual_seed(0)
        for_few_cells, for_many_cells = _LEAST_AGREEMENT
        least = min(max(_CHANCES / math.sqrt(cells), for_many_cells), for_few_cells)
        for muted in (True, False):
            agreement: Tensor | None = None
            changes, expected = [], []
            for _ in range(max(2, math.ceil(_LEAST_CELLS / cells))):
                chosen = (torch.randperm(cells, generator=generator) < cells // 2).view(grid)
                experiment = _Experiment(chosen, axes, strides or (0,) * len(grid))
                change = self._change(call, experiment, muted).sum(1 if channels_last else 0)
                changes.append(change)
                expected.append(self._changed_cells(experiment))
                found = _agreement(change, expected[-1])
                agreement = found if agreement is None else torch.minimum(agreement, found)
                best = agreement.sort(descending=True).values[:2].tolist()
                if best[0] < least or (len(best) > 1 and best[0] < best[1] + _LEAST_ADVANTAGE):
                    break
            else:
                assert agreement is not None
                first = int(agreement.argmax())
                tokens = torch.stack(changes)[:, first : first + cells].unflatten(1, grid)
                if _agrees_everywhere(tokens, torch.stack(expected).unflatten(1, grid), float(agreement[first])):
                    return first
        return None

    def _axes(self, call: Call, maps: Callable[[Tensor], Tensor] | None) -> tuple[int, ...]:
        """For each dimension of maps but the batch, the axis of the input to which it belongs; 0 if that is not clear.

        A change of the last part of the axis instead of the first one moves the centre of the changes along it. For a
        dimension in reverse order, the number is negative, as for all dimensions if only other parts have an effect:
        the model removes these then. Of two experiments, with and without muted modules, the one in which more axes
        are clear counts.
        """
        channels = 1 if self._has_usual_channels() else 0
        axes = [axis for axis in range(1 + channels, self.sample.dim()) if self.sample.shape[axis] > 1]
        found: list[tuple[int, ...]] = []
        for muted in (True, False) if self._mixers else (False,):
            moves = []
            for axis in axes:
                # A network with strides may read only a few rows, one for each row of the map.
                parts = min(_PARTS, *(size for size in (self.sample.shape[axis], *call.output.shape[1:]) if size > 1))
                first, last = (
                    self._change(call, _Experiment(torch.arange(parts) == part, (axis,), (0,)), muted, maps)
                    for part in (0, parts - 1)
                )
                if not (first.any() and last.any()):
                    is_read = not muted and self._change(call, _EVERYWHERE, muted, maps).any()
                    found.append((-1 if is_read else 0,) * first.dim())
                    break
                moves.append(_centres(last) - _centres(first))
            else:
                found.append(tuple(_axis(axes, column) for column in torch.stack(moves).T))
                if _are_axes(found[-1][1:]) or _are_axes(found[-1][:-1]):
                    break
        return max(found, key=lambda axes: (sum(axis > 0 for axis in axes), -axes.count(0)))

    def _cells_of(self, experiment: _Experiment) -> list[Tensor]:
        """The cell to which each index of each axis of an experiment belongs."""
        rows = zip(experiment.cells.shape, experiment.axes, experiment.strides, strict=True)
        return [_cells(self.sample.shape[axis], count, stride) for count, axis, stride in rows]

    def _changed(self, experiment: _Experiment) -> Tensor:
        """The sample with changed values in the cells of an experiment."""
        cells, axes = experiment.cells, experiment.axes
        for dim, index in enumerate(self._cells_of(experiment)):
            cells = cells.index_select(dim, index)
        order = sorted(range(len(axes)), key=axes.__getitem__)
        sizes = [size if axis in axes else 1 for axis, size in enumerate(self.sample.shape)]
        return torch.where(cells.permute(order).reshape(sizes).to(self.sample.device), self._others, self.sample)

    def _changed_cells(self, experiment: _Experiment) -> Tensor:
        """In which cells the input differs from the sample: values that replace each other may be equal."""
        axes = list(experiment.axes)
        input = self._changed(experiment)
        differs = (input != self.sample).movedim(axes, list(range(len(axes)))).flatten(len(axes)).any(-1).cpu()
        for dim, index in enumerate(self._cells_of(experiment)):
            sizes = [experiment.cells.shape[dim] if d == dim else size for d, size in enumerate(differs.shape)]
            differs = torch.zeros(sizes).index_add(dim, index, differs.float())
        return differs.flatten() > 0

    def _change(
        self, call: Call, experiment: _Experiment, muted: bool, maps: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """How much each element of a call's output, or of its maps, changes in an experiment, without the batch."""
        change = self._output(call, experiment, muted) - self._output(call, _NOWHERE, muted)
        return (change if maps is None else maps(change)).abs().nan_to_num().sum(0).cpu()

    def _output(self, call: Call, experiment: _Experiment, muted: bool) -> Tensor:
        """The output of a call in an experiment.

        If `muted`, modules that mix tokens return 0: in a residual branch, they would spread a change over all tokens.
        """
        key = (experiment.cells.shape, *experiment.cells.flatten().tolist(), *experiment[1:], muted)
        kept = self._passes[key]
        if call.name in kept:
            return kept[call.name]
        outputs = self._run(call, experiment, muted)
        if self._left_to_keep > 0 or experiment is _NOWHERE:  # every experiment is compared with that one
            kept.update(outputs)
        return outputs[call.name]

    def _run(self, call: Call, experiment: _Experiment, muted: bool) -> dict[str, Tensor]:
        """The outputs in an experiment of a call and of some calls before it, which may be tried after it."""
        kept, left = {call.name: call}, min(_KEPT_PER_PASS, self._left_to_keep)
        for other in reversed(self.calls[: [each.name for each in self.calls].index(call.name)]):
            left -= other.output.numel()
            if left < 0:
                break
            kept[other.name] = other
        outputs: dict[str, Tensor] = {}

        def keep(name: str) -> Any:
            def hook(module: nn.Module, args: Any, output: Any) -> None:
                tensor = first_tensor(output)
                if isinstance(tensor, Tensor):
                    outputs[name] = tensor.detach().clone()

            return hook

        with ExitStack() as stack, torch.no_grad():
            for name, other in kept.items():
                stack.callback(other.module.register_forward_hook(keep(name)).remove)
            for module in self._mixers if muted else ():
                stack.callback(module.register_forward_hook(_mute, with_kwargs=True).remove)
            stack.enter_context(self._same_random_numbers())
            self.subject(self._changed(experiment))
        if outputs[call.name].shape != call.output.shape:
            shape = tuple(outputs[call.name].shape)
            raise ValueError(f"layer: expected outputs of one size from {call.name!r}, got {shape}")
        self._left_to_keep -= sum(output.numel() for output in outputs.values())
        return {
            name: output.to(torch.promote_types(output.dtype, torch.float32))
            for name, output in outputs.items()
            if output.shape == kept[name].output.shape
        }


def _in_text(shape: Sequence[int], batch: int) -> str:
    return f"({', '.join(map(str, ('B' if shape[:1] == (batch,) else shape[0], *shape[1:])))})" if shape else "()"


def _other_values(sample: Tensor) -> Tensor:
    """Other values for each element of a sample: those of other elements, since these are valid also for indices."""
    generator = torch.Generator().manual_seed(0)
    others = sample.flatten()[torch.randperm(sample.numel(), generator=generator).to(sample.device)].view(sample.shape)
    if torch.equal(others, sample):  # a constant
        if sample.is_floating_point():
            return sample + torch.randn(sample.shape, generator=generator).to(sample)
        return torch.where(sample > 0, 0, 1).to(sample)
    return others


def _begun(call: Call) -> int:
    return call.begun


def _part(changed: Tensor, dim: int, reader: nn.Module) -> Part:
    """The part of a dimension in which the values that a convolution reads change."""
    rows = changed.movedim(dim, 0).flatten(1).any(1).nonzero().flatten()
    total = changed.shape[dim]
    if not len(rows):
        return Part(0, total, total)
    start, stop = int(rows[0]), int(rows[-1]) + 1
    # The model may pad the input as the convolution would, by what its kernel reads beyond its stride.
    kernel, dilation, stride, padding = (
        getattr(reader, name) for name in ("kernel_size", "dilation", "stride", "padding")
    )
    own = dilation[dim] * (kernel[dim] - 1) + 1 - stride[dim]
    own -= own if isinstance(padding, str) else 2 * padding[dim]
    return Part(0, total, total) if total - (stop - start) <= own else Part(start, stop, total)


def _far_values(sample: Tensor) -> Tensor:
    """The largest value for each element that is the smallest, and the smallest for the others."""
    low, high = sample.amin(), sample.amax()
    return torch.where(sample > low, low, high)


def _cells(size: int, count: int, stride: int = 0) -> Tensor:
    """The cell to which each index of a dimension belongs: by the stride if cells of that size about cover it."""
    fits = 3 * size <= 4 * stride * count <= 5 * size
    return (torch.arange(size) // stride).clamp_max(count - 1) if fits else torch.arange(size) * count // size


def _token_mixers(model: nn.Module) -> list[nn.Module]:
    """The modules that mix tokens, without those inside of them."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if name and mixes_tokens(name, module) and not any(name.startswith(f"{outer}.") for outer in found):
            found[name] = module
    return list(found.values())


def mixes_tokens(name: str, module: nn.Module) -> bool:
    """Whether a module is attention or the like, by its name."""
    return bool(_MIXES_TOKENS.search(type(module).__name__) or _MIXES_TOKENS.search(name.rpartition(".")[2]))


def _mute(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
    """Set the output of a residual branch to 0."""
    read = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
    written = first_tensor(output)
    if read is None or not isinstance(written, Tensor) or read.shape != written.shape:
        return None
    return replace_first(output, torch.zeros_like(written))


def _agreement(change: Tensor, changed: Tensor) -> Tensor:
    """The correlation of changes ``(N,)`` with changed cells, for each token that may be the first of the cells."""
    # Large changes count as much as changes of usual size.
    change = change / (change + change.median() + torch.finfo(change.dtype).tiny)
    windows = change.unfold(0, changed.numel(), 1)
    windows = windows - windows.mean(1, keepdim=True)
    expected = changed.to(change.dtype) - changed.to(change.dtype).mean()
    size = windows.norm(dim=1) * expected.norm()
    return (windows @ expected) / size.clamp_min(torch.finfo(change.dtype).tiny)


def _agrees_everywhere(changes: Tensor, changed: Tensor, agreement: float) -> bool:
    """Whether the correlation in each half of a grid, and in every second row of each dimension, is about the whole's.

    The changes are ``(experiments, *grid)``. In tokens whose rows are in alternate directions, half of them agree.
    """
    for dim in range(1, changes.dim()):
        size = changes.shape[dim]
        if size < _LEAST_ROWS:
            continue
        for part in (slice(0, None, 2), slice(1, None, 2), slice(0, size // 2), slice(size // 2, None)):
            rows = torch.arange(size)[part]
            some = [tensor.index_select(dim, rows).flatten() for tensor in (changes, changed)]
            if float(_agreement(some[0], some[1])) < agreement / 2:
                return False
    return True


def _centres(change: Tensor) -> Tensor:
    """The centre of the changes along each dimension, from 0 to 1."""
    total = change.sum().clamp_min(torch.finfo(change.dtype).tiny)
    centres = []
    for dim, size in enumerate(change.shape):
        profile = change.movedim(dim, 0).reshape(size, -1).sum(1)
        centres.append((profile * (torch.arange(size) + 0.5)).sum() / (total * size))
    return torch.stack(centres)


def _axis(axes: Sequence[int], moves: Tensor) -> int:
    """The axis to which a dimension belongs, by the moves for each axis; 0 if not clear, negative if reversed."""
    most, *others = moves.abs().sort(descending=True).values.tolist()
    if most < _LEAST_MOVE or any(most < 2 * other for other in others):
        return 0
    index = int(moves.abs().argmax())
    return axes[index] if moves[index] > 0 else -axes[index]


def _are_axes(found: Sequence[int]) -> bool:
    """Whether each dimension belongs to an axis of its own."""
    return min(found) > 0 and len(set(found)) == len(found)


def _regular_grids(tokens: int, spatial: Sequence[int]) -> list[tuple[int, ...]]:
    """The grids of a number of tokens that divide all sides of an image by about the same number."""
    if tokens < 2:
        return []
    if len(spatial) == 1:
        return [(tokens,)]
    if len(spatial) == 2:
        height = math.sqrt(tokens * spatial[0] / spatial[1])
        rows = {math.floor(height), math.ceil(height)} - {0}
        return [(row, tokens // row) for row in sorted(rows) if tokens % row == 0]
    # Height and width of a video are divided by the same number, frames possibly by another.
    frames = [count for count in range(1, spatial[0] + 1) if tokens % count == 0 and spatial[0] % count == 0]
    return [(count, *grid) for count in frames for grid in _regular_grids(tokens // count, spatial[1:])]
