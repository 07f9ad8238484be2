import importlib.util
import os
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from torch.utils import cpp_extension

ROOT = Path(__file__).resolve().parent

# By its path: importing the package would load the very libraries that are about to be built.
spec = importlib.util.spec_from_file_location("_build", ROOT / "torchext" / "_build.py")
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)


class PlatformWheel(bdist_wheel):
    """The libraries hold no Python symbol: one wheel a platform serves every CPython."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


def extension(name: str, *, cuda: bool, link: list[str], **options: object) -> object:
    return cpp_extension.CppExtension(
        name,
        [str(Path(source).relative_to(ROOT)) for source in build.sources(ROOT / "csrc", cuda=cuda)],
        include_dirs=[str(ROOT / "csrc")],
        extra_link_args=["-Wl,--strip-all", *link],
        py_limited_api=True,  # leaves libtorch_python out of the link
        **options,
    )


def cuda_toolkit() -> str | None:
    """The toolkit to compile the CUDA kernels with: by default where nvcc is found, with or without a GPU.

    TORCHEXT_CUDA=1 fails without nvcc, TORCHEXT_CUDA=0 leaves the kernels out.
    """
    choice = os.environ.get("TORCHEXT_CUDA")
    toolkit = None if choice == "0" else build.cuda_toolkit()
    if choice == "1" and toolkit is None:
        raise SystemExit("TORCHEXT_CUDA=1, but neither CUDA_HOME nor nvcc was found")
    return toolkit


def extensions() -> list[object]:
    found = [extension("torchext._C", cuda=False, link=[], extra_compile_args={"cxx": build.cxx_flags()})]
    toolkit = cuda_toolkit()
    if toolkit is not None:
        # cpp_extension looks for nvcc only where PyTorch has CUDA; the kernels need no such PyTorch to compile.
        cpp_extension.CUDA_HOME = toolkit
        flags = {"cxx": build.cxx_flags(), "nvcc": build.nvcc_flags()}
        link = build.cuda_link_flags(toolkit)
        found.append(extension("torchext._C_cuda", cuda=True, link=link, extra_compile_args=flags))
    return found


setup(
    ext_modules=extensions(),
    packages=["torchext", "torchext._cli", "torchext.csrc"],
    package_dir={"torchext.csrc": "csrc"},
    package_data={"torchext": ["py.typed"], "torchext.csrc": ["**/*.h", "**/*.cuh", "**/*.cpp", "**/*.cu"]},
    cmdclass={
        "build_ext": cpp_extension.BuildExtension.with_options(no_python_abi_suffix=True),
        "bdist_wheel": PlatformWheel,
    },
)
