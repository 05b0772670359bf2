"""The schema of a config, one TOML file an experiment:

    [data]       source = "movielens-latest-small"  or  path = "ratings.csv", user = "userId", item = "movieId", ...
    [split]      kind = "random", test_fraction = 0.1, seed = 0  or "by_user", "leave_last_out", "kfold"
    [problem]    layout = "bucketed"
    [objective]  preset = "als_wr", reg = 0.05, bias = true, center = true
    [[solver]]   kind = "als", rank = 32, linsolve = "cholesky"         (one table for each solver to compare)
    [[solver]]   kind = "gradient", rank = 32, optimizer = "adam", hyper = { learning_rate = 0.01 }
    [tune]       what a script under experiments/ chooses inside the training part, and how
    [fit]        sweeps = 15, seed = 0, dtype = "float32"
    [output]     folder = "runs/name"

Nothing here reads data: a config checks on a machine without it. `jals.app.config.load` reads one from a file.
"""

import inspect
import math
from collections import Counter
from typing import Annotated, Any, Literal

import optax
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, model_validator
from pydantic_core import PydanticCustomError

import jals

from .. import datasets
from ..errors import did_you_mean

Seed = Annotated[int, Field(ge=0, lt=2**32)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Number = Annotated[float, Field(ge=0)]
OPTIMIZERS = {  # by signature, so that an optimizer optax gains tomorrow is known without a change here
    name: tuple(inspect.signature(function).parameters)
    for name, function in vars(optax).items()
    if inspect.isfunction(function) and "learning_rate" in inspect.signature(function).parameters
    if not name.startswith("scale_by")
}


class Table(BaseModel):
    """A table of the file: no key but those declared, no conversion between types, no nan or inf."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    def conflicts(self) -> list[tuple[str, str]]:
        """(key, what is wrong) for keys that are right one by one but cannot stand together."""
        return []

    @model_validator(mode="after")
    def _no_conflicts(self):
        if found := self.conflicts():
            raise PydanticCustomError("conflict", "keys that cannot stand together", {"found": found})
        return self


Column = str | Annotated[int, Field(ge=0)]  # a name, or a place counted from 0


class Data(Table):
    """A named data set; or a file, or a folder of GroupLens, with what `jals.read_ratings` needs to be told of it."""

    source: datasets.Name | None = None
    path: Annotated[str, Field(min_length=1)] | None = None
    user: Column | None = None
    item: Column | None = None
    value: Column | Literal[False] | None = None  # false: none, every value is 1
    time: Column | Literal[False] | None = None
    weight: Column | Literal[False] | None = None
    delimiter: Annotated[str, Field(min_length=1)] | None = None
    header: bool | None = None
    ids: Literal["auto", "int", "str"] = "auto"
    duplicates: Literal["error", "last", "mean", "sum"] = "error"

    def reading(self) -> dict[str, Any]:
        """The arguments for `jals.read_ratings` besides the path."""
        return self.model_dump(exclude={"source", "path"}, exclude_defaults=True)

    def conflicts(self):
        if self.source and self.path:
            return [("path", "stands beside source: give one of the two.")]
        if not (self.source or self.path):
            return [("source", "is missing, and so is path: name a data set, or a file of ratings.")]
        if self.source:
            return [(key, "goes with path only: the named data sets are read as they are.") for key in self.reading()]
        return []


class RandomSplit(Table):
    kind: Literal["random"]
    test_fraction: Fraction = 0.1
    validation_fraction: Fraction | None = None  # of what is left for training
    seed: Seed = 0


class KFoldSplit(Table):
    kind: Literal["kfold"]
    folds: Annotated[int, Field(ge=2)] = 5
    validation_fraction: Fraction | None = None
    seed: Seed = 0


class ByUserSplit(Table):
    kind: Literal["by_user"]
    test_fraction: Fraction = 0.1
    validation_fraction: Fraction | None = None
    seed: Seed = 0


class LeaveLastOutSplit(Table):
    kind: Literal["leave_last_out"]
    count: Annotated[int, Field(ge=1)] = 1  # of each user's entries, the latest
    validation_fraction: Fraction | None = None
    seed: Seed = 0  # of the validation part


class Problem(Table):
    layout: Literal["bucketed", "padded", "segmented"] = "bucketed"


class Preset(Table):
    """What every preset takes: one lambda, or one a side."""

    preset: str
    reg: Number | None = None
    reg_user: Number | None = None
    reg_item: Number | None = None

    def conflicts(self):
        given = [key for key in ("reg_user", "reg_item") if getattr(self, key) is not None]
        if self.reg is not None:
            return [(key, "stands beside reg: give reg, or reg_user and reg_item.") for key in given]
        if len(given) < 2:
            return [("reg", "is missing: give reg, or both reg_user and reg_item.")]
        return []

    def build(self) -> jals.Objective:
        return getattr(jals, self.preset)(**self.model_dump(exclude={"preset"}, exclude_none=True))


class Biased(Preset):
    """Presets without a term over all pairs: only these can have biases and a mean."""

    reg_bias: Number | None = None
    bias: bool = False
    center: bool = False

    def conflicts(self):
        unused = self.reg_bias is not None and not self.bias
        return super().conflicts() + ([("reg_bias", "needs bias = true.")] if unused else [])


class Explicit(Biased):
    preset: Literal["explicit"]


class AlsWr(Biased):
    preset: Literal["als_wr"]
    reg_power: Number = 1.0


class HuKoren(Preset):
    preset: Literal["hu_koren"]
    alpha: Number = 1.0


class Ials(Preset):
    preset: Literal["ials"]
    unobserved_weight: Number
    reg_power: Number = 1.0


class Solver(Table):
    """What every solver takes. The name labels its row in the table and its factors file."""

    kind: str
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] | None = None
    rank: Annotated[int, Field(ge=1)]

    @property
    def label(self) -> str:
        return self.name or self.kind


class AlsSolver(Solver):
    kind: Literal["als"]
    linsolve: Literal["cholesky", "lu", "cg"] = "cholesky"
    cg_steps: Annotated[int, Field(ge=1)] | None = None
    init_scale: Number | None = None

    def conflicts(self):
        unused = self.cg_steps is not None and self.linsolve != "cg"
        return [("cg_steps", 'needs linsolve = "cg".')] if unused else []

    def build(self) -> jals.ALS:
        return jals.ALS(**self.model_dump(include={"rank", "linsolve", "cg_steps", "init_scale"}, exclude_none=True))


def _number(value):
    """A number, whole or not, or a switch: optimizers take all three."""
    if not isinstance(value, bool | int | float) or not math.isfinite(value):
        raise PydanticCustomError("float_type", "must be a finite number")
    return value


class GradientSolver(Solver):
    kind: Literal["gradient"]
    optimizer: str = "adam"
    hyper: dict[str, Annotated[Any, PlainValidator(_number)]] = {"learning_rate": 1e-2}
    batch_size: Annotated[int, Field(ge=1)] | None = None
    init_scale: Number | None = None

    def conflicts(self):
        if self.optimizer not in OPTIMIZERS:
            near = did_you_mean(self.optimizer, OPTIMIZERS)
            return [("optimizer", f'is "{self.optimizer}", unknown to optax.{near} Known: {", ".join(OPTIMIZERS)}.')]
        known = OPTIMIZERS[self.optimizer]
        return [
            (f"hyper.{key}", f"is not an argument of optax.{self.optimizer}.{did_you_mean(key, known)}")
            for key in self.hyper
            if key not in known
        ]

    def build(self) -> jals.Gradient:
        optimizer = getattr(optax, self.optimizer)
        given = self.model_dump(include={"rank", "hyper", "batch_size", "init_scale"}, exclude_none=True)
        return jals.Gradient(optimizer=optimizer, **given)


class Fit(Table):
    sweeps: Annotated[int, Field(ge=1)] = 15
    tol: Annotated[float, Field(gt=0)] | None = None
    patience: Annotated[int, Field(ge=1)] | None = None
    loss_every: Annotated[int, Field(ge=0)] = 1
    seed: Seed = 0
    dtype: Literal["float32", "float64"] = "float32"

    def conflicts(self):
        blind = self.tol is not None and self.loss_every == 0
        return [("tol", "needs the loss, but loss_every = 0 turns it off.")] if blind else []


class Tune(Table):
    """How numbers are chosen inside the training part, by the script that reads the config (`jals run` refuses it)."""

    seed: Seed = 0
    inner_folds: Annotated[int, Field(ge=2)]
    search_folds: Annotated[int, Field(ge=1)]
    rounds: Annotated[int, Field(ge=1)]
    trials: Annotated[int, Field(ge=1)]
    finalists: Annotated[int, Field(ge=2)]
    ranks: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]
    range: dict[
        Annotated[str, Field(pattern=r"^(objective|solver)\.[a-z_]+$")],
        Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=2, max_length=2)],
    ]

    def conflicts(self):
        wrong = [("search_folds", "exceeds inner_folds.")] if self.search_folds > self.inner_folds else []
        return wrong + [
            (f"range.{key}", "must be [low, high] with low < high.")
            for key, (low, high) in self.range.items()
            if not low < high
        ]


class Output(Table):
    folder: Annotated[str, Field(min_length=1)] | None = None  # default: runs/ and the config's own name


Split = RandomSplit | KFoldSplit | ByUserSplit | LeaveLastOutSplit
Objective = Explicit | AlsWr | HuKoren | Ials
AnySolver = AlsSolver | GradientSolver


class Config(Table):
    """The whole file."""

    data: Data
    split: Annotated[Split, Field(discriminator="kind")]
    problem: Problem = Problem()
    objective: Annotated[Objective, Field(discriminator="preset")]
    solver: Annotated[list[Annotated[AnySolver, Field(discriminator="kind")]], Field(min_length=1)]
    fit: Fit = Fit()
    tune: Tune | None = None
    output: Output = Output()

    def conflicts(self):
        found = []
        if self.fit.patience is not None and self.split.validation_fraction is None:
            found.append(("fit.patience", "needs split.validation_fraction: stopping on the test set would spoil it."))
        times = Counter(solver.label for solver in self.solver)
        for place, solver in enumerate(self.solver):
            if times[solver.label] > 1:
                found.append((f"solver.{place}.name", f'two solvers are called "{solver.label}": name each.'))
        return found
