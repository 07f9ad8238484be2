"""timm, pytorch-grad-cam and torch-cam, with a PyTorch for which there is no build of torchvision.

They import torchvision but use its Python files alone, which need no more than the names of two operations.
"""

from __future__ import annotations

import importlib

import torch

try:
    importlib.import_module("torchvision")
except RuntimeError:
    _schemas = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _schemas.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import pytorch_grad_cam
import timm
import torchcam.methods
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

__all__ = ["ClassifierOutputTarget", "pytorch_grad_cam", "timm", "torchcam"]
