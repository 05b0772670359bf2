"""Stopping a run: SIGTERM and SIGHUP end it as Ctrl-C does, and time in which it was paused is not counted."""

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from ... import clock

_STOPS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_BEAT = 0.05  # seconds: how exactly the time of a stop is known
_GAP = 10 * _BEAT  # between two beats: a pause, or a machine with other work; the wait to be told which


class Stopped(KeyboardInterrupt):
    """A signal that asks the process to end. `128 + signum` is the exit code."""

    def __init__(self, signum: int):
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


class StopSignals:
    """The signals that a run was asked to end by; see `catch_stops`."""

    def __init__(self):
        self._first: int | None = None
        self._unraisable = sys.unraisablehook
        self._timers: list[threading.Timer] = []

    def stop(self, signum: int, _: Any) -> None:
        self._first = self._first or signum
        raise Stopped(signum)

    def again(self, met: Any) -> None:
        """In some callbacks, such as the garbage collector's, Python reports an exception and goes on. So a stop raised
        there is raised once more, a moment later."""
        if isinstance(met.exc_value, KeyboardInterrupt):
            signum = getattr(met.exc_value, "signum", signal.SIGINT)
            self._timers.append(threading.Timer(_BEAT, os.kill, (os.getpid(), signum)))
            self._timers[-1].start()
        else:
            self._unraisable(met)

    def end(self) -> None:
        for timer in self._timers:
            timer.cancel()
            timer.join()

    @property
    def code(self) -> int:
        """The exit code of a run that was stopped."""
        return 128 + (self._first or signal.SIGINT)

    def named(self, stopped: KeyboardInterrupt) -> KeyboardInterrupt:
        """The signal that stopped the run first, as an exception."""
        return stopped if self._first is None else Stopped(self._first)


@contextlib.contextmanager
def catch_stops() -> Iterator[StopSignals]:
    """Within, SIGTERM and SIGHUP raise `Stopped` as Ctrl-C raises KeyboardInterrupt; one that the process was started
    to ignore (by nohup) stays ignored. Time in which the process is paused does not count as work of a fit."""
    found = StopSignals()
    if not _in_main_thread():
        yield found
        return
    before = {each: signal.getsignal(each) for each in _STOPS if each != signal.SIGINT}
    hook, sys.unraisablehook = sys.unraisablehook, found.again
    try:
        for each, handler in before.items():
            if handler == signal.SIG_DFL:  # one that ignores it, or has a way of its own, is left alone
                signal.signal(each, found.stop)
        with _PausedTime() if hasattr(signal, "SIGCONT") else contextlib.nullcontext():
            yield found
    finally:
        found.end()
        sys.unraisablehook = hook
        for each, handler in before.items():
            signal.signal(each, handler)


@contextlib.contextmanager
def defer_stops() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP wait until files that belong together are written."""
    if not _in_main_thread():
        yield
        return
    waiting: list[tuple] = []
    before = {each: signal.getsignal(each) for each in _STOPS}
    before = {each: handler for each, handler in before.items() if callable(handler)}  # others are not the run's
    try:
        for each in before:
            signal.signal(each, lambda *given: waiting.append(given))
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    if waiting:
        before[waiting[0][0]](*waiting[0])


class _PausedTime:
    """How many seconds the process was paused, from SIGTSTP or SIGSTOP to SIGCONT; see `clock`.

    A Python handler runs only between two steps of the interpreter, and a sweep may delay that. So the system itself
    writes the number of SIGCONT into a pipe. No signal tells when a pause begins: a thread notes the time every 0.05 s.
    On a busy machine that thread may go on before the number is written: after a gap in its beats it waits for it.
    """

    def __init__(self):
        self._total, self._beat = 0.0, time.perf_counter()
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._reading, self._writing = os.pipe()
        for end in (self._reading, self._writing):
            os.set_blocking(end, False)
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> "_PausedTime":
        self._handler = signal.signal(signal.SIGCONT, lambda *_: None)
        self._wakeup = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        self._thread.start()
        clock.follow(self)
        return self

    def __exit__(self, *_: Any) -> None:
        clock.follow(None)
        signal.set_wakeup_fd(self._wakeup)
        signal.signal(signal.SIGCONT, self._handler or signal.SIG_DFL)
        self._ended.set()
        self._thread.join()
        os.close(self._reading)
        os.close(self._writing)

    def __call__(self) -> float:
        with self._lock:
            if time.perf_counter() - self._beat > _GAP:
                select.select([self._reading], [], [], _GAP)
            before, ended = time.perf_counter(), False
            with contextlib.suppress(BlockingIOError):
                ended = signal.SIGCONT in os.read(self._reading, 512)
            after = time.perf_counter()  # a pause may also lie between these lines: it is in this gap or in the next
            if ended:
                self._total += max(after - self._beat - _BEAT / 2, 0.0)
            self._beat = after if ended else before
            return self._total

    def _listen(self) -> None:
        while not self._ended.wait(_BEAT):
            self()


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()  # only there signals are heard
