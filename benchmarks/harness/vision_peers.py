"""timm, pytorch-grad-cam and torch-cam, for a PyTorch version for which torchvision has no build.

They import torchvision, but only use its Python files, which need two operations to be defined.
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
