"""Reads a config, and says of a wrong one what is wrong: every problem at once, with its line, its key and the fix."""

import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

from ...data.sources import as_path
from ...errors import ConfigError, StorageError, did_you_mean
from ...files.runs import folder
from ...files.runs.record import RunRecord

try:
    import tomli_w
    from pydantic import ValidationError
except ImportError as missing:
    raise ImportError('configs are checked by the extra "cli": pip install "jals[cli]"') from missing

from . import toml, trials, user_solvers
from .base import MOST_FITS
from .baselines import AnyBaseline
from .presets import AnyObjective
from .schema import Config, ProcessesConfig
from .solvers import KINDS
from .splits import AnySplit, GivenPart, KFoldSplit
from .toml import Key


def load(path: str | Path, changes: Iterable[str] = (), classes: bool = True) -> Config:
    """The config in that file, with changes such as "solver.0.rank=64" or "fit.tol=1e-4" (`jals run --set`).

    A change's key counts the tables of a list from 0; its value is read as TOML, or else as text.

    Args:
        classes: whether solvers are made, and so those that are classes of the user's imported. Not for a config whose
            run is only read.

    Raises:
        ConfigError: naming every problem of the file at once, each with its line (or --set) and key.
    """
    try:
        text = as_path(path).read_text(encoding="utf-8-sig")  # as editors on Windows save it
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        line = 1 + error.object.count(b"\n", 0, error.start)
        raise ConfigError(f"{path} is not a UTF-8 text file: line {line}: {error}.") from error
    raw = toml.parse(text, str(path))
    changed = [key for change in changes for key in toml.apply_change(raw, change)]
    config, problems = None, toml.impossible_values(raw)
    if not problems:
        try:
            config = Config.model_validate(raw)
            with user_solvers.importable_from(as_path(path).parent):
                problems = _problems_of_size(config) or _problems_of_axes(config)
                if classes and not problems:  # these make solvers
                    problems = _problems_of_classes(config)
                    problems = problems or _problems_of_points(config) or _problems_of_method(config)
        except ValidationError as error:
            problems = [problem for details in error.errors(include_url=False) for problem in _problems(details)]
    if config is None or problems:
        raise ConfigError(_listed(path, list(dict.fromkeys(problems)), changed, toml.lines(text)))
    return config


def at(config: Config, values: dict[str, Any]) -> Config:
    """The config with other values at some keys, as grids and tuning name them; without its grid.

    Raises:
        pydantic.ValidationError, ConfigError: when it cannot be used.
    """
    raw = config.model_dump(exclude_unset=True, exclude={"grid"})
    for table, solver in zip(raw["solver"], config.solver, strict=True):
        for key, inner in solver.inner.items():
            table.setdefault(key, inner)
    for key, value in values.items():
        toml.put(raw, key, value)
    return Config.model_validate(raw)


def points(config: Config) -> Iterator[dict[str, Any]]:
    """Every combination of the values of the grid's axes; one without any where there is no grid."""
    for values in itertools.product(*config.grid.values()):
        yield dict(zip(config.grid, values, strict=True))


def count_studies(config: Config, place: int) -> int:
    """How many studies a solver has: the points of the axes that have to do with it, times folds."""
    axes = [
        axis for axis in config.grid if axis not in ("split.kind", "split.folds") and applies_to(axis, config, place)
    ]
    kinds = config.grid.get("split.kind", [config.split.kind])
    folds = config.grid.get("split.folds", [getattr(config.split, "folds", KFoldSplit.model_fields["folds"].default)])
    of_kfold = sum(each for each in folds if isinstance(each, int))
    per_point = sum(of_kfold if kind == "kfold" else 1 for kind in kinds)
    return math.prod(len(config.grid[axis]) for axis in axes) * per_point


def _problems_of_classes(config: Config) -> list[tuple[Key, str]]:
    found = ((place, *each) for place, solver in enumerate(config.solver) for each in solver.misfits())
    return [(("solver", place, *toml.split_key(key)), why) for place, key, why in found]


