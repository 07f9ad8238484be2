"""Class activation maps of models."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Literal, get_args
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from torchext._core import checks
from torchext._core.containers import map_tensors
from torchext._core.dtypes import accumulation_dtype
from torchext.cam import layers as _layers
from torchext.cam import perturbation, probe
from torchext.cam.inputs import warn_in_training_mode
from torchext.cam.layers import Layer
from torchext.cam.layout import (
    Explained,
    Layout,
    Reshaped,
    certain_layout,
    channel_source,
    check_all_channels,
    reshaped,
)
from torchext.cam.methods import on_the_input
from torchext.cam.pool import Method as Gradients
from torchext.cam.pool import cam_pool
from torchext.cam.targets import Chosen, Scorer, Targets
from torchext.cam.trace import Trace

__all__ = ["CAM"]

Perturbations = Literal["scorecam", "ablationcam"]
Method = Gradients | Perturbations | Literal["eigencam"]

GRADIENT_METHODS: tuple[Gradients, ...] = get_args(Gradients)
PERTURBATION_METHODS: tuple[Perturbations, ...] = get_args(Perturbations)
METHODS: tuple[Method, ...] = (*GRADIENT_METHODS, *PERTURBATION_METHODS, "eigencam")


# The axes of maps, and the name of the convolution that reads the input, by the name of the layer and their number.
_Axes = dict[tuple[str, int], tuple[tuple[int, ...], str | None]]
_axes_of_models: WeakKeyDictionary[nn.Module, _Axes] = WeakKeyDictionary()
_VARIANTS_AT_A_TIME = 32
_AUGMENTED_BRIGHTNESS = (1.0, 0.9, 1.1)


class CAM:
    """Class activation maps: how much each position of a layer's output contributes to the model's scores.

    A call runs one forward pass, and for any number of targets one backward pass from the scores to the layer's
    activations. It works inside `torch.no_grad`, with frozen parameters, with autocast and in half precision. If the
    model itself calls the layer inside `torch.no_grad`, a second forward pass is needed. A compiled model runs in eager
    mode, and a DistributedDataParallel model does not communicate with other ranks. After the call, also after an
    exception, the model is unchanged: hooks are removed, no ``.grad`` is set, and buffers and the random state are
    restored. The model runs in its current mode; in training mode the first call warns.

    The methods of `torchext.cam_pool` weight activations by their gradients. Three methods do not use gradients:

    - ``"scorecam"``: a channel's weight is the softmax, over channels, of the score for the input multiplied by the
      channel's map (Wang et al., "Score-CAM", CVPR Workshops 2020). Each channel takes one forward pass. The weight of
      a constant map is 0.
    - ``"ablationcam"``: a channel's weight is the relative decrease of the score when the channel is set to 0 (Desai
      and Ramaswamy, "Ablation-CAM", WACV 2020). Tokens outside of the grid are kept. The modules before the layer run
      once for `batch_size` channels, if the model supports that.
    - ``"eigencam"``: the weights are the first principal component of the activations, for any target (Muhammad and
      Yeasin, "Eigen-CAM", IJCNN 2020).

    Args:
        model: maps a batch ``(B, …)`` to scores ``(B, classes)``, or to any output if targets are functions.
        layer: the layer to explain: a module of `model`, its dotted name, or a sequence of these. Its output is a map
            ``(B, C, *S)`` or ``(B, *S, C)`` with one to three spatial dimensions, or tokens ``(B, N, C)``: those of a
            grid, and possibly others such as class tokens. None finds a layer in the first call. It is the last one on
            which the scores depend and whose positions are a grid of the input; if the scores depend on only one of its
            tokens, it is the layer whose output the last attention block reads. If a forward pass calls a layer several
            times, its last call is explained.
        method: a method of `torchext.cam_pool`, or ``"scorecam"``, ``"ablationcam"`` or ``"eigencam"``.
        relu: set negative values of maps to 0. A map that is 0 everywhere then means that no position of the layer
            raises the score.
        normalize: as in `torchext.cam_pool`.
        size: the spatial size of maps; ``"input"`` is the size of the input, None that of the layer's output. If the
            model pads its input, maps of another size than None are those of the part without the padding.
        fuse: how the maps of several layers, each normalised and resized, are combined: ``"mean"`` or ``"max"``.
        batch_size: the number of variants of the input that ``"scorecam"`` and ``"ablationcam"`` run at a time; None
            is 32.
        progress: show a progress bar for these two methods (requires tqdm).
        augment: average the maps of six views: the input times 1, 0.9 and 1.1, each also mirrored along its last
            dimension. There are no mirrored views for inputs with one spatial dimension, and for targets that are a
            function, whose scores may depend on positions of the output.
        reshape: a function from the layer's output to maps ``(B, C, *S)``, which rearranges its elements, for a layout
            that is not found. It is applied to activations and gradients.
        forward: a function ``(model, input) -> output`` that calls the model. The input may then be anything, such as a
            dictionary of tensors. For an input that is not a tensor, `size` has to be a size or None, and
            ``"scorecam"``, ``"ablationcam"`` and `augment` are not available.
        create_graph: return differentiable maps, for use in a loss, as in `torch.autograd.grad`. All activations are
            then kept in memory. It requires a method that uses gradients.

    Attributes:
        layers: the dotted names of the layers; empty before they are found.
        output: the model's output in the last call, detached.
        targets: the targets of the last call: classes ``(B,)`` or ``(B, T)``, or the function.

    Raises:
        TypeError: a wrong type, or a scripted or traced model.
        RuntimeError: a call inside a compiled function.
        ValueError: a wrong option; a layer that is not in the model, that the forward pass does not call, whose
            positions are not a grid of the input, whose channels are sharded across ranks, or on which the scores do
            not depend; or a layer of tokens after which the scores depend only on the class token.

    Note:
        Experiments determine which dimensions of the input the dimensions of the maps belong to, in the first call for
        a layer of a model. For tokens, experiments in the first call for each size of the input also determine where
        the grid is. They run the model several times (six times for a map of an image) on one sample, or on the batch
        if the model requires that. In each of them a part of the input is changed, and the layout is the one in which
        the corresponding positions of the output change. If the first convolution reads another size than that of the
        input, another experiment determines where the padding is, in the first call for each size. If the layout of
        most layers after the one that is found is not known, a warning says so.

        Calls of several threads on one model run one after the other. The model gets a copy of the input, which it may
        change in place. Tensors that its forward pass stores in attributes stay there, detached.

        Deterministic if the model is. NaN in a sample's scores or activations makes its maps NaN. Two checks
        synchronise with the device: for a layer that was found or that has a class token, whether gradients are 0, and
        for targets that are classes, whether they are in range.

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
        reshape: Callable[[Tensor], Tensor] | None = None,
        forward: Callable[[nn.Module, Any], Any] | None = None,
        create_graph: bool = False,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
        _layers.check_runs_in_python("model", model)
        checks.option("method", method, METHODS)
        checks.option("normalize", normalize, ("max", "minmax", None))
        checks.option("fuse", fuse, ("mean", "max"))
        flags = {"relu": relu, "progress": progress, "augment": augment, "create_graph": create_graph}
        for name, flag in flags.items():
            checks.flag(name, flag)
        for name, function in (("reshape", reshape), ("forward", forward)):
            if function is not None and not callable(function):
                raise TypeError(f"{name}: expected a function, got {type(function).__name__}")
        if reshape is not None and layer is None:
            raise ValueError("layer: expected the layer whose output reshape= takes, got None")
        if create_graph and method not in GRADIENT_METHODS:
            raise ValueError(f"create_graph: expected False for method {method!r}, which takes no gradients, got True")
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
        self.reshape = reshape
        self.forward = forward
        self.create_graph = create_graph
        self._subject = probe.Subject(model, forward)
        self._layouts: dict[tuple[Any, ...], Layout] = {}
        self._axes = _axes_of_models.setdefault(model, {}) if forward is None else {}
        self._layers = None if layer is None else _layers.resolve(model, layer)
        self._finds_layers = layer is None
        self._warned = False

    def __enter__(self) -> CAM:
        """Return the object itself. Hooks are on the model only during a call, so there is nothing to set up."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing."""

    def __repr__(self) -> str:
        """The model's type, the layers if they are known, and the method."""
        layers = f", layer={', '.join(self.layers)!r}" if self.layers else ""
        return f"CAM({type(self.model).__name__}{layers}, method={self.method!r})"

    @property
    def layers(self) -> tuple[str, ...]:
        """The dotted names of the layers; empty before they are found."""
        return tuple(name for name, _ in self._layers or ())

    def __call__(self, input: Any, targets: Targets = None) -> Tensor:
        """Explain a batch.

        Args:
            input: a batch, the input of the model; with `forward`, anything.
            targets: what to explain. None for each sample's top class, an int for the same class in all samples,
                ``(B,)`` or a list for one class for each sample, ``(B, T)`` or a list of lists for several classes for
                each sample; or a function that takes the model's output and returns the scores of the samples, ``(B,)``
                or ``(T, B)``. ``"scorecam"`` and ``"ablationcam"`` also call the function with the output for each
                batch of K variants, K at most `batch_size`, for which it has to return ``(K,)`` or ``(T, K)``.

        Returns:
            ``(B, *size)``, or ``(T, B, *size)`` for several targets for each sample, in the activations' dtype.
        """
        if self.forward is None or self.augment or self.method in PERTURBATION_METHODS:
            checks.tensor("input", input)
            if input.dim() < 2 or input.shape[0] == 0:
                raise ValueError(f"input: expected a batch (B, …), got {tuple(input.shape)}")
        if self.model.training and not self._warned:
            self._warned = True
            warn_in_training_mode(self.model, stacklevel=2)
        with probe.undisturbed(self.model, input):
            if isinstance(input, Tensor):
                input = input.clone() if input.is_inference() else input
                input = input if self.create_graph else input.detach()
            maps, output, chosen, layers = self._explain(input, targets)
            if self.augment:
                maps = self._mean_of_views(input, chosen, maps, layers)
        self.output, self.targets = map_tensors(output, Tensor.detach), chosen.named
        return maps

    def _explain(self, input: Any, targets: Targets) -> tuple[Tensor, Any, Chosen, list[Explained]]:
        with_graph = self.method in GRADIENT_METHODS
        is_found = False
        try:
            if self._layers is None:
                is_found = True
                with probe.kept_attributes(self.model):
                    call, layout = _layers.find(self._subject, input, targets)
                self._layers = [(call.name, call.module)]
                self._keep(self._key(call.name, call.output, input), layout)
            with self._sizes_read() as read:
                caught, output = probe.run(
                    self._subject, self._layers, input, with_graph=with_graph, create_graph=self.create_graph
                )
        except RuntimeError as error:
            if with_graph and any(parameter.is_inference() for parameter in self.model.parameters()):
                raise ValueError(
                    "model: expected parameters that were not created in torch.inference_mode, which cannot be in a "
                    "graph; use copy.deepcopy(model)"
                ) from error
            raise
        layers = [
            Explained(name, module, self._layout(name, module, found.output, input, read), *found)
            for (name, module), found in zip(self._layers, caught, strict=True)
        ]
        batch = len(input) if isinstance(input, Tensor) else len(layers[0].maps)
        for layer in layers:
            if len(layer.maps) != batch:
                raise ValueError(
                    f"layer: expected maps of each of {batch} samples from {layer.name!r}, got "
                    f"{tuple(layer.maps.shape)}; reshape= may be a function from its output to maps (B, C, *S)"
                )
        self._check_size(layers, input)
        with torch.set_grad_enabled(with_graph):
            chosen = Chosen(targets, output, batch)
        if with_graph:
            with probe.no_autocast(chosen.scores.device):  # backward runs in the dtypes of the forward pass
                gradients = _gradients(chosen.scores, layers, self.create_graph)
            if self._finds_layers and not is_found and not (gradients[0] is not None and gradients[0].any()):
                self._layers = None  # these scores may depend on another layer
                return self._explain(input, targets)
            maps = self._by_gradients(layers, input, chosen, gradients)
        else:
            with torch.no_grad():
                maps = [self._by_weights(layer, input, chosen) for layer in layers]
        return self._fused(maps), output, chosen, layers

    def _key(self, name: str, output: Tensor, input: Any) -> tuple[Any, ...]:
        return name, output.shape[1:], input.shape[1:] if isinstance(input, Tensor) else None

    @contextmanager
    def _sizes_read(self) -> Iterator[dict[str | None, torch.Size]]:
        """The size of what the convolution that reads the input reads inside the block, by its name."""
        sizes: dict[str | None, torch.Size] = {}

        def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
            return lambda module, args, kwargs: sizes.update({name: next(iter((*args, *kwargs.values()))).shape[2:]})

        with ExitStack() as stack:
            for reader in {reader for _, reader in self._axes.values() if reader is not None}:
                module = self.model.get_submodule(reader)
                stack.callback(module.register_forward_pre_hook(keep(reader), with_kwargs=True).remove)
            yield sizes

    def _layout(
        self, name: str, module: nn.Module, output: Tensor, input: Any, read: Mapping[str | None, torch.Size]
    ) -> Layout | Reshaped:
        """The layout of a layer's output: of the caller, of the modules, or by experiments in the first call."""
        source = channel_source(self.model, module)
        check_all_channels(name, source, output)
        key = self._key(name, output, input)
        if key in self._layouts:
            return self._layouts[key]
        layout: Layout | Reshaped | None
        if self.reshape is not None:
            layout = reshaped(self.reshape, output.detach())
        else:
            layout = certain_layout(module, output.shape, source, input)
        if layout is not None and math.prod(layout.size) > 1:
            axes, reader = self._axes.get((name, len(layout.size)), (None, None))
            # They do not depend on the size of the input, but padding does, of a model that reads another size.
            if reader is None or (isinstance(input, Tensor) and read.get(reader) == input.shape[2:]):
                layout = layout._replace(axes=axes, reader=reader)
        if layout is None or (layout.axes is None and isinstance(input, Tensor)):
            with probe.kept_attributes(self.model):
                if isinstance(layout, Reshaped):  # the function may be one for this batch
                    trace = Trace(self._subject, input, with_graph=False)
                    axes = trace.axes_of(trace.of(name, module), layout)
                    layout = trace.with_padding(layout._replace(axes=axes))
                else:
                    trace = _layers.trace_of(self._subject, input)
                    layout = trace.layout(trace.of(name, module))
        self._keep(key, layout)
        return layout

    def _keep(self, key: tuple[Any, ...], layout: Layout | Reshaped) -> None:
        if layout.axes is not None:
            self._axes[key[0], len(layout.size)] = layout.axes, layout.reader
        if isinstance(layout, Layout):  # a function of the caller depends on more than the sizes
            self._layouts[key] = layout

    def _size(self, layer: Explained, input: Any) -> Any:
        """The size of a layer's maps."""
        if self.size != "input":
            return self.size
        if layer.layout.axes is None:
            described = f" {tuple(input.shape)}" if isinstance(input, Tensor) else ""
            raise ValueError(
                f"size: expected a size or None for maps {layer.layout.size} of {layer.name!r}, since it is not known "
                f"which dimensions of the input{described} they belong to, got 'input'"
            )
        return tuple(input.shape[axis] for axis in sorted(layer.layout.axes))

    def _check_size(self, layers: list[Explained], input: Any) -> None:
        """Check the size before the passes over the model, which take long."""
        sizes = [layer.layout.size if self.size is None else self._size(layer, input) for layer in layers]
        if len(set(map(str, sizes))) > 1:
            raise ValueError(f"size: expected one for layers whose maps differ in size, got {self.size!r} for {sizes}")
        if self.size not in ("input", None):
            for layer in layers:
                checks.sizes("size", self.size, len(layer.layout.size), least=1)

    def _by_gradients(
        self, layers: list[Explained], input: Tensor, chosen: Chosen, gradients: list[Tensor | None]
    ) -> list[Tensor]:
        maps = []
        for layer, gradient in zip(layers, gradients, strict=True):
            if gradient is None:
                raise ValueError(
                    f"layer: expected scores that depend on the output of {layer.name!r}, got scores without a "
                    "gradient there; they do not depend on it, or the model stops gradients (detach, "
                    "torch.inference_mode, a reentrant checkpoint)"
                )
            position_gradients = layer.layout.maps(gradient)
            if layer.layout.first is not None and not position_gradients.any() and gradient.any():
                raise ValueError(self._only_other_tokens_used(layer, input, chosen))
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
            weights = weigh(self._subject, layer, input, chosen, self.batch_size or _VARIANTS_AT_A_TIME, self.progress)
        return self._pooled(layer, input, None, weights if chosen.several else weights[0])

    def _pooled(self, layer: Explained, input: Tensor, gradients: Tensor | None, weights: Tensor | None) -> Tensor:
        size = self._size(layer, input)
        covered = None if size is None else layer.layout.covered
        maps = cam_pool(
            layer.maps if self.create_graph else layer.maps.detach(),
            gradients,
            weights=weights,
            method=self.method if self.method in GRADIENT_METHODS else "gradcam",
            relu=self.relu,
            normalize=self.normalize if covered is None else None,
            size=size if covered is None else None,
        )
        if covered is not None:
            size = checks.sizes("size", size, len(covered), least=1)
            maps = on_the_input(maps.to(accumulation_dtype(maps.dtype)), covered, size, self.normalize)
        return maps.to(layer.activations.dtype)

    def _fused(self, maps: list[Tensor]) -> Tensor:
        if len(maps) == 1:
            return maps[0]
        together = torch.stack(maps)
        return together.mean(0) if self.fuse == "mean" else together.amax(0)

    def _mean_of_views(self, input: Tensor, chosen: Chosen, plain: Tensor, layers: list[Explained]) -> Tensor:
        targets = chosen.named
        # The last dimension of the maps has to be that of the input, and not the only one.
        axes = [layer.layout.axes or () for layer in layers]
        can_mirror = all(len(axis) > 1 and max(axis) == input.dim() - 1 for axis in axes)
        mirrors = (False, True) if can_mirror and isinstance(targets, Tensor) else (False,)
        total, count = plain.clone(), 1
        for brightness in _AUGMENTED_BRIGHTNESS:
            for mirrored in mirrors:
                if brightness == 1.0 and not mirrored:
                    continue
                view = input * brightness
                maps, *_ = self._explain(view.flip(-1) if mirrored else view, targets)
                total = total + (maps.flip(-1) if mirrored else maps)
                count += 1
        return total / count

    def _only_other_tokens_used(self, layer: Explained, input: Any, chosen: Chosen) -> str:
        better, _ = _layers.find(self._subject, input, chosen.named)
        hint = f", such as {better.name!r}" if better.name != layer.name else ""
        return (
            f"layer: expected an earlier layer{hint}, got {layer.name!r}, after which the scores depend only on the "
            "class token: the gradients of all patches are 0"
        )


