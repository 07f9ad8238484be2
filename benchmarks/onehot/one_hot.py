"""One-hot targets, which torchext.one_hot writes in one pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import torchext

from ..harness import floors
from ..harness.overhead import overhead
from ..harness.workload import Fn, Replaced, Workload, register

Setup = Callable[[torch.device], tuple[Tensor, ...]]


def labels(shape: tuple[int, ...], classes: int, dtype: torch.dtype = torch.int64) -> Setup:
    return lambda device: (torch.randint(classes, shape, dtype=dtype, device=device),)


def with_tensor(setup: Setup, *shape: int) -> Setup:
    return lambda device: (*setup(device), torch.randn(shape, device=device))


def ours(classes: int, dim: int = -1, dtype: torch.dtype = torch.float32) -> Fn:
    return lambda y: torchext.one_hot(y, classes, dim=dim, dtype=dtype)


def f_one_hot(classes: int, dim: int = -1, dtype: torch.dtype = torch.float32) -> Fn:
    def peer(y: Tensor) -> Tensor:
        return F.one_hot(y.long(), classes).movedim(-1, dim).to(dtype)

    return peer


def scatter(classes: int, dim: int = -1, dtype: torch.dtype = torch.float32) -> Fn:
    def peer(y: Tensor) -> Tensor:
        index = y.long().unsqueeze(dim)
        shape = list(index.shape)
        shape[dim] = classes
        return torch.zeros(shape, dtype=dtype, device=y.device).scatter_(dim, index, 1.0)

    return peer


def equals(classes: int, dim: int = -1, dtype: torch.dtype = torch.float32) -> Fn:
    def peer(y: Tensor) -> Tensor:
        index = y.unsqueeze(dim)
        shape = [1] * index.ndim
        shape[dim] = classes
        return (index == torch.arange(classes, dtype=y.dtype, device=y.device).view(shape)).to(dtype)

    return peer


def builders(classes: int, dim: int = -1, dtype: torch.dtype = torch.float32) -> dict[str, Fn]:
    return {
        "F.one_hot": f_one_hot(classes, dim, dtype),
        "zeros.scatter_": scatter(classes, dim, dtype),
        "labels == arange": equals(classes, dim, dtype),
    }


def one_hot(
    name: str, setup: Setup, classes: int, dim: int = -1, dtype: torch.dtype = torch.float32, **targets: Any
) -> Workload:
    peers = builders(classes, dim, dtype)
    return Workload(
        name=name,
        family="one_hot",
        setup=setup,
        ours=ours(classes, dim, dtype),
        peers=peers,
        compiled={name: peers[name] for name in ("zeros.scatter_", "labels == arange")},
        floor=floors.FILL,
        **targets,
    )


HUGE: dict[str, Any] = {"max_floor": 2.5, "max_peer": 0.3}
F_ONE_HOT = Replaced("F.one_hot", "`F.one_hot(…).float()`")

register(
    one_hot("2048×32000", labels((2048,), 32000), 32000, replaces=Replaced("zeros.scatter_"), **HUGE),
    one_hot("masks 8×21×512², int64", labels((8, 512, 512), 21), 21, dim=1, **HUGE),
    one_hot(
        "masks 8×21×512², uint8",
        labels((8, 512, 512), 21, torch.uint8),
        21,
        dim=1,
        replaces=F_ONE_HOT,
        in_short_run=True,
        profiled=True,
        **HUGE,
    ),
    one_hot(
        "masks 8×21×512², uint8 to bfloat16",
        labels((8, 512, 512), 21, torch.uint8),
        21,
        dim=1,
        dtype=torch.bfloat16,
        **HUGE,
    ),
    one_hot(
        "masks 8×21×512², uint8 to uint8",
        labels((8, 512, 512), 21, torch.uint8),
        21,
        dim=1,
        dtype=torch.uint8,
        **HUGE,
    ),
    one_hot("volume 1×14×128³", labels((1, 128, 128, 128), 14), 14, dim=1, **HUGE),
    one_hot(
        "4096×1000",
        labels((4096,), 1000),
        1000,
        max_floor=1.15,
        max_peer=0.5,
        replaces=F_ONE_HOT,
        in_short_run=True,
    ),
    one_hot("256×1000", labels((256,), 1000), 1000, max_floor=1.5, max_peer=1.0),
)


def then_product(build: Fn) -> Fn:
    return lambda y, weight, _hot: build(y) @ weight


def then_sum(build: Fn) -> Fn:
    return lambda y, _hot: build(y).sum(0)


def with_one_hot(setup: Setup, classes: int) -> Setup:
    """Add the one-hot as last input: the floor of a pair is the time of the second operation alone."""

    def prepare(device: torch.device) -> tuple[Tensor, ...]:
        inputs = setup(device)
        return (*inputs, F.one_hot(inputs[0], classes).float())

    return prepare


PRODUCT = floors.custom("product alone", lambda _y, weight, hot: hot @ weight)
CLASSES = 1000
Y = labels((4096,), CLASSES)

register(
    Workload(
        name="4096×1000, then a product",
        family="one_hot",
        setup=with_one_hot(with_tensor(Y, CLASSES, 256), CLASSES),
        ours=then_product(ours(CLASSES)),
        peers={name: then_product(build) for name, build in builders(CLASSES).items()},
        floor=PRODUCT,
        max_peer=1.0,
    ),
    Workload(
        name="4096×1000, then a sum",
        family="one_hot",
        setup=with_one_hot(Y, CLASSES),
        ours=then_sum(ours(CLASSES)),
        peers={name: then_sum(build) for name, build in builders(CLASSES).items()},
        floor=floors.custom("sum alone", lambda _y, hot: hot.sum(0)),
        max_peer=1.0,
    ),
)


def cross_entropy(build: Fn) -> Fn:
    return lambda y, logits: -(build(y) * F.log_softmax(logits, 1)).sum(1).mean()


def with_logits(setup: Setup, *shape: int) -> Setup:
    """Labels, logits that require grad, and the gradient of the loss."""
    return lambda device: (
        *setup(device),
        torch.randn(shape, device=device, requires_grad=True),
        torch.ones((), device=device),
    )


GRADIENT = floors.custom("read + fill of the logits", lambda _y, logits, _: logits.detach().clone().fill_(1))

# In compiled code both the encoding and the comparison are fused into the same loop over the logits, so the target only
# allows for noise.
register(
    Workload(
        name="4096×1000, compiled cross entropy, with backward",
        family="one_hot",
        setup=with_logits(Y, 4096, CLASSES),
        ours=cross_entropy(ours(CLASSES)),
        compile_ours=True,
        compiled={
            "labels == arange": cross_entropy(equals(CLASSES)),
            "F.one_hot": cross_entropy(f_one_hot(CLASSES)),
        },
        floor=GRADIENT,
        backward=True,
        atol=1e-9,
        max_peer=1.05,
    ),
)

# If the encoding cannot be fused, the compiler's own code writes it to memory, in the same way for both.
register(
    Workload(
        name="masks 8×21×512², uint8, compiled, as the output",
        family="one_hot",
        setup=labels((8, 512, 512), 21, torch.uint8),
        ours=ours(21, dim=1),
        compile_ours=True,
        compiled={"labels == arange": equals(21, dim=1)},
        floor=floors.FILL,
        max_peer=1.05,
    ),
    Workload(
        name="4096×1000, compiled, then a product",
        family="one_hot",
        setup=with_one_hot(with_tensor(Y, CLASSES, 256), CLASSES),
        ours=then_product(ours(CLASSES)),
        compile_ours=True,
        compiled={"labels == arange": then_product(equals(CLASSES))},
        floor=PRODUCT,
        max_peer=1.05,
    ),
)

register(
    overhead(
        "one_hot 4×10",
        labels((4,), 10),
        ours(10),
        {
            "F.one_hot (int64)": lambda y: F.one_hot(y, 10),
            "F.one_hot.float": lambda y: F.one_hot(y, 10).float(),
            "zeros.scatter_": lambda y: torch.zeros(4, 10, device=y.device).scatter_(1, y[:, None], 1.0),
        },
        max_us=5.0,
    )
)
