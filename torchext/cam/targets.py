"""The targets that a map explains: scores of classes, or scores that a function computes from the model's output."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from torchext._core import checks
from torchext.cam.probe import describe

Scorer = Callable[[Any], Tensor]
Targets = int | Sequence[int] | Sequence[Sequence[int]] | Tensor | Scorer | None


class Chosen:
    """The targets of one batch.

    Attributes:
        named: the targets for the caller: classes ``(B,)`` or ``(B, T)``, or the function.
        several: whether maps have a leading dimension of targets.
        scores: the scores ``(T, B)`` of the batch.
    """

    def __init__(self, targets: Targets, output: Any, batch: int) -> None:
        self._classes: Tensor | None = None
        self._function: Scorer | None = None
        self.named: Tensor | Scorer
        if callable(targets) and not isinstance(targets, Tensor):
            self.named = self._function = targets
            scores = _scores_of(targets, output, batch)
            self.several, self.scores = scores.dim() == 2, torch.atleast_2d(scores)
            return
        values = class_scores(output)
        self.named = classes_of(targets, values)
        self.several = self.named.dim() == 2
        self._classes = self.named.view(len(values), -1)
        self.scores = values.gather(1, self._classes).T

    def scores_of(self, output: Any, samples: Tensor) -> Tensor:
        """The scores ``(T, K)`` of the same targets in the output for K variants, whose samples are ``(K,)``."""
        if self._classes is None:
            assert self._function is not None
            scores: Tensor = torch.atleast_2d(_scores_of(self._function, output, len(samples)))
            return scores
        return class_scores(output).gather(1, self._classes[samples]).T


def class_scores(output: Any) -> Tensor:
    """The output as scores ``(B, classes)``; of a mapping or an object with ``logits``, these."""
    if isinstance(output, Mapping) and "logits" in output:
        output = output["logits"]
    scores = getattr(output, "logits", output)
    if not isinstance(scores, Tensor) or scores.dim() != 2 or not scores.is_floating_point():
        raise ValueError(
            f"model: expected float scores (B, classes), got {describe(scores)}; "
            "for other outputs, targets may be a function that returns scores (B,)"
        )
    return scores


def _scores_of(function: Scorer, output: Any, batch: int) -> Tensor:
    """The function's scores, ``(B,)`` or ``(T, B)``, checked against the batch size of the input."""
    scores = function(output)
    if not isinstance(scores, Tensor) or not scores.is_floating_point():
        raise TypeError(f"targets: expected a function that returns a float tensor, got {describe(scores)}")
    if scores.dim() == 0 and batch == 1:
        scores = scores.unsqueeze(0)
    if scores.dim() not in (1, 2) or scores.shape[-1] != batch or len(scores) == 0:
        raise ValueError(
            f"targets: expected a function that returns scores ({batch},) or (T, {batch}), got {tuple(scores.shape)}"
        )
    return scores


def classes_of(
    targets: Any, scores: Tensor, expected: str = "an int, one or several for each sample, or a function"
) -> Tensor:
    """The argument `targets` as int64 classes ``(B,)`` or ``(B, T)``, for scores ``(B, classes)``."""
    batch, num_classes = scores.shape
    if targets is None:
        if num_classes == 0:
            raise ValueError("model: expected scores (B, classes), got no classes")
        return scores.detach().argmax(1)
    if isinstance(targets, (list, tuple)):
        targets = [row.tolist() if isinstance(row, Tensor) else row for row in targets]
        lengths = sorted({len(row) if isinstance(row, (list, tuple)) else -1 for row in targets})
        if len(lengths) > 1:
            raise ValueError(f"targets: expected the same number for each sample, got a ragged list {targets!r}")
        if lengths in ([], [0]):
            raise ValueError(f"targets: expected a class or {batch} of them, got {targets!r}")
    try:
        classes = torch.as_tensor(targets, device=scores.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"targets: expected {expected}, got {targets!r}") from error
    if classes.dtype == torch.bool or classes.is_floating_point():  # True does not mean class 1
        raise TypeError(f"targets: expected an integer dtype, got {classes.dtype}")
    checks.labels("targets", classes)
    classes = classes.to(torch.int64)
    if classes.dim() == 0:
        classes = classes.expand(batch)
    if classes.dim() > 2 or classes.shape[0] != batch or classes.shape[1:] == (0,):
        raise ValueError(f"targets: expected a class or {batch} of them, got shape {tuple(classes.shape)}")
    bad = (classes < 0) | (classes >= num_classes)
    if bool(bad.any()):
        raise IndexError(f"targets: expected classes in [0, {num_classes}), got {classes[bad].tolist()}")
    return classes
