"""Installs a wheel with several pairs of CPython and PyTorch, one after the other, and tests it with each.

`python tools/wheel_matrix.py WHEEL [PYTHON:TORCH ...]`; the default is all of PAIRS. The interpreters are searched on
the path and in pyenv. An environment with a CUDA build of PyTorch needs 5 to 7 GB, and is removed after its test.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SMOKE = ROOT / ".ci" / "try_wheel.py"
PAIRS = ("3.10:2.10.0", "3.11:2.13.0", "3.11:2.14.1", "3.12:2.12.1", "3.13:2.15.0")
RESULT = ROOT / "docs" / "wheel_matrix.md"


def interpreter(version: str) -> str:
    """The path of a CPython of this version: on the search path, or in pyenv."""
    found = shutil.which(f"python{version}")
    if found and "shims" not in found:
        return found
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = sorted(pyenv.glob(f"{version}.*/bin/python{version}"))
    if not candidates:
        raise SystemExit(f"no python{version} on the path or in pyenv")
    return str(candidates[-1])


def run(command: list[str], folder: Path, **environment: str) -> str:
    """The output of a command; if it fails, the whole program ends."""
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def try_pair(wheel: Path, pair: str) -> dict[str, str]:
    """The results of the smoke test in an environment with this pair."""
    version, _, torch = pair.partition(":")
    with tempfile.TemporaryDirectory(prefix="wheel-matrix-") as name:
        folder = Path(name)
        start = time.monotonic()
        run([interpreter(version), "-m", "venv", "venv"], folder)
        python = str(folder / "venv" / "bin" / "python")
        run([python, "-m", "pip", "install", "-qq", "--no-cache-dir", f"torch=={torch}", str(wheel)], folder)
        installed = time.monotonic() - start
        run([python, "-I", str(SMOKE)], folder)  # resolves symbols when they are first called
        cuda = run([python, "-c", "import torch; print(torch.version.cuda)"], folder).strip()
        arguments = [python, "-I", str(SMOKE), *(["--cuda"] if cuda != "None" else [])]
        output = run(arguments, folder, LD_BIND_NOW="1")
    facts: dict[str, str] = json.loads(output.rpartition("facts: ")[2])
    kernels = facts.pop("kernels", None)
    print(f"{pair}: {facts}, installed in {installed:.0f} s", flush=True)
    return {**facts, "cuda": cuda, "forced": f"loads, {kernels} kernels" if kernels else "not tried"}


def table(wheel: Path, rows: list[dict[str, str]]) -> str:
    """The rows as a Markdown table."""
    head = "| CPython | torch | built for CUDA | glibc | `_C.so` | `_C_cuda.so` | loaded by force | an error from C++ |"
    lines = [head, "|---|---|---|---|---|---|---|---|"]
    for row in rows:
        cells = [row[key] for key in ("python", "torch", "cuda", "glibc", "_C", "_C_cuda", "forced")]
        lines.append("| " + " | ".join([*cells, f"`{row['error']}`"]) + " |")
    size = wheel.stat().st_size / 1e6
    return f"`{wheel.name}`, {size:.1f} MB:\n\n" + "\n".join(lines) + "\n"


def main() -> None:
    """Test the given pairs; a run of all pairs also writes the table of the documentation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("pairs", nargs="*", default=[], metavar="PYTHON:TORCH")
    options = parser.parse_args()
    wheel = options.wheel.resolve()
    rows = [try_pair(wheel, pair) for pair in options.pairs or PAIRS]
    result = table(wheel, rows)
    print(f"\n{result}")
    if not options.pairs:
        page = RESULT.read_text(encoding="utf-8")
        begin, end = "<!-- matrix -->\n", "<!-- end -->"
        head, _, rest = page.partition(begin)
        RESULT.write_text(head + begin + result + end + rest.partition(end)[2], encoding="utf-8")


if __name__ == "__main__":
    main()
