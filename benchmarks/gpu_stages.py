"""What benchmarks.gpu does inside a process of its own: every function is one stage and gives plain data.

All of it runs on a CPU as well, where there is nothing to count or to capture, so that a machine without a
GPU can go through every stage.
"""

from __future__ import annotations

import functools
import platform
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

import torchext
from torchext._padding import PaddingMode

from . import machine, registry, report, runner
from .timing import GPU, QUICK, CudaClock, Thunk, WallClock, measure

Save = Callable[[dict[str, Any]], None]

MIB = 1 << 20
LARGE = 64 * MIB
"""From here on an operation is judged by the device's bandwidth; what is smaller fits into its caches."""
BANDWIDTH_SHARE = 0.9
DRY_ROWS = "256×1000|224², k4|1×2048"


def on_gpu(device: torch.device) -> bool:
    return device.type == "cuda"


def synchronize(device: torch.device) -> None:
    if on_gpu(device):
        torch.cuda.synchronize(device)


def attempt(fn: Callable[[], Any]) -> str | None:
    """What went wrong, or None."""
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


def environment(device: torch.device, _save: Save) -> dict[str, Any]:
    query = "--query-gpu=name,driver_version,memory.total,clocks.max.sm"
    return {
        **machine.describe(),
        **(machine.describe_cuda() if on_gpu(device) else {}),
        "python": platform.python_version(),
        "nvidia-smi": _output_of("nvidia-smi", query, "--format=csv,noheader"),
        "nvcc": _output_of(machine.toolkit_program("nvcc") or "nvcc", "--version").splitlines()[-2:],
    }


@dataclass(frozen=True)
class Call:
    """An operation whose launches are counted: `make(batch, device)` binds it to inputs of that batch."""

    launches: int
    make: Callable[[int, torch.device], Thunk]


def _one_hot(batch: int, device: torch.device) -> Thunk:
    labels = torch.randint(21, (batch, 64, 64), device=device)
    return lambda: torchext.one_hot(labels, 21, dim=1)


def _unfold(batch: int, device: torch.device) -> Thunk:
    images = torch.randn(batch, 8, 32, 32, device=device)
    return lambda: torchext.unfold(images, 3, padding=1)


def _fold(batch: int, device: torch.device) -> Thunk:
    columns = torch.randn(batch, 8 * 9, 32 * 32, device=device)
    return lambda: torchext.fold(columns, (32, 32), 3, padding=1)


def _cam_pool(batch: int, device: torch.device, *, size: int | None = None) -> Thunk:
    activations, gradients = torch.randn(2, batch, 256, 14, 14, device=device)
    return lambda: torchext.cam_pool(activations, gradients, size=size)


def _class_counts(batch: int, device: torch.device) -> Thunk:
    labels = torch.randint(21, (batch, 64, 64), device=device)
    return lambda: torchext.class_counts(labels, 21)


def _class_sums(batch: int, device: torch.device) -> Thunk:
    values, labels = torch.randn(batch, 256, 64, device=device), torch.randint(21, (batch, 256), device=device)
    return lambda: torchext.class_sums(values, labels, 21)


def _multi_hot(batch: int, device: torch.device) -> Thunk:
    chosen = torch.randint(128, (batch, 64, 8), device=device)
    return lambda: torchext.multi_hot(chosen, 128)


def _weighted_multi_hot(batch: int, device: torch.device) -> Thunk:
    chosen, weights = torch.randint(128, (batch, 64, 8), device=device), torch.rand(batch, 64, 8, device=device)
    return lambda: torchext.multi_hot(chosen, 128, weights=weights)


def _mixup_one_hot(batch: int, device: torch.device) -> Thunk:
    labels = torch.randint(1000, (batch,), device=device)
    return lambda: torchext.mixup_one_hot(labels, 0.3, 1000)


def _confusion_matrix(batch: int, device: torch.device) -> Thunk:
    predicted, target = torch.randint(21, (2, batch, 64, 64), device=device)
    return lambda: torchext.confusion_matrix(predicted, target, 21)


