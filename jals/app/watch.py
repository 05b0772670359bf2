"""What a user sees while a fit is under way: a bar with the loss, the validation RMSE and the time left."""

import datetime
import math
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

import jals

_SILENCE = 60.0  # seconds between lines where there is no terminal to draw a bar in


class Watch:
    """A callback for `fit` that draws a bar; in a log file, a line a minute. Use as a context manager."""

    def __init__(self, console: Console, label: str):
        name, said = TextColumn("{task.description}"), TextColumn("{task.fields[said]}")
        columns = (SpinnerColumn(), name, BarColumn(None), said)
        self._bar = Progress(*columns, console=console, transient=True, refresh_per_second=4)
        self._task = self._bar.add_task(label, total=None, said="compiling")
        self._console, self._label = console, label
        self._started: tuple[int, float] | None = None  # (sweep, time) of the first record
        self._spoke = time.monotonic()

    def __enter__(self) -> "Watch":
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def __call__(self, at: jals.Progress) -> None:
        now = time.monotonic()
        first_sweep, first_time = self._started = self._started or (at.sweep, now)
        pace = (now - first_time) / (at.sweep - first_sweep) if at.sweep > first_sweep else None
        said = described(at, pace)
        self._bar.update(self._task, completed=at.sweep, total=at.sweeps, said=said)
        if not self._console.is_terminal and now - self._spoke >= _SILENCE:
            self._spoke = now
            self._console.print(f"{self._label}: {said}")


def described(at: jals.Progress, pace: float | None) -> str:
    """One line: `pace` is the seconds a sweep takes with everything done beside it, None while unknown."""
    parts = [f"{at.sweep}/{at.sweeps}"]
    if not math.isnan(at.loss):
        parts.append(f"loss {at.loss:.4g}")
    if not math.isnan(at.validation):
        parts.append(f"val. RMSE {at.validation:.4f}")
    if at.sweep and at.seconds:
        parts.append(f"{at.seconds / at.sweep:.3g} s a sweep")
    if pace is not None:
        left = datetime.timedelta(seconds=round(pace * (at.sweeps - at.sweep)))
        parts.append(f"{left} left")
    return "  ".join(parts)
