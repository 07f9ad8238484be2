"""The types of the conformance table. Each operation has its rows in its own `cases.py`; `rooms` imports them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from tests.conformance.random_call import Call, Draw

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COMPLEX = (torch.complex64, torch.complex128)
INTEGERS = (
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64,
)  # fmt: skip
LABELS = (torch.bool, *INTEGERS)
MOVED = (torch.complex32, torch.float8_e4m3fn, torch.float8_e5m2)  # dtypes that are copied but never added
VALUES_AND_LABELS = tuple(
    dict.fromkeys([*((dtype, torch.int64) for dtype in FLOATS), *((torch.float32, dtype) for dtype in LABELS)])
)

LABELS_AND_VALUES = tuple((label, value) for value, label in VALUES_AND_LABELS)

Make = Callable[[tuple[int, ...], torch.dtype, str, torch.Generator], Tensor]
Dtypes = torch.dtype | tuple[torch.dtype, ...]  # the dtype of all tensor arguments, or one for each


@dataclass(frozen=True)
class Sample:
    """One call: the shapes of its tensor arguments, and the other arguments by name."""

    name: str
    shapes: tuple[tuple[int, ...], ...]
    options: dict[str, Any] = field(default_factory=dict)
    batched: bool = True  # the first dimension of each tensor that has one is the batch
    traced: bool = True  # False if compiling and exporting it would be the same as for another sample


@dataclass(frozen=True)
class WrongCall:
    """A call that must raise an error."""

    name: str
    call: Callable[[], Any]
    error: type[Exception]
    message: str


@dataclass(frozen=True)
class Sharded:
    """A call with DTensors: the dimension in which each argument and all results are sharded, None for replicated."""

    sample: Sample
    arguments: tuple[int | None, ...]
    result: int | str | None  # or "partial" if each rank has a summand


@dataclass(frozen=True)
class Operation:
    """One row of the table. Its functions return a tensor or a tuple of tensors."""

    name: str
    function: Callable[..., Any]
    reference: Callable[..., Any]
    independent: Callable[..., Any]  # computes the same values in another way, for `independent_dtypes`
    make: Make | tuple[Make, ...]  # makes all tensor arguments, or one function for each
    dtypes: tuple[Dtypes, ...]
    independent_dtypes: tuple[Dtypes, ...]
    default_dtype: Dtypes
    samples: tuple[Sample, ...]
    wrong: tuple[WrongCall, ...]
    launches: int  # the maximal number of kernels, copies and fills of a call of `batched` on a GPU
    functional: bool = True  # False if it writes into memory of an object: it is not traced, mapped or sharded
    differentiable: bool = True  # with respect to arguments that are not integers, for outputs that are not integers
    exact: bool = False  # kernels and references agree to the bit
    random_call: Callable[[Draw], Call] | None = None  # a call of the public function, and of its reference
    random_calls_round: bool = False  # results of random calls are not exact and are compared with a tolerance
    # Kernels with 64-bit indices sum shorter pieces. The width of the indices depends on the shapes and strides.
    pieces_follow_index_width: bool = False
    result_has_wide_indices: bool = False  # indices of the result have 64 bits for any size
    small_part: tuple[slice, ...] = (slice(1),)  # part of each tensor whose full Jacobian is small enough
    other_sizes: tuple[Sample, ...] = ()  # two samples of equal shapes whose results have different shapes
    sharded: tuple[Sharded, ...] = ()  # sharded in another way than by the first dimension

    def batched(self, count: int) -> Sample:
        """The first sample whose tensors all have a batch and are not empty, with another batch size."""
        sample = next(s for s in self.samples if s.batched and all(shape and 0 not in shape for shape in s.shapes))
        return replace(sample, shapes=tuple((count, *shape[1:]) for shape in sample.shapes))

    def arguments(self, sample: Sample, device: str, dtype: Dtypes | None = None, *, seed: int = 0) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        count = len(sample.shapes)
        makes, dtypes = _of_each(self.make, count), _of_each(dtype or self.default_dtype, count)
        return [
            make(shape, one, device, generator) for make, shape, one in zip(makes, sample.shapes, dtypes, strict=True)
        ]


def _of_each(value: Any, count: int) -> Sequence[Any]:
    return value if isinstance(value, tuple) else (value,) * count


class Recorder(TorchDispatchMode):
    """Records the calls of operations, with the arguments that the kernels get."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "torchext":
            self.calls.append((func, args))
        return func(*args, **(kwargs or {}))


def outputs(result: Any) -> tuple[Tensor, ...]:
    """The result of an operation as a tuple."""
    return (result,) if isinstance(result, Tensor) else tuple(result)


def has_derivative(tensor: Tensor) -> bool:
    return tensor.dtype.is_floating_point or tensor.dtype.is_complex


def requiring_grad(tensors: Sequence[Tensor]) -> list[Tensor]:
    """New leaves that require grad; integers do not."""
    return [tensor.detach().requires_grad_(has_derivative(tensor)) for tensor in tensors]


def total(result: Any, power: int = 1) -> Tensor:
    """The sum of a power of all outputs that have a derivative."""
    return sum(((out**power).sum() for out in outputs(result) if has_derivative(out)), torch.zeros(()))


def make_values(shape: tuple[int, ...], dtype: torch.dtype, device: str, generator: torch.Generator) -> Tensor:
    """Numbers that every dtype can hold and that are never equal for floats."""
    if dtype.is_floating_point or dtype.is_complex:
        wide = torch.complex64 if dtype.is_complex else torch.float64
        return torch.randn(shape, dtype=wide, generator=generator).to(dtype).to(device)
    if dtype == torch.bool:
        return (torch.rand(shape, generator=generator) < 0.3).to(device)
    return torch.randint(0, 100, shape, generator=generator).to(dtype).to(device)


def make_eighths(shape: tuple[int, ...], dtype: torch.dtype, device: str, generator: torch.Generator) -> Tensor:
    """Multiples of 1/8 in (0, 3]: sums of thousands of them, and of their squares, are exact in float32."""
    return (torch.randint(1, 25, shape, generator=generator) / 8).to(dtype).to(device)


def make_quarters(shape: tuple[int, ...], dtype: torch.dtype, device: str, generator: torch.Generator) -> Tensor:
    """Numbers whose sums are exact in float32 in any order."""
    if not (dtype.is_floating_point or dtype.is_complex):
        return make_values(shape, dtype, device, generator)
    quarters = torch.randint(-16, 17, (*shape, 2), generator=generator) / 4
    numbers = torch.view_as_complex(quarters) if dtype.is_complex else quarters[..., 0]
    return numbers.to(dtype).contiguous().to(device)


def make_labels(
    shape: tuple[int, ...], dtype: torch.dtype, device: str, generator: torch.Generator, *, num_classes: int = 5
) -> Tensor:
    limit = 2 if dtype == torch.bool else num_classes
    return torch.randint(0, limit, shape, generator=generator).to(dtype).to(device)
