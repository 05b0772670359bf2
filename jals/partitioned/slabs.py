"""Files of arrays that are read where they lie: mapped into memory, so that the pages are the file's and no copy.

    magic, length of the index          16 bytes
    SHA-256 of all that follows         32 bytes
    index, JSON                         {name: [dtype, shape, place in the file]}
    arrays                              each at a multiple of 64 bytes, where jax takes it over on a CPU as it is

A file is written under another name and renamed once it is on the disk: one that has its name is whole.
"""

import contextlib
import hashlib
import json
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import StorageError

_MAGIC, _HEAD, _LINE = b"jalsslab", 48, 64
_PART = ".part"


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a file of these arrays, whole or not at all.

    Raises:
        StorageError: when it cannot be written.
    """
    # The index says where arrays lie, and they begin behind it: its length must not depend on what it says.
    index = {name: [array.dtype.str, list(array.shape), 0] for name, array in arrays.items()}
    place = _up(_HEAD + len(json.dumps(index)) + 16 * len(index))
    begin = place
    for name, array in arrays.items():
        index[name][2], place = place, _up(place + array.nbytes)
    said = json.dumps(index).encode()
    assert _HEAD + len(said) <= begin
    body = [said, bytes(begin - _HEAD - len(said))]
    for array in arrays.values():
        body += [np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, bytes(-array.nbytes % _LINE)]
    digest = hashlib.sha256()
    for piece in body:
        digest.update(piece)
    part = path.with_name(f".{path.name}.{os.getpid()}{_PART}")
    try:
        with open(part, "wb") as file:
            file.write(_MAGIC + len(said).to_bytes(8, "little") + digest.digest())
            for piece in body:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise StorageError(f"{path} cannot be written: {error.strerror or error}.") from error


def remove_leftovers(folder: Path) -> None:
    """Removes what processes that were killed have half written there."""
    for part in folder.glob(f".*{_PART}"):
        with contextlib.suppress(OSError):
            part.unlink()


class Arrays:
    """The arrays of a file, mapped: read from the disk when they are looked at.

    Attributes:
        arrays: by name; they cannot be written to.

    Raises:
        StorageError: for a file that is missing or cannot be read, or is no such file, or not all of it.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            with open(path, "rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise StorageError(f"{path} is missing. Open the table again, which makes it again.") from None
        except (OSError, ValueError) as error:  # an empty file cannot be mapped
            raise StorageError(f"{path} cannot be read: {error}. Remove it, and open the table again.") from error
        try:
            length = int.from_bytes(self._map[8:16], "little")
            index = json.loads(self._map[_HEAD : _HEAD + length]) if self._map[:8] == _MAGIC else None
            self.arrays = {name: self._view(*where) for name, where in index.items()}  # pyright: ignore
        except (ValueError, TypeError, AttributeError) as error:
            raise self._damaged() from error

    def _view(self, dtype: str, shape: list[int], place: int) -> np.ndarray:
        if 0 in shape:
            return np.empty(shape, dtype)
        return np.frombuffer(self._map, np.dtype(dtype), int(np.prod(shape)), place).reshape(shape)

    def _damaged(self) -> StorageError:
        return StorageError(f"{self.path} is damaged. Remove it, and open the table again, which makes it again.")

    @property
    def nbytes(self) -> int:
        return len(self._map)

    def verify(self) -> None:
        """Compares what the file holds with its SHA-256.

        Raises:
            StorageError: where they differ.
        """
        with memoryview(self._map) as whole, whole[_HEAD:] as body:
            if hashlib.sha256(body).digest() != whole[16:_HEAD]:
                raise self._damaged()
        self.release()

    def ahead(self) -> None:
        """Has the kernel begin to read the file."""
        self._advise("MADV_WILLNEED")

    def release(self) -> None:
        """Lets go of what was read: it stays in the kernel's cache as long as there is room."""
        self._advise("MADV_DONTNEED")

    def _advise(self, name: str) -> None:
        advice: Any = getattr(mmap, name, None)  # Windows has none
        if advice is not None:
            self._map.madvise(advice)


def _up(place: int) -> int:
    return -(-place // _LINE) * _LINE
