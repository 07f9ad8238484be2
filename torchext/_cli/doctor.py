"""``torchext doctor``."""

from __future__ import annotations

import argparse
from typing import Any

_EXAMPLE = """\
example:
  torchext doctor
"""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "doctor",
        help="report which kernels are loaded, and why",
        description="Report the loaded libraries, the kernel of each operation and device, and remedies for faults.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the report."""
    from torchext._native.doctor import doctor

    print(doctor())
    return 0
