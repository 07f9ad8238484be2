"""Run workloads: make the inputs, compare the results, time all contenders, compute the ratios."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from .floors import LARGEST_HEAP_BLOCK, huge_pages_in_allocator
from .machine import Bystanders
from .timing import Clock, CudaClock, Effort, HostClock, Thunk, Times, WallClock, measure
from .workload import Inputs, Workload

OURS, FLOOR = "torchext", "floor"
COMPILED = "compiled "
MAX_SPREAD, MAX_CORES_OF_OTHERS = 1.5, 0.2


class WrongAnswerError(AssertionError):
    """The result of a peer differs from that of torchext."""


@dataclass
class Row:
    """The measurement of a workload with one number of threads; times in seconds."""

    family: str
    name: str
    device: str
    threads: int
    huge_pages: bool
    """The process ran with `THP_MEM_ALLOC_ENABLE=1`."""
    floor_name: str | None = None
    floor: Times | None = None
    ours: Times | None = None
    peers: dict[str, Times] = field(default_factory=dict)
    noisy: bool = False
    """Other work ran on the machine, or the medians are far above the best samples."""
    broken_peers: dict[str, str] = field(default_factory=dict)
    """Peers that cannot run here, with the reason."""
    bytes_read: int = 0
    bytes_written: int = 0
    max_floor: float | None = None
    max_peer: float | None = None
    max_us: float | None = None
    error: str | None = None

    @property
    def title(self) -> str:
        return f"{self.family}: {self.name}"

    @property
    def fastest_peer(self) -> str | None:
        return min(self.peers, key=lambda name: self.peers[name].median, default=None)

    @property
    def to_floor(self) -> float | None:
        return self.ours.median / self.floor.median if self.ours and self.floor else None

    @property
    def to_peer(self) -> float | None:
        fastest = self.fastest_peer
        return self.ours.median / self.peers[fastest].median if self.ours and fastest else None

    def verdicts(self) -> dict[str, bool]:
        """For each target of the row, whether it is met."""
        us = self.ours.median * 1e6 if self.ours else None
        judged = {
            "floor": (self.to_floor, self.max_floor),
            "peer": (self.to_peer, self.max_peer),
            "us": (us, self.max_us),
        }
        return {
            name: value is not None and value <= limit for name, (value, limit) in judged.items() if limit is not None
        }

    @property
    def met(self) -> bool | None:
        """Whether all targets are met; None if there is none."""
        if self.error:
            return False
        verdicts = self.verdicts()
        return all(verdicts.values()) if verdicts else None

    def as_dict(self) -> dict[str, Any]:
        derived = {
            "fastest_peer": self.fastest_peer,
            "to_floor": self.to_floor,
            "to_peer": self.to_peer,
            "met": self.met,
        }
        return {**asdict(self), **derived}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Row:
        def times(value: dict[str, Any] | None) -> Times | None:
            return Times(**value) if value else None

        stored = {name: data[name] for name in cls.__dataclass_fields__}
        stored["floor"], stored["ours"] = times(data["floor"]), times(data["ours"])
        stored["peers"] = {name: Times(**value) for name, value in data["peers"].items()}
        return cls(**stored)


def _with_backward(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*inputs: Any) -> tuple[torch.Tensor, ...]:
        *arguments, gradient = inputs
        leaves = [x for x in arguments if isinstance(x, torch.Tensor) and x.requires_grad]
        return torch.autograd.grad(forward(*arguments), leaves, gradient)

    return run


def contenders(workload: Workload, inputs: Inputs, *, compile_peers: bool) -> dict[str, Thunk]:
    """The calls of torchext and of the peers, bound to the inputs."""
    functions = {OURS: torch.compile(workload.ours) if workload.compile_ours else workload.ours}
    functions.update(workload.peers)
    if compile_peers:
        functions.update({COMPILED + name: torch.compile(fn) for name, fn in workload.compiled.items()})
    if workload.backward:
        functions = {name: _with_backward(fn) for name, fn in functions.items()}
    return {name: functools.partial(fn, *inputs) for name, fn in functions.items()}


def _tensors(result: Any) -> Sequence[torch.Tensor]:
    return result if isinstance(result, tuple | list) else (result,)


def _agree(ours: torch.Tensor, theirs: torch.Tensor, workload: Workload) -> bool:
    theirs = theirs.detach().to(ours.dtype)
    return torch.equal(ours, theirs) or torch.allclose(ours, theirs, rtol=workload.rtol, atol=workload.atol)


def _compare(ours: Sequence[torch.Tensor], name: str, theirs: Any, workload: Workload) -> None:
    for mine, other in zip(ours, _tensors(theirs), strict=True):
        if mine.shape != other.shape:
            raise WrongAnswerError(f"{name}: shape {tuple(other.shape)}, ours {tuple(mine.shape)}")
        if not _agree(mine, other, workload):
            raise WrongAnswerError(f"{name}: other values than ours")


def check(workload: Workload, thunks: dict[str, Thunk]) -> tuple[Sequence[torch.Tensor], dict[str, str]]:
    """Compare the results of all peers with ours. Returns our result, and the peers that cannot run with the reason."""
    ours = [x.detach() for x in _tensors(thunks[OURS]())]
    broken = {}
    for name in [name for name in thunks if name != OURS]:
        try:
            theirs = thunks[name]()
        except Exception as error:
            broken[name] = _in_one_line(error)
        else:
            _compare(ours, name, theirs, workload)
    return ours, broken


def _in_one_line(error: Exception) -> str:
    lines = "".join(traceback.format_exception_only(error)).split("\n")
    return lines[0][:200]


def _bytes(tensors: Sequence[Any]) -> int:
    return sum(x.nbytes for x in tensors if isinstance(x, torch.Tensor))


def peer_target(workload: Workload, device: str, threads: int) -> float | None:
    """The target of a row for the ratio to the fastest peer.

    The row's own target is for PyTorch as installed on a CPU. On a GPU, and with an allocator that also gives huge
    pages to peers, which are half of our advantage, the target is at least 1.
    """
    if device == "cpu" and not huge_pages_in_allocator():
        return workload.max_peer_of_threads.get(threads, workload.max_peer)
    return None if workload.max_peer is None else max(workload.max_peer, 1.0)


@dataclass(frozen=True)
class Prepared:
    """A workload with its inputs and checked results, ready to be timed."""

    thunks: dict[str, Thunk]
    broken_peers: dict[str, str]
    bytes_read: int
    bytes_written: int


def prepare(workload: Workload, device: torch.device, *, compile_peers: bool) -> Prepared:
    inputs = workload.setup(device)
    thunks = contenders(workload, inputs, compile_peers=compile_peers)
    output, broken = check(workload, thunks)
    runnable = {name: fn for name, fn in thunks.items() if name not in broken}
    if workload.floor:
        runnable[FLOOR] = workload.floor.prepare(inputs, output)
    return Prepared(runnable, broken, _bytes(inputs), _bytes(output))


def _spread(times: dict[str, Times]) -> float:
    """The largest ratio of median to minimum of the times that are judged."""
    return max(times[name].median / times[name].min for name in (OURS, FLOOR) if name in times)


def _measure_undisturbed(thunks: dict[str, Thunk], effort: Effort, clock: Clock) -> tuple[dict[str, Times], bool]:
    """The times, and whether other work on the machine disturbed them even in a second attempt."""
    attempts = []
    for _ in range(2):
        bystanders = Bystanders()
        times = measure(thunks, effort, clock)
        others = bystanders.cores() if isinstance(clock, WallClock) else 0.0
        disturbance = max(_spread(times) / MAX_SPREAD, others / MAX_CORES_OF_OTHERS)
        attempts.append((disturbance, times))
        if disturbance <= 1:
            break
    disturbance, times = min(attempts, key=lambda attempt: attempt[0])
    return times, disturbance > 1


def _time_row(row: Row, prepared: Prepared, effort: Effort, clock: Clock) -> None:
    times, row.noisy = _measure_undisturbed(prepared.thunks, effort, clock)
    row.broken_peers = prepared.broken_peers
    row.bytes_read, row.bytes_written = prepared.bytes_read, prepared.bytes_written
    row.ours, row.floor = times.pop(OURS), times.pop(FLOOR, None)
    row.peers = times


def clock_for(workload: Workload, device: str) -> Clock:
    if device == "cpu":
        return WallClock()
    return HostClock() if workload.measures_call else cuda_clock()


@functools.cache
def cuda_clock() -> CudaClock:
    return CudaClock()


def _settle_allocator() -> None:
    """Free a block just below glibc's limit, as any process has done that has run for a while.

    Later blocks of this size then come from the heap, with pages that are already mapped. Without it the result of a
    row would depend on the rows before it.
    """
    torch.zeros(LARGEST_HEAP_BLOCK - (1 << 16), dtype=torch.uint8)


def run(
    workloads: Sequence[Workload],
    *,
    device: str,
    threads: Sequence[int],
    effort: Effort,
    compile_peers: bool = True,
) -> Iterator[Row]:
    """Yield a row for each workload and number of threads. An error is a row too, and does not end the run."""
    _settle_allocator()
    for workload in workloads:
        clock = clock_for(workload, device)
        if workload.compile_ours and not compile_peers:
            continue
        torch.manual_seed(0)
        torch.compiler.reset()
        prepared: Prepared | None = None
        for count in threads:
            row = _empty_row(workload, device, count)
            try:
                torch.set_num_threads(count)
                prepared = prepared or prepare(workload, torch.device(device), compile_peers=compile_peers)
                _time_row(row, prepared, effort, clock)
            except Exception as error:
                row.error = _in_one_line(error)
            yield row


def _empty_row(workload: Workload, device: str, threads: int) -> Row:
    row = Row(workload.family, workload.name, device, threads, huge_pages_in_allocator())
    row.floor_name = workload.floor.name if workload.floor else None
    row.max_peer = peer_target(workload, device, threads)
    if device == "cpu":
        row.max_floor, row.max_us = workload.max_floor, workload.max_us
    return row
