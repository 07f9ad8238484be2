"""A simulated accelerator without float64, such as MPS: its tensors hold tensors of the CPU, where its kernels run.

The device is PyTorch's PrivateUse1, so that tensors have its dispatch keys, and the dispatcher decides what is a kernel
of the device and what consists of other operations. For an operation of torchext it would call the reference, and so
does `Accelerator`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._acc import register_python_privateuseone_device_guard
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _DummyBackendModule, _DummyDeviceGuard

from torchext._core import library

NAME = "privateuseone"
_WIDE = frozenset({torch.float64, torch.complex128})


def register() -> None:
    """Define the device in this process, in which PyTorch then regards it as an accelerator, for all that follows."""
    # PyTorch asks the module and the guard of a device for its current index, which is always 0.
    torch._register_device_module(NAME, _DummyBackendModule())
    register_python_privateuseone_device_guard(_DummyDeviceGuard())


class DeviceTensor(Tensor):
    """A tensor of the device, with the shape, the strides and the dtype of the tensor that it holds."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> DeviceTensor:
        made: DeviceTensor = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]  # not in PyTorch's stubs
            cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, device=torch.device(NAME, 0)
        )
        made.held = held
        return made

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]  # that of Tensor has a named argument
        return f"DeviceTensor({self.held})"

    def tolist(self) -> Any:
        """The values, which PyTorch refuses to convert for subclasses."""
        return self.cpu().tolist()

    # Calls of methods and functions stay as they are; calls of kernels outside of `Accelerator` raise.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # not a method of a class

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} is called outside of Accelerator")


def _is_on_device(value: Any) -> bool:
    return torch.device(value).type == NAME


# PyTorch's kernels of devices accept tensors of the CPU for these arguments: indices, and the other side of a copy.
_MIXES_DEVICES = frozenset({"aten::copy_", "aten::index.Tensor", "aten::index_put_"})


class Accelerator(TorchDispatchMode):
    """Runs the kernels of the device inside the block. A tensor of 64-bit floats and a mix of devices are errors."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []  # the operations of torchext that were called

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        leaves = _pytree.tree_leaves((args, kwargs))
        given = [leaf for leaf in leaves if isinstance(leaf, DeviceTensor)]
        asked = kwargs.get("device")
        to_device = _is_on_device(asked) if asked is not None else bool(given)
        if not to_device and not given:
            return func(*args, **kwargs)
        name = func._schema.name
        with self:
            if func.namespace == "torchext":
                self.seen.append(name.partition("::")[2])
                return library.operations[self.seen[-1]].reference(*args, **kwargs)
            composed = func.decompose(*args, **kwargs)  # below autograd, operations that consist of others get here
            if composed is not NotImplemented:
                return composed
        if name not in _MIXES_DEVICES:
            strangers = [one for one in leaves if isinstance(one, Tensor) and not isinstance(one, DeviceTensor)]
            assert not any(one.dim() for one in strangers), f"{func} got tensors of two devices"
        if asked is not None:
            kwargs["device"] = torch.device("cpu") if to_device else asked
        held_args, held_kwargs = _pytree.tree_map_only(DeviceTensor, lambda one: one.held, (args, kwargs))
        result = func(*held_args, **held_kwargs)
        return _pytree.tree_map_only(Tensor, lambda one: self._placed(func, one, given, to_device), result)

    @staticmethod
    def _placed(func: Any, result: Tensor, given: Sequence[DeviceTensor], to_device: bool) -> Tensor:
        for one in given:  # an operation that writes returns its argument
            if one.held is result:
                return one
        if not to_device:
            return result
        assert result.dtype not in _WIDE, f"{func} makes a tensor of {result.dtype}"
        return DeviceTensor(result)


def on_device(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [DeviceTensor(tensor.detach()).requires_grad_(tensor.requires_grad) for tensor in tensors]


def held(tensor: Tensor) -> Tensor:
    """The values of a tensor of the device."""
    assert isinstance(tensor, DeviceTensor)
    return tensor.held
