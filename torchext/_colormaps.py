"""Colour tables: 256 rows of red, green and blue, equal to OpenCV's to the byte."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=16)
def jet(device: torch.device) -> Tensor:
    """From dark blue over cyan, yellow and red to dark red, ``(256, 3)`` uint8."""
    step = 4 * torch.arange(256)
    red = torch.minimum(step - 382, 1148 - step)
    green = torch.minimum(step - 128, 892 - step)
    blue = torch.minimum(step + 128, 638 - step)
    blue[159] = 0  # the one entry of OpenCV's table that is off its own line
    return torch.stack([red, green, blue], dim=1).clamp(0, 255).to(torch.uint8).to(device)
