"""Weights of channels without gradients: from principal components, masked inputs or ablated channels."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from torchext._core.dtypes import accumulation_dtype
from torchext._core.progress import with_progress
from torchext.cam.layout import Explained
from torchext.cam.methods import interpolated, on_the_input
from torchext.cam.probe import Subject, hooked, kept_attributes
from torchext.cam.targets import Chosen

_Runner = Callable[[Tensor, int, Tensor], Tensor]


def principal_weights(maps: Tensor) -> Tensor:
    """The weights ``(B, C)`` of Eigen-CAM: the first principal component of maps ``(B, C, *S)`` over their channels.

    For the matrix A of positions and channels with A = U Σ Vᵀ, it is the first column of V. The weights of a sample
    with NaN or infinity are NaN.
    """
    flat = maps.flatten(2).to(accumulation_dtype(maps.dtype))
    finite = flat.isfinite().all(2).all(1)
    flat = torch.where(finite[:, None, None], flat, 0.0)
    if flat.shape[1] <= flat.shape[2]:
        weights = torch.linalg.eigh(flat @ flat.mT).eigenvectors[..., -1]
    else:
        positions = torch.linalg.eigh(flat.mT @ flat).eigenvectors[..., -1:]
        weights = F.normalize((flat @ positions).squeeze(-1))
    # The sign of the component is arbitrary: it is chosen so that the sum of the map is positive.
    total = (weights * flat.sum(2)).sum(1, keepdim=True)
    return torch.where(finite[:, None], torch.where(total < 0, -weights, weights), torch.nan)


def score_weights(
    subject: Subject, layer: Explained, input: Tensor, chosen: Chosen, batch_size: int, progress: bool
) -> Tensor:
    """The weights ``(T, B, C)`` of Score-CAM: the softmax over channels of the scores for the masked inputs.

    The mask of a channel is its resized map, scaled to [0, 1]. The score of a baseline image, which the paper subtracts
    from each score, cancels in the softmax. If all channels are constant, all weights are 0. If a score is NaN, all
    weights of its sample and target are NaN.
    """
    maps, axes = layer.maps, sorted(layer.layout.axes or ())
    if not axes:
        raise ValueError(
            f"method: expected one without masks, since it is not known which dimensions of the input "
            f"{tuple(input.shape)} the maps {layer.layout.size} belong to, got 'scorecam'"
        )
    batch, channels = maps.shape[:2]
    spatial = [input.shape[axis] for axis in axes]
    shape = [-1, *(size if axis in axes else 1 for axis, size in enumerate(input.shape[1:], 1))]
    samples = torch.arange(batch, device=maps.device).repeat_interleave(channels)
    rows = maps.flatten(0, 1).to(accumulation_dtype(maps.dtype))
    scores = []
    chunks = list(zip(rows.split(batch_size), samples.split(batch_size), strict=True))
    for masks, sample in with_progress(chunks, "Score-CAM", progress):
        masks, covered = masks.unsqueeze(1), layer.layout.covered
        masks = interpolated(masks, spatial) if covered is None else on_the_input(masks, covered, spatial)
        low = masks.flatten(1).amin(1).view(-1, 1, *(1,) * len(spatial))
        span = masks.flatten(1).amax(1).view_as(low) - low
        masked = _masked(input[sample], ((masks - low) / torch.where(span == 0, 1.0, span)).reshape(shape))
        score = chosen.scores_of(subject(masked), sample).to(masks.dtype)
        # A constant map has the weight 0.
        scores.append(torch.where(span.flatten() == 0, -torch.inf, score))
    channel_scores = torch.cat(scores, 1).unflatten(1, (batch, channels))
    all_constant = (channel_scores == -torch.inf).all(2, keepdim=True)
    return torch.where(all_constant, 0.0, channel_scores.softmax(2))


def _masked(input: Tensor, masks: Tensor) -> Tensor:
    """The input times masks in [0, 1], in the input's dtype. For integers the product is rounded, not the mask."""
    if input.is_floating_point() or input.is_complex():
        return input * masks.to(input.dtype)
    return (input * masks).round().to(input.dtype)


