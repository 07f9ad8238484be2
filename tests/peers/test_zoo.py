"""The layer and the grid that CAM finds in a few models of each library."""

from __future__ import annotations

import pytest

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
