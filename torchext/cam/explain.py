"""Explaining what a model saw."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from torchext._core import checks
from torchext.cam import layers as _layers
from torchext.cam import perturbation, probe
from torchext.cam import targets as _targets
from torchext.cam.layers import Explained, Layer
from torchext.cam.pool import Method as Gradients
from torchext.cam.pool import cam_pool
from torchext.cam.targets import Chosen, Scorer, Targets

__all__ = ["CAM"]

Perturbations = Literal["scorecam", "ablationcam"]
Method = Gradients | Perturbations | Literal["eigencam"]

GRADIENT_METHODS: tuple[Gradients, ...] = get_args(Gradients)
PERTURBATION_METHODS: tuple[Perturbations, ...] = get_args(Perturbations)
METHODS: tuple[Method, ...] = (*GRADIENT_METHODS, *PERTURBATION_METHODS, "eigencam")

_VARIANTS_AT_A_TIME = 32
_AUGMENTED_BRIGHTNESS = (1.0, 0.9, 1.1)


class CAM:
    """Class activation maps: what in its input a model's scores follow from, seen at one of its layers.

    One forward pass, and a backward pass from the scores to the layer's activations alone, for any number of targets.
    It works under `torch.no_grad` (where the model itself runs the layer in it, by one more forward pass), with frozen
    parameters, under autocast and in half precision; a compiled model runs eagerly, a DistributedDataParallel one on
    its rank alone. The model is as before afterwards, also after an exception: no hook and no ``.grad`` stays behind,
    buffers and random state are put back. It runs in the mode that it is in; in training mode there is one warning.

    The methods of `torchext.cam_pool` weigh activations by their gradients. Three need no gradients:

    - ``"scorecam"``: a channel's weight is the softmax, over channels, of the score for the input seen through its map
      (Wang et al., "Score-CAM", CVPR Workshops 2020). One forward pass a channel; one without contrast has no part.
    - ``"ablationcam"``: it is the part by which the score falls without the channel (Desai and Ramaswamy,
      "Ablation-CAM", WACV 2020). What comes before the layer runs once for `batch_size` channels, where the model
      allows.
    - ``"eigencam"``: the first principal component of the activations, whatever the target (Muhammad and Yeasin,
      "Eigen-CAM", IJCNN 2020).

    Args:
        model: maps a batch ``(B, …)`` to scores ``(B, classes)``, or to anything else if targets are functions.
        layer: whose output is explained: a module of `model`, its dotted name, or several. Outputs are maps
            ``(B, C, *S)`` or ``(B, *S, C)`` with one to three spatial dimensions, or tokens ``(B, N, C)`` of an image
            with or without class and register tokens in front. None finds one with the first batch, by one more forward
            pass of one sample: the last with spatial extent, in token models the one that the last attention reads. A
            layer that runs several times in a forward pass is seen in its last run.
        method: one of those of `torchext.cam_pool`, or ``"scorecam"``, ``"ablationcam"``, ``"eigencam"``.
        relu: keep positive evidence only.
        normalize: as in `torchext.cam_pool`.
        size: ``"input"`` resizes maps to the input's spatial size; also a size, or None for the layer's own.
        fuse: how the maps of several layers, each normalised and resized, become one: ``"mean"`` or ``"max"``.
        batch_size: how many variants of the input ``"scorecam"`` and ``"ablationcam"`` run at a time; None is 32.
        progress: show the progress of these two (needs tqdm).
        augment: average the maps of six views, for smoother ones: the input times 1, 0.9 and 1.1, each as it is and
            mirrored along its last dimension. Of three, none mirrored, for one spatial dimension, and for targets that
            are a function, which may look at positions of the output.

    Attributes:
        layers: the dotted names of the layers; empty until they are found.
        output: what the model put out in the last call, detached.
        targets: what the last call explained: classes ``(B,)`` or ``(B, T)``, or the function.

    Raises:
        TypeError: a wrong type, or a scripted or traced model.
        RuntimeError: a call inside a function that is compiled.
        ValueError: a wrong option; no such layer, one that the forward pass does not run, or one without spatial
            extent or whose channels nothing tells from positions; scores that do not depend on it; a class token that
            reads no patch behind it.

    Note:
        One call at a time on a model: hooks of calls in other threads would see each other's passes. What its forward
        pass keeps in attributes stays there, without its graph.

        Deterministic where the model is. NaN among a sample's scores or activations passes through to its maps. A layer
        of tokens behind a class token is checked for gradients that are all 0, which waits for the device; so do
        targets that are given as classes.

    Examples:
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 8, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 5)
        ... ).eval()
        >>> cam = torchext.CAM(model)
        >>> cam(torch.randn(2, 3, 16, 16)).shape
        torch.Size([2, 16, 16])
        >>> cam.layers, cam.targets.shape
        (('0',), torch.Size([2]))
        >>> cam(torch.randn(2, 3, 16, 16), [[0, 1, 4], [2, 3, 4]]).shape
        torch.Size([3, 2, 16, 16])
    """

    output: Any
    targets: Tensor | Scorer

    def __init__(
        self,
        model: nn.Module,
        layer: Layer | Sequence[Layer] | None = None,
        *,
        method: Method = "gradcam",
        relu: bool = True,
        normalize: Literal["max", "minmax"] | None = "max",
        size: Literal["input"] | int | Sequence[int] | None = "input",
        fuse: Literal["mean", "max"] = "mean",
        batch_size: int | None = None,
        progress: bool = False,
        augment: bool = False,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
        _layers.check_runs_in_python("model", model)
        checks.option("method", method, METHODS)
        checks.option("normalize", normalize, ("max", "minmax", None))
        checks.option("fuse", fuse, ("mean", "max"))
        for name, value in (("relu", relu), ("progress", progress), ("augment", augment)):
            checks.flag(name, value)
        if isinstance(size, str):
            checks.option("size", size, ("input",))
        elif size is not None:  # how many sizes there must be, the layer's maps will tell
            checks.sizes("size", size, len(size) if isinstance(size, (tuple, list)) else 1, least=1)
        if batch_size is not None and checks.integer("batch_size", batch_size) < 1:
            raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
        self.model = model
        self.method = method
        self.relu = relu
        self.normalize = normalize
        self.size = size
        self.fuse = fuse
        self.batch_size = batch_size
        self.progress = progress
        self.augment = augment
        self._layers = None if layer is None else _layers.resolve(model, layer)
        self._warned = False

    def __enter__(self) -> CAM:
        """Itself: nothing is left on the model between calls, and nothing has to be undone."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing."""

    @property
    def layers(self) -> tuple[str, ...]:
        """The dotted names of the layers; empty until they are found."""
        return tuple(name for name, _ in self._layers or ())

    def __call__(self, input: Tensor, targets: Targets = None) -> Tensor:
        """Explain a batch.

        Args:
            input: a batch as the model takes it.
            targets: what to explain. None for each sample's top class, an int for one class of all, ``(B,)`` or a list
                for one a sample, ``(B, T)`` or a list of lists for several a sample; or a function that takes the
                model's output and returns the scores of the samples, ``(B,)`` or ``(T, B)``. ``"scorecam"`` and
                ``"ablationcam"`` call it once more for every batch of K variants, at most `batch_size`, with what the
                model puts out for these: there it returns ``(K,)`` or ``(T, K)``.

        Returns:
            ``(B, *size)``, or ``(T, B, *size)`` for several targets a sample, of the activations' dtype.
        """
        checks.tensor("input", input)
        if input.dim() < 2 or input.shape[0] == 0:
            raise ValueError(f"input: expected a batch (B, …), got {tuple(input.shape)}")
        if self.model.training and not self._warned:
            self._warned = True
            warnings.warn("the model is in training mode; call model.eval() first", stacklevel=2)
        with probe.undisturbed(self.model, input):
            input = (input.clone() if input.is_inference() else input).detach()
            if self._layers is None:
                self._layers = [_layers.find(self.model, input)]
            maps, output, chosen = self._explain(input, targets)
            if self.augment:
                maps = self._mean_of_views(input, chosen, maps)
        self.output, self.targets = _targets.detached(output), chosen.named
        return maps

    def _explain(self, input: Tensor, targets: Targets) -> tuple[Tensor, Any, Chosen]:
        assert self._layers is not None
        with_graph = self.method in GRADIENT_METHODS
        try:
            caught, output = probe.run(self.model, self._layers, input, with_graph=with_graph)
        except RuntimeError as error:
            if with_graph and any(parameter.is_inference() for parameter in self.model.parameters()):
                message = "model: gradients pass no parameters made in torch.inference_mode; take copy.deepcopy(model)"
                raise ValueError(message) from error
            raise
        with torch.set_grad_enabled(with_graph):
            chosen = Chosen(targets, output, len(input))
        prefix = _layers.prefix_tokens(self.model) if any(c.output.dim() == 3 for c in caught) else None
        layers = []
        for (name, module), c in zip(self._layers, caught, strict=True):
            source = _layers.channel_source(self.model, module)
            layout = _layers.layout_of(module, c.output.shape, input.shape, prefix, source)
            layers.append(Explained(name, module, layout, *c))
        self._check_size(layers, input)
        if with_graph:
            maps = self._by_gradients(layers, input, chosen)
        else:
            with torch.no_grad():
                maps = [self._by_weights(layer, input, chosen) for layer in layers]
        return self._fused(maps), output, chosen

    def _check_size(self, layers: list[Explained], input: Tensor) -> None:
        """Before what takes long."""
        grids = [layer.layout.grid for layer in layers]
        if self.size is None and len(set(grids)) > 1:
            raise ValueError(f"size: expected one for layers whose maps differ in size, got None for {grids}")
        for layer in layers:
            rank = len(layer.layout.grid)
            if self.size == "input" and rank != input.dim() - 2:
                raise ValueError(
                    f"size: the input {tuple(input.shape)} gives none for maps {layer.layout.grid} of {layer.name!r}; "
                    "pass one, or None"
                )
            if self.size not in ("input", None):
                checks.sizes("size", self.size, rank, least=1)

    def _by_gradients(self, layers: list[Explained], input: Tensor, chosen: Chosen) -> list[Tensor]:
        with probe.no_autocast(input.device):  # backward runs in the dtypes of the forward pass
            gradients = _gradients(chosen.scores, layers)
        maps = []
        for layer, gradient in zip(layers, gradients, strict=True):
            at_places = layer.layout.maps(gradient)
            if layer.layout.prefix and not at_places.any() and gradient.any():
                raise ValueError(self._read_by_a_token_alone(layer, input))
            maps.append(self._pooled(layer, input, at_places if chosen.several else at_places[0], None))
        return maps

    def _by_weights(self, layer: Explained, input: Tensor, chosen: Chosen) -> Tensor:
        if self.method == "eigencam":
            weights = perturbation.principal_weights(layer.maps)
            weights = weights.expand(len(chosen.scores), *weights.shape)
        else:
            scorecam = self.method == "scorecam"
            weigh = perturbation.score_weights if scorecam else perturbation.ablation_weights
            weights = weigh(self.model, layer, input, chosen, self.batch_size or _VARIANTS_AT_A_TIME, self.progress)
        return self._pooled(layer, input, None, weights if chosen.several else weights[0])

    def _pooled(self, layer: Explained, input: Tensor, gradients: Tensor | None, weights: Tensor | None) -> Tensor:
        maps = cam_pool(
            layer.maps,
            gradients,
            weights=weights,
            method=self.method if self.method in GRADIENT_METHODS else "gradcam",
            relu=self.relu,
            normalize=self.normalize,
            size=input.shape[2:] if self.size == "input" else self.size,
        )
        return maps.to(layer.activations.dtype)

    def _fused(self, maps: list[Tensor]) -> Tensor:
        if len(maps) == 1:
            return maps[0]
        together = torch.stack(maps)
        return together.mean(0) if self.fuse == "mean" else together.amax(0)

    def _mean_of_views(self, input: Tensor, chosen: Chosen, plain: Tensor) -> Tensor:
        targets = chosen.named
        mirrors = (False, True) if input.dim() > 3 and isinstance(targets, Tensor) else (False,)
        total, count = plain.clone(), 1
        for brightness in _AUGMENTED_BRIGHTNESS:
            for mirrored in mirrors:
                if brightness == 1.0 and not mirrored:
                    continue
                view = input * brightness
                maps, _, _ = self._explain(view.flip(-1) if mirrored else view, targets)
                total += maps.flip(-1) if mirrored else maps
                count += 1
        return total / count

    def _read_by_a_token_alone(self, layer: Explained, input: Tensor) -> str:
        better, _ = _layers.find(self.model, input)
        hint = f", such as {better!r}" if better != layer.name else ""
        return (
            f"layer: after {layer.name!r} the scores read the class token alone, the gradients of all patches are 0; "
            f"take an earlier one{hint}"
        )


