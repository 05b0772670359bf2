"""The bodies of `jals recommend` and `jals similar`: the best unseen items of a user, and what is like an item."""

from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console

import jals

from ...datasets import Dataset
from ...errors import ArgumentError
from ...model.feedback import KINDS
from ...recommend.candidates import entries_of, least_entries
from ..run.scores import as_ranked
from ..show.console import Table
from .served import open_run, outside_id

EXPLAINED = 3  # entries named beside each item


def recommend(
    place: Path,
    user: str | None,
    k: int,
    console: Console,
    solver: str | None = None,
    min_entries: int | None = None,
    key: str | None = None,
    items: str | None = None,
    explained: bool = False,
) -> int:
    """Shows the k best unseen items of a user by the factors of a saved run: of several fits by the best, as
    `best_fit.choose` says.

    Args:
        place: the folder of a `jals run`.
        user: the outside id, as written on a command line; None for a new user, whose
        items: are these ids with commas between them; each is given the value that `_liked` says.
        solver, key: which fit, see `open_run`.
        min_entries: items with fewer training entries are left out; None: as `jals.Recommender.recommend` says.
        explained: whether to name the user's entries that add most to each score.

    Returns: the exit code, 0.

    Raises:
        ArgumentError: where nothing says which fit is best, and for an unknown solver or key; for neither a user nor
            items, or both.
        JalsError: for an unknown id, and for files that are missing, damaged or of another run.
    """
    if (user is None) == (items is None):
        raise ArgumentError("give either --user, an id of the data, or --items, the ids of what a new user likes.")
    served = open_run(place, console, solver, key)
    data, train, by = served.data, served.fold.train, served.recommender
    objective = served.config.objective.build()
    scores = "" if served.why is not None else f"; scores by {served.name}"
    if user is None:
        liked = [outside_id(text.strip(), data.vocab.item, "item") for text in str(items).split(",")]
        value = _liked(objective, train)
        by, who = by.fold_in(0, liked, np.full(len(liked), value)), f"a new user (value {value:g} each)"
        row, train_of = 0, by.seen or train
    else:
        who, train_of = f"user {user}", train
        row = int(data.vocab.user_rows([outside_id(user, data.vocab.user, "user")])[0])
    own = train_of.user == row
    if train_of.weight is not None:
        own &= train_of.weight > 0
    seen = train_of.item[own]
    part = "in the training part" if user is not None else "given"
    console.print(f"{who}: {len(seen):,} items {part}, left out{scores}")
    entries = entries_of(train)
    least = least_entries(objective, entries) if min_entries is None else min_entries
    rare = np.flatnonzero(entries < least)
    if len(rare):
        console.print(_left_out(len(rare), least, served.config.objective.preset, min_entries is None), soft_wrap=True)
    most = min(k, train.num_items)  # fewer are fewer lines
    factors = as_ranked(served.config, by.factors, served.fold)
    found, score = (np.asarray(part)[0] for part in jals.top_k(factors, row, most, np.union1d(seen, rare)))
    found, score = found[found >= 0], score[found >= 0]
    if not len(found):
        some = len(np.setdiff1d(rare, seen))
        bar = f" The others have fewer than {least} training entries: lower --min-entries." if some else ""
        console.print(f"Nothing is left: {len(seen):,} of {train.num_items:,} items are seen.{bar}")
        return 0
    if not len(seen):
        same = by.factors.item_bias is None and not np.any(by.factors.user[row])
        order = "all scores are equal, and the order means nothing" if same else "items are ordered as for everyone"
        console.print(f"This user has no training entries: {order}. --items takes ids of what the user likes.")
    why = None
    if explained:  # of the score as it was fitted, times what it is corrected by
        power = served.config.score.item_power or 0.0
        by_item = [(int(item), float(max(entries[item], 1)) ** power) for item in found]
        why = [_because(by, train_of, row, item, factor, data) for item, factor in by_item]
    console.print(_table(data, found, score, why))
    return 0


def similar(
    place: Path, item: str, k: int, console: Console, solver: str | None = None, key: str | None = None
) -> int:
    """Shows the k items most like one, by the cosine of their factors. Arguments and errors as of `recommend`."""
    served = open_run(place, console, solver, key)
    data = served.data
    row = int(data.vocab.item_rows([outside_id(item, data.vocab.item, "item")])[0])
    most = min(k, len(data.vocab.item) - 1)
    found, score = (np.asarray(part)[0] for part in jals.similar(served.recommender.factors, [row], most))
    if not np.any(served.recommender.factors.item[row]):
        console.print(f"The factors of item {item} are 0, as of one without training entries: nothing is like it.")
        return 0
    title = "" if data.titles is None else f", {data.titles[row]}"
    console.print(f"like item {item}{title}, by cosine")
    console.print(_table(data, found[found >= 0], score[found >= 0]))
    return 0


def _left_out(items: int, least: int, preset: str, by_default: bool) -> str:
    said = f"{items:,} items with fewer than {least} training entries left out"
    if not by_default:
        return said
    return (
        f"{said} (--min-entries 0 keeps them): {preset} predicts ratings, and its highest rest on few. What a user "
        "takes next is the question of ials and hu_koren."
    )


def _liked(objective: jals.Objective, train: jals.Ratings) -> np.floating:
    """The value of an entry that says "liked": the highest where scores are fitted to values, else the median."""
    by_value = KINDS[objective.feedback].t[1] != 0
    return np.max(train.value) if by_value else np.median(train.value).astype(train.value.dtype)


def _because(
    by: jals.Recommender, train: jals.Ratings, row: int, item: int, factor: float, data: Dataset
) -> str:
    """The entries that add most to a score, each with its part of it, times a factor."""
    assert by.objective is not None
    parts = jals.explain(by.factors, jals.Problem.build(train), by.objective, row, item)
    names = data.vocab.item if data.titles is None else data.titles
    most = list(zip(parts.item, factor * parts.contribution, strict=True))[:EXPLAINED]
    return ", ".join(f"{names[other]} {part:+.2f}" for other, part in most)


def _table(
    data: Dataset, items: np.ndarray, scores: np.ndarray, why: list[str] | None = None
) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
    table.add_column("rank", justify="right")
    table.add_column("item", overflow="fold")
    if data.titles is not None:
        table.add_column("title", overflow="fold")
    table.add_column("score", justify="right")
    if why is not None:
        table.add_column("because of", overflow="fold")
    for rank, (item, score) in enumerate(zip(items, scores, strict=True), start=1):
        named = [str(column[item]) for column in (data.vocab.item, data.titles) if column is not None]
        table.add_row(str(rank), *named, f"{score:.4f}", *([] if why is None else [why[rank - 1]]))
    return table
