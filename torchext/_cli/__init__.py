"""The command line.

Each module of this folder is a subcommand of its name. It has the texts HELP, DESCRIPTION and EXAMPLES,
``add_arguments(parser)``, and ``run(options)``, which takes the parsed arguments and returns the exit status.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import sys
from collections.abc import Sequence

from torchext._core.version import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; 2 for invalid arguments."""
    parser = argparse.ArgumentParser("torchext", description="Fused operations for PyTorch, from the command line.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in sorted(module.name for module in pkgutil.iter_modules(__path__)):
        command = importlib.import_module(f"{__name__}.{name}")
        subparser = subparsers.add_parser(
            name,
            help=command.HELP,
            description=command.DESCRIPTION,
            epilog=command.EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, such as head, has closed the pipe. The rest of the buffer must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except CommandError as error:
        print(f"torchext: {error}", file=sys.stderr)
        return 2
    return status


class CommandError(Exception):
    """The command cannot be executed; the text is the reason."""