def _class_overlap(batch: int, device: torch.device) -> Thunk:
    probs, labels = torch.rand(batch, 21, 64, 64, device=device), torch.randint(21, (batch, 64, 64), device=device)
    return lambda: torchext.class_overlap(probs, labels)


def _patchify(batch: int, device: torch.device) -> Thunk:
    images = torch.randint(256, (batch, 64, 64, 3), dtype=torch.uint8, device=device)
    statistics: dict[str, Any] = {"mean": (0.48, 0.46, 0.41), "std": (0.23, 0.22, 0.225)}
    return lambda: torchext.patchify(images, 16, input_layout="NHWC", **statistics)


def _unpatchify(batch: int, device: torch.device) -> Thunk:
    tokens = torch.randn(batch, 16, 768, device=device)
    return lambda: torchext.unpatchify(tokens, 16, 4, mean=0.5, std=0.25, dtype=torch.uint8)


def _extract(batch: int, device: torch.device) -> Thunk:
    images = torch.randn(batch, 8, 32, 32, device=device)
    return lambda: torchext.extract_windows(images, 8, 6, partial="shift")


def _merge(batch: int, device: torch.device) -> Thunk:
    windows = torchext.extract_windows(torch.randn(batch, 8, 32, 32, device=device), 8, 6, partial="shift")
    weight = torchext.window_weight((8, 8), "hann", device=device)
    return lambda: torchext.merge_windows(windows, (32, 32), 6, partial="shift", weight=weight)


def _gather(batch: int, device: torch.device) -> Thunk:
    images, offsets = torch.randn(batch, 8, 32, 32, device=device), torch.randint(28, (50, 2), device=device)
    return lambda: torchext.gather_windows(images, offsets, 8)


def _scatter(batch: int, device: torch.device) -> Thunk:
    windows, offsets = torch.randn(batch, 50, 8, 8, 8, device=device), torch.randint(28, (50, 2), device=device)
    return lambda: torchext.scatter_windows(windows, offsets, (32, 32))


CALLS = {
    "one_hot": Call(1, _one_hot),
    "multi_hot": Call(1, _multi_hot),
    "multi_hot with weights": Call(1, _weighted_multi_hot),
    "mixup_one_hot": Call(1, _mixup_one_hot),
    "class_counts": Call(2, _class_counts),
    "class_sums": Call(5, _class_sums),
    "confusion_matrix": Call(2, _confusion_matrix),
    "class_overlap": Call(2, _class_overlap),
    "unfold": Call(1, _unfold),
    "fold": Call(1, _fold),
    "extract_windows": Call(1, _extract),
    "merge_windows": Call(1, _merge),
    "gather_windows": Call(1, _gather),
    "scatter_windows": Call(6, _scatter),  # the bins are zeroed, counted, started, filled and sorted
    "patchify": Call(1, _patchify),
    "unpatchify": Call(1, _unpatchify),
    "cam_pool": Call(3, _cam_pool),
    "cam_pool with size": Call(3, functools.partial(_cam_pool, size=56)),
}
BATCHES = (1, 4, 64)


def launches(fn: Thunk, device: torch.device) -> list[str]:
    """Names of what one call puts on the device: kernels, and also copies and fills."""
    fn()
    synchronize(device)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu(device)
    with profile(activities=activities) as profiler:
        fn()
        synchronize(device)
    return [event.name for event in profiler.events() if event.device_type == DeviceType.CUDA]


