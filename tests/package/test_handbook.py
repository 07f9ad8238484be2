"""Snippets that people write by hand, each compared with the call that replaces it."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import torchext


def test_cut_an_image_into_windows() -> None:
    image = torch.randn(1, 3, 224, 224)
    columns = torchext.unfold(image, 4, stride=4)
    assert columns.shape == (1, 48, 3136)
    assert torch.equal(columns, nn.Unfold(4, stride=4)(image))
    assert torch.equal(torchext.fold(columns, 224, 4, stride=4), image)


def test_one_hot_of_one_index() -> None:
    def by_hand(num: int, index: int) -> Tensor:
        vector = torch.zeros(num)
        vector[index] = 1
        return vector

    assert torch.equal(torchext.one_hot(torch.tensor(3), 10), by_hand(10, 3))


def test_one_hot_of_an_array() -> None:
    index = torch.tensor([3, 0, 9, 3])
    by_hand = torch.zeros(4, 10).scatter_(1, index.view(-1, 1), 1)
    for dtype in (torch.int64, torch.int32, torch.uint8, torch.uint16):
        assert torch.equal(torchext.one_hot(index.to(dtype), 10), by_hand)


def test_cross_entropy_four_ways() -> None:
    scores, labels = torch.randn(32, 10), torch.randint(0, 10, (32,))
    encoded = torchext.one_hot(labels, 10)
    ours = -(encoded * F.log_softmax(scores, 1)).sum(1).mean()
    torch.testing.assert_close(ours, F.nll_loss(torch.log(F.softmax(scores, 1)), labels))
    torch.testing.assert_close(ours, F.nll_loss(F.log_softmax(scores, 1), labels))
    torch.testing.assert_close(ours, nn.CrossEntropyLoss()(scores, labels))
    smooth = torchext.one_hot(labels, 10, label_smoothing=0.1)
    torch.testing.assert_close(F.cross_entropy(scores, smooth), F.cross_entropy(scores, labels, label_smoothing=0.1))


def test_cross_entropy_of_mixed_labels() -> None:
    scores, labels, lam = torch.randn(32, 10), torch.randint(0, 10, (32,)), 0.3
    by_hand = lam * F.cross_entropy(scores, labels) + (1 - lam) * F.cross_entropy(scores, labels.flip(0))
    torch.testing.assert_close(F.cross_entropy(scores, torchext.mixup_one_hot(labels, lam, 10)), by_hand)


def test_device_side_assert_triggered() -> None:
    labels = torch.zeros(1, 8, 8, dtype=torch.int32)
    labels[0, 3, 7] = 21
    with pytest.raises(IndexError) as error:
        torchext.one_hot(labels, 21, dim=1)
    assert str(error.value) == "label 21 at position (0, 3, 7) is outside [0, 21)"


class _Features(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3))
        self.classifier = nn.Linear(8 * 5 * 5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


def test_draw_cam_by_hand() -> None:
    model, image = _Features().eval(), torch.randn(1, 3, 14, 14)
    features = model.features(image)
    features.retain_grad()
    scores = model.classifier(features.flatten(1))
    scores[0, scores.argmax()].backward()
    pooled = F.adaptive_avg_pool2d(features.grad, (1, 1))[0]
    weighted = features[0].detach().clone()
    for i in range(weighted.shape[0]):
        weighted[i] *= pooled[i].item()
    heatmap = weighted.mean(0).relu()  # the mean differs from the sum by a factor, gone after the division
    heatmap = heatmap / heatmap.max() if heatmap.max() > 0 else heatmap
    cam = torchext.CAM(model, "features", size=None)
    torch.testing.assert_close(cam(image)[0], heatmap)

    photo = torch.randint(0, 256, (1, 3, 14, 14), dtype=torch.uint8)
    picture = torchext.overlay(photo, cam(image), blend="add")
    assert picture.shape == photo.shape
    assert bool((picture.int() >= photo.int()).all())  # colour is added


def test_adaptive_avg_pool_and_a_multiply_per_channel() -> None:
    activations, gradients = torch.randn(2, 5, 7, 7), torch.randn(2, 5, 7, 7)
    by_hand = (F.adaptive_avg_pool2d(gradients, 1) * activations).sum(1)
    torch.testing.assert_close(torchext.cam_pool(activations, gradients, relu=False, normalize=None), by_hand)
    assert math.isfinite(float(by_hand.sum()))
