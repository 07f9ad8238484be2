"""``torchext doctor``."""

from __future__ import annotations

import argparse
import sys

from torchext._native import load
from torchext._native.doctor import doctor

HELP = "report which kernels are loaded, and why"
DESCRIPTION = "Report the loaded libraries, what runs each operation on each device, and how to fix faults."
EXAMPLES = """\
examples:
  torchext doctor
  torchext doctor --check && python train.py
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--check", action="store_true", help="exit with status 1 if a compiled library is not used")


def run(options: argparse.Namespace) -> int:
    """Print the report. With --check, the status is 1 if a library is not loaded that this machine could use."""
    print(doctor())
    unused = load.unused() if options.check else []
    for library in unused:
        print(f"torchext: {library.name} is not loaded: {library.problem}", file=sys.stderr)
    return int(bool(unused))
