"""The layers and grids that CAM finds in the models of other libraries, compared with their configurations.

For every model, built with random weights, CAM chooses a layer and computes maps. The true grid of this layer comes
from the size of the image and from the strides, patches and additional tokens that the model's configuration defines or
that are written down here. Grad-CAM by a forward hook with this layout has to give the same map. Independently of the
configuration, a change of a few pixels has to change the layer's output most where this layout has these pixels.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import re
import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import torchext
from tests.peers.zoo_models import SOURCES, Case, Grid

PAGE = Path(__file__).parents[2] / "docs" / "zoo.md"
RIGHT, EARLY, ERROR, CRASH, WRONG, NOT_RUN = VERDICTS = (
    "right", "early layer", "clear error", "crash", "silently wrong", "not run"
)  # fmt: skip
SECONDS = 20  # the limit for one model


class Row(NamedTuple):
    model: str
    verdict: str
    layer: str = ""
    found: Grid = ()
    true: Grid = ()
    difference: float | None = None
    peaks: str = ""
    called: str = ""
    remark: str = ""


def first(output: Any, *names: str) -> Tensor:
    """The first tensor of an output, or the one with the first of these names."""
    if isinstance(output, Mapping):
        names = (*names, *output)
        output = [output[name] for name in names if output.get(name) is not None]
    return output if isinstance(output, Tensor) else first(next(value for value in output if value is not None))


def weighted(output: Any) -> Tensor:
    """A score for each sample. A plain sum would not depend on what was normalised before."""
    names = ("logits", "out", "pooler_output", "image_embeds", "last_hidden_state")
    values = first(output[-1] if isinstance(output, list) else output, *names).flatten(1)  # the last features of a list
    return (values * torch.cos(torch.arange(values.shape[1]))).sum(1)


def replaced(output: Any, old: Tensor, new: Tensor) -> Any:
    if isinstance(output, Mapping):
        for key, value in output.items():
            output[key] = replaced(value, old, new)
    elif isinstance(output, (tuple, list)):
        values = [replaced(value, old, new) for value in output]
        return type(output)(*values) if hasattr(output, "_fields") else type(output)(values)
    return new if output is old else output


def caught(case: Case, layer: str, input: Tensor) -> tuple[Tensor, Any, str]:
    """The output of the layer in its last call, that of the model, and when the layer ended, in percent of all ends."""
    outputs: list[Tensor] = []
    ended: list[nn.Module] = []

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        outputs.append(first(output))
        return replaced(output, outputs[-1], outputs[-1].clone())  # the model may change it in place

    module = case.model.get_submodule(layer)
    handles = [part.register_forward_hook(lambda module, *_: ended.append(module)) for part in case.model.modules()]
    handles.append(module.register_forward_hook(hook))
    output = case.model(input)
    for handle in handles:
        handle.remove()
    last = max(index for index, other in enumerate(ended) if other is module)
    return outputs[-1], output, f"{last / max(len(ended) - 2, 1):.0%}"


def by_hand(case: Case, layer: str) -> tuple[Tensor | None, Grid, str]:
    """Grad-CAM with the true layout, the size of the layer's output, and when the layer ended."""
    output, result, ended = caught(case, layer, case.input)
    logits = getattr(result, "logits", result)
    scores = logits.amax(1) if case.score is None else case.score(result)
    gradient = torch.autograd.grad(scores.sum(), output, allow_unused=True)[0]
    maps = case.layout(output.detach())
    gradients = case.layout(torch.zeros_like(output) if gradient is None else gradient)
    if maps is None or gradients is None:
        return None, tuple(output.shape), ended
    return (gradients.flatten(2).mean(2).unflatten(1, (-1, *(1,) * len(case.axes))) * maps).sum(1), (), ended


