"""The results as a bar chart in SVG."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

from .machine import one_line
from .report import duration, ratio
from .runner import COMPILED, Row

_COLOURS = {"torchext": "#0f766e", "fastest eager peer": "#b8bec8", "fastest compiled peer": "#d9cdb8"}
_TARGET = "our target, the tightest of the row"
_GROUP_GAP = 0.8  # in bars, between workloads
_BAR_INCHES = 0.16
# Text without outlines of fonts, and no date, so that equal rows give equal files.
_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "torchext", "font.size": 8, "font.family": "sans-serif"}


def _seconds(row: Row) -> dict[str, tuple[float, str]]:
    """The times of torchext, of the fastest eager peer and of the fastest compiled peer, each with its name."""
    assert row.ours
    found = {"torchext": (row.ours.median, "")}
    for kind, compiled in (("fastest eager peer", False), ("fastest compiled peer", True)):
        peers = {name: times.median for name, times in row.peers.items() if name.startswith(COMPILED) is compiled}
        if peers:
            name = min(peers, key=peers.__getitem__)
            found[kind] = peers[name], f" {name.removeprefix(COMPILED)}"
    return found


def _target_seconds(row: Row) -> float:
    """The smallest target time of the row; infinite if it has no target."""
    fastest = row.peers[row.fastest_peer].median if row.fastest_peer else math.inf
    return min(
        row.max_floor * row.floor.median if row.max_floor and row.floor else math.inf,
        row.max_peer * fastest if row.max_peer else math.inf,
        row.max_us * 1e-6 if row.max_us else math.inf,
    )


def _draw(axes: Any, rows: Sequence[Row], relative: bool) -> None:
    """Draw a group of bars for each workload, from top to bottom: ratios to the floor, or microseconds."""
    y, ticks, family = 0.0, [], ""
    for row in rows:
        unit = row.floor.median if relative and row.floor else 1e-6
        if row.family != family:
            family = row.family
            axes.text(-0.01, y + 1, family, transform=axes.get_yaxis_transform(), ha="right", weight="bold", size=10)
            y += 2
        bars, target = _seconds(row), _target_seconds(row) / unit
        ticks.append((y + len(bars) / 2 - 0.5, row.name))
        for i, (kind, (seconds, name)) in enumerate(bars.items()):
            value = seconds / unit
            left = 1 if relative else 0
            axes.barh(y + i, value - left, left=left, height=0.85, color=_COLOURS[kind])
            text = (f"{ratio(value)}×" if relative else duration(seconds)) + name
            end = max(value, left, target if i == 0 and target < math.inf else 0)
            weight = "bold" if kind == "torchext" else "normal"
            axes.annotate(text, (end, y + i), (4, 0), textcoords="offset points", va="center", size=7, weight=weight)
        if target < math.inf:
            axes.plot([target, target], [y - 0.6, y + 0.6], color="black", linewidth=1.5)
        y += len(bars) + _GROUP_GAP
    axes.set_yticks(*zip(*ticks, strict=True))
    axes.set_ylim(y, -0.5)
    axes.set_xscale("log" if relative else "linear")
    axes.xaxis.set_major_formatter("{x:g}×" if relative else "{x:g} µs")
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, left=False)
    axes.grid(axis="x", color="#e5e7eb")
    axes.set_axisbelow(True)
    axes.axvline(1 if relative else 0, color="black", linewidth=1)
    axes.spines[:].set_visible(False)
    axes.set_xlim(right=axes.get_xlim()[1] ** (1.25 if relative else 1) * (1 if relative else 1.3))


def svg(rows: Sequence[Row], machine: dict[str, Any]) -> str:
    """Draw the rows with PyTorch as installed: ratios to the floor, then microseconds. All have the same threads."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    drawn = [row for row in rows if not row.error and row.ours and not row.huge_pages]
    order = list(dict.fromkeys(row.family for row in drawn if row.floor))
    relative = sorted((row for row in drawn if row.floor), key=lambda row: order.index(row.family))
    panels = [panel for panel in (relative, [row for row in drawn if not row.floor]) if panel]
    heights = [
        sum(len(_seconds(row)) + _GROUP_GAP for row in panel) + 2 * len({row.family for row in panel})
        for panel in panels
    ]
    threads = f"{rows[0].threads} thread" + "s" * (rows[0].threads > 1) if rows else ""
    with mpl.rc_context(_STYLE):
        figure = Figure((9.6, 1.6 + _BAR_INCHES * sum(heights)), layout="constrained")
        title = f"Time of a call, relative to the least that memory allows\n{threads} · {one_line(machine)}"
        if panels:
            grid = figure.subplots(len(panels), height_ratios=heights, squeeze=False)
            for axes, panel in zip(grid[:, 0], panels, strict=True):
                _draw(axes, panel, relative=panel is relative)
        handles = [Patch(color=colour, label=name) for name, colour in _COLOURS.items()]
        handles.append(Line2D([], [], color="black", linewidth=1.5, label=_TARGET))
        figure.legend(handles=handles, title=title, loc="outside upper center", ncols=4, frameon=False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
