"""Compiling the libraries on the user's machine."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from torchext._core import library as _library
from torchext._native import build as _build
from torchext._native import doctor as _doctor
from torchext._native import faults, gpus, toolchain
from torchext._native import load as _native

_KINDS = {"_C": "CPU", "_C_cuda": "CUDA"}
_tries = itertools.count()
_CGROUP = Path("/sys/fs/cgroup")
# Version 2 of Linux's control groups, and version 1: what is allowed, what is used, and where the kernel counts what of
# it are files that it lets go of when memory is short. A build leaves gigabytes of those.
_MEMORY = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)


def include_dir() -> str:
    """Tell where the C++ headers of torchext stand, for own operations that use them.

    They use the LibTorch Stable ABI alone: compile with the flags of `torchext.compile_flags`, and with those of the
    sources next to them whose functions are called.

    Examples:
        >>> torchext.include_dir().endswith("csrc")
        True
    """
    return str(_build.csrc())


def compile_flags() -> list[str]:
    """Tell the flags that the headers of `torchext.include_dir` ask of a C++ compiler.

    They choose the language's version, and the PyTorch from which on everything serves what is compiled.

    Examples:
        >>> "-std=c++20" in torchext.compile_flags()
        True
    """
    return list(_build.STABLE_ABI)


def jit_build(force: bool = False) -> _doctor.Report:
    """Compile the kernels here and now through `torch.utils.cpp_extension`, and load them.

    A library that is loaded already stays as it is. What is compiled is kept in PyTorch's cache of extensions
    (TORCH_EXTENSIONS_DIR) and compiled again when the sources, the flags, PyTorch or the GPUs change. Processes that
    build at the same time wait for the first. The CUDA kernels are built where PyTorch is a CUDA build and nvcc is
    found, for the GPUs of the machine. As many compilers run at once as there are processors and 2 GB of free memory
    for each, or MAX_JOBS. TORCHEXT_JIT=1 does the same at the first import.

    Args:
        force: compile also what the cache has.

    Returns:
        The report of `torchext.doctor` afterwards.

    Raises:
        RuntimeError: the compiler is missing or fails; the references stay in charge. With ``force`` also where a
            library is loaded already: a process cannot unload one.
        OSError: the cache cannot be written.

    Examples:
        >>> report = torchext.jit_build()
        >>> report.libraries[0].problem is None
        True
    """
    loaded = [name for name in _KINDS if _native.is_loaded(name)]
    if force and loaded:
        raise RuntimeError(
            f"{loaded[0]} is loaded from {_native.libraries[loaded[0]].path}, and a process cannot unload a library: "
            "start another with TORCHEXT_DISABLE_NATIVE=1 and call torchext.jit_build(force=True) there"
        )
    if "_C" not in loaded:
        _load("_C", None, force)
        _library.trace_kernels()
    if "_C_cuda" not in loaded and torch.version.cuda is not None:
        _load_cuda(force)
    return _doctor.doctor()


def _load_cuda(force: bool) -> None:
    version = toolchain.toolkit_version()
    toolkit = None if version is None else _build.cuda_toolkit()
    if version is None or toolkit is None:  # the doctor says what is missing
        return
    problem = _native.driver_problem(None, version)
    if problem is None and not (_architectures() or os.environ.get("TORCH_CUDA_ARCH_LIST")):
        problem = _native.Library(
            "_C_cuda", None, "no GPU was found to compile for", "name one by TORCH_CUDA_ARCH_LIST"
        )
    if problem is None:
        _load("_C_cuda", toolkit, force)
    else:
        _native.libraries["_C_cuda"] = problem


def build_at_import() -> None:
    """Compile and load, as TORCHEXT_JIT=1 requests; if that fails, the references are used, with a warning."""
    try:
        jit_build()
    # A compiler that fails, a cache that cannot be written, a tool that does not run, no setuptools for PyTorch.
    except (RuntimeError, OSError, subprocess.SubprocessError, ImportError) as error:
        warnings.warn(f"TORCHEXT_JIT=1: {error}", stacklevel=3)


def jobs() -> int:
    """How many compilers run at once: one for each processor and each 2 GB of free memory, or MAX_JOBS."""
    chosen = os.environ.get("MAX_JOBS", "")
    if chosen.isdigit() and int(chosen) > 0:
        return int(chosen)
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = _free_memory()
    return processors if memory is None else max(1, min(processors, memory // (2 << 30)))


def _free_memory() -> int | None:
    """Bytes that are free, in the container if there is one; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
    for limit, used, counts, files in _MEMORY:
        with contextlib.suppress(OSError, ValueError):  # no container, or one without a limit
            allowed, taken = (int((_CGROUP / name).read_text()) for name in (limit, used))
            free = min(free, allowed - taken + _counted(files, _CGROUP / counts))
    return free


def _counted(name: str, path: Path) -> int:
    return next((int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith(f"{name} ")), 0)


