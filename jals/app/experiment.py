"""What fits learn from, and what they have to show: data, folds and problems; metrics and certificates."""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

import jals

from .. import datasets
from ..solvers.costs import Size
from ..solvers.protocol import traits
from .record import Proof, finite
from .schema import Config
from .solvers import Solver


class Fold(NamedTuple):
    """One split of the data; `number` is None where there is only one, `data_hash` is that of the training part."""

    number: int | None
    train: jals.Ratings
    validation: jals.Ratings | None
    test: jals.Ratings
    data_hash: str


class Table:
    """What fits with equal `Planned.table()` learn from: the data, its folds, and the problem of each.

    Attributes:
        masked: whether the folds are weight masks on one problem, so that one program fits all of them. (A fit by
            itself learns from a problem of its fold alone, where no padding is wasted on what is held out.)
    """

    def __init__(self, config: Config, data: datasets.Dataset):
        self.data, self.hash = data, data.ratings.data_hash()
        self.folds = {fold.number: fold for fold in folds(config, data.ratings)}
        self.masked = config.split.kind == "kfold" and not config.timed and config.problem.missing == "skipped"
        self._config = config.problem
        self._built: tuple[Any, jals.Problem] | None = None  # the latest: tables are large

    def problem(self, number: int | None) -> jals.Problem:
        """The problem of a fold: its training entries, and no others of weight > 0."""
        if not self.masked:
            return self._problem(number)
        whole = self.whole()
        return whole.with_values(whole.value, weight=self.mask(number))

    def whole(self) -> jals.Problem:
        """The problem with every entry, on which the folds are masks."""
        return self._problem("whole")

    def mask(self, number: int | None) -> np.ndarray:
        """The weight of every entry where all but a fold's training entries are held out."""
        ratings, train = self.data.ratings, self.folds[number].train
        weight = np.ones_like(ratings.value) if ratings.weight is None else ratings.weight
        pair, of_train = (part.user * np.int64(part.num_items) + part.item for part in (ratings, train))
        return np.where(np.isin(pair, of_train), weight, 0).astype(weight.dtype)

    def size(self, number: int | None) -> Size:
        train = self.folds[number].train
        zeros = self._config.missing == "zeros"
        return Size(train.num_users, train.num_items, train.num_users * train.num_items if zeros else len(train))

    def _problem(self, which: Any) -> jals.Problem:
        if self._built is None or self._built[0] != which:
            self._built = None  # let go of the one before
            ratings = self.data.ratings if which == "whole" else self.folds[which].train
            if self._config.missing == "zeros":
                ratings = with_zeros(ratings)
            self._built = which, jals.Problem.build(ratings, layout=self._config.layout)
        return self._built[1]


def with_zeros(ratings: jals.Ratings) -> jals.Ratings:
    """The table with an entry of value 0 and weight 1 for every missing pair: what ALS must not read."""
    value = np.zeros((ratings.num_users, ratings.num_items), ratings.value.dtype)
    value[ratings.user, ratings.item] = ratings.value
    weight = None
    if ratings.weight is not None:
        weight = np.ones_like(value)
        weight[ratings.user, ratings.item] = ratings.weight
        weight = weight.ravel()
    user, item = (ids.ravel() for ids in np.indices(value.shape))
    return jals.Ratings.from_arrays(user, item, value.ravel(), *value.shape, weight=weight)


def read_data(config: Config) -> datasets.Dataset:
    """The data set in the dtype of the fit: float64 needs jax's switch, which only a program may touch."""
    jax.config.update("jax_enable_x64", config.fit.dtype == "float64")
    source = config.data
    named = source.source
    data = datasets.load(named) if named else opened(source.path or "", **source.reading())
    ratings = data.ratings
    columns = {"value": ratings.value, "weight": ratings.weight}
    cast = {name: None if column is None else column.astype(config.fit.dtype) for name, column in columns.items()}
    return data._replace(ratings=dataclasses.replace(ratings, **cast))


def opened(path: str, **reading: Any) -> datasets.Dataset:
    """A file of ratings (`reading` as for `jals.read_ratings`), or an unpacked folder of GroupLens."""
    found = datasets.located(path)
    return datasets.movielens(found) if found.is_dir() else datasets.from_file(found, **reading)


def folds(config: Config, ratings: jals.Ratings) -> Iterator[Fold]:
    """Every split of the data."""
    split = config.split
    match split.kind:
        case "random":
            pairs = [(None, jals.split.random(ratings, split.test_fraction, split.seed))]
        case "by_user":
            pairs = [(None, jals.split.by_user(ratings, split.test_fraction, split.seed))]
        case "leave_last_out":
            pairs = [(None, jals.split.leave_last_out(ratings, split.count))]
        case "kfold":
            pairs = enumerate(jals.split.kfold(ratings, split.folds, split.seed))
    for number, (train, test) in pairs:
        validation = None
        if split.validation_fraction is not None:
            train, validation = jals.split.random(train, split.validation_fraction, split.seed)
        yield Fold(number, train, validation, test, train.data_hash())


def certificate(config: Config, factors: Any, problem: jals.Problem) -> jals.Certificate:
    """The certificate of one fit. A fresh update must always meet the bound, so one is made exactly where the solver
    is not."""
    made = config.solver[0].build()
    judge = made if traits(made).exact else None
    return jals.certify(factors, problem, config.objective.build(), solver=judge)


def judged(cert: jals.Certificate, solver: Solver, sweeps: int) -> Proof:
    """The certificate in numbers, and whether it passes: the rows as given must meet the bound where an exact sweep has
    just made them."""
    required = traits(solver.build()).exact and sweeps > 0
    unjudged = cert.unjudged
    return Proof(
        **{side: _worst(getattr(cert, side)) for side in unjudged},
        last_updated_required=required,
        stationarity=finite(cert.stationarity),
        bound=float(cert.bound),
        unjudged=sum(rows for side, rows in unjudged.items() if required or side != "last_updated"),
        passed=cert.holds(last_updated=required),
    )


def _worst(errors: Any) -> float | None:
    errors = np.asarray(errors)
    errors = errors[~np.isnan(errors)]
    return finite(errors.max()) if len(errors) else None


def metrics(objective: jals.Objective, factors: jals.Factors, fold: Fold, parts: tuple[str, ...]) -> dict:
    """RMSE and MAE of some parts of the split, unclipped, against the objective's target: the value, or with implicit
    feedback 1."""
    found = {}
    for name in parts:
        part = getattr(fold, name)
        if part is not None:
            predicted = jals.predict(factors, part.user, part.item)
            target = objective.entry(part.value, np.ones_like(part.value)).t
            found[name] = {
                "rmse": finite(jals.metrics.rmse(predicted, target, part.weight)),
                "mae": finite(jals.metrics.mae(predicted, target, part.weight)),
            }
    return found
