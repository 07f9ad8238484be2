"""Compiles a classifier that explains itself with AOTInductor, for a C++ program without Python.

Run it with `python model.py FOLDER`. It writes the model, a photo and the map that Python computes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import torchext

SIZE = 64


class Explained(nn.Module):
    """Returns the scores and the map of the best class: CAM, for which the last layer is the weight of each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())
        self.classifier = nn.Linear(16, 5)

    def forward(self, photo: Tensor) -> tuple[Tensor, Tensor]:
        activations = self.features(photo)
        scores = self.classifier(activations.mean((2, 3)))
        weights = self.classifier.weight[scores.argmax(1)]
        return scores, torchext.cam_pool(activations, weights=weights, size=photo.shape[2:])


def main(folder: Path) -> tuple[int, Tensor]:
    torch.manual_seed(0)
    model = Explained().eval()
    rows = torch.arange(SIZE, dtype=torch.uint8)
    across, down = rows.expand(SIZE, SIZE), rows.unsqueeze(1).expand(SIZE, SIZE)
    pixels = torch.stack([across * 4, down * 3, across.flip(1) * 2 + down], -1)
    (folder / "photo.ppm").write_bytes(f"P6\n{SIZE} {SIZE}\n255\n".encode() + pixels.contiguous().numpy().tobytes())
    photo = pixels.permute(2, 0, 1).unsqueeze(0) / 255
    with torch.no_grad():
        program = torch.export.export(model, (photo,))
        torch._inductor.aoti_compile_and_package(program, package_path=str(folder / "model.pt2"))
        scores, maps = model(photo)
    print(f"class {int(scores.argmax())}")
    return int(scores.argmax()), maps[0]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
