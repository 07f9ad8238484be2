"""Tests of class_overlap and DiceLoss beyond the conformance table."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import torchext
from tests.conformance.table import LABELS
from tests.onehot.class_overlap.cases import overlap_of_scores

ACTIVATIONS = (None, "softmax", "sigmoid")


def _scores_and_labels(*shape: int) -> tuple[Tensor, Tensor]:
    return torch.randn(shape, dtype=torch.float64), torch.randint(shape[1], (shape[0], *shape[2:]))


def test_counts_of_a_perfect_prediction() -> None:
    _, labels = _scores_and_labels(3, 6, 50)
    overlap = torchext.class_overlap(torchext.one_hot(labels, 6, dim=1), labels)
    assert torch.equal(overlap.intersection, overlap.total)
    assert torch.equal(overlap.intersection, overlap.support.float())
    assert overlap.support.sum() == labels.numel()


def test_the_support_has_no_derivative() -> None:
    scores, labels = _scores_and_labels(2, 3, 5)
    overlap = torchext.class_overlap(scores.requires_grad_(), labels)
    assert [out.requires_grad for out in overlap] == [True, True, False]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")], ids=str)
def test_scores_at_ignored_labels_may_be_nan_or_infinite(activation: Any, bad: float) -> None:
    scores, labels = _scores_and_labels(2, 4, 37)
    labels[:, 5:9] = 255
    spoilt = scores.clone()
    spoilt[:, 1, 5:9] = bad
    results = []
    for values in (scores, spoilt):
        leaf = values.requires_grad_()
        sums = overlap_of_scores(leaf, labels, activation=activation, squared=True, ignore_index=255)
        (gradient,) = torch.autograd.grad((sums[0] * sums[1]).sum(), leaf, create_graph=True)
        (second,) = torch.autograd.grad((gradient**2).sum(), leaf)
        tangent = torch.func.jvp(
            lambda x: overlap_of_scores(x, labels, activation=activation, squared=True, ignore_index=255)[:2],
            (values.detach(),),
            (values.detach(),),
        )[1]
        results.append((*sums, gradient, second, *tangent))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
    assert not results[0][3][:, :, 5:9].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_softmax_handles_infinite_scores_like_pytorch(dtype: torch.dtype) -> None:
    scores = torch.randn(1, 4, 21).to(dtype)
    scores[0, 2, ::2] = float("-inf")
    scores[0, 0, 3] = 1e4
    labels = torch.randint(4, (1, 21))
    expected = torchext.class_overlap(scores.to(torch.float64).softmax(1), labels)
    actual = overlap_of_scores(scores, labels, activation="softmax")
    torch.testing.assert_close(actual, expected, check_dtype=False, rtol=1e-5, atol=1e-5)
    scores[0, :, 7] = float("-inf")  # no class has a finite score
    assert overlap_of_scores(scores, labels, activation="softmax").total.isnan().all()


def test_large_sums_of_half_precision_stay_finite() -> None:
    probs = torch.ones(1, 2, 300, 300, dtype=torch.float16)
    overlap = torchext.class_overlap(probs, torch.zeros(1, 300, 300, dtype=torch.uint8))
    assert overlap.total.tolist() == [[90000.0, 90000.0]]
    assert overlap.intersection.tolist() == [[90000.0, 0.0]]


@pytest.mark.parametrize("classes", [256, 300, 5000])
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_many_classes(classes: int, dim: int) -> None:
    probs = torch.rand(2, 41, classes, dtype=torch.float64).movedim(-1, dim)
    labels = torch.randint(classes, (2, 41), dtype=torch.int32)
    hot = F.one_hot(labels.long(), classes).movedim(-1, dim)
    places = [d for d in range(3) if d != dim % 3 and (d > 0 or dim == 0)]
    actual = torchext.class_overlap(probs, labels, dim=dim)
    torch.testing.assert_close(actual, ((probs * hot).sum(places), probs.sum(places), hot.sum(places)))


@pytest.mark.parametrize("dtype", [dtype for dtype in LABELS if dtype != torch.bool], ids=str)
def test_finds_bad_labels_of_every_dtype(dtype: torch.dtype) -> None:
    labels = torch.zeros(2, 9, 500, dtype=torch.int64)
    labels[1, 3, 7], labels[1, 8] = 21, 22
    for dim in (0, 1, 3):
        shape = [2, 9, 500]
        shape.insert(dim, 21)
        with pytest.raises(IndexError) as error:
            torchext.class_overlap(torch.zeros(shape), labels.to(dtype), dim=dim)
        assert str(error.value) == "label 21 at position (1, 3, 7) is outside [0, 21)"


def test_bad_labels_raise_on_every_path() -> None:
    scores, labels = _scores_and_labels(2, 3, 8)
    labels[1, 4] = 7
    message = r"label 7 at position \(1, 4\) is outside \[0, 3\)"
    paths = {
        "eager": torchext.class_overlap,
        "reference": torchext.reference.class_overlap,
        "compiled": torch.compile(lambda s, y: tuple(torchext.class_overlap(s, y)), fullgraph=True),
        "vmapped": torch.vmap(lambda s, y: tuple(torchext.class_overlap(s, y, dim=0))),
    }
    for call in paths.values():
        with pytest.raises(IndexError, match=message):
            call(scores, labels)
    with pytest.raises(IndexError, match=message):
        torchext.class_overlap(scores.requires_grad_(), labels)
    kept = torchext.class_overlap(scores, labels, invalid="zero")
    torch.testing.assert_close(kept, torchext.class_overlap(scores, labels, ignore_index=7))
    zero = torch.compile(lambda s, y: tuple(torchext.class_overlap(s, y, invalid="zero")), fullgraph=True)
    torch.testing.assert_close(zero(scores, labels), tuple(kept))


def dice_by_hand(scores: Tensor, labels: Tensor, **options: Any) -> Tensor:
    probs = scores.softmax(1) if options.get("softmax") else scores.sigmoid()
    hot = F.one_hot(labels.long(), scores.shape[1]).movedim(-1, 1)
    places = tuple(range(2, scores.dim()))
    intersection, total = (probs * hot).sum(places), (probs + hot).sum(places)
    return (1 - (2 * intersection + 1e-5) / (total + 1e-5)).mean()


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("shape", [(2, 5, 9), (2, 5, 6, 7), (2, 5, 4, 5, 6)], ids=str)
def test_dice_loss_equals_the_formula_for_both_shapes_of_targets(activation: str, shape: tuple[int, ...]) -> None:
    scores, labels = _scores_and_labels(*shape)
    loss = torchext.nn.DiceLoss(**{activation: True})
    for target in (labels, labels.unsqueeze(1), labels.to(torch.uint8)):
        torch.testing.assert_close(loss(scores, target), dice_by_hand(scores, labels, **{activation: True}))
    compiled = torch.compile(loss, fullgraph=True)
    torch.testing.assert_close(compiled(scores, labels), loss(scores, labels))
    assert torch.autograd.gradcheck(loss, (scores.requires_grad_(), labels), check_forward_ad=True, fast_mode=True)


def test_dice_loss_of_a_perfect_prediction_is_zero_and_ignores_the_border() -> None:
    scores, labels = _scores_and_labels(2, 3, 20)
    perfect = torchext.one_hot(labels, 3, dim=1) * 200 - 100
    assert torchext.nn.DiceLoss(softmax=True)(perfect, labels) < 1e-6
    labels[:, :5] = 255
    kept = torchext.nn.DiceLoss(softmax=True)(scores[:, :, 5:], labels[:, 5:])
    torch.testing.assert_close(torchext.nn.DiceLoss(softmax=True, ignore_index=255)(scores, labels), kept)


def test_dice_loss_of_one_channel_is_the_loss_of_the_foreground() -> None:
    scores, labels = torch.randn(2, 1, 30), torch.randint(2, (2, 30))
    probs = scores.sigmoid()[:, 0]
    expected = 1 - (2 * (probs * labels).sum(1) + 1e-5) / (probs.sum(1) + labels.sum(1) + 1e-5)
    torch.testing.assert_close(torchext.nn.DiceLoss(sigmoid=True)(scores, labels), expected.mean())


def test_dice_loss_with_wrong_arguments_raises() -> None:
    scores, labels = torch.randn(2, 3, 8), torch.zeros(2, 8, dtype=torch.int64)
    loss = torchext.nn.DiceLoss(softmax=True)
    for error, message, call in (
        (ValueError, "at most one", lambda: torchext.nn.DiceLoss(softmax=True, sigmoid=True)),
        (ValueError, "reduction: expected one of", lambda: torchext.nn.DiceLoss(reduction="max")),
        (ValueError, "weight: expected finite numbers of at least 0", lambda: torchext.nn.DiceLoss(weight=[1.0, -1.0])),
        (ValueError, "weight: .* 3 of them, got 2", lambda: torchext.nn.DiceLoss(weight=[1.0, 1.0])(scores, labels)),
        (ValueError, r"target: expected shape \(2, 8\)", lambda: loss(scores, labels[:1])),
        (ValueError, "at least 2 channels", lambda: loss(scores[:, :1], labels)),
        (ValueError, r"input: expected shape \(N, C", lambda: loss(scores[0, 0], labels)),
        (TypeError, "target: .*got torch.float32", lambda: loss(scores, labels.float())),
        (TypeError, "input: .*got torch.int64", lambda: loss(labels, labels)),
        (IndexError, "label 3 at position", lambda: loss(scores, labels + 3)),
    ):
        with pytest.raises(error, match=message):
            call()


def test_the_constructor_of_dice_loss_checks_options() -> None:
    nan = float("nan")
    wrong: tuple[tuple[type[Exception], str, dict[str, Any]], ...] = (
        (ValueError, "invalid: expected one of", {"invalid": "ignore"}),
        (TypeError, "ignore_index: expected an int", {"ignore_index": 1.5}),
        (TypeError, "smooth_nr: expected a number", {"smooth_nr": None}),
        (ValueError, "smooth_nr: expected a finite number", {"smooth_nr": nan}),
        (ValueError, "smooth_dr: expected a finite number", {"smooth_dr": -1.0}),
        (TypeError, "sigmoid: expected a bool, got int", {"sigmoid": 1}),
        (TypeError, "softmax: expected a bool, got str", {"softmax": "yes"}),
        (TypeError, "batch: expected a bool", {"batch": None}),
        (ValueError, "weight: expected finite numbers", {"weight": [1.0, nan]}),
        (ValueError, "weight: expected finite numbers", {"weight": torch.tensor([float("inf")])}),
        (TypeError, "weight: expected a float or integer dtype", {"weight": torch.ones(2, dtype=torch.complex64)}),
        (TypeError, "weight: expected a number or numbers", {"weight": "heavy"}),
        (ValueError, "weight: expected one number or one for each class", {"weight": [[1.0]]}),
    )
    for error, message, options in wrong:
        with pytest.raises(error, match=message):
            torchext.nn.DiceLoss(**options)


def test_dice_loss_can_be_created_on_meta() -> None:
    with torch.device("meta"):
        loss = torchext.nn.DiceLoss(softmax=True, weight=[1.0, 2.0])
        with pytest.raises(ValueError, match="weight: expected finite"):
            torchext.nn.DiceLoss(weight=[-1.0])
    assert loss.weight is not None
    assert loss.weight.is_meta
    assert "weight" in repr(loss)


def test_repr_of_dice_loss_shows_options_that_are_not_default() -> None:
    assert repr(torchext.nn.DiceLoss()) == "DiceLoss()"
    loss = torchext.nn.DiceLoss(sigmoid=True, smooth_dr=1, batch=True, weight=[1.0, 0.5], ignore_index=255)
    assert repr(loss) == "DiceLoss(sigmoid=True, smooth_dr=1.0, batch=True, weight=[1.0, 0.5], ignore_index=255)"


def test_the_constructor_of_one_hot_checks_options() -> None:
    wrong: tuple[tuple[type[Exception], str, dict[str, Any]], ...] = (
        (ValueError, "num_classes: expected -1 or", {"num_classes": -2}),
        (TypeError, "num_classes: expected an int", {"num_classes": 2.0}),
        (TypeError, "dim: expected an int", {"dim": "rows"}),
        (TypeError, "dtype: expected a torch.dtype", {"dtype": float}),
        (ValueError, "on_value: torch.uint8 cannot hold 256", {"dtype": torch.uint8, "on_value": 256}),
        (ValueError, "label_smoothing: expected a number in", {"label_smoothing": 1.5}),
        (TypeError, "ignore_index: expected an int", {"ignore_index": "no"}),
        (ValueError, "invalid: expected one of", {"invalid": "ignore"}),
    )
    for error, message, options in wrong:
        with pytest.raises(error, match=message):
            torchext.nn.OneHot(**{"num_classes": 3, **options})


def test_modules_equal_their_functions() -> None:
    labels, image = torch.randint(5, (4, 6)), torch.randn(2, 3, 8, 8)
    module = torchext.nn.OneHot(5, dim=1, label_smoothing=0.1)
    assert torch.equal(module(labels), torchext.one_hot(labels, 5, dim=1, label_smoothing=0.1))
    assert "num_classes=5, dim=1" in repr(module)
    unfold, fold = torchext.nn.Unfold(2, stride=2), torchext.nn.Fold(8, 2, stride=2)
    assert torch.equal(unfold(image), torch.nn.Unfold(2, stride=2)(image))
    assert torch.equal(fold(unfold(image)), image)


def test_modules_print_only_the_options_that_differ_from_the_defaults() -> None:
    assert repr(torchext.nn.OneHot(5)) == "OneHot(num_classes=5)"
    assert repr(torchext.nn.Unfold(3, padding=1)) == "Unfold(kernel_size=3, padding=1)"
    assert repr(torchext.nn.Fold(8, 2, stride=(2, 1))) == "Fold(output_size=8, kernel_size=2, stride=(2, 1))"
    patchify = torchext.nn.Patchify(16, mean=(0.5, 0.4, 0.3), std=0.5)
    assert repr(patchify) == "Patchify(size=16, mean=(0.5, 0.4, 0.3), std=0.5)"
    weighted = torchext.nn.SlidingWindow(torch.nn.ReLU(), 2, weight=torch.ones(2), overlap=0)
    assert repr(weighted).splitlines()[1].strip() == "size=2, overlap=0, weight=[1.0, 1.0]"
