"""What a workload is, and where all of them are found."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch

from .floors import Floor

FAMILIES = ("onehot", "windows", "cam")
"""Folders of workloads, in the order of the README."""

Inputs = tuple[Any, ...]
Fn = Callable[..., Any]


@dataclass(frozen=True)
class Replaced:
    """What the README's table says of a row: which peer it replaces, and the table's words where the row has others."""

    peer: str
    code: str = ""
    """What people write now; the peer's name if empty."""
    shown: str = ""
    """What the operation and its inputs are called; family and name if empty."""
    siblings: Sequence[str] = ()
    """Titles of workloads that time the same operation against other peers."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One row of the table: inputs, our call, the calls of peers, and what we must reach.

    `peers` run as they are written, `compiled` through `torch.compile`; both get the inputs as arguments.
    """

    name: str
    family: str
    setup: Callable[[torch.device], Inputs]
    ours: Fn
    peers: Mapping[str, Fn] = field(default_factory=dict)
    compiled: Mapping[str, Fn] = field(default_factory=dict)
    floor: Floor | None = None
    max_floor: float | None = None
    """Largest ratio of our time to the floor's."""
    max_peer: float | None = None
    """Largest ratio of our time to the fastest peer's."""
    max_peer_of_threads: Mapping[int, float] = field(default_factory=dict)
    """The same with so many threads, where it is not `max_peer`."""
    max_us: float | None = None
    """Largest time of one call, for rows that measure the call and not the work."""
    compile_ours: bool = False
    backward: bool = False
    """Time forward and backward; setup gives the incoming gradient as an additional last input."""
    rtol: float = 1e-4
    atol: float = 1e-5
    devices: Sequence[str] = ("cpu", "cuda")
    measures_call: bool = False
    """The inputs are tiny: the time is what a call costs, on a GPU until it returns to Python."""
    in_short_run: bool = False
    """`torchext bench` measures it unasked, a row or two of each function, none that compiles."""
    profiled: bool = False
    """ncu looks at its kernel, whose inputs fill the device."""
    replaces: Replaced | None = None
    """The README's table has the row."""

    @property
    def title(self) -> str:
        return f"{self.family}: {self.name}"


_workloads: list[Workload] = []


def register(*workloads: Workload) -> None:
    known = {workload.title for workload in _workloads}
    for workload in workloads:
        if workload.title in known:
            raise ValueError(f"two workloads are called {workload.title!r}")
        known.add(workload.title)
        _workloads.append(workload)


def optional(module: str) -> ModuleType | None:
    """A library whose operations are peers where it happens to be installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


def _modules() -> Iterator[str]:
    """All modules of workloads, the FIRST of each family before the others."""
    root = __package__.rpartition(".")[0]
    for family in FAMILIES:
        package = importlib.import_module(f"{root}.{family}")
        found = [module.name for module in pkgutil.iter_modules(package.__path__)]
        ordered = dict.fromkeys([*getattr(package, "FIRST", ()), *sorted(found)])
        yield from (f"{package.__name__}.{name}" for name in ordered)


def load(pattern: str = "", device: str = "cpu") -> list[Workload]:
    """All workloads for a device whose title matches the regular expression, those that measure calls last."""
    for module in _modules():
        importlib.import_module(module)
    found = [w for w in _workloads if device in w.devices and re.search(pattern, w.title)]
    return sorted(found, key=lambda workload: workload.measures_call)
