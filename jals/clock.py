"""The clock of a fit's seconds, which can leave out the time in which the process was paused."""

import time
from collections.abc import Callable


def seconds() -> float:
    """Seconds of a monotonic clock, less those in which the process was paused."""
    still = _still()
    while True:
        now, known = time.perf_counter(), still
        if (still := _still()) == known:  # or it was paused in between
            return now - still


def follow(still: Callable[[], float] | None) -> None:
    """From now on `still()` gives the seconds for which the process was paused (Ctrl-Z); None: no pauses are known."""
    global _still
    _still = _never if still is None else still


def _never() -> float:
    return 0.0


_still = _never
