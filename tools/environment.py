"""Create an environment, install pinned packages, and say why if that fails: ``environment.py FOLDER REQUIREMENTS``."""

import os
import subprocess
import sys
from pathlib import Path

# That of NumPy in requirements/demo.txt. This file itself must run with older ones, to say so.
OLDEST = (3, 11)
UNREACHABLE = ("NewConnectionError", "NameResolutionError", "ConnectTimeout", "ProxyError", "Max retries exceeded")


def version_problem(version, python):
    """Why the pinned packages have no builds for a version of Python, or None."""
    if tuple(version[:2]) >= OLDEST:
        return None
    found, oldest = (".".join(map(str, one[:2])) for one in (version, OLDEST))
    return (
        f"{python} is Python {found}, and the pinned packages require {oldest} or later: "
        f"install one and add PYTHON=python{oldest} to the command"
    )


def pip_problem(output):
    """The reason in the output of pip, in words."""
    index = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple")
    if any(text in output for text in UNREACHABLE):
        return f"the package index {index} cannot be reached: connect to a network, or set PIP_INDEX_URL to a mirror"
    if "(from versions: none)" in output:  # without retries, pip does not say that it found no index
        return (
            f"the package index {index} cannot be reached, or has no version of a package for Python "
            f"{sys.version_info[0]}.{sys.version_info[1]} on this platform: check the network and PIP_INDEX_URL, or "
            "add PYTHON=python3.11 to the command, after make clean"
        )
    if "No matching distribution" in output:
        return (
            f"the package index has no build for Python {sys.version_info[0]}.{sys.version_info[1]} on this platform: "
            "add PYTHON=python3.11 to the command, after make clean"
        )
    return "pip failed"


def main(folder, requirements):
    """Create the environment if it does not exist, and install the requirements. Returns what went wrong, or None."""
    python = Path(folder) / "bin" / "python"
    if not python.exists():
        problem = version_problem(sys.version_info, sys.executable)
        if problem:
            return problem
        if subprocess.call([sys.executable, "-m", "venv", folder]):
            return (
                f"{sys.executable} cannot create an environment: install its venv module (apt-get install python3-venv)"
            )
    command = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", requirements]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)  # noqa: UP021
    if done.returncode == 0:
        return None
    print(done.stdout, file=sys.stderr)
    return f"{requirements} cannot be installed: {pip_problem(done.stdout)}"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
