"""More than 2^31 elements: one dimension past what 32-bit indices reach."""

from __future__ import annotations

import pytest
import torch

import torchext

pytestmark = [
    pytest.mark.skipif(
        torchext.doctor().libraries[0].problem is not None,
        reason="the references need several times the memory of the result",
    ),
    pytest.mark.xdist_group("large"),
]


def test_one_hot_of_more_than_2_to_the_31_entries() -> None:
    labels = torch.arange(2**20 + 5) % 2048
    out = torchext.one_hot(labels, 2048, dtype=torch.bool)
    assert out.numel() > 2**31
    assert torch.equal(out[-7:], torch.nn.functional.one_hot(labels[-7:], 2048).bool())
    assert int(out.view(torch.uint8)[-1].sum()) == 1


def test_masks_of_more_than_2_to_the_31_entries() -> None:
    labels = (torch.arange(2**27 + 3) % 17).to(torch.uint8).unsqueeze(0)
    out = torchext.one_hot(labels, 17, dim=1, dtype=torch.uint8)
    assert out.numel() > 2**31
    assert torch.equal(out[0, :, -9:].T, torch.nn.functional.one_hot(labels[0, -9:].long(), 17).to(torch.uint8))


def test_unfold_and_fold_of_more_than_2_to_the_31_entries() -> None:
    image = (torch.arange(2**14 * 2**13) % 251).to(torch.uint8).view(1, 1, 2**14, 2**13)
    columns = torchext.unfold(image, 4, padding=2)
    assert columns.numel() > 2**31
    rows, width = columns.view(16, 2**14 + 1, 2**13 + 1), 2**13
    assert torch.equal(rows[15, -3, : width - 1], image[0, 0, -1, 1:])
    total = torchext.fold(columns, image.shape[2:], 4, padding=2)
    assert torch.equal(total[0, 0, -9:-1, -9:-1], image[0, 0, -9:-1, -9:-1] * 16)


def test_cam_pool_of_more_than_2_to_the_31_activations() -> None:
    weights = torch.linspace(0, 1, 32 * 33).view(1, 1, 32, 33).half()
    activations = weights.expand(2, 2**20, 32, 33)
    assert activations.numel() > 2**31
    maps = torchext.cam_pool(activations, activations)
    torch.testing.assert_close(maps, weights[0].expand(2, 32, 33))