def _gradients(scores: Tensor, layers: list[Explained], create_graph: bool) -> list[Tensor | None]:
    """The gradients of scores ``(T, B)`` with respect to each layer's activations, ``(T, *activations.shape)``."""
    if not scores.requires_grad:
        return [None] * len(layers)
    activations = [layer.activations for layer in layers]
    found = _by_one_pass(scores, activations, create_graph) if len(scores) > 1 else None
    return _by_separate_passes(scores, activations, create_graph) if found is None else found


def _by_one_pass(scores: Tensor, activations: list[Tensor], create_graph: bool) -> list[Tensor | None] | None:
    """The gradients of all targets by one batched backward pass; None if an operation of the model does not support it.

    For ten targets and the last map of a network, this takes an eighth of the time of ten passes. With two convolutions
    after the map, it takes the same time.
    """
    count = len(scores)
    seeds = torch.eye(count, dtype=scores.dtype, device=scores.device).unsqueeze(2).expand(-1, -1, scores.shape[1])
    try:
        return list(
            torch.autograd.grad(
                scores, activations, seeds, retain_graph=True, create_graph=create_graph, is_grads_batched=True,
                allow_unused=True,
            )
        )  # fmt: skip
    except RuntimeError:
        return None


def _by_separate_passes(scores: Tensor, activations: list[Tensor], create_graph: bool) -> list[Tensor | None]:
    passes = [
        torch.autograd.grad(row.sum(), activations, retain_graph=True, create_graph=create_graph, allow_unused=True)
        for row in scores
    ]
    if len(passes) == 1:
        return [None if gradient is None else gradient.unsqueeze(0) for gradient in passes[0]]
    return [None if gradients[0] is None else torch.stack(gradients) for gradients in zip(*passes, strict=True)]
