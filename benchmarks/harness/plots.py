"""The table as a picture: one group of bars a workload, written as SVG by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import Any

from .machine import one_line
from .report import duration, ratio
from .runner import COMPILED, Row

OURS_COLOUR, EAGER_COLOUR, COMPILED_COLOUR = "#0f766e", "#b8bec8", "#d9cdb8"
INK, FAINT, GRID = "#1f2933", "#6b7280", "#e5e7eb"
WIDTH, LEFT, RIGHT = 920, 250, 170
BAR, PITCH, GROUP_GAP, HEADING = 9, 11, 9, 30
TOP = 108
FONT = "system-ui, 'Segoe UI', Helvetica, Arial, 'DejaVu Sans', sans-serif"


@dataclass(frozen=True)
class Bar:
    value: float
    colour: str
    label: str
    bold: bool = False


@dataclass(frozen=True)
class Scale:
    """Maps values to pixels between LEFT and WIDTH - RIGHT."""

    low: float
    high: float
    log: bool

    def __call__(self, value: float) -> float:
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        share = min(max((value - low) / (high - low), 0.0), 1.0)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def ticks(self) -> list[float]:
        if not self.log:
            step = 10 ** math.floor(math.log10(self.high)) / 2
            return [step * i for i in range(int(self.high / step) + 1)]
        return [t for t in (0.25, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500) if self.low <= t <= self.high]


class Canvas:
    def __init__(self) -> None:
        self.parts: list[str] = []

    def text(self, x: float, y: float, content: str, *, size: float = 11, colour: str = INK, **more: str) -> None:
        attributes = "".join(f' {key.replace("_", "-")}="{value}"' for key, value in more.items())
        place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" fill="{colour}"'
        self.parts.append(f"<text {place}{attributes}>{escape(content)}</text>")

    def rect(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}"/>')

    def line(self, x: float, top: float, bottom: float, colour: str, width: float = 1) -> None:
        self.parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}" stroke="{colour}" '
            f'stroke-width="{width:g}"/>'
        )

    def document(self, height: float) -> str:
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" '
                f'height="{height:.0f}" font-family="{FONT}">',
                f'<rect width="{WIDTH}" height="{height:.0f}" fill="#ffffff"/>',
                *self.parts,
                "</svg>\n",
            ]
        )


def _bars(row: Row, value: Callable[[float], float], label: Callable[[float], str]) -> Iterator[Bar]:
    """Ours, then the fastest eager and the fastest compiled peer."""
    assert row.ours
    yield Bar(value(row.ours.median), OURS_COLOUR, label(row.ours.median), bold=True)
    for compiled, colour in ((False, EAGER_COLOUR), (True, COMPILED_COLOUR)):
        names = [name for name in row.peers if name.startswith(COMPILED) is compiled]
        if names:
            name = min(names, key=lambda name: row.peers[name].median)
            median = row.peers[name].median
            yield Bar(value(median), colour, f"{label(median)} {name.removeprefix(COMPILED)}")


def _target_seconds(row: Row) -> float | None:
    """The tightest of the row's targets."""
    fastest = row.peers[row.fastest_peer].median if row.fastest_peer else math.inf
    limits = [
        row.max_floor * row.floor.median if row.max_floor and row.floor else math.inf,
        row.max_peer * fastest if row.max_peer else math.inf,
        row.max_us * 1e-6 if row.max_us else math.inf,
    ]
    tightest = min(limits)
    return tightest if tightest < math.inf else None


