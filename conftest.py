"""Defines the names that the examples in docstrings use."""

from typing import Any

import pytest
import torch

import torchext


@pytest.fixture(autouse=True)
def _names(doctest_namespace: dict[str, Any]) -> None:
    doctest_namespace.update(torch=torch, torchext=torchext)