def ablation_weights(
    subject: Subject, layer: Explained, input: Tensor, chosen: Chosen, batch_size: int, progress: bool
) -> Tensor:
    """The weights ``(T, B, C)`` of Ablation-CAM: the relative decrease of the score when a channel is set to 0.

    The paper divides the decrease by the score, which would change the sign of the map for a negative score. Here it is
    divided by the score's absolute value.
    """
    batch, channels = layer.maps.shape[:2]
    scores = chosen.scores.detach()
    scores_without = _Ablation(subject, layer, chosen).scores
    runs = [(sample, chunk) for sample in range(batch) for chunk in torch.arange(channels).split(batch_size)]
    ablated = [scores_without(input, sample, chunk) for sample, chunk in with_progress(runs, "Ablation-CAM", progress)]
    decrease: Tensor = scores.unsqueeze(2) - torch.cat(ablated, 1).unflatten(1, (batch, channels))
    return decrease / torch.where(scores == 0, 1.0, scores.abs()).unsqueeze(2)


class _Ablation:
    """Runs variants of one sample, in each of which one channel of a layer's output is set to 0.

    There are three ways, and the first that works for the model is used:

    1. The model runs one sample, and the layer's output is repeated for the variants. This fails if the model combines
       that output with another tensor of batch size 1, or has stored the batch size.
    2. The computation after the layer is mapped over the variants by `torch.vmap`.
    3. The sample is repeated for the variants.
    """

    def __init__(self, subject: Subject, layer: Explained, chosen: Chosen) -> None:
        self._subject, self._layer, self._chosen = subject, layer, chosen
        self._runner: _Runner | None = None

    def scores(self, input: Tensor, sample: int, channels: Tensor) -> Tensor:
        """The scores ``(T, K)`` of one sample without each of K channels."""
        all_channels = torch.arange(self._layer.maps.shape[1], device=input.device)
        keep = (channels.to(input.device).unsqueeze(1) != all_channels).to(torch.get_default_dtype())
        if self._runner is None:
            self._runner = self._fastest_runner(input, keep)
        return self._runner(input, sample, keep)

    def _by_repeated_output(self, input: Tensor, sample: int, keep: Tensor) -> Tensor:
        return self._run(input[sample : sample + 1], sample, keep)

    def _by_mapping(self, input: Tensor, sample: int, keep: Tensor) -> Tensor:
        image = input[sample : sample + 1]
        mapped = torch.vmap(lambda mask: self._run(image, sample, mask.unsqueeze(0)), out_dims=1, randomness="same")
        with kept_attributes(self._subject.model):
            scores: Tensor = mapped(keep)
        return scores.squeeze(2)

    def _by_repeated_sample(self, input: Tensor, sample: int, keep: Tensor) -> Tensor:
        image = input[sample : sample + 1]
        return self._run(image.expand(len(keep), *image.shape[1:]), sample, keep)

    def _run(self, input: Tensor, sample: int, keep: Tensor) -> Tensor:
        calls = 0

        def multiply(index: int, output: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            if calls < self._layer.calls:  # only the last call is explained
                return output
            return output * self._layer.layout.channel_mask(keep.to(output.dtype), output)

        with hooked([self._layer.module], multiply):
            output = self._subject(input)
        return self._chosen.scores_of(output, torch.full((len(keep),), sample, device=input.device))

    def _fastest_runner(self, input: Tensor, keep: Tensor) -> _Runner:
        keep = keep[:1].expand(2, -1).contiguous()
        keep[1] = 1
        expected = self._by_repeated_sample(input, 0, keep)
        # Scores have to agree in half of the digits of the largest: the effect of one channel is small, and all scores
        # may be small.
        precision = max(torch.finfo(tensor.dtype).eps for tensor in (expected, self._layer.activations)) ** 0.5
        tolerance = precision * float(expected.abs().nan_to_num(0.0, posinf=0.0).amax())
        for runner in (self._by_repeated_output, self._by_mapping):
            try:
                scores = runner(input, 0, keep)
            except Exception:  # the model may raise any exception for an unexpected batch size
                continue
            if scores.shape != expected.shape:
                continue
            if torch.allclose(scores, expected, rtol=0.0, atol=tolerance, equal_nan=True):
                return runner
        return self._by_repeated_sample
