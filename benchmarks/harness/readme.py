"""Write the README's table from the committed results: `python -m benchmarks.harness.readme`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from .report import rows_from_json
from .runner import Row
from .workload import Replaced, Workload, load

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results" / "intel-xeon.json"
BEGIN, END = "<!-- results -->\n", "\n<!-- end -->"
THREADS = (1, 2)


HEAD = [
    "| operation | replaces | times faster, 1 / 2 threads | than the fastest alternative | time ÷ floor |",
    "|---|---|--:|--:|--:|",
]


def table(rows: Iterable[Row]) -> str:
    found = {(row.title, row.threads): row for row in rows if not row.huge_pages}

    def at_each(value: Callable[[int], str]) -> str:
        return " / ".join(map(value, THREADS))

    def line(workload: Workload, replaced: Replaced) -> str:
        def faster(threads: int) -> str:
            row = found[workload.title, threads]
            assert row.ours is not None
            return f"{row.peers[replaced.peer].median / row.ours.median:.1f}×"

        def than_fastest(threads: int) -> str:
            shares = [found[title, threads].to_peer for title in (workload.title, *replaced.siblings)]
            return f"{1 / max(share for share in shares if share is not None):.1f}×"

        def to_floor(threads: int) -> str:
            return f"{found[workload.title, threads].to_floor:.2f}"

        cells = [replaced.shown or f"`{workload.family}` {workload.name}", replaced.code or f"`{replaced.peer}`"]
        return f"| {' | '.join([*cells, at_each(faster), at_each(than_fastest), at_each(to_floor)])} |"

    return "\n".join([*HEAD, *(line(workload, workload.replaces) for workload in load() if workload.replaces)])


def between_marks(text: str) -> str:
    return text.partition(BEGIN)[2].partition(END)[0]


def main() -> None:
    text = README.read_text(encoding="utf-8")
    README.write_text(text.replace(between_marks(text), table(rows_from_json(RESULTS))), encoding="utf-8")


if __name__ == "__main__":
    main()
