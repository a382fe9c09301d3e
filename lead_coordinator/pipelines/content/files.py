"""Files that other processes read and write at the same time: atomic replacement, and locks that die with
their holder.

A file is written beside its place, flushed to disk and renamed: a reader sees the old or the new one, never a
part. A lock is the kernel's (`flock`): a killed process leaves none behind.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from contextlib import suppress
from pathlib import Path

# A temporary file that is older than this belongs to a process that died.
_ABANDONED_SECONDS = 3600


class FileLock:
    """A lock that is held. Release it exactly once; the end of the process releases it too."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Frees the lock. The file goes first, while the lock is held: who waits on it sees that it is
        gone."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        with suppress(FileNotFoundError):
            self._path.unlink()
        os.close(descriptor)


def acquire(path: Path, *, wait: bool) -> FileLock | None:
    """The lock of that name; None where another holds it and `wait` is False. Two holders in one process
    exclude each other as two processes do. Raises OSError where the folder can't be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        if _is_file(path, descriptor):
            return FileLock(path, descriptor)
        os.close(descriptor)  # the holder before us removed the file: what we have locked is nameless


def replace_file(path: Path, data: bytes, scratch: Path) -> None:
    """Puts `data` at `path`, whole or not at all. `scratch` is a folder on the same file system."""
    scratch.mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = scratch / f"{os.getpid()}-{secrets.token_hex(8)}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def replace_if_changed(path: Path, data: bytes, scratch: Path) -> bool:
    """As `replace_file`, unless the file holds `data` already. Says whether it wrote."""
    with suppress(FileNotFoundError):
        if path.stat().st_size == len(data) and path.read_bytes() == data:
            return False
    replace_file(path, data, scratch)
    return True


def tail(path: Path, length: int) -> bytes:
    """The last `length` bytes of a file; nothing where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - length))
            return file.read()
    except FileNotFoundError:
        return b""


def sweep(scratch: Path) -> int:
    """Removes what dead processes left in `scratch`; says how many files."""
    removed = 0
    oldest = time.time() - _ABANDONED_SECONDS
    for entry in os.scandir(scratch) if scratch.is_dir() else ():
        with suppress(FileNotFoundError):
            if entry.stat(follow_symlinks=False).st_mtime < oldest:
                Path(entry.path).unlink()
                removed += 1
    return removed


def _is_file(path: Path, descriptor: int) -> bool:
    try:
        named = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(named, os.fstat(descriptor))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
