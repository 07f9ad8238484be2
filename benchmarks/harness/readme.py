"""Write the figures of the committed results into the README and docs/speed.md: `python -m benchmarks.harness.readme`.

The README has five rows and the rows that torchext loses; docs/speed.md has every row with `Workload.replaces`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from .report import ratio, rows_from_json
from .runner import Row
from .workload import Replaced, Workload, load

ROOT = Path(__file__).resolve().parents[2]
README, SPEED = ROOT / "README.md", ROOT / "docs" / "speed.md"
RESULTS = ROOT / "benchmarks" / "results" / "intel-xeon.json"
BEGIN, END = "<!-- results -->\n", "\n<!-- end -->"
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


def _marks(text: str) -> tuple[int, int]:
    begin = text.index(BEGIN) + len(BEGIN)
    return begin, text.index(END, begin)


def between_marks(text: str) -> str:
    begin, end = _marks(text)
    return text[begin:end]


def main() -> None:
    rows = rows_from_json(RESULTS)
    for page, figures in ((README, highlights(rows)), (SPEED, table(rows))):
        text = page.read_text(encoding="utf-8")
        begin, end = _marks(text)
        page.write_text(text[:begin] + figures + text[end:], encoding="utf-8")


if __name__ == "__main__":
    main()
