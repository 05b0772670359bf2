"""The errors of jals: each says what is wrong, where, and what to do."""

import difflib
from collections.abc import Iterable
from typing import Any

from jax.core import Tracer


class JalsError(Exception):
    """Base of every error that jals raises on purpose."""


class DataError(JalsError, ValueError):
    """A ratings table that cannot be used: the message names the entry."""


class ArgumentError(JalsError, ValueError):
    """A call with an argument of the wrong kind, shape or range."""


class ConfigError(JalsError, ValueError):
    """A configuration file that cannot be used: the message names file and key."""


class StorageError(JalsError, ValueError):
    """A saved file that is missing, damaged or of another format version."""


class FitError(JalsError, ArithmeticError):
    """A fit that broke down. `result` holds the last good factors and the history up to them.

    Attributes: `sweep` (the one that failed, counted from 1), `side` ("user", "item" or None),
    `row` (the row that has no unique solution, or None), `result`.
    """

    def __init__(self, message: str, *, sweep: int, side: str | None, row: int | None, result: Any):
        super().__init__(message)
        self.sweep, self.side, self.row, self.result = sweep, side, row, result


class AdjointError(JalsError, ArithmeticError):
    """A derivative of a stationary point that cannot be had. `info` (`jals.adjoint.Info`) says how far it came."""

    def __init__(self, message: str, *, info: Any):
        super().__init__(message)
        self.info = info


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a fit. `result` holds the last finished sweep's factors and the history."""

    def __init__(self, message: str, *, result: Any):
        super().__init__(message)
        self.result = result


def is_traced(value: Any) -> bool:
    """Whether a value is known only while a transformation runs the program, so that no range can be checked."""
    return isinstance(value, Tracer)


def did_you_mean(word: Any, options: Iterable[Any]) -> str:
    """' Did you mean "cholesky"?' for a near miss of one of the options, '' where none is near."""
    written = {str(option).lower(): str(option) for option in options}
    near = difflib.get_close_matches(str(word).lower(), written, n=1, cutoff=0.6)
    return f' Did you mean "{written[near[0]]}"?' if near else ""


def check_choice(what: str, value: Any, options: Iterable[Any]) -> None:
    """Raises `ArgumentError` unless `value` is one of the options."""
    options = tuple(options)
    if value not in options:
        allowed = ", ".join(f'"{option}"' for option in options)
        raise ArgumentError(f"{what} is {value!r}, but must be one of {allowed}.{did_you_mean(value, options)}")
