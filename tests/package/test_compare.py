"""Tests of the table of `python -m benchmarks.compare`."""

from __future__ import annotations

from benchmarks.compare import merged, table


def test_table_has_best_times_and_rows_of_only_one_checkout() -> None:
    old = merged([{("a: b", 1): 4e-6, ("gone: c", 2): 1e-6}, {("a: b", 1): 2e-6}])
    new = merged([{("a: b", 1): 3e-6}, {("a: b", 1): 5e-6, ("added: d", 1): 7e-6}])
    assert table(old, new).splitlines()[2:] == [
        "| a: b | 1 | 2.0 | 3.0 | 1.50 |",
        "| added: d | 1 | – | 7.0 | – |",
        "| gone: c | 2 | 1.0 | – | – |",
    ]
