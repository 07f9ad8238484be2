"""Checks that a PyTorch has all symbols that libraries require: `python tools/torch_symbols.py TORCH LIBRARY ...`.

TORCH is a version, whose wheel is downloaded to a temporary folder, or a wheel, or a folder with PyTorch's libraries.
Nothing is loaded, so this requires neither a GPU nor CUDA.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Without libtorch_python, which a library that uses the stable ABI must not require.
LIBRARIES = re.compile(r"lib(torch|torch_cpu|torch_cuda|c10|c10_cuda)\.so")


def _symbols(library: Path, kind: str) -> set[str]:
    command = ["nm", "--dynamic", "--format=posix", kind, str(library)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    symbols = (line.split()[:2] for line in output.splitlines())
    return {name for name, type in symbols if type not in ("w", "v")}  # weak symbols may stay undefined


def missing(library: Path, torch: Path) -> set[str]:
    """Undefined symbols that PyTorch's libraries do not define; those of the C and C++ runtimes have a version."""
    found: set[str] = set()
    for path in torch.iterdir():
        if LIBRARIES.fullmatch(path.name):
            found |= {name.partition("@")[0] for name in _symbols(path, "--defined-only")}
    return {name for name in _symbols(library, "--undefined-only") if "@" not in name} - found


@contextmanager
def _libraries_of(torch: str) -> Iterator[Path]:
    """The folder of PyTorch's libraries, removed afterwards if it is temporary."""
    path = Path(torch)
    if path.is_dir():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="torch-") as name:
        folder = Path(name)
        if not path.exists():
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", name, f"torch==={torch}"]
            subprocess.run(command, check=True)
            path = next(folder.glob("*.whl"))
        with zipfile.ZipFile(path) as wheel:
            for entry in wheel.infolist():
                if LIBRARIES.fullmatch(Path(entry.filename).name):
                    entry.filename = Path(entry.filename).name
                    wheel.extract(entry, folder)
        yield folder


def main() -> int:
    """Print the missing symbols of each library; the exit status is 1 if there are any."""
    torch, *libraries = sys.argv[1:]
    with _libraries_of(torch) as folder:
        lacking = {path: sorted(missing(Path(path), folder)) for path in libraries}
    for path, names in lacking.items():
        print(f"{path}: {', '.join(names) or 'nothing'} is missing in PyTorch {torch}")
    return int(any(lacking.values()))


if __name__ == "__main__":
    sys.exit(main())
