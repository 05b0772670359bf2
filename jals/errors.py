"""The errors of jals: each says what is wrong, where, and what to do."""

import difflib
import json
import pickle
from collections.abc import Iterable
from typing import Any

from jax.core import Tracer


class _Travels:
    """Makes an exception keep its type, message, attributes and notes through pickle and copy, and its cause where that
    pickles. Python's own way calls `__init__` with the message alone: one that takes more then fails in the
    process that reads it, where a `multiprocessing.Pool` waits for ever."""

    def __reduce__(self: Any) -> tuple:
        cause, hidden = self.__cause__, self.__suppress_context__
        return _arrived, (type(self), self.args, _packed(cause), hidden), self.__dict__ or None


def _arrived(kind: type[BaseException], args: tuple, cause: bytes | None, hidden: bool) -> BaseException:
    """An exception as it was, but for the attributes, which pickle sets: its `__init__` has done its work before."""
    error = kind.__new__(kind, *args)
    error.__cause__, error.__suppress_context__ = _unpacked(cause), hidden
    return error


def _packed(cause: BaseException | None) -> bytes | None:
    """By itself, so that a cause of another package's, which may fail at either end, costs nothing but itself."""
    try:
        return None if cause is None else pickle.dumps(cause)
    except Exception:
        return None


def _unpacked(cause: bytes | None) -> BaseException | None:
    try:
        return None if cause is None else pickle.loads(cause)
    except Exception:
        return None


class JalsError(_Travels, Exception):
    """Base of every error that jals raises on purpose. Each pickles and copies, and so comes back from a process."""


class DataError(JalsError, ValueError):
    """A ratings table that cannot be used: the message names the entry."""


class ArgumentError(JalsError, ValueError):
    """A call with an argument of the wrong kind, shape or range."""


class ConfigError(JalsError, ValueError):
    """A configuration file that cannot be used: the message names file and key."""


class StorageError(JalsError, ValueError):
    """A saved file that is missing, damaged or of another format version."""


class ForkError(JalsError, RuntimeError):
    """Work in a forked process whose libraries' threads stayed in its parent, where it would wait for ever."""


class FitError(JalsError, ArithmeticError):
    """A fit that broke down. `result` holds the last good factors and the history up to them.

    Attributes: `sweep` (the one that failed, counted from 1), `side` ("user", "item" or None),
    `row` (the row that has no unique solution, or None), `result`.
    """

    def __init__(self, message: str, *, sweep: int, side: str | None, row: int | None, result: Any):
        super().__init__(message)
        self.sweep, self.side, self.row, self.result = sweep, side, row, result


class OutOfMemory(JalsError, RuntimeError):
    """A device's memory, or the machine's, that ran out in a call.

    Attributes: `needed` (the bytes that could not be had), `limit` (those of the device, or of the machine where that
    is its CPU); each None where it is not known. `result`: what there was by then, as `FitError` and of several fits
    `Interrupted` have it, with reason "failed"; None where there was nothing.
    """

    def __init__(self, message: str, *, needed: int | None, limit: int | None, result: Any = None):
        super().__init__(message)
        self.needed, self.limit, self.result = needed, limit, result


class AdjointError(JalsError, ArithmeticError):
    """The derivative of a stationary point failed. `info` (`jals.adjoint.AdjointInfo`) says how far it came."""

    def __init__(self, message: str, *, info: Any):
        super().__init__(message)
        self.info = info


class Interrupted(_Travels, KeyboardInterrupt):
    """Ctrl-C during a fit. `result` is what there was by then, up to the last record: a result as the call would have
    returned, with reason "interrupted"; of `fit_many` the list of them, of `fit_grid` the `Grid`."""

    def __init__(self, message: str, *, result: Any):
        super().__init__(message)
        self.result = result


class EntryError(DataError):
    """One entry that cannot be: `column` ("user", "value", ...), `entry` (its place), `problem` ("is nan, but ...")."""

    def __init__(self, column: str, entry: int, problem: str):
        super().__init__(f"{column} of entry {entry} {problem}")
        self.column, self.entry, self.problem = column, entry, problem


def is_traced(value: Any) -> bool:
    """Whether a value is known only while a transformation runs the program, so that no range can be checked."""
    return isinstance(value, Tracer)


def did_you_mean(word: Any, options: Iterable[Any]) -> str:
    """' Did you mean "cholesky"?' for a near miss of one of the options, '' where none is near."""
    written = {str(option).lower(): str(option) for option in options}
    near = difflib.get_close_matches(str(word).lower(), written, n=1, cutoff=0.6)
    return f" Did you mean {json.dumps(written[near[0]], ensure_ascii=False)}?" if near else ""


def check_choice(what: str, value: Any, options: Iterable[Any]) -> None:
    """Raises `ArgumentError` unless `value` is one of the options."""
    options = tuple(options)
    if value not in options:
        allowed = ", ".join(f'"{option}"' for option in options)
        raise ArgumentError(f"{what} is {value!r}, but must be one of {allowed}.{did_you_mean(value, options)}")
