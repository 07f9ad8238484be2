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
        help="what is loaded, and which kernel runs where and why",
        description="What is loaded, which kernel runs where and why, and how to mend what is missing.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the report."""
    from torchext._native.doctor import doctor

    print(doctor())
    return 0
