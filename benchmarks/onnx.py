"""Times programs of ONNX in onnxruntime: the calls of torchext next to the calls that they replace, interleaved.

``python -m benchmarks.onnx --filter one_hot`` exports the workloads whose titles match with `torch.onnx.export`. A peer
that cannot be exported is left out. Loops over offsets are such peers, so that windows at any offsets have another one.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import random
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy
import torch
from torch import Tensor

import torchext

from .harness.workload import Fn, Inputs, Workload, load
from .windows.tiles import SIDE, WINDOW

Run = Callable[[], Any]


def pixels(offsets: Tensor) -> tuple[Tensor, Tensor]:
    """The rows and the columns of the pixels of windows, which broadcast to ``(windows, height, width)``."""
    steps = torch.arange(WINDOW, device=offsets.device)
    return offsets[:, 0, None, None] + steps[:, None], offsets[:, 1, None, None] + steps


def gather_by_index(image: Tensor, offsets: Tensor) -> Tensor:
    rows, columns = pixels(offsets)
    return image[:, :, rows, columns].movedim(2, 1)


def scatter_by_index(windows: Tensor, offsets: Tensor) -> Tensor:
    weight = torchext.window_weight((WINDOW, WINDOW), "gaussian", device=windows.device)
    rows, columns = pixels(offsets)
    index = (rows * SIDE + columns).flatten()
    zeros = windows.new_zeros(SIDE**2)
    out = zeros.index_add(0, index, (windows * weight).flatten())
    total = zeros.index_add(0, index, weight.expand(len(offsets), WINDOW, WINDOW).flatten())
    return torch.where(total > 0, out / total, 0).view(1, 1, SIDE, SIDE)


PEERS: dict[str, dict[str, Fn]] = {
    "tiles: gather 1000 windows 64² of 4096²": {"index": gather_by_index},
    "tiles: scatter 1000 windows 64² into 4096²": {"index_add": scatter_by_index},
}


class Module(torch.nn.Module):
    def __init__(self, function: Fn) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs)


def exported(function: Fn, inputs: Inputs, threads: int) -> Run:
    """A call of the exported function in onnxruntime."""
    import onnxruntime

    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(Module(function).eval(), inputs, dynamo=True, verbose=False)
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, threads
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), options)
    tensors = [tensor for tensor in inputs if isinstance(tensor, Tensor)]
    feed = {entry.name: tensor.numpy() for entry, tensor in zip(session.get_inputs(), tensors, strict=False)}
    return lambda: session.run(None, feed)


def interleaved(runs: dict[str, Run], seconds: float) -> dict[str, float]:
    """The seconds of the fastest call of each; every round has another order."""
    fastest, names = dict.fromkeys(runs, float("inf")), list(runs)
    end, rounds = time.perf_counter() + seconds * len(runs), 0
    while time.perf_counter() < end or rounds < 5:
        random.shuffle(names)
        for name in names:
            start = time.perf_counter()
            runs[name]()
            fastest[name] = min(fastest[name], time.perf_counter() - start)
        rounds += 1
    return fastest


def differs(actual: Any, expected: Any, workload: Workload) -> bool:
    pairs = zip(actual, expected, strict=False)
    return not all(numpy.allclose(a, b, rtol=workload.rtol, atol=workload.atol, equal_nan=True) for a, b in pairs)


def row(workload: Workload, threads: int, seconds: float) -> str:
    """A line of the table: our time, and the ratio to each peer."""
    inputs = workload.setup(torch.device("cpu"))
    runs = {"ours": exported(workload.ours, inputs, threads)}
    for name, peer in {**workload.peers, **workload.compiled, **PEERS.get(workload.title, {})}.items():
        try:
            run = exported(peer, inputs, threads)
            run()
        except Exception as error:  # the exporter and the runtime raise errors of many types
            runs.setdefault(f"{name}: {type(error).__name__}", lambda: None)
        else:
            runs[name] = run
    failed = [name for name, run in runs.items() if name != "ours" and run() is None]
    for name in failed:
        del runs[name]
    ours = runs["ours"]()
    wrong = [name for name, run in runs.items() if differs(run(), ours, workload)]
    times = interleaved(runs, seconds)
    ratios = {name: times["ours"] / taken for name, taken in times.items() if name != "ours"}
    shown = ", ".join(f"{ratio:.2f} × {name}" for name, ratio in sorted(ratios.items(), key=lambda pair: -pair[1]))
    notes = [f"other values: {name}" for name in wrong] + [f"not exported: {name}" for name in failed]
    return " | ".join([workload.title, f"{times['ours'] * 1e3:.3f} ms", shown, *notes])


def function_of(workload: Workload) -> str:
    """The function that a row times: its family, which for windows has several functions."""
    return f"tiles: {workload.name.split()[0]}" if workload.family == "tiles" else workload.family


def of_each_function(workloads: list[Workload]) -> list[Workload]:
    """One or two rows of each function: those of the short run, or the first one."""
    covered = {function_of(workload) for workload in workloads if workload.in_short_run}
    chosen = []
    for workload in workloads:
        if workload.in_short_run or function_of(workload) not in covered:
            covered.add(function_of(workload))
            chosen.append(workload)
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--filter", default="", help="a regular expression for titles")
    parser.add_argument("--all", action="store_true", help="all workloads, not one or two of each function")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.3, help="for each contender")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    found = [w for w in load(options.filter) if not (w.backward or w.measures_call or w.compile_ours)]
    for workload in found if options.all else of_each_function(found):
        try:
            print(row(workload, options.threads, options.seconds), flush=True)
        except Exception as error:
            print(f"{workload.title} | not exported: {type(error).__name__} {str(error)[:300]!r}", flush=True)


if __name__ == "__main__":
    main()
