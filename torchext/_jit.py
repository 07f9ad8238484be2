"""Compiling the libraries on the user's machine."""

from __future__ import annotations

from pathlib import Path

import torch

from torchext import _doctor, _native


def jit_build(*, verbose: bool = False) -> _doctor.Report:
    """Compile the kernels here and now, and load them.

    Libraries that are loaded already stay as they are. What is compiled is cached by `torch.utils.cpp_extension`, and
    compiled again when the sources or the flags change. The CUDA kernels are built where PyTorch is a CUDA build and
    nvcc is found.

    Args:
        verbose: show the compiler's output.

    Returns:
        The report of `torchext.doctor` afterwards.

    Raises:
        RuntimeError: the compiler is missing or fails; the references stay in charge.

    Example:
        >>> report = torchext.jit_build()
        >>> report.libraries[0].problem is None
        True
    """
    if not _native.is_loaded("_C"):
        _compile("_C", cuda=False, verbose=verbose)
    if not _native.is_loaded("_C_cuda") and torch.version.cuda is not None:
        _compile("_C_cuda", cuda=True, verbose=verbose)
    return _doctor.doctor()


def _compile(name: str, *, cuda: bool, verbose: bool) -> None:
    from torch.utils import cpp_extension

    from torchext import _build  # imports the compiler's front end, which takes a second

    toolkit = _build.cuda_toolkit() if cuda else None
    if cuda and toolkit is None:
        return
    root = _build.csrc()
    built = cpp_extension.load(
        f"torchext{name}",
        _build.sources(root, cuda=cuda),
        extra_cflags=_build.cxx_flags(),
        extra_cuda_cflags=_build.nvcc_flags(architectures=()),  # cpp_extension adds those of the GPUs it sees
        extra_ldflags=_build.cuda_link_flags(toolkit) if toolkit else [],
        extra_include_paths=[str(root)],
        with_cuda=cuda,
        is_python_module=False,
        verbose=verbose,
    )
    _native.remember(name, Path(built))
