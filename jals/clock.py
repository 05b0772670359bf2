"""The clock that a fit's seconds are read from: time in which the process stood still can be left out of them."""

import time
from collections.abc import Callable


def seconds() -> float:
    """Seconds of a clock that only runs on, but for those that the process stood still in."""
    still = _still()  # first: what it has not seen is not left out
    return time.perf_counter() - still


def follow(still: Callable[[], float] | None) -> None:
    """From now on `still` tells how many seconds the process has stood still in (Ctrl-Z); None: nobody tells."""
    global _still
    _still = _never if still is None else still


def _never() -> float:
    return 0.0


_still = _never
