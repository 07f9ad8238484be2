"""Tests of the documentation: examples, figures, names, versions and links to files."""

from __future__ import annotations

import ast
import doctest
import importlib.util
import json
import re
import runpy
from pathlib import Path

import pytest
import torch

import torchext
from benchmarks.harness import readme
from tests import ROOT
from torchext import _cli

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
BLOCKS = [
    (page, kind, code)
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]
    for kind, code in re.findall(r"^```(.*?)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
]
SECTIONS = [
    pytest.param(section, id=f"{page.stem}-{section.splitlines()[0]}")
    for page in PAGES
    for section in re.split(r"^## ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    if ">>>" in section
]
PROGRAMS = [
    pytest.param(code, id=f"{page.stem}-{number}")
    for number, (page, kind, code) in enumerate(BLOCKS)
    if kind == "python" and ">>>" not in code
]


@pytest.mark.parametrize("section", SECTIONS)
def test_examples_give_what_the_page_says(section: str) -> None:
    names = {"torch": torch, "torchext": torchext}
    test = doctest.DocTestParser().get_doctest(section, names, section.splitlines()[0], None, 0)
    assert test.examples
    assert doctest.DocTestRunner().run(test).failed == 0


@pytest.mark.parametrize("code", PROGRAMS)
def test_programs_run_as_they_stand(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in {name.partition(".")[0] for name in _imported(code)}:
        if importlib.util.find_spec(module) is None:  # those of other libraries run in the environment of `make peers`
            pytest.skip(f"requires {module}")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "example", "exec"), {"__name__": "example"})


def _imported(code: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(node.module or "")
    return found


def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    notebook = json.loads((ROOT / "examples" / "first_steps.ipynb").read_text(encoding="utf-8"))
    names: dict[str, object] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert torch.equal(names["whole"].argmax(1), names["tiled"].argmax(1))
    assert float(names["loss"].detach()) < 0.2


def test_every_block_of_the_pages_is_tested() -> None:
    """Examples and programs run in the tests above; the commands and the C++ are compared with what exists."""
    assert {kind for _, kind, _ in BLOCKS} <= {
        "python",
        "sh",
        "cpp",
        "{toctree}",
        "{eval-rst}",
        "{include} ../CHANGELOG.md",
    } | {f"{{include}} ../../benchmarks/results/{machine}.md" for machine in ("intel-xeon", "amd-epyc")}
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page, kind, code in BLOCKS:
        if kind == "sh":
            assert set(re.findall(r"^make ([a-z-]+)", code, re.MULTILINE)) <= targets, page
            assert set(re.findall(r"^torchext ([a-z]+)", code, re.MULTILINE)) <= {"bench", "cam", "demo", "doctor"}, (
                page
            )
    (snippet,) = [code for _, kind, code in BLOCKS if kind == "cpp"]
    example = (ROOT / "examples" / "own_op" / "soft_threshold.cpp").read_text(encoding="utf-8")
    assert [line for line in snippet.splitlines() if line.strip() not in example] == []


def test_files_that_the_pages_name_exist() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for link in re.findall(r"\]\(([\w./-]+)(?:#[\w-]*)?\)", text):
            assert (page.parent / link).exists(), (page, link)
        for picture in re.findall(r"!\[.*?\]\((.*?)\)", text):
            assert (page.parent / picture).stat().st_size < 300_000
        for path in re.findall(r"`((?:examples|tests|benchmarks|docs|tools)/[\w/.-]+)`", text):
            assert (ROOT / path).exists() or (ROOT / f"{path}.py").exists(), (page, path)


def test_the_readme_and_the_page_of_speed_have_the_figures_of_the_results() -> None:
    for page, name, figures in readme.pages():
        shown = readme.between_marks(page.read_text(encoding="utf-8"), name)
        assert shown == figures, "python -m benchmarks.harness.readme renews them"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_pages_about_cuda_kernels_say_in_the_same_words_that_no_gpu_has_run_them() -> None:
    """One page says how they are tested, and the others link to it."""
    said = "No GPU has run the CUDA kernels yet"
    link = ": see [how they are tested without one](howto.md#on-a-gpu)"
    texts = {
        page: " ".join(page.read_text(encoding="utf-8").replace("**", "").replace("](docs/", "](").split())
        for page in PAGES
    }
    assert f"{said}. They compile for compute capability 7.5 to 12.0. The tests" in texts[DOCS / "howto.md"]
    for name in ("README.md", "docs/index.md", "docs/install.md", "docs/faq.md", "docs/architecture.md"):
        assert said + link in texts[ROOT / name], name
    for page, text in texts.items():
        assert "No GPU has" not in text.replace(said, ""), page


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
