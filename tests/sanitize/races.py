"""Random calls in several Python threads at the same time, each with several threads in its loops, for ThreadSanitizer.

    env $(python tests/sanitize/build.py thread) python -m tests.sanitize.races --calls 20

All threads read the same arguments, and their results must be the same.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from typing import Any

from tests import sanitizers
from tests.conformance.random_call import Call, Draw, assert_equal_results, results
from tests.conformance.rooms import OPERATIONS
from tests.conformance.table import Operation

THREADS = 3


def call_at_once(operation: Operation, call: Call) -> None:
    """Make one call in several threads. ThreadSanitizer reports unsynchronised accesses to the same memory."""
    calls = [call] * THREADS
    out = call.options.get("out")
    if out is not None:  # each thread has its own
        copies = [out._base.clone().as_strided(out.shape, out.stride(), out.storage_offset()) for _ in calls]
        calls = [call._replace(options={**call.options, "out": copy}) for copy in copies]
    found: list[Any] = [None] * THREADS
    start = threading.Barrier(THREADS)

    def run(i: int) -> None:
        start.wait()
        found[i] = results(call.function, calls[i])

    threads = [threading.Thread(target=run, args=(i,)) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for other in found[1:]:
        assert_equal_results(operation, call, found[0], other)


def main() -> int:
    """Make the calls; ThreadSanitizer sets the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.sanitize.races", description=__doc__)
    parser.add_argument("--calls", type=int, default=20, help="number of calls of each operation")
    options = parser.parse_args()
    sanitizers.load(os.environ["TORCHEXT_SANITIZED"])
    operations = [operation for operation in OPERATIONS if operation.random_call is not None]
    for operation in operations:
        for number in range(options.calls):
            call_at_once(operation, operation.random_call(Draw(number)))
    print(f"{options.calls} calls of {len(operations)} operations, each in {THREADS} threads at the same time")
    return 0


if __name__ == "__main__":
    sys.exit(main())
