"""The definition of a workload, and the list of all workloads."""

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
"""Folders of workloads, in the order of docs/speed.md."""

Inputs = tuple[Any, ...]
Fn = Callable[..., Any]


@dataclass(frozen=True)
class Replaced:
    """The row of a workload in docs/speed.md: the peer that it replaces, and texts other than the defaults."""

    peer: str
    code: str = ""
    """The code that is replaced; the name of the peer if empty."""
    shown: str = ""
    """The operation and its inputs; family and name of the workload if empty."""
    siblings: Sequence[str] = ()
    """Titles of workloads that time the same operation against other peers."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One row of the benchmarks: inputs, the call of torchext, the calls of peers, and targets.

    `peers` run eagerly, `compiled` are compiled by `torch.compile`; both get the inputs as arguments.
    """

    name: str
    family: str
    setup: Callable[[torch.device], Inputs]
    ours: Fn
    peers: Mapping[str, Fn] = field(default_factory=dict)
    compiled: Mapping[str, Fn] = field(default_factory=dict)
    floor: Floor | None = None
    max_floor: float | None = None
    """Target: the largest ratio of our time to that of the floor."""
    max_peer: float | None = None
    """Target: the largest ratio of our time to that of the fastest peer."""
    max_peer_of_threads: Mapping[int, float] = field(default_factory=dict)
    """The same for numbers of threads for which it differs from `max_peer`."""
    max_us: float | None = None
    """Target: the largest time of one call, for rows that measure the overhead of a call."""
    compile_ours: bool = False
    backward: bool = False
    """Time forward and backward; `setup` returns the incoming gradient as an additional last input."""
    rtol: float = 1e-4
    atol: float = 1e-5
    devices: Sequence[str] = ("cpu", "cuda")
    measures_call: bool = False
    """The inputs are tiny, so that the time is the overhead of a call; on a GPU the time until it returns to Python."""
    in_short_run: bool = False
    """`torchext bench` runs it by default: one or two rows of each function, none that is compiled."""
    profiled: bool = False
    """ncu profiles its kernel; its inputs fill the device."""
    replaces: Replaced | None = None
    """Its row in the table of docs/speed.md; None if it has none."""

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
    """A library whose operations are peers if it is installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


def _modules() -> Iterator[str]:
    """The names of all modules of workloads; those in FIRST come before the others of a family."""
    root = __package__.rpartition(".")[0]
    for family in FAMILIES:
        package = importlib.import_module(f"{root}.{family}")
        found = [module.name for module in pkgutil.iter_modules(package.__path__)]
        ordered = dict.fromkeys([*getattr(package, "FIRST", ()), *sorted(found)])
        yield from (f"{package.__name__}.{name}" for name in ordered)


def load(pattern: str = "", device: str = "cpu") -> list[Workload]:
    """The workloads for a device whose titles match the regular expression; those that measure calls come last."""
    for module in _modules():
        importlib.import_module(module)
    found = [w for w in _workloads if device in w.devices and re.search(pattern, w.title)]
    return sorted(found, key=lambda workload: workload.measures_call)