def synchronizes(fn: Thunk, device: torch.device) -> str | None:
    """Whether PyTorch sees a synchronisation: what it says, or None."""
    fn()
    if not on_gpu(device):
        return None
    synchronize(device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        return attempt(fn)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def returns_early(fn: Thunk, device: torch.device) -> bool | None:
    """Whether a call returns while earlier work still runs; PyTorch cannot see every synchronisation."""
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


def capture(fn: Thunk, device: torch.device) -> str | None:
    """Why a call cannot be captured in a CUDA graph and replayed, or None."""
    if not on_gpu(device):
        return attempt(fn)

    def record_and_replay() -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            fn()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            fn()
        graph.replay()
        synchronize(device)

    return attempt(record_and_replay)


def _examine(call: Call, device: torch.device) -> dict[str, Any]:
    counted = {batch: launches(call.make(batch, device), device) for batch in BATCHES}
    counts = {batch: len(names) for batch, names in counted.items()}
    fn = call.make(4, device)
    found = {
        "launches": counts,
        "launched": sorted(set(counted[BATCHES[0]])),
        "limit": call.launches,
        "synchronizes": synchronizes(fn, device),
        "returns early": returns_early(fn, device),
        "capture": capture(fn, device),
    }
    seen = all(counts.values())
    steady = len(set(counts.values())) == 1 and max(counts.values()) <= call.launches
    clean = found["synchronizes"] is None and found["returns early"] is True and found["capture"] is None
    # Without a single event the profiler is not allowed to look: nothing is known then.
    return {**found, "met": steady and clean if seen else None}


def calls(device: torch.device, save: Save) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for name, call in CALLS.items():
        try:
            results[name] = _examine(call, device)
        except Exception as error:
            results[name] = {"error": f"{type(error).__name__}: {error}"[:300], "met": False}
        save(results)
    return results


def bandwidth(device: torch.device) -> dict[str, float]:
    """Bytes per second of a large fill and of a large copy, whose bytes are read and written."""
    size = 1 << 30 if on_gpu(device) else 16 * MIB
    target = torch.empty(size // 4, dtype=torch.float32, device=device)
    source = torch.ones_like(target)
    thunks = {"fill": lambda: target.fill_(1), "copy": lambda: target.copy_(source)}
    times = measure(thunks, GPU, CudaClock() if on_gpu(device) else WallClock())
    return {"fill": size / times["fill"].median, "copy": 2 * size / times["copy"].median}


def bytes_moved(workload: registry.Workload, device: torch.device) -> int:
    inputs = workload.setup(device)
    outputs = workload.ours(*inputs[: len(inputs) - workload.backward])
    return sum(x.nbytes for x in (*inputs, outputs) if isinstance(x, Tensor))


def _judge(row: runner.Row, limits: dict[str, float], *, by_bandwidth: bool) -> dict[str, Any]:
    data = row.as_dict()
    if not row.ours:
        return data
    moved = row.bytes_read + row.bytes_written
    kind = "fill" if row.bytes_read < moved / 10 else "copy"
    speed = moved / row.ours.median
    share = speed / limits[kind]
    ahead = row.to_peer is None or row.to_peer <= 1
    met = ahead and share >= BANDWIDTH_SHARE if by_bandwidth else ahead
    return {**data, "GB/s": speed / 1e9, "share": share, "of": kind, "ahead": ahead, "met": met}


def _is_large(workload: registry.Workload, device: torch.device) -> bool:
    """Whether bandwidth is what limits it; where that cannot be told the row will say what is wrong."""
    try:
        return bytes_moved(workload, device) >= LARGE
    except Exception:
        return True


def rows(device: torch.device, save: Save) -> dict[str, Any]:
    """Workloads that move enough memory, against eager and compiled PyTorch and the device's bandwidth."""
    limits = bandwidth(device)
    results: dict[str, Any] = {"bandwidth GB/s": {kind: limit / 1e9 for kind, limit in limits.items()}}
    results |= {"rows": [], "small": []}
    pattern, effort = ("^(?!overhead)", GPU) if on_gpu(device) else (DRY_ROWS, QUICK)
    for workload in registry.load(pattern, "cuda"):
        if on_gpu(device) and not _is_large(workload, device):
            results["small"].append(workload.title)
            continue
        for row in runner.run([workload], device=device.type, threads=[1], effort=effort):
            judged = _judge(row, limits, by_bandwidth=not workload.backward)
            results["rows"].append(judged)
            print("\n".join(report.terminal_lines(row)), f"  {judged.get('GB/s', 0):.0f} GB/s", flush=True)
        save(results)
        if on_gpu(device):
            torch.cuda.empty_cache()
    return results


def host(device: torch.device, _save: Save) -> dict[str, Any]:
    """Time until a call returns to Python, beside that of the peers."""
    found = runner.run(
        registry.load("^overhead", "cuda"), device=device.type, threads=[1], effort=QUICK, compile_peers=False
    )
    results = []
    for row in found:
        print("\n".join(report.terminal_lines(row)), flush=True)
        results.append(row.as_dict())
    return {"rows": results}


def _with_bad_label() -> Tensor:
    labels = torch.arange(37)
    labels[5] = 100
    return labels


def _bad_label_is_reported(device: torch.device) -> Tensor:
    """At once on a CPU, at the next check on a GPU."""
    try:
        torchext.one_hot(_with_bad_label().to(device), 37)
        torchext.check_errors(device)
    except IndexError as error:
        return torch.tensor("label 100 at position (5,)" in str(error))
    return torch.tensor(False)


def small_cases() -> dict[str, Callable[[torch.device], Tensor]]:
    """Small and odd calls of every kernel, for the sanitizer: no size is a multiple of anything."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    image, volume, line = randn(2, 3, 17, 19), randn(2, 3, 5, 7, 6), randn(3, 2, 23)
    columns = randn(2, 3 * 9, 9 * 10)
    photo = torch.randint(256, (2, 3, 24, 16), dtype=torch.uint8, generator=generator)
    activations, gradients = randn(2, 37, 7, 5), randn(2, 37, 7, 5)
    labels, other = torch.randint(11, (2, 3, 17, 5), generator=generator)
    lam, scores, features = torch.rand(3, generator=generator), randn(3, 11, 17, 5), randn(3, 17, 5, 37)
    sums = functools.partial(torchext.class_sums, num_classes=11)
    corners = torch.randint(-5, 20, (13, 2), generator=generator)
    tiles, anywhere = randn(2, 3, 4, 3, 7, 5), randn(2, 13, 3, 7, 5)
    merged = functools.partial(torchext.merge_windows, output_size=(17, 19), stride=(5, 5), partial="shift")
    scattered = functools.partial(torchext.scatter_windows, output_size=(17, 19))
    return {
        "one_hot": lambda d: torchext.one_hot(labels.to(d), 11),
        "one_hot dim=1, uint8": lambda d: torchext.one_hot(labels.to(torch.uint8).to(d), 11, dim=1),
        "one_hot half": lambda d: torchext.one_hot(labels.to(d), 11, dtype=torch.float16),
        "one_hot smoothed": lambda d: torchext.one_hot(labels.to(d), 11, label_smoothing=0.1, ignore_index=3),
        "one_hot bad labels": lambda d: torchext.one_hot(_with_bad_label().to(d), 37, invalid="zero"),
        "one_hot bad label reported": _bad_label_is_reported,
        "multi_hot": lambda d: torchext.multi_hot(labels.to(d), 11, dim=0, dtype=torch.uint8),
        "multi_hot with weights": lambda d: torchext.multi_hot(labels.to(d), 11, weights=features[..., 0].to(d)),
        "mixup_one_hot": lambda d: torchext.mixup_one_hot(labels.to(d), lam.to(d), 11, dim=1, label_smoothing=0.1),
        "class_counts": lambda d: torchext.class_counts(labels.to(torch.uint8).to(d), 11),
        "class_sums": lambda d: sums(features.to(d), labels.to(d)),
        "class_sums half": lambda d: sums(features.half().to(d), labels.to(d)),
        "class_means": lambda d: torchext.class_means(features.to(d), labels.to(d), 11),
        "confusion_matrix": lambda d: torchext.confusion_matrix(labels.to(d), other.to(d), 11),
        "class_overlap": lambda d: torch.cat(torchext.class_overlap(scores.to(d), labels.to(d), ignore_index=3)),
        "DiceLoss": lambda d: torchext.nn.DiceLoss(softmax=True)(scores.to(d), labels.to(d)),
        "unfold": lambda d: torchext.unfold(image.to(d), (3, 2), 2, (1, 0), (2, 1)),
        "unfold transposed": lambda d: torchext.unfold(image.to(d).transpose(2, 3), 3, padding=1),
        "unfold 3-D": lambda d: torchext.unfold(volume.to(d), (2, 3, 2), padding=1),
        "unfold 1-D": lambda d: torchext.unfold(line.to(d), (4,), stride=3),
        "unfold reflect": lambda d: torchext.unfold(image.to(d), 3, 2, (3, 5), (2, 1), padding_mode="reflect"),
        "unfold replicate, gradient": lambda d: _gradient_of_unfold(volume.to(d), (2, 3, 2), (1, 4, 2), "replicate"),
        "unfold symmetric, gradient": lambda d: _gradient_of_unfold(image.half().to(d), 3, (17, 4), "symmetric"),
        "unfold int": lambda d: torchext.unfold((image * 10).to(torch.int32).to(d), 3, value=7),
        "fold": lambda d: torchext.fold(columns.to(d), (17, 19), 3, 1, 1, 2),
        "extract_windows": lambda d: torchext.extract_windows(image.to(d), (7, 5), 5, partial="shift"),
        "extract_windows reflect": lambda d: torchext.extract_windows(
            volume.to(d), (3, 2, 4), padding=2, padding_mode="reflect", partial="pad"
        ),
        "extract_windows channels-last": lambda d: torchext.extract_windows(
            image.to(d, memory_format=torch.channels_last), (7, 5), 3, dilation=2
        ),
        "merge_windows": lambda d: merged(tiles.to(d), weight="hann"),
        "merge_windows half": lambda d: merged(tiles.half().to(d)),
        "merge_windows int": lambda d: merged((tiles * 10).to(torch.int32).to(d), weight="gaussian"),
        "merge_windows sums": lambda d: merged(tiles.to(d), normalize=False),
        "gather_windows": lambda d: torchext.gather_windows(image.to(d), corners.to(d), (7, 5)),
        "scatter_windows": lambda d: scattered(anywhere.to(d), corners.to(d), weight="linear"),
        "scatter_windows complex": lambda d: torch.view_as_real(
            scattered(torch.complex(anywhere, -anywhere).to(d), corners.to(d))
        ),
        "patchify": lambda d: torchext.patchify(photo.to(d), 4, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)),
        "patchify channels-last": lambda d: torchext.patchify(photo.movedim(1, -1).to(d), (8, 2), input_layout="NHWC"),
        "patchify double": lambda d: torchext.patchify(photo.double().to(d), 2, token_order="PPC"),
        "patchify many channels": lambda d: torchext.patchify(activations.to(d), (7, 1), mean=list(range(37))),
        "unpatchify": lambda d: torchext.unpatchify(
            torchext.patchify(photo.to(d), 4), 4, (6, 4), dtype=torch.uint8, output_layout="NHWC"
        ),
        "fold half": lambda d: torchext.fold(columns.half().to(d), (17, 19), 3, 1, 1, 2),
        "cam_pool": lambda d: torchext.cam_pool(activations.to(d), gradients.to(d)),
        "cam_pool channels-last": lambda d: torchext.cam_pool(
            activations.to(d, memory_format=torch.channels_last), gradients.to(d)
        ),
        "cam_pool with size": lambda d: torchext.cam_pool(activations.to(d), gradients.to(d), size=(23, 9)),
        "cam_pool 3-D": lambda d: torchext.cam_pool(volume.to(d), volume.to(d), size=(4, 9, 11)),
    }


def _gradient_of_unfold(image: Tensor, size: Any, padding: tuple[int, ...], mode: PaddingMode) -> Tensor:
    image = image.detach().requires_grad_()
    columns = torchext.unfold(image, size, padding=padding, padding_mode=mode)
    return torch.autograd.grad(columns, image, columns.detach())[0]


def small(device: torch.device, save: Save) -> dict[str, Any]:
    """Every small case on the device, equal to the same call on the CPU."""
    results: dict[str, Any] = {}
    for name, case in small_cases().items():
        expected = case(torch.device("cpu"))

        def compare(case: Callable[..., Tensor] = case, expected: Tensor = expected) -> None:
            torch.testing.assert_close(case(device).cpu(), expected, rtol=1e-3, atol=1e-3)

        results[name] = attempt(compare) or "ok"
        save(results)
    return results


STAGES: dict[str, Callable[[torch.device, Save], dict[str, Any]]] = {
    "environment": environment,
    "calls": calls,
    "rows": rows,
    "host": host,
    "small": small,
}
