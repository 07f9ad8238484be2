"""The glibc version that the compiled libraries require, and how to link CUDA's static runtime for an old version.

glibc 2.34 moved the functions in `_MOVED` into libc.so.6 under a new version, and kept the old version, which is enough
for the runtime. A linker chooses the new version. If it also gets stand-ins of the former libraries, which contain
these names without code, it chooses the old version.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

# The version that PyTorch's own wheels require.
_LEAST = (2, 28)

# The first glibc version of an architecture, which all functions have unless another follows an @.
_FIRST = {"x86_64": "2.2.5", "aarch64": "2.17"}

_MOVED = {
    "libdl.so.2": "dlclose dlerror dlmopen@2.3.4 dlopen dlsym dlvsym",
    "libpthread.so.0": """
        pthread_condattr_setpshared pthread_create pthread_detach pthread_getspecific pthread_join pthread_key_create
        pthread_key_delete pthread_kill pthread_mutexattr_destroy pthread_mutexattr_init pthread_mutexattr_setpshared
        pthread_mutexattr_settype pthread_mutex_trylock pthread_once pthread_rwlockattr_destroy pthread_rwlockattr_init
        pthread_rwlockattr_setpshared pthread_rwlock_destroy pthread_rwlock_init pthread_rwlock_rdlock
        pthread_rwlock_timedrdlock pthread_rwlock_timedwrlock pthread_rwlock_tryrdlock pthread_rwlock_trywrlock
        pthread_rwlock_unlock pthread_rwlock_wrlock pthread_setspecific pthread_spin_destroy pthread_spin_init
        pthread_spin_lock pthread_spin_trylock pthread_spin_unlock sem_destroy sem_init sem_post sem_timedwait
        sem_trywait sem_wait""",
    "librt.so.1": "shm_open shm_unlink",
}


def link_flags(folder: Path) -> list[str]:
    """Flags that link stand-ins of the former libraries, created in a folder; none on other systems and processors."""
    first = _FIRST.get(platform.machine())
    if first is None or platform.system() != "Linux":
        return []
    folder.mkdir(parents=True, exist_ok=True)
    stand_ins = [str(_stand_in(folder, library, names.split(), first)) for library, names in _MOVED.items()]
    # Without this flag a linker drops libraries that no earlier object on the command line refers to.
    return ["-Wl,--no-as-needed", *stand_ins, "-Wl,--as-needed"]


def _stand_in(folder: Path, library: str, names: list[str], first: str) -> Path:
    versions: dict[str, list[str]] = {}
    for name in names:
        symbol, _, version = name.partition("@")
        versions.setdefault(version if version and first == "2.2.5" else first, []).append(symbol)
    symbols = [symbol for group in versions.values() for symbol in group]
    assembly, script, path = folder / f"{library}.s", folder / f"{library}.map", folder / library
    assembly.write_text("".join(f".globl {s}\n.type {s}, %function\n{s}:\n" for s in symbols), encoding="ascii")
    script.write_text(
        "".join(f"GLIBC_{version} {{ global: {'; '.join(group)}; }};\n" for version, group in versions.items()),
        encoding="ascii",
    )
    compiler = os.environ.get("CXX", "c++").split()
    flags = ["-shared", "-nostdlib", f"-Wl,-soname,{library}", f"-Wl,--version-script,{script}"]
    subprocess.run([*compiler, *flags, str(assembly), "-o", str(path)], check=True)
    return path


def needed(library: Path) -> tuple[int, ...]:
    """The newest glibc version of the symbols that a library requires."""
    text = subprocess.run(["readelf", "-VW", str(library)], capture_output=True, text=True, check=True).stdout
    return max((_numbers(version) for version in re.findall(r"Name: GLIBC_([0-9.]+)", text)), default=(0,))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def wheel_platform(default: str, libraries: Iterable[str]) -> str:
    """The platform in a wheel's tag, with the oldest glibc version with which all libraries can be loaded."""
    if not default.startswith("linux_"):
        return default
    major, minor = max([_LEAST, *(needed(Path(library)) for library in libraries)])[:2]
    return f"manylinux_{major}_{minor}_{default.removeprefix('linux_')}"
