"""The pure-PyTorch references, under the names and signatures of the operations that they replace.

They run if no compiled kernel is loaded, and the tests compare the kernels with them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torchext._core.library import reference_only

if TYPE_CHECKING:  # the references have the same signatures
    from torchext.cam import *
    from torchext.onehot import *
    from torchext.windows import *

_NOT_OPERATIONS = {"CAM", "ClassOverlap", "check_errors", "debug", "draw_cam", "overlay", "sliding_window"}
_NOT_OPERATIONS |= {"window_weight"}


def _functions() -> dict[str, Callable[..., Any]]:
    """The operations of all subpackages by name; imported when first needed."""
    from torchext import cam, onehot, windows

    modules = {name: module for module in (cam, onehot, windows) for name in module.__all__}
    return {name: getattr(module, name) for name, module in modules.items() if name not in _NOT_OPERATIONS}


def __dir__() -> list[str]:
    return sorted(_functions())


def __getattr__(name: str) -> Any:
    """The reference of an operation. Python also calls this function for `__all__`."""
    if name == "__all__":
        return __dir__()
    function = _functions().get(name)
    if function is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with reference_only():
            return function(*args, **kwargs)

    globals()[name] = run  # the next access does not call __getattr__
    return run
