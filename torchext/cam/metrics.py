"""Measures of the quality of maps, computed from the model's probabilities for masked images.

All of them run the model in batches, without gradients and in its current mode, and restore its state. They warn if the
model is in training mode. By default, probabilities are the softmax of the scores, or the sigmoid of a single score.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchext._core import checks
from torchext.cam.inputs import check_unit_range, warn_in_training_mode
from torchext.cam.probe import describe, undisturbed
from torchext.cam.targets import class_scores, classes_of

__all__ = ["Curve", "average_drop", "average_increase", "deletion_curve", "insertion_curve"]

_Classes = int | Sequence[int] | Tensor | None
Probability = Literal["softmax", "sigmoid"] | Callable[[Tensor], Tensor]

# The blur of the baseline image in the experiments of the RISE paper.
_BLUR_SIZE, _BLUR_SIGMA = 11, 5.0


class Curve(NamedTuple):
    """Probability of the target as a function of the fraction of inserted or deleted pixels.

    Attributes:
        fractions: ``(steps + 1,)``, the fraction of the pixels that has changed, from 0 to 1.
        probabilities: ``(B, steps + 1)``, the probability of the target.
        area: ``(B,)``, the area under the curve, by the trapezoidal rule.
    """

    fractions: Tensor
    probabilities: Tensor
    area: Tensor


def average_drop(
    model: nn.Module, images: Tensor, cams: Tensor, targets: _Classes = None, *, batch_size: int = 32,
    probability: Probability = "softmax",
) -> Tensor:  # fmt: skip
    """Compute the mean relative decrease of the target's probability when images are multiplied by their maps.

    ``mean(max(0, Y - O) / Y)`` with the probability Y for the image and O for the image multiplied by its map
    (Chattopadhay et al., "Grad-CAM++", WACV 2018, where it is a percentage). Lower is better. The decrease of a
    probability of 0 is 0, and NaN in the scores passes through.

    Args:
        model: maps ``(B, C, H, W)`` to scores ``(B, classes)``.
        images: ``(B, C, H, W)``, the input of the model.
        cams: ``(B, H, W)``, in [0, 1], up to rounding errors.
        targets: None for each image's top class, an int for all, or ``(B,)``.
        batch_size: the number of images in each call of the model.
        probability: computes probabilities from scores. ``"softmax"`` is for mutually exclusive classes;
            if there is only one score, its probability is its sigmoid, since its softmax would always be 1.
            ``"sigmoid"``, of each score, is for models with independent labels. A function takes scores
            ``(N, classes)`` in float32 or float64 and returns probabilities of the same shape, such as
            ``lambda scores: scores`` for a model that returns probabilities.

    Returns:
        A scalar tensor between 0 and 1.

    Raises:
        TypeError: a wrong type or dtype.
        ValueError: a wrong shape, option or device, maps or probabilities outside [0, 1], or an output that is not
            scores.
        IndexError: a target outside of [0, classes).

    Examples:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4)).eval()
        >>> images = torch.randn(2, 3, 2, 2)
        >>> torchext.metrics.average_drop(model, images, torch.ones(2, 2, 2))
        tensor(0.)
    """
    _check(model, images, cams, probability)
    before, after = _before_and_after(model, images, cams, targets, batch_size, probability)
    # A probability may underflow to 0. Its decrease is 0.
    return ((before - after).clamp_min(0) / torch.where(before == 0, 1.0, before)).mean()


def average_increase(
    model: nn.Module, images: Tensor, cams: Tensor, targets: _Classes = None, *, batch_size: int = 32,
    probability: Probability = "softmax",
) -> Tensor:  # fmt: skip
    """Compute the fraction of images for which the target's probability increases when multiplied by their maps.

    ``mean(Y < O)`` with the probability Y for the image and O for the image multiplied by its map (Chattopadhay et
    al., "Grad-CAM++", WACV 2018, where it is a percentage). Higher is better. NaN in the scores passes through.
    Arguments and errors are those of `average_drop`.

    Returns:
        A scalar tensor between 0 and 1.

    Examples:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4)).eval()
        >>> torchext.metrics.average_increase(model, torch.randn(2, 3, 2, 2), torch.ones(2, 2, 2))
        tensor(0.)
    """
    _check(model, images, cams, probability)
    before, after = _before_and_after(model, images, cams, targets, batch_size, probability)
    return torch.where((before - after).isnan(), torch.nan, (before < after).to(before.dtype)).mean()


def insertion_curve(
    model: nn.Module, images: Tensor, cams: Tensor, targets: _Classes = None, *, steps: int = 32,
    baseline: Tensor | float | None = None, batch_size: int = 32, probability: Probability = "softmax",
) -> Curve:  # fmt: skip
    """Compute the target's probability as pixels are inserted into a baseline, those with the highest map value first.

    Petsiuk et al., "RISE", BMVC 2018. A larger area is better. Arguments, errors and result are those of
    `deletion_curve`, except for `baseline`.

    Args:
        baseline: the image into which pixels are inserted, a number or a tensor that broadcasts to `images`; None is
            the image blurred by a Gaussian (11×11, σ = 5).

    Examples:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 4)).eval()
        >>> curve = torchext.metrics.insertion_curve(model, torch.randn(2, 3, 4, 4), torch.rand(2, 4, 4), steps=4)
        >>> curve.fractions
        tensor([0.0000, 0.2500, 0.5000, 0.7500, 1.0000])
    """
    _check(model, images, cams, probability)
    baseline = _blurred(images) if baseline is None else baseline
    return _curve(model, images, cams, targets, steps, baseline, batch_size, probability, True)


def deletion_curve(
    model: nn.Module, images: Tensor, cams: Tensor, targets: _Classes = None, *, steps: int = 32,
    baseline: Tensor | float | None = None, batch_size: int = 32, probability: Probability = "softmax",
) -> Curve:  # fmt: skip
    """Compute the target's probability as pixels are deleted, those with the highest map value first.

    Petsiuk et al., "RISE", BMVC 2018. A smaller area is better.

    Args:
        model: maps ``(B, C, H, W)`` to scores ``(B, classes)``.
        images: ``(B, C, H, W)``, the input of the model.
        cams: ``(B, H, W)``; only the order of the values is used. Pixels with equal values are changed in row-major
            order, so the curve of a constant map says nothing about the model.
        targets: None for each image's top class, an int for all, or ``(B,)``.
        steps: the number of equal parts in which the pixels are changed.
        baseline: the values of deleted pixels, a number or a tensor that broadcasts to `images`; None is 0.
        batch_size: the number of images in each call of the model.
        probability: as in `average_drop`.

    Returns:
        A `Curve` with ``probabilities (B, steps + 1)`` and ``area (B,)``.

    Raises:
        TypeError: a wrong type or dtype.
        ValueError: a wrong shape, number, option or device, maps with NaN, probabilities outside [0, 1], or an output
            that is not scores.
        IndexError: a target outside of [0, classes).

    Examples:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 4)).eval()
        >>> curve = torchext.metrics.deletion_curve(model, torch.randn(2, 3, 4, 4), torch.rand(2, 4, 4), steps=8)
        >>> curve.probabilities.shape, curve.area.shape
        (torch.Size([2, 9]), torch.Size([2]))
    """
    _check(model, images, cams, probability)
    baseline = 0.0 if baseline is None else baseline
    return _curve(model, images, cams, targets, steps, baseline, batch_size, probability, False)


def _check(model: nn.Module, images: Tensor, cams: Tensor, probability: Probability) -> None:
    """Check the arguments of all metrics, which call it directly: the warning is reported for the caller's caller."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    checks.floats("images", images)
    checks.floats("cams", cams)
    if images.dim() != 4 or 0 in images.shape:
        raise ValueError(f"images: expected (B, C, H, W), got {tuple(images.shape)}")
    expected = (images.shape[0], *images.shape[2:])
    if cams.shape != expected:
        raise ValueError(f"cams: expected {expected} as of images, got {tuple(cams.shape)}")
    if cams.device != images.device:
        raise ValueError(f"cams: expected device {images.device} as of images, got {cams.device}")
    if not callable(probability):
        checks.option("probability", probability, ("softmax", "sigmoid"))
    warn_in_training_mode(model, stacklevel=3)


