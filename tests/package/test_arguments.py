"""Wrong arguments that every operation handles in the same way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import torchext
from tests.models import classifier

image, labels, scores = torch.ones(1, 1, 4, 4), torch.tensor([0, 1]), torch.rand(1, 8, 8)
HUGE, LONG = 10**400, range(2**70)
NUMBERS: dict[str, Callable[[Any], Any]] = {
    "on_value": lambda number: torchext.one_hot(labels, 3, on_value=number),
    "off_value": lambda number: torchext.multi_hot(labels, 3, off_value=number),
    "label_smoothing": lambda number: torchext.one_hot(labels, 3, label_smoothing=number),
    "lam": lambda number: torchext.mixup_one_hot(labels, number, 3),
    "value": lambda number: torchext.unfold(image, 2, padding=1, value=number),
    "mean": lambda number: torchext.patchify(image, 2, mean=number),
    "std": lambda number: torchext.patchify(image, 2, std=[number]),
    "scale": lambda number: torchext.patchify(image, 2, scale=number),
    "alpha": lambda number: torchext.overlay(torch.rand(1, 3, 8, 8), scores, alpha=number),
    "overlap": lambda number: torchext.sliding_window(torch.nn.Identity(), image, 2, overlap=number),
    "baseline": lambda number: torchext.metrics.deletion_curve(
        classifier().eval(), torch.rand(1, 3, 8, 8), scores, baseline=number
    ),
    "steps": lambda number: torchext.metrics.deletion_curve(
        classifier().eval(), torch.rand(1, 3, 8, 8), scores, steps=number
    ),
    "ignore_index": lambda number: torchext.one_hot(labels, 3, ignore_index=number),
    "num_classes": lambda number: torchext.class_counts(labels, number),
    "batch_size": lambda number: torchext.sliding_window(torch.nn.Identity(), image, 2, batch_size=number),
}
SIZES: dict[str, Callable[[Any], Any]] = {
    "kernel_size": lambda size: torchext.unfold(image, size),
    "output_size": lambda size: torchext.fold(torch.zeros(1, 4, 9), size, 2),
    "size": lambda size: torchext.extract_windows(image, size),
    "grid": lambda size: torchext.unpatchify(torch.zeros(1, 4, 4), 2, size),
}


@pytest.mark.parametrize("number", [HUGE, -HUGE, 10**5000], ids=["huge", "negative", "beyond what Python writes"])
@pytest.mark.parametrize("name", NUMBERS)
def test_errors_for_too_large_numbers_name_the_argument(name: str, number: int) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected|^{name}: torch.float32 cannot hold an int of"):
        NUMBERS[name](number)


def test_too_many_steps_raise_before_positions_overflow() -> None:
    with pytest.raises(ValueError, match=r"^steps: expected at most"):
        NUMBERS["steps"](2**63 - 1)


@pytest.mark.parametrize("name", SIZES)
def test_a_huge_range_is_not_a_size(name: str) -> None:
    with pytest.raises(TypeError, match=f"^{name}: expected .* got range$"):
        SIZES[name](LONG)


def test_an_unknown_device_name_raises() -> None:
    with pytest.raises(ValueError, match=r"^device: expected the name of a device, got 'nonsense'$"):
        torchext.window_weight(3, "hann", device="nonsense")


NESTED = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(1, 3)], layout=torch.strided)
TAKING_NESTED: dict[str, Callable[[], Any]] = {
    "values": lambda: torchext.class_sums(NESTED, labels, 3),
    "probs": lambda: torchext.class_overlap(NESTED, labels),
    "input": lambda: torchext.unfold(NESTED, 2),
    "windows": lambda: torchext.merge_windows(NESTED, 2),
    "images": lambda: torchext.patchify(NESTED, 2),
    "tokens": lambda: torchext.unpatchify(NESTED, 2, 2),
    "activations": lambda: torchext.cam_pool(NESTED, NESTED),
}


@pytest.mark.parametrize("name", TAKING_NESTED)
def test_errors_for_nested_tensors_name_the_argument(name: str) -> None:
    with pytest.raises(TypeError, match=f"^{name}: expected a dense tensor, got a nested one$"):
        TAKING_NESTED[name]()


OPTIONS: dict[str, Callable[[Any], Any]] = {
    "invalid": lambda value: torchext.one_hot(labels, 3, invalid=value),
    "padding_mode": lambda value: torchext.unfold(torch.ones(1, 1, 4, 4), 2, padding_mode=value),
    "partial": lambda value: torchext.extract_windows(torch.ones(1, 1, 4, 4), 2, partial=value),
    "token_order": lambda value: torchext.patchify(torch.ones(1, 1, 4, 4), 2, token_order=value),
    "method": lambda value: torchext.cam_pool(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 4, 4), method=value),
    "normalize": lambda value: torchext.confusion_matrix(labels, labels, 3, normalize=value),
    "blend": lambda value: torchext.overlay(torch.ones(1, 3, 4, 4), torch.ones(1, 4, 4), blend=value),
    "kind": lambda value: torchext.window_weight(3, value),
    "probability": lambda value: torchext.metrics.average_drop(
        classifier(), torch.ones(1, 3, 8, 8), scores, probability=value
    ),
}


@pytest.mark.parametrize(
    "value", [np.zeros(2), torch.zeros(2), ["raise"], 1], ids=["array", "tensor", "list", "number"]
)
@pytest.mark.parametrize("name", OPTIONS)
def test_errors_for_options_that_are_not_strings_name_the_argument(name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{name}: expected "):
        OPTIONS[name](value)


def test_errors_for_windows_that_do_not_fit_name_the_argument() -> None:
    with pytest.raises(ValueError, match=r"^windows: expected windows that fit into output_size"):
        torchext.merge_windows(torch.ones(1, 1, 1, 2), 1, (1,))


def test_references_take_labels_on_meta() -> None:
    assert torchext.reference.one_hot(labels.to("meta"), 3).shape == (2, 3)
    assert torchext.reference.multi_hot(labels.to("meta"), 3).shape == (3,)
