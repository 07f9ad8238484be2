"""The stages that gpu.py runs in processes of their own. Each function is a stage and fills a dictionary of plain data.

All stages also run on a CPU, where launches cannot be counted, so that they can be tested on a machine without a GPU.
"""

from __future__ import annotations

import functools
import itertools
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

import torchext
from tests.conformance.rooms import OPERATIONS
from tests.conformance.table import Operation, Sample, outputs, requiring_grad, total
from torchext._native.load import libraries

from . import gpu, machine, report, runner
from .timing import BRIEF, GPU, QUICK, Thunk, WallClock, measure
from .workload import Workload, load

BANDWIDTH_SHARE = 0.9
"""An operation meets its target if it reaches this fraction of the device's bandwidth for its size."""
DRY_ROWS = "256×1000|224², k4|1×2048|colours"


def on_gpu(device: torch.device) -> bool:
    return device.type == "cuda"


def synchronize(device: torch.device) -> None:
    if on_gpu(device):
        torch.cuda.synchronize(device)


def attempt(fn: Callable[[], Any]) -> str | None:
    """The text of the error that the call raises, or None."""
    try:
        fn()
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0][:300]
    return None


def _output_of(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return type(error).__name__
    return done.stdout.strip()


def loaded(device: torch.device, results: gpu.Results) -> None:
    """Report which libraries are in use, or the reasons why not, and the machine."""
    results["libraries"] = {name: library.problem for name, library in libraries.items()}
    results.save()
    print(torchext.doctor())
    query = "--query-gpu=name,driver_version,memory.total,clocks.max.sm"
    results["machine"] = {
        **machine.describe(),
        **(machine.describe_cuda() if on_gpu(device) else {}),
        "python": platform.python_version(),
        "nvidia-smi": _output_of("nvidia-smi", query, "--format=csv,noheader"),
        "nvcc": _output_of(gpu.toolkit_program("nvcc") or "nvcc", "--version").splitlines()[-2:],
    }


def small_cases(device: torch.device) -> dict[str, Callable[[], None]]:
    """Cases for every sample of the conformance table: with gradients, in half precision, and with other strides.

    The operations take turns, so that a time limit leaves some cases of every operation.
    """
    variants = {"": _check_with_gradient, ", first dtype": _check_first_dtype, ", strided": _check_strided}
    columns = [[(operation, sample) for sample in operation.samples] for operation in OPERATIONS]
    rows = [pair for row in itertools.zip_longest(*columns) for pair in row if pair]
    if not on_gpu(device):
        rows = rows[: len(columns)]
    cases: dict[str, Callable[[], None]] = {
        f"{operation.name}, {sample.name}{variant}": functools.partial(check, operation, sample, device)
        for variant, check in variants.items()
        for operation, sample in rows
    }
    return {**cases, "a bad label is reported": functools.partial(_check_bad_label, device)}


def _assert_close(actual: Any, expected: Any) -> None:
    for one, other in zip(outputs(actual), outputs(expected), strict=True):
        tolerance = 1e-2 if other.dtype == torch.float16 else 1e-3
        torch.testing.assert_close(one.cpu(), other, rtol=tolerance, atol=tolerance, equal_nan=True)


def _check_first_dtype(operation: Operation, sample: Sample, device: torch.device) -> None:
    tensors = operation.arguments(sample, "cpu", operation.dtypes[0])
    expected = operation.function(*tensors, **sample.options)
    _assert_close(operation.function(*(t.to(device) for t in tensors), **sample.options), expected)


def _check_strided(operation: Operation, sample: Sample, device: torch.device) -> None:
    tensors = operation.arguments(sample, "cpu")
    expected = operation.function(*tensors, **sample.options)
    strided = [t.to(device).mT.contiguous().mT if t.dim() > 1 else t.to(device) for t in tensors]
    _assert_close(operation.function(*strided, **sample.options), expected)


def _check_with_gradient(operation: Operation, sample: Sample, device: torch.device) -> None:
    results = []
    for where in ("cpu", device):
        tensors = [t.to(where) for t in operation.arguments(sample, "cpu")]
        tensors = requiring_grad(tensors) if operation.differentiable else tensors
        out = operation.function(*tensors, **sample.options)
        leaves = [t for t in tensors if t.requires_grad]
        gradients = torch.autograd.grad(total(out, power=2), leaves) if leaves else ()
        results.append((*(x.detach() for x in outputs(out)), *gradients))
    _assert_close(results[1], results[0])


def _check_bad_label(device: torch.device) -> None:
    """On a CPU the call raises the error, on a GPU check_errors does."""
    labels = torch.arange(37)
    labels[5] = 100
    error = attempt(lambda: (torchext.one_hot(labels.to(device), 37), torchext.check_errors(device)))
    if "label 100 at position (5,)" not in str(error):
        raise AssertionError(f"got instead: {error}")


def cases(device: torch.device, results: gpu.Results) -> None:
    """Run the small cases that have no result yet; end the process after a fault that no later call would survive."""
    found = small_cases(device)
    for name in found:
        results.setdefault(name, "waiting")
    for name, case in found.items():
        if results[name] != "waiting":
            continue
        results[name] = "started"
        results.save()
        results[name] = attempt(case) or attempt(lambda: synchronize(device)) or "ok"
        results.save()
        if results[name] != "ok" and attempt(lambda: synchronize(device)):
            sys.exit(f"{name}: {results[name]}")


BATCHES = (1, 4, 64)


def _calls(operation: Operation, device: torch.device) -> dict[int, Thunk]:
    """Calls of the first sample that has a batch, with several batch sizes."""

    def call(batch: int) -> Thunk:
        sample = operation.batched(batch)
        tensors = operation.arguments(sample, device)
        return lambda: operation.function(*tensors, **sample.options)

    return {batch: call(batch) for batch in BATCHES}


def launches(fn: Thunk, device: torch.device) -> list[str]:
    """The names of the kernels, copies and fills that one call launches."""
    fn()
    synchronize(device)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu(device)
    with profile(activities=activities) as profiler:
        fn()
        synchronize(device)
    return [event.name for event in profiler.events() if event.device_type == DeviceType.CUDA]


def returns_early(fn: Thunk, device: torch.device) -> bool | None:
    """Whether a call returns while earlier work still runs. PyTorch itself does not detect every synchronisation."""
    if not on_gpu(device):
        return None
    fn()
    work = torch.empty(1 << 30, dtype=torch.uint8, device=device)
    earlier = torch.cuda.Event()
    synchronize(device)
    for _ in range(100):
        work.zero_()
    earlier.record()
    fn()
    busy = not earlier.query()
    synchronize(device)
    return busy


def _examine(operation: Operation, device: torch.device) -> dict[str, Any]:
    of_batch = _calls(operation, device)
    counted = {batch: launches(fn, device) for batch, fn in of_batch.items()}
    counts = {batch: len(names) for batch, names in counted.items()}
    early = returns_early(of_batch[BATCHES[-1]], device)
    seen = all(counts.values())
    steady = len(set(counts.values())) == 1 and max(counts.values()) <= operation.launches
    return {
        "launches": counts,
        "launched": sorted(set(counted[BATCHES[0]])),
        "limit": operation.launches,
        "returns early": early,
        # If there is no event at all, the profiler is not permitted, and the result is unknown.
        "met": steady and early is True if seen else None,
    }


def calls(device: torch.device, results: gpu.Results) -> None:
    """For every operation, count the launches of a call and check that it does not wait for the device."""
    for operation in OPERATIONS:
        try:
            results[operation.name] = _examine(operation, device)
        except Exception as error:
            results[operation.name] = {"error": f"{type(error).__name__}: {error}"[:300], "met": False}
        results.save()


@functools.cache
def bandwidth(size: int, device: torch.device) -> dict[str, float]:
    """Bytes per second of a fill, of a read, and of a copy from one half to the other, for memory of this size."""
    whole = torch.ones(max(2, size // 4), device=device)
    source, target = whole.chunk(2)
    thunks = {"fill": lambda: whole.fill_(1), "read": whole.sum, "copy": lambda: target.copy_(source[: len(target)])}
    times = measure(thunks, BRIEF, runner.cuda_clock() if on_gpu(device) else WallClock())
    return {name: whole.nbytes / found.median for name, found in times.items()}


def _judge(row: runner.Row, workload: Workload, device: torch.device) -> dict[str, Any]:
    """Add the fraction of the bandwidth to the row. It is no target for backward passes, which move more bytes."""
    data = row.as_dict()
    if not row.ours:
        return data
    moved = row.bytes_read + row.bytes_written
    few = moved / 10
    kind = "fill" if row.bytes_read < few else "read" if row.bytes_written < few else "copy"
    limits = bandwidth(moved, device)
    speed = moved / row.ours.median
    share = speed / limits[kind]
    ahead = row.to_peer is None or row.to_peer <= 1
    met = ahead and (workload.backward or share >= BANDWIDTH_SHARE)
    data.update({"GB/s": speed / 1e9, "share": share, "of": kind, "ahead": ahead, "met": met})
    return {**data, "bandwidth GB/s": {name: limit / 1e9 for name, limit in limits.items()}}


def in_turn(workloads: Sequence[Workload]) -> list[Workload]:
    """The workloads with the families taking turns, so that a time limit leaves some of every family."""
    families: dict[str, list[Workload]] = {}
    for workload in workloads:
        families.setdefault(workload.family, []).append(workload)
    return [workload for turn in itertools.zip_longest(*families.values()) for workload in turn if workload]


def _workloads(device: torch.device) -> list[Workload]:
    found = load("" if on_gpu(device) else DRY_ROWS, "cuda")
    return in_turn([workload for workload in found if not workload.measures_call])


def _without_tuning_cache() -> Any:
    """Do not store which variants were fastest, because they are measured while other stages run."""
    from torch._inductor import config  # takes a second, so the other stages do not import it

    return config.patch(autotune_local_cache=False)


def _compiled(device: torch.device) -> list[Workload]:
    """The workloads with compiled contenders, without the eager ones, which were timed in another stage."""
    chosen = [workload for workload in _workloads(device) if workload.compile_ours or workload.compiled]
    chosen = [w if w.compile_ours else replace(w, peers={}, floor=None) for w in chosen]
    return chosen if on_gpu(device) else chosen[:1]  # compiling for the CPU takes long


def _time(workloads: Sequence[Workload], device: torch.device, results: gpu.Results, compiled: bool) -> None:
    results["rows"] = []
    effort = GPU if on_gpu(device) else QUICK
    for workload in workloads:
        options: dict[str, Any] = {"device": device.type, "threads": [1], "effort": effort, "compile_peers": compiled}
        for row in runner.run([workload], **options):
            print("\n".join(report.terminal_lines(row)), flush=True)
            results["rows"].append(row.as_dict() if workload.measures_call else _judge(row, workload, device))
        results.save()
        if on_gpu(device):
            torch.cuda.empty_cache()


def rows(device: torch.device, results: gpu.Results) -> None:
    """Time all workloads and compare them with eager PyTorch and the bandwidth of the device for their size."""
    _time(_workloads(device), device, results, compiled=False)


def peers(device: torch.device, results: gpu.Results) -> None:
    """Time the same workloads and compare them with compiled PyTorch."""
    with _without_tuning_cache():
        _time(_compiled(device), device, results, compiled=True)


def host(device: torch.device, results: gpu.Results) -> None:
    """Time until a call returns to Python, and compare it with the peers."""
    calls = [workload for workload in load("", "cuda") if workload.measures_call]
    _time(calls, device, results, compiled=False)


def caches(device: torch.device, results: gpu.Results, part: int, parts: int) -> None:
    """Compile the workloads that `peers` times, so that they are in PyTorch's caches."""
    for workload in _compiled(device)[part::parts]:
        torch.compiler.reset()
        prepare = functools.partial(runner.prepare, workload, device, compile_peers=True)
        with _without_tuning_cache():
            results[workload.title] = attempt(prepare) or "ok"
        results.save()


def kernels(device: torch.device, results: gpu.Results) -> None:
    """Make one call of each profiled workload under ncu, whose file lists them in the same order."""
    for workload in load("", "cuda"):
        if workload.profiled:
            call = functools.partial(workload.ours, *workload.setup(device))
            results[workload.title] = attempt(functools.partial(_profile, call, device)) or "ok"
            results.save()


def _profile(fn: Thunk, device: torch.device) -> None:
    """Call twice, the second time with the profiler on."""
    fn()
    synchronize(device)
    if on_gpu(device):
        torch.cuda.cudart().cudaProfilerStart()
    fn()
    synchronize(device)
    if on_gpu(device):
        torch.cuda.cudart().cudaProfilerStop()


STAGES: dict[str, Callable[..., None]] = {
    "loaded": loaded,
    "cases": cases,
    "calls": calls,
    "rows": rows,
    "host": host,
    "peers": peers,
    "caches": caches,
    "kernels": kernels,
}