def _gradients(scores: Tensor, layers: list[Explained]) -> list[Tensor]:
    """Of the scores ``(T, B)`` with respect to each layer's activations, ``(T, *activations.shape)``."""
    if not scores.requires_grad:
        raise _independent(layers[0])
    activations = [layer.activations for layer in layers]
    found = _by_one_pass(scores, activations) if len(scores) > 1 else None
    if found is None:
        found = _by_a_pass_each(scores, activations)
    for layer, gradient in zip(layers, found, strict=True):
        if gradient is None:
            raise _independent(layer)
    return [gradient for gradient in found if gradient is not None]


def _independent(layer: Explained) -> ValueError:
    return ValueError(
        f"layer: the scores do not depend on the output of {layer.name!r}, "
        "or the model stops their gradients behind it (detach, torch.inference_mode, a reentrant checkpoint)"
    )


def _by_one_pass(scores: Tensor, activations: list[Tensor]) -> list[Tensor | None] | None:
    """All targets in one backward pass; None where the model has an operation that cannot take several at once.

    Behind a network's last map it takes an eighth of the time of ten passes, behind two convolutions as long.
    """
    count = len(scores)
    seeds = torch.eye(count, dtype=scores.dtype, device=scores.device).unsqueeze(2).expand(-1, -1, scores.shape[1])
    try:
        return list(
            torch.autograd.grad(scores, activations, seeds, retain_graph=True, is_grads_batched=True, allow_unused=True)
        )
    except RuntimeError:
        return None


def _by_a_pass_each(scores: Tensor, activations: list[Tensor]) -> list[Tensor | None]:
    passes = [torch.autograd.grad(one.sum(), activations, retain_graph=True, allow_unused=True) for one in scores]
    if len(passes) == 1:
        return [None if one is None else one.unsqueeze(0) for one in passes[0]]
    return [None if each[0] is None else torch.stack(each) for each in zip(*passes, strict=True)]
