"""Write the figures of the committed results into the README and docs/speed.md: `python -m benchmarks.harness.readme`.

The README has five rows, the rows that torchext loses, and the jobs; docs/speed.md has every row with
`Workload.replaces`, the jobs, and the rows under other allocators.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .machine import one_line
from .report import duration, ratio, rows_from_json
from .runner import Row
from .workload import Replaced, Workload, load

ROOT = Path(__file__).resolve().parents[2]
README, SPEED = ROOT / "README.md", ROOT / "docs" / "speed.md"
RESULTS = ROOT / "benchmarks" / "results" / "intel-xeon.json"
END = "\n<!-- end -->"
THREADS = (1, 2)
FIVE = (
    "one_hot: masks 8×21×512², uint8",
    "overlap: DiceLoss 2×14×96³, with backward",
    "patchify: 32×224²×3 uint8 NHWC, p16",
    "tiles: merge, 1×3×4096², k512 s448, hann",
    "cam_pool: 32×2048×7² to 224²",
)
"""The titles of the README's rows, in its order."""
LOST = 6
"""How many lost rows the README names: the worst one of each family, of those that lose most."""

Found = Mapping[tuple[str, int], Row]


def _cells(workload: Workload, replaced: Replaced, found: Found) -> list[str]:
    """The operation, what it replaces, and how many times faster it is than that and than the fastest alternative."""

    def at_each(value: Callable[[int], str]) -> str:
        return " / ".join(map(value, THREADS))

    def faster(threads: int) -> str:
        row = found[workload.title, threads]
        assert row.ours is not None
        return f"{row.peers[replaced.peer].median / row.ours.median:.1f}×"

    def than_fastest(threads: int) -> str:
        shares = [found[title, threads].to_peer for title in (workload.title, *replaced.siblings)]
        return f"{1 / max(share for share in shares if share is not None):.1f}×"

    shown = replaced.shown or f"`{workload.family}` {workload.name}"
    return [shown, replaced.code or f"`{replaced.peer}`", at_each(faster), at_each(than_fastest)]


def _table(lines: Iterable[list[str]]) -> str:
    head = "| operation | replaces | times faster, 1 / 2 threads | than the fastest alternative |\n|---|---|--:|--:|"
    return "\n".join([head, *(f"| {' | '.join(cells)} |" for cells in lines)])


def _found(rows: Iterable[Row]) -> Found:
    return {(row.title, row.threads): row for row in rows if not row.huge_pages}


def table(rows: Iterable[Row]) -> str:
    """Every operation that replaces something."""
    found = _found(rows)
    return _table(_cells(workload, workload.replaces, found) for workload in load() if workload.replaces)


def lost(rows: Iterable[Row]) -> str:
    """How many rows torchext loses, and the worst of them."""
    compared = [row for row in _found(rows).values() if row.to_peer]
    slower = sorted((row for row in compared if row.to_peer and row.to_peer > 1), key=lambda row: -(row.to_peer or 0))
    worst: dict[str, str] = {}
    for row in slower:
        worst.setdefault(row.family, f"{ratio(row.to_peer)} times as long for `{row.title}`")
    tiny = sum(row.family == "overhead" for row in slower)
    text = (
        f"**Where torchext is slower:** in {len(slower)} of {len(compared)} rows, {tiny} of them with tiny inputs, an "
        f"alternative takes less time ([all rows](benchmarks/results/{RESULTS.stem}.md)). torchext takes up to "
        f"{', '.join(list(worst.values())[:LOST])}."
    )
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def highlights(rows: Iterable[Row]) -> str:
    """The five rows of the README, and a line about the lost ones."""
    rows = list(rows)
    found, workloads = _found(rows), {workload.title: workload for workload in load()}
    chosen = [(workloads[title], workloads[title].replaces) for title in FIVE]
    return f"{_table(_cells(one, replaced, found) for one, replaced in chosen if replaced)}\n\n{lost(rows)}"


