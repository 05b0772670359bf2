"""Files that appear whole or not at all, however the process that writes them ends."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import StorageError

_MARK, _END = ".jals-", ".part"


def write(path: Path, *pieces: Any) -> None:
    """Writes a file of these pieces of bytes; a reader never meets half of it.

    Raises:
        StorageError: when it cannot be written; an older one is as it was then.
    """
    temporary, target = None, Path(os.path.realpath(path))  # a link there goes on pointing to its file
    try:
        with open(target.with_name(f"{_MARK}{secrets.token_hex(8)}{_END}"), "xb") as file:  # its mode is the umask's
            temporary = file.name
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())  # a file system that reports a full disk late does it here
        os.replace(temporary, target)
    except BaseException as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        if isinstance(error, OSError):
            raise StorageError(f"{path} cannot be written: {error.strerror or error}.") from error
        raise


def leftovers(folder: Path) -> Iterator[Path]:
    """What a process that was killed has half written there. Another that writes now has such files too."""
    return folder.glob(f"{_MARK}*{_END}")