@torch.no_grad()
def peaks(case: Case, layer: str, grid: Grid) -> str:
    """In how many of three cells a change of the input changes the layer's output most in this cell or near it."""
    hits = 0
    for place in ((0.2, 0.8, 0.3), (0.7, 0.2, 0.8), (0.4, 0.4, 0.6)):
        images = case.input[:1].repeat(2, *(1,) * (case.input.dim() - 1))
        region: list[Any] = [1] + [slice(None)] * (images.dim() - 1)
        cell = [int(fraction * side) for fraction, side in zip(place, grid, strict=False)]
        for axis, index, side in zip(case.axes, cell, grid, strict=True):
            start, end = (position * images.shape[axis] // side for position in (index, index + 1))
            region[axis] = slice(start, max(end, start + 1))
        images[tuple(region)] += 2.0
        maps = case.layout(caught(case, layer, images)[0])
        assert maps is not None
        change = (maps[1] - maps[0]).abs().sum(0)
        peak = torch.unravel_index(change.argmax(), change.shape)
        hits += all(abs(int(p) - c) <= max(1, side // 8) for p, c, side in zip(peak, cell, grid, strict=True))
    return f"{hits}/3"


def look(name: str, builds: Sequence[Callable[[], Case]]) -> Row:
    """Explain the first of several variants of a model that runs."""
    problem = ""
    for build in builds:
        try:
            torch.manual_seed(0)
            case = build()
            prepare(case)
            with torch.no_grad():
                output = case.model(case.input)
            logits = getattr(output, "logits", output)
            if case.score is None and (not isinstance(logits, Tensor) or logits.dim() != 2):
                case = case._replace(score=weighted)
            if not (logits if case.score is None else case.score(output)).any():
                raise ValueError("all scores are 0 with random weights")
        except Exception as error:
            problem = text(error)
        else:
            break
    else:
        return Row(name, NOT_RUN, remark=problem)
    try:
        return compare(case)
    except Exception as error:
        return Row(case.name, NOT_RUN, remark=f"the comparison failed: {text(error)}")


def compare(case: Case) -> Row:
    """Explain a model, and compare the layer, the grid and the map."""
    cam = torchext.CAM(case.model, size=None, relu=False, normalize=None)
    try:
        maps = cam(case.input, case.score)
    except Exception as error:
        clear = re.match(r"(ValueError|TypeError): (model|layer|input|targets|size): ", text(error))
        return Row(case.name, ERROR if clear else CRASH, ", ".join(cam.layers), remark=text(error))
    found, (layer, *_) = tuple(maps.shape[1:]), cam.layers
    expected, shape, ended = by_hand(case, layer)
    row = Row(case.name, WRONG, layer, found, called=ended)
    if expected is None:
        return row._replace(remark=f"an output {shape} has no grid of the image")
    row = row._replace(true=tuple(expected.shape[1:]), peaks=peaks(case, layer, tuple(expected.shape[1:])))
    if case.axes == (2, 1) and found == row.true[::-1]:
        maps = maps.mT  # of a spectrogram, time may be the first dimension
    if maps.shape != expected.shape:
        return row._replace(remark="the grid is wrong")
    if not expected.any():
        return row._replace(remark="all gradients are 0")
    difference = float((maps - expected).abs().max() / expected.abs().max())
    if difference < 1e-3:
        doubt = "the true layout is doubtful" if row.peaks < "2" else ""
        early = float(ended.strip("%")) < 40
        return row._replace(verdict=EARLY if early else RIGHT, difference=difference, remark=doubt)
    return row._replace(difference=difference, remark="the map is not that of the true layout")


@torch.no_grad()
def prepare(case: Case) -> None:
    """Fill weights that are 0, which hide what they multiply, and let batch normalisation normalise what it gets."""
    case.model.eval()
    case.model.register_forward_pre_hook(lambda *_: torch.manual_seed(0) and None)  # some models draw masks
    for parameter in case.model.parameters():
        if parameter.dim() > 1 and not parameter.any():
            parameter.normal_(std=0.02)
    norms = [m for m in case.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    if norms:
        case.model(case.input)
    case.model.eval()


def text(error: Exception) -> str:
    return re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")[:160].replace("|", "\\|")


def table(rows: Sequence[Row]) -> str:
    lines = ["| model | layer | grid | true grid | verdict | difference | peaks | called | |", "|" + "---|" * 9]
    for row in rows:
        found, true = ("×".join(map(str, grid)) for grid in (row.found, row.true))
        difference = "" if row.difference is None else f"{row.difference:.0e}"
        cells = (row.model, f"`{row.layer}`" if row.layer else "", found, true, row.verdict, difference)
        lines.append("| " + " | ".join((*cells, row.peaks, row.called, row.remark)) + " |")
    return "\n".join(lines)


class TooLongError(BaseException):
    """The time limit is over. It is not an Exception, which a model or the search for a layer may catch."""


def stop(*_: Any) -> None:
    raise TooLongError


def run(number: int) -> tuple[Row, float]:
    """The row of a model, and the seconds that it took."""
    began = time.process_time()
    try:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        row = look(*models[number])
        signal.setitimer(signal.ITIMER_PROF, 0)
    except TooLongError:
        row = Row(models[number][0], NOT_RUN, remark=f"longer than {SECONDS} s")
    gc.collect()
    return row, time.process_time() - began


def write(source: str, rows: Sequence[Row]) -> str:
    """Put the rows of a library into the page. Returns the numbers of verdicts."""
    counts = Counter(row.verdict for row in rows)
    result = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS)
    head, begin, rest = PAGE.read_text(encoding="utf-8").partition(f"<!-- {source} -->\n")
    _, end, rest = rest.partition("<!-- end -->")
    PAGE.write_text(head + begin + f"{result}.\n\n{table(rows)}\n" + end + rest, encoding="utf-8")
    return result


models: list[tuple[str, list[Callable[[], Case]]]] = []  # the processes inherit it, since functions cannot be sent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        help="parts of the names of models or families, / for all; if none are given, the page is written",
    )
    parser.add_argument("--source", choices=SOURCES, action="append", help="a library; all if none is given")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGPROF, stop)
    torch.set_num_threads(1)
    start, sources = time.monotonic(), []
    for source in options.source or SOURCES:
        for name, builds in SOURCES[source](options.names):
            if not options.names or any(part in name for part in options.names):
                sources.append(source)
                models.append((name, builds))
    rows: dict[str, list[Row]] = {source: [] for source in sources}
    with multiprocessing.get_context("fork").Pool(os.cpu_count(), maxtasksperchild=8) as pool:
        for source, (row, seconds) in zip(sources, pool.imap(run, range(len(models))), strict=True):
            rows[source].append(row)
            print(table([row]).splitlines()[-1], f"{seconds:.1f} s", flush=True)
    if not options.names:
        for source in rows:
            print(f"{source}: {write(source, rows[source])}")
    print(f"{len(models)} models in {(time.monotonic() - start) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
