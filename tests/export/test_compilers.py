"""Compilers, compiled autograd, activation checkpointing and the profiler."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import torchext
from tests.conformance.table import Operation, outputs, requiring_grad, total
from tests.export.calls import ROWS, small
from torchext._native import load

every_differentiable = pytest.mark.parametrize(
    "operation", [pytest.param(row, id=row.name) for row in ROWS if row.differentiable]
)


def loss_of(operation: Operation) -> tuple[list[Tensor], object]:
    sample = small(operation)[0]

    def loss(*tensors: Tensor) -> Tensor:
        return total(outputs(operation.function(*tensors, **sample.options)), power=2)

    return requiring_grad(operation.arguments(sample, "cpu")), loss


@every_differentiable
def test_activation_checkpointing_gives_the_same_gradient(operation: Operation) -> None:
    tensors, loss = loss_of(operation)
    leaves = [tensor for tensor in tensors if tensor.requires_grad]
    expected = torch.autograd.grad(loss(*tensors), leaves)
    actual = torch.autograd.grad(checkpoint(loss, *tensors, use_reentrant=False), leaves)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@every_differentiable
def test_compiled_autograd_gives_the_same_gradient(operation: Operation) -> None:
    tensors, loss = loss_of(operation)
    leaves = [tensor for tensor in tensors if tensor.requires_grad]
    expected = torch.autograd.grad(loss(*tensors), leaves)
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager", fullgraph=True)):
        loss(*tensors).backward()
    torch.testing.assert_close(tuple(leaf.grad for leaf in leaves), expected)


def test_the_profiler_shows_the_names_of_operations() -> None:
    image = torch.randn(1, 3, 8, 8, requires_grad=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        torchext.unfold(image, 2).sum().backward()
    assert {"torchext::unfold", "torchext::fold"} <= {event.key for event in profile.key_averages()}


@pytest.mark.skipif(not load.is_loaded("_C"), reason="without kernels, the flop counter reads the reference")
def test_the_flop_counter_counts_the_products_of_cam_pool() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    activations, weights = torch.randn(2, 6, 5, 4), torch.randn(2, 6)
    with FlopCounterMode(display=False) as counter:
        torchext.cam_pool(activations, weights=weights)
        torchext.cam_pool(activations, torch.randn(3, *activations.shape), method="layercam")
    assert counter.get_total_flops() == 2 * 2 * 6 * 20 + 2 * 3 * 2 * 6 * 20


def test_a_process_without_torchext_says_what_to_import(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(torchext.nn.Unfold(2), (torch.zeros(1, 1, 4, 4),)), path)
    code = f"import torch; torch.export.load({str(path)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    # Nothing of the package runs in that process, so that the text is PyTorch's, which docs/deploy.md quotes.
    assert re.search(r"resolve torch\.ops\.torchext\.unfold\.default .*import the custom op", done.stderr, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", f"import torchext; {code}"], check=False)
    assert done.returncode == 0
