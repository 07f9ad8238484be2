"""Folders that are next to the package in a source tree, and inside of it if it is installed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent
"""The folder of the package, which contains the compiled libraries."""


DISTRIBUTION = "torchext-ops"
"""The name under which pip installs the package. The torchext of the Python Package Index is of another project."""


def folder(name: str) -> Path:
    """The path of a folder: ``torchext/_name`` in an installed package, ``name`` in a source tree."""
    inside = PACKAGE / f"_{name}"
    return inside if inside.is_dir() else PACKAGE.parent / name


def package(name: str) -> str:
    """Import such a folder as a package, and return the package's name, which is the same in both cases."""
    full = f"torchext._{name}"
    if full not in sys.modules:
        path = folder(name)
        spec = importlib.util.spec_from_file_location(
            full, path / "__init__.py", submodule_search_locations=[str(path)]
        )
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} is not a package")
        module = importlib.util.module_from_spec(spec)
        sys.modules[full] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[full]  # otherwise the next call would return an incomplete module
            raise
    return full
