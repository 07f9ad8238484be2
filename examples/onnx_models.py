"""Exports two models to ONNX and runs them in onnxruntime: a ViT, and a segmentation with sliding windows.

Run it with `python onnx_models.py`; it requires onnx, onnxscript and onnxruntime.
"""

from __future__ import annotations

from typing import Any

import onnxruntime
import torch
from torch import Tensor, nn

import torchext


class ViT(nn.Module):
    """A vision transformer of bytes: `patchify` scales, normalises and extracts the patches in one pass."""

    def __init__(self, size: int = 16, width: int = 64, classes: int = 10) -> None:
        super().__init__()
        self.size, self.embed = size, nn.Linear(3 * size * size, width)
        self.mix = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(torchext.patchify(images, self.size, mean=0.5, std=0.25))
        return self.head((tokens + self.mix(tokens)).mean(1))


class Segmentation(nn.Module):
    """The labels of a photo of fixed size, from windows that overlap."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, classes, 3, padding=1))

    def forward(self, photo: Tensor) -> Tensor:
        return torchext.sliding_window(self.network, photo, 32, overlap=0.5, weight="hann", argmax=True)


def run(model: nn.Module, example: Tensor, inputs: Tensor, dynamic: Any = None) -> Tensor:
    """Export with the example, and return the result of onnxruntime for the inputs."""
    with torch.no_grad():
        program = torch.onnx.export(model.eval(), (example,), dynamo=True, dynamic_shapes=dynamic, verbose=False)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: inputs.numpy()})[0])


def main() -> tuple[float, float]:
    """The largest difference of scores, and the share of labels that differ."""
    torch.manual_seed(0)
    vit, segmentation = ViT(), Segmentation()
    images = torch.randint(256, (5, 3, 64, 96), dtype=torch.uint8)
    photo = torch.rand(1, 3, 80, 100)
    with torch.no_grad():
        scores, labels = vit.eval()(images), segmentation.eval()(photo)
    any_batch = ({0: torch.export.Dim.DYNAMIC},)
    difference = float((run(vit, images[:2], images, any_batch) - scores).abs().max())
    share = float((run(segmentation, photo, photo) != labels).float().mean())
    print(f"scores differ by at most {difference:.0e}, {share:.2%} of the labels differ")
    return difference, share


if __name__ == "__main__":
    main()
