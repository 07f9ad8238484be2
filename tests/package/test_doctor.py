"""Tests that cause each fault in the report of the doctor, and check the text that the user reads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import torchext
from tests import ROOT
from torchext._core import library as _library
from torchext._core import version as _version
from torchext._native import build as _build
from torchext._native import doctor as _doctor
from torchext._native import faults as _faults
from torchext._native import gpus, load, toolchain

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="shared objects of Linux")

H100, V100 = gpus.Gpu("NVIDIA H100", 90), gpus.Gpu("Tesla V100", 70)
WHEEL = gpus.Architectures((75, 80, 86, 89, 90, 100, 120), 120)
# The header of a library without sections, and the stamps that the build writes into a library.
NOTES = b"\x7fELF".ljust(64, b"\0") + (
    b"torchext-cuda-runtime=13000;torchext-cuda-architectures=750,800,900;torchext-cuda-ptx=90; rest"
)


def compile_library(folder: Path, source: str, *flags: str, stamp: str | None = None) -> Path:
    path = folder / "_C.so"
    (folder / "source.c").write_text(
        f'const char note[] = "torchext-stamp={_library.stamp() if stamp is None else stamp};";\n{source}'
    )
    subprocess.run(["cc", "-shared", "-fPIC", str(folder / "source.c"), "-o", str(path), *flags], check=True)
    return path


def report(**changes: object) -> str:
    """The report of the doctor as text, with some fields changed."""
    found = torchext.doctor()
    fields = {"versions": found.versions, "libraries": found.libraries, "kernels": found.kernels} | changes
    return str(_doctor.Report(**fields))


def not_loaded(path: Path) -> load.Library:
    """The CUDA library in a file that has a fault."""
    fault = load._cuda_fault(path)
    assert fault is not None
    return load.Library("_C_cuda", path, *fault)


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = load.Library("_C", None, "no compiled library in the package's folder", "build it")
    monkeypatch.setitem(load.libraries, "_C", missing)


@pytest.fixture
def cuda_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(load, "cuda_driver_version", lambda: 13010)


def test_the_report_has_versions_and_the_kernels_of_each_device() -> None:
    text = report()
    for name in ("torchext", "torch", "python", "cpu", "cuda", "compiler"):
        assert f"\n{name}: " in f"\n{text}"
    assert f"torch built for {torch.version.cuda or 'none'}" in text
    table = text.partition("operation")[2].splitlines()
    assert table[0].split() == ["cpu", "cuda"]
    assert any(line.split()[0] == "one_hot" for line in table[1:])


def test_the_library_for_programs_without_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_doctor, "PACKAGE", tmp_path)
    text = str(torchext.doctor())
    assert "\n_C_schemas: none for programs without Python, no such library in the package's folder" in text
    assert "\n  to add it: install a wheel for this platform, or build one from source: pip install" in text
    path = tmp_path / "_C_schemas.so"
    path.touch()
    assert f"\n_C_schemas: {path}, for programs without Python" in str(torchext.doctor())


def test_no_compiler(no_library: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    text = str(torchext.doctor())
    assert "no C++ compiler: c++ is not on the path, so jit_build() cannot compile" in text
    assert "to fix it: install one (apt-get install g++)" in text


@pytest.mark.parametrize(
    ("cxx", "command"),
    [
        (None, ["c++"]),
        ("", ["c++"]),
        ("g++ -m64", ["g++", "-m64"]),
        ("/usr/bin/ccache clang++ -O1", ["clang++", "-O1"]),
    ],
)
def test_the_compiler_is_that_of_the_environment_variable(
    monkeypatch: pytest.MonkeyPatch, cxx: str | None, command: list[str]
) -> None:
    monkeypatch.delenv("CXX", raising=False) if cxx is None else monkeypatch.setenv("CXX", cxx)
    assert toolchain.compiler_command() == command
    assert toolchain.compiler().name == command[0]


def test_a_compiler_that_does_not_run(no_library: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "false")
    assert "no C++ compiler: false does not run, so jit_build() cannot compile" in str(torchext.doctor())


def test_a_compiler_that_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\nsleep 100\n")  # the child keeps the pipe open if only the shell is killed
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setattr(_build, "SECONDS", 0.2)
    assert toolchain.compiler().problem == "does not print its version within 0.2 seconds"


def test_a_compiler_whose_version_is_not_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_bytes(b"#!/bin/sh\necho 'f\xfcr Linux 12'\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert toolchain.compiler().version == "f\ufffdr Linux 12"


def test_no_ninja(no_library: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    text = str(torchext.doctor())
    assert "no ninja, which jit_build() compiles with\n  to fix it: install it: pip install ninja" in text


def test_a_missing_compiler_is_not_a_fault_if_kernels_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(load.libraries, "_C", load.Library("_C", None, None))
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(load, "cpu_capability", lambda: "avx2")
    monkeypatch.setenv("PATH", "/nowhere")
    assert "to fix it: install one" not in str(torchext.doctor())


@LINUX
def test_a_library_for_a_newer_pytorch(tmp_path: Path) -> None:
    source = "int aoti_torch_of_tomorrow(void); int ask(void) { return aoti_torch_of_tomorrow(); }"
    text = report(libraries=(load.load_file("_C", compile_library(tmp_path, source)),))
    assert "_C: not loaded, it was built for a newer PyTorch than" in text
    assert "which lacks aoti_torch_of_tomorrow" in text
    assert "to fix it: upgrade PyTorch, or build it on this machine with torchext.jit_build()" in text


@LINUX
@pytest.mark.parametrize("kept", [0, 30, 5000])
def test_a_truncated_file(tmp_path: Path, kept: int) -> None:
    path = compile_library(tmp_path, "int ask(void) { return 1; }")
    assert _faults.of_file(path) is None
    path.write_bytes(path.read_bytes()[:kept])
    text = report(libraries=(load.load_file("_C", path),))
    assert f"_C: not loaded, the file {path} is damaged" in text
    assert "to fix it: reinstall it: pip install --force-reinstall --no-deps torchext-ops" in text


def test_a_file_that_cannot_be_read(tmp_path: Path, cuda_pytorch: None) -> None:
    # A folder, because root can read every file.
    for found in (load.load_file("_C", tmp_path), not_loaded(tmp_path)):
        text = report(libraries=(found,))
        assert f"not loaded, the file {tmp_path} cannot be read: " in text
        assert "to fix it: reinstall it" in text


@LINUX
@pytest.mark.parametrize("whose", ["another version's", "a stranger's"])
def test_a_library_of_another_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whose: str) -> None:
    path = compile_library(tmp_path, "int ask(void) { return 1; }", stamp="" if whose == "a stranger's" else None)
    if whose == "another version's":
        monkeypatch.setattr(_version, "__version__", "9.9")
    monkeypatch.setattr(torch.ops, "load_library", lambda path: pytest.fail("loaded"))
    text = report(libraries=(load.load_file("_C", path),))
    assert f"_C: not loaded, the file {path} was not built for this torchext\n  to fix it: reinstall it" in text
    assert "or build it on this machine with torchext.jit_build(); in a source tree: make build" in text


def test_another_schema_has_another_stamp(monkeypatch: pytest.MonkeyPatch) -> None:
    before = _library.stamp()
    unfold = _library.operations["unfold"]
    monkeypatch.setitem(_library.operations, "unfold", unfold._replace(schema=unfold.schema.replace("int", "float")))
    assert _library.stamp() != before


@LINUX
def test_a_glibc_that_is_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import old_glibc

    of_tomorrow = old_glibc._stand_in(tmp_path, "libc.so.6", ["of_tomorrow@2.99"], "2.2.5")
    source = "int of_tomorrow(void); int ask(void) { return of_tomorrow(); }"
    path = compile_library(tmp_path, source, "-nostdlib", str(of_tomorrow))
    assert old_glibc.needed(path) == (2, 99)
    assert old_glibc.wheel_platform("linux_x86_64", [str(path)]) == "manylinux_2_99_x86_64"
    text = report(libraries=(load.load_file("_C", path),))
    assert "_C: not loaded, it requires GLIBC_2.99, which the glibc of this system is too old for" in text
    assert "or move to a system with a newer glibc" in text


def test_a_libstdcxx_that_is_too_old() -> None:
    fault = _faults.of_loading(OSError("libstdc++.so.6: version `GLIBCXX_3.4.99' not found (required by _C.so)"))
    assert "which the libstdc++ of this system is too old for" in fault.problem


def test_other_errors_of_the_linker_are_passed_on() -> None:
    fault = _faults.of_loading(OSError("libtorch.so: cannot open"))
    assert fault.problem == "cannot be loaded: libtorch.so: cannot open"


def test_a_cuda_library_and_a_pytorch_without_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(load, "PACKAGE", tmp_path)
    monkeypatch.delenv("TORCHEXT_DISABLE_NATIVE", raising=False)
    (tmp_path / "_C_cuda.so").write_bytes(NOTES)
    text = report(libraries=(load._load("_C_cuda"),))
    assert "_C_cuda: not loaded, this PyTorch is built without CUDA" in text
    assert "to fix it: nothing without a GPU, otherwise install a CUDA build of PyTorch" in text


@pytest.mark.parametrize(
    ("driver", "problem", "remedy"),
    [
        (None, "no NVIDIA driver was found", "install an NVIDIA driver"),
        (12080, "it requires a driver for CUDA 13, this one is for CUDA 12.8", "update the NVIDIA driver"),
    ],
)
def test_a_driver_that_is_too_old(
    tmp_path: Path, cuda_pytorch: None, monkeypatch: pytest.MonkeyPatch, driver: int | None, problem: str, remedy: str
) -> None:
    monkeypatch.setattr(load, "cuda_driver_version", lambda: driver)
    library = tmp_path / "_C_cuda.so"
    library.write_bytes(NOTES)
    text = report(libraries=(not_loaded(library),))
    assert f"_C_cuda: not loaded, {problem}\n  to fix it: {remedy}" in text


@pytest.mark.parametrize("driver", [13000, 13020, 14000])
def test_a_driver_supports_its_own_major_version_and_earlier_ones(
    tmp_path: Path, cuda_pytorch: None, monkeypatch: pytest.MonkeyPatch, driver: int
) -> None:
    monkeypatch.setattr(load, "cuda_driver_version", lambda: driver)
    monkeypatch.setattr(gpus, "found", lambda: [H100])
    library = tmp_path / "_C_cuda.so"
    library.write_bytes(NOTES)
    assert load._cuda_fault(library) is None


def test_nvcc_and_pytorch_of_different_major_versions(
    no_library: None, cuda_pytorch: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(toolchain, "toolkit_version", lambda: 13000)
    text = str(torchext.doctor())
    assert "nvcc is of CUDA 13.0, PyTorch of CUDA 12.8: what jit_build() compiles requires a driver for CUDA 13" in text
    assert "to fix it: set CUDA_HOME to the folder of a toolkit for CUDA 12" in text
    monkeypatch.setattr(toolchain, "toolkit_version", lambda: 12090)
    assert "nvcc is of CUDA" not in str(torchext.doctor())


def test_no_nvcc_for_a_cuda_pytorch(no_library: None, cuda_pytorch: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_build, "cuda_toolkit", lambda: None)
    text = str(torchext.doctor())
    assert "no nvcc, so jit_build() cannot compile the CUDA kernels\n  to fix it: install the CUDA toolkit 13.0" in text


def test_a_gpu_without_a_kernel_image(tmp_path: Path, cuda_pytorch: None, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "_C_cuda.so"
    library.write_bytes(NOTES)
    monkeypatch.setattr(gpus, "found", lambda: [V100])
    text = report(libraries=(not_loaded(library),))
    assert "_C_cuda: not loaded, it has no kernel image for Tesla V100 (compute capability 7.0)" in text
    assert "to fix it: build it on this machine with torchext.jit_build(), which compiles for the GPUs" in text
    # If it has code for one GPU, the library is loaded, and the report names the other GPU.
    monkeypatch.setattr(gpus, "found", lambda: [H100, V100])
    assert load._cuda_fault(library) is None
    monkeypatch.setitem(load.libraries, "_C_cuda", load.Library("_C_cuda", library, None))
    text = str(torchext.doctor())
    assert "_C_cuda has no kernel image for Tesla V100 (compute capability 7.0): only for" in text
    assert "H100 (compute capability 9.0): only" not in text
    assert "to fix it: keep tensors off it (CUDA_VISIBLE_DEVICES)" in text


@pytest.mark.parametrize(
    ("capability", "served"),
    [(61, False), (70, False), (75, True), (80, True), (87, True), (90, True), (103, True), (110, False), (121, True)],
)
def test_machine_code_supports_its_major_version_and_ptx_newer_gpus(capability: int, served: bool) -> None:
    assert WHEEL.serve(gpus.Gpu("some GPU", capability)) is served
    assert gpus.Architectures((80,), None).serve(gpus.Gpu("some GPU", 90)) is False


def test_stamps_are_read_without_loading_the_file() -> None:
    assert load.cuda_runtime_version(NOTES) == 13000
    assert load.cuda_architectures(NOTES) == gpus.Architectures((75, 80, 90), 90)
    assert load.cuda_runtime_version(b"no notes") is None
    assert load.cuda_architectures(b"no notes") is None


@pytest.mark.parametrize("rest", [b"\xff\xfe;", b";", b"thirteen;", b"13000", b""])
def test_malformed_stamps_are_ignored(rest: bytes) -> None:
    assert load.cuda_runtime_version(b"torchext-cuda-runtime=" + rest) is None
    assert load.cuda_architectures(b"torchext-cuda-architectures=" + rest) is None


@pytest.mark.parametrize(("chosen", "ptx"), [("7.5 12.0+PTX", ["120"]), ("9.0a+PTX", ["90"]), ("8.0", [])])
def test_the_build_records_the_requested_ptx(monkeypatch: pytest.MonkeyPatch, chosen: str, ptx: list[str]) -> None:
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", chosen)
    noted = [flag for flag in _build.nvcc_flags() if flag.startswith("-DTORCHEXT_CUDA_PTX=")]
    assert noted == [f"-DTORCHEXT_CUDA_PTX={architecture}" for architecture in ptx]


def test_two_packages_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "two torchext" not in str(torchext.doctor())
    (tmp_path / "torchext").mkdir()
    (tmp_path / "torchext" / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    text = str(torchext.doctor())
    here = Path(torchext.__file__).parent
    assert f"two torchext are on the path: this one in {here}, another in {tmp_path / 'torchext'}" in text
    assert "to fix it: keep one: pip uninstall torchext-ops" in text


def install(folder: Path, name: str, metadata: str | None) -> None:
    info = folder / name
    info.mkdir(parents=True)
    if metadata is not None:
        (info / "METADATA").write_text(metadata)


def test_another_version_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "torchext_ops-9.9.dist-info", "Metadata-Version: 2.1\nName: torchext-ops\nVersion: 9.9\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    assert "torchext-ops 9.9 is installed too, in addition to this" in str(torchext.doctor())


def test_a_package_of_another_project_with_the_same_import_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "torchext-0.3.dist-info", "Metadata-Version: 2.1\nName: torchext\nVersion: 0.3\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    text = str(torchext.doctor())
    assert "torchext 0.3 is installed, which is a package of another project with the same import name" in text
    assert "pip uninstall torchext torchext-ops, pip install torchext-ops" in text


def test_an_interrupted_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "torchext_ops-9.9.dist-info", None)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    assert "torchext-ops of an unknown version is installed too" in str(torchext.doctor())


def test_a_folder_on_the_path_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root can read every folder, so that the system call is replaced.
    entry, original = str(tmp_path / "unreadable"), os.stat

    def stat(path: object, *arguments: object, **options: object) -> os.stat_result:
        if str(path).startswith(entry):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(sys, "path", [*sys.path, entry])
    assert str(torchext.doctor()).startswith("torchext: ")


def test_the_report_has_the_public_operations() -> None:
    operations = [kernel.operation for kernel in torchext.doctor().kernels if kernel.device == "cpu"]
    assert operations == torchext.reference.__all__
    assert "confusion_matrix" in operations
    registered = {_doctor._RUN_BY.get(operation, operation) for operation in operations}
    assert registered <= set(_library.operations)
    others = {name for name in set(_library.operations) - registered if not name.endswith(("_out", "_backward"))}
    assert others == {"best_channels", "blend_windows", "class_indices", "class_rows", "take_bad_label"}


def test_no_gpu_is_found_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    import ctypes

    def no_library(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", no_library)
    assert gpus.found() == []
    assert load.cuda_driver_version() is None
