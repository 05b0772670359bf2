"""What a user sees while fits are under way: one bar for all of them with the time left, one for what runs now."""

import contextlib
import datetime
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

import jals

_SILENCE = 60.0  # seconds between lines where there is no terminal to draw bars in


class Watch:
    """The bars of a run; in a log file, a line a minute. Use as a context manager."""

    def __init__(self, console: Console):
        name, said = TextColumn("{task.description}"), TextColumn("{task.fields[said]}")
        self._bars = Progress(
            SpinnerColumn(), name, BarColumn(None), said, console=console, transient=True, refresh_per_second=4
        )
        self._console = console
        self._spoke = time.monotonic()
        self._all: Any = None
        self._fits = self._done = 0
        self._begun = 0.0

    def __enter__(self) -> "Watch":
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._console.is_terminal:
            self._bars.stop()

    def begin(self, weights: list[float]) -> None:
        """A list of fits is to be made; the weight of each is its share of the time."""
        if self._all is not None:
            self._bars.remove_task(self._all)
        self._fits, self._done, self._begun = len(weights), 0, time.monotonic()
        self._all = None
        if self._fits > 1:
            self._all = self._bars.add_task("all fits", total=sum(weights), said=f"0/{self._fits}")

    def advance(self, weight: float, made: bool = True) -> None:
        """One of them has ended; `made` in this session, rather than found."""
        if self._all is None:
            return
        self._done += 1
        task = next(task for task in self._bars.tasks if task.id == self._all)
        if not made:  # tells nothing of the pace
            self._bars.update(self._all, total=(task.total or 0) - weight)
        else:
            self._bars.update(self._all, completed=task.completed + weight)
        left = ""
        if task.completed and task.total:
            seconds = (time.monotonic() - self._begun) * (task.total - task.completed) / task.completed
            left = f"  {datetime.timedelta(seconds=round(seconds))} left"
        self._bars.update(self._all, said=f"{self._done}/{self._fits}{left}")
        self._say(f"all fits: {self._done}/{self._fits}{left}")

    @contextlib.contextmanager
    def fit(self, label: str) -> Iterator[Callable[[Any], None]]:
        """A bar for what runs now. Yields a callback for `fit` and `fit_many`."""
        task = self._bars.add_task(label, total=None, said="compiling")
        begun: tuple[int, float] | None = None  # (sweep, time) of the first record

        def seen(progress: Any) -> None:
            nonlocal begun
            some = [at for at in progress if at is not None] if isinstance(progress, list) else [progress]
            if not some:
                return
            now, at = time.monotonic(), some[0]
            begun = begun or (at.sweep, now)
            pace = (now - begun[1]) / (at.sweep - begun[0]) if at.sweep > begun[0] else None
            said = described(at, pace) if not isinstance(progress, list) else described_many(some, pace)
            self._bars.update(task, completed=at.sweep, total=at.sweeps, said=said)
            self._say(f"{label}: {said}")

        try:
            yield seen
        finally:
            self._bars.remove_task(task)

    def _say(self, line: str) -> None:
        if not self._console.is_terminal and time.monotonic() - self._spoke >= _SILENCE:
            self._spoke = time.monotonic()
            self._console.print(line, soft_wrap=True)


def described(at: jals.Progress, pace: float | None) -> str:
    """One line: `pace` is the seconds a sweep takes with everything done beside it, None while unknown."""
    parts = [f"{at.sweep}/{at.sweeps}"]
    if not math.isnan(at.loss):
        parts.append(f"loss {at.loss:.4g}")
    if not math.isnan(at.validation):
        parts.append(f"val. RMSE {at.validation:.4f}")
    if at.sweep and at.seconds:
        parts.append(f"{at.seconds / at.sweep:.3g} s a sweep")
    return "  ".join([*parts, *_left(at, pace)])


def described_many(some: list[jals.Progress], pace: float | None) -> str:
    """One line for the fits of a program that are under way."""
    losses = [at.loss for at in some if not math.isnan(at.loss)]
    parts = [f"{some[0].sweep}/{some[0].sweeps}", f"{len(some)} under way"]
    if losses:
        parts.append(f"loss {min(losses):.4g} to {max(losses):.4g}")
    return "  ".join([*parts, *_left(some[0], pace)])


def _left(at: jals.Progress, pace: float | None) -> list[str]:
    if pace is None:
        return []
    return [f"{datetime.timedelta(seconds=round(pace * (at.sweeps - at.sweep)))} left"]
