"""Small models for tests of explanations."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def classifier() -> nn.Sequential:
    """Maps of 8 and 6 channels, a ReLU in place after each, 5 classes."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 6, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5),
    ).eval()


def binary_classifier() -> nn.Sequential:
    """`classifier` with a single score instead of 5."""
    return nn.Sequential(*classifier()[:-1], nn.Linear(6, 1)).eval()


class PatchDetector(nn.Module):
    """Class 1 is the brightness of positions 4 to 7 in both dimensions, class 0 that of all other positions.

    The features are the image outside this patch and the image inside it.
    """

    ROWS = COLUMNS = slice(4, 8)

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(1, 2, 1, bias=False)
        self.features.weight.data.fill_(1.0)
        self.mask = nn.Identity()
        patch = torch.zeros(16, 16)
        patch[self.ROWS, self.COLUMNS] = 1.0
        self.register_buffer("patch", torch.stack([1 - patch, patch]))

    def forward(self, x: Tensor) -> Tensor:
        maps = self.mask(self.features(x) * self.patch)
        return maps.sum((2, 3)) / 4


class Block(nn.Module):
    """A transformer block with normalisation before attention and MLP, as in ViT."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, 2, batch_first=True)
        self.mlp = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class TokenModel(nn.Module):
    """A small ViT with class and register tokens before its patches of 4×4."""

    def __init__(self, prefix: int = 1, dim: int = 8, depth: int = 2, classes: int = 5) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, dim, 4, 4)
        self.tokens = nn.Parameter(torch.randn(1, prefix, dim))
        self.blocks = nn.Sequential(*(Block(dim) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.tokens.expand(x.shape[0], -1, -1), patches], 1)
        return self.head(self.norm(self.blocks(tokens))[:, 0])


class ChannelsLast(nn.Module):
    """Maps with their channels last, as in Swin, whose normalisation is over the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 6, 4, 4)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.embed(x).permute(0, 2, 3, 1)).mean((1, 2)))


class Twice(nn.Module):
    """One module that runs twice in a forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.second(self.act(self.first(x)))).mean((2, 3)))


class SkipsByConcatenation(nn.Module):
    """The output of a layer is concatenated with an earlier map, so both need the same batch size."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.layer = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        stem = self.stem(x).relu()
        return self.head(torch.cat([stem, self.layer(stem).relu()], 1).mean((2, 3)))


class KeepsBatchSize(nn.Module):
    """Reshapes the output of a layer with the batch size of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        maps = nn.functional.adaptive_avg_pool2d(self.layer(x).relu(), 2)
        return self.head(maps.view(len(x), -1))


class ReadsAValue(SkipsByConcatenation):
    """Branches on the values of a layer's output."""

    def forward(self, x: Tensor) -> Tensor:
        stem = self.stem(x).relu()
        maps = self.layer(stem).relu()
        return self.head(torch.cat([stem, maps if maps.isfinite().all() else maps.nan_to_num()], 1).mean((2, 3)))


class Blind(nn.Module):
    """Runs a layer on which its scores do not depend."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.used = nn.Conv2d(3, 4, 3), nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        self.seen(x)
        return self.used(x.mean((2, 3)))
