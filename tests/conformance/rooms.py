"""The whole conformance table: the rows of all `cases.py` files."""

from __future__ import annotations

import importlib

from tests import ROOT
from tests.conformance.table import Operation

OPERATIONS: tuple[Operation, ...] = tuple(
    operation
    for path in sorted((ROOT / "tests").glob("*/*/cases.py"))
    for operation in importlib.import_module(".".join(("tests", *path.parent.parts[-2:], "cases"))).OPERATIONS
)
