"""Runs a function in a process of its own, which may crash, hang or use up its memory."""

from __future__ import annotations

import faulthandler
import json
import os
import re
import resource
import select
import signal
import tempfile
import traceback
from collections.abc import Callable
from typing import Any

import torch

SECONDS = 10
MEMORY = 2 * 1024**3  # beyond what the process has when it starts

Report = Callable[..., None]


def run(function: Callable[[Report], None]) -> dict[str, Any]:
    """The values that the function reported, by name; `fault` describes the end of the process if it did not return.

    The process is a fork of this one, so this one must not have called anything that starts threads.
    """
    with tempfile.TemporaryFile("w+") as reports, tempfile.TemporaryFile("w+", errors="replace") as errors:
        process = os.fork()
        if process == 0:
            _run_here(function, reports, errors)
        # A sanitizer that is writing its report delays the alarm.
        end = os.pidfd_open(process)
        if not select.select([end], [], [], 2 * SECONDS)[0]:
            os.kill(process, signal.SIGKILL)
        os.close(end)
        status = os.waitpid(process, 0)[1]
        reports.seek(0)
        found: dict[str, Any] = {}
        for line in reports:
            found |= json.loads(line)
        if status != 0:
            found["fault"] = _end(status)
            errors.seek(0)
            said = errors.read()
            if said:
                found["fault"] += f": {_summary(said)}"
                found["said"] = said
    return found


def _run_here(function: Callable[[Report], None], reports: Any, errors: Any) -> None:
    def report(**values: Any) -> None:
        reports.write(json.dumps(values) + "\n")
        reports.flush()

    try:
        os.dup2(errors.fileno(), 1)
        os.dup2(errors.fileno(), 2)
        faulthandler.enable(errors)
        faulthandler.dump_traceback_later(SECONDS - 1, file=errors)
        signal.alarm(SECONDS)  # the default action ends the process in any case
        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        torch.set_num_threads(2)
        function(report)
    except BaseException as error:  # of any kind, since this process ends here
        kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
        report(fault=f"{kind}{error}"[:2000], said=traceback.format_exc()[-4000:])
    os._exit(0)


def _end(status: int) -> str:
    if not os.WIFSIGNALED(status):
        return f"ended with status {os.WEXITSTATUS(status)}"
    if os.WTERMSIG(status) in (signal.SIGALRM, signal.SIGKILL):
        return f"hung for {SECONDS} s"
    return f"died of {signal.Signals(os.WTERMSIG(status)).name}"


def _summary(said: str) -> str:
    """The report of a sanitizer, or the text that the process printed before Python's traceback."""
    lines = re.findall(r"SUMMARY: .*|.*runtime error: .*|.*what\(\): .*", said)
    lines = lines or re.split(r"Fatal Python error|Timeout \(", said)[0].strip().splitlines()
    return lines[-1].strip()[:300] if lines else "no word"
