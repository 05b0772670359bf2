"""Progress bars while fits are under way: one for all of them with the time left, one for what runs now."""

import contextlib
import datetime
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

import jals

from ...metrics import RMSE, spelt
from ..config import schema
from .console import printable, spinner

_SILENCE = 60.0  # seconds between lines where there is no terminal to draw bars in


class Watch:
    """The bars of a run; in a log file, a line a minute. Use as a context manager."""

    def __init__(self, console: Console):
        name, said = (TextColumn(each, markup=False) for each in ("{task.description}", "{task.fields[said]}"))
        turning, bar = SpinnerColumn(spinner(console)), BarColumn(None)
        self._bars = Progress(turning, name, bar, said, console=console, transient=True, refresh_per_second=4)
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
            left = f"  {' '.join(_left(seconds))}"
        self._bars.update(self._all, said=f"{self._done}/{self._fits}{left}")
        self._say(f"all fits: {self._done}/{self._fits}{left}")

    @contextlib.contextmanager
    def fit(self, label: str, settings: schema.FitConfig | None = None) -> Iterator[Callable[[Any], None]]:
        """A bar for what runs now. Yields a callback for `fit` and `fit_many`.

        Args:
            settings: the budget of what runs; None where nothing but its sweeps ends it.
        """
        label = printable(label)
        task = self._bars.add_task(label, total=None, said="compiling")
        pace: Pace | None = None

        def seen(progress: Any) -> None:
            nonlocal pace
            some = [at for at in progress if at is not None] if isinstance(progress, list) else [progress]
            if not some:
                return
            now, at = time.monotonic(), some[0]
            pace = pace or Pace(settings, at, now)
            metric = RMSE if settings is None else settings.metric
            several = isinstance(progress, list)
            said = progress_line_many(some, pace, now) if several else progress_line(at, pace, now, metric)
            share = pace.share(at)
            self._bars.update(task, completed=share or 0, total=None if share is None else 1, said=said)
            self._say(f"{label}: {said}")

        try:
            yield seen
        finally:
            self._bars.remove_task(task)

    def _say(self, line: str) -> None:
        if not self._console.is_terminal and time.monotonic() - self._spoke >= _SILENCE:
            self._spoke = time.monotonic()
            self._console.print(line, soft_wrap=True)


class Pace:
    """How far a fit is towards the first of what ends it, sweeps, passes or seconds of solver work, and when it will
    be there at the pace since `begun`, its first record, of the time `start`. With `tol` alone it is unknown."""

    def __init__(self, settings: schema.FitConfig | None, begun: Any, start: float):
        self._begun, self._start = begun, start
        limits = {"sweep": begun.sweeps}
        if settings is not None:
            endless = settings.sweeps is None and settings.passes is None and (settings.seconds or settings.tol)
            limits = {"passes": settings.passes, "seconds": settings.seconds} | ({} if endless else limits)
        self._limits = {name: limit for name, limit in limits.items() if limit is not None}

    def share(self, at: Any) -> float | None:
        """How much of the fit is done, from 0 to 1; None where it is unknown."""
        shares = [getattr(at, name) / limit for name, limit in self._limits.items()]
        return min(max(shares), 1.0) if shares else None

    def left(self, at: Any, now: float) -> float | None:
        """Seconds until the end; None while they are unknown."""
        found = []
        for name, limit in self._limits.items():
            spent = getattr(at, name)
            if spent > getattr(self._begun, name):
                each = (now - self._start) / (spent - getattr(self._begun, name))
                found.append(max(limit - spent, 0) * each)
        return min(found, default=None)

    def sweeps(self, at: Any) -> str:
        """3/15, or 3 sweeps where they end nothing."""
        return f"{at.sweep}/{at.sweeps}" if "sweep" in self._limits else f"{at.sweep} sweeps"


def progress_line(at: jals.Progress, pace: Pace, now: float, metric: str = RMSE) -> str:
    """One line on a fit that is under way, at a time."""
    parts = [pace.sweeps(at)]
    if not math.isnan(at.loss):
        parts.append(f"loss {at.loss:.4g}")
    if not math.isnan(at.validation):
        parts.append(f"val. {spelt(metric)} {at.validation:.4f}")
    if at.sweep and at.seconds:
        parts.append(f"{at.seconds / at.sweep:.3g} s a sweep")
    return "  ".join([*parts, *_left(pace.left(at, now))])


def progress_line_many(some: list[jals.Progress], pace: Pace, now: float) -> str:
    """One line for the fits of a program that are under way."""
    losses = [at.loss for at in some if not math.isnan(at.loss)]
    parts = [pace.sweeps(some[0]), f"{len(some)} under way"]
    if losses:
        parts.append(f"loss {min(losses):.4g} to {max(losses):.4g}")
    return "  ".join([*parts, *_left(pace.left(some[0], now))])


def _left(seconds: float | None) -> list[str]:
    return [] if seconds is None else [f"{datetime.timedelta(seconds=round(min(seconds, 1e9)))} left"]
