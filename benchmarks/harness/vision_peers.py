"""timm, pytorch-grad-cam and torch-cam."""

from __future__ import annotations

import pytorch_grad_cam
import timm
import torchcam.methods
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

__all__ = ["ClassifierOutputTarget", "pytorch_grad_cam", "timm", "torchcam"]
