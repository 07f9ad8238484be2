"""The memory of deleted results on the CPU, which later results reuse."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import warnings
from functools import cache

from torchext._native import load

__all__ = ["empty_cache", "memory_stats"]

SETTING = "TORCHEXT_CPU_CACHE"
STREAM_SETTING = "TORCHEXT_STREAM_BYTES"


def empty_cache() -> int:
    """Return the memory of deleted results to the operating system.

    With PyTorch 2.11 or later and the CPU kernels, the memory of deleted results of 1 MiB and more is kept, and later
    results reuse it. The operating system sets new memory to zero when it is first written, which takes longer than
    most kernels. The memory that is kept is limited to a sixteenth of the memory that the process may use; the limit is
    at least 256 MiB and at most 1 GiB. The environment variable ``TORCHEXT_CPU_CACHE`` sets another limit in bytes, and
    0 turns the reuse off. Unless the variable is set, it is also off in processes that `multiprocessing` starts, such
    as the workers of a data loader. Memory that has been unused for 10 seconds is returned when the next large result
    is created or deleted. All of it is returned if there is no other memory for a result.

    Returns:
        The number of bytes that were returned.

    Note:
        The storage of such a result cannot be resized: ``resize_`` to a larger size, and ``out=`` of the wrong size,
        raise a RuntimeError.

    Examples:
        >>> result = torchext.one_hot(torch.arange(1000), 1000)
        >>> del result
        >>> _ = torchext.empty_cache()
        >>> torchext.memory_stats()["unused_bytes"]
        0
    """
    return int(_library().torchext_release_blocks()) if load.is_loaded("_C") else 0


def memory_stats() -> dict[str, int]:
    """Return how much memory large results on the CPU use, and how much `empty_cache` would return to the system.

    Returns:
        ``limit_bytes`` (the largest amount of unused memory that is kept), ``used_bytes`` (of results that exist),
        ``unused_bytes`` (of deleted results), and how many times memory was ``allocated`` from the system and
        ``reused``. All are 0 without a compiled library.

    Examples:
        >>> sorted(torchext.memory_stats())
        ['allocated', 'limit_bytes', 'reused', 'unused_bytes', 'used_bytes']
    """
    names = ("limit_bytes", "used_bytes", "unused_bytes", "allocated", "reused")
    numbers = (ctypes.c_int64 * len(names))()
    if load.is_loaded("_C"):
        _library().torchext_block_statistics(numbers)
    return dict(zip(names, numbers, strict=True))


def set_up() -> None:
    """Turn the reuse of memory off in processes of `multiprocessing`, and check the environment variables."""
    if not load.is_loaded("_C"):
        return
    if SETTING not in os.environ and multiprocessing.parent_process() is not None:
        _library().torchext_limit_blocks(0)
    for name in (SETTING, STREAM_SETTING):
        setting = os.environ.get(name, "0")
        if not (setting.isascii() and setting.isdecimal()):
            warnings.warn(f"{name}={setting} is ignored: expected a number of bytes", stacklevel=3)


@cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(load.libraries["_C"].path))
    library.torchext_release_blocks.restype = ctypes.c_int64
    library.torchext_limit_blocks.argtypes = (ctypes.c_int64,)
    library.torchext_block_statistics.argtypes = (ctypes.POINTER(ctypes.c_int64),)
    library.torchext_block_statistics.restype = library.torchext_limit_blocks.restype = None
    return library
