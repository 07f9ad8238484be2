"""The outputs of a model for windows: their structure, their resolution, and what is kept of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, floor, gcd, lcm, prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchext._core.containers import map_leaves
from torchext._core.dtypes import COMPLEX_DTYPES, FLOAT_DTYPES, accumulation_dtype
from torchext._core.library import is_recorded, is_traced
from torchext.windows.merging import Blend, Layout, Record
from torchext.windows.tiling import Inside, Tiles, resize_weight
from torchext.windows.weight import Weight, cached_weight

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def check_output(path: str, output: Tensor, batch: int, rank: int, argmax: bool) -> None:
    """Check the dtype and the shape of one output of a model for a batch of windows."""
    if output.dtype not in FLOAT_DTYPES and (argmax or output.dtype not in COMPLEX_DTYPES):
        kinds = "a floating" if argmax else "a floating or complex"
        raise TypeError(f"model: expected {path} of {kinds} dtype, got {output.dtype}")
    if output.dim() != rank + 2 or output.shape[0] != batch or 0 in output.shape[1:]:
        raise ValueError(
            f"model: expected {path} of shape (B, C, *S) with B = {batch} and {rank} spatial dimensions, "
            f"got {tuple(output.shape)}"
        )
    if argmax and output.shape[1] == 1:
        raise ValueError(
            f"argmax: expected at least two channels, got one in {path}, whose labels would all be 0; "
            "compare the scores with a threshold instead"
        )


def _check_same_shape_and_dtype(path: str, output: Tensor, layout: Layout) -> None:
    if output.dtype != layout.dtype:
        raise TypeError(f"model: expected {path} of {layout.dtype} as for the first windows, got {output.dtype}")
    if output.shape[1:] != layout.output:
        expected = ("B", *layout.output)
        raise ValueError(
            f"model: expected {path} of shape {expected} as for the first windows, got {tuple(output.shape)}"
        )


def _tensors(output: Any) -> dict[str, Tensor]:
    """The tensors in a model's output by their path."""
    tensors: dict[str, Tensor] = {}

    def add(path: str, leaf: Any) -> None:
        if isinstance(leaf, Tensor):
            tensors[path] = leaf
        elif leaf is not None:
            kinds = "tensors in tuples, lists, mappings and dataclasses"
            raise TypeError(f"model: expected {kinds}, got {type(leaf).__name__} for {path}")

    map_leaves(output, add, "output")
    return tensors


def _looks_unpadded(size: Sequence[int], output: Sequence[int]) -> bool:
    """Whether an output of this size is rather that of a network without padding than one of another resolution.

    It is smaller than the window, and not a whole fraction of it. All axes of a resolution have the same ratio, and if
    the windows are not cubes, different differences.
    """
    axes = list(zip(size, output, strict=True))
    if not any(new < old and old % new for old, new in axes):
        return False
    return len({Fraction(new, old) for old, new in axes}) > 1 or len({old - new for old, new in axes}) == 1