def _check_batch_size(batch_size: int) -> None:
    if checks.integer("batch_size", batch_size) < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")


def _scores(model: nn.Module, count: int, batch_size: int, images_of: Callable[[Tensor], Tensor]) -> Tensor:
    """The scores of `count` images, each batch of which ``images_of(indices)`` computes."""
    return torch.cat([class_scores(model(images_of(indices))) for indices in torch.arange(count).split(batch_size)])


def class_probabilities(scores: Tensor, probability: Probability) -> Tensor:
    """The probabilities of scores ``(N, classes)``, in at least float32."""
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if callable(probability):
        values = probability(scores)
        if not isinstance(values, Tensor) or not values.is_floating_point() or values.shape != scores.shape:
            expected = f"a function that returns floats of shape {tuple(scores.shape)}"
            raise ValueError(f"probability: expected {expected}, got {describe(values)}")
        known = torch.where(values.isnan(), 0.0, values)
        check_unit_range("probability", known, "those of scores are their softmax or sigmoid")
        return values
    # The softmax of a single score is 1 for every score.
    return scores.sigmoid() if probability == "sigmoid" or scores.shape[1] == 1 else scores.softmax(1)


def _of_targets(scores: Tensor, classes: Tensor, probability: Probability) -> Tensor:
    return class_probabilities(scores, probability).gather(1, classes[:, None])[:, 0]


