"""The folder in which `jit_build` stores libraries: where it is, whether its files can be loaded, and its lock."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from torchext._native import faults

_CHOOSE = "set TORCH_EXTENSIONS_DIR to a folder of your own"
# What flock returns on network file systems without locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def root() -> Path:
    """The cache of extensions: TORCH_EXTENSIONS_DIR, or that of PyTorch in the home folder."""
    chosen = os.environ.get("TORCH_EXTENSIONS_DIR")
    if chosen:
        return Path(chosen).absolute()
    # Without HOME and without an entry in the list of users, PyTorch's cache would be in a folder with the name "~".
    if not os.environ.get("XDG_CACHE_HOME") and not os.path.isabs(os.path.expanduser("~")):
        return Path(tempfile.gettempdir()) / f"torchext-{getattr(os, 'getuid', int)()}"
    from torch.utils import cpp_extension  # takes a second to import

    return Path(cpp_extension.get_default_build_root())


def create(folder: Path) -> None:
    """Create the folder of a library, which only this user can write.

    Raises:
        OSError: the folder cannot be created, or its libraries could not be loaded.
    """
    with _explained(folder):
        for created in (folder.parent, folder):
            created.mkdir(mode=0o755, parents=True, exist_ok=True)
    check(folder)


def check(*paths: Path) -> None:
    """Check a folder of the cache and its files before libraries in it are loaded, which are code.

    Raises:
        PermissionError: another user could change a library.
        OSError: the file system is mounted with noexec.
    """
    folder = paths[0]
    for path in (folder.parent, *paths):
        problem = _foreign(path)
        if problem is not None:
            raise PermissionError(f"{path} {problem}, so that code in it is not loaded: {_CHOOSE}")
    fault = faults.of_noexec(folder)
    if fault is not None:
        raise OSError(f"{fault.problem}: {fault.remedy}")


def _foreign(path: Path) -> str | None:
    """How another user, except root, could change a file or folder; None if no other user can."""
    if not hasattr(os, "getuid"):  # on Windows
        return None
    status = path.stat()
    if status.st_uid not in (os.geteuid(), 0):
        return f"belongs to another user (uid {status.st_uid})"
    # In a folder with the sticky bit, such as /tmp, users can replace only their own files.
    sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    # Many systems give each user a group of the same number, and let that group write the user's files.
    others = stat.S_IWOTH if status.st_gid == status.st_uid else stat.S_IWOTH | stat.S_IWGRP
    if status.st_mode & others and not sticky:
        return f"can be written by other users (mode {stat.S_IMODE(status.st_mode):o})"
    return None


@contextlib.contextmanager
def locked(folder: Path, waiting: Callable[[], None]) -> Iterator[bool]:
    """Hold a lock that only one process can hold; the system releases it if the process ends.

    Call `waiting` before waiting for another process. On a file system without locks, nothing is locked.

    Yields:
        Whether the lock is held.
    """
    from filelock import FileLock, Timeout  # a requirement of PyTorch

    path = folder / "torchext.lock"
    with _explained(folder):
        can_lock = _can_lock(path)
    if not can_lock:
        yield False
        return
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0.2)
    except Timeout:
        waiting()
        lock.acquire()
    try:
        yield True
    finally:
        lock.release()


def _can_lock(path: Path) -> bool:
    """Create the file of a lock, and return whether its file system has locks.

    Some versions of filelock follow a symbolic link and truncate its target, and wait forever without locks.
    """
    try:
        import fcntl
    except ImportError:  # on Windows, where filelock uses other functions
        return True
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _NO_LOCKS  # otherwise another process has the lock
    finally:
        os.close(descriptor)
    return True


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Add to errors of the file system what could not be written, and what to do."""
    try:
        yield
    except OSError as error:
        why = "its lock is a symbolic link" if error.errno == errno.ELOOP else error.strerror
        raise type(error)(f"the cache {folder} cannot be written ({why}): {_CHOOSE}") from None
