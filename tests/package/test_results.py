"""Tests of the pages and charts of the stored results of the benchmarks."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from benchmarks.harness import plots, report
from benchmarks.harness.report import machine_from_json, rows_from_json
from tests import ROOT

STORED = sorted((ROOT / "benchmarks" / "results").glob("*.json"))


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_the_page_has_the_stored_rows(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    render = importlib.import_module("benchmarks.__main__").render
    render(tmp_path / path.name, rows_from_json(path), machine_from_json(path))
    page = f"{path.stem}.md"
    assert (tmp_path / page).read_text() == path.with_suffix(".md").read_text(), (
        "python -m benchmarks --render renews it"
    )
    assert {file.name for file in tmp_path.iterdir()} == {
        file.name for file in path.parent.glob(f"{path.stem}*") if file.suffix in (".md", ".svg")
    }


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_charts_show_every_row_from_best_to_worst_and_mark_those_that_are_lost(path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = [row for row in rows_from_json(path) if row.to_peer and not row.huge_pages]
    charts = plots.charts(rows, machine_from_json(path))
    assert set(charts) == set(report.grouped(rows))
    for group, chosen in report.grouped(rows).items():
        texts = re.findall(r"<text .*?>(.*?)</text>", charts[group], re.DOTALL)
        shown = [text for text in texts if re.fullmatch(r"(\d\.\d\d|\d\d\.\d|\d{3,})×( slower)?", text)]
        assert sum("slower" in text for text in shown) == sum(row.to_peer > 1 for row in chosen)
        with_one_thread = [float(text.partition("×")[0]) for text in shown[::2]]  # each row has one and two threads
        assert with_one_thread == sorted(with_one_thread, reverse=True)
        assert len(shown) == len(chosen)
        size = re.search(r'width="([\d.]+)pt" height="([\d.]+)pt"', charts[group])
        assert size is not None
        assert float(size[1]) * 96 / 72 <= 390  # the width of a phone
        assert float(size[2]) * 96 / 72 < 2600
