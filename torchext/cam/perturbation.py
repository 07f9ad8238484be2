"""Weights of channels without gradients: what the scores become when a channel is all that is left, or is missing."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchext._core.dtypes import accumulation_dtype
from torchext._core.progress import with_progress
from torchext.cam.layers import Explained
from torchext.cam.methods import interpolated
from torchext.cam.probe import hooked, kept_attributes
from torchext.cam.targets import Chosen

_Way = Callable[[Tensor, int, Tensor], Tensor]


def principal_weights(maps: Tensor) -> Tensor:
    """The first principal component of maps ``(B, C, *S)`` in their channels, ``(B, C)``: Eigen-CAM.

    With A as a matrix of positions and channels, A = U Σ Vᵀ, it is the first column of V.
    """
    flat = maps.flatten(2).to(accumulation_dtype(maps.dtype))
    finite = flat.isfinite().all(2).all(1)
    flat = torch.where(finite[:, None, None], flat, 0.0)
    if flat.shape[1] <= flat.shape[2]:
        weights = torch.linalg.eigh(flat @ flat.mT).eigenvectors[..., -1]
    else:
        positions = torch.linalg.eigh(flat.mT @ flat).eigenvectors[..., -1:]
        weights = F.normalize((flat @ positions).squeeze(-1))
    # Of the component and its negative, the one whose map is positive on the whole.
    total = (weights * flat.sum(2)).sum(1, keepdim=True)
    return torch.where(finite[:, None], torch.where(total < 0, -weights, weights), torch.nan)


def score_weights(
    model: nn.Module, layer: Explained, input: Tensor, chosen: Chosen, batch_size: int, progress: bool
) -> Tensor:
    """``(T, B, C)``: the softmax over the channels of the scores for the input seen through each one's map: Score-CAM.

    The score of a reference image, which the paper subtracts from all of them, cancels in the softmax. Where no
    channel's score counts for anything, none has a weight; a score that is NaN makes all weights of its softmax NaN.
    """
    maps, spatial = layer.maps, input.shape[2:]
    batch, channels = maps.shape[:2]
    if len(spatial) != len(layer.layout.grid):
        raise ValueError(f"method: scorecam lays maps {layer.layout.grid} over the input, got {tuple(input.shape)}")
    samples = torch.arange(batch, device=maps.device).repeat_interleave(channels)
    rows = maps.flatten(0, 1).to(accumulation_dtype(maps.dtype))
    scores = []
    chunks = list(zip(rows.split(batch_size), samples.split(batch_size), strict=True))
    for masks, sample in with_progress(chunks, "Score-CAM", progress):
        masks = interpolated(masks.unsqueeze(1), spatial)
        low = masks.flatten(1).amin(1).view(-1, 1, *(1,) * len(spatial))
        span = masks.flatten(1).amax(1).view_as(low) - low
        seen = _seen_through(input[sample], (masks - low) / torch.where(span == 0, 1.0, span))
        score = chosen.scores_of(model(seen), sample).to(masks.dtype)
        # A map without contrast shows nothing.
        scores.append(torch.where(span.flatten() == 0, -torch.inf, score))
    of_channels = torch.cat(scores, 1).unflatten(1, (batch, channels))
    nothing = (of_channels == -torch.inf).all(2, keepdim=True)
    return torch.where(nothing, 0.0, of_channels.softmax(2))


def _seen_through(input: Tensor, masks: Tensor) -> Tensor:
    """The input times masks in [0, 1], in its own dtype: pixels of integers are rounded, the masks are not."""
    if input.is_floating_point() or input.is_complex():
        return input * masks.to(input.dtype)
    return (input * masks).round().to(input.dtype)


def ablation_weights(
    model: nn.Module, layer: Explained, input: Tensor, chosen: Chosen, batch_size: int, progress: bool
) -> Tensor:
    """``(T, B, C)``: by which part the score falls when a channel is set to 0: Ablation-CAM.

    The paper divides the fall by the score, which would turn the map of a negative score over; here it is divided by
    the score's absolute value.
    """
    batch, channels = layer.maps.shape[:2]
    scores = chosen.scores.detach()
    scores_without = _Ablation(model, layer, chosen).scores
    runs = [(sample, some) for sample in range(batch) for some in torch.arange(channels).split(batch_size)]
    left = [scores_without(input, sample, some) for sample, some in with_progress(runs, "Ablation-CAM", progress)]
    falls: Tensor = scores.unsqueeze(2) - torch.cat(left, 1).unflatten(1, (batch, channels))
    return falls / torch.where(scores == 0, 1.0, scores.abs()).unsqueeze(2)


class _Ablation:
    """Runs one sample with channels of a layer's output left out, each in a variant of its own.

    What comes before the layer is the same for all variants: the sample runs through it once, and the layer's output is
    repeated. That fails where the model joins that output with something else of the sample's size, or has kept that
    size; then all that follows from the layer is mapped over the variants. Where the model cannot be mapped either, the
    sample itself is repeated.
    """

    def __init__(self, model: nn.Module, layer: Explained, chosen: Chosen) -> None:
        self._model, self._layer, self._chosen = model, layer, chosen
        self._way: _Way | None = None

    def scores(self, input: Tensor, sample: int, channels: Tensor) -> Tensor:
        """``(T, K)`` for one of the samples without each of K channels."""
        every_channel = torch.arange(self._layer.maps.shape[1], device=input.device)
        keep = (channels.to(input.device).unsqueeze(1) != every_channel).to(torch.get_default_dtype())
        if self._way is None:
            self._way = self._fastest_way(input, keep)
        return self._way(input, sample, keep)

    def _by_repeated_output(self, input: Tensor, sample: int, keep: Tensor) -> Tensor:
        return self._run(input[sample : sample + 1], sample, keep)

    def _by_mapping(self, input: Tensor, sample: int, keep: Tensor) -> Tensor:
        one = input[sample : sample + 1]
        each = torch.vmap(lambda mask: self._run(one, sample, mask.unsqueeze(0)), out_dims=1, randomness="same")
        with kept_attributes(self._model):
            scores: Tensor = each(keep)
        return scores.squeeze(2)

    def _by_repeated_sample(self, input: Tensor, sample: int, keep: Tensor) -> Tensor:
        one = input[sample : sample + 1]
        return self._run(one.expand(len(keep), *one.shape[1:]), sample, keep)

    def _run(self, input: Tensor, sample: int, keep: Tensor) -> Tensor:
        calls = 0

        def multiply(index: int, output: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            if calls < self._layer.calls:  # of several calls, the last is explained
                return output
            return output * self._layer.layout.channel_mask(keep.to(output.dtype))

        with hooked([self._layer.module], multiply):
            output = self._model(input)
        return self._chosen.scores_of(output, torch.full((len(keep),), sample, device=input.device))

    def _fastest_way(self, input: Tensor, keep: Tensor) -> _Way:
        keep = keep[:1].expand(2, -1).contiguous()
        keep[1] = 1
        expected = self._by_repeated_sample(input, 0, keep)
        # Half the digits of the largest score: a channel's part in it is small, and so may be all scores.
        digits = max(torch.finfo(one.dtype).eps for one in (expected, self._layer.activations)) ** 0.5
        tolerance = digits * float(expected.abs().nan_to_num(0.0, posinf=0.0).amax())
        for way in (self._by_repeated_output, self._by_mapping):
            try:
                found = way(input, 0, keep)
            except Exception:  # whatever the model raises where a batch is not as it expects
                continue
            if found.shape != expected.shape:
                continue
            if torch.allclose(found, expected, rtol=0.0, atol=tolerance, equal_nan=True):
                return way
        return self._by_repeated_sample
