"""Where a partitioned table is made: a folder beside the one that it becomes, in steps that are done once.

A step's folder appears whole, so that a process which is killed leaves finished steps and parts of one, and the next
one that does the same goes on from there. The table itself appears by one renaming, after everything is on the disk.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..errors import StorageError

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None

_PLAN, _RESULT, _REPLACED, _PART = "plan.json", "result", "replaced", ".part"


class Workplace:
    """The folder in which one table is made, locked against other processes.

    Args:
        out: what the table is to be called.
        plan: what is made, and of what. Another plan's steps found there are removed, the same plan's used.

    Raises:
        StorageError: when another process makes a table of that name, or nothing can be written there.
    """

    def __init__(self, out: Path, plan: Any):
        self.out = out
        self.path = out.with_name(f".{out.name}.jals-partition")
        self._lock: int | None = None
        plan = json.loads(json.dumps(plan))
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(self.path)
            if _read(self.path / _PLAN) != plan:
                for found in self.path.iterdir():
                    _remove(found)
                (self.path / _PLAN).write_text(json.dumps(plan), encoding="utf-8")
            for spilled in self.spill().iterdir():
                _remove(spilled)
        except BlockingIOError:
            self.close()
            raise StorageError(f"{out} is being made by another process. Wait for it to end.") from None
        except OSError as error:
            self.close()
            raise StorageError(f"{out} cannot be made: {error.strerror or error}: {error.filename}.") from error

    def spill(self) -> Path:
        """A folder for what does not fit into memory."""
        folder = self.path / "spill"
        folder.mkdir(exist_ok=True)
        return folder

    def once(self, name: str, make: Callable[[Path], None]) -> Path:
        """The folder of a step: found finished, or filled by `make`."""
        done = self.path / name
        if not done.exists():
            part = done.with_name(done.name + _PART)
            _remove(part)
            part.mkdir(parents=True)
            make(part)
            _sync(part)
            part.rename(done)
        return done

    def drop(self, name: str) -> None:
        """Removes a step that no other needs any more."""
        _remove(self.path / name)

    @property
    def result(self) -> Path:
        """The folder that becomes the table; steps are made in it by `once("result/...")`."""
        return self.path / _RESULT

    def finish(self) -> None:
        """Puts the result in its place, where an older one may be, and removes the rest."""
        for part in self.result.rglob(f"*{_PART}"):
            _remove(part)
        _sync(self.result)
        if self.out.exists():
            self.out.rename(self.path / _REPLACED)
        self.result.rename(self.out)
        _sync_folder(self.out.parent)
        self.remove()

    def remove(self) -> None:
        """Removes all that was made."""
        shutil.rmtree(self.path, ignore_errors=True)

    def close(self) -> None:
        """Lets other processes in."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


@contextlib.contextmanager
def alone(folder: Path, what: str) -> Iterator[None]:
    """Within, no other process is at work in the folder. Raises StorageError, saying what it is, where one is."""
    try:
        handle = _locked(folder)
    except BlockingIOError:
        raise StorageError(f"{what} is being made by another process. Wait for it to end.") from None
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _locked(folder: Path) -> int | None:
    if fcntl is None:
        return None
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise
    except OSError:  # a file system without locks
        pass
    return handle


def _read(path: Path) -> Any:
    with contextlib.suppress(OSError, ValueError):
        return json.loads(path.read_bytes())
    return None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Waits until a folder and all in it are on the disk: a file system that reports a full one late does it here."""
    for each in _inside(folder):
        with open(each, "rb") as file:
            os.fsync(file.fileno())
        _sync_folder(each.parent)
    _sync_folder(folder)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    if os.name != "nt":  # where a folder cannot be opened
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _inside(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())