def _load(name: str, toolkit: str | None, force: bool) -> None:
    """Load a library, compiled by this process or another, now or earlier."""
    root = _build.csrc()
    folder = _cache() / f"torchext{name}_{_digest(name, root, toolkit)}"
    library = folder / f"torchext{name}.so"
    with _locked(folder, name):
        # What cannot be loaded, cut off as the disk was full or made on a newer system, is as good as not there.
        loaded = None if force else _native.load_file(name, library)
        if loaded is None or loaded.problem is not None:
            for fault in toolchain.missing():
                raise RuntimeError(f"{fault.problem}; {fault.remedy}")
            _compile(name, root, toolkit, folder)
            loaded = _native.load_file(name, library)
    if loaded.problem is not None:
        raise _not_loaded(name, loaded.problem)
    _native.libraries[name] = loaded


def _not_loaded(name: str, problem: str) -> RuntimeError:
    return RuntimeError(f"the {_KINDS[name]} kernels were compiled, but not loaded: {problem}")


def _cache() -> Path:
    from torch.utils import cpp_extension

    return Path(os.environ.get("TORCH_EXTENSIONS_DIR") or cpp_extension.get_default_build_root())


class _Flags(NamedTuple):
    compiler: list[str]
    nvcc: list[str]
    linker: list[str]


def _flags(toolkit: str | None) -> _Flags:
    options = toolchain.compiler_command()[1:]
    compiler = [*_build.cxx_flags(), *options]
    if toolkit is None:
        return _Flags(compiler, [], options)
    return _Flags(compiler, _build.nvcc_flags(_architectures()), [*_build.cuda_link_flags(toolkit), *options])


def _architectures() -> list[str]:
    """Asked of the driver where it answers: asking PyTorch starts CUDA, and then the process can no longer fork."""
    capabilities = {gpu.capability for gpu in gpus.found()}
    if not capabilities:
        devices = range(torch.cuda.device_count())
        capabilities = {10 * major + minor for major, minor in map(torch.cuda.get_device_capability, devices)}
    return [str(capability) for capability in sorted(capabilities)]


def _digest(name: str, root: Path, toolkit: str | None) -> str:
    """Of all that a library is made of: headers too, which torch.utils.cpp_extension does not look at."""
    made_of = hashlib.sha256(repr((name, torch.__version__, torch.version.cuda, toolkit, _flags(toolkit))).encode())
    made_of.update(os.environ.get("TORCH_CUDA_ARCH_LIST", "").encode())
    for path in sorted(root.rglob("*")):
        if path.suffix in (".h", ".cuh", ".cpp", ".cu"):
            made_of.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return made_of.hexdigest()[:16]


@contextlib.contextmanager
def _locked(folder: Path, name: str) -> Iterator[None]:
    """Held by one process at a time, and given up by the system when that process dies."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    with (folder / "torchext.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            _say(f"another process compiles the {_KINDS[name]} kernels, waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _compile(name: str, root: Path, toolkit: str | None, folder: Path) -> None:
    from torch.utils import cpp_extension

    sources = _build.sources(root, cuda=toolkit is not None)
    building = folder / "building"
    # PyTorch's own lock stands in there. It outlives a process that was killed, and others would wait for it for ever.
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    flags = _flags(toolkit)
    # PyTorch remembers what it compiled under a name in this process, tries that failed too: the same again it takes
    # for done, and what differs it calls otherwise.
    fresh = f"torchext{name}_{next(_tries)}"
    if toolkit is not None:
        cpp_extension.CUDA_HOME = toolkit  # which its own search misses where the nvcc on the path is a script
    try:
        environment = {"MAX_JOBS": str(jobs()), "CXX": toolchain.compiler_command()[0]}
        with _environment(environment), _progress(name, len(sources), building):
            cpp_extension.load(
                fresh,
                sources,
                extra_cflags=flags.compiler,
                extra_cuda_cflags=flags.nvcc,
                extra_ldflags=flags.linker,
                extra_include_paths=[str(root)],
                build_directory=str(building),
                with_cuda=toolkit is not None,
                is_python_module=False,
            )
    except OSError as error:
        raise _not_loaded(name, faults.of_loading(error).problem) from None
    # Moved only when it is whole: every library in the folder can be loaded.
    (building / f"{fresh}.so").replace(folder / f"torchext{name}.so")
    shutil.rmtree(building, ignore_errors=True)


@contextlib.contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _progress(name: str, files: int, folder: Path) -> Iterator[None]:
    """A line before, a line after, and on a terminal one that counts in between."""
    _say(f"compiling the {_KINDS[name]} kernels, {files} files, {jobs()} at a time, into {folder.parent}")
    start, done = time.monotonic(), threading.Event()

    def count() -> None:
        while not done.wait(1.0):
            compiled = len(list(folder.glob("*.o")))
            print(
                f"\rtorchext: {compiled} of {files} compiled, {time.monotonic() - start:.0f} s",
                end="", file=sys.stderr, flush=True,
            )  # fmt: skip

    counter = threading.Thread(target=count, daemon=True)
    if sys.stderr.isatty():
        counter.start()
    try:
        yield
    finally:
        done.set()
        if counter.is_alive():
            counter.join()
            print(file=sys.stderr)
    _say(f"compiled the {_KINDS[name]} kernels in {time.monotonic() - start:.0f} s")


def _say(text: str) -> None:
    print(f"torchext: {text}", file=sys.stderr, flush=True)
