"""From a batch to its maps: torchext.CAM beside two packages, and beside the model's own forward and backward.

    python -m benchmarks.explain

It needs timm, pytorch-grad-cam and torch-cam: the environment of `make peers`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import torchext

from .timing import Effort, measure
from .vision_peers import ClassifierOutputTarget, pytorch_grad_cam, timm, torchcam

EFFORT = Effort(budget=2.0, min_samples=5, max_samples=60)
TARGETS = 10


def bare(model: nn.Module, images: Tensor, classes: Tensor) -> Callable[[], Any]:
    """The forward pass, and the gradients of the layer's activations: what no explanation can do without."""

    def call() -> Any:
        with torch.no_grad():
            activations = model.forward_features(images)
        activations.requires_grad_()
        scores = model.forward_head(activations)
        picked = [scores.gather(1, some[:, None]).sum() for some in classes.T]
        return [torch.autograd.grad(one, activations, retain_graph=True) for one in picked]

    return call


def grad_cam(model: nn.Module, images: Tensor, classes: Tensor) -> Callable[[], Any]:
    cam = pytorch_grad_cam.GradCAM(model, [model.layer4])
    targets = [[ClassifierOutputTarget(int(one)) for one in some] for some in classes.T]
    return lambda: [cam(images, one) for one in targets]


def torch_cam(model: nn.Module, images: Tensor, classes: Tensor) -> Callable[[], Any]:
    cam = torchcam.methods.GradCAM(model, "layer4")
    targets = [some.tolist() for some in classes.T]

    def call() -> Any:
        maps = []
        for one in targets:
            scores = model(images)
            (found,) = cam(one, scores)
            maps.append(F.interpolate(found[:, None], images.shape[2:], mode="bilinear"))  # as the others do
        return maps

    return call


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.explain", description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--size", type=int, default=224, help="of the images")
    options = parser.parse_args()
    print(f"{'ResNet-18, ms':24}{'bare':>10}{'torchext':>10}{'grad-cam':>10}{'torch-cam':>10}   overhead beyond bare")
    for threads in options.threads:
        torch.set_num_threads(threads)
        for batch, count in ((4, 1), (4, TARGETS), (32, 1)):
            images, classes = torch.randn(batch, 3, options.size, options.size), torch.randint(1000, (batch, count))
            # Each has a model of its own: the packages leave hooks on theirs.
            models = [timm.create_model("resnet18").eval() for _ in range(4)]
            ours = torchext.CAM(models[1], "layer4")
            times = measure(
                {
                    "bare": bare(models[0], images, classes),
                    "torchext": lambda ours=ours, images=images, classes=classes: ours(images, classes),
                    "grad-cam": grad_cam(models[2], images, classes),
                    "torch-cam": torch_cam(models[3], images, classes),
                },
                EFFORT,
            )
            ms = {name: 1e3 * one.median for name, one in times.items()}
            over = {name: ms[name] - ms["bare"] for name in ms if name != "bare"}
            title = f"batch {batch}, {count} targets, {threads} thr"
            row = "".join(f"{value:10.1f}" for value in ms.values())
            shares = ", ".join(f"{name} {value / ms['bare']:.1%}" for name, value in over.items())
            print(f"{title:24}{row}   {shares}", flush=True)


if __name__ == "__main__":
    main()
