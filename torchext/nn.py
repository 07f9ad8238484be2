"""The operations as modules."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from torchext._core import checks
from torchext._core.dtypes import FLOAT_DTYPES, INTEGER_DTYPES
from torchext.onehot.class_overlap import overlap_of_scores
from torchext.onehot.labels import label_rule
from torchext.onehot.one_hot import check_options, one_hot
from torchext.windows.arrays import Array
from torchext.windows.padding import PaddingMode
from torchext.windows.patches import patchify, unpatchify
from torchext.windows.sliding import sliding_window
from torchext.windows.unfold import fold, unfold
from torchext.windows.weight import Weight

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["DiceLoss", "Fold", "OneHot", "Patchify", "SlidingWindow", "Unfold", "Unpatchify"]


# torch.fx.symbolic_trace records calls of these functions instead of tracing their checks.
for _name in ("fold", "one_hot", "overlap_of_scores", "patchify", "sliding_window", "unfold", "unpatchify"):
    torch.fx.wrap(_name)


class _Options(torch.nn.Module):
    """A module that calls a function with options that do not change."""

    def __init__(self, variables: dict[str, Any]) -> None:
        """Take the arguments of the subclass from ``locals()`` at the start of its ``__init__``."""
        super().__init__()
        self.options = {name: value for name, value in variables.items() if name not in ("self", "__class__")}

    def extra_repr(self) -> str:
        """The options that differ from their defaults, as the arguments of a call."""
        return _changed(type(self), self.options)


class _Geometry(_Options):
    """Options that are also attributes to read and to set, as in the PyTorch module that it replaces."""

    def __getattr__(self, name: str) -> Any:
        options = self.__dict__.get("options", {})
        return options[name] if name in options else super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        options = self.__dict__.get("options", {})
        if name in options:
            options[name] = value
        else:
            super().__setattr__(name, value)


class OneHot(_Options):
    """Encode labels as one-hot vectors: `torchext.one_hot` as a module.

    Args:
        num_classes: C, the number of classes, or -1 as in `torchext.one_hot`.
        options: ``dim``, ``dtype``, ``on_value``, ``off_value``, ``label_smoothing``, ``ignore_index`` and ``invalid``
            of `torchext.one_hot`.

    Raises:
        IndexError: in a call, a label is outside ``[0, C)``.
        TypeError: a wrong type or dtype.
        ValueError: a wrong option; in a call, a `dim` that the labels do not have.

    Note:
        Deterministic.

    Examples:
        >>> torchext.nn.OneHot(3, dim=0)(torch.tensor([0, 2]))
        tensor([[1., 0.],
                [0., 0.],
                [0., 1.]])
    """

    def __init__(
        self,
        num_classes: int = -1,
        *,
        dim: int = -1,
        dtype: torch.dtype | None = None,
        on_value: float = 1.0,
        off_value: float = 0.0,
        label_smoothing: float = 0.0,
        ignore_index: int | None = None,
        invalid: Literal["raise", "zero"] = "raise",
    ) -> None:
        super().__init__(locals())
        checks.integer("dim", dim)
        # A dtype of None is PyTorch's default dtype at the time of the call, so that the widest one is assumed here.
        widest = torch.float64 if dtype is None else dtype
        check_options(num_classes, widest, on_value, off_value, label_smoothing, ignore_index, invalid)

    def forward(self, labels: Tensor) -> Tensor:
        """Encode labels ``(*)``."""
        return one_hot(labels, **self.options)


class Unfold(_Geometry):
    """Copy windows of images to columns: `torchext.unfold` as a module, which replaces `torch.nn.Unfold`.

    Args:
        kernel_size: size of a window, one number or one for each of 1 to 3 spatial dimensions.
        dilation: step between the elements of a window.
        padding: positions added on both sides.
        stride: step between windows.
        padding_mode: the values of the padding, as in `torchext.unfold`.
        value: the value of the padding in constant mode.

    Raises:
        TypeError: in a call, a wrong type.
        ValueError: in a call, a wrong shape or geometry.

    Note:
        Deterministic and differentiable.

    Examples:
        >>> torchext.nn.Unfold(4, stride=4)(torch.zeros(1, 3, 224, 224)).shape
        torch.Size([1, 48, 3136])
    """

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        dilation: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        stride: int | Sequence[int] = 1,
        *,
        padding_mode: PaddingMode = "constant",
        value: float = 0.0,
    ) -> None:
        super().__init__(locals())

    def forward(self, input: Tensor) -> Tensor:
        """Copy the windows of images ``(N, C, *S)`` to columns ``(N, C·∏kernel_size, L)``."""
        return unfold(input, **self.options)


class Fold(_Geometry):
    """Add columns of windows to images: `torchext.fold` as a module, which replaces `torch.nn.Fold`.

    Args:
        output_size: size of the images, one number or one for each of 1 to 3 spatial dimensions.
        kernel_size: size of a window.
        dilation: step between the elements of a window.
        padding: positions removed on both sides.
        stride: step between windows.

    Raises:
        TypeError: in a call, a wrong type.
        ValueError: in a call, a wrong shape or geometry.

    Note:
        Deterministic and differentiable.

    Examples:
        >>> torchext.nn.Fold(224, 4, stride=4)(torch.zeros(1, 48, 3136)).shape
        torch.Size([1, 3, 224, 224])
    """

    def __init__(
        self,
        output_size: int | Sequence[int],
        kernel_size: int | Sequence[int],
        dilation: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        stride: int | Sequence[int] = 1,
    ) -> None:
        super().__init__(locals())

    def forward(self, input: Tensor) -> Tensor:
        """Add columns ``(N, C·∏kernel_size, L)`` to images ``(N, C, *output_size)``."""
        return fold(input, **self.options)


class Patchify(_Options):
    """Convert images to normalised patch tokens: `torchext.patchify` as a module.

    Args:
        size: P, or the height and the width of a patch.
        options: ``mean``, ``std``, ``scale``, ``dtype``, ``input_layout`` and ``token_order`` of `torchext.patchify`.

    Raises:
        TypeError: in a call, a wrong type or dtype.
        ValueError: in a call, a wrong shape or option.

    Note:
        Deterministic, and differentiable in float images.

    Examples:
        >>> photos = torch.zeros(1, 224, 224, 3, dtype=torch.uint8)
        >>> torchext.nn.Patchify(16, mean=0.5, std=0.5, input_layout="NHWC")(photos).shape
        torch.Size([1, 196, 768])
    """

    def __init__(
        self,
        size: int | Sequence[int],
        *,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        scale: float | None = None,
        dtype: torch.dtype | None = None,
        input_layout: Literal["NCHW", "NHWC"] = "NCHW",
        token_order: Literal["CPP", "PPC"] = "CPP",
    ) -> None:
        super().__init__(locals())

    def forward(self, images: Tensor) -> Tensor:
        """Convert images ``(N, C, H, W)`` to tokens ``(N, L, C·P·P)``."""
        return patchify(images, **self.options)


class Unpatchify(_Options):
    """Merge patch tokens into images: `torchext.unpatchify` as a module.

    Args:
        size: P, or the height and the width of a patch.
        grid: the number of patches along the height and along the width.
        options: ``mean``, ``std``, ``scale``, ``dtype``, ``output_layout`` and ``token_order`` of
            `torchext.unpatchify`.

    Raises:
        TypeError: in a call, a wrong type or dtype.
        ValueError: in a call, a wrong shape or option.

    Note:
        Deterministic, and differentiable if the images are floats.

    Examples:
        >>> torchext.nn.Unpatchify(16, 14, token_order="PPC")(torch.zeros(1, 196, 768)).shape
        torch.Size([1, 3, 224, 224])
    """

    def __init__(
        self,
        size: int | Sequence[int],
        grid: int | Sequence[int],
        *,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        scale: float | None = None,
        dtype: torch.dtype | None = None,
        output_layout: Literal["NCHW", "NHWC"] = "NCHW",
        token_order: Literal["CPP", "PPC"] = "CPP",
    ) -> None:
        super().__init__(locals())

    def forward(self, tokens: Tensor) -> Tensor:
        """Merge tokens ``(N, L, C·P·P)`` into images ``(N, C, H, W)``."""
        return unpatchify(tokens, **self.options)


class SlidingWindow(_Options):
    """Run a model on windows of an input and merge its outputs: `torchext.sliding_window` as a module.

    Args:
        model: maps windows ``(B, C, *size)`` to an output ``(B, C', *S')``, or to containers of outputs.
        size: size of a window, one number or one for each spatial dimension.
        options: all keyword arguments of `torchext.sliding_window` except `out`, which is an argument of each call.

    Raises:
        ImportError: in a call, `progress` is True and ``tqdm`` is not installed.
        TypeError: in a call, a wrong type or dtype.
        ValueError: in a call, a wrong shape or option.

    Note:
        Deterministic and differentiable if the model is. Training and evaluation mode only affect the model.

    Examples:
        >>> blur = torch.nn.AvgPool2d(3, stride=1, padding=1)
        >>> torchext.nn.SlidingWindow(blur, 64, overlap=0.5)(torch.rand(1, 3, 100, 150)).shape
        torch.Size([1, 3, 100, 150])
    """

    def __init__(
        self,
        model: Callable[[Tensor], Any],
        size: int | Sequence[int],
        *,
        overlap: float | Sequence[float] = 0.25,
        halo: int | Sequence[int] = 0,
        scale: float | Sequence[float] | None = None,
        batch_size: int = 4,
        weight: Weight = "gaussian",
        skip: Callable[[Tensor], bool | Tensor] | None = None,
        padding_mode: PaddingMode = "constant",
        value: float = 0.0,
        output_device: torch.device | str | int | None = None,
        argmax: bool = False,
        progress: bool = False,
        mesh: DeviceMesh | None = None,
    ) -> None:
        super().__init__(locals())
        self.model = self.options.pop("model")

    def forward(self, input: Tensor | Array, *, out: Any = None) -> Any:
        """Run the model on the windows of ``(N, C, *S)`` and merge its outputs."""
        return sliding_window(self.model, input, out=out, **self.options)


class DiceLoss(torch.nn.Module):
    """The Dice loss of scores and integer labels: one minus the Dice coefficient of each sample and class.

    For probabilities p and one-hot labels t, summed over all positions of a sample, the loss is
    ``1 - (2·Σpt + smooth_nr) / (Σp + Σt + smooth_dr)``. Neither p nor t is stored: forward and backward each read
    scores and labels once. The result is that of MONAI's ``DiceLoss(to_onehot_y=True)`` with the options of the same
    names.

    If the scores have one channel, it is the score of class 1 of two classes: labels are 0 and 1, and the loss is that
    of class 1.

    Args:
        include_background: False leaves out class 0.
        sigmoid: scores are logits, one sigmoid for each class.
        softmax: scores are logits of a softmax over the classes. Without `sigmoid` and `softmax`, scores are
            probabilities.
        squared_pred: sum squares, ``Σp²`` and ``Σt²``, in the denominator.
        jaccard: use the intersection over union instead of Dice.
        reduction: ``"mean"`` or ``"sum"`` over samples and classes, or ``"none"``.
        smooth_nr: added to the numerator.
        smooth_dr: added to the denominator.
        batch: also sum over the samples before the division.
        weight: the factor of each class's loss: one number, or one for each class (without class 0 if
            `include_background` is False). For a single class, MONAI ignores it.
        ignore_index: a label whose positions are left out, whatever their scores, including NaN.
        invalid: how labels outside ``[0, C)`` are handled. ``"raise"`` is an IndexError on the CPU; on CUDA the
            position is left out and `torchext.check_errors` raises. With ``"zero"`` the position is left out.

    Raises:
        IndexError: in a call, a label is outside ``[0, C)``.
        TypeError: a wrong type or dtype.
        ValueError: a wrong shape or option.

    Note:
        Deterministic, and differentiable in the scores. For scores of half precision the loss is float32. See Milletari
        et al., "V-Net", 3DV 2016.

    Examples:
        >>> scores = torch.tensor([[[4.0, -1.0, 0.0], [-2.0, 3.0, 1.0]]])
        >>> torchext.nn.DiceLoss(softmax=True)(scores, torch.tensor([[0, 1, 1]]))
        tensor(0.1023)
    """

    weight: Tensor | None

    def __init__(
        self,
        *,
        include_background: bool = True,
        sigmoid: bool = False,
        softmax: bool = False,
        squared_pred: bool = False,
        jaccard: bool = False,
        reduction: Literal["mean", "sum", "none"] = "mean",
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
        weight: float | Sequence[float] | Tensor | None = None,
        ignore_index: int | None = None,
        invalid: Literal["raise", "zero"] = "raise",
    ) -> None:
        super().__init__()
        self.include_background = checks.flag("include_background", include_background)
        self.sigmoid = checks.flag("sigmoid", sigmoid)
        self.softmax = checks.flag("softmax", softmax)
        if sigmoid and softmax:
            raise ValueError("sigmoid, softmax: expected at most one of them, got both")
        self.activation: Literal["softmax", "sigmoid"] | None = "softmax" if softmax else "sigmoid" if sigmoid else None
        self.squared_pred = checks.flag("squared_pred", squared_pred)
        self.jaccard = checks.flag("jaccard", jaccard)
        checks.option("reduction", reduction, ("mean", "sum", "none"))
        self.reduction = reduction
        self.smooth_nr = _smoothing("smooth_nr", smooth_nr)
        self.smooth_dr = _smoothing("smooth_dr", smooth_dr)
        self.batch = checks.flag("batch", batch)
        self.ignore_index, _ = label_rule(ignore_index, invalid)
        self.invalid = invalid
        self.register_buffer("weight", None if weight is None else _class_weight(weight))

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of scores ``(N, C, *S)`` and labels ``(N, *S)`` or ``(N, 1, *S)``.

        The result is a scalar. Without reduction it is ``(N, C, 1, …)``, or with `batch` ``(C, 1, …)``, with as many
        dimensions as in MONAI.
        """
        checks.floats("input", input)
        checks.tensor("target", target)
        if input.dim() < 2:
            raise ValueError(f"input: expected shape (N, C, *S), got {tuple(input.shape)}")
        if target.dim() == input.dim() and target.shape[1] == 1:
            target = target.squeeze(1)
        is_binary = input.shape[1] == 1
        if is_binary and self.activation == "softmax":
            raise ValueError("input: expected at least 2 channels for softmax, got 1")
        overlap = overlap_of_scores(
            "input",
            input.expand(-1, 2, *input.shape[2:]) if is_binary else input,
            target,
            self.activation,
            self.squared_pred,
            dim=1,
            ignore_index=self.ignore_index,
            invalid=self.invalid,
            labels_name="target",
        )
        # A single channel was expanded to two classes, of which class 0 is left out.
        first = 0 if self.include_background and not is_binary else 1
        intersection, total, support = (sums[:, first:] for sums in overlap)
        if self.batch:
            intersection, total, support = intersection.sum(0), total.sum(0), support.sum(0)
        denominator = total + support
        if self.jaccard:
            denominator = 2 * (denominator - intersection)
        loss = 1 - (2 * intersection + self.smooth_nr) / (denominator + self.smooth_dr)
        if self.weight is not None:
            if self.weight.dim() == 1 and self.weight.shape[0] != loss.shape[-1]:
                raise ValueError(f"weight: expected one number or {loss.shape[-1]} of them, got {self.weight.shape[0]}")
            loss = loss * self.weight.to(loss)
        if self.reduction == "none":
            return loss.reshape(*loss.shape, *[1] * (input.dim() - 2))
        return loss.mean() if self.reduction == "mean" else loss.sum()

    def extra_repr(self) -> str:
        """The options that differ from their defaults, as the arguments of a call."""
        return _changed(DiceLoss, {name: getattr(self, name) for name in inspect.signature(DiceLoss).parameters})


