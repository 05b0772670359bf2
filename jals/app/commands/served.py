"""A saved run, opened to answer: which of its fits serves, its factors, and the data that they learnt from."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console

import jals

from ...data.sources import as_path
from ...datasets import Dataset
from ...errors import DataError, StorageError
from ...files.runs import folder
from .. import config as configs
from ..config.schema import Config
from ..run.data import Fold, read_data, split_table
from ..study import best_fit, plan


class Served(NamedTuple):
    """What answers for a run.

    Attributes:
        name: of the file of factors, seen from the run's folder.
        config: of the fit, resolved.
        data: the whole table, with its ids and titles.
        fold: the split that the fit learnt from: what users have seen is its training part.
        recommender: the factors by outside ids.
        why: what says that this fit is the best; None where the run has no other.
    """

    name: str
    config: Config
    data: Dataset
    fold: Fold
    recommender: jals.Recommender
    why: str | None


def open_run(place: Path, console: Console, solver: str | None = None, key: str | None = None) -> Served:
    """The fit of a run to serve, as `best_fit.choose` says; which one, and why, is printed where there are several.

    Args:
        place: the folder of a `jals run`.
        solver: the name of a solver of the config, or its kind where it has none: a fit of that one.
        key: the beginning of a fit's key: that one.

    Raises:
        ArgumentError: where nothing says which fit is best, and for an unknown solver or key.
        JalsError: for files that are missing, damaged or of another run.
    """
    place = as_path(place)
    fits = folder.read(place).all
    config = configs.on_one_device(configs.load(place / folder.CONFIG, classes=False))
    fit, why, left_out = best_fit.choose(fits, config, solver, key)
    name = str(fit.factors)
    planned = plan.study_of_fit(config, fit).planned_fit(fit)
    data = read_data(planned.config)
    fold = split_table(planned.config, data).folds[fit.fold]
    saved = jals.load(place / name)
    if saved.data_hash != fold.data_hash:
        raise StorageError(f"{place / name} was fitted to other ratings than {place / folder.CONFIG} now leads to.")
    if why is not None:
        which = best_fit.fit_name(fit, len(config.seeds) > 1, best_fit.folds_of(fit, config))
        console.print(f"{which} ({name}): {why}", soft_wrap=True)
        if left_out:
            console.print(f"not ranked: {best_fit.summarise(left_out)}", soft_wrap=True)
    objective = planned.config.objective.build()
    recommender = jals.Recommender(saved.factors, data.vocab, objective, fold.train, saved.data_hash)
    return Served(name, planned.config, data, fold, recommender, why)


def outside_id(text: str, known: np.ndarray, side: str) -> int | str:
    """An id from the command line, in the type of the vocabulary."""
    if known.dtype.kind not in "iu":
        return text
    try:
        return int(text)
    except ValueError:
        raise DataError(f'{side} ids of this table are whole numbers, but "{text}" is none.') from None
