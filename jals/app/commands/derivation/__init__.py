"""The body of `jals derive`: the derivation of the ALS update, walked through on one row of a table of ratings.

`steps` computes, `opening` has the answer that comes first, `text` prints both, `typeset` sets numbers and tables,
`picture` draws.
"""

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from ....data.ratings import Ratings
from ....data.vocabulary import Vocabulary
from ....datasets import Dataset
from . import picture as pictures
from . import steps
from .text import Walkthrough


def built_in() -> Dataset:
    """Five people and four films, with 8 of the 20 ratings missing."""
    people, films = ("Ann", "Bob", "Cem", "Dana", "Eva"), ("Alien", "Brazil", "Casablanca", "Duel")
    table = np.array([[5, 0, 1, 4], [4, 3, 0, 0], [0, 1, 5, 2], [1, 0, 4, 0], [0, 4, 0, 5]], float)
    user, item = np.nonzero(table)
    return Dataset(
        Ratings.from_arrays(user, item, table[user, item], *table.shape),
        Vocabulary(np.array(people), np.array(films)),
        np.array(films),
    )


def user_row(ratings: Ratings, vocab: Vocabulary, user: Any) -> int:
    """The row of an outside id; None means a user with few entries, three or more if there is one. Digits name an
    integer id.

    Raises:
        DataError: for an unknown id.
    """
    if user is None:
        counts = np.bincount(ratings.user, None if ratings.weight is None else ratings.weight > 0)
        return int(np.argmin(np.where(counts >= min(3, counts.max()), counts, np.inf)))
    if isinstance(user, str) and vocab.user.dtype.kind in "iu" and user.removeprefix("-").isdecimal():
        user = int(user)
    return int(vocab.user_rows([user])[0])


def derive(
    console: Console,
    ratings: Ratings,
    vocab: Vocabulary,
    user: Any = None,
    reg: float = 0.1,
    rank: int = 2,
    seed: int = 0,
    picture: str | Path | None = None,
    titles: Any = None,
    short: bool = False,
) -> int:
    """Says which items' vectors are summed, why and what is solved, in five lines; then walks one user's row from the
    loss (1) to the solution (2). All in numbers of this table.

    Args:
        console: a rich console; 80 columns are enough.
        user: outside id, or None for a user with few entries.
        reg, rank, seed: lambda > 0, the rank, and what makes the random factors at the start.
        picture: a .png or .svg file to draw the table to.
        titles: `(num_items,)`, names for the items, or None for their ids.
        short: the five lines only.

    Returns: the exit code: 0, or 1 where a backward error misses the bound, or the library forms another system.

    Raises:
        DataError: for an unknown user, or one without entries; ArgumentError for an invalid number or picture's name;
        StorageError where the picture cannot be written.
    """
    if picture is not None:
        pictures.check(picture)
    at = steps.setting(ratings, user_row(ratings, vocab, user), reg, rank, seed)
    slope, equations = steps.slope(at), steps.system(at)
    found = steps.solutions(at, equations)
    reach = steps.reach(at, found.right.x)
    text = Walkthrough(console, at, vocab, titles)
    text.opening(slope, reach, found)
    if not short:
        text.table()
        text.loss(steps.loss(at))
        text.slope(slope)
        text.reach(reach)
        text.system(equations, found)
        text.solution(found)
        text.inside(steps.inside(at), found.bound)
        fell = steps.convergence(at)
        text.shape(steps.shape(at, fell.factors))
        text.descent(fell)
    if picture is not None:
        pictures.save(picture, pictures.table(at, vocab, titles))
        text.saved(picture)
    proved = max(found.right.error, found.worst_error) <= found.bound
    return 0 if proved and equations.agrees(at.reg) else 1