def _changed(module: type[torch.nn.Module], options: dict[str, Any]) -> str:
    """The options of a module that differ from their defaults, as the arguments of a call."""
    shown = []
    for name, value in options.items():
        default = inspect.signature(module).parameters[name].default
        if isinstance(value, Tensor):
            value = "..." if value.is_meta else value.tolist()
        # Only values of these types are compared: arrays have no single truth value.
        if value is not default and not (isinstance(value, int | float | str) and value == default):
            shown.append(f"{name}={value!r}")
    return ", ".join(shown)


def _smoothing(name: str, value: Any) -> float:
    smoothing = checks.number(name, value)
    if not 0 <= smoothing < math.inf:
        raise ValueError(f"{name}: expected a finite number of at least 0, got {value}")
    return smoothing


def _class_weight(weight: float | Sequence[float] | Tensor) -> Tensor:
    if isinstance(weight, Tensor):
        values = weight
    else:
        try:
            # On the CPU for any default device, since the values are checked below.
            values = torch.as_tensor(weight, dtype=torch.float32, device="cpu")
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"weight: expected a number or numbers, got {weight!r}") from None
    if values.dtype not in FLOAT_DTYPES | INTEGER_DTYPES:
        raise TypeError(f"weight: expected a float or integer dtype, got {values.dtype}")
    if values.dim() > 1:
        raise ValueError(f"weight: expected one number or one for each class, got shape {tuple(values.shape)}")
    if not values.is_meta and not bool(((values >= 0) & values.isfinite()).all()):
        raise ValueError(f"weight: expected finite numbers of at least 0, got {values.tolist()}")
    return values if isinstance(weight, Tensor) else values.to(torch.get_default_device())
