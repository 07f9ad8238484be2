"""Rows as lines of a terminal, as a Markdown table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .machine import one_line
from .runner import Row

MARKS = {True: "met", False: "MISSED", None: ""}


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 100e-6:
        return f"{seconds * 1e6:.2f} µs"
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.2f} s"


def ratio(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _with_target(value: str, limit: float | None) -> str:
    return value if limit is None else f"{value} (≤ {limit:g})"


def _peer_ratios(row: Row) -> Iterable[str]:
    for name, times in sorted(row.peers.items(), key=lambda item: item[1].median):
        relative = f" ({ratio(times.median / row.floor.median)}×)" if row.floor else ""
        yield f"{name} {duration(times.median)}{relative}"


def _ours(row: Row) -> str:
    target = f" (≤ {row.max_us:g} µs)" if row.max_us else ""
    return duration(row.ours.median if row.ours else None) + target


HEADER = (
    f"{'workload':<48} {'thr':>3}  {'floor':>10}  {'torchext':>19}  {'÷ floor':>15}  {'÷ fastest peer':>15}"
)


def terminal_lines(row: Row) -> list[str]:
    if row.error:
        return [f"{row.title:<48} {row.threads:>3}  FAILED: {row.error}"]
    floor = duration(row.floor.median if row.floor else None)
    to_floor = _with_target(ratio(row.to_floor), row.max_floor)
    to_peer = _with_target(ratio(row.to_peer), row.max_peer)
    head = (
        f"{row.title:<48} {row.threads:>3}  {floor:>10}  {_ours(row):>19}  {to_floor:>15}  {to_peer:>15}"
        f"  {MARKS[row.met]}{' (noisy)' if row.noisy else ''}"
    )
    peers = f"    {' · '.join(_peer_ratios(row))}"
    if row.floor_name:
        peers += f"; floor: {row.floor_name}"
    broken = [f"    not run: {name}: {reason}" for name, reason in row.broken_peers.items()]
    return [head.rstrip(), peers, *broken]


def summary(rows: Sequence[Row]) -> str:
    judged = [row for row in rows if row.met is not None]
    met, failed = sum(bool(row.met) for row in judged), sum(bool(row.error) for row in rows)
    return f"{met} of {len(judged)} rows with a target meet it" + (f", {failed} failed" if failed else "")


def _markdown_row(row: Row) -> str:
    cells = [row.title, str(row.threads)]
    if row.error:
        cells += ["", "failed", "", row.error.splitlines()[0].replace("|", "\\|"), "", ""]
    else:
        floor = f"{duration(row.floor.median)} {row.floor_name}" if row.floor else "–"
        cells += [
            floor,
            _ours(row),
            _with_target(ratio(row.to_floor), row.max_floor),
            ", ".join(_peer_ratios(row)),
            _with_target(ratio(row.to_peer), row.max_peer),
            {True: "yes", False: "**no**", None: ""}[row.met],
        ]
    return "| " + " | ".join(cells) + " |"


def markdown_table(rows: Sequence[Row]) -> str:
    head = "| workload | threads | floor | torchext | ÷ floor | peers (÷ floor) | ÷ fastest peer | met |"
    rule = "|---|--:|--:|--:|--:|---|--:|---|"
    return "\n".join([head, rule, *map(_markdown_row, rows)])


def markdown(rows: Sequence[Row], machine: dict[str, Any]) -> str:
    facts = "; ".join(f"{key}: {value}" for key, value in machine.items())
    parts = [
        "# Benchmarks",
        f"{one_line(machine)}. Medians of interleaved calls in one process; in parentheses after a ratio: "
        f"its target. {summary(rows)}.",
    ]
    for huge, title in ((False, "PyTorch as installed"), (True, "With `THP_MEM_ALLOC_ENABLE=1`")):
        chosen = [row for row in rows if row.huge_pages is huge]
        if chosen:
            parts += [f"## {title}", markdown_table(chosen)]
    return "\n\n".join([*parts, f"Machine: {facts}."]) + "\n"


def as_json(rows: Sequence[Row], machine: dict[str, Any], options: dict[str, Any]) -> str:
    document = {"machine": machine, "options": options, "rows": [row.as_dict() for row in rows]}
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def rows_from_json(path: Path) -> list[Row]:
    return [Row.from_dict(row) for row in json.loads(path.read_text())["rows"]]
