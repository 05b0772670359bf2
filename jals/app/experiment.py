"""What a config stands for: its data, its splits, its fits, and what each fit has to prove."""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

import jals

from .. import datasets
from .schema import AnySolver, Config


class Fold(NamedTuple):
    """One split of the data; `number` is None where there is only one, `data_hash` is that of the training part."""

    number: int | None
    train: jals.Ratings
    validation: jals.Ratings | None
    test: jals.Ratings
    data_hash: str


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


def work(config: Config, ratings: jals.Ratings) -> Iterator[tuple[Fold, jals.Problem, AnySolver]]:
    """Every fit of the experiment: solvers within folds, so that a fold's problem is built once."""
    for fold in folds(config, ratings):
        problem = jals.Problem.build(fold.train, layout=config.problem.layout)
        for solver in config.solver:
            yield fold, problem, solver


def label(solver: AnySolver, fold: Fold) -> str:
    """What tables and pictures call a fit: als, or als/0."""
    return solver.label if fold.number is None else f"{solver.label}/{fold.number}"


def certificate(config: Config, factors: Any, problem: jals.Problem, solver: AnySolver) -> jals.Certificate:
    """The certificate of one fit. A fresh update must always meet the bound, so one is made exactly where the solver
    is not."""
    made = solver.build()
    judge = made if isinstance(made, jals.ALS) and made.exact else None
    return jals.certify(factors, problem, config.objective.build(), solver=judge)


def judged(cert: jals.Certificate, solver: AnySolver, sweeps: int) -> dict:
    """The certificate in numbers, and whether it passes: the rows as given must meet the bound where an exact sweep has
    just made them."""
    made = solver.build()
    fresh = {"user": float(np.max(cert.user)), "item": float(np.max(cert.item))}
    last_updated = float(np.max(cert.last_updated))
    bound, required = float(cert.bound), made.exact and sweeps > 0
    passed = all(worst <= bound for worst in (*fresh.values(), last_updated if required else 0.0))
    return {
        **fresh,
        "last_updated": last_updated,
        "last_updated_required": required,
        "stationarity": float(cert.stationarity),
        "bound": bound,
        "passed": passed,
    }
