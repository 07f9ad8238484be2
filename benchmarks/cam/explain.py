"""Times torchext.CAM and two other packages from a batch to its maps, and what each takes beyond the necessary time.

    python -m benchmarks.cam.explain

Necessary are one forward pass of the model and the gradients of the layer's activations. The forward pass is timed
inside each call: the rest is a hundredth of it, which is less than the noise of the difference of two times. This
requires timm, pytorch-grad-cam and torch-cam, the environment of `make peers`. They are imported inside functions,
because the benchmarks import all modules of this folder, also without these packages.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import torchext

from ..harness.timing import Effort, measure

EFFORT = Effort(budget=2.0, min_samples=5, max_samples=60)
TARGETS = 10


class BeyondForward:
    """The time of a call without its first forward pass."""

    one_call_a_sample = True

    def __init__(self) -> None:
        self._passes: list[float] = []

    def watch(self, model: nn.Module) -> nn.Module:
        forward = model.forward

        def timed(*args: Any) -> Any:
            start = time.perf_counter()
            output = forward(*args)
            self._passes.append(time.perf_counter() - start)
            return output

        model.forward = timed
        return model

    def __call__(self, fn: Callable[[], Any], number: int) -> float:
        total = 0.0
        for _ in range(number):
            self._passes.clear()
            start = time.perf_counter()
            fn()
            total += time.perf_counter() - start - self._passes[0]
        return total / number


def backward(model: nn.Module, images: Tensor, classes: Tensor) -> Callable[[], Any]:
    """The gradients of the layer's activations."""
    with torch.no_grad():
        activations = model.forward_features(images)
    activations.requires_grad_()
    scores = model.forward_head(activations)
    picked = [scores.gather(1, some[:, None]).sum() for some in classes.T]
    return lambda: [torch.autograd.grad(one, activations, retain_graph=True) for one in picked]


def grad_cam(model: nn.Module, images: Tensor, classes: Tensor) -> Callable[[], Any]:
    from ..harness.vision_peers import ClassifierOutputTarget, pytorch_grad_cam

    cam = pytorch_grad_cam.GradCAM(model, [model.layer4])
    targets = [[ClassifierOutputTarget(int(one)) for one in some] for some in classes.T]
    return lambda: [cam(images, one) for one in targets]


def torch_cam(model: nn.Module, images: Tensor, classes: Tensor) -> Callable[[], Any]:
    from ..harness.vision_peers import torchcam

    cam = torchcam.methods.GradCAM(model, "layer4")
    targets = [some.tolist() for some in classes.T]

    def call() -> Any:
        maps = []
        for one in targets:
            scores = model(images)
            (found,) = cam(one, scores)
            maps.append(F.interpolate(found[:, None], images.shape[2:], mode="bilinear"))  # like the other packages
        return maps

    return call


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.cam.explain", description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--size", type=int, default=224, help="size of the images")
    options = parser.parse_args()
    from ..harness.vision_peers import timm

    print(f"{'ResNet-18, ms':26}{'needed':>10}{'torchext':>10}{'grad-cam':>10}{'torch-cam':>10}   more than needed")
    for threads in options.threads:
        torch.set_num_threads(threads)
        for batch, count in ((4, 1), (4, TARGETS), (32, 1)):
            images, classes = torch.randn(batch, 3, options.size, options.size), torch.randint(1000, (batch, count))
            clock = BeyondForward()
            # Each package has its own model, because the packages leave hooks on it.
            bare, *models = [timm.create_model("resnet18").eval() for _ in range(4)]
            watched = [clock.watch(model) for model in models]
            ours = torchext.CAM(watched[0], "layer4")
            contenders = {
                "torchext": lambda ours=ours, images=images, classes=classes: ours(images, classes),
                "grad-cam": grad_cam(watched[1], images, classes),
                "torch-cam": torch_cam(watched[2], images, classes),
            }
            with torch.no_grad():
                forward = measure({"forward": lambda bare=bare, images=images: bare(images)}, EFFORT)["forward"].median
            gradients = measure({"backward": backward(bare, images, classes)}, EFFORT)["backward"].median
            needed = forward + gradients
            more = {name: one.median - gradients for name, one in measure(contenders, EFFORT, clock).items()}
            row = "".join(f"{1e3 * value:10.1f}" for value in (needed, *(needed + one for one in more.values())))
            shares = ", ".join(f"{name} {1e3 * one:.2f} ({one / needed:.1%})" for name, one in more.items())
            print(f"{f'batch {batch}, {count} targets, {threads} thr':26}{row}   {shares}", flush=True)


if __name__ == "__main__":
    main()
