"""Tests of the package as a whole: import, doctor, instruction sets, jit_build."""

from __future__ import annotations

import ast
import functools
import graphlib
import os
import platform
import re
import runpy
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

import torchext
from tests import ROOT
from tests.conformance.rooms import OPERATIONS
from torchext._native import build, faults, folders, load, toolchain

NATIVE = torchext.doctor().libraries[0].problem is None
LIBRARY = Path(torchext.__file__).with_name("_C.so")


def run_python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_every_public_name_exists_and_has_a_docstring() -> None:
    for name in torchext.__all__:
        assert getattr(torchext, name).__doc__, name


def test_the_distribution_has_the_version_of_the_package() -> None:
    code = f"import os, runpy, sys; os.chdir({str(ROOT)!r}); sys.argv = ['', '--version']; runpy.run_path('setup.py')"
    assert run_python(code, TORCHEXT_PURE="1").splitlines()[-1] == torchext.__version__


@pytest.mark.parametrize(
    ("version", "torch_found", "message"),
    [
        ("65.5.0", True, "requires setuptools 77 or later, and this environment has 65.5.0: pip install -U"),
        ("84.2.1", False, "requires PyTorch 2.10 or later in this environment: pip install torch"),
    ],
)
def test_a_build_without_its_requirements_names_them(
    monkeypatch: pytest.MonkeyPatch, version: str, torch_found: bool, message: str
) -> None:
    import importlib.util

    import setuptools

    monkeypatch.setattr(setuptools, "__version__", version)
    if not torch_found:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=message):
        runpy.run_path(str(ROOT / "setup.py"))


def test_hints_install_this_distribution_and_not_another_project_of_the_name() -> None:
    assert f'name = "{folders.DISTRIBUTION}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    texts = [
        path for name in ("torchext", "docs") for path in (ROOT / name).rglob("*") if path.suffix in (".py", ".md")
    ]
    hints = Counter[str]()
    for path in [*texts, ROOT / "README.md"]:
        for command in re.findall(r"pip install ([^`\n;,]*)", path.read_text(encoding="utf-8")):
            hints.update(re.findall(r"(?:^|[ '])(torchext[-\w]*)", command))
    assert set(hints) == {folders.DISTRIBUTION}


def test_references_have_the_signatures_of_the_operations() -> None:
    import inspect

    for name in torchext.reference.__all__:
        assert inspect.signature(getattr(torchext.reference, name)) == inspect.signature(getattr(torchext, name))


def test_no_operation_is_missing_in_the_table() -> None:
    assert set(torchext.reference.__all__) <= {operation.name for operation in OPERATIONS}


@pytest.mark.skipif(not LIBRARY.exists(), reason="none was built")
@pytest.mark.skipif(os.environ.get("TORCHEXT_DISABLE_NATIVE") == "1", reason="it shall not be")
def test_the_library_in_the_package_folder_is_loaded() -> None:
    assert torchext.doctor().libraries[0] == ("_C", LIBRARY, None, None)


