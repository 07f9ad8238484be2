"""Compiling the libraries on the user's machine."""

from __future__ import annotations

from pathlib import Path

import torch

from torchext import _doctor, _native


def jit_build() -> _doctor.Report:
    """Compile the kernels here and now, and load them.

    Libraries that are loaded already stay as they are. What is compiled is cached by `torch.utils.cpp_extension`, and
    compiled again when the sources or the flags change. The CUDA kernels are built where PyTorch is a CUDA build and
    nvcc is found.

    Returns:
        The report of `torchext.doctor` afterwards.

    Raises:
        RuntimeError: the compiler is missing or fails; the references stay in charge.

    Example:
        >>> report = torchext.jit_build()
        >>> report.libraries[0].problem is None
        True
    """
    from torchext import _build  # imports PyTorch's compiler driver, which takes a second

    if not _native.is_loaded("_C"):
        _compile("_C", _build.csrc(), None)
    toolkit = _build.cuda_toolkit() if torch.version.cuda is not None else None
    if toolkit is not None and not _native.is_loaded("_C_cuda"):
        problem = _native.driver_problem(None, _build.toolkit_version(toolkit))
        if problem is None:
            _compile("_C_cuda", _build.csrc(), toolkit)
        else:
            _native.libraries["_C_cuda"] = problem
    return _doctor.doctor()


def _compile(name: str, root: Path, toolkit: str | None) -> None:
    from torch.utils import cpp_extension

    from torchext import _build

    built = cpp_extension.load(
        f"torchext{name}",
        _build.sources(root, cuda=toolkit is not None),
        extra_cflags=_build.cxx_flags(),
        extra_cuda_cflags=_build.nvcc_flags(architectures=()),  # cpp_extension adds those of the GPUs it sees
        extra_ldflags=_build.cuda_link_flags(toolkit) if toolkit else [],
        extra_include_paths=[str(root)],
        with_cuda=toolkit is not None,
        is_python_module=False,
    )
    _native.remember(name, Path(built))
