"""The references in plain PyTorch, under the names and signatures of the public functions that run them.

They run where no compiled kernel is loaded, and the tests compare the kernels with them.
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

# Exported functions that are no operations. Classes are left out too.
_NOT_OPERATIONS = {"check_errors", "debug", "draw_cam", "overlay", "sliding_window", "window_grid", "window_weight"}


def _functions() -> dict[str, Callable[..., Any]]:
    """The operations of all subpackages by name; imported when first needed."""
    from torchext import cam, onehot, windows

    exported = {name: getattr(family, name) for family in (cam, onehot, windows) for name in family.__all__}
    return {
        name: value for name, value in exported.items() if name not in _NOT_OPERATIONS and not isinstance(value, type)
    }


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
