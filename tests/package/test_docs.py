"""Tests of the documentation: examples, figures, names, versions and links to files."""

from __future__ import annotations

import doctest
import re
import runpy

import pytest
import torch

import torchext
from benchmarks.harness import readme
from benchmarks.harness.report import rows_from_json
from tests import ROOT
from torchext import _cli

DOCS = ROOT / "docs"
SECTIONS = [
    pytest.param(section, id=f"{page.stem}-{section.splitlines()[0]}")
    for page in sorted(DOCS.glob("*.md"))
    for section in re.split(r"^## ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    if ">>>" in section
]


@pytest.mark.parametrize("section", SECTIONS)
def test_examples_give_what_the_page_says(section: str) -> None:
    names = {"torch": torch, "torchext": torchext}
    test = doctest.DocTestParser().get_doctest(section, names, section.splitlines()[0], None, 0)
    assert test.examples
    assert doctest.DocTestRunner().run(test).failed == 0


def test_pictures_of_the_pages_exist() -> None:
    for page in DOCS.glob("*.md"):
        for picture in re.findall(r"!\[.*?\]\((.*?)\)", page.read_text(encoding="utf-8")):
            assert (DOCS / picture).stat().st_size < 300_000


def test_the_readme_has_the_figures_of_the_results() -> None:
    shown = readme.between_marks(readme.README.read_text(encoding="utf-8"))
    assert shown == readme.table(rows_from_json(readme.RESULTS)), "python -m benchmarks.harness.readme renews them"


def test_the_changelog_names_every_public_name() -> None:
    changelog = (DOCS.parent / "CHANGELOG.md").read_text(encoding="utf-8")
    public = {*torchext.__all__, *(f"nn.{name}" for name in torchext.nn.__all__)}
    named = set(re.findall(r"`([\w.]+)`", changelog))
    assert public - named == set()


def test_the_citation_has_the_packages_version() -> None:
    citation = (DOCS.parent / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {torchext.__version__}\n" in citation


def test_ci_tests_the_oldest_and_newest_pytorch_of_the_wheel_matrix() -> None:
    pairs = runpy.run_path(str(DOCS.parent / "tools" / "wheel_matrix.py"))["PAIRS"]
    tried = sorted((pair.partition(":")[2] for pair in pairs), key=lambda version: [*map(int, version.split("."))])
    for name, version in (("oldest", tried[0]), ("newest", tried[-1])):
        pins = (DOCS.parent / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
        assert re.search(rf"^torch=={re.escape(version)}(;|$)", pins, re.MULTILINE), version
    project = (DOCS.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert f'dependencies = ["torch>={tried[0].removesuffix(".0")}"]' in project


def test_the_page_and_the_help_state_the_same_duration_of_bench(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _cli.main(["bench", "--help"])
    (said,) = re.findall(r"^torchext bench .*; (.*)$", (DOCS / "speed.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert said in " ".join(capsys.readouterr().out.split())  # the help is wrapped


def test_compiler_flags_of_the_headers_are_defined_once() -> None:
    flag = torchext.compile_flags()[-1]
    files = [
        path for folder in ("torchext", "tools", "examples", "docs") for path in (DOCS.parent / folder).rglob("*.*")
    ]
    said = [path.name for path in files if path.suffix in (".py", ".md") and flag in path.read_text(encoding="utf-8")]
    assert said == ["build.py"]


def test_the_architecture_page_names_every_module_and_folder() -> None:
    page = (DOCS / "architecture.md").read_text()
    modules = [path for path in (ROOT / "torchext").rglob("*.py") if path.name not in ("__init__.py", "__main__.py")]
    assert [path for path in modules if f"{path.name}`" not in page and f"{path.parent.name}/`" not in page] == []
    folders = {path.parent.name for path in (ROOT / "tests").rglob("test_*.py")}
    families = {path.name for path in (ROOT / "csrc").iterdir() if path.is_dir()}
    rooms = {path.name for family in families for path in (ROOT / "tests" / family).glob("*")}
    assert [name for name in sorted((folders | families) - rooms) if f"{name}" not in page] == []


def test_the_architecture_page_names_files_that_exist() -> None:
    page = (DOCS / "architecture.md").read_text()
    paths = re.findall(r"`((?:torchext|csrc|tests|benchmarks)/[\w/.]+)`", page)
    assert [path for path in paths if not (ROOT / path).exists()] == []
    named = re.findall(r"`(\w+)` in `((?:torchext|csrc)/[\w/.]+)`", page)
    assert len(named) > 5
    assert [(name, path) for name, path in named if name not in (ROOT / path).read_text()] == []
