"""The body of `jals recommend`: the best items that a user has not rated."""

from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console

import jals

from ...data.sources import as_path
from ...errors import DataError, StorageError
from ...files.runs import folder
from .. import config as configs
from ..run.data import SplitTable, read_data
from ..show.console import Table
from ..study import best_fit, plan


def recommend(
    place: Path,
    user: str,
    k: int,
    console: Console,
    solver: str | None = None,
    min_entries: int = 0,
    key: str | None = None,
) -> int:
    """Shows the k best unseen items of a user by the factors of a saved run: of several fits by the best, as
    `best_fit.choose` says.

    Args:
        place: the folder of a `jals run`.
        user: the outside id, as written on a command line.
        solver: the name of a solver of the config, or its kind where it has none: by a fit of that one.
        min_entries: items with fewer training entries are left out: a high score may rest on one of them.
        key: the beginning of a fit's key: by that one.

    Returns: the exit code, 0.

    Raises:
        ArgumentError: where nothing says which fit is best, and for an unknown solver or key.
        JalsError: for an unknown user, and for files that are missing, damaged or of another run.
    """
    place = as_path(place)
    fits = folder.read(place).all
    config = configs.load(place / folder.CONFIG, classes=False)
    fit, why, left_out = best_fit.choose(fits, config, solver, key)
    name = str(fit.factors)
    planned = plan.study_of_fit(config, fit).planned_fit(fit)
    data = read_data(planned.config)
    row = int(data.vocab.user_rows([_outside_id(user, data.vocab.user)])[0])
    fold = SplitTable(planned.config, data).folds[fit.fold]
    saved = jals.load(place / name)
    if saved.data_hash != fold.data_hash:
        raise StorageError(f"{place / name} was fitted to other ratings than {place / folder.CONFIG} now leads to.")
    own = fold.train.user == row
    if fold.train.weight is not None:
        own &= fold.train.weight > 0
    seen = fold.train.item[own]
    scores = f"; scores by {name}"
    if why is not None:
        which = best_fit.fit_name(fit, len(config.seeds) > 1, best_fit.folds_of(fit, config))
        console.print(f"{which} ({name}): {why}", soft_wrap=True)
        if left_out:
            console.print(f"not ranked: {best_fit.summarise(left_out)}", soft_wrap=True)
        scores = ""
    console.print(f"user {user}: {len(seen):,} items in the training part, left out{scores}")
    if not len(seen):
        console.print("This user has no training entries: items are ordered by their biases, where there are any.")
    rare = np.flatnonzero(np.bincount(fold.train.item, minlength=fold.train.num_items) < min_entries)
    most = min(k, fold.train.num_items)  # fewer are fewer lines
    items, scores = (np.asarray(part)[0] for part in jals.top_k(saved.factors, row, most, np.union1d(seen, rare)))
    console.print(_table(data, items[items >= 0], scores[items >= 0]))
    return 0


def _outside_id(text: str, known: np.ndarray) -> int | str:
    """An id from the command line in the type of the vocabulary."""
    if known.dtype.kind not in "iu":
        return text
    try:
        return int(text)
    except ValueError:
        raise DataError(f'user ids of this table are whole numbers, but "{text}" is none.') from None


def _table(data: jals.datasets.Dataset, items: np.ndarray, scores: np.ndarray) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
    table.add_column("rank", justify="right")
    table.add_column("item", overflow="fold")
    if data.titles is not None:
        table.add_column("title", overflow="fold")
    table.add_column("score", justify="right")
    for rank, (item, score) in enumerate(zip(items, scores, strict=True), start=1):
        named = [str(column[item]) for column in (data.vocab.item, data.titles) if column is not None]
        table.add_row(str(rank), *named, f"{score:.4f}")
    return table
