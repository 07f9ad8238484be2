"""ONNX with any height and width: one exported model runs with images of several sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree

import torchext

pytest.importorskip("onnxscript", reason="in requirements/dev.txt")
pytest.importorskip("onnxruntime", reason="in requirements/dev.txt")

from tests.export.test_onnx import exported, run

Model = Callable[..., Any]


class Called(torch.nn.Module):
    def __init__(self, function: Model) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: Tensor) -> Any:
        return self.function(*tensors)


def image(height: int, width: int) -> tuple[Tensor, ...]:
    return (torch.randn(2, 3, height, width),)


def mask(height: int, width: int) -> tuple[Tensor, ...]:
    return (torch.randint(0, 5, (2, height, width)),)


def two_masks(height: int, width: int) -> tuple[Tensor, ...]:
    return (*mask(height, width), *mask(height, width))


def image_and_mask(height: int, width: int) -> tuple[Tensor, ...]:
    return (*image(height, width), *mask(height, width))


def two_images(height: int, width: int) -> tuple[Tensor, ...]:
    return torch.rand(2, 3, height, width), torch.rand(2, 3, height, width)


def columns_and_image(height: int, width: int) -> tuple[Tensor, ...]:
    return torchext.unfold(*image(height, width), 3, padding=1), *image(height, width)


def tokens_and_image(height: int, width: int) -> tuple[Tensor, ...]:
    return torchext.patchify(*image(height, width), 4), *image(height, width)


def windows_and_image(height: int, width: int) -> tuple[Tensor, ...]:
    return torchext.extract_windows(*image(height, width), 4, 2, partial="shift"), *image(height, width)


def pixels(tensor: Tensor) -> list[int]:
    return list(tensor.shape[-2:])


def in_means(x: Tensor, **options: Any) -> Tensor:
    """Windows of an image, merged again."""
    stride = options.pop("stride", None)
    geometry = {name: options[name] for name in ("dilation", "padding", "partial") if name in options}
    windows = torchext.extract_windows(x, 4, stride, **geometry)
    return torchext.merge_windows(windows, pixels(x), stride, **options)


OFFSETS = torch.tensor([[0, 0], [-2, 3], [5, 4]])

# Each model with its example; sizes are multiples of 4 and at least 8.
MODELS: dict[str, tuple[Model, Callable[[int, int], tuple[Tensor, ...]]]] = {
    "unfold": (lambda x: torchext.unfold(x, 3), image),
    "unfold, patches": (lambda x: torchext.unfold(x, 4, stride=4), image),
    "unfold, stride and padding": (lambda x: torchext.unfold(x, (3, 2), 2, 1, (2, 3)), image),
    "unfold, value": (lambda x: torchext.unfold(x, 3, padding=1, value=2.0), image),
    **{
        f"unfold, {mode}": (lambda x, m=mode: torchext.unfold(x, 3, padding=2, padding_mode=m), image)
        for mode in ("reflect", "symmetric", "replicate", "circular")
    },
    "fold": (lambda x, like: torchext.fold(x, pixels(like), 3, padding=1), columns_and_image),
    "fold, unfold": (lambda x: torchext.fold(torchext.unfold(x, 4, stride=4), pixels(x), 4, stride=4), image),
    "extract_windows": (lambda x: torchext.extract_windows(x, 4), image),
    "extract_windows, stride": (lambda x: torchext.extract_windows(x, 4, 3), image),
    "extract_windows, pad": (lambda x: torchext.extract_windows(x, 5, 3, padding=1, partial="pad"), image),
    "extract_windows, shift": (lambda x: torchext.extract_windows(x, 5, 3, partial="shift"), image),
    "extract_windows, dilated": (lambda x: torchext.extract_windows(x, 3, 2, dilation=2), image),
    "extract_windows, reflect": (
        lambda x: torchext.extract_windows(x, 4, 3, padding=2, padding_mode="reflect", partial="pad"),
        image,
    ),
    "merge_windows, apart": (lambda x: in_means(x), image),
    "merge_windows, hann": (lambda x: in_means(x, stride=2, weight="hann"), image),
    "merge_windows, padded": (lambda x: in_means(x, stride=2, padding=1, normalize=False), image),
    "merge_windows, shift": (lambda x: in_means(x, stride=3, partial="shift", weight="linear"), image),
    "merge_windows, given": (
        lambda x, like: torchext.merge_windows(x, pixels(like), 2, partial="shift"),
        windows_and_image,
    ),
    "gather_windows": (lambda x: torchext.gather_windows(x, OFFSETS, (3, 4)), image),
    "scatter_windows": (
        lambda x: torchext.scatter_windows(
            torchext.gather_windows(x, OFFSETS, (3, 4)), OFFSETS, pixels(x), weight="linear"
        ),
        image,
    ),
    "patchify": (lambda x: torchext.patchify(x, 4, mean=0.5, std=(0.1, 0.2, 0.3)), image),
    "patchify, channels inside": (lambda x: torchext.patchify(x, (2, 4), token_order="PPC"), image),
    "unpatchify": (
        lambda x, like: torchext.unpatchify(x, 4, [size // 4 for size in pixels(like)], std=2.0),
        tokens_and_image,
    ),
    "cam_pool": (torchext.cam_pool, two_images),
    "cam_pool, minmax, size": (lambda a, g: torchext.cam_pool(a, g, normalize="minmax", size=(9, 7)), two_images),
    "cam_pool, size of an image": (
        lambda a, g: torchext.cam_pool(a[..., ::2, ::2], g[..., ::2, ::2], size=pixels(a), method="layercam"),
        two_images,
    ),
    **{
        f"cam_pool, {method}": (lambda a, g, m=method: torchext.cam_pool(a, g, method=m), two_images)
        for method in ("gradcam++", "xgradcam", "hirescam", "gradcam_elementwise")
    },
    "one_hot": (lambda y: torchext.one_hot(y, 5, dim=1, invalid="zero"), mask),
    "one_hot, smoothed": (
        lambda y: torchext.one_hot(y, 5, label_smoothing=0.1, ignore_index=2, invalid="zero"),
        mask,
    ),
    "mixup_one_hot": (lambda y: torchext.mixup_one_hot(y, 0.3, 5, dim=1, invalid="zero"), mask),
    "multi_hot": (lambda y: torchext.multi_hot(y, 5, dim=1, invalid="zero"), mask),
    "class_counts": (lambda y: torchext.class_counts(y, 5, ignore_index=1, invalid="zero"), mask),
    "class_sums": (
        lambda x, y: torchext.class_sums(x.movedim(1, -1), y, 5, invalid="zero"),
        image_and_mask,
    ),
    "class_means": (lambda x, y: torchext.class_means(x.movedim(1, -1), y, 5, invalid="zero"), image_and_mask),
    "class_max": (lambda x, y: tuple(torchext.class_max(x.movedim(1, -1), y, 5, invalid="zero")), image_and_mask),
    "class_min": (lambda x, y: tuple(torchext.class_min(x.movedim(1, -1), y, 5, invalid="zero")), image_and_mask),
    "class_overlap": (
        lambda x, y: tuple(torchext.class_overlap(x.softmax(1), y % 3, invalid="zero")),
        image_and_mask,
    ),
    "confusion_matrix": (lambda a, b: torchext.confusion_matrix(a, b, 5, invalid="zero"), two_masks),
}


def dynamic_shapes(tensors: Sequence[Tensor]) -> tuple[Any, ...]:
    """Height and width, and the dimensions of columns and tokens that depend on them, are dynamic."""
    any_size = torch.export.Dim.DYNAMIC
    dimensions = {3: (1, 2), 4: (2, 3), 6: (1, 2)}
    return (
        tuple({d: any_size for d in dimensions[tensor.dim()] if tensor.shape[d] not in (27, 48)} for tensor in tensors),
    )


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_onnx_takes_any_height_and_width(name: str) -> None:
    function, make = MODELS[name]
    model = Called(function)
    session = exported(model, make(16, 24), dynamic_shapes(make(16, 24)), opset=20)
    for size in ((16, 24), (8, 36), (32, 12)):
        tensors = make(*size)
        expected = [tensor for tensor in _pytree.tree_leaves(model(*tensors)) if isinstance(tensor, Tensor)]
        torch.testing.assert_close(run(session, *tensors), expected, rtol=1e-4, atol=1e-5)


def test_all_functions_that_take_images_are_here() -> None:
    assert {name.partition(",")[0] for name in MODELS} == set(torchext.reference.__all__)
