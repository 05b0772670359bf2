"""Solvers of a config that are classes of the user's: `kind = "my_solvers:DampedALS"`, and the dataclass's fields as
keys.

They are imported where a config is checked, and so wherever a fit is made or certified. A run's record is read without
them, as a machine that only reads may lack them.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import inspect
import json
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from ...errors import ConfigError, did_you_mean
from ...solvers.protocol import check_solver, traits
from .base import types_of

_WORDS = {bool: "true or false", int: "an integer", float: "a number", str: "a text in quotes"}
_SUCH = "a frozen dataclass, registered as a pytree, with rank, init and sweep"


@contextlib.contextmanager
def importable_from(folder: Path) -> Iterator[None]:
    """Modules are looked for where Python does, then in a config's folder, then in the current one."""
    before = list(sys.path)
    sys.path += [str(folder), ""]
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before


def solver_class(kind: str) -> type:
    """The class that a solver's kind names.

    Raises:
        ConfigError: saying what is wrong with the kind: "names a module ...".
    """
    name, _, wanted = kind.partition(":")
    try:
        module = importlib.import_module(name)
    except Exception as error:  # whatever code of others does
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            raise ConfigError(
                f'names the module "{name}", which was not found: it is looked for where Python looks (PYTHONPATH, and '
                "what is installed), in the config's folder, and in the current one."
            ) from error
        raise ConfigError(
            f'names the module "{name}", which fails when it is imported: {_first_line(error)}'
        ) from error
    found = getattr(module, wanted, None)
    if found is None:
        near = did_you_mean(wanted, [each for each, thing in vars(module).items() if isinstance(thing, type)])
        raise ConfigError(f'names "{wanted}", but the module {name} has no such class.{near}')
    fits = isinstance(found, type) and dataclasses.is_dataclass(found) and "rank" in _fields(found)
    if not (fits and hasattr(found, "init") and hasattr(found, "sweep")):
        raise ConfigError(f'names "{wanted}" of the module {name}, which is no solver: it must be {_SUCH}.')
    return found


def build_solver(solver: type, rank: int, given: dict[str, Any]) -> Any:
    """A solver of the class; real numbers may have been written without a point."""
    real = {key for key, allowed in _allowed(solver).items() if float in allowed and int not in allowed}
    numbers = {key: float(each) for key, each in given.items() if key in real and _is(each, int)}
    return solver(rank=rank, **given | numbers)


def problems_of(solver: type, rank: int, given: dict[str, Any]) -> list[tuple[str, str]]:
    """(key, what is wrong) with the keys of a solver's table, by the fields of its class and by what that says."""
    fields, allowed = _fields(solver), _allowed(solver)
    known = ["kind", "name", *fields]
    found = [
        (key, f"is not known.{did_you_mean(key, known)} Known here: {', '.join(known)}.")
        for key in given
        if key not in fields
    ]
    for key, field in fields.items():
        if key in given:
            if (wanted := _expected(allowed[key], given[key])) is not None:
                found.append((key, f"must be {wanted}, not {json.dumps(given[key], ensure_ascii=False)}."))
        elif key != "rank" and field.default is field.default_factory is dataclasses.MISSING:
            found.append((key, f"is missing: {solver.__name__} needs it."))
    if found:
        return found
    try:
        ready = build_solver(solver, rank, given)
        check_solver(ready)
        traits(ready)
    except Exception as error:  # whatever code of others says to numbers that it did not expect
        return [("kind", f"is refused by {solver.__name__}: {_first_line(error)}")]
    return []


def is_integer(solver: type, key: str) -> bool:
    """Whether a key of the table is one of integers."""
    allowed = _allowed(solver).get(key, set())
    return int in allowed and float not in allowed


@functools.cache
def digest(solver: type) -> str:
    """The SHA-256 of the file that the class is in; "" where there is none."""
    try:
        return hashlib.sha256(Path(inspect.getsourcefile(solver) or "").read_bytes()).hexdigest()
    except (OSError, TypeError):
        return ""


def _fields(solver: type) -> dict[str, dataclasses.Field]:
    return {field.name: field for field in dataclasses.fields(solver) if field.init}


def _allowed(solver: type) -> dict[str, set[Any]]:
    """The types that each field may have; none where neither annotation nor default says so."""
    try:
        hints = typing.get_type_hints(solver)
    except Exception:  # names that are there for type checkers only
        hints = {}
    found = {}
    for name, field in _fields(solver).items():
        types = types_of(hints.get(name, Any))
        if Any in types:
            kind = type(field.default)
            if kind is int and not field.metadata.get("static"):
                kind = float  # 1 for 1.0: what is traced is a real number
            types = {kind} if kind in _WORDS else set()
        found[name] = types
    return found


def _expected(allowed: set[Any], value: Any) -> str | None:
    """What a value has to be, where it is not."""
    options = [each for one in allowed if get_origin(one) is Literal for each in get_args(one)]
    kinds = [kind for kind in _WORDS if kind in allowed]
    if not (options or kinds) or any(_is(value, kind) for kind in kinds):
        return None
    if any(value == option and type(value) is type(option) for option in options):
        return None
    return " or ".join([*(json.dumps(option) for option in options), *(_WORDS[kind] for kind in kinds)])


def _is(value: Any, kind: type) -> bool:
    return type(value) in ((int, float) if kind is float else (kind,))


def _first_line(error: Exception) -> str:
    first = (str(error).splitlines() or [""])[0].rstrip(".:")
    kind = "" if isinstance(error, ValueError) and first else type(error).__name__
    return f"{': '.join(filter(None, [kind, first]))}."
