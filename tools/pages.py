"""A hook of MkDocs: the page of the API out of the docstrings, and the benchmarks' results among the pages."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "torchext"
RESULTS = ROOT / "benchmarks" / "results"


def exported(module: Path) -> list[str]:
    """The names in a module's ``__all__``, without importing it: those of a list, and of the families added to it."""
    names: list[str] = []
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            names += ast.literal_eval(node.value)
        elif isinstance(node, ast.AugAssign) and isinstance(node.value, ast.Attribute):  # __all__ += family.__all__
            names += exported(module.parent / ast.unparse(node.value.value) / "__init__.py")
    if not names:
        raise ValueError(f"{module} has no __all__")
    return sorted(names)


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


def on_files(files: Any, config: Any, **_: Any) -> Any:
    """What MkDocs calls with the files of docs/."""
    from mkdocs.structure.files import File  # of the environment that builds the pages

    for path in RESULTS.iterdir():
        if path.suffix in (".md", ".svg"):
            files.append(File.generated(config, f"results/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """What MkDocs calls for every page."""
    return markdown.replace("../benchmarks/results/", "results/").replace("<!-- api -->", entries())
