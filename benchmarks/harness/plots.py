"""The results as bar charts in SVG, one for each group of operations."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from .machine import one_line
from .report import grouped, ratio
from .runner import Row

_COLOURS = {"faster": ("#0f766e", "#7cc4bb"), "slower": ("#b42318", "#f0a39b")}  # with one thread, with more
# The width of a phone: 390 pixels of 1/96 inch. Names stand above their bars, so that no label needs a margin.
_INCHES, _LINE_INCHES, _CHARACTERS = 390 / 96, 0.125, 58
_BEHIND = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}  # hides the lines of the axis behind a name
# Text without outlines of fonts, and no date, so that equal rows give equal files.
_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "torchext", "font.size": 7.5, "font.family": "sans-serif"}


def _times_faster(rows: Sequence[Row]) -> dict[str, dict[int, float]]:
    """For each workload and number of threads, the time of the fastest alternative divided by ours, largest first."""
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        if row.to_peer:
            found.setdefault(row.title, {})[row.threads] = 1 / row.to_peer
    return dict(sorted(found.items(), key=lambda item: -item[1][min(item[1])]))


def _draw(axes: Any, found: Mapping[str, Mapping[int, float]]) -> float:
    """Draw a name and a bar for each number of threads, from top to bottom, and return the height in lines."""
    from matplotlib.ticker import FixedLocator, NullLocator

    y = 0.0
    for title, values in found.items():
        lines = textwrap.wrap(title, _CHARACTERS)
        axes.text(0, y, "\n".join(lines), transform=axes.get_yaxis_transform(), va="top", linespacing=1.1, bbox=_BEHIND)
        y += len(lines) + 0.6
        for index, value in enumerate(values[threads] for threads in sorted(values)):
            verdict = "slower" if value < 1 else "faster"
            axes.barh(y, value - 1, left=1, height=0.85, color=_COLOURS[verdict][min(index, 1)])
            text = f"{ratio(value)}×" + " slower" * (value < 1)
            axes.annotate(text, (max(value, 1), y), (3, 0), textcoords="offset points", va="center", size=6.5)
            y += 0.95
        y += 0.35
    axes.set_xscale("log")
    low = min(0.5, *(value for values in found.values() for value in values.values()))
    high = max(value for values in found.values() for value in values.values())
    axes.set_xlim(low * 0.8, high**1.2 * 1.3)
    axes.set_ylim(y, -0.5)
    axes.xaxis.set_major_locator(FixedLocator([0.2, 0.5, 1, 2, 5, 10, 20, 50]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}×")
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, left=False, labelleft=False)
    axes.grid(axis="x", color="#e5e7eb")
    axes.set_axisbelow(True)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.spines[:].set_visible(False)
    return y


def _svg(rows: Sequence[Row], machine: Mapping[str, Any]) -> str:
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    found, counts = _times_faster(rows), sorted({row.threads for row in rows})
    with mpl.rc_context(_STYLE):
        figure = Figure((_INCHES, 1))
        axes = figure.add_axes((0.03, 0, 0.94, 1))
        lines = _draw(axes, found)
        # The title and the legend stand above the bars.
        title = textwrap.wrap(one_line(machine), _CHARACTERS)
        head, body = _LINE_INCHES * (len(title) + 6.5), _LINE_INCHES * lines
        figure.set_size_inches(_INCHES, head + body)
        axes.set_position((0.03, 0, 0.94, body / (head + body)))
        heading = ["Times faster than the fastest alternative", *title]
        figure.text(0.03, 1 - 0.05 / (head + body), "\n".join(heading), va="top")
        names = [f"{count} thread{'s' * (count > 1)}" for count in counts]
        handles = [
            Patch(color=colours[min(index, 1)], label=f"{verdict}, {name}")
            for verdict, colours in _COLOURS.items()
            for index, name in enumerate(names)
        ]
        figure.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=(0.01, 1 - _LINE_INCHES * (len(title) + 1.3) / (head + body)),
            ncols=2,
            frameon=False,
            handlelength=1,
        )
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def charts(rows: Sequence[Row], machine: Mapping[str, Any]) -> dict[str, str]:
    """A chart of each group that has rows with an alternative, by the name of the group."""
    drawn = [row for row in rows if row.to_peer and not row.huge_pages and not row.error]
    return {group: _svg(of_group, machine) for group, of_group in grouped(drawn).items()}