def _one_per_sample(targets: _Classes, scores: Tensor) -> Tensor:
    classes = classes_of(targets, scores, "an int, or one for each sample")
    if classes.dim() != 1:
        raise ValueError(f"targets: expected a class or one for each sample, got shape {tuple(classes.shape)}")
    return classes


def _before_and_after(
    model: nn.Module, images: Tensor, cams: Tensor, targets: _Classes, batch_size: int, probability: Probability
) -> tuple[Tensor, Tensor]:
    """The target's probability for the images, and for the images multiplied by their maps."""
    _check_batch_size(batch_size)
    check_unit_range("cams", cams.detach(), 'CAM(…, normalize="minmax") returns such maps')
    masks = cams.to(images.dtype).unsqueeze(1)
    with undisturbed(model, images), torch.no_grad():
        scores = _scores(model, len(images), batch_size, lambda indices: images[indices])
        classes = _one_per_sample(targets, scores)
        masked_scores = _scores(model, len(images), batch_size, lambda indices: images[indices] * masks[indices])
        return _of_targets(scores, classes, probability), _of_targets(masked_scores, classes, probability)


def _curve(
    model: nn.Module, images: Tensor, cams: Tensor, targets: _Classes, steps: int, baseline: Tensor | float,
    batch_size: int, probability: Probability, inserts: bool,
) -> Curve:  # fmt: skip
    _check_batch_size(batch_size)
    if checks.integer("steps", steps) < 1:
        raise ValueError(f"steps: expected at least 1, got {steps}")
    if steps > 2**32:  # the product with the number of pixels has to fit 64 bits
        raise ValueError(f"steps: expected at most {2**32}, got {steps}")
    if cams.isnan().any():  # the order of NaN is that of the largest value
        raise ValueError("cams: expected values with an order, got NaN")
    other = _checked_baseline(baseline, images)
    begin, end = (other, images) if inserts else (images, other)
    batch, positions = len(images), cams[0].numel()
    order = cams.flatten(1).sort(dim=1, descending=True, stable=True).indices
    # The rank of each position by its map value: 0 for the highest.
    ranks = torch.empty_like(order).scatter_(1, order, torch.arange(positions, device=order.device).expand_as(order))
    ranks = ranks.view(batch, 1, *images.shape[2:])
    changed = torch.arange(steps + 1, device=images.device) * positions // steps

    def images_of(indices: Tensor) -> Tensor:
        sample, step = indices // (steps + 1), indices % (steps + 1)
        return torch.where(ranks[sample] < changed[step].view(-1, 1, 1, 1), end[sample], begin[sample])

    with undisturbed(model, images), torch.no_grad():
        if targets is None:
            targets = _scores(model, batch, batch_size, lambda indices: images[indices]).argmax(1)
        scores = _scores(model, batch * (steps + 1), batch_size, images_of)
        classes = _one_per_sample(targets, scores[:: steps + 1]).repeat_interleave(steps + 1)
        probabilities = _of_targets(scores, classes, probability).view(batch, steps + 1)
    fractions = (changed / positions).to(probabilities.dtype)
    return Curve(fractions, probabilities, torch.trapezoid(probabilities, fractions, dim=1))


def _checked_baseline(baseline: Tensor | float, images: Tensor) -> Tensor:
    """Return the baseline as a tensor in the shape, dtype and device of the images."""
    if isinstance(baseline, Tensor):
        checks.tensor("baseline", baseline)
        if baseline.is_complex():
            raise TypeError(f"baseline: expected a real dtype, got {baseline.dtype}")
    else:
        baseline = checks.holds("baseline", checks.number("baseline", baseline, "a number or a tensor"), images.dtype)
    other = torch.as_tensor(baseline, dtype=images.dtype, device=images.device)
    try:
        return other.expand_as(images)
    except RuntimeError:
        expected = f"a number or a tensor that broadcasts to {tuple(images.shape)}"
        raise ValueError(f"baseline: expected {expected}, got {tuple(other.shape)}") from None


def _blurred(images: Tensor) -> Tensor:
    positions = torch.arange(_BLUR_SIZE, device=images.device) - _BLUR_SIZE // 2
    kernel = torch.exp(-(positions**2) / (2 * _BLUR_SIGMA**2)).to(images.dtype)
    kernel = kernel / kernel.sum()
    channels, margin = images.shape[1], _BLUR_SIZE // 2
    padded = F.pad(images, (margin,) * 4, mode="replicate")
    rows = F.conv2d(padded, kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    return F.conv2d(rows, kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
