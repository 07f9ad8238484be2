"""Rows as text for a terminal, as a Markdown table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .machine import one_line
from .runner import Row

PAGES_MATTER = 4 << 20
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


HEADER = f"{'workload':<48} {'thr':>3}  {'floor':>10}  {'torchext':>19}  {'÷ floor':>15}  {'÷ fastest peer':>15}"


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


SIMILAR = 1.05
"""Two times are called equal if their ratio is smaller."""


def comparison(row: Row) -> str:
    """A row as a sentence for users: the time, and how much faster or slower it is than each peer."""
    if row.error or row.ours is None:
        return f"{row.title}: failed: {row.error}"
    peers = sorted(row.peers.items(), key=lambda item: item[1].median)
    words = [f"{_relation(times.median / row.ours.median)} {name}" for name, times in peers]
    words += [f"{name} does not run here ({reason})" for name, reason in row.broken_peers.items()]
    disturbed = " (disturbed by other work)" if row.noisy else ""
    return f"{row.title}: {duration(row.ours.median)}{disturbed}; {', '.join(words) or 'there is no alternative'}"


def _relation(times_faster: float) -> str:
    if 1 / SIMILAR < times_faster < SIMILAR:
        return "as fast as"
    return f"{_short(times_faster)}× faster than" if times_faster > 1 else f"{_short(1 / times_faster)}× slower than"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def comparison_summary(rows: Sequence[Row]) -> str:
    """How many rows are faster than all peers, as sentences for users."""
    compared = [1 / row.to_peer for row in rows if row.to_peer]
    faster = sum(ratio >= SIMILAR for ratio in compared)
    slower = sum(ratio <= 1 / SIMILAR for ratio in compared)
    text = f"Of {len(compared)} rows, torchext is faster than the fastest alternative in {faster}, "
    text += f"as fast in {len(compared) - faster - slower}, slower in {slower}."
    failed = sum(bool(row.error) for row in rows)
    return f"{text} {failed} failed." if failed else text


def summary(rows: Sequence[Row]) -> str:
    judged = [row for row in rows if row.met is not None]
    met, failed = sum(bool(row.met) for row in judged), sum(bool(row.error) for row in rows)
    noisy = sum(row.noisy for row in rows)
    notes = f", {failed} failed" if failed else ""
    notes += f"; other work on the machine disturbed {noisy} of {len(rows)}" if noisy else ""
    return f"{met} of {len(judged)} rows with a target meet it{notes}"


def times_faster(row: Row) -> str:
    """How many times the time of torchext the fastest alternative takes, with a remark if it is less."""
    if row.to_peer is None:
        return "–"
    return f"{ratio(1 / row.to_peer)}×" if row.to_peer <= 1 else f"**{ratio(1 / row.to_peer)}× (slower)**"


def _verdict(row: Row) -> str:
    """Whether the row meets its targets, and how many times faster than the fastest alternative it should be."""
    words = {True: "yes", False: "**no**", None: ""}[row.met] + (" (noisy)" if row.noisy else "")
    return f"{words} (≥ {1 / row.max_peer:.3g}×)" if row.max_peer else words


def _markdown_row(row: Row) -> str:
    cells = [row.title, str(row.threads)]
    if row.error:
        cells += ["failed", "", "", "", "", "", row.error.splitlines()[0].replace("|", "\\|")]
    else:
        fastest = f"{duration(row.peers[row.fastest_peer].median)} {row.fastest_peer}" if row.fastest_peer else "–"
        cells += [
            times_faster(row),
            _ours(row),
            fastest,
            _with_target(ratio(row.to_floor), row.max_floor),
            f"{duration(row.floor.median)} {row.floor_name}" if row.floor else "–",
            _verdict(row),
            ", ".join(_peer_ratios(row)),
        ]
    return "| " + " | ".join(cells) + " |"


def markdown_table(rows: Sequence[Row]) -> str:
    head = "| workload | threads | times faster | torchext | fastest alternative | ÷ floor | floor | targets met | "
    rule = "|---|--:|--:|--:|---|--:|---|---|---|"
    return "\n".join([f"{head}all alternatives (÷ floor) |", rule, *map(_markdown_row, rows)])


@dataclass(frozen=True)
class Comparison:
    """torchext with PyTorch as installed, compared with the fastest peer in a process whose allocator uses huge pages.

    Each is divided by the floor of its own process, because the machine may have changed between the two.
    """

    row: Row
    to_floor: float
    peer: str
    peer_to_floor: float

    @property
    def ratio(self) -> float:
        return self.to_floor / self.peer_to_floor

    def __str__(self) -> str:
        head = f"{self.row.title:<48} {self.row.threads:>3}  {ratio(self.to_floor):>6} × floor"
        verdict = "" if self.ratio <= 1 else "  BEHIND"
        return f"{head}  {ratio(self.ratio):>5} of {self.peer} at {ratio(self.peer_to_floor)} × floor{verdict}"


def compare_with_huge_pages(rows: Sequence[Row]) -> list[Comparison]:
    """The comparisons for large outputs, of workloads with a floor; those with a backward pass may have none."""
    with_huge_pages = {(row.title, row.threads): row for row in rows if row.huge_pages and row.peers}
    pairs = []
    for row in rows:
        other = with_huge_pages.get((row.title, row.threads))
        if row.huge_pages or other is None or row.bytes_written < PAGES_MATTER or row.max_peer is None:
            continue
        name = other.fastest_peer
        if row.to_floor and other.floor and name:
            pairs.append(Comparison(row, row.to_floor, name, other.peers[name].median / other.floor.median))
    return pairs


def _comparison_table(pairs: Sequence[Comparison]) -> str:
    lines = ["| workload | threads | torchext ÷ floor | fastest peer ÷ floor | ÷ | met |", "|---|--:|--:|--:|--:|---|"]
    for pair in pairs:
        cells = [
            pair.row.title,
            str(pair.row.threads),
            ratio(pair.to_floor),
            f"{ratio(pair.peer_to_floor)} {pair.peer}",
            f"{ratio(pair.ratio)} (≤ 1)",
            "yes" if pair.ratio <= 1 else "**no**",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


METHOD = """\
All calls of a row run in one process, in rounds of random order, and the median of each is taken. A result is freed
immediately, and the time for that is included. Before the measurement the result of every alternative is compared with
that of torchext. *Times faster* is the time of the fastest alternative divided by that of torchext.

