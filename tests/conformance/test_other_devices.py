"""Devices for which there is no compiled kernel: one without float64, and tensors without values."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import torchext
from tests import ROOT
from tests.conformance.rooms import OPERATIONS
from tests.conformance.table import Operation, Sample, outputs


def rows(operations: Iterable[Operation]) -> list[Any]:
    """The samples except the large ones, which test the division into blocks in kernels."""
    small = ((o, s) for o in operations for s in o.samples if sum(map(math.prod, s.shapes)) < 20000)
    return [pytest.param(o, s, id=f"{o.name}-{s.name}") for o, s in small]


every_sample = pytest.mark.parametrize(("operation", "sample"), rows(OPERATIONS))
every_functional_sample = pytest.mark.parametrize(("operation", "sample"), rows(o for o in OPERATIONS if o.functional))


def test_a_device_without_float64_passes_the_table() -> None:
    path = "tests/conformance/without_float64.py"  # in a process of its own, in which the device is registered
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.findall(r"(\d+) passed", done.stdout)[-1]) > 200


def calls_with(kind: str) -> dict[str, Callable[[], Any]]:
    """Calls with a tensor of another layout, by the argument that the error has to name."""
    floats = torch.rand(1, 3, 4, 4)
    if kind == "sparse":
        images, labels, whole = floats.to_sparse(), torch.tensor([0, 2]).to_sparse(), torch.rand(2).to_sparse()
    else:
        images = torch.quantize_per_tensor(floats, 0.1, 0, torch.quint8)
        labels = torch.quantize_per_tensor(torch.rand(2), 0.1, 0, torch.quint8)
        whole = labels
    return {
        "input": lambda: torchext.unfold(images, 2),
        "images": lambda: torchext.patchify(images, 2),
        "activations": lambda: torchext.cam_pool(images, floats),
        "gradients": lambda: torchext.cam_pool(floats, images),
        "windows": lambda: torchext.merge_windows(images.reshape(1, 1, 3, 4, 4) if kind == "quantised" else images, 4),
        "labels": lambda: torchext.one_hot(labels, 3),
        "indices": lambda: torchext.multi_hot(labels, 3),
        "values": lambda: torchext.class_sums(whole, torch.tensor([0, 2]), 3),
    }


@pytest.mark.filterwarnings("ignore:.*quantiz.*")
@pytest.mark.parametrize("kind", ["sparse", "quantised"])
def test_sparse_and_quantised_tensors_are_refused_by_name(kind: str) -> None:
    for name, call in calls_with(kind).items():
        with pytest.raises(TypeError, match=rf"^{name}: expected .*, got torch\.(sparse_coo|quint8)"):
            call()


@every_functional_sample
def test_fake_tensors_and_meta_have_the_shapes_of_results(operation: Operation, sample: Sample) -> None:
    tensors = operation.arguments(sample, "cpu")
    expected = outputs(operation.function(*tensors, **sample.options))
    with FakeTensorMode() as mode:
        faked = [mode.from_tensor(tensor) for tensor in tensors]
        fakes = outputs(operation.function(*faked, **sample.options))
    on_meta = outputs(operation.function(*(tensor.to("meta") for tensor in tensors), **sample.options))
    for one, *others in zip(expected, fakes, on_meta, strict=True):
        for other, device in zip(others, ("cpu", "meta"), strict=True):
            assert (other.shape, other.dtype, other.device.type) == (one.shape, one.dtype, device)
            assert other.is_contiguous()
