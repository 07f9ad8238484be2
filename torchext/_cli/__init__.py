"""The command line.

Each module of this folder is a subcommand of its name. It has the texts HELP, DESCRIPTION and EXAMPLES,
``add_arguments(parser)``, and ``run(options)``, which takes the parsed arguments and returns the exit status.
"""

from __future__ import annotations

import argparse
import codecs
import importlib
import io
import os
import pkgutil
import sys
import textwrap
from collections.abc import Sequence

from torchext import _interrupt
from torchext._core.version import __version__

# What is printed where the encoding of the terminal, such as code page 1252 or ASCII, lacks a character.
_REPLACEMENTS = {
    "→": "->", "≤": "<=", "≥": ">=", "×": "x", "÷": "/", "–": "-", "…": "...", "·": ",", "µ": "u", "²": "^2", "³": "^3",
    "⁴": "^4",
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; 2 for invalid arguments."""
    _interrupt.raise_again()
    _print_in_any_encoding()
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
            formatter_class=_Help,
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
    except KeyboardInterrupt:
        print("torchext: interrupted", file=sys.stderr)
        return 130  # as a shell reports a process that Ctrl-C has ended
    return status


class _Help(argparse.HelpFormatter):
    """Wraps the text of a command to the width of the terminal, except for indented lines, which are examples."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = [""]
        for line in text.splitlines():
            if line.startswith(" ") or paragraphs[-1].startswith(" ") or paragraphs[-1].endswith(":"):
                paragraphs.append(line)
            else:
                paragraphs[-1] = f"{paragraphs[-1]} {line}".strip()
        return "\n".join(line if line.startswith(" ") else textwrap.fill(line, width) for line in paragraphs)


def _print_in_any_encoding() -> None:
    """Replace characters that the encoding of the terminal lacks, instead of raising an error."""
    codecs.register_error("torchext", _replacement)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="torchext")


def _replacement(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_REPLACEMENTS.get(character, "?") for character in error.object[error.start : error.end]), error.end


class CommandError(Exception):
    """The command cannot be executed; the text is the reason."""