def _problems_of_size(config: Config) -> list[tuple[Key, str]]:
    """More fits than a run may have: refused before any is expanded."""
    trials = 0 if config.tune is None else 1 if config.tune.method == "hypergradient" else config.tune.trials
    tuned = [
        any(applies_to(key, config, place) for key in config.tune.range) if config.tune else False
        for place in range(len(config.solver))
    ]
    fits = sum(count_studies(config, place) * (len(config.seeds) + trials * each) for place, each in enumerate(tuned))
    points = math.prod(map(len, config.grid.values()))
    if max(fits, points) <= MOST_FITS:
        return []
    counts = {
        ("grid",): points,
        ("split", "folds"): getattr(config.split, "folds", 1),
        ("solver",): len(config.solver),
        ("fit", "seeds"): len(config.seeds),
        ("tune", "trials"): trials,
    }
    most = max(counts, key=lambda key: counts[key])
    return [(most, f"makes {max(fits, points):,} fits in all, more than the {MOST_FITS:,} that one run may have.")]


def _problems_of_axes(config: Config) -> list[tuple[Key, str]]:
    """Keys of the grid and of the tuning's ranges that hold for the whole run, or that two of them mean."""
    axes: list[tuple[Key, str]] = [(("grid",), key) for key in config.grid]
    axes += [(("tune", "range"), key) for key in (config.tune.range if config.tune else ())]
    found: list[tuple[Key, str]] = []
    for table, key in axes:
        of_solver = key.startswith("solver.")
        if why := _NO_AXES.get(key.rpartition(".")[2] if of_solver else key):
            found.append(((*table, *toml.split_key(key)), why))
    for place, solver in enumerate(config.solver):
        meant: dict[tuple, str] = {}
        for table, key in axes:
            if applies_to(key, config, place):
                first, *rest = toml.split_key(key)
                other = meant.setdefault(tuple(rest[1:]) if first == "solver" else (first, *rest), key)
                if other != key:
                    same = f'is the same key of solver {solver.label} as "{other}": choose one of the two.'
                    found.append(((*table, *toml.split_key(key)), same))
    return found


# How the work is shared out, and kept: results are the same, up to rounding.
WITHOUT_EFFECT: Any = {"fit": {"devices", "exchange"}, "processes": True, "checkpoint": True}

_NO_AXES = {
    **dict.fromkeys(("fit.devices", "fit.exchange"), "is no axis: it decides no result."),
    **dict.fromkeys(("fit.seed", "fit.seeds"), "is no axis: list the seeds in fit.seeds."),
    **dict.fromkeys(("fit.timed", "fit.loop", "fit.metric"), "is no axis: it holds for the whole run."),
    **dict.fromkeys(("name", "kind"), "is no axis: it tells solvers apart. Write another [[solver]]."),
}


def _problems_of_points(config: Config) -> list[tuple[Key, str]]:
    """What is wrong with the first point of the grid, or end of the tuning's ranges, that cannot be used."""
    ranges = config.tune.range.items() if config.tune else ()
    tried = [(("grid",), point) for point in points(config)]
    tried += [(("tune", "range"), {key: between[end] for key, between in ranges}) for end in (0, 1) if ranges]
    for table, values in tried:
        if problem := _problem_at(config, values):
            alone = [key for key in values if _problem_at(config, {key: values[key]}) == problem]
            said = ", ".join(f"{toml.shorten(key)} = {_shown(values[key])}" for key in alone[:1] or values)
            return [((*table, *(toml.split_key(alone[0]) if alone else ())), f"{said} cannot be used: {problem}")]
    return []


def _problems_of_method(config: Config) -> list[tuple[Key, str]]:
    """A grid whose trials are no power of its ranges, and solvers that cannot be differentiated."""
    tune, found = config.tune, []
    for place, solver in enumerate(config.solver if tune else ()):
        ranges = sum(applies_to(key, config, place) for key in tune.range)
        if tune.method == "grid" and ranges and not trials.points_of_range(tune.trials, ranges):
            found.append((("tune", "trials"), trials.uneven_grid(tune.trials, ranges, solver.label)))
    for point in points(config) if tune and tune.method == "hypergradient" else ():
        for place, solver in enumerate(at(config, point).solver):
            if why := trials.why_no_descent(solver):
                found.append((("solver", place, solver.method[0]), why))
    return found


def _problem_at(config: Config, values: dict[str, Any]) -> str | None:
    try:
        for key, message in _problems_of_classes(at(config, values)):
            return f"{toml.format_key(key)}: {message}"
    except ConfigError as error:
        return str(error)
    except ValidationError as error:
        key, message = _problems(error.errors(include_url=False)[0])[0]
        return f"{toml.format_key(key)}: {message}"
    return None


