"""Tests which layer CAM finds in the architectures of timm, and whether its positions match those of the input.

As a script, it tests the smallest model of every family, or of the given families.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from typing import NamedTuple

import torch
from torch import Tensor, nn

import torchext
from benchmarks.harness.vision_peers import timm


class Finding(NamedTuple):
    model: str
    layer: str = ""
    grid: tuple[int, ...] = ()
    problem: str = ""


def make_model(name: str) -> nn.Module:
    """Create a model with random weights. None are 0: heads and branches that start at 0 hide the layers they read."""
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1 and not parameter.any():
                parameter.normal_(std=0.02)
        _calibrate(model, torch.randn(4, *model.pretrained_cfg["input_size"]))
    return model.eval()


def _calibrate(model: nn.Module, images: Tensor) -> None:
    """Set the statistics of batch normalisation to those of its inputs, as in a trained model."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    if norms:
        model(images)


def _corners(size: tuple[int, ...]) -> list[tuple[slice, slice]]:
    """The slices of the four corners, a quarter of each side long."""
    ends = [(slice(0, side // 4), slice(side - side // 4, side)) for side in size[-2:]]
    return [(rows, columns) for rows in ends[0] for columns in ends[1]]


def _quadrant(change: Tensor) -> tuple[bool, bool]:
    """Whether most of the change is in the lower half of the rows, and in the right half of the columns."""
    height, width = change.shape
    return (
        bool(change[height - height // 2 :].sum() > change[: height // 2].sum()),
        bool(change[:, width - width // 2 :].sum() > change[:, : width // 2].sum()),
    )


def look(name: str) -> Finding:
    """Explain noise, and check that a change in a corner of the input changes the same corner of the layer most."""
    model = make_model(name)
    size = model.pretrained_cfg["input_size"]
    images = torch.randn(1, *size, generator=torch.Generator().manual_seed(0))
    cam = torchext.CAM(model, size=None, relu=False)
    maps = cam(images)
    grid = tuple(maps.shape[1:])
    finding = Finding(name, cam.layers[0], grid)
    if not maps.isfinite().all() or maps.max() == maps.min():
        return finding._replace(problem="no contrast")
    if min(grid) < 3:
        return finding._replace(problem="few positions")
    right = 0
    for index, (rows, columns) in enumerate(_corners(tuple(size))):
        changed = images.clone()
        changed[..., rows, columns] += 1.0
        with torch.no_grad():
            change = (_activations(cam, changed) - _activations(cam, images)).abs().sum(1)[0]
        right += _quadrant(change) == (index >= 2, index % 2 == 1)
    return finding if right >= 3 else finding._replace(problem=f"{right} of 4 corners match")


def _activations(cam: torchext.CAM, images: Tensor) -> Tensor:
    from torchext.cam import layers, probe

    caught, _ = probe.run(cam.model, cam._layers or [], images, with_graph=False)
    module, output = cam._layers[0][1], caught[0].output
    prefix, source = layers.prefix_tokens(cam.model), layers.channel_source(cam.model, module)
    return layers.layout_of(module, output.shape, images.shape, prefix, source).maps(output)


def smallest(family: str) -> str | None:
    sizes = {}
    for name in timm.list_models(module=family):
        if not name.startswith("test_"):
            try:
                with torch.device("meta"):
                    sizes[name] = sum(p.numel() for p in timm.create_model(name, pretrained=False).parameters())
            except Exception:
                sizes[name] = sys.maxsize
    return min(sizes, key=lambda name: sizes[name], default=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", help="modules of timm.models; default: all")
    families = parser.parse_args().families or timm.list_modules()
    warnings.simplefilter("ignore")
    found = good = 0
    for family in families:
        name = smallest(family)
        if name is None:
            continue
        start = time.perf_counter()
        try:
            finding = look(name)
        except Exception as error:
            finding = Finding(name, problem=f"{type(error).__name__}: {str(error)[:150]}")
        found, good = found + 1, good + (not finding.problem)
        grid = "×".join(map(str, finding.grid))
        seconds = time.perf_counter() - start
        print(f"{family:24} {name:36} {finding.layer:32} {grid:8} {seconds:5.1f} s  {finding.problem}", flush=True)
    print(f"{good} of {found} families: {good / max(found, 1):.1%}")


if __name__ == "__main__":
    main()
