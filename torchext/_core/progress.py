"""A progress bar for long loops."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable
from typing import Any, TypeVar

_T = TypeVar("_T")


def with_progress(items: Iterable[_T], label: str, wanted: bool) -> Iterable[_T]:
    """Return the items; if `wanted`, an iterator that shows a progress bar while it is read.

    Raises:
        ImportError: tqdm, which draws the bar, is not installed.
    """
    if not wanted:
        return items
    bar: Iterable[_T] = tqdm()(items, desc=label, leave=False)
    return bar


def tqdm() -> Any:
    """Return tqdm's class, which draws a progress bar.

    Raises:
        ImportError: tqdm is not installed.
    """
    try:
        return importlib.import_module("tqdm.auto").tqdm
    except ImportError as error:
        raise ImportError("progress: the bar is drawn by tqdm; pip install 'torchext-ops[progress]'") from error


def can_show_progress() -> bool:
    """Whether tqdm is installed."""
    return importlib.util.find_spec("tqdm") is not None