def _listed(path: Any, problems: list[tuple[Key, str]], changed: list[Key], lines: dict[Key, int]) -> str:
    """The message that lists them, in the order of the file."""
    located = sorted(
        (0 if key in changed else toml.line_of(key, lines), toml.format_key(key), message) for key, message in problems
    )
    listing = "".join(f"\n  {f'line {line}' if line else '--set'}, {key}: {message}" for line, key, message in located)
    return f"{path} cannot be used:{listing}"


def dump(config: Config) -> bytes:
    """The config as a TOML file, every default written out."""
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True)).encode()


def tables(config: Config) -> dict[str, Any]:
    """The config as tables, defaults written out: what the record of its run holds of it."""
    return config.model_dump(mode="json", exclude_none=True)


def decisive(config: Config) -> dict[str, Any]:
    """The same without what decides no result: the question, and where the output goes."""
    apart: Any = {"question": True, "output": {"folder", "factors", "certificate", "reference"}} | WITHOUT_EFFECT
    return config.model_dump(mode="json", exclude_none=True, exclude=apart)


def on_one_device(config: Config) -> Config:
    """The same fits made by one device, in one process: what looks at a run needs no others."""
    fit = config.fit.model_copy(update={"devices": None, "exchange": "auto"})
    return config.model_copy(update={"fit": fit, "processes": ProcessesConfig()})


def config_of_run(run: RunRecord, place: Path) -> Config:
    """The config of a run that was made, from its record; keys that it does not know have their defaults.

    Raises:
        StorageError: when it is none.
    """
    try:
        return Config.model_validate(run.config)
    except ValidationError as error:
        key, why = next(problem for details in error.errors(include_url=False) for problem in _problems(details))
        where = ".".join(map(str, ("config", *key)))
        raise StorageError(f"{place / folder.RESULT} is damaged: {where} {why}") from error


def applies_to(key: str, config: Config, solver: int) -> bool:
    """Whether a key of a grid or of the tuning has anything to do with the solver of that place."""
    table, *rest = toml.split_key(key)
    if table != "solver":
        return True
    return rest[0] in ("*", solver, config.solver[solver].label)


# The tables that come in kinds, and the key that says which: pydantic puts the kind into an error's path.
_TAGS = {"split": "kind", "objective": "preset", "solver": "kind", "baseline": "kind"}
_KINDS: dict[str, dict[str, Any]] = {
    table: {get_args(model.model_fields[_TAGS[table]].annotation)[0]: model for model in get_args(union)}
    for table, union in {
        "split": AnySplit,
        "objective": AnyObjective,
        "baseline": get_args(AnyBaseline)[0],
    }.items()
} | {"solver": KINDS}
_LISTS = ("solver", "baseline")  # of tables
_WANTED = {
    "int_type": "an integer",
    "float_type": "a number",
    "string_type": "a text in quotes",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
}
_PATTERNS = {  # in words
    ("data", "path"): "must be a path, in which no system has the character NUL",
    ("output", "folder"): "must be a path, in which no system has the character NUL",
    ("solver", "kind"): 'must be a module and a class in it, such as "my_solvers:DampedALS"',
    ("data", "delimiter"): 'must be "::" or one ASCII character, not a quote',
}


