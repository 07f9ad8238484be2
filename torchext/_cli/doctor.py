"""``torchext doctor``."""

from __future__ import annotations

import argparse

from torchext._native.doctor import doctor

HELP = "report which kernels are loaded, and why"
DESCRIPTION = "Report the loaded libraries, the kernel of each operation and device, and remedies for faults."
EXAMPLES = "example:\n  torchext doctor"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command has no arguments."""


def run(options: argparse.Namespace) -> int:
    """Print the report."""
    print(doctor())
    return 0
