"""What a workload is, and the list of all of them."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch

from .floors import Floor

ROOT = __package__.rpartition(".")[0]
FAMILIES = (
    "onehot.one_hot",
    "onehot.multi_hot",
    "onehot.class_sums",
    "onehot.class_overlap",
    "windows.unfold",
    "windows.sliding",
    "windows.patches",
    "windows.tiles",
    "cam.pool",
    "harness.overhead",
)

Inputs = tuple[Any, ...]
Fn = Callable[..., Any]


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


def load(pattern: str = "", device: str = "cpu") -> list[Workload]:
    """All workloads for a device whose title matches the regular expression."""
    for family in FAMILIES:
        importlib.import_module(f"{ROOT}.{family}")
    return [w for w in _workloads if device in w.devices and re.search(pattern, w.title)]
