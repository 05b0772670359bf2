"""One run by several processes: what each has to know of the others, so that all do the same at the same time.

Every process makes the same fits, of which it has the rows of its devices; that of rank 0 alone reads and writes the
folder of the run, and shows anything. In a run by one process these functions do what they say with nobody else.
"""

import pickle
import signal
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np

from ...errors import JalsError
from .signals import Stopped

Found = TypeVar("Found")
_alone: list[bool] = []  # not empty while the first does what the others wait for


def several() -> bool:
    return jax.process_count() > 1


def is_first() -> bool:
    """Whether this is the process that reads and writes the folder."""
    return jax.process_index() == 0


def from_first(work: Callable[[], Found]) -> Found:
    """What `work` returns in the first process, in all of them; and what it raises, of what jals raises on purpose. Not
    called in the others. Within such work the first is by itself."""
    if not several() or _alone:
        return work()
    outcome: Any = None
    if is_first():
        _alone.append(True)
        try:
            outcome = (work(), None)
        except JalsError as error:
            outcome = (None, error)
        finally:
            _alone.pop()
    found, error = pickle.loads(_told(pickle.dumps(outcome))[0])
    if error is not None:
        raise error
    return found


def from_first_alone(work: Callable[[], Found], other: Any) -> Found | Any:
    """What `work` returns in the first process, and this in the others; what it raises in all."""
    held: list[Found] = []
    from_first(lambda: held.append(work()))
    return held[0] if held else other


def of_each(work: Callable[[], Found]) -> list[Found]:
    """What `work` returns in each process, by rank. An error of one is raised in all."""
    if not several():
        return [work()]
    try:
        outcome: Any = (work(), None)
    except JalsError as error:
        outcome = (None, error)
    found = [pickle.loads(each) for each in _told(pickle.dumps(outcome))]
    for rank, (_, error) in enumerate(found):
        if error is not None:
            raise type(error)(f"rank {rank}: {error}")
    return [each for each, _ in found]


def any_of(*said: bool) -> tuple[bool, ...]:
    """Of each statement, whether it is true in some process."""
    return said if not several() else tuple(map(bool, _all(np.array(said, np.int32)).max(axis=0)))


def _told(content: bytes) -> list[bytes]:
    """The bytes of every process, by rank."""
    sizes = _all(np.array(len(content), np.int32))
    padded = np.zeros(max(int(sizes.max()), 1), np.uint8)
    padded[: len(content)] = np.frombuffer(content, np.uint8)
    return [row[:size].tobytes() for row, size in zip(_all(padded), sizes, strict=True)]


def _all(array: np.ndarray) -> np.ndarray:
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(array))


class StopsTogether:
    """Signals that ask to end, of which none interrupts: a process that left by itself would leave the others waiting.
    At the next record, `agree` raises the same stop in all."""

    def __init__(self):
        self._heard, self.code = 0, 0  # the exit code, once they have ended

    def listen(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):
                if hasattr(signal, name):
                    signal.signal(getattr(signal, name), self._hear)

    def _hear(self, signum: int, _: Any) -> None:
        self._heard = self._heard or signum

    def agree(self) -> None:
        """Raises `Stopped` where one of the processes was asked to end."""
        signum = int(_all(np.array(self._heard, np.int32)).max()) if several() else self._heard
        if signum:
            self.code = 128 + signum
            raise Stopped(signum)