def _problems(error: Any) -> list[tuple[Key, str]]:
    """One error of pydantic as (key, message) pairs: several where keys cannot stand together."""
    key: Any = error["loc"]
    model: Any = Config
    kinds: dict[str, Any] = {}
    if key and key[0] in _KINDS:
        kinds = _KINDS[key[0]]
        place = 2 if key[0] in _LISTS else 1  # of the kind
        if len(key) > place:
            model, key = kinds[key[place]], key[:place] + key[place + 1 :]
        if key[0] == "split" and len(key) > 2:
            model, kinds = GivenPart, {}
    elif key[:1] == ("grid",) or key[:2] == ("tune", "range"):
        return _problems_of_axis(error)
    elif key[:1] == ("data",) and len(key) > 2:  # pydantic reports one error for each type that it may have
        if key[1] == "ids":
            return [(key[:2], 'must be "auto", "int" or "str", or a pair of these: for users, for items.')]
        none = ", or false" if key[1] in ("value", "time", "weight") else ""
        return [(key[:2], f"must be a column's name, or its place counted from 0{none}, not {_shown(error['input'])}.")]
    elif len(key) > 1:
        annotation = Config.model_fields[key[0]].annotation
        model = next(each for each in (annotation, *get_args(annotation)) if hasattr(each, "model_fields"))
    context, given = error.get("ctx", {}), error["input"]
    match error["type"]:
        case "conflict":
            return [((*key, *toml.split_key(under)), message) for under, message in context["found"]]
        case "missing":
            return [(key, "is missing.")]
        case "extra_forbidden":
            known = list(model.model_fields)
            elsewhere = [f'"{kind}"' for kind, other in kinds.items() if key[-1] in other.model_fields]
            if elsewhere:
                return [(key, f"goes with {_TAGS[key[0]]} = {' or '.join(elsewhere)} only.")]
            return [(key, f"is not known.{did_you_mean(key[-1], known)} Known here: {', '.join(known)}.")]
        case "union_tag_not_found" if not isinstance(given, dict):
            return [(key, f"must be a table, not {_shown(given)}.")]
        case "union_tag_not_found":
            return [((*key, _TAGS[key[0]]), f"is missing: one of {_quoted(kinds)}.")]
        case "union_tag_invalid":
            return [((*key, _TAGS[key[0]]), _choice(given[_TAGS[key[0]]], kinds))]
        case "metric":
            return [(key, error["msg"])]
        case "literal_error":
            return [(key, _choice(given, re.findall("'([^']*)'", context["expected"])))]
        case "too_short":
            return [(key, f"needs at least one {'[[solver]] table' if key == ('solver',) else 'value'}.")]
        case "too_long":
            return [(key, f"has more than {context['max_length']:,} values.")]
        case "string_pattern_mismatch" if (key[0], key[-1]) in _PATTERNS:
            return [(key, f"{_PATTERNS[key[0], key[-1]]}, not {_shown(given)}.")]
        case "list_type" if key in (("solver",), ("baseline",)):
            return [(key, f"must be a list of tables: [[{key[0]}]], in double brackets, not {_shown(given)}.")]
        case "float_type" if isinstance(given, dict):
            return [(key, "must be a number, or a table of a schedule and its numbers.")]
        case type if type in _WANTED:
            return [(key, f"must be {_WANTED[type]}, not {_shown(given)}.")]
        case _:
            return [(key, f"{re.sub('^(Input|String) should', 'must', error['msg'])}, not {_shown(given)}.")]


def _problems_of_axis(error: Any) -> list[tuple[Key, str]]:
    """One error of pydantic about an axis of the grid, or a range of the tuning."""
    many = error["loc"][0] == "grid"
    table, axis = error["loc"][: 1 if many else 2], error["loc"][1 if many else 2 :]
    if not axis:
        such = '"objective.reg" = [0.05, 0.1]' if many else '"solver.sgd.hyper.learning_rate" = [1e-4, 1.0]'
        return [(table, f"must be a table such as {{ {such} }}.")]
    first, *rest = axis[0].split(".")
    key, given = (*table, *toml.split_key(axis[0])), _shown(error["input"])
    if axis[-1] == "[key]":
        tables = ["data", "split", "problem", "objective", "score", "fit"] if many else ["objective", "score"]
        if first in (*tables, "solver") and not rest:
            return [(key, 'is a table: put the whole key in quotes, as in "solver.als.init_scale".')]
        names = ", ".join(tables)
        near = "" if first == "solver" else did_you_mean(first, [*tables, "solver"])
        return [(key, f'is no key of a table of {names} or solver.NAME, as "solver.als.init_scale" is.{near}')]
    if not rest:
        return []  # its key has been refused
    if not many:
        least = "" if trials.is_signed(axis[0]) else " > 0"
        return [(key, f"must be [low, high], two numbers{least}, not {given}.")]
    if len(axis) > 1 and error["type"] != "too_short":
        return [(key, f"must hold numbers, texts, true or false, not {given}.")]
    return [(key, f"must be a list of values, not {given}.")]


def _choice(given: Any, options: Any) -> str:
    return f"must be one of {_quoted(options)}, not {_shown(given)}.{did_you_mean(given, options)}"


def _quoted(options: Any) -> str:
    return ", ".join(f'"{option}"' for option in options)


def _shown(given: Any) -> str:
    if isinstance(given, dict):
        return "a table"
    return toml.shorten(json.dumps(given, default=str, ensure_ascii=False))
