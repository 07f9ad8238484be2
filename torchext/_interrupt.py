"""Ctrl-C while the command line imports PyTorch, which takes seconds: the process ends without a traceback."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading


def _is_command_line() -> bool:
    """Whether this process runs the script torchext or ``python -m torchext``."""
    name, _ = os.path.splitext(os.path.basename(sys.argv[0] if sys.argv else ""))
    words = sys.orig_argv
    return name == "torchext" or ("-m", "torchext") in itertools.pairwise(words)


def _replace(old: object, new: signal.Handlers | object) -> None:
    # Only the main thread can set handlers. Handlers of other programs stay.
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is old:
        signal.signal(signal.SIGINT, new)  # type: ignore[arg-type]  # a handler of the signal module


def raise_again() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again, which the command line handles."""
    _replace(signal.SIG_DFL, signal.default_int_handler)


if _is_command_line():
    _replace(signal.default_int_handler, signal.SIG_DFL)  # the system ends the process
