"""Class activation maps of models."""

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
    """Class activation maps: how much each position of a layer's output contributes to the model's scores.

    A call runs one forward pass, and for any number of targets one backward pass from the scores to the layer's
    activations. It works inside `torch.no_grad` (if the model itself calls the layer inside of it, with another forward
    pass), with frozen parameters, with autocast and in half precision. A compiled model runs eagerly, a
    DistributedDataParallel model without the other ranks. After the call, also after an exception, the model is
    unchanged: hooks are removed, no ``.grad`` is set, and buffers and the random state are restored. The model runs in
    its current mode; in training mode the first call warns.

    The methods of `torchext.cam_pool` weight activations by their gradients. Three methods do not use gradients:

    - ``"scorecam"``: a channel's weight is the softmax, over channels, of the score for the input multiplied by the
      channel's map (Wang et al., "Score-CAM", CVPR Workshops 2020). Each channel takes one forward pass. The weight of
      a constant map is 0.
    - ``"ablationcam"``: a channel's weight is the relative decrease of the score when the channel is set to 0 (Desai
      and Ramaswamy, "Ablation-CAM", WACV 2020). The modules before the layer run once for `batch_size` channels, if the
      model supports that.
    - ``"eigencam"``: the weights are the first principal component of the activations, for any target (Muhammad and
      Yeasin, "Eigen-CAM", IJCNN 2020).

    Args:
        model: maps a batch ``(B, …)`` to scores ``(B, classes)``, or to any output if targets are functions.
        layer: the layer to explain: a module of `model`, its dotted name, or a sequence of these. Its output is a map
            ``(B, C, *S)`` or ``(B, *S, C)`` with one to three spatial dimensions, or tokens ``(B, N, C)`` of an image
            with or without class and register tokens before them. None finds a layer in the first call, with another
            forward pass of one sample: the last layer with spatial dimensions, or in a model of tokens the layer that
            the last attention block reads. If a forward pass calls a layer several times, its last call is explained.
        method: a method of `torchext.cam_pool`, or ``"scorecam"``, ``"ablationcam"`` or ``"eigencam"``.
        relu: set negative values of maps to 0.
        normalize: as in `torchext.cam_pool`.
        size: the spatial size of maps; ``"input"`` is the size of the input, None that of the layer's output.
        fuse: how the maps of several layers, each normalised and resized, are combined: ``"mean"`` or ``"max"``.
        batch_size: the number of variants of the input that ``"scorecam"`` and ``"ablationcam"`` run at a time; None
            is 32.
        progress: show a progress bar for these two methods (requires tqdm).
        augment: average the maps of six views: the input times 1, 0.9 and 1.1, each also mirrored along its last
            dimension. There are no mirrored views for inputs with one spatial dimension, and for targets that are a
            function, whose scores may depend on positions of the output.

    Attributes:
        layers: the dotted names of the layers; empty before they are found.
        output: the model's output in the last call, detached.
        targets: the targets of the last call: classes ``(B,)`` or ``(B, T)``, or the function.

    Raises:
        TypeError: a wrong type, or a scripted or traced model.
        RuntimeError: a call inside a compiled function.
        ValueError: a wrong option; a layer that is not in the model, that the forward pass does not call, that has no
            spatial dimensions, whose channels cannot be distinguished from positions, or on which the scores do not
            depend; or a layer of tokens after which the scores depend only on the class token.

    Note:
        Calls on one model must not run in several threads at the same time, since their hooks would run in each other's
        forward passes. Tensors that the model's forward pass stores in attributes stay there, detached.

        Deterministic if the model is. NaN in a sample's scores or activations makes its maps NaN. Two checks
        synchronise with the device: for a layer with a class token, whether all gradients of patches are 0, and for
        targets that are classes, whether they are in range.

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
        elif checks.is_sequence(size):  # the number of sizes is checked in the call, when the rank of the maps is known
            size = checks.sizes("size", size, len(size), least=1)
        elif size is not None:
            checks.sizes("size", size, 1, least=1)
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
        """Return the object itself. Hooks are on the model only during a call, so there is nothing to set up."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing."""

    @property
    def layers(self) -> tuple[str, ...]:
        """The dotted names of the layers; empty before they are found."""
        return tuple(name for name, _ in self._layers or ())

    def __call__(self, input: Tensor, targets: Targets = None) -> Tensor:
        """Explain a batch.

        Args:
            input: a batch, the input of the model.
            targets: what to explain. None for each sample's top class, an int for the same class in all samples,
                ``(B,)`` or a list for one class for each sample, ``(B, T)`` or a list of lists for several classes for
                each sample; or a function that takes the model's output and returns the scores of the samples, ``(B,)``
                or ``(T, B)``. ``"scorecam"`` and ``"ablationcam"`` also call the function with the output for each
                batch of K variants, K at most `batch_size`, for which it has to return ``(K,)`` or ``(T, K)``.

        Returns:
            ``(B, *size)``, or ``(T, B, *size)`` for several targets for each sample, in the activations' dtype.
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
                raise ValueError(
                    "model: expected parameters that were not created in torch.inference_mode, which cannot be in a "
                    "graph; use copy.deepcopy(model)"
                ) from error
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
        """Check the size before the passes over the model, which take long."""
        grids = [layer.layout.grid for layer in layers]
        if self.size is None and len(set(grids)) > 1:
            raise ValueError(f"size: expected one for layers whose maps differ in size, got None for {grids}")
        for layer in layers:
            rank = len(layer.layout.grid)
            if self.size == "input" and rank != input.dim() - 2:
                raise ValueError(
                    f"size: expected a size or None for maps {layer.layout.grid} of {layer.name!r}, whose number of "
                    f"dimensions differs from that of the input {tuple(input.shape)}, got 'input'"
                )
            if self.size not in ("input", None):
                checks.sizes("size", self.size, rank, least=1)

    def _by_gradients(self, layers: list[Explained], input: Tensor, chosen: Chosen) -> list[Tensor]:
        with probe.no_autocast(input.device):  # backward runs in the dtypes of the forward pass
            gradients = _gradients(chosen.scores, layers)
        maps = []
        for layer, gradient in zip(layers, gradients, strict=True):
            position_gradients = layer.layout.maps(gradient)
            if layer.layout.prefix and not position_gradients.any() and gradient.any():
                raise ValueError(self._only_prefix_tokens_used(layer, input))
            maps.append(
                self._pooled(layer, input, position_gradients if chosen.several else position_gradients[0], None)
            )
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

    def _only_prefix_tokens_used(self, layer: Explained, input: Tensor) -> str:
        better, _ = _layers.find(self.model, input)
        hint = f", such as {better!r}" if better != layer.name else ""
        return (
            f"layer: expected an earlier layer{hint}, got {layer.name!r}, after which the scores depend only on the "
            "class token: the gradients of all patches are 0"
        )


def _gradients(scores: Tensor, layers: list[Explained]) -> list[Tensor]:
    """The gradients of scores ``(T, B)`` with respect to each layer's activations, ``(T, *activations.shape)``."""
    if not scores.requires_grad:
        raise _independent(layers[0])
    activations = [layer.activations for layer in layers]
    found = _by_one_pass(scores, activations) if len(scores) > 1 else None
    if found is None:
        found = _by_separate_passes(scores, activations)
    for layer, gradient in zip(layers, found, strict=True):
        if gradient is None:
            raise _independent(layer)
    return [gradient for gradient in found if gradient is not None]


