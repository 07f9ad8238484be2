"""The page on deployment has the table of the tests."""

from __future__ import annotations

import pytest

pytest.importorskip("onnxscript", reason="in requirements/dev.txt")
pytest.importorskip("onnxruntime", reason="in requirements/dev.txt")

from tests.export import table


def test_the_page_has_the_table_of_the_tests() -> None:
    assert table.shown() == table.table(), "python -m tests.export.table renews it"
    assert "not tested" not in table.shown()
