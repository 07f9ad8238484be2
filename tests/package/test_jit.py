"""Tests of `jit_build`: what is cached, what is compiled again, and which process waits for another."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import torchext
from tests import ROOT
from torchext._native import build, cache, jit, load, toolchain
from torchext._native import gpus as _gpus

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="shared objects of Linux")

pytestmark = pytest.mark.xdist_group("compiler")


@pytest.fixture(scope="module")
def pure(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package without libraries, as its pure-Python wheel installs it, with a small kernel as its only source."""
    site = tmp_path_factory.mktemp("site")
    package = site / "torchext"
    package.mkdir()
    for path in (ROOT / "torchext").rglob("*.py"):
        target = package / path.relative_to(ROOT / "torchext")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    csrc = package / "csrc"
    csrc.mkdir()
    (csrc / "header.h").write_text("constexpr int kAnswer = 1;\n")
    (csrc / "stamp.h").write_bytes((build.csrc() / "common" / "stamp.h").read_bytes())
    (csrc / "library.cpp").write_text(
        '#include "header.h"\n'
        '#include "stamp.h"\n'
        "#include <torch/csrc/stable/library.h>\n"
        "#include <torch/csrc/stable/tensor.h>\n"
        'extern "C" __attribute__((visibility("default"))) const char* torchext_cpu_capability() { return "tiny"; }\n'
        'extern "C" __attribute__((visibility("default"))) int answer() { return kAnswer; }\n'
    )
    return site