@pytest.mark.skipif(sys.platform != "linux", reason="shared objects of Linux")
@pytest.mark.parametrize("kept", [9000, None])
def test_the_package_works_with_a_broken_library(tmp_path: Path, kept: int | None) -> None:
    shutil.copytree(ROOT / "torchext", tmp_path / "torchext", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    in_package = tmp_path / "torchext" / LIBRARY.name
    in_package.write_bytes((Path(torch.__file__).parent / "lib" / "libshm.so").read_bytes()[:kept])
    code = "import torch, torchext; print(torchext.one_hot(torch.tensor([1]), 3).tolist()); print(torchext.doctor())"
    out = run_python(code, PYTHONPATH=str(tmp_path), PYTHONSAFEPATH="1", TORCHEXT_DISABLE_NATIVE="0")
    assert out.startswith("[[0.0, 1.0, 0.0]]")
    assert f"_C: not loaded, the file {in_package} " in out


def package_of(folder: Path, *files: str) -> None:
    """Copy the package without its libraries into a folder, and add libraries that cannot be loaded."""
    shutil.copytree(ROOT / "torchext", folder / "torchext", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in files:
        (folder / "torchext" / name).parent.mkdir(exist_ok=True)
        (folder / "torchext" / name).write_bytes(b"no library")


IMPORTED = (
    "import warnings\n"
    "with warnings.catch_warnings(record=True) as caught:\n"
    "    warnings.simplefilter('always')\n"
    "    {before}import torchext\n"
    "print([str(one.message) for one in caught if 'NumPy' not in str(one.message)])"
)


def imported(site: Path, before: str = "", **environment: str) -> str:
    """The warnings of an import of the package in a folder."""
    code = IMPORTED.format(before=before and f"{before}; ")
    paths = {"PYTHONPATH": str(site), "PYTHONSAFEPATH": "1", "TORCHEXT_DISABLE_NATIVE": "0"}
    return run_python(code, **{**paths, **environment})


@pytest.mark.skipif(sys.platform != "linux", reason="shared objects of Linux")
def test_a_library_that_is_not_used_is_one_warning(tmp_path: Path) -> None:
    package_of(tmp_path, "_C.so", "_C_cuda.so")
    text = imported(tmp_path, before="import torch; torch.version.cuda = '13.0'")
    assert text.count("the slower references run") == 1
    assert f"because _C is not loaded: the file {tmp_path / 'torchext' / '_C.so'} is damaged" in text
    assert "to fix it: reinstall it: pip install" in text
    assert imported(tmp_path, TORCHEXT_DISABLE_NATIVE="1") == "[]"
    text = imported(tmp_path, TORCHEXT_JIT="1", CXX="no-such-compiler")  # has a warning of its own
    assert "TORCHEXT_JIT=1: no C++ compiler" in text
    assert "the slower references run" not in text


def test_a_source_tree_without_a_library_is_no_warning(tmp_path: Path) -> None:
    package_of(tmp_path)
    assert imported(tmp_path) == "[]"


@pytest.mark.skipif(faults.of_missing().problem == faults.ANOTHER_WHEEL, reason="the package is installed")
@pytest.mark.parametrize("glibc", ["glibc 2.36", "glibc 2.17", None])
def test_the_wheel_of_another_platform_is_a_warning(tmp_path: Path, glibc: str | None) -> None:
    package_of(tmp_path, "csrc/source.cpp")
    before = f"import os, platform; os.confstr = lambda name: {glibc!r}; platform.machine = lambda: 'x86_64'"
    expected = sys.platform == "linux" and glibc == "glibc 2.36"
    assert ("the wheel for other platforms is installed" in imported(tmp_path, before=before)) == expected


def test_compiled_kernels_can_be_required(tmp_path: Path) -> None:
    package_of(tmp_path)
    code = "try: import torchext\nexcept ImportError as error: print(error)"
    environment = {"PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1", "TORCHEXT_REQUIRE_NATIVE": "1"}
    text = run_python(code, **environment, TORCHEXT_DISABLE_NATIVE="0")
    assert text == (
        "TORCHEXT_REQUIRE_NATIVE=1, but _C is not loaded: no compiled library in the package's folder; "
        "to fix it: build it on this machine with torchext.jit_build(), or install a wheel"
    )


@pytest.mark.parametrize(
    ("cuda", "gpus", "problem", "names"),
    [
        (None, [], None, []),
        ("13.0", [], "no driver", []),
        ("13.0", ["H100"], "an old driver", ["_C_cuda"]),
        (None, ["H100"], "this PyTorch is built without CUDA", []),
    ],
)
def test_a_cuda_library_is_required_only_with_a_gpu(
    monkeypatch: pytest.MonkeyPatch, cuda: str | None, gpus: list[str], problem: str | None, names: list[str]
) -> None:
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(load._gpus, "found", lambda: gpus)
    for name, fault in (("_C", None), ("_C_cuda", problem)):
        monkeypatch.setitem(load.libraries, name, load.Library(name, None, fault))
    assert [library.name for library in load.unused()] == names


def test_doctor_reports_which_kernel_runs() -> None:
    report = torchext.doctor()
    kernels = {(kernel.operation, kernel.device): kernel for kernel in report.kernels}
    for operation in ("one_hot", "unfold", "fold", "cam_pool"):
        assert kernels[operation, "cpu"].kernel == ("compiled" if NATIVE else "reference")
    assert "one_hot" in str(report)


def test_without_libraries_the_references_run() -> None:
    code = (
        "import torch, torchext; r = torchext.doctor(); "
        "assert all(k.kernel == 'reference' for k in r.kernels); "
        "assert 'TORCHEXT_DISABLE_NATIVE=1' in str(r); "
        "print(torchext.one_hot(torch.tensor([1]), 3).tolist())"
    )
    assert run_python(code, TORCHEXT_DISABLE_NATIVE="1") == "[[0.0, 1.0, 0.0]]"


def test_imports_without_numpy_and_without_heavy_modules() -> None:
    code = (
        "import sys; sys.modules['numpy'] = None\n"
        "import torchext\n"
        "heavy = ('torch.utils.cpp_extension', 'torch._inductor', 'torch.distributed.tensor', 'PIL')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    before = run_python("import torch, sys; print('torch.distributed.tensor' in sys.modules)")
    assert before == "False"
    assert run_python(code) == "[]"


def _imports(*, inside_functions: bool) -> dict[str, set[str]]:
    """For each module of the package, the modules of the package that it imports."""
    paths = {path.relative_to(ROOT).with_suffix(""): path for path in (ROOT / "torchext").rglob("*.py")}
    modules = {".".join(name.parts).removesuffix(".__init__"): path for name, path in paths.items()}
    imports: dict[str, set[str]] = {}
    for module, path in modules.items():
        tree, found = ast.parse(path.read_text()), set[str]()
        for node in ast.walk(tree) if inside_functions else tree.body:
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= {name if name in modules else str(node.module) for name in names}
        imports[module] = found & modules.keys()
    return imports


def test_no_module_imports_one_that_imports_it() -> None:
    tuple(graphlib.TopologicalSorter(_imports(inside_functions=True)).static_order())  # raises CycleError


def test_the_package_exports_the_names_in_all() -> None:
    names = {name for name in vars(torchext) if not name.startswith("_")}
    assert names - {"os", "cam", "onehot", "windows"} == set(torchext.__all__)


def test_there_are_at_most_eight_levels_of_imports() -> None:
    imports, levels = _imports(inside_functions=False), dict[str, int]()
    for module in graphlib.TopologicalSorter(imports).static_order():
        levels[module] = 1 + max((levels[name] for name in imports[module]), default=0)
    assert max(levels.values()) <= 8, sorted(levels.items(), key=lambda item: item[1])


def test_a_pytorch_without_the_private_names_computes_derivatives_in_reverse_mode() -> None:
    code = (
        "import torch.autograd.function as private\n"
        "name = private._SingleLevelFunction\n"
        "del private._SingleLevelFunction\n"
        "import torch, torchext.reference\n"
        "private._SingleLevelFunction = name\n"
        "from tests.conformance.rooms import OPERATIONS\n"
        "from tests.conformance.table import requiring_grad, total\n"
        "assert torchext._core.library._DERIVATIVES_FALL_BACK\n"
        "for operation in OPERATIONS:\n"
        "    if operation.differentiable:\n"
        "        sample, gradients = operation.samples[0], []\n"
        "        for function in (operation.function, operation.reference):\n"
        "            tensors = requiring_grad(operation.arguments(sample, 'cpu'))\n"
        "            total(function(*tensors, **sample.options)).backward()\n"
        "            gradients.append([tensor.grad for tensor in tensors if tensor.requires_grad])\n"
        "        torch.testing.assert_close(*gradients)\n"
        "print('done')"
    )
    assert run_python(code) == "done"


def test_references_are_traced_if_no_kernel_is_loaded() -> None:
    code = (
        "import torch, torchext\n"
        "from torch.fx.experimental.proxy_tensor import make_fx\n"
        "g = make_fx(lambda x: torchext.unfold(x, 2))(torch.zeros(1, 1, 4, 4))\n"
        "print(any('torchext' in str(n.target) for n in g.graph.nodes))"
    )
    assert run_python(code, TORCHEXT_DISABLE_NATIVE="1") == "False"


@pytest.mark.skipif(not NATIVE, reason="there is no compiled library")
@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("capability", faults.CAPABILITIES)
def test_every_instruction_set_passes_the_table(capability: str, streams: bool) -> None:
    available = run_python(
        "import torchext; print(torchext.doctor().versions['cpu'].split()[-1])", TORCHEXT_CPU_CAPABILITY=capability
    )
    if available != capability:
        pytest.skip(f"this processor has {available}")
    if streams and capability == "avx2":
        pytest.skip("it has the same stores as the baseline")
    if not streams and available == torchext.doctor().versions["cpu"].split()[-1]:
        pytest.skip("the whole table runs with it")
    stores = {"TORCHEXT_STREAM_BYTES": "1"} if streams else {}
    table = "tests/conformance/test_conformance.py::"
    tests = [f"{table}{name}" for name in ("test_equals_its_reference_in_every_dtype", "test_reads_any_strides")]
    tests += ["tests/onehot", "tests/windows", "tests/cam/pool"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, "-k", "not memory and not compile"],
        env={**os.environ, "TORCHEXT_CPU_CAPABILITY": capability, **stores},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]


@functools.cache
def compiled_files(source: str, *flags: str) -> dict[str, set[Path]]:
    """The files from which a source contains lines, for each instruction set for which these lines are compiled."""
    from torch.utils.cpp_extension import include_paths

    paths = [f"-isystem{path}" for path in include_paths()]
    command = [*toolchain.compiler_command(), "-E", *build.STABLE_ABI, f"-I{build.csrc()}", *paths, *flags, source]
    file, target, compiled = Path(source), "", dict[str, set[Path]]()
    for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        if line.startswith("# "):
            file = Path(line.split('"')[1])
        elif file.name == "each_isa.h" and line.startswith("#pragma GCC"):
            target = line if "target" in line else ""
        elif line and not line.isspace():
            compiled.setdefault(target, set()).add(file)
    return compiled


LOOPS = sorted(source for source in build.sources(build.csrc(), cuda=False) if source.endswith("_cpu.cpp"))


@pytest.mark.skipif(bool(toolchain.missing(toolchain.compiler(), toolchain.ninja())), reason="there is no compiler")
@pytest.mark.xdist_group("preprocessor")
def test_headers_of_an_operation_are_compiled_only_for_it() -> None:
    csrc, sources_with = build.csrc(), Counter[str]()
    for source in LOOPS:
        files = set[Path]().union(*compiled_files(source).values())
        sources_with.update(file.relative_to(csrc).as_posix() for file in files if csrc in file.parents)
    own = [header for header in sources_with if header.endswith(("task.h", "loops.h", "describe.h"))]
    assert len(own) > 2 * len(LOOPS)
    shared = {header for header in own if sources_with[header] > 1}
    labels = {f"onehot/labels/{part}.h" for part in ("describe", "loops", "task")}
    assert shared == {*labels, "windows/tiles/describe.h", "windows/tiles/task.h"}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the loops are compiled for one instruction set")
@pytest.mark.skipif(bool(toolchain.missing(toolchain.compiler(), toolchain.ninja())), reason="there is no compiler")
@pytest.mark.xdist_group("preprocessor")
@pytest.mark.parametrize("source", LOOPS, ids=lambda source: Path(source).stem)
def test_only_loops_are_compiled_for_an_instruction_set(source: str) -> None:
    compiled = compiled_files(source)
    assert len(compiled) == 3
    of_targets = set[Path]().union(*(files for target, files in compiled.items() if target))
    assert [str(file) for file in of_targets if "namespace torchext::TORCHEXT_ISA {" not in file.read_text()] == []


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the loops are compiled for one instruction set")
@pytest.mark.skipif(bool(toolchain.missing(toolchain.compiler(), toolchain.ninja())), reason="there is no compiler")
@pytest.mark.xdist_group("preprocessor")
@pytest.mark.parametrize(("chosen", "names"), [("baseline", []), ("avx2", ["avx2"]), ("avx512", ["avx2", "avx512f"])])
def test_loops_can_be_compiled_for_one_instruction_set(chosen: str, names: list[str]) -> None:
    targets = [target for target in compiled_files(LOOPS[0], *build.one_set_flags(chosen)) if target]
    assert [[name for name in ("avx2", "avx512f") if name in target] for target in targets] == (
        [names] if names else []
    )


@pytest.mark.skipif(not NATIVE or platform.machine() != "x86_64", reason="there is no library for several sets")
@pytest.mark.parametrize("capability", ["", *faults.CAPABILITIES])
def test_python_chooses_the_instruction_set_that_the_kernels_choose(capability: str) -> None:
    code = (
        "import torchext; from torchext._native import build, load\n"
        "print(build.instruction_set(), load.cpu_capability())"
    )
    chosen, expected = run_python(code, TORCHEXT_CPU_CAPABILITY=capability).split()
    assert chosen == expected


@pytest.mark.parametrize("value", ["AVX2", "", "baseline"])
def test_an_unknown_instruction_set_is_reported_and_ignored(value: str) -> None:
    code = (
        "import warnings\n"
        "with warnings.catch_warnings(record=True) as caught: import torchext\n"
        "report = torchext.doctor()\n"
        "print(report.versions['cpu'].split()[-1], [str(w.message).split(' ')[0] for w in caught], len(report.faults))"
    )
    best, _, faults = run_python(code, TORCHEXT_CPU_CAPABILITY="avx512").split()
    expected = {
        "AVX2": f"{best} ['TORCHEXT_CPU_CAPABILITY=AVX2'] {int(faults) + 1}",
        "": f"{best} [] {faults}",
        "baseline": f"{'baseline' if NATIVE else best} [] {faults}",
    }
    assert run_python(code, TORCHEXT_CPU_CAPABILITY=value) == expected[value]


@pytest.mark.skipif(not NATIVE, reason="there is no compiled library")
def test_the_library_has_no_python_symbol() -> None:
    library = torchext.doctor().libraries[0].path
    assert library is not None
    assert b"PyObject_" not in library.read_bytes()
    assert b"PyInit_" not in library.read_bytes()


@pytest.mark.skipif(not NATIVE or sys.platform != "linux", reason="there is no compiled library of Linux")
def test_the_library_requires_only_symbols_of_pytorch(tmp_path: Path) -> None:
    missing = runpy.run_path(str(ROOT / "tools" / "torch_symbols.py"))["missing"]
    assert missing(LIBRARY, Path(torch.__file__).parent / "lib") == set()
    assert "aoti_torch_empty_strided" in missing(LIBRARY, tmp_path)


def test_jit_build_compiles_where_no_library_is_loaded(tmp_path: Path) -> None:
    code = (
        "import torch, torchext\n"
        "report = torchext.jit_build()\n"
        "assert report.libraries[0].problem is None, report\n"
        "kernels = {(k.operation, k.device): k.kernel for k in report.kernels}\n"
        "assert kernels['one_hot', 'cpu'] == kernels['fold', 'cpu'] == 'compiled'\n"
        "x = torch.arange(16.).view(1, 1, 4, 4)\n"
        "assert torch.equal(torchext.unfold(x, 2), torch.nn.functional.unfold(x, 2))\n"
        "print(torch.compile(lambda x: torchext.unfold(x, 2).sum(), fullgraph=True)(x).item())"
    )
    assert (
        run_python(
            code,
            TORCHEXT_DISABLE_NATIVE="1",
            TORCH_EXTENSIONS_DIR=str(tmp_path),
            TORCHEXT_CXX_FLAGS="-O0",  # takes a third of the time
        )
        == "270.0"
    )


@pytest.mark.skipif(not NATIVE, reason="there is no compiled library")
def test_huge_pages_can_be_turned_off() -> None:
    code = "import torch, torchext; print(torchext.one_hot(torch.zeros(4096).long(), 4096).sum().item())"
    assert run_python(code, TORCHEXT_HUGE_PAGES="0") == run_python(code) == "4096.0"


def test_raw_calls_check_labels() -> None:
    with pytest.raises(IndexError, match=r"label 5 at position \(0,\) is outside \[0, 3\)"):
        torch.ops.torchext.one_hot(torch.tensor([5]), 3, 1, torch.float32, 1.0, 0.0, None, True)
