"""One run a folder: the lock that a run holds on its folder while it is under way."""

import contextlib
import json
import os
import platform
from pathlib import Path
from typing import IO, Any

from ...errors import StorageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

NAME = "run.lock"


class FolderLock:
    """Locks a folder against other runs, from its construction to `release`. The system frees the lock when the process
    ends, however it ends; on Windows there is no lock.

    Raises:
        StorageError: when another run holds it.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._file = self._taken()

    def _taken(self) -> IO[bytes]:
        path = self.folder / NAME
        while True:
            try:
                file = path.open("a+b")
            except OSError as error:
                raise StorageError(f"{path} cannot be opened: {error.strerror}.") from error
            try:
                _lock(file)
            except BlockingIOError:
                holder = _holder(file)
                file.close()
                raise StorageError(
                    f"{self.folder} is in use: {holder} writes there. Wait for it to end, or choose another folder "
                    "with --out."
                ) from None
            except OSError:  # a file system without locks
                pass
            if _same(file, path):
                break
            file.close()  # the run before removed it between opening and locking
        with contextlib.suppress(OSError):
            file.truncate(0)
            file.write(json.dumps({"process": os.getpid(), "host": platform.node()}).encode())
            file.flush()
        return file

    def check(self) -> None:
        """Raises `StorageError` where the folder is gone, or another stands in its place."""
        if not _same(self._file, self.folder / NAME):
            raise StorageError(
                f"{self.folder} was removed or replaced while the run was under way, and with it what had been saved. "
                "Run the same command again."
            )

    def release(self) -> None:
        if _same(self._file, self.folder / NAME):
            with contextlib.suppress(OSError):
                (self.folder / NAME).unlink()
        self._file.close()

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, *_: Any) -> None:
        self.release()


class Follower:
    """Stands for the lock in a process that works for the run of another, which holds it."""

    def __init__(self, folder: Path):
        self.folder = folder

    def check(self) -> None:
        pass

    def __enter__(self) -> "Follower":
        return self

    def __exit__(self, *_: Any) -> None:
        pass


def _lock(file: IO[bytes]) -> None:
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _same(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def _holder(file: IO[bytes]) -> str:
    """Who holds the lock, as far as it is known."""
    try:
        file.seek(0)
        found = json.loads(file.read())
        return f"another run (process {int(found['process'])} on {str(found['host'])[:60]!r})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another run"
