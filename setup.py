import importlib.util
import os
import sys
from pathlib import Path

import setuptools
from setuptools import find_packages, setup

# With --no-build-isolation, pip does not check the requirements in pyproject.toml.
if int(setuptools.__version__.partition(".")[0]) < 77:
    raise SystemExit(
        f"building torchext-ops requires setuptools 77 or later, and this environment has {setuptools.__version__}: "
        'pip install -U "setuptools>=77" wheel'
    )
if importlib.util.find_spec("torch") is None:
    raise SystemExit(
        "building torchext-ops requires PyTorch 2.10 or later in this environment: pip install torch ninja"
    )

from setuptools.command.bdist_wheel import bdist_wheel  # only after the check
from torch.utils import cpp_extension  # as above

ROOT = Path(__file__).resolve().parent

# Folders next to the package in a source tree, and inside it when installed; jit_build and the command line use them.
BESIDE = {"torchext.csrc": "csrc", "torchext._benchmarks": "benchmarks", "torchext._examples": "examples"}

os.environ["TORCHEXT_DISABLE_NATIVE"] = "1"  # the package must not load the libraries that are to be built
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]  # pip does not add them
import old_glibc  # noqa: E402  # found on the path set above

from torchext._native import build  # noqa: E402  # as above


class PlatformWheel(bdist_wheel):
    """A wheel for every CPython, because the libraries have no symbols of Python."""

    def get_tag(self) -> tuple[str, str, str]:
        libraries = self.get_finalized_command("build_ext").get_outputs()
        return "py3", "none", old_glibc.wheel_platform(super().get_tag()[2], libraries)


def extension(name: str, sources: list[str], *, link: list[str], **options: object) -> object:
    return cpp_extension.CppExtension(
        name,
        [str(Path(source).relative_to(ROOT)) for source in sources],
        include_dirs=[str(ROOT / "csrc")],
        extra_link_args=["-Wl,--strip-all", *link],
        py_limited_api=True,  # does not link libtorch_python
        **options,
    )


def cuda_toolkit() -> str | None:
    """The toolkit for the CUDA kernels, by default if nvcc is found, with or without a GPU.

    TORCHEXT_CUDA=1 and TORCHEXT_CUDA=only, which compiles nothing else, fail without nvcc. TORCHEXT_CUDA=0 leaves the
    CUDA kernels out.
    """
    choice = os.environ.get("TORCHEXT_CUDA")
    toolkit = None if choice == "0" else build.cuda_toolkit()
    if choice in ("1", "only") and toolkit is None:
        raise SystemExit(f"TORCHEXT_CUDA={choice}, but neither CUDA_HOME nor nvcc was found")
    return toolkit


def extensions() -> list[object]:
    """The libraries of the package; none with TORCHEXT_PURE=1, for a wheel of the references and `jit_build`."""
    if os.environ.get("TORCHEXT_PURE") == "1":
        return []
    found, system = [], build.system_include_flags()
    cxx = [*build.cxx_flags(), *system]
    if os.environ.get("TORCHEXT_CUDA") != "only":
        sources = build.sources(ROOT / "csrc", cuda=False)
        found.append(extension("torchext._C", sources, link=[], extra_compile_args={"cxx": cxx}))
        schemas = ROOT / "build" / "schemas.cpp"
        build.write_schemas(schemas)
        found.append(extension("torchext._C_schemas", [str(schemas)], link=[], extra_compile_args={"cxx": cxx}))
    toolkit = cuda_toolkit()
    if toolkit is not None:
        # cpp_extension searches for nvcc only if PyTorch has CUDA, which compiling the kernels does not require.
        cpp_extension.CUDA_HOME = toolkit
        flags = {"cxx": cxx, "nvcc": [*build.nvcc_flags(), *system, *build.compression(toolkit)]}
        link = [*old_glibc.link_flags(ROOT / "build" / "old_glibc"), *build.cuda_link_flags(toolkit)]
        sources = build.sources(ROOT / "csrc", cuda=True)
        found.append(extension("torchext._C_cuda", sources, link=link, extra_compile_args=flags))
    return found


libraries = extensions()
setup(
    ext_modules=libraries,
    packages=[
        *find_packages(include=["torchext", "torchext.*"]),
        *BESIDE,
        *(f"torchext._benchmarks.{name}" for name in find_packages("benchmarks")),
    ],
    package_dir=BESIDE,
    exclude_package_data={"torchext._benchmarks": ["results/*"]},
    package_data={"torchext": ["py.typed"], "torchext.csrc": ["**/*.h", "**/*.cuh", "**/*.cpp", "**/*.cu"]},
    cmdclass={
        "build_ext": cpp_extension.BuildExtension.with_options(no_python_abi_suffix=True),
        "bdist_wheel": PlatformWheel if libraries else bdist_wheel,
    },
)
