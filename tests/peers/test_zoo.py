"""The layer and the grid that CAM finds in a few models of each library."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import torchext
from tests.peers.zoo import RIGHT, look
from tests.peers.zoo_models import SOURCES

MODELS = {
    "hf": ["convnext/ConvNextForImageClassification", "vit/ViTForImageClassification"],
    "timm": ["resnet", "convnext", "deit", "cait", "hiera", "swin_transformer"],
    "torchvision": ["densenet", "vision_transformer", "segmentation/lraspp", "video/resnet"],
    "ultralytics": ["yolo11-cls"],
    "monai": ["DenseNet121/3D", "ViT/2D", "UNet/3D"],
}


@pytest.mark.parametrize(("source", "name"), [(source, name) for source in MODELS for name in MODELS[source]])
def test_the_grid_is_that_of_the_configuration(source: str, name: str) -> None:
    row = look(name, dict(SOURCES[source]([name]))[name])
    assert row.verdict == RIGHT, row.remark


def test_the_map_of_a_detector_is_without_the_padding() -> None:
    detection = pytest.importorskip("torchvision.models.detection")
    model = detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=3, box_score_thresh=0.0
    ).eval()
    image = torch.rand(1, 3, 200, 310)
    layer, score = "backbone.body.16", lambda output: torch.stack([one["scores"].sum() for one in output])
    grid, maps = (
        torchext.CAM(model, layer, normalize=None, relu=False, size=size)(image, score) for size in (None, "input")
    )
    read, _ = model.transform(list(image))
    height, width = read.image_sizes[0]
    assert (height, width) != read.tensors.shape[2:]
    padded = nn.functional.interpolate(grid[None], read.tensors.shape[2:], mode="bilinear")[..., :height, :width]
    expected = nn.functional.interpolate(padded, (200, 310), mode="bilinear")[0]
    inside = (..., slice(0, 180), slice(0, 290))  # the cells after these are partly padding
    torch.testing.assert_close(maps[inside], expected[inside], atol=0.02 * float(expected.abs().max()), rtol=0.0)
