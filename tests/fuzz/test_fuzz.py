"""Tests that crashes, hangs and lack of memory in a process are reported, and that the smallest such call is found."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest
import torch

pytest.importorskip("hypothesis")

from tests.conformance.random_call import Draw
from tests.conformance.rooms import OPERATIONS
from tests.fuzz import __main__ as fuzz
from tests.fuzz import isolated

forks = pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads /proc")


def _dies(report: isolated.Report) -> None:
    report(call="the last")
    os.abort()


def _raises(_: isolated.Report) -> None:
    raise KeyError("wrong")


@forks
@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda report: report(call="one"), {"call": "one"}),
        (_dies, {"call": "the last", "fault": "died of SIGABRT: no word"}),
        (_raises, {"fault": "KeyError: 'wrong'"}),
        (lambda _: time.sleep(60), {"fault": "hung for 2 s: no word"}),
    ],
)
def test_the_end_of_a_process_is_reported(
    function: Any, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolated, "SECONDS", 2)
    found = isolated.run(function)
    found.pop("said", None)
    assert found == expected


@forks
def test_memory_is_limited() -> None:
    found = isolated.run(lambda _: torch.empty(2 * isolated.MEMORY, dtype=torch.uint8))
    assert "allocate memory" in found["fault"]


@forks
def test_the_smallest_call_with_a_fault_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def calls(_: Any, draw: Draw) -> Any:
        number = draw.between(0, 1000)
        return lambda report: (report(call=str(number)), os.abort() if number > 10 else None)

    monkeypatch.setitem(fuzz.KINDS, "valid", calls)
    faults: dict[Any, fuzz.Fault] = {}
    fuzz.hunt("valid", OPERATIONS[0], 30, 0, faults)
    assert [(fault.call, fault.text) for fault in faults.values()] == [("11", "died of SIGABRT: no word")]
