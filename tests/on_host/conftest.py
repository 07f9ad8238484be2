"""Loads the CUDA kernels for CPU tensors from the folder into which `make test-on-host` builds them."""

from __future__ import annotations

import importlib
import math
import os
import sys
import zlib
from pathlib import Path

import pytest

from torchext._core import library

FOLDER = os.environ.get("TORCHEXT_ON_HOST")

# Kernels cannot be unregistered, so these tests need processes of their own.
collect_ignore_glob = [] if FOLDER else ["test_*.py"]

if FOLDER:
    sys.path.insert(0, FOLDER)
    importlib.import_module("torchext_on_host")
    library.trace_kernels()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out derivatives of large samples: they call the kernels dozens of times, but in no other way."""
    items[:] = [item for item in items if not (_is_derivative(item) and _is_large(item))]


def _is_derivative(item: pytest.Item) -> bool:
    here = Path(__file__).parent in item.path.parents
    return here and getattr(item, "originalname", "") == "test_derivatives_are_right_in_both_modes"


def _is_large(item: pytest.Item) -> bool:
    shapes = item.callspec.params["sample"].shapes  # type: ignore[attr-defined]  # only parametrised tests have it
    return sum(map(math.prod, shapes)) > 4000


@pytest.fixture(autouse=True)
def _device(request: pytest.FixtureRequest) -> None:
    """Choose an order of threads, a number of processors and a width of indices by the name of the test."""
    on_host = sys.modules["torchext_on_host"]
    choice = zlib.crc32(request.node.name.encode())
    on_host.start(seed=choice, processors=132 if choice & 1 else 1, wide=bool(choice & 2))
