"""Fused one-hot, sliding windows and class activation maps for PyTorch."""

import os

# This module replaces the handler of Ctrl-C if it is imported by the command line, before the seconds that the others
# take to import PyTorch.
from torchext import _interrupt as _interrupt

# isort: split
from torch import fx as _fx

from torchext import cam, metrics, nn, onehot, reference, windows
from torchext._core import library as _library
from torchext._core.library import decompositions
from torchext._core.version import __version__ as __version__
from torchext._native import jit as _jit
from torchext._native import load as _load
from torchext._native import pool as _pool
from torchext._native.doctor import doctor
from torchext._native.jit import compile_flags, include_dir, jit_build
from torchext._native.pool import empty_cache, memory_stats
from torchext.cam import *
from torchext.onehot import *
from torchext.windows import *

__all__ = [
    "compile_flags",
    "decompositions",
    "doctor",
    "empty_cache",
    "include_dir",
    "jit_build",
    "memory_stats",
    "metrics",
    "nn",
    "reference",
]
__all__ += cam.__all__
__all__ += onehot.__all__
__all__ += windows.__all__

# torch.fx.symbolic_trace records calls of these functions instead of tracing their checks.
for _name in (*reference.__all__, "sliding_window"):
    _fx.wrap(_name)

_load.load_all()
if os.environ.get("TORCHEXT_JIT") == "1" and os.environ.get("TORCHEXT_DISABLE_NATIVE") != "1":
    _jit.build_at_import()
_load.report_unused()
_pool.set_up()
if not _load.is_loaded("_C"):
    _library.trace_references()
