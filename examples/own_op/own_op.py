"""Compiles an operation against the headers of torchext, and compares it with PyTorch's.

Run it with `python own_op.py`; it requires a C++ compiler and ninja. The kernel in soft_threshold.cpp only uses the
LibTorch Stable ABI, so that the compiled library works with every PyTorch from 2.10.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch.utils import cpp_extension

import torchext

HERE = Path(__file__).resolve().parent
HEADERS = Path(torchext.include_dir())

LIBRARY = torch.library.Library("own", "DEF")
LIBRARY.define("soft_threshold(Tensor input, float threshold) -> Tensor")


@torch.library.register_fake("own::soft_threshold", lib=LIBRARY)
def _fake(x: torch.Tensor, threshold: float) -> torch.Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def soft_threshold(x: torch.Tensor, threshold: float) -> torch.Tensor:
    """sign(x) * max(|x| - threshold, 0) of a float32 tensor."""
    if x.dtype != torch.float32:
        raise TypeError(f"x must be float32, got {x.dtype}")
    return torch.ops.own.soft_threshold(x, threshold)


def build() -> None:
    # Functions that are not inline are in sources next to the headers; `torchext::empty` requires these.
    helpers = [HEADERS / "common" / f"{name}.cpp" for name in ("tensor", "block_pool", "huge_pages", "streams")]
    cpp_extension.load(
        "own_op",
        [str(path) for path in (HERE / "soft_threshold.cpp", *helpers)],
        extra_include_paths=[str(HEADERS)],
        extra_cflags=["-O3", *torchext.compile_flags()],
        is_python_module=False,
    )


def main() -> float:
    build()
    x = torch.randn(64, 1000).t()
    ours, theirs = soft_threshold(x, 0.5), torch.nn.functional.softshrink(x, 0.5)
    compiled = torch.compile(soft_threshold, fullgraph=True, backend="eager")(x, 0.5)
    difference = float(torch.stack([(ours - theirs).abs().max(), (compiled - theirs).abs().max()]).max())
    print(f"largest difference from F.softshrink: {difference}")
    return difference


if __name__ == "__main__":
    main()
