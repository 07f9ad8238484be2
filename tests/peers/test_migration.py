"""The pages about moving from other libraries name every argument of the functions that they replace."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import sklearn.metrics
import torch
from torch import nn
from torchmetrics.functional.classification import multiclass_confusion_matrix

import torchext
from benchmarks.harness.vision_peers import ClassifierOutputTarget, pytorch_grad_cam, timm, torchcam
from tests import ROOT

inferers, losses = pytest.importorskip("monai.inferers"), pytest.importorskip("monai.losses")
image, overlay = pytest.importorskip("pytorch_grad_cam.utils.image"), pytest.importorskip("torchcam.utils")

REPLACED: list[tuple[str, Callable[..., Any]]] = [
    ("monai", inferers.sliding_window_inference),
    ("monai", inferers.SlidingWindowInferer),
    ("monai", losses.DiceLoss),
    ("pytorch_grad_cam", pytorch_grad_cam.base_cam.BaseCAM),
    ("pytorch_grad_cam", pytorch_grad_cam.base_cam.BaseCAM.__call__),
    ("pytorch_grad_cam", pytorch_grad_cam.AblationCAM),
    ("pytorch_grad_cam", image.show_cam_on_image),
    ("torchcam", torchcam.methods.core._CAM),
    ("torchcam", torchcam.methods.core._CAM.__call__),
    ("torchcam", torchcam.methods.ScoreCAM),
    ("torchcam", overlay.overlay_mask),
    ("torchmetrics", multiclass_confusion_matrix),
    ("torchmetrics", sklearn.metrics.confusion_matrix),
    ("timm", timm.data.mixup.mixup_target),
]


@pytest.mark.parametrize(("page", "replaced"), REPLACED)
def test_the_page_names_every_argument(page: str, replaced: Callable[..., Any]) -> None:
    text = (ROOT / "docs" / "migration" / f"{page}.md").read_text(encoding="utf-8")
    named = {word for code in text.split("`")[1::2] for word in code.replace("=", " ").replace("*", " ").split()}
    names = set(inspect.signature(replaced).parameters) - {"self"}
    assert {name for name in names if name not in named and f"{name}," not in named} == set()


@pytest.mark.parametrize(("normalize", "least", "largest"), [("max", 0.05, 0.5), ("minmax", 0.0, 0.02)])
def test_maps_differ_from_pytorch_grad_cam_as_the_pages_say(normalize: Any, least: float, largest: float) -> None:
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=10).eval()
    nn.init.normal_(model.fc.weight, std=100)  # gradients near 1, next to which added constants are small
    images = torch.randn(4, 3, 96, 128)
    with pytorch_grad_cam.GradCAM(model=model, target_layers=[model.layer4]) as cam:
        theirs = torch.as_tensor(cam(images, targets=[ClassifierOutputTarget(3)] * 4))
    ours = torchext.CAM(model, model.layer4, normalize=normalize)(images, 3)
    assert least <= float((ours - theirs).abs().max()) <= largest
