"""Progress bars while fits are under way: one for all of them with the time left, one for what runs now."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from ...fitting.progress import SILENCE, Pace, left_in_words, line, line_of_many
from ...metrics import RMSE
from ..config import schema
from .console import printable, spinner


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
            left = f"  {' '.join(left_in_words(seconds))}"
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
            pace = pace or pace_of(settings, at, now)
            metric = RMSE if settings is None else settings.metric
            several = isinstance(progress, list)
            said = line_of_many(some, pace, now) if several else line(at, pace, now, metric)
            share = pace.share(at)
            self._bars.update(task, completed=share or 0, total=None if share is None else 1, said=said)
            self._say(f"{label}: {said}")

        try:
            yield seen
        finally:
            self._bars.remove_task(task)

    def _say(self, line: str) -> None:
        if not self._console.is_terminal and time.monotonic() - self._spoke >= SILENCE:
            self._spoke = time.monotonic()
            self._console.print(line, soft_wrap=True)


def pace_of(settings: schema.FitConfig | None, begun: Any, start: float) -> Pace:
    """The pace towards the first of what ends a fit: its sweeps, and its budget of passes or seconds. With `tol` alone
    the end is unknown."""
    limits = {"sweep": begun.sweeps}
    if settings is not None:
        endless = settings.sweeps is None and settings.passes is None and (settings.seconds or settings.tol)
        limits = {"passes": settings.passes, "seconds": settings.seconds} | ({} if endless else limits)
    return Pace(begun, start, {name: limit for name, limit in limits.items() if limit is not None})
