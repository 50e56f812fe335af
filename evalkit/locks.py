"""Locks: one command at a time writes an artifact or a table, in whatever file system the workspace is.

A lock is a hidden file beside what is written, locked by `flock`; where the file system has no locks (NFS, Lustre), a
second hidden file that only one command can create. Standard library only.
"""

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from evalkit.errors import EvalkitError
from evalkit.files import read_bounded, temporary_name

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_PAUSE = 0.05  # seconds between attempts


class LockedError(EvalkitError):
    """Another command holds the lock."""


@contextlib.contextmanager
def locked(path: Path, *, wait: float = 0) -> Iterator[None]:
    """Holds a lock on the artifact or file at `path`; leaves no file behind.

    Args:
        wait: seconds to wait for a command that holds it.

    Raises:
        LockedError: another command holds it; that may be on another machine.
        EvalkitError: something that is no lock is in its place.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + wait
    while True:
        try:
            release = _acquire(path)
            break
        except LockedError:
            if time.monotonic() >= end:
                raise
            time.sleep(_PAUSE)
    try:
        yield
    finally:
        release()


def _acquire(path: Path) -> Callable[[], None]:
    lock = path.with_name(f".{path.name}.lock")
    while True:
        descriptor = _open(lock, path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.lstat(lock)):
                    return lambda: _release(lock, descriptor)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                _release(lock, descriptor)
                return _acquire_exclusive(path)
            os.close(descriptor)
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise _held(path) from None
            raise
        os.close(descriptor)  # the command that held it removed it in the meantime


def _open(lock: Path, path: Path) -> int:
    """The lock file, which may be a colleague's: reading suffices for a lock."""
    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    for access in (os.O_RDWR | os.O_CREAT, os.O_RDONLY):
        try:
            return os.open(lock, access | flags, 0o666)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise EvalkitError(f"{lock}: in the place of the lock of {path.name}; remove it") from None
            if access == os.O_RDONLY or not os.path.lexists(lock):
                raise
    raise AssertionError


def _release(lock: Path, descriptor: int) -> None:
    with contextlib.suppress(OSError):
        if os.fstat(descriptor).st_size == 0:  # nobody's file by the same name
            lock.unlink(missing_ok=True)  # before the lock is released: see _acquire
    os.close(descriptor)


def _acquire_exclusive(path: Path) -> Callable[[], None]:
    """Where there is no flock: a file with the owner's machine and process, removed if that process is gone."""
    owner = path.with_name(f".{path.name}.owner")
    if _is_gone(owner):
        stale = temporary_name(owner, ".stale")
        with contextlib.suppress(FileNotFoundError):
            os.rename(owner, stale)
            if not _is_gone(stale):  # another command was faster and owns it now
                os.rename(stale, owner)
            stale.unlink(missing_ok=True)
    try:
        descriptor = os.open(owner, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        raise _held(path, f", or remove {owner} if none does") from None
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{socket.gethostname()} {os.getpid()}")
    return lambda: owner.unlink(missing_ok=True)


def _is_gone(owner: Path) -> bool:
    """Whether the process that made the file was on this machine and has ended."""
    try:
        host, process = read_bounded(owner, 1000).decode().split()
        os.kill(int(process), 0)
    except ProcessLookupError:
        return host == socket.gethostname()
    except (OSError, ValueError, OverflowError):
        return False
    return False


def _held(path: Path, otherwise: str = "") -> LockedError:
    return LockedError(f"{path}: another evalkit command is writing it; wait until it ends{otherwise}")