def _stored(folder: str) -> Iterator[dict[str, Any]]:
    """The documents of all machines."""
    for path in sorted((RESULTS.parent / folder).glob("*.json")):
        yield json.loads(path.read_text(encoding="utf-8"))


def _titled(machine: Mapping[str, Any], head: str, lines: Iterable[list[str]]) -> str:
    rule = "|---|" + "--:|" * (head.count("|") - 2)
    return "\n".join([f"{one_line(dict(machine))}\n", head, rule, *(f"| {' | '.join(cells)} |" for cells in lines)])


def job_cells(document: Mapping[str, Any], most: int) -> Iterator[list[str]]:
    """A line for each of the fastest alternatives of each job; the jobs in which torchext is slower come first."""
    stored = [(Row.from_dict(row), row["memory"]) for row in document["rows"]]
    for row, memory in sorted(stored, key=lambda one: -(one[0].to_peer or 0)):
        assert row.ours is not None
        ours = memory.get("torchext")
        for name, times in sorted(row.peers.items(), key=lambda peer: peer[1].median)[:most]:
            faster = times.median / row.ours.median
            kept = f" ({ours['kept']:.0f} kept)" if ours and ours["kept"] >= 1 else ""
            peaks = f"{ours['peak']:.0f}{kept} / {memory[name]['peak']:.0f}" if ours else "–"
            yield [
                f"{row.name}, against {name}",
                f"{ratio(faster)}×" if faster >= 1 else f"**{ratio(faster)}× (slower)**",
                f"{duration(row.ours.median)} / {duration(times.median)}",
                peaks,
            ]


def job_tables(most: int) -> str:
    head = "| job | times faster | time, torchext / alternative | peak MiB, torchext / alternative |"
    return "\n\n".join(_titled(one["machine"], head, job_cells(one, most)) for one in _stored("jobs"))


def allocator_cells(document: Mapping[str, Any]) -> Iterator[list[str]]:
    """How many times faster each row is under each allocator; the rows with the smallest number come first."""
    found = {name: _found(map(Row.from_dict, rows)) for name, rows in document["rows"].items()}
    lines = []
    for title in dict.fromkeys(title for rows in found.values() for title, _ in rows):
        faster = {
            name: [1 / row.to_peer for (t, _), row in rows.items() if t == title and row.to_peer]
            for name, rows in found.items()
        }
        cells = [
            " / ".join(f"{ratio(value)}×" if value >= 1 else f"**{ratio(value)}×**" for value in values)
            for values in faster.values()
        ]
        lines.append((min(min(values, default=0) for values in faster.values()), [f"`{title}`", *cells]))
    yield from (cells for _, cells in sorted(lines))


def allocator_tables() -> str:
    return "\n\n".join(
        _titled(one["machine"], f"| row | {' | '.join(one['rows'])} |", allocator_cells(one))
        for one in _stored("allocators")
    )


def pages() -> Iterator[tuple[Path, str, str]]:
    """Each page with a name of marks and the figures between them."""
    rows = rows_from_json(RESULTS)
    yield README, "results", highlights(rows)
    yield README, "jobs", job_tables(most=1)
    yield SPEED, "results", table(rows)
    yield SPEED, "jobs", job_tables(most=9)
    if any(_stored("allocators")):
        yield SPEED, "allocators", allocator_tables()


def _marks(text: str, name: str) -> tuple[int, int]:
    mark = f"<!-- {name} -->\n"
    begin = text.index(mark) + len(mark)
    return begin, text.index(END, begin)


def between_marks(text: str, name: str) -> str:
    begin, end = _marks(text, name)
    return text[begin:end]


def main() -> None:
    for page, name, figures in pages():
        text = page.read_text(encoding="utf-8")
        begin, end = _marks(text, name)
        page.write_text(text[:begin] + figures + text[end:], encoding="utf-8")


if __name__ == "__main__":
    main()
