"""A hook of MkDocs that generates the API page from docstrings, and adds the results of the benchmarks to the pages.

The build fails if a page shows an example that is not code, or an object of the API without its signature.
``python tools/pages.py build/docs`` checks pages that are already built.
"""

from __future__ import annotations

import ast
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import griffe
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "torchext"
RESULTS = ROOT / "benchmarks" / "results"


def exported(module: Path) -> list[str]:
    """The names in a module's ``__all__``, without importing it: those of the list, and of families added to it."""
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
    """A directive of mkdocstrings for each name: functions and classes first, then those of the modules."""
    modules = {path.stem for path in PACKAGE.glob("*.py")}
    names = exported(PACKAGE / "__init__.py")
    parts = ["## torchext", *(f"::: torchext.{name}" for name in names if name not in modules)]
    for name in names:
        # References have the signatures of the operations, and docstrings that refer to them.
        if name in modules and name != "reference":
            parts += [
                f"## torchext.{name}",
                *(f"::: torchext.{name}.{each}" for each in exported(PACKAGE / f"{name}.py")),
            ]
    return "\n\n".join(parts)


class Exported(griffe.Extension):
    """Corrects cases in which Griffe, which reads the sources for mkdocstrings, does not follow Python."""

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """Add the constructor of a NamedTuple, whose arguments are the fields."""
        if any(str(base) == "NamedTuple" for base in cls.bases):
            kind = griffe.ParameterKind.positional_or_keyword
            fields = [
                griffe.Parameter(name, annotation=field.annotation, default=field.value, kind=kind)
                for name, field in cls.attributes.items()
            ]
            cls.set_member("__init__", griffe.Function("__init__", parameters=griffe.Parameters(*fields)))

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Export the function if a function and its module have the same name; Griffe would export the module."""
        for family in list(pkg.modules.values()):
            for name, module in family.modules.items():
                if name in module.members:
                    pkg.set_member(name, griffe.Alias(name, module[name], parent=pkg))


class Shown(HTMLParser):
    """Collects the errors of a built page."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.wrong: list[str] = []
        self._open = {"pre": 0, "blockquote": 0}
        self._without_signature = ""
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Count the open elements. The signature of an object is between its heading and its text."""
        values = dict(attrs)
        classes = (values.get("class") or "").split()
        if tag in self._open:
            self._open[tag] += 1
        if "doc-heading" in classes:
            self._without_signature = values.get("id") or ""
        elif "doc-signature" in classes:
            self._without_signature = ""
        elif "doc-contents" in classes and self._without_signature:
            self.wrong.append(f"{self._without_signature} has no signature")

    def handle_endtag(self, tag: str) -> None:
        """Count the open elements."""
        if tag in self._open:
            self._open[tag] -= 1

    def handle_data(self, data: str) -> None:
        """Find examples outside of code: Markdown converts each ``>>>`` to three nested quotations."""
        if data.strip() and (self._open["blockquote"] > 2 or (">>>" in data and not self._open["pre"])):
            self.wrong.append(f"an example is not shown as code: {data.strip().splitlines()[0]}")


def check(site: Path) -> None:
    """Raise an error for pages that show an example that is not code, or an object of the API without its signature."""
    wrong = [f"{page.relative_to(site)}: {what}" for page in sorted(site.rglob("*.html")) for what in Shown(page).wrong]
    if wrong:
        raise PluginError("\n".join(wrong))


def on_files(files: Any, config: Any, **_: Any) -> Any:
    """Called by MkDocs with the files of docs/."""
    for path in RESULTS.iterdir():
        if path.suffix in (".md", ".svg"):
            files.append(File.generated(config, f"results/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs for every page."""
    return markdown.replace("../benchmarks/results/", "results/").replace("<!-- api -->", entries())


def on_post_build(config: Any, **_: Any) -> None:
    """Called by MkDocs after everything is written."""
    check(Path(config.site_dir))


if __name__ == "__main__":
    check(Path(sys.argv[1]))
