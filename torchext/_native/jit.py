"""Compilation of the libraries on the user's machine."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from torchext._core import library as _library
from torchext._native import build as _build
from torchext._native import cache as _cache
from torchext._native import doctor as _doctor
from torchext._native import faults, gpus, toolchain
from torchext._native import load as _native

_KINDS = {"_C": "CPU", "_C_cuda": "CUDA"}
# The time that one processor takes to compile each library, measured on an AMD EPYC with GCC 12 for one instruction
# set, and with nvcc 13.0 for one architecture.
_SECONDS = {"_C": 110.0, "_C_cuda": 400.0}
# The seconds between two reports of progress: in a file, and on a terminal, which shows the last one.
_INTERVALS = {False: 10.0, True: 1.0}
_tries = itertools.count()
_CGROUP = Path("/sys/fs/cgroup")
# For versions 2 and 1 of Linux's control groups: the files with the limit, with the used memory and with statistics,
# and the statistic of cached files, which the kernel frees when memory is short. A build leaves gigabytes of these.
_MEMORY = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)


def include_dir() -> str:
    """Return the folder of torchext's C++ headers, for operations of other packages that include them.

    The headers use only the LibTorch Stable ABI. Compile with the flags of `torchext.compile_flags`, and also compile
    the sources in this folder whose functions are called.

    Examples:
        >>> torchext.include_dir().endswith("csrc")
        True
    """
    return str(_build.csrc())


def compile_flags() -> list[str]:
    """Return the C++ compiler flags that the headers in `torchext.include_dir` require.

    They select the C++ standard and the oldest PyTorch version with which the result works.

    Examples:
        >>> "-std=c++20" in torchext.compile_flags()
        True
    """
    return list(_build.STABLE_ABI)


def jit_build(force: bool = False) -> _doctor.Report:
    """Compile the kernels on this machine with `torch.utils.cpp_extension`, and load them.

    A library that is already loaded is not compiled. Libraries are stored in PyTorch's cache of extensions
    (TORCH_EXTENSIONS_DIR), and compiled again if the sources, the flags, PyTorch's version, the instruction set of the
    processor or the GPUs change. All environments with the same version of PyTorch share them. A library that another
    user could have changed is not loaded. If several processes build at the same time, the first one compiles and the
    others wait. The CPU kernels are compiled only for the processor of this machine, which takes about a minute on two
    cores. The CUDA kernels are compiled for the GPUs of the machine if PyTorch is a CUDA build and nvcc is found.
    MAX_JOBS is the number of compilers that run at the same time, by default one for each core and each 2 GB of free
    memory. With TORCHEXT_JIT=1, the import of torchext does the same. The library of schemas for programs without
    Python is not compiled: wheels contain it.

    Args:
        force: compile libraries that are in the cache as well.

    Returns:
        The report of `torchext.doctor` after the build.

    Raises:
        RuntimeError: the compiler is missing or fails; the references then still run. With ``force`` also if a
            library is already loaded, since a process cannot unload a library.
        OSError: the cache cannot be written, another user could change it, or its file system is mounted with noexec.

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
    if version is None or toolkit is None:  # the report of the doctor names what is missing
        return
    fault = _native.driver_fault(version)
    if fault is None and not (_architectures() or os.environ.get("TORCH_CUDA_ARCH_LIST")):
        fault = faults.Fault("no GPU was found to compile for", "set TORCH_CUDA_ARCH_LIST")
    if fault is None:
        _load("_C_cuda", toolkit, force)
    else:
        _native.libraries["_C_cuda"] = _native.Library("_C_cuda", None, *fault)


def build_at_import() -> None:
    """Compile and load the libraries for TORCHEXT_JIT=1; if that fails, warn and use the references."""
    try:
        jit_build()
    # The compiler fails, the cache cannot be written, a tool does not run, or setuptools (for PyTorch) is missing.
    except (RuntimeError, OSError, subprocess.SubprocessError, ImportError) as error:
        warnings.warn(f"TORCHEXT_JIT=1: {error}", stacklevel=3)


