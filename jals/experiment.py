"""The fits of a run as data frames, for analyses that its report does not make."""

import json
import os
from typing import Any, NamedTuple

from .data.sources import as_path
from .errors import check_choice
from .html import Table, brief, draw

_WHICH = ("key", "solver", "fold", "seed", "trial")
_HISTORY = ("sweep", "loss", "seconds", "passes", "operations", "validation")
# Columns that a run has even where no fit fills them; the others have the type of what they hold.
_TYPES = {
    "String": ("key", "solver", "kind", "data", "factors", "reason", "error_message"),
    "Int64": ("fold", "seed", "trial", "rank", "sweeps", "sweep", "program", "error_sweep"),
    "Float64": ("compile_seconds", "loss", "passes", "seconds", "operations", "validation", "stationarity"),
    "Boolean": ("own_minimiser", "converged"),
}
# The same types as pandas has them: those that know a missing value, of numbers that are whole or true too.
_OF_PANDAS = {"String": "string", "Int64": "Int64", "Float64": "float64", "Boolean": "boolean"}
BACKENDS = ("polars", "pandas")


class Loaded(NamedTuple):
    """A run as two data frames, of polars or of pandas; what was not measured, or is not finite, is null.

    Attributes:
        fits: a row a fit, trials and unfinished fits among them, in the order in which they ended. Columns:

            - key; solver (its label); kind (of the config); data (its name); rank; fold; seed; trial (null: none);
            - one called by its key for each axis of the grid: "objective.reg", "solver.*.rank";
            - "tuned." and its key for each number that was tuned: "tuned.hyper.learning_rate";
            - own_minimiser: it minimises something else than the objective, its loss compares with no other;
            - reason (why it ended); error_sweep and error_message (of one that broke down); converged;
            - sweeps: that of the factors kept; loss: theirs, else the last one recorded;
            - passes (over the entries), seconds (of solver work; null unless timed), operations (floating point,
              estimated): the whole fit's;
            - compile_seconds (of its program); program (its place in the record's list of them);
            - train_rmse, train_mae, validation_rmse, ..., test_mae: in the unit of the values;
            - certificate_user, certificate_item, certificate_last_updated (the worst backward errors, dimensionless),
              certificate_unjudged (how many rows could not be judged), certificate_bound,
              certificate_last_updated_required, certificate_passed;
            - stationarity (dimensionless); factors (the file, seen from the run's folder).
        sweeps: a row a record of a fit's history: key, solver, fold, seed, trial; sweep; loss and validation (RMSE of
            the validation part) after it; seconds, passes and operations (as above) up to it.
    """

    fits: Any
    sweeps: Any

    def __repr__(self) -> str:
        """How many rows and columns the frames have."""
        sizes = (f"{name} {len(frame):,} x {len(frame.columns):,}" for name, frame in self._asdict().items())
        return f"Loaded({', '.join(sizes)})"

    def _repr_html_(self) -> str:
        fits: dict[str, list[int]] = {}
        columns = (self.fits[name].to_list() for name in ("solver", "trial", "error_message"))
        for solver, trial, error in zip(*columns, strict=True):
            counts = fits.setdefault(solver, [0, 0, 0])
            counts[0] += 1
            counts[1] += isinstance(trial, int)
            counts[2] += isinstance(error, str)
        rows = [(solver, *map(brief, counts)) for solver, counts in fits.items()]
        note = f".fits has {len(self.fits.columns):,} columns; .sweeps {len(self.sweeps):,} rows, one a record"
        return draw(Table("fits of a run", rows, ("solver", "fits", "of them trials", "broke down"), note))