@dataclass(frozen=True)
class Geometry:
    """Which windows the model gets, and which parts of its outputs are kept."""

    windows: Tiles
    kept: Tiles
    inside: Sequence[Inside]  # the part of each axis that is not padding
    halo: tuple[int, ...]
    scale: tuple[Fraction, ...] | None
    rounded: list[tuple[Fraction, ...]] = field(default_factory=list)  # ratios of outputs at rounded positions

    def _without_halo(self) -> tuple[int, ...]:
        return tuple(k - 2 * cut for k, cut in zip(self.windows.size, self.halo, strict=True))

    def _ratios(self, path: str, output: Sequence[int]) -> tuple[tuple[Fraction, ...], bool]:
        """The ratio of an output to the window for each axis, and whether the model has cut off the halo itself."""
        size, without_halo = self.windows.size, self._without_halo()
        own = tuple(Fraction(new, old) for new, old in zip(output, size, strict=True))
        if self.scale is not None:
            for expected in (size, without_halo):
                exact = [k * ratio for k, ratio in zip(expected, self.scale, strict=True)]
                if all(floor(e) <= new <= ceil(e) for e, new in zip(exact, output, strict=True)):
                    return self.scale, expected is not size
            if not _looks_unpadded(size, output) and all(
                (ratio / scale).denominator == 1 for ratio, scale in zip(own, self.scale, strict=True)
            ):
                return own, False
        elif not _looks_unpadded(size, output):
            return own, False
        elif any(self.halo) and tuple(output) == without_halo:
            return (Fraction(1),) * len(size), True
        margins = {old - new for old, new in zip(size, output, strict=True)}
        of_scale = "" if self.scale is None else f" with scale {as_code(self.scale)} and halo {as_code(self.halo)}"
        advice = f"scale={as_code(own)} if it has another resolution"
        if len(margins) == 1 and (margin := margins.pop()) > 0 and margin % 2 == 0:
            advice = f"halo={margin // 2} and scale=1 for a network without padding, " + advice
        raise ValueError(
            f"model: expected {path} to be a whole fraction or multiple of the window {size}{of_scale}, "
            f"got spatial size {tuple(output)}; pass {advice}"
        )

    def of_output(
        self, path: str, output: Sequence[int]
    ) -> tuple[Tiles, tuple[tuple[int, ...], ...] | None, tuple[Inside, ...]]:
        """The kept parts of an output, where they start in each window, and the part of the image without padding."""
        ratios, unpadded = self._ratios(path, output)
        inside: Iterable[Inside] = self.inside
        if not (self.windows.is_whole(ratios) and self.kept.is_whole(ratios)):
            if any(self.halo):
                advice = f"pass scale={as_code(ratios)}, with which they are"
                raise ValueError(f"halo: expected windows whose positions in {path} are integers; {advice}")
            self.rounded.append(ratios)
        windows, inside, extents = self.windows.scaled(ratios, output), self.inside, self.windows.extent
        if unpadded:
            tiles = windows
            lengths = (part.length - 2 * cut for part, cut in zip(inside, self.halo, strict=True))
            inside = [Inside(part.start, length) for part, length in zip(inside, lengths, strict=True)]
            extents = tuple(extent - 2 * cut for extent, cut in zip(extents, self.halo, strict=True))
        else:
            axes = zip(output, self.windows.size, self.kept.size, ratios, strict=True)
            tiles = self.kept.scaled(ratios, [new - int((k - kept) * ratio) for new, k, kept, ratio in axes])
        cuts = None
        if tiles != windows:
            pairs = zip(tiles.starts, windows.starts, strict=True)
            cuts = tuple(tuple(a - b for a, b in zip(*starts, strict=True)) for starts in pairs)
        kept_axes = zip(inside, extents, ratios, tiles.extent, strict=True)
        return tiles, cuts, tuple(part.scaled(extent, ratio, new) for part, extent, ratio, new in kept_axes)


def units_of(ratios: Sequence[Fraction]) -> tuple[int, ...]:
    """The positions of which windows have to start at multiples, so that an output starts at a whole position."""
    return tuple(ratio.denominator for ratio in ratios)


def common_divisor(ratios: Sequence[Fraction]) -> Fraction:
    """The largest number of which all ratios are multiples."""
    denominator = lcm(*(ratio.denominator for ratio in ratios))
    return Fraction(gcd(*(int(ratio * denominator) for ratio in ratios)), denominator)


def as_code(numbers: Sequence[Any]) -> str:
    """One number, or the numbers of all axes if they differ, as Python code."""
    return str(numbers[0]) if len(set(numbers)) == 1 else f"({', '.join(map(str, numbers))})"


