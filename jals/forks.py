"""Thread pools stay behind when a process forks: work that would wait for one for ever is refused.

polars and XLA start their threads at their first work. A child that is forked after that has all of their memory, which
says that the threads are there, and none of the threads. Which is the case shows in two ways: jals worked with the
library in a process that this one was forked from; or, on Linux, the library's threads are not among this process's.
"""

import contextlib
import os
from collections.abc import Callable

import jax

from .errors import ForkError

_LOADED_IN = os.getpid()
_alive_in: dict[str, int] = {}  # by library, the process in which its threads were last known to run


def check_jax() -> None:
    """Raises ForkError in a process that was forked after jax had started its devices."""
    _check("jax", jax.devices, "tf_")


def check_polars(start: Callable[[], object]) -> None:
    """Raises ForkError in a process that was forked after polars had started its threads; `start` starts them."""
    _check("polars", start, "polars-")


def _check(library: str, start: Callable[[], object], mark: str) -> None:
    here = os.getpid()
    if _alive_in.get(library) == here:
        return
    if library in _alive_in or not _runs(start, mark):
        reading = ", or do the reading in the parent" if library == "polars" else ""
        raise ForkError(
            f"this process was forked after {library} had started its threads, which a fork leaves behind: {library} "
            'would wait for them for ever. Start worker processes by "spawn" or "forkserver", such as '
            f'multiprocessing.get_context("spawn").Pool(), or fork before anything uses {library}{reading}.'
        )
    _alive_in[library] = here


def _runs(start: Callable[[], object], mark: str) -> bool:
    """Whether a library's threads run after `start()`, as far as the system says."""
    before = _threads()
    start()
    after = _threads()
    named = any(name.startswith(mark) for name in after)  # new ones may have no name yet
    return not after or named or len(after) > len(before) or not _forked()


def _forked() -> bool:
    """Whether this process was forked, and runs on without a program of its own, as far as the system tells."""
    if os.getpid() != _LOADED_IN:
        return True
    try:  # what the kernel tells a program when it starts it: addresses, drawn by chance for each
        with open("/proc/self/auxv", "rb") as own, open(f"/proc/{os.getppid()}/auxv", "rb") as parents:
            return own.read() == parents.read()
    except OSError:
        return False


def _threads() -> list[str]:
    """The names of this process's threads, those of its libraries included; none where the system has no such list."""
    try:
        threads = os.listdir("/proc/self/task")
    except OSError:
        return []
    names = []
    for thread in threads:
        with contextlib.suppress(OSError), open(f"/proc/self/task/{thread}/comm") as file:  # it may end meanwhile
            names.append(file.read())
    return names
