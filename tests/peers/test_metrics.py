"""confusion_matrix and class_overlap compared with scikit-learn and torchmetrics."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import confusion_matrix as by_sklearn
from sklearn.metrics import jaccard_score
from torchmetrics.functional.classification import multiclass_confusion_matrix as by_torchmetrics

import torchext


def _predicted_and_target(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(6, shape, generator=generator), torch.randint(5, shape, generator=generator)


@pytest.mark.parametrize("average", [None, "macro", "weighted"])
def test_intersection_over_union_equals_scikit_learn(average: str | None) -> None:
    predicted, target = _predicted_and_target(2000)
    sums = torchext.class_overlap(torchext.one_hot(predicted, 6, dim=0), target, dim=0)
    union = sums.total + sums.support - sums.intersection
    iou = sums.intersection / union
    if average == "macro":
        iou = iou.mean()
    elif average == "weighted":
        iou = (iou * sums.support).sum() / sums.support.sum()
    expected = jaccard_score(target.numpy(), predicted.numpy(), labels=range(6), average=average, zero_division=0)
    torch.testing.assert_close(iou, torch.as_tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize("normalize", [None, "true", "pred", "all"])
def test_confusion_matrix_equals_scikit_learn_and_torchmetrics(normalize: str | None) -> None:
    predicted, target = _predicted_and_target(4, 300)
    actual = torchext.confusion_matrix(predicted, target, 6, normalize=normalize)
    expected = by_sklearn(target.flatten().numpy(), predicted.flatten().numpy(), labels=range(6), normalize=normalize)
    torch.testing.assert_close(actual, torch.as_tensor(expected), check_dtype=False, rtol=1e-6, atol=1e-7)
    if normalize is None:
        assert torch.equal(actual, by_torchmetrics(predicted, target, 6))
    else:
        torch.testing.assert_close(actual, by_torchmetrics(predicted, target, 6, normalize), check_dtype=False)


def test_confusion_matrix_ignores_labels_like_torchmetrics() -> None:
    predicted, target = _predicted_and_target(4, 300)
    target[:, :40] = 255
    actual = torchext.confusion_matrix(predicted, target, 6, ignore_index=255)
    assert torch.equal(actual, by_torchmetrics(predicted, target, 6, ignore_index=255))
