"""Class activation maps: the pooling itself, and explanations of whole models."""

from torchext.cam.draw import draw_cam, overlay
from torchext.cam.explain import CAM
from torchext.cam.pool import cam_pool

__all__ = ["CAM", "cam_pool", "draw_cam", "overlay"]
