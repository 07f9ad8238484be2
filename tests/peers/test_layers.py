"""Tests which layer CAM finds in architectures of different kinds."""

from __future__ import annotations

import pytest
from layers import look

KINDS = {
    "resnet10t": ("layer4", (6, 6)),
    "densenet121": ("features", (7, 7)),
    "mobilenetv2_035": ("bn2", (7, 7)),
    "mobilenetv3_small_050": ("blocks", (7, 7)),
    "convnext_zepto_rms": ("stages", (7, 7)),
    "swin_tiny_patch4_window7_224": ("norm", (7, 7)),
    "hiera_tiny_224": ("blocks.11.norm1", (7, 7)),
    "vit_tiny_patch16_224": ("blocks.11.norm1", (14, 14)),
    "vit_tiny_patch16_dinov3_qkvb": ("blocks.11.norm1", (16, 16)),
    "deit_tiny_distilled_patch16_224": ("blocks.11.norm1", (14, 14)),
    "cait_xxs24_224": ("blocks_token_only.1.norm1", (14, 14)),
    "crossvit_tiny_240": ("blocks.2.fusion.1.norm1", (20, 20)),
}


@pytest.mark.parametrize("name", KINDS)
def test_the_expected_layer_is_found_and_its_positions_match_the_input(name: str) -> None:
    finding = look(name)
    assert finding.problem == ""
    assert (finding.layer, finding.grid) == KINDS[name]
