"""Train a small network to segment shapes with Dice and cross entropy; borders are ignored. Prints loss and IoU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import torchext

CLASSES = ("background", "disc", "square")
BORDER = 255  # as in Pascal VOC: the edge of an object has no class


def scenes(count: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noisy pictures ``(N, 1, H, W)`` of a disc and a square, and their uint8 masks ``(N, H, W)``."""
    grid = torch.arange(size)
    rows, columns = grid[:, None], grid[None, :]
    y, x = torch.randint(size // 4, size * 3 // 4, (2, 2, count, 1, 1), generator=generator)
    disc = ((rows - y[0]) ** 2 + (columns - x[0]) ** 2).sqrt() - size / 6
    square = torch.maximum((rows - y[1]).abs(), (columns - x[1]).abs()) - size / 7
    masks = torch.zeros(count, size, size, dtype=torch.uint8)
    masks[disc < 0] = 1
    masks[square < 0] = 2
    images = torch.tensor([0.0, 1.0, -1.0])[masks.int()] + 0.5 * torch.randn(masks.shape, generator=generator)
    masks[(disc.abs() < 1) | (square.abs() < 1)] = BORDER
    return images[:, None], masks


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, 16, 5, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, len(CLASSES), 1),
    )


def intersection_over_union(scores: Tensor, masks: Tensor) -> Tensor:
    """The IoU of each class over all pictures, from the predicted labels."""
    predicted = torchext.one_hot(scores.argmax(1), len(CLASSES), dim=1)
    overlap = torchext.class_overlap(predicted, masks, ignore_index=BORDER)
    intersection, total, support = (sums.sum(0) for sums in overlap)
    return intersection / (total + support - intersection)


def main(steps: int = 30) -> Tensor:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    dice = torchext.nn.DiceLoss(softmax=True, ignore_index=BORDER)
    for step in range(steps):
        images, masks = scenes(8, 48, generator)
        scores = model(images)
        # DiceLoss reads the uint8 masks; cross entropy requires int64.
        loss = dice(scores, masks) + F.cross_entropy(scores, masks.long(), ignore_index=BORDER)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 0 or step == steps - 1:
            print(f"step {step:3}  loss {loss.item():.3f}")
    with torch.no_grad():
        images, masks = scenes(32, 48, generator)
        iou = intersection_over_union(model(images), masks)
    for name, value in zip(CLASSES, iou.tolist(), strict=True):
        print(f"IoU of {name:10} {value:.3f}")
    return iou


if __name__ == "__main__":
    main()
