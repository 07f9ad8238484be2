"""A hook of MkDocs: what `torchext` and `torchext.nn` export becomes the page of the API, out of its docstrings."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent.parent / "torchext"


def exported(module: Path) -> list[str]:
    """The names in a module's ``__all__``, without importing it."""
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return [str(name) for name in ast.literal_eval(node.value)]
    raise ValueError(f"{module} has no __all__")


def entries() -> str:
    """One directive of mkdocstrings for each name, functions and classes first, then the modules' own."""
    modules = {path.stem for path in PACKAGE.glob("*.py")}
    names = exported(PACKAGE / "__init__.py")
    parts = ["## torchext", *(f"::: torchext.{name}" for name in names if name not in modules)]
    for name in names:
        # The references have the operations' signatures, and a docstring that says so.
        if name in modules and name != "reference":
            parts += [
                f"## torchext.{name}",
                *(f"::: torchext.{name}.{each}" for each in exported(PACKAGE / f"{name}.py")),
            ]
    return "\n\n".join(parts)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """What MkDocs calls for every page."""
    return markdown.replace("<!-- api -->", entries())
