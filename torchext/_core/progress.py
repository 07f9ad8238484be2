"""A bar for what takes long."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable
from typing import Any, TypeVar

_T = TypeVar("_T")


def with_progress(items: Iterable[_T], label: str, wanted: bool) -> Iterable[_T]:
    """The items, with a bar as they are taken if one is wanted.

    Raises:
        ImportError: tqdm, which draws the bar, is not installed.
    """
    if not wanted:
        return items
    bar: Iterable[_T] = tqdm()(items, desc=label, leave=False)
    return bar


def tqdm() -> Any:
    """The class that draws a bar.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return importlib.import_module("tqdm.auto").tqdm
    except ImportError as error:
        raise ImportError("progress: the bar is drawn by tqdm; pip install 'torchext[progress]'") from error


def can_show_progress() -> bool:
    """Whether tqdm is installed."""
    return importlib.util.find_spec("tqdm") is not None