def jobs() -> int:
    """The number of compilers at a time: MAX_JOBS, or one for each processor and each 2 GB of free memory."""
    chosen = os.environ.get("MAX_JOBS", "")
    if chosen.isdigit() and int(chosen) > 0:
        return int(chosen)
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = _free_memory()
    return processors if memory is None else max(1, min(processors, memory // (2 << 30)))


def _free_memory() -> int | None:
    """The free memory in bytes, within the limit of a container; None if the system does not provide it."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
    for limit, used, statistics, cached_files in _MEMORY:
        with contextlib.suppress(OSError, ValueError):  # no container, or one without a limit
            allowed, taken = (int((_CGROUP / name).read_text()) for name in (limit, used))
            free = min(free, allowed - taken + _statistic(cached_files, _CGROUP / statistics))
    return free


def _statistic(name: str, path: Path) -> int:
    return next((int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith(f"{name} ")), 0)


def _load(name: str, toolkit: str | None, force: bool) -> None:
    """Load a library from the cache, and compile it first if necessary."""
    root = _build.csrc()
    library = _cache.root() / f"torchext{name}_{_digest(name, root, toolkit)}" / f"torchext{name}.so"
    # The cache may be on a file system that is mounted read-only, so that it is read before it is locked.
    loaded = None if force else _from_cache(name, library)
    if loaded is None:
        for fault in toolchain.missing(toolchain.compiler(), toolchain.ninja()):
            raise RuntimeError(f"{fault.problem}; {fault.remedy}")
        _cache.create(library.parent)
        waiting = f"another process compiles the {_KINDS[name]} kernels, waiting for it"
        with _cache.locked(library.parent, lambda: _print_status(waiting)) as locked:
            if not force:  # another process may have compiled it
                loaded = _from_cache(name, library)
            if loaded is None:
                _compile(name, root, toolkit, library, locked)
                loaded = _native.load_file(name, library)
    if loaded.problem is not None:
        raise _not_loaded(name, loaded.problem)
    _native.libraries[name] = loaded


def _from_cache(name: str, library: Path) -> _native.Library | None:
    """Load a library from the cache.

    None if there is none, or one that cannot be loaded (truncated by a full disk, or built on a newer system).
    """
    if not os.path.isfile(library):
        return None
    _cache.check(library.parent, library)
    loaded = _native.load_file(name, library)
    return loaded if loaded.problem is None else None


def _not_loaded(name: str, problem: str) -> RuntimeError:
    return RuntimeError(f"the {_KINDS[name]} kernels were compiled, but not loaded: {problem}")


class _Flags(NamedTuple):
    compiler: list[str]
    nvcc: list[str]
    linker: list[str]


def _flags(toolkit: str | None) -> _Flags:
    """The flags of the compilers, without paths, which are no part of the key of the cache."""
    options = toolchain.compiler_command()[1:]
    compiler = [*_build.cxx_flags(), *options]
    if toolkit is None:
        return _Flags([*compiler, *_build.one_set_flags(_build.instruction_set())], [], options)
    return _Flags(compiler, _build.nvcc_flags(_architectures()), options)


def _architectures() -> list[str]:
    """Compute capabilities of the GPUs, from PyTorch only if the driver finds none: PyTorch would initialise CUDA.

    A process that has initialised CUDA cannot fork.
    """
    capabilities = {gpu.capability for gpu in gpus.found()}
    if not capabilities:
        devices = range(torch.cuda.device_count())
        capabilities = {10 * major + minor for major, minor in map(torch.cuda.get_device_capability, devices)}
    return [str(capability) for capability in sorted(capabilities)]


def _digest(name: str, root: Path, toolkit: str | None) -> str:
    """A hash of everything that a library is built from, including headers, which cpp_extension does not check.

    It has no path, so that one library serves all environments with the same version of PyTorch.
    """
    cuda = (torch.version.cuda, toolkit and _build.toolkit_version(toolkit))
    parts = (name, platform.machine(), torch.__version__, cuda, _flags(toolkit))
    digest = hashlib.sha256(repr(parts).encode())
    digest.update(os.environ.get("TORCH_CUDA_ARCH_LIST", "").encode())
    for path in sorted(root.rglob("*")):
        if path.suffix in (".h", ".cuh", ".cpp", ".cu"):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _compile(name: str, root: Path, toolkit: str | None, library: Path, locked: bool) -> None:
    from torch.utils import cpp_extension

    sources = _build.sources(root, cuda=toolkit is not None)
    # The largest sources take longest. If one of them came last, only one processor would be busy at the end.
    sources.sort(key=lambda source: -os.path.getsize(source))
    if locked:
        # The folders of processes that were killed.
        for left in library.parent.glob("building-*"):
            shutil.rmtree(left, ignore_errors=True)
    building = Path(tempfile.mkdtemp(prefix="building-", dir=library.parent))
    flags = _flags(toolkit)
    # PyTorch does not compile the same sources under the same name twice in one process, even if the first try failed,
    # and appends a version to the name if sources changed. Each try therefore has another name.
    unique_name = f"torchext{name}_{next(_tries)}"
    linker = flags.linker
    if toolkit is not None:
        cpp_extension.CUDA_HOME = toolkit  # PyTorch's own search fails if the nvcc on the path is a script
        linker = [*_build.cuda_link_flags(toolkit), *linker]
    # PyTorch's check of the compiler requires that its messages are UTF-8, and that it prints them at all.
    environment = {
        "MAX_JOBS": str(jobs()),
        "CXX": toolchain.compiler_command()[0],
        "TORCH_DONT_CHECK_COMPILER_ABI": "1",
    }
    try:
        with _environment(environment), _quoted_library_path(), _progress(name, len(sources), building):
            cpp_extension.load(
                unique_name,
                sources,
                extra_cflags=flags.compiler,
                extra_cuda_cflags=flags.nvcc,
                extra_ldflags=linker,
                extra_include_paths=[str(root)],
                build_directory=str(building),
                with_cuda=toolkit is not None,
                is_python_module=False,
            )
        built = building / f"{unique_name}.so"
        built.chmod(built.stat().st_mode & ~0o022)  # the linker lets others write it if the umask does
        built.replace(library)  # only when it is complete
    except UnicodeDecodeError as error:  # PyTorch decodes the messages of a compiler that fails
        text = error.object.decode("utf-8", "replace")
        raise RuntimeError(f"the {_KINDS[name]} kernels were not compiled: {text}") from None
    except OSError as error:
        raise _not_loaded(name, faults.of_loading(error).problem) from None
    finally:
        shutil.rmtree(building, ignore_errors=True)


@contextlib.contextmanager
def _quoted_library_path() -> Iterator[None]:
    """Quote the folder of PyTorch's libraries, which PyTorch writes into a shell command without quotes."""
    from torch.utils import cpp_extension

    path = getattr(cpp_extension, "TORCH_LIB_PATH", None)
    if sys.platform == "win32" or path is None:
        yield
        return
    cpp_extension.TORCH_LIB_PATH = shlex.quote(path)
    try:
        yield
    finally:
        cpp_extension.TORCH_LIB_PATH = path


@contextlib.contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ[name] for name in settings if name in os.environ}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name in settings:
            del os.environ[name]
        os.environ.update(before)


@contextlib.contextmanager
def _progress(name: str, files: int, folder: Path) -> Iterator[None]:
    """Print how long the compilation takes, and while it runs the number of compiled files."""
    start, done = time.monotonic(), threading.Event()
    chosen = _build.instruction_set() if name == "_C" else None
    text = f"compiling the {_KINDS[name]} kernels{f' for {chosen}' if chosen else ''}, {files} files"
    expected = duration(_SECONDS[name] / min(jobs(), 8))
    _print_status(f"{text}, {jobs()} at a time, about {expected}, into {folder.parent}")

    def count() -> None:
        terminal = sys.stderr.isatty()
        while not done.wait(_INTERVALS[terminal]):
            compiled = len(list(folder.glob("*.o")))
            text = f"torchext: {compiled} of {files} files compiled, {duration(time.monotonic() - start)}"
            print(f"\r{text}" if terminal else text, end="" if terminal else "\n", file=sys.stderr, flush=True)
        if terminal:
            print(file=sys.stderr)

    counter = threading.Thread(target=count, daemon=True)
    counter.start()
    try:
        yield
    finally:
        done.set()
        counter.join()
    _print_status(f"compiled the {_KINDS[name]} kernels in {duration(time.monotonic() - start)}")


def duration(seconds: float) -> str:
    """A time as text: "45 s", or "2 min 5 s" from two minutes on."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{round(seconds)} s" if minutes < 2 else f"{minutes} min {rest} s"


def _print_status(text: str) -> None:
    print(f"torchext: {text}", file=sys.stderr, flush=True)
