"""Descriptions of faults of a library or a machine, with their remedies."""

from __future__ import annotations

import os
import platform
import re
import struct
import sys
from pathlib import Path
from typing import NamedTuple

import torch

from torchext._native.folders import DISTRIBUTION, PACKAGE


class Fault(NamedTuple):
    """A reason why kernels do not run, and its remedy."""

    problem: str
    remedy: str


BUILD = "build it on this machine with torchext.jit_build()"
REINSTALL = f"reinstall it: pip install --force-reinstall --no-deps {DISTRIBUTION}"


ANOTHER_WHEEL = "the wheel for other platforms is installed, which has no compiled library"


def of_missing() -> Fault:
    """The fault of a package without compiled libraries."""
    # pip before 20.3 does not recognise the tag of the wheel for Linux, and installs the one for other platforms.
    is_installed = (PACKAGE / "csrc").is_dir()
    if is_installed and sys.platform == "linux" and platform.machine() == "x86_64" and _glibc() >= (2, 28):
        return Fault(ANOTHER_WHEEL, f"update pip and {REINSTALL}, or {BUILD}")
    return Fault("no compiled library in the package's folder", f"{BUILD}, or install a wheel")


def _glibc() -> tuple[int, ...]:
    """The version of glibc; (0,) if the system has another library."""
    try:
        version = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (OSError, ValueError):
        version = ""
    return tuple(map(int, re.findall(r"\d+", version))) or (0,)


CAPABILITIES = ("baseline", "avx2", "avx512")


def of_capability() -> Fault | None:
    """The fault of a TORCHEXT_CPU_CAPABILITY that is not an instruction set, and therefore has no effect."""
    chosen = os.environ.get("TORCHEXT_CPU_CAPABILITY")
    if not chosen or chosen in CAPABILITIES:
        return None
    return Fault(
        f"TORCHEXT_CPU_CAPABILITY={chosen} names no instruction set, and is ignored",
        f"set it to one of {', '.join(CAPABILITIES)}, or unset it",
    )


def of_noexec(folder: Path) -> Fault | None:
    """The fault of a folder on a file system from which the system maps no code."""
    if not hasattr(os, "ST_NOEXEC") or not os.statvfs(folder).f_flag & os.ST_NOEXEC:
        return None
    return Fault(
        f"{folder} is on a file system that is mounted with noexec, from which no library can be loaded",
        "set TORCH_EXTENSIONS_DIR to a folder on another file system, and call torchext.jit_build()",
    )


def of_file(path: Path) -> Fault | None:
    """The fault of a file that cannot be read, is truncated or is not a library.

    The dynamic linker does not check this: it also maps the missing part of a library, and the process ends by SIGBUS.
    """
    remedy = f"{REINSTALL}, or {BUILD}"
    try:
        with path.open("rb") as file:
            header = file.read(64)
            size = file.seek(0, 2)
    except OSError as error:
        return Fault(f"the file {path} cannot be read: {error.strerror}", remedy)
    if sys.platform != "linux":
        return None
    fault = of_noexec(path.parent)
    if fault is not None:
        return fault
    if len(header) < 64 or not header.startswith(b"\x7fELF"):
        return Fault(f"the file {path} is damaged: it is not a library", remedy)
    (sections,), (entry, count) = struct.unpack_from("=Q", header, 40), struct.unpack_from("=HH", header, 58)
    end = sections + entry * count  # linkers write the section headers last
    if size < end:
        return Fault(f"the file {path} is damaged: {size} bytes where {end} were written", remedy)
    return None


def of_stamp(path: Path, stamp: str) -> Fault | None:
    """The fault of a file whose stamp is not that of this package: of another version, of older schemas, or without."""
    if f"torchext-stamp={stamp};".encode() in path.read_bytes():
        return None
    return Fault(
        f"the file {path} was not built for this torchext",
        f"{REINSTALL}, or {BUILD}; in a source tree: make build",
    )


def of_loading(error: OSError) -> Fault:
    """The fault that an error of the dynamic linker describes."""
    message = str(error.__cause__ or error)  # PyTorch raises another error from that of the linker
    version = re.search(r"version `(GLIBC|GLIBCXX|CXXABI|GCC)_([0-9.]+)' not found", message)
    if version is not None:
        library = {"GLIBC": "glibc"}.get(version[1], "libstdc++")
        return Fault(
            f"it requires {version[1]}_{version[2]}, which the {library} of this system is too old for",
            f"{BUILD}, or move to a system with a newer {library}",
        )
    symbol = re.search(r"undefined symbol: (\w+)", message)
    if symbol is not None:
        return Fault(
            f"it was built for a newer PyTorch than {torch.__version__} (which lacks {symbol[1]})",
            f"upgrade PyTorch, or {BUILD}",
        )
    return Fault(f"cannot be loaded: {message}", f"{BUILD}, or {REINSTALL}")