class Panel:
    """Rows on one scale, from `top` downwards."""

    def __init__(self, canvas: Canvas, rows: Sequence[Row], top: float, *, relative: bool) -> None:
        self.canvas, self.rows, self.top, self.relative = canvas, rows, top, relative
        values = [bar.value for row in rows for bar in self._bars(row)]
        values += [target for row in rows if (target := self._target(row)) is not None]
        if relative:
            self.scale = Scale(min(0.5, *values) * 0.9, max(*values, 10) * 1.1, log=True)
        else:
            self.scale = Scale(0, max(values) * 1.05, log=False)
        self.base = self.scale(1.0 if relative else 0.0)

    def _value(self, row: Row, seconds: float) -> float:
        return seconds / row.floor.median if self.relative and row.floor else seconds * 1e6

    def _target(self, row: Row) -> float | None:
        seconds = _target_seconds(row)
        return None if seconds is None else self._value(row, seconds)

    def _bars(self, row: Row) -> list[Bar]:
        def label(seconds: float) -> str:
            return f"{ratio(self._value(row, seconds))}×" if self.relative else duration(seconds)

        return list(_bars(row, lambda seconds: self._value(row, seconds), label))

    def _height(self) -> float:
        families = len({row.family for row in self.rows})
        bars = sum(len(self._bars(row)) for row in self.rows)
        return families * HEADING + bars * PITCH + len(self.rows) * GROUP_GAP

    def draw(self) -> float:
        """Draws everything and gives the bottom."""
        bottom = self.top + self._height()
        for tick in self.scale.ticks():
            x, label = self.scale(tick), f"{tick:g}×" if self.relative else f"{tick:g} µs"
            self.canvas.line(x, self.top, bottom, GRID)
            self.canvas.text(x, self.top - 6, label, size=10, colour=FAINT, text_anchor="middle")
        y = self.top
        for family, rows in groupby(self.rows, key=lambda row: row.family):
            self.canvas.text(16, y + 20, family, size=13, font_weight="600")
            y += HEADING
            for row in rows:
                y = self._draw_row(row, y)
        self.canvas.line(self.base, self.top, bottom, INK, 1.2)
        return bottom

    def _draw_row(self, row: Row, y: float) -> float:
        bars = self._bars(row)
        middle = y + len(bars) * PITCH / 2
        self.canvas.text(LEFT - 10, middle + 3, row.name, text_anchor="end")
        target = self._target(row)
        mark = None if target is None else self.scale(target)
        for i, bar in enumerate(bars):
            self._draw_bar(bar, y + i * PITCH, avoid=None if i else mark)
        if mark is not None:
            self.canvas.line(mark, y - 2, y + BAR + 2, INK, 2)
        return y + len(bars) * PITCH + GROUP_GAP

    def _draw_bar(self, bar: Bar, y: float, *, avoid: float | None) -> None:
        """`avoid`: where the mark of the target stands, so that the label does not run through it."""
        end = self.scale(bar.value)
        left, right = min(self.base, end), max(self.base, end)
        self.canvas.rect(left, y, max(right - left, 1), BAR, bar.colour)
        weight = {"font_weight": "600"} if bar.bold else {}
        colour = OURS_COLOUR if bar.bold else FAINT
        if avoid is not None and right < avoid < right + 5 + 7.5 * len(bar.label):
            right = avoid
        self.canvas.text(right + 5, y + BAR - 1, bar.label, size=9.5, colour=colour, **weight)


def _legend(canvas: Canvas) -> None:
    x, y = 16.0, 76.0
    entries = (
        (OURS_COLOUR, "torchext"),
        (EAGER_COLOUR, "fastest eager peer"),
        (COMPILED_COLOUR, "fastest compiled peer"),
    )
    for colour, name in entries:
        canvas.rect(x, y - BAR, 14, BAR, colour)
        canvas.text(x + 19, y, name, colour=INK)
        x += 36 + 6.2 * len(name)
    canvas.line(x + 4, y - BAR - 2, y + 2, INK, 2)
    canvas.text(x + 12, y, "our target, the tightest of the row")


def svg(rows: Sequence[Row], machine: dict[str, Any]) -> str:
    """Rows of one number of threads, as PyTorch is installed: ratios to the floor, then microseconds."""
    drawn = [row for row in rows if not row.error and row.ours and not row.huge_pages]
    relative = [row for row in drawn if row.floor]
    absolute = [row for row in drawn if not row.floor]
    # Families stay together although rows without a target are registered at their family's end.
    order = list(dict.fromkeys(row.family for row in relative))
    relative.sort(key=lambda row: order.index(row.family))
    canvas = Canvas()
    threads = f"{rows[0].threads} thread" + "s" * (rows[0].threads > 1) if rows else ""
    canvas.text(16, 30, "Time of a call, relative to the least that memory allows", size=17, font_weight="600")
    canvas.text(16, 50, f"{threads} · {one_line(machine)}", size=11, colour=FAINT)
    _legend(canvas)
    bottom: float = TOP
    if relative:
        bottom = Panel(canvas, relative, bottom, relative=True).draw()
        canvas.text(16, bottom + 16, "1× is the floor; logarithmic scale; shorter is better", size=10, colour=FAINT)
    if absolute:
        bottom = Panel(canvas, absolute, bottom + (54 if relative else 0), relative=False).draw()
    return canvas.document(bottom + 28)
