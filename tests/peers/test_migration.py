"""The pages about moving from other libraries name every argument of the functions that they replace."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import pytest
import sklearn.metrics
from torchmetrics.functional.classification import multiclass_confusion_matrix

from benchmarks.harness.vision_peers import pytorch_grad_cam, timm, torchcam
from tests import ROOT

inferers, losses = pytest.importorskip("monai.inferers"), pytest.importorskip("monai.losses")
image, overlay = pytest.importorskip("pytorch_grad_cam.utils.image"), pytest.importorskip("torchcam.utils")

REPLACED: list[tuple[str, Callable[..., Any]]] = [
    ("monai", inferers.sliding_window_inference),
    ("monai", inferers.SlidingWindowInferer),
    ("monai", inferers.SlidingWindowInferer.__call__),
    ("monai", losses.DiceLoss),
    ("pytorch_grad_cam", pytorch_grad_cam.base_cam.BaseCAM),
    ("pytorch_grad_cam", pytorch_grad_cam.base_cam.BaseCAM.__call__),
    ("pytorch_grad_cam", pytorch_grad_cam.AblationCAM),
    ("pytorch_grad_cam", image.show_cam_on_image),
    ("torchcam", torchcam.methods.core._CAM),
    ("torchcam", torchcam.methods.core._CAM.__call__),
    ("torchcam", torchcam.methods.CAM),
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
    names = set(inspect.signature(replaced).parameters) - {"self", "kwargs"}
    assert {name for name in names if name not in named and f"{name}," not in named} == set()


@pytest.mark.parametrize(
    ("page", "name", "package"),
    [
        ("monai", "MONAI", "monai"),
        ("pytorch_grad_cam", "pytorch-grad-cam", "grad-cam"),
        ("torchcam", "torch-cam", "torchcam"),
        ("torchmetrics", "torchmetrics", "torchmetrics"),
        ("torchmetrics", "scikit-learn", "scikit-learn"),
        ("timm", "timm", "timm"),
    ],
)
def test_the_page_names_the_version_that_it_is_compared_with(page: str, name: str, package: str) -> None:
    assert f"{name} {version(package)}" in (ROOT / "docs" / "migration" / f"{page}.md").read_text(encoding="utf-8")