def load(run: str | os.PathLike, backend: str = "polars") -> Loaded:
    """The fits of a run and their histories, from the folder that `jals run` made.

    Args:
        run: the folder.
        backend: whose data frames: "polars", or "pandas", whose columns then are "string", "Int64", "float64" and
            "boolean", with `pandas.NA` for null (NaN in those of float64).

    Raises:
        StorageError: when it is not the folder of a run, or damaged; ArgumentError: for another backend; ImportError:
            without the extra `cli`, or pandas.
    """
    from .files.runs import folder

    check_choice("backend", backend, BACKENDS)
    fits = folder.read(as_path(run), factors=False).all
    records = [
        {name: getattr(fit, name) for name in _WHICH} | {name: of[place] for name, of in fit.history.columns().items()}
        for fit in fits
        for place in range(len(fit.history.sweep))
    ]
    columns = _columns([_row(fit) for fit in fits], _ALWAYS), _columns(records, (*_WHICH, *_HISTORY))
    return Loaded(*map(_of_pandas if backend == "pandas" else _of_polars, columns))


_ALWAYS = (
    *("key", "solver", "kind", "data", "rank", "fold", "seed", "trial", "own_minimiser", "reason", "error_sweep"),
    *("error_message", "converged", "sweeps", "loss", "passes", "seconds", "operations", "compile_seconds", "program"),
    *("stationarity", "factors"),
)


def _row(fit: Any) -> dict[str, Any]:
    """One fit, laid flat."""
    error, proof = fit.error, {} if fit.certificate is None else fit.certificate.json()
    stationarity = proof.pop("stationarity", None)
    return {
        **{name: getattr(fit, name) for name in ("key", "solver", "kind", "data", "rank", "fold", "seed", "trial")},
        **fit.point,
        **{f"tuned.{key}": number for key, number in fit.tuned.items()},
        **{name: getattr(fit, name) for name in ("own_minimiser", "reason")},
        **{f"error_{name}": None if error is None else getattr(error, name) for name in ("sweep", "message")},
        **{name: getattr(fit, name) for name in ("converged", "sweeps")},
        "loss": fit.kept_loss(),
        **{name: fit.history.last(name) for name in ("passes", "seconds", "operations")},
        **{name: getattr(fit, name) for name in ("compile_seconds", "program")},
        **{f"{part}_{name}": of for part, each in (fit.metrics or {}).items() for name, of in each.items()},
        **{f"certificate_{name}": of for name, of in proof.items()},
        "stationarity": stationarity,
        "factors": fit.factors,
    }


def _columns(rows: list[dict], always: tuple[str, ...]) -> dict[str, tuple[list, str]]:
    """(values, type) of what the rows hold by name, and of columns that are always there; None where a row has
    nothing."""
    fixed = {name: kind for kind, names in _TYPES.items() for name in names}
    found = {}
    for name in _merged([list(always), *map(list, rows)]):
        values = [row.get(name) for row in rows]
        found[name] = (values, fixed[name]) if name in fixed else _typed(values)
    return found


def _of_polars(columns: dict[str, tuple[list, str]]) -> Any:
    from .data.frames import polars

    pl = polars()
    return pl.DataFrame([pl.Series(name, of, getattr(pl, kind), strict=False) for name, (of, kind) in columns.items()])


def _of_pandas(columns: dict[str, tuple[list, str]]) -> Any:
    try:
        import pandas as pd
    except ImportError as missing:
        raise ImportError('backend="pandas" needs pandas: pip install pandas') from missing
    return pd.DataFrame({name: pd.Series(of, dtype=_OF_PANDAS[kind]) for name, (of, kind) in columns.items()})


def _merged(orders: list[list[str]]) -> list[str]:
    """All names once; one that only some rows have stands behind the one it follows there."""
    merged: list[str] = []
    for order in map(list, dict.fromkeys(map(tuple, orders))):
        place = 0
        for name in order:
            if name in merged:
                place = merged.index(name) + 1
            else:
                merged.insert(place, name)
                place += 1
    return merged


def _typed(values: list) -> tuple[list, str]:
    """The values, and a type that holds all of them: what a grid mixes becomes text."""
    kinds = {type(value) for value in values} - {type(None)}
    for held, kind in (({bool}, "Boolean"), ({int}, "Int64"), ({int, float}, "Float64"), ({str}, "String")):
        if kinds <= held:
            return values, kind if kinds else "Float64"
    return [each if each is None or isinstance(each, str) else json.dumps(each) for each in values], "String"
