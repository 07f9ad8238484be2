"""Nested containers of tensors: mappings, sequences and dataclasses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from copy import copy as copied
from typing import Any

from torch import Tensor


def children_of(value: Any) -> dict[Any, Any] | None:
    """The values inside of a container by their key; None if it is not a container."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (tuple, list)):
        return dict(enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return None


def rebuilt(value: Any, children: dict[Any, Any]) -> Any:
    """A copy of a container with other values."""
    if isinstance(value, tuple):
        values = list(children.values())
        return type(value)(*values) if hasattr(value, "_fields") else type(value)(values)
    try:
        result: Any = copied(value)
    except TypeError:  # a view of a dictionary
        return children
    if isinstance(value, list):
        result[:] = children.values()
    elif isinstance(value, Mapping):
        for key, child in children.items():
            result[key] = child
    else:
        for name, child in children.items():
            object.__setattr__(result, name, child)
    return result


def map_leaves(value: Any, change: Callable[[str, Any], Any], path: str = "") -> Any:
    """A copy of nested containers with ``change(path, leaf)`` for everything in them that is not a container.

    A path continues `path` as in Python: ``output['scores'][0]`` or ``output.scores``.
    """
    entries = None if isinstance(value, Tensor) else children_of(value)
    if entries is None:
        return change(path, value)
    step = "{}[{!r}]" if isinstance(value, (Mapping, tuple, list)) else "{}.{}"
    return rebuilt(value, {key: map_leaves(entry, change, step.format(path, key)) for key, entry in entries.items()})


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A copy of nested containers in which all tensors are changed."""
    return map_leaves(value, lambda _, leaf: change(leaf) if isinstance(leaf, Tensor) else leaf)


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in nested containers."""
    if isinstance(value, Tensor):
        return [value]
    return [tensor for child in (children_of(value) or {}).values() for tensor in tensors_in(child)]