@dataclass
class Outputs:
    """Merges all tensors that a model returns. The layout of each is determined from the first batch."""

    geometry: Geometry
    samples: int
    weight: Weight
    device: torch.device
    argmax: bool
    group: ProcessGroup | None
    incomplete: bool
    outs: dict[str, Any] | None
    structure: Any = None
    layouts: dict[str, Layout] = field(default_factory=dict)
    mergers: dict[str, Blend | Record] = field(default_factory=dict)
    numbers: list[int] = field(default_factory=list)  # of the windows until now, if there may be gaps
    count: int = 0

    def add(self, output: Any, batch: int, numbers: Sequence[int]) -> None:
        """Add the model's output for a batch. Windows after the last number are ignored."""
        leaves = _tensors(output)
        if not self.layouts:
            self.layouts = {path: self._layout_of(path, leaf, batch) for path, leaf in leaves.items()}
            self.structure = map_leaves(output, lambda _, leaf: leaf if leaf is None else 0, "output")
            if self.outs is not None and self.outs.keys() != leaves.keys():
                expected, got = (", ".join(paths) or "no arrays" for paths in (leaves, self.outs))
                raise ValueError(f"out: expected arrays for {expected}, got them for {got}")
        if leaves.keys() != self.layouts.keys():
            expected, got = (", ".join(paths) or "no tensors" for paths in (self.layouts, leaves))
            raise ValueError(f"model: expected {expected} as for the first windows, got {got}")
        merged = {}
        for path, layout in self.layouts.items():
            leaf = leaves[path].detach() if self.argmax else leaves[path]
            check_output(path, leaf, batch, len(layout.tiles.size), self.argmax)
            _check_same_shape_and_dtype(path, leaf, layout)
            merged[path] = layout.cut(leaf if len(numbers) == batch else leaf[: len(numbers)], numbers)
        mergers = {path: self._merger_for(path, windows) for path, windows in merged.items()}
        # Ranks wait for each other in each row, and therefore have to finish the rows of all outputs in one order.
        length = max(len(numbers), 1) if self.group is None else 1
        for begin in range(0, len(numbers), length) or (0,):
            part = numbers[begin : begin + length]
            if self.group is not None and part:
                self._advance(part[0] // prod(self.geometry.windows.grid[1:]))
            for path, merger in mergers.items():
                merger.add(merged[path][begin : begin + length], part)
        if self.incomplete and self.layouts:
            self.numbers += numbers
        self.count += len(numbers)

    def _advance(self, row: int) -> None:
        """Finish the rows of windows before this one, for all outputs in turn."""
        blends = [merger for merger in self.mergers.values() if isinstance(merger, Blend)]
        for done in range(min((blend.row for blend in blends), default=row), row):
            for blend in blends:
                blend.advance(done + 1)

    def finish(self) -> Any:
        """The results in the structure of the model's output."""
        if self.group is not None:
            self._advance(self.samples * self.geometry.windows.grid[0])
        return map_leaves(
            self.structure, lambda path, leaf: leaf if leaf is None else self.mergers[path].finish(), "output"
        )

    def _merger_for(self, path: str, windows: Tensor) -> Blend | Record:
        """The object that merges windows: a `Record` from the first windows with a gradient on, and for an export."""
        merger = self.mergers.get(path)
        is_exported = is_traced((windows,)) and self.group is None and self.outs is None
        if is_recorded(windows) or is_exported:
            for name, given in (("mesh", self.group), ("out", self.outs)):
                if given is not None:
                    raise ValueError(f"{name}: expected outputs without gradients (torch.no_grad), got {path} with one")
            if not isinstance(merger, Record):
                merger = Record(
                    self.layouts[path], merger, self.numbers if self.incomplete else list(range(self.count))
                )
        elif merger is None:
            out = None if self.outs is None else self.outs[path]
            merger = Blend(self.layouts[path], self.group, path.replace("output", "out", 1), out)
        self.mergers[path] = merger
        return merger

    def _layout_of(self, path: str, first: Tensor, batch: int) -> Layout:
        check_output(path, first, batch, len(self.geometry.windows.size), self.argmax)
        tiles, cuts, inside = self.geometry.of_output(path, first.shape[2:])
        weight, may_be_zero = self._weight_for(tiles, first), isinstance(self.weight, Tensor)
        first_window = (first.shape[1:], cuts, first.dtype, self.device)
        return Layout(*first_window, self.samples, tiles, inside, weight, may_be_zero, self.argmax, self.incomplete)

    def _weight_for(self, tiles: Tiles, windows: Tensor) -> Tensor | None:
        weight, dtype = self.weight, accumulation_dtype(windows.dtype).to_real()
        if weight is None or not (tiles.overlap or isinstance(weight, Tensor)):
            return None
        kept = self.geometry.kept.size
        if isinstance(weight, Tensor):  # the weights of the centre
            margins = (old - new for old, new in zip(weight.shape, kept, strict=True))
            weight = weight[tuple(slice(m // 2, m // 2 + k) for m, k in zip(margins, kept, strict=True))]
        else:
            weight = cached_weight(kept, weight, dtype, self.device, windows)
        weight = resize_weight(weight.detach().to(self.device, dtype), tiles.size)
        # Without overlap the weighted mean is the window itself, or 0 where its weight is 0.
        return weight if tiles.overlap else (weight != 0).to(dtype)