The *floor* is the time that PyTorch takes for memory accesses that no implementation can avoid: *fill* is `fill_` of a
warm tensor of the output's size, *read* is `sum()` of the inputs, *copy* is `copy_` between warm tensors of the
output's size, and a *hinted fill* is a fill of a newly allocated tensor with huge pages. A target of a row is in
parentheses, also if it is missed; that for *times faster* is in the column *targets met*."""

# The groups of the tables and charts. The rows of a family that is in no group are a group of their own.
GROUPS = {
    "onehot": (
        *("one_hot", "multi_hot", "mixup_one_hot", "class_counts", "class_sums", "class_means", "class_max"),
        *("confusion_matrix", "overlap"),
    ),
    "windows": ("unfold", "fold", "tiles", "sliding", "patchify", "unpatchify"),
    "cam": ("cam_pool",),
}
TITLES = {
    "onehot": "One-hot encodings, counts and overlaps",
    "windows": "Windows, tiles and patches",
    "cam": "Class activation maps",
    "overhead": "Calls with tiny inputs",
}


def grouped(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each group, in the order of their first rows."""
    groups = {family: group for group, families in GROUPS.items() for family in families}
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(groups.get(row.family, row.family), []).append(row)
    return found


def markdown(rows: Sequence[Row], machine: dict[str, Any], charts: Mapping[str, str]) -> str:
    """The results as a page; `charts` are the files of the charts by the names of the groups."""
    parts = [f"# Results: {machine.get('gpu') or machine['cpu']}", f"{one_line(machine)}. {summary(rows)}.", METHOD]
    for group, chosen in grouped([row for row in rows if not row.huge_pages]).items():
        title = TITLES.get(group, group)
        chart = [f"![{title}: times faster than the fastest alternative]({charts[group]})"] if group in charts else []
        parts += [f"## {title}", *chart, markdown_table(chosen)]
    with_huge_pages = [row for row in rows if row.huge_pages]
    if with_huge_pages:
        parts += ["## With `THP_MEM_ALLOC_ENABLE=1`", markdown_table(with_huge_pages)]
    pairs = compare_with_huge_pages(rows)
    if pairs:
        parts += ["## torchext as installed, alternatives with `THP_MEM_ALLOC_ENABLE=1`", _comparison_table(pairs)]
    facts = "\n".join(f"- {key}: {value}" for key, value in machine.items())
    return "\n\n".join([*parts, "## Machine", facts]) + "\n"


def as_json(rows: Sequence[Row], machine: dict[str, Any], options: dict[str, Any]) -> str:
    document = {"machine": machine, "options": options, "rows": [row.as_dict() for row in rows]}
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def rows_from_json(path: Path) -> list[Row]:
    return [Row.from_dict(row) for row in json.loads(path.read_text())["rows"]]


def machine_from_json(path: Path) -> dict[str, Any]:
    machine: dict[str, Any] = json.loads(path.read_text())["machine"]
    return machine
