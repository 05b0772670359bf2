"""The loop of `fit`, `fit_many` and `tune`: rounds of work, each with a record, until there is a reason to stop, or
Ctrl-C. Each of the three says what a round is."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, Self

import numpy as np

from ..errors import ArgumentError, DataError, FitError, Interrupted
from ..html import Table, brief, from_to, shown, some_of
from ..reals import one_real
from ..solvers.protocol import check_kind, check_whole
from .progress import showing

RUNNING = "running"  # the `reason` of a result that is under way


class Columns:
    """A history: parallel lists, one for each attribute of its records. Its dataclass names them."""

    record: ClassVar[Any]  # the class of one

    @property
    def records(self) -> int:
        return len(next(iter(vars(self).values())))

    def __repr__(self) -> str:
        """How many records there are, and the first and the last of every column of numbers."""
        said = [f"{name} {from_to(column[0], column[-1], _digits(name))}" for name, column in self._numbers().items()]
        return f"{type(self).__name__}({', '.join([f'{self.records} records', *said])})"

    @shown
    def _repr_html_(self) -> Table:
        numbers, places = self._numbers(), some_of(self.records)
        rows = [[brief(column[place], _digits(name)) for name, column in numbers.items()] for place in places]
        note = f"{len(places)} of {self.records:,} records" if len(places) < self.records else ""
        return Table(type(self).__name__.lower(), rows, list(numbers), note)

    def _numbers(self) -> dict[str, list]:
        """The columns that hold a finite number; of one of dicts a column for each of their keys."""
        found = {}
        for name, column in vars(self).items():
            if column and isinstance(column[0], dict):
                found |= {key: [record[key] for record in column] for key in column[0]}
            else:
                found[name] = column
        return {name: column for name, column in found.items() if np.isfinite(np.array(column, float)).any()}

    def last(self) -> Any:
        return self.record(**{name: column[-1] for name, column in vars(self).items()})

    def with_record(self, record: Any) -> Self:
        """A longer history. This one stays as it is: whoever holds it never sees half a record."""
        return type(self)(**{name: [*column, getattr(record, name)] for name, column in vars(self).items()})


def _digits(name: str) -> int:
    """Of a column, as many as say something."""
    return 3 if name == "seconds" else 6


@dataclasses.dataclass(frozen=True)
class StopRules:
    """When to stop, by the caller's arguments. See `fit` for what each means.

    Attributes:
        most: how many sweeps or steps at most.
        of: the caller's word for them: "sweeps" or "steps".
        progress: whether to show how far it is, or under what name.
    """

    most: int
    of: str = "sweeps"
    tol: float | None = None
    patience: int | None = None
    loss_every: int = 1
    callbacks: Iterable[Callable[[Any], Any]] = ()
    progress: str | bool = False

    @property
    def watched(self) -> bool:
        """Whether someone wants to see every sweep, where no losses are asked for."""
        return bool(self.callbacks) or bool(self.progress)

    def checked(self, least: int = 0) -> Self:
        """The same in plain numbers and with the callbacks in a tuple; raises ArgumentError for invalid ones,
        in the caller's own names."""
        check_kind("callbacks", self.callbacks, Iterable, "give a list of functions")
        check_kind("progress", self.progress, bool | str, "give True or False")
        check_whole(self.of, self.most, least)
        check_whole("loss_every", self.loss_every, 0)
        if self.patience is not None:
            check_whole("patience", self.patience, 1)
        tol, every = self.tol, int(self.loss_every)
        if tol is not None and not (one_real("tol", tol, "a number >= 0, or None") >= 0 and every):
            raise ArgumentError(f"tol is {tol!r} with loss_every={every}, but must be >= 0 and needs loss_every >= 1.")
        return dataclasses.replace(self, most=int(self.most), loss_every=every, callbacks=tuple(self.callbacks))

    def until_record(self, done: int, watched: bool) -> int:
        """How many from `done` to the next record; without losses it is the last, unless every one is `watched`."""
        return min(self.loss_every or (1 if watched else self.most), self.most - done)

    def reason(self, now: Any, answers: list[Any]) -> str | None:
        """Why to stop after the newest record, to which callbacks gave these answers; None to go on."""
        records = now.history.records
        if not records:
            return None
        if any(answer is True for answer in answers):
            return "callback"
        if self.tol is not None and records > 1:
            before, after = now.history.loss[-2:]
            if abs(before - after) <= self.tol * abs(before):
                return "tol"
        if self.patience is not None and records - 1 - now.best() >= self.patience:
            return "patience"
        return self.of if now.done >= self.most else None


