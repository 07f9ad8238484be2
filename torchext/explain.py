"""Explaining what a model saw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from torchext import _checks
from torchext.cam import cam_pool

__all__ = ["CAM"]


class CAM:
    """Class activation maps of a classifier, by Grad-CAM at one of its layers.

    One forward pass, and a backward pass from the scores to the layer's activations alone. It works under
    `torch.no_grad` and with frozen parameters, and leaves no hook and no ``.grad`` behind, also after an exception. The
    model runs in the mode that it is in: call ``model.eval()`` first, since batch normalisation counts what it sees in
    training mode.

    Args:
        model: maps a batch ``(B, …)`` to scores ``(B, classes)``.
        layer: whose output ``(B, C, *S)`` is explained: a module of `model` or its dotted name. The last one with
            spatial extent is the usual choice.
        relu: keep positive evidence only.
        normalize: as in `torchext.cam_pool`.
        size: ``"input"`` resizes maps to the input's spatial size; also a size, or None for the layer's own.

    Attributes:
        output: the scores of the last call, detached.
        targets: the classes that the last call explained, ``(B,)``.

    Raises:
        TypeError: a wrong type.
        ValueError: no such layer, one that the forward pass does not run, or one without spatial extent.

    Example:
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 8, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 5)
        ... )
        >>> cam = torchext.CAM(model, "0")
        >>> cam(torch.randn(2, 3, 16, 16)).shape
        torch.Size([2, 16, 16])
        >>> cam.targets.shape
        torch.Size([2])
    """

    output: Tensor
    targets: Tensor

    def __init__(
        self,
        model: nn.Module,
        layer: nn.Module | str,
        *,
        relu: bool = True,
        normalize: Literal["max", "minmax"] | None = "max",
        size: Literal["input"] | int | Sequence[int] | None = "input",
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
        self.model = model
        self.layer = _find_layer(model, layer)
        self.relu = relu
        self.normalize = normalize
        self.size = size

    def __call__(self, input: Tensor, targets: int | Sequence[int] | Tensor | None = None) -> Tensor:
        """Explain a batch.

        Args:
            input: a batch as the model takes it.
            targets: the class to explain: None for each sample's top class, an int for all, or one a sample.

        Returns:
            ``(B, *size)``, of the activations' dtype.
        """
        _checks.tensor("input", input)
        with torch.inference_mode(False):
            activations, scores = self._forward(input)
            classes = _choose_targets(targets, scores)
            with torch.enable_grad():
                chosen = scores.gather(1, classes.unsqueeze(1)).sum()
            gradients = None
            if chosen.requires_grad:
                (gradients,) = torch.autograd.grad(chosen, activations, allow_unused=True)
        if gradients is None:
            raise ValueError("layer: the scores do not depend on its output")
        self.output, self.targets = scores.detach(), classes
        size = input.shape[2:] if self.size == "input" else self.size
        return cam_pool(activations.detach(), gradients, relu=self.relu, normalize=self.normalize, size=size)

    def _forward(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """The layer's activations, as a leaf of the graph, and the scores that follow from them."""
        caught: list[Tensor] = []

        def catch(module: nn.Module, args: Any, output: Any) -> Tensor:
            if not isinstance(output, Tensor) or output.dim() < 3:
                found = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
                raise ValueError(f"layer: expected an output (B, C, *S) with spatial extent, got {found}")
            leaf = output.detach().requires_grad_()
            caught[:] = [leaf]
            # From here on a graph is recorded, and before it none. The clone may be changed in place by what follows.
            torch.set_grad_enabled(True)
            return leaf.clone()

        grad_mode = torch.is_grad_enabled()
        handle = self.layer.register_forward_hook(catch)
        try:
            with torch.no_grad():
                scores = self.model(input)
        finally:
            handle.remove()
            torch.set_grad_enabled(grad_mode)
        if not caught:
            raise ValueError("layer: the forward pass did not run it")
        if not isinstance(scores, Tensor) or scores.dim() != 2:
            found = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
            raise ValueError(f"model: expected scores (B, classes), got {found}")
        return caught[0], scores


def _find_layer(model: nn.Module, layer: nn.Module | str) -> nn.Module:
    if isinstance(layer, str):
        try:
            return model.get_submodule(layer)
        except AttributeError:
            names = ", ".join(name for name, _ in model.named_children())
            raise ValueError(f"layer: the model has no module {layer!r}; its children are {names}") from None
    if not isinstance(layer, nn.Module):
        raise TypeError(f"layer: expected a module or its name, got {type(layer).__name__}")
    if all(module is not layer for module in model.modules()):
        raise ValueError(f"layer: {type(layer).__name__} is no module of the model")
    return layer


def _choose_targets(targets: int | Sequence[int] | Tensor | None, scores: Tensor) -> Tensor:
    batch, num_classes = scores.shape
    if targets is None:
        return scores.detach().argmax(1)
    try:
        classes = torch.as_tensor(targets, device=scores.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"targets: expected an int or one a sample, got {targets!r}") from error
    _checks.labels("targets", classes)
    classes = classes.to(torch.int64)
    if classes.dim() == 0:
        classes = classes.expand(batch)
    if classes.shape != (batch,):
        raise ValueError(f"targets: expected a class or {batch} of them, got shape {tuple(classes.shape)}")
    bad = (classes < 0) | (classes >= num_classes)
    if bool(bad.any()):
        raise IndexError(f"targets: expected classes in [0, {num_classes}), got {classes[bad].tolist()}")
    return classes
