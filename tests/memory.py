"""Measures the peak memory of code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import torchext
from tests import ROOT

reads_proc = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
reads_in_place = pytest.mark.skipif(
    torchext.doctor().libraries[0].problem is not None, reason="the references copy their inputs"
)


def needs_gibibytes(count: int) -> pytest.MarkDecorator:
    """Skips a test if less memory is available."""
    meminfo = Path("/proc/meminfo")
    lines = meminfo.read_text().splitlines() if meminfo.exists() else []
    free = sum(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 2**20
    return pytest.mark.skipif(free < count, reason=f"needs {count} GiB of memory")


_MEASURE = """
import sys
{prepare}
def megabytes(field):
    # Not ru_maxrss, which a process inherits from its parent.
    (line,) = [line for line in open("/proc/self/status") if line.startswith(field)]
    return int(line.split()[1]) / 1024
before = megabytes("VmRSS")
{code}
print(megabytes("VmHWM") - before)
"""


def peak_megabytes(prepare: str, code: str, *arguments: str) -> float:
    """The memory that `code` needs in addition to what the process has after `prepare`, in a process of its own.

    `prepare` must run the code once on small inputs, so that everything a first call loads is loaded, and its own peak
    must not be above what it keeps.
    """
    command = [sys.executable, "-c", _MEASURE.format(prepare=prepare, code=code), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return float(done.stdout.splitlines()[-1])  # libraries may have printed something before
