"""Calls every operation with random arguments, and prints a table of the calls and the smallest call of each fault.

python -m tests.fuzz --valid 5000 --wrong 5000 --raw 5000 --seed 0 --only unfold
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, errors, given, seed, settings
from hypothesis import strategies as st

import torchext
from tests import sanitizers
from tests.conformance.random_call import Draw
from tests.conformance.rooms import OPERATIONS
from tests.conformance.table import Operation
from tests.fuzz import isolated
from tests.fuzz.calls import KINDS, HypothesisDraw

# A process with threads cannot be forked, so the threads of OpenMP and OpenBLAS only start in the forks. Memory that is
# read before it is written, or after it is freed, contains other bytes than zeros.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MALLOC_PERTURB_": "165"}

# Reading more elements takes longer than the limit of a call.
MOST_ELEMENTS = 2**31


@dataclass
class Fault:
    """One kind of failure: the smallest call that has it, and the number of such calls."""

    kind: str
    text: str
    call: str
    said: str
    count: int = 1


class FaultError(Exception):
    """Makes Hypothesis search for a smaller call."""


class SlowError(BaseException):
    """Makes Hypothesis stop: each smaller call would also take long to hang, or to be reported."""


def hunt(kind: str, operation: Operation, count: int, start: int, faults: dict[Any, Fault]) -> None:
    """Try `count` random calls; a new fault ends a round of Hypothesis."""
    done = 0
    while done < count:
        more = _round(kind, operation, count - done, start + done, faults)
        if more == 0:
            break  # Hypothesis has tried all possible calls
        done += more


def _round(kind: str, operation: Operation, count: int, start: int, faults: dict[Any, Fault]) -> int:
    """Try calls until one has a new fault, and store its smallest call. Returns the number of calls."""
    done = 0
    last: dict[Any, dict[str, Any]] = {}  # the one new fault

    @seed(start)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def one(data: Any) -> None:
        nonlocal done
        report = isolated.run(KINDS[kind](operation, HypothesisDraw(data)))
        done += not last
        if "fault" not in report:
            return
        text = report["fault"]
        if text.startswith("hung") and report.get("elements", 0) > MOST_ELEMENTS:
            return
        key = (kind, operation.name, report.get("argument"), re.sub(r"\d+", "N", text.partition("\n")[0])[:80])
        if key in faults:
            faults[key].count += not last
        elif not last or key in last:
            last[key] = report
            slow = text.startswith("hung") or "TORCHEXT_SANITIZED" in os.environ
            raise SlowError if slow else FaultError

    with contextlib.suppress(FaultError, SlowError, errors.Flaky):
        one()
    for key, report in last.items():
        faults[key] = Fault(kind, report["fault"], report.get("call", "unknown"), report.get("said", ""))
    return done


def warm_up() -> None:
    """Load the modules that PyTorch imports at first use, which would take two seconds in each process."""
    operation = next(o for o in OPERATIONS if o.name == "class_sums")
    torch.nested.nested_tensor([torch.zeros(2)], layout=torch.jagged)
    for kind in KINDS.values():
        kind(operation, Draw(0))(lambda **_: None)
    assert len(os.listdir("/proc/self/task")) == 1


def main() -> int:
    """Print the table, and return 1 if there is a fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    for kind in KINDS:
        parser.add_argument(f"--{kind}", type=int, default=1000, help=f"number of {kind} calls")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="only operations whose names contain this text")
    parser.add_argument("--verbose", action="store_true", help="print the output of processes with faults")
    options = parser.parse_args()

    if not ENVIRONMENT.items() <= os.environ.items():
        command = [sys.executable, "-m", "tests.fuzz", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, **ENVIRONMENT})
    if "TORCHEXT_SANITIZED" in os.environ:
        sanitizers.load(os.environ["TORCHEXT_SANITIZED"])
    (library, _) = torchext.doctor().libraries
    print(f"_C: {library.problem or library.path}", flush=True)
    torch.set_num_threads(1)  # no thread may run when the process is forked
    warnings.simplefilter("ignore")  # PyTorch warns about prototypes
    warm_up()
    operations = [o for o in OPERATIONS if o.random_call is not None and options.only in o.name]
    counts: Counter[tuple[str, str]] = Counter()
    found: dict[Any, Fault] = {}
    for number, operation in enumerate(operations):
        for kind in KINDS:
            share = len(range(number, getattr(options, kind), len(operations)))
            hunt(kind, operation, share, options.seed * 10**9, found)
            counts[operation.name, kind] = share
        faults = [sum(1 for key in found if key[:2] == (kind, operation.name)) for kind in KINDS]
        row = "  ".join(f"{kind} {counts[operation.name, kind]:6}" for kind in KINDS)
        print(f"{operation.name:20} {row}  faults {faults}", flush=True)
    for (_, name, argument, _), fault in found.items():
        print(f"\n{fault.kind} {name}, {argument}, {fault.count} times: {fault.text}\n    {fault.call}")
        if options.verbose:
            print(fault.said)
    print(f"\n{len(found)} faults in {counts.total()} calls")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