def run_rounds(
    start: Callable,
    asked: StopRules,
    step: Callable,
    seen: Callable,
    begin: Iterable[Callable] = (),
    memory: Callable[..., contextlib.AbstractContextManager] = contextlib.nullcontext,
) -> list:
    """Makes rounds until nothing is under way.

    Args:
        start: makes what there is at first, of each that is to be fitted a result: its `reason` is `RUNNING` until it
            ends, `with_reason()` gives it another; its `history` has `done` sweeps, the best in record `best()`. (A
            function, so that no reference to the first state is kept while the rounds go on.)
        step: a round: the same with a record more of each that is under way, or the FitError that it broke down with.
        seen: what the callbacks are called with.
        begin: like `step`, but what comes before the first round and makes no record.
        memory: `devices.told_exhausted` with all but its last argument, for all of this.

    Returns: each with the reason that it stopped for, or its FitError. Raises Interrupted on Ctrl-C, with what the last
        step that ended had made, those under way then as "interrupted"; OutOfMemory likewise, those as "failed".
    """

    watch: Callable[[Any], None] | None = None

    def answered(told: Any) -> list[Any]:
        if watch is not None:
            watch(told)
        return [callback(told) for callback in asked.callbacks]  # each is called, whatever another says

    now: list[Any] = []
    try:
        label = asked.progress if isinstance(asked.progress, str) else "fit" * asked.progress
        with memory(lambda: _settled(now, lambda _: "failed") or None), showing(label) as watch:
            now = start()
            for prepare in begin:
                now = prepare(now)
            answers: list[Any] = []
            while True:
                now = _settled(now, lambda each, answers=answers: asked.reason(each, answers))
                if not any(map(_under_way, now)):
                    return now
                now = step(now)
                if asked.watched and any(map(_under_way, now)):
                    answers = answered(seen(now))
    except KeyboardInterrupt:
        if not now:
            raise
        left = [each.done for each in now if _under_way(each)]
        said = f"interrupted after {max(left, default=asked.most)} of {asked.most} {asked.of}"
        said += f", with {len(left)} of {len(now)} fits under way" if len(now) > 1 else ""
        raise Interrupted(said, result=_settled(now, lambda _: "interrupted")) from None


def run_single(
    start: Callable,
    asked: StopRules,
    step: Callable,
    seen: Callable,
    begin: Iterable[Callable] = (),
    memory: Callable[..., contextlib.AbstractContextManager] = contextlib.nullcontext,
) -> Any:
    """`run_rounds` for a single one: nothing here is in a list, and a FitError that `step` raises passes through."""

    def listed(function: Callable) -> Callable:
        return lambda now: [function(*now)]

    def of_one(result: Callable) -> contextlib.AbstractContextManager:
        return memory(lambda: next(iter(result() or ()), None))

    rounds = lambda: [start()], asked, listed(step), lambda now: seen(*now), map(listed, begin), of_one
    try:
        return run_rounds(*rounds)[0]
    except Interrupted as stopped:
        (stopped.result,) = stopped.result
        raise


def _under_way(outcome: Any) -> bool:
    return getattr(outcome, "reason", None) == RUNNING


def _settled(now: list[Any], why: Callable[[Any], str | None]) -> list[Any]:
    """The same, where each that is under way and has a reason to stop has that reason."""
    reasons = [why(each) if _under_way(each) else None for each in now]
    return [each.with_reason(reason) if reason else each for each, reason in zip(now, reasons, strict=True)]


def fit_error(
    now: Any, number: int, what: str, of: str = "sweep", side: Any = None, row: int | None = None
) -> FitError:
    """The error of one that broke down in sweep or step `number`, which carries what there was before."""
    return FitError(f"{of} {number}: {what}", sweep=number, side=side, row=row, result=now.with_reason("failed"))


@contextlib.contextmanager
def name_errors(which: str) -> Iterator[None]:
    """Within, what is refused is refused with the name of what it belongs to: "fit 3: sweeps is ..."."""
    try:
        yield
    except (ArgumentError, DataError) as error:
        raise type(error)(f"{which}: {error}") from None
