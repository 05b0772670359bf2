"""Reads a config, and says of a wrong one what is wrong: every problem at once, with its line, its key and the fix."""

import json
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

from ..errors import ConfigError, did_you_mean

try:
    import tomli_w
    from pydantic import ValidationError
except ImportError as missing:
    raise ImportError('configs are checked by the extra "cli": pip install "jals[cli]"') from missing

from .schema import AnySolver, Config, Objective, Split


def load(path: str | Path, changes: Iterable[str] = ()) -> Config:
    """The config in that file, with changes such as "solver.0.rank=64" or "fit.tol=1e-4" (`jals run --set`).

    A change's key counts the tables of a list from 0; its value is read as TOML, or else as text.

    Raises:
        ConfigError: naming every problem of the file at once, each with its line (or --set) and key.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        raw = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a UTF-8 text file: {error}.") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from error
    changed = [_change(raw, change) for change in changes]
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        lines = _lines(text)
        problems = [problem for details in error.errors(include_url=False) for problem in _problems(details)]
        located = sorted(
            (0 if key in changed else _line_of(key, lines), _written(key), message) for key, message in problems
        )
        listing = "".join(
            f"\n  {f'line {line}' if line else '--set'}, {key}: {message}" for line, key, message in located
        )
        raise ConfigError(f"{path} cannot be used:{listing}") from None


def dump(config: Config) -> bytes:
    """The config as a TOML file, every default written out."""
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True)).encode()


Key = tuple[str | int, ...]


def _change(raw: dict[str, Any], change: str) -> Key:
    """Changes the tables of a file in place, before they are checked; returns the key."""
    written, equals, value = change.partition("=")
    *outer, last = key = tuple(_parts(written.strip()))
    if not equals or not all(isinstance(part, int) or part for part in key):
        raise ConfigError(f'--set takes KEY=VALUE, such as solver.0.rank=64, not "{change}".')
    try:
        value = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        value = value.strip()
    at: Any = raw
    for depth, part in enumerate(outer, start=1):
        if isinstance(part, str) and isinstance(at, dict):
            at = at.setdefault(part, {})
        elif isinstance(part, int) and isinstance(at, list) and part < len(at):
            at = at[part]
        else:
            raise ConfigError(f"--set {written}: there is no table {_written(key[:depth])} in the file.")
    if not isinstance(at, dict) or isinstance(last, int):
        raise ConfigError(f"--set {written}: {_written(key)} is no key of a table.")
    at[last] = value
    return key

# The tables that come in kinds, and the key that says which: pydantic puts the kind into an error's path.
_TAGS = {"split": "kind", "objective": "preset", "solver": "kind"}
_KINDS = {
    table: {get_args(model.model_fields[_TAGS[table]].annotation)[0]: model for model in get_args(union)}
    for table, union in {"split": Split, "objective": Objective, "solver": AnySolver}.items()
}
_WANTED = {
    "int_type": "an integer",
    "float_type": "a number",
    "string_type": "a text in quotes",
    "bool_type": "true or false",
    "list_type": "a list of tables: [[solver]], in double brackets",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
}


def _problems(error: Any) -> list[tuple[Key, str]]:
    """One error of pydantic as (key, message) pairs: several where keys cannot stand together."""
    key: Any = error["loc"]
    model: Any = Config
    kinds: dict[str, Any] = {}
    if key and key[0] in _KINDS:
        kinds = _KINDS[key[0]]
        place = 2 if key[0] == "solver" else 1  # of the kind
        if len(key) > place:
            model, key = kinds[key[place]], key[:place] + key[place + 1 :]
    elif len(key) > 1:
        model = Config.model_fields[key[0]].annotation
    context, given = error.get("ctx", {}), error["input"]
    match error["type"]:
        case "conflict":
            return [((*key, *_parts(under)), message) for under, message in context["found"]]
        case "missing":
            return [(key, "is missing.")]
        case "extra_forbidden":
            known = list(model.model_fields)
            elsewhere = [f'"{kind}"' for kind, other in kinds.items() if key[-1] in other.model_fields]
            if elsewhere:
                return [(key, f"goes with {_TAGS[key[0]]} = {' or '.join(elsewhere)} only.")]
            return [(key, f"is not known.{did_you_mean(key[-1], known)} Known here: {', '.join(known)}.")]
        case "union_tag_not_found":
            return [((*key, _TAGS[key[0]]), f"is missing: one of {_quoted(kinds)}.")]
        case "union_tag_invalid":
            return [((*key, _TAGS[key[0]]), _choice(context["tag"], kinds))]
        case "literal_error":
            return [(key, _choice(given, re.findall("'([^']*)'", context["expected"])))]
        case "too_short":
            return [(key, "needs at least one [[solver]] table.")]
        case type if type in _WANTED:
            return [(key, f"must be {_WANTED[type]}, not {_shown(given)}.")]
        case _:
            return [(key, f"{re.sub('^(Input|String) should', 'must', error['msg'])}, not {_shown(given)}.")]


def _choice(given: Any, options: Any) -> str:
    return f"must be one of {_quoted(options)}, not {_shown(given)}.{did_you_mean(given, options)}"


def _quoted(options: Any) -> str:
    return ", ".join(f'"{option}"' for option in options)


def _shown(given: Any) -> str:
    if isinstance(given, dict):
        return "a table"
    return json.dumps(given, default=str, ensure_ascii=False)


def _written(key: Key) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).removeprefix(".")


def _parts(dotted: str) -> list[str | int]:
    return [int(part) if part.isdecimal() else part for part in dotted.split(".")]


def _lines(text: str) -> dict[Key, int]:
    """The line of every table and key. tomllib keeps no positions; this reads headers and `key =` line by line, which
    is enough to point at a line: keys inside an inline table are found at that table's own."""
    lines: dict[Key, int] = {}
    tables: dict[Key, int] = {}  # how many [[table]] headers so far
    table: Key = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*(\[{1,2})([^\[\]]+)\]", line):
            names = [name.strip(" \"'") for name in header[2].split(".")]
            table = ()
            for depth, name in enumerate(names, start=1):
                table += (name,)
                if header[1] == "[[" and depth == len(names):
                    tables[table] = tables.get(table, -1) + 1
                if table in tables:
                    table += (tables[table],)
            lines.setdefault(table, number)
        elif key := re.match(r"\s*([\w\"'.-]+)\s*=", line):
            lines.setdefault(table + tuple(name.strip("\"'") for name in key[1].split(".")), number)
    return lines


def _line_of(key: Key, lines: dict[Key, int]) -> int:
    """The line of a key, or of the innermost table around it, or the first line."""
    while key and key not in lines:
        key = key[:-1]
    return lines.get(key, 1)