def start(site: Path, cache: Path, code: str, **environment: str) -> subprocess.Popen[str]:
    environment = {"PYTHONPATH": str(site), "TORCH_EXTENSIONS_DIR": str(cache), **environment}
    # On Linux, the import warns about the wheel for other platforms.
    environment = {"PYTHONWARNINGS": "ignore:the slower references run", **environment}
    kept = {key: value for key, value in os.environ.items() if key not in ("TORCHEXT_DISABLE_NATIVE", "TORCHEXT_JIT")}
    return subprocess.Popen(
        [sys.executable, "-P" if sys.version_info >= (3, 11) else "-s", "-c", code],
        env={**kept, **environment},
        cwd=cache.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(site: Path, cache: Path, code: str, **environment: str) -> tuple[str, str]:
    process = start(site, cache, code, **environment)
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out.strip(), err


ANSWER = (
    "import ctypes, torchext; "
    "print(ctypes.CDLL(str(torchext.jit_build().libraries[0].path)).answer(), torchext.__path__[0])"
)


def test_a_pure_package_compiles_once_and_again_if_a_header_changes(pure: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    out, err = run(pure, cache, ANSWER)
    assert out == f"1 {pure / 'torchext'}"
    assert re.search(r"compiling the CPU kernels( for \w+)?, 1 files, \d+ at a time, about \d+ (s|min), into ", err)
    assert "compiled the CPU kernels in" in err
    assert run(pure, cache, ANSWER) == (out, "")
    header = pure / "torchext" / "csrc" / "header.h"
    before = header.read_text()
    header.write_text(before.replace("1", "2"))
    out, err = run(pure, cache, ANSWER)
    header.write_text(before)
    assert out.startswith("2 ")
    assert "compiled the CPU kernels" in err


@pytest.mark.parametrize("cuda", [False, True])
def test_no_two_sources_have_the_same_object_name(cuda: bool) -> None:
    names = [Path(source).name for source in build.sources(build.csrc(), cuda=cuda)]
    assert len(set(names)) == len(names) > 1


@pytest.mark.parametrize("other_flags", [False, True])
def test_a_build_succeeds_after_a_failed_build(pure: Path, tmp_path: Path, other_flags: bool) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text(
        '#!/bin/sh\n[ -e "$0.mended" ] || [ "$1" = --version ] || { echo "no space left" >&2; exit 1; }\n'
        'exec c++ "$@"\n'
    )
    compiler.chmod(0o755)
    code = (
        "import os, torchext\n"
        "try:\n"
        "    torchext.jit_build()\n"
        "except RuntimeError as error:\n"
        "    print('no space left' in str(error), end=' ')\n"
        "open(os.environ['CXX'] + '.mended', 'w').close()\n"
        f"if {other_flags}: os.environ['TORCHEXT_CXX_FLAGS'] = '-DOTHER'\n"
        f"{ANSWER}"
    )
    assert run(pure, tmp_path / "cache", code, CXX=str(compiler))[0] == f"True 1 {pure / 'torchext'}"


@LINUX
@pytest.mark.parametrize("damage", ["empty", "truncated", "for a newer system"])
def test_a_cached_library_that_cannot_be_loaded_is_compiled_again(pure: Path, tmp_path: Path, damage: str) -> None:
    cache = tmp_path / "cache"
    out, _ = run(pure, cache, ANSWER)
    (library,) = cache.glob("torchext_C_*/torchext_C.so")
    content = library.read_bytes()
    damaged = {
        "empty": b"",
        "truncated": content[:9000],
        "for a newer system": content.replace(b"libc.so.6", b"libc.so.7"),
    }
    library.write_bytes(damaged[damage])
    again, err = run(
        pure,
        cache,
        f"import torchext; assert torchext.doctor().libraries[0].problem is None; {ANSWER}",
        TORCHEXT_JIT="1",
    )
    assert again == out
    assert "compiled the CPU kernels" in err
    assert "Warning" not in err


def test_another_pytorch_version_has_another_library(monkeypatch: pytest.MonkeyPatch) -> None:
    before = jit._digest("_C", ROOT / "csrc", None)
    assert jit._digest("_C", ROOT / "csrc", None) == before
    monkeypatch.setattr(torch, "__version__", "2.99.0")
    assert jit._digest("_C", ROOT / "csrc", None) != before


def test_one_library_serves_all_environments_with_a_version_of_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils import cpp_extension

    monkeypatch.setattr(build, "toolkit_version", lambda toolkit: 13000)
    monkeypatch.setattr(_gpus, "found", lambda: [_gpus.Gpu("NVIDIA H100", 90)])
    before = [jit._digest("_C", ROOT / "csrc", None), jit._digest("_C_cuda", ROOT / "csrc", "/usr/local/cuda")]
    monkeypatch.setattr(cpp_extension, "include_paths", lambda *_: ["/another/environment/torch/include"])
    monkeypatch.setattr(cpp_extension, "TORCH_LIB_PATH", "/another/environment/torch/lib")
    assert [jit._digest("_C", ROOT / "csrc", None), jit._digest("_C_cuda", ROOT / "csrc", "/opt/cuda")] == before


def test_processors_with_other_instruction_sets_have_other_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    digests = set()
    for chosen in ("baseline", "avx2", "avx512", None):
        monkeypatch.setattr(build, "instruction_set", lambda chosen=chosen: chosen)
        digests.add(jit._digest("_C", ROOT / "csrc", None))
    assert len(digests) == 4


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with one library, which is empty, and of which loading and compiling are replaced."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(load, "load_file", lambda name, path: load.Library(name, path))
    monkeypatch.setattr(toolchain, "missing", lambda *tools: [])
    monkeypatch.setitem(load.libraries, "_C", load.libraries["_C"])
    monkeypatch.setattr(jit, "_compile", lambda name, root, toolkit, library, locked: library.touch())
    jit._load("_C", None, force=False)
    (library,) = (tmp_path / "cache").glob("*/torchext_C.so")
    monkeypatch.setattr(jit, "_compile", lambda *arguments: pytest.fail("compiled"))
    return library


def test_a_cache_that_can_only_be_read_is_used(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object, *arguments: object, **options: object) -> int:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    for name in ("open", "mkdir", "unlink", "rename"):
        monkeypatch.setattr(os, name, refuse)
    jit._load("_C", None, force=False)
    assert load.libraries["_C"] == load.Library("_C", cached)
    monkeypatch.setattr(jit, "_digest", lambda *arguments: "other")
    with pytest.raises(OSError, match=r"the cache .* cannot be written \(Read-only file system\): set TORCH_EXT"):
        jit._load("_C", None, force=False)


@LINUX
@pytest.mark.parametrize("error", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(
    cached: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: int
) -> None:
    import fcntl

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, "flock", flock)
    calls = []
    monkeypatch.setattr(jit, "_compile", lambda name, root, toolkit, library, locked: calls.append(locked))
    jit._load("_C", None, force=True)
    assert calls == [False]
    assert "another process" not in capsys.readouterr().err


@LINUX
def test_a_lock_that_another_process_holds(cached: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import fcntl

    path = cached.with_name("torchext.lock")
    calls = []
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with cache.locked(cached.parent, lambda: calls.append(fcntl.flock(file, fcntl.LOCK_UN))) as locked:
            assert locked
    assert calls == [None]


@LINUX
def test_a_file_system_with_noexec(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = os.statvfs
    flags = SimpleNamespace(f_flag=os.ST_NOEXEC | original(cached).f_flag)
    monkeypatch.setattr(os, "statvfs", lambda path: flags)
    for force in (False, True):
        with pytest.raises(OSError, match=r"mounted with noexec, .*: set TORCH_EXTENSIONS_DIR to a folder on another"):
            jit._load("_C", None, force)


@LINUX
@pytest.mark.parametrize("changed", ["cache", "folder", "library"])
@pytest.mark.parametrize("owner", [True, False])
def test_a_library_that_another_user_could_replace_is_not_loaded(
    cached: Path, monkeypatch: pytest.MonkeyPatch, changed: str, owner: bool
) -> None:
    path = {"cache": cached.parent.parent, "folder": cached.parent, "library": cached}[changed]
    monkeypatch.setattr(load, "load_file", lambda name, path: pytest.fail("loaded"))
    if owner:
        original = Path.stat

        def stat(self: Path, **options: bool) -> object:
            status = original(self, **options)
            return SimpleNamespace(st_mode=status.st_mode, st_gid=4321, st_uid=4321) if self == path else status

        monkeypatch.setattr(Path, "stat", stat)
        message = r"belongs to another user \(uid 4321\)"
    else:
        path.chmod(0o777)
        message = r"can be written by other users \(mode 777\)"
    with pytest.raises(PermissionError, match=f"{path} {message}, .* set TORCH_EXTENSIONS_DIR to a folder of your own"):
        jit._load("_C", None, force=False)


@LINUX
def test_the_cache_may_be_in_a_folder_like_tmp(cached: Path) -> None:
    cached.parent.parent.chmod(0o1777)
    jit._load("_C", None, force=False)


@LINUX
def test_a_symbolic_link_is_no_lock(cached: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("content")
    lock = cached.with_name("torchext.lock")
    lock.unlink()
    lock.symlink_to(target)
    with pytest.raises(OSError, match=r"the cache .* cannot be written \(its lock is a symbolic link\)"):
        jit._load("_C", None, force=True)
    assert target.read_text() == "content"


@LINUX
def test_libraries_cannot_be_written_by_others_whatever_the_umask_is(pure: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    run(pure, folder, f"import os; os.umask(0); {ANSWER}")
    paths = [folder, *folder.rglob("*")]
    assert {path.name.partition("_C_")[0] for path in paths} == {"cache", "torchext", "torchext_C.so", "torchext.lock"}
    assert [path for path in paths if path.stat().st_mode & 0o022] == []


def test_the_cache_of_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TORCH_EXTENSIONS_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert cache.root().parent == Path(tempfile.gettempdir())


def test_a_space_in_the_path_of_pytorch(pure: Path, tmp_path: Path) -> None:
    code = (
        "import os, torch\n"
        "from torch.utils import cpp_extension\n"
        "os.symlink(cpp_extension._TORCH_PATH, 'my torch')\n"
        "cpp_extension._TORCH_PATH = os.path.abspath('my torch')\n"
        "cpp_extension.TORCH_LIB_PATH = os.path.join(cpp_extension._TORCH_PATH, 'lib')\n"
    )
    assert run(pure, tmp_path / "my cache", code + ANSWER)[0].startswith("1 ")


def test_a_compiler_whose_messages_are_not_utf8(pure: Path, tmp_path: Path) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_bytes(
        b'#!/bin/sh\n[ "$1" = --version ] && { echo "f\374r Linux 12"; exit; }\necho "Fehler: f\xfcr"; exit 1\n'
    )
    compiler.chmod(0o755)
    code = "import torchext; print(torchext.doctor().versions['compiler'])"
    out, err = run(pure, tmp_path / "cache", code, TORCHEXT_JIT="1", CXX=str(compiler))
    assert "r Linux 12" in out
    assert "UserWarning: TORCHEXT_JIT=1: the CPU kernels were not compiled: " in err
    assert "Fehler: f\ufffdr" in err


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_is_printed_while_the_kernels_are_compiled(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, terminal: bool
) -> None:
    monkeypatch.setattr(jit, "_INTERVALS", {False: 0.01, True: 0.01})
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    (tmp_path / "one.o").touch()
    with jit._progress("_C", 3, tmp_path):
        time.sleep(0.2)
    text = capsys.readouterr().err
    assert f"{chr(13) if terminal else chr(10)}torchext: 1 of 3 files compiled, 0 s" in text
    assert text.endswith("torchext: compiled the CPU kernels in 0 s\n")


def test_two_processes_at_once_compile_once(pure: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    both = [start(pure, cache, ANSWER) for _ in range(2)]
    ends = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], ends
    assert {out for out, _ in ends} == {f"1 {pure / 'torchext'}\n"}
    messages = "".join(err for _, err in ends)
    assert messages.count("compiled the CPU kernels") == 1
    assert messages.count("another process compiles the CPU kernels, waiting") <= 1


def test_a_killed_process_leaves_no_lock(pure: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    killed = start(pure, cache, ANSWER)
    assert killed.stderr is not None
    assert "compiling" in killed.stderr.readline()
    killed.kill()
    killed.communicate()
    assert list(cache.iterdir())
    assert run(pure, cache, ANSWER)[0].startswith("1 ")


def test_environment_variable_compiles_at_import(pure: Path, tmp_path: Path) -> None:
    code = "import torchext; print(torchext.doctor().libraries[0].problem)"
    # PyTorch itself would take an empty CXX, or one of several words, as the name of a program.
    assert run(pure, tmp_path / "cache", code, TORCHEXT_JIT="1", CXX="")[0] == "None"
    assert run(pure, tmp_path / "cache", code, TORCHEXT_JIT="1", CXX="c++ -DOPTION")[0] == "None"
    assert "no compiled library" in run(pure, tmp_path / "cache", code)[0]


def test_environment_variable_only_warns_without_a_compiler(pure: Path, tmp_path: Path) -> None:
    code = "import torchext; print(torchext.doctor().libraries[0].problem)"
    out, err = run(pure, tmp_path / "cache", code, TORCHEXT_JIT="1", CXX="no-such-compiler")
    assert "no compiled library" in out
    assert "UserWarning: TORCHEXT_JIT=1: no C++ compiler: no-such-compiler is not on the path" in err


@pytest.mark.parametrize(
    ("environment", "problem"),
    [
        ({"TORCH_EXTENSIONS_DIR": "{file}/cache"}, r"the cache .*/file/cache.* cannot be written \(Not a directory\)"),
        ({"NO_SETUPTOOLS": "1"}, "setuptools"),
    ],
)
def test_environment_variable_only_warns_if_compilation_fails(
    pure: Path, tmp_path: Path, environment: dict[str, str], problem: str
) -> None:
    file = tmp_path / "file"
    file.touch()
    code = (
        "import os, sys\n"
        "if 'NO_SETUPTOOLS' in os.environ: sys.modules['setuptools'] = None\n"
        "import torchext; print(torchext.doctor().libraries[0].problem)"
    )
    filled = {name: value.format(file=file) for name, value in environment.items()}
    out, err = run(pure, tmp_path / "cache", code, TORCHEXT_JIT="1", **filled)
    assert "no compiled library" in out
    assert re.search(f"UserWarning: TORCHEXT_JIT=1: .*{problem}", err)


@pytest.mark.parametrize("nvcc", [None, "exit 1", "echo nothing"])
def test_a_cuda_home_without_a_working_nvcc_compiles_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, nvcc: str | None
) -> None:
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    if nvcc is not None:
        program = tmp_path / "bin" / "nvcc"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\n{nvcc}\n")
        program.chmod(0o755)
    monkeypatch.setattr(jit, "_load", lambda *arguments: pytest.fail("compiled"))
    jit._load_cuda(force=False)
    assert toolchain.toolkit_version() is None


def test_compiled_code_calls_the_kernels_after_they_are_built(pure: Path, tmp_path: Path) -> None:
    code = (
        "import torch, torchext\n"
        "from torch.fx.experimental.proxy_tensor import make_fx\n"
        "def opaque():\n"
        "    g = make_fx(lambda x: torchext.unfold(x, 2))(torch.zeros(1, 1, 4, 4))\n"
        "    return any('torchext' in str(n.target) for n in g.graph.nodes)\n"
        "before = opaque(); torchext.jit_build(); print(before, opaque())"
    )
    assert run(pure, tmp_path / "cache", code)[0] == "False True"


@pytest.mark.skipif(torchext.doctor().libraries[0].problem is not None, reason="there is no compiled library")
def test_a_loaded_library_is_not_compiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    before = torchext.doctor().libraries[0]
    assert torchext.jit_build().libraries[0] == before
    with pytest.raises(RuntimeError, match=r"_C is loaded from .*a process cannot unload a library"):
        torchext.jit_build(force=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("gigabytes", "chosen", "expected"),
    [(100, "", 8), (9, "", 4), (3, "", 1), (1, "", 1), (100, "3", 3), (None, "", 8)],
)
def test_number_of_compilers_depends_on_free_memory(
    monkeypatch: pytest.MonkeyPatch, gigabytes: int | None, chosen: str, expected: int
) -> None:
    monkeypatch.setenv("MAX_JOBS", chosen)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(jit, "_free_memory", lambda: None if gigabytes is None else gigabytes << 30)
    assert jit.jobs() == expected


@pytest.mark.parametrize(
    ("limit", "used", "counts", "files"),
    [
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        # In this version of control groups, inactive_file does not include nested groups.
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
    ],
)
def test_free_memory_respects_the_limit_of_a_container(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str, used: str, counts: str, files: str
) -> None:
    monkeypatch.setattr(jit, "_CGROUP", tmp_path)
    whole = jit._free_memory()
    if whole is None:
        pytest.skip("the system does not report how much memory is free")
    (tmp_path / limit).parent.mkdir(exist_ok=True)
    (tmp_path / limit).write_text("50000000\n")
    (tmp_path / used).write_text("40000000\n")
    (tmp_path / counts).write_text(f"anon 5\nactive_file 7\n{files} 3000000\n")
    assert jit._free_memory() == 13_000_000
    (tmp_path / limit).write_text("max\n" if limit == "memory.max" else f"{2**63 - 4096}\n")
    assert jit._free_memory() > 50_000_000


def test_cuda_kernels_are_compiled_for_the_gpus_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    two = [_gpus.Gpu("NVIDIA H100", 90), _gpus.Gpu("NVIDIA T4", 75), _gpus.Gpu("NVIDIA H100", 90)]
    monkeypatch.setattr(_gpus, "found", lambda: two)
    generated = [flag for flag in jit._flags("/usr/local/cuda").nvcc if "arch=" in flag]
    assert generated == [
        "-gencode=arch=compute_75,code=sm_75",
        "-gencode=arch=compute_90,code=sm_90",
        "-gencode=arch=compute_90,code=compute_90",
    ]


@pytest.mark.parametrize(
    ("driver", "gpus", "problem"),
    [
        (None, [], "no NVIDIA driver was found"),
        (12080, [_gpus.Gpu("NVIDIA H100", 90)], "it requires a driver for CUDA 13, this one is for CUDA 12.8"),
        (13000, [], "no GPU was found to compile for"),
    ],
)
def test_cuda_kernels_are_not_compiled_without_a_gpu(
    monkeypatch: pytest.MonkeyPatch, driver: int | None, gpus: list[_gpus.Gpu], problem: str
) -> None:
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(build, "cuda_toolkit", lambda: "/usr/local/cuda")
    monkeypatch.setattr(build, "toolkit_version", lambda toolkit: 13000)
    monkeypatch.setattr(load, "cuda_driver_version", lambda: driver)
    monkeypatch.setattr(_gpus, "found", lambda: gpus)
    monkeypatch.setattr(jit, "_load", lambda *arguments: pytest.fail("compiled"))
    monkeypatch.setitem(load.libraries, "_C_cuda", load.libraries["_C_cuda"])
    jit._load_cuda(force=False)
    assert load.libraries["_C_cuda"].problem == problem