def _independent(layer: Explained) -> ValueError:
    return ValueError(
        f"layer: expected scores that depend on the output of {layer.name!r}, got scores without a gradient there; "
        "they do not depend on it, or the model stops gradients (detach, torch.inference_mode, a reentrant checkpoint)"
    )


def _by_one_pass(scores: Tensor, activations: list[Tensor]) -> list[Tensor | None] | None:
    """The gradients of all targets by one batched backward pass; None if an operation of the model does not support it.

    For ten targets and the last map of a network, this takes an eighth of the time of ten passes. With two convolutions
    after the map, it takes the same time.
    """
    count = len(scores)
    seeds = torch.eye(count, dtype=scores.dtype, device=scores.device).unsqueeze(2).expand(-1, -1, scores.shape[1])
    try:
        return list(
            torch.autograd.grad(scores, activations, seeds, retain_graph=True, is_grads_batched=True, allow_unused=True)
        )
    except RuntimeError:
        return None


def _by_separate_passes(scores: Tensor, activations: list[Tensor]) -> list[Tensor | None]:
    passes = [torch.autograd.grad(row.sum(), activations, retain_graph=True, allow_unused=True) for row in scores]
    if len(passes) == 1:
        return [None if gradient is None else gradient.unsqueeze(0) for gradient in passes[0]]
    return [None if gradients[0] is None else torch.stack(gradients) for gradients in zip(*passes, strict=True)]
