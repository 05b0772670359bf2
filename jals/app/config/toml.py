"""Reads the text of a config: its tables, or what keeps it from being TOML, and on which line each key stands; and sets
keys of the tables (`--set`, points of a grid)."""

import re
import tomllib
from typing import Any

from ...errors import ConfigError, did_you_mean

Key = tuple[str | int, ...]

_DEEPEST = 8  # no key of a config lies deeper than solver.0.hyper.learning_rate.init_value, which is 5
_WHOLE = range(-(2**63), 2**63)  # what TOML promises of integers
_DIGITS = 19  # of the largest


def parse(text: str, name: str) -> dict[str, Any]:
    """The tables of a text; `name` is what it is called in messages.

    Raises:
        ConfigError: where it is no TOML, naming the line, or TOML that Python cannot read.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        end = "" if "line" in str(error) else f", line {text.count(chr(10)) + 1}"
        raise ConfigError(f"{name} is not valid TOML: {shorten(str(error))}{end}.") from error
    except RecursionError:
        raise ConfigError(f"{name}, line {_deepest(text)}: lists or tables are nested too deep to be read.") from None
    except ValueError:  # Python converts no more than some thousand digits
        long = re.search(rf"[0-9](_?[0-9]){{{_DIGITS},}}", text)
        line = 1 + text.count("\n", 0, long.start()) if long else 1
        raise ConfigError(f"{name}, line {line}: an integer has more digits than TOML's 64 bits hold.") from None


def impossible_values(raw: Any) -> list[tuple[Key, str]]:
    """(key, what is wrong) of integers beyond 64 bits and of nesting deeper than any key. Uses a list instead of
    recursion, whose depth Python limits."""
    found: list[tuple[Key, str]] = []
    left: list[tuple[Key, Any]] = [((), raw)]
    while left:
        key, value = left.pop()
        if isinstance(value, dict | list):
            inner = value.items() if isinstance(value, dict) else enumerate(value)
            if len(key) >= _DEEPEST and value:
                found.append((key, f"is nested {len(key)} deep or more, deeper than any key of a config."))
            else:
                left += [((*key, part), each) for part, each in inner]
        elif isinstance(value, int) and value not in _WHOLE:
            found.append((key, "is an integer beyond the 64 bits that TOML has."))
    return found


def split_key(dotted: str) -> list[str | int]:
    """A key as it is written, taken apart: what counts a table of a list is a number."""
    return [int(part) if part.isdecimal() and len(part) < _DIGITS else part for part in dotted.split(".")]


def format_key(key: Key) -> str:
    """A key put together. What a terminal would act on, or not show, is escaped."""
    dotted = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).removeprefix(".")
    return shorten(dotted)


def shorten(text: str, most: int = 200) -> str:
    """A text for a message: what is not printable escaped, what is long cut."""
    text = text if len(text) <= most else f"{text[:most]}..."
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def lines(text: str) -> dict[Key, int]:
    """The line of every table and key. tomllib keeps no positions; this reads headers and `key =` line by line, which
    is enough to point at a line: keys inside an inline table are found at that table's own."""
    found: dict[Key, int] = {}
    tables: dict[Key, int] = {}  # how many [[table]] headers so far
    table: Key = ()
    for number, line in enumerate(text.split("\n"), start=1):  # TOML knows no other ends of lines
        if header := re.match(r"\s*(\[{1,2})([^\[\]]+)\]", line):
            names = [name.strip(" \"'") for name in header[2].split(".")]
            table = ()
            for depth, name in enumerate(names, start=1):
                table += (name,)
                if header[1] == "[[" and depth == len(names):
                    tables[table] = tables.get(table, -1) + 1
                if table in tables:
                    table += (tables[table],)
            found.setdefault(table, number)
        elif key := re.match(r"\s*([\w\"'.*-]+)\s*=", line):
            found.setdefault(table + tuple(split_key(re.sub("[\"']", "", key[1]))), number)
    return found


def line_of(key: Key, found: dict[Key, int]) -> int:
    """The line of a key, or of the innermost table around it, or the first line."""
    while key and key not in found:
        key = key[:-1]
    return found.get(key, 1)


def apply_change(raw: dict[str, Any], change: str) -> list[Key]:
    """Changes the tables of a file in place, before they are checked; returns the keys."""
    key, equals, value = change.partition("=")
    if not equals or not all(key.strip().split(".")):
        raise ConfigError(f'--set takes KEY=VALUE, such as solver.0.rank=64, not "{shorten(change)}".')
    name = shorten(f"--set {key.strip()}")
    try:
        value = parse(f"value = {value}", name)["value"]
    except ConfigError as error:
        if not isinstance(error.__cause__, tomllib.TOMLDecodeError):
            raise
        value = value.strip()
    try:
        return put(raw, key.strip(), value)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None


def put(raw: dict[str, Any], dotted: str, value: Any) -> list[Key]:
    """Sets a key of the tables of a file in place; returns the keys that it stood for.

    A table of a list is named by its place from 0, by its name (of a solver without one: its kind), or by "*": all.
    """
    *outer, last = names = split_key(dotted)
    places: list[tuple[Key, Any]] = [((), raw)]
    for depth, part in enumerate(outer, start=1):
        inner = []
        for key, table in places:
            if isinstance(part, str) and isinstance(table, dict):
                inner.append(((*key, part), table.setdefault(part, {})))
            elif isinstance(table, list):
                inner += [((*key, place), table[place]) for place in _places(table, part)]
        if not inner:
            near = did_you_mean(part, [each for _, table in places for each in _labels(table) if each])
            raise ConfigError(f"there is no table {format_key(tuple(names[:depth]))} in the file.{near}")
        places = inner
    for _, table in places:
        if not isinstance(table, dict) or isinstance(last, int):
            raise ConfigError(f"{format_key(tuple(names))} is no key of a table.")
        table[last] = value
    return [(*key, last) for key, _ in places]


def _places(tables: list[Any], part: str | int) -> list[int]:
    """The places that a part of a key names in a list of tables."""
    if isinstance(part, int):
        return [part] if part < len(tables) else []
    return [place for place, label in enumerate(_labels(tables)) if part in ("*", label)]


def _labels(tables: Any) -> list[Any]:
    """What the tables of a list are called; of what is no list, none."""
    if not isinstance(tables, list):
        return []
    return [table_name(table) if isinstance(table, dict) else None for table in tables]


def table_name(table: dict[str, Any]) -> Any:
    """What a table of a list is called: by its name, without one by its kind; of a class in a module, by the class."""
    kind = table.get("kind")
    return table.get("name", kind.rpartition(":")[2] if isinstance(kind, str) else kind)


def _deepest(text: str) -> int:
    """The line on which most brackets are open."""
    depth = most = 0
    deepest = 1
    for number, line in enumerate(text.split("\n"), start=1):
        depth += line.count("[") + line.count("{")
        if depth > most:
            most, deepest = depth, number
        depth = max(0, depth - line.count("]") - line.count("}"))
    return deepest
