"""The table of docs/deploy.md, from the tests: ``python -m tests.export.table`` writes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torchext
from tests import ROOT
from tests.conformance import test_conformance
from tests.conformance.table import Operation
from tests.export import test_onnx, test_onnx_sizes, test_references, test_tracing
from tests.export.calls import ROWS

PAGE = ROOT / "docs" / "deploy.md"
BEGIN, END = "<!-- table -->\n", "<!-- end -->"

WAYS: dict[str, Callable[..., Any]] = {
    "`torch.export`": test_conformance.test_exports_with_a_dynamic_batch,
    "`torch.compile`": test_conformance.test_inductor_compiles_forward_and_backward,
    "`run_decompositions`": test_references.test_decompositions_are_plain_pytorch_and_mutate_nothing,
    "ONNX": test_onnx.test_onnxruntime_returns_the_results_of_the_operation,
    "ONNX, any batch": test_onnx.test_a_model_of_onnx_takes_any_batch,
    "ONNX, any height and width": test_onnx_sizes.test_a_model_of_onnx_takes_any_height_and_width,
    "`make_fx`": test_tracing.test_make_fx_records_the_operation,
    "`torch.jit.trace`": test_tracing.test_jit_trace_records_the_operation,
}


def _tested(test: Any) -> set[str]:
    """The names of the rows with which a test runs."""
    if test is test_onnx_sizes.test_a_model_of_onnx_takes_any_height_and_width:  # runs with functions, not rows
        functions = {name.partition(",")[0] for name in test_onnx_sizes.MODELS}
        return {row.name for row in ROWS if row.reference.__name__ in functions or row.name in functions}
    values = (
        value
        for mark in test.pytestmark
        if mark.name == "parametrize"
        for parameter in mark.args[1]
        for value in getattr(parameter, "values", ())
    )
    return {value.name for value in values if isinstance(value, Operation)}


def table() -> str:
    rows: dict[str, set[str]] = {}
    for row in ROWS:
        function = next((n for n in (row.reference.__name__, row.name) if n in torchext.reference.__all__), None)
        if function is not None:
            rows.setdefault(function, set()).add(row.name)
    lines = [f"| function | {' | '.join(WAYS)} |", "|---" * (1 + len(WAYS)) + "|"]
    for name in torchext.reference.__all__:
        cells = ["yes" if name in rows and rows[name] <= _tested(test) else "not tested" for test in WAYS.values()]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def shown() -> str:
    return PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]


if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    start, _, rest = page.partition(BEGIN)
    PAGE.write_text(start + BEGIN + table() + END + rest.partition(END)[2], encoding="utf-8")
