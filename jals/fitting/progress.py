"""How far a fit is, in one line, and that line shown while it is under way: `progress=True`."""

import contextlib
import datetime
import html
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..metrics import RMSE, spelt

SILENCE = 60.0  # seconds between lines where there is nobody to look at a bar, as in a log


class Pace:
    """How far a fit is towards the first of what ends it, and when it will be there at the pace since `begun`, its
    first record, of the time `start`.

    Args:
        limits: {a record's attribute: its value at the end}, such as "sweep", "passes" or "seconds" of solver work;
            empty where the end is unknown. None: the sweeps, or steps, that were asked for.
    """

    def __init__(self, begun: Any, start: float, limits: Mapping[str, float] | None = None):
        self._begun, self._start, self.unit = begun, start, "step" if hasattr(begun, "steps") else "sweep"
        self._limits = {self.unit: self._most(begun)} if limits is None else limits

    def share(self, at: Any) -> float | None:
        """How much of the fit is done, from 0 to 1; None where it is unknown."""
        shares = [getattr(at, name) / limit for name, limit in self._limits.items() if limit]
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

    def done(self, at: Any) -> int:
        """Sweeps, or steps."""
        return getattr(at, self.unit)

    def count(self, at: Any) -> str:
        """3/15, or 3 sweeps where they end nothing."""
        return f"{self.done(at)}/{self._most(at)}" if self.unit in self._limits else f"{self.done(at)} {self.unit}s"

    def _most(self, at: Any) -> int:
        return getattr(at, f"{self.unit}s")


def line(at: Any, pace: Pace, now: float, metric: str = RMSE) -> str:
    """One line on a fit or a tuning that is under way, from the record that callbacks see, at a time."""
    parts, of = [pace.count(at)], vars(at)
    if math.isfinite(of.get("loss", math.nan)):
        parts.append(f"loss {at.loss:.4g}")
    if math.isfinite(of.get("validation", math.nan)):
        parts.append(f"val. {spelt(metric)} {at.validation:.4f}")
    if "rmse" in of:
        parts.append(f"held-out RMSE {at.rmse:.4f}  score {at.score:.4g}")
    if pace.done(at) and at.seconds:
        parts.append(f"{at.seconds / pace.done(at):.3g} s a {pace.unit}")
    return "  ".join([*parts, *left_in_words(pace.left(at, now))])


def line_of_many(some: list, pace: Pace, now: float) -> str:
    """One line for the fits of a program that are under way."""
    losses = [at.loss for at in some if not math.isnan(at.loss)]
    parts = [pace.count(some[0]), f"{len(some)} under way"]
    if losses:
        parts.append(f"loss {min(losses):.4g} to {max(losses):.4g}")
    return "  ".join([*parts, *left_in_words(pace.left(some[0], now))])


def left_in_words(seconds: float | None) -> list[str]:
    return [] if seconds is None else [f"{datetime.timedelta(seconds=round(min(seconds, 1e9)))} left"]


# ---- shown ----


@contextlib.contextmanager
def showing(label: str) -> Iterator[Callable[[Any], None] | None]:
    """Yields what is to be called with what callbacks see; None without a label. Nothing that goes wrong with the
    showing, such as a closed pipe, ends a fit."""
    if not label:
        yield None
        return
    display = _display(label)
    pace: Pace | None = None

    def seen(progress: Any) -> None:
        nonlocal pace
        some = [at for at in progress if at is not None] if isinstance(progress, list) else [progress]
        now = time.monotonic()
        pace = pace or Pace(some[0], now)
        if isinstance(progress, list):
            said = line_of_many(some, pace, now)
        else:
            said = line(some[0], pace, now, getattr(progress.result, "metric", RMSE))
        with contextlib.suppress(OSError, ValueError):
            display.show(said, pace.share(some[0]))

    with contextlib.suppress(OSError, ValueError):
        display.show("compiling", None)
    try:
        yield seen
    finally:
        with contextlib.suppress(OSError, ValueError):
            display.close()


def _display(label: str) -> Any:
    """What shows it here: in a notebook a bar of its own, in a terminal rich's where it is installed, else lines."""
    if hasattr(_shell(), "kernel"):
        return _InNotebook(label)
    if sys.stderr is not None and sys.stderr.isatty():
        try:
            return _InTerminal(label)
        except ImportError:  # without the extra `cli`
            return _Lines(label, 1.0)
    return _Lines(label, SILENCE)


def _shell() -> Any:
    """IPython's, where there is one."""
    ipython = sys.modules.get("IPython")
    return None if ipython is None else ipython.get_ipython()


class _InTerminal:
    """A bar, of which the last line stays."""

    def __init__(self, label: str):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        class Door(Console):
            def on_broken_pipe(self) -> None:  # rich would end the process
                self.quiet = True

        console = Door(stderr=True)
        words = [TextColumn(each, markup=False) for each in ("{task.description}", "{task.fields[said]}")]
        turning = SpinnerColumn("dots" if console.encoding.startswith("utf") else "line", finished_text=" ")
        self._bars = Progress(turning, words[0], BarColumn(24), words[1], console=console)
        self._task = self._bars.add_task(label, total=None, said="")
        self._bars.start()

    def show(self, said: str, share: float | None) -> None:
        self._bars.update(self._task, completed=share or 0, total=None if share is None else 1, said=said)

    def close(self) -> None:
        self._bars.stop()


class _InNotebook:
    """A bar under the cell, without widgets."""

    def __init__(self, label: str):
        from IPython.display import display  # pyright: ignore

        self._label = label
        self._handle = display(self._drawn("compiling", None), raw=True, display_id=True)

    def show(self, said: str, share: float | None) -> None:
        self._handle.update(self._drawn(said, share), raw=True)

    def _drawn(self, said: str, share: float | None) -> dict[str, str]:
        at = "" if share is None else f' value="{share:.4f}"'
        bar = f'<progress max="1"{at} style="width: 12em; vertical-align: middle"></progress>'
        return {
            "text/html": f"<div>{html.escape(self._label)} {bar} <code>{html.escape(said)}</code></div>",
            "text/plain": f"{self._label}: {said}",
        }

    def close(self) -> None:
        pass


class _Lines:
    """A line of its own, now and then."""

    def __init__(self, label: str, silence: float):
        self._label, self._silence, self._spoke = label, silence, time.monotonic()

    def show(self, said: str, share: float | None) -> None:
        if time.monotonic() - self._spoke >= self._silence:
            self._spoke = time.monotonic()
            print(f"{self._label}: {said}", file=sys.stderr, flush=True)

    def close(self) -> None:
        pass
