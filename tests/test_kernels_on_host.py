"""The CUDA kernels, every thread of them run on the host: their index math, barriers and memory, without a GPU."""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from torch.utils.cpp_extension import include_paths

pytestmark = pytest.mark.xdist_group("kernels on host")  # compiled once

ROOT = Path(__file__).resolve().parent.parent
COMPILER = os.environ.get("CXX", "g++")
PROGRAMS = sorted(path.stem for path in (ROOT / "tests" / "host").glob("*.cpp"))

FLAGS = [
    "-std=c++20", "-O1", "-g1", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas",  # nvcc's own
    "-fsanitize=address,undefined", "-fno-sanitize-recover=all",
    f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'tests' / 'host'}",
    *(flag for path in include_paths() for flag in ("-isystem", path)),
]  # fmt: skip


def _compile(program: str, directory: Path) -> Path:
    source, built = ROOT / "tests" / "host" / f"{program}.cpp", directory / program
    subprocess.run([COMPILER, *FLAGS, str(source), "-o", str(built)], check=True, capture_output=True, text=True)
    return built


def _sanitizers_work(directory: Path) -> bool:
    source = directory / "probe.cpp"
    source.write_text("#include <sanitizer/asan_interface.h>\n#include <ucontext.h>\nint main() {}\n")
    command = [COMPILER, "-fsanitize=address,undefined", str(source), "-o", str(directory / "probe")]
    return (
        shutil.which(COMPILER) is not None
        and subprocess.run(command, check=False, capture_output=True).returncode == 0
        and subprocess.run([str(directory / "probe")], check=False, capture_output=True).returncode == 0
    )


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("kernels_on_host")
    if not _sanitizers_work(directory):
        pytest.skip(f"{COMPILER} with AddressSanitizer is not here")
    with ThreadPoolExecutor(2) as pool:
        built = pool.map(lambda program: _compile(program, directory), PROGRAMS)
        return dict(zip(PROGRAMS, built, strict=True))


# A seed decides both the cases and the order in which threads and blocks run.
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("program", PROGRAMS)
def test_kernels_on_host(programs: dict[str, Path], program: str, seed: int) -> None:
    command = [str(programs[program]), str(seed)]
    run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr


def test_padding_shows_the_elements_that_numpy_shows(programs: dict[str, Path]) -> None:
    numpy = pytest.importorskip("numpy")
    names = {"replicate": "edge", "circular": "wrap"}
    printed = subprocess.run([str(programs["padding"])], check=True, capture_output=True, text=True).stdout
    for line in printed.splitlines():
        mode, size, padding, *shown = line.split()
        constant = {"constant_values": -1} if mode == "constant" else {}
        expected = numpy.pad(range(int(size)), int(padding), names.get(mode, mode), **constant)
        assert [int(one) for one in shown] == expected.tolist(), line
    assert printed.count("\n") > 150
