"""The body of `jals explore`: a page on this computer to look at a model, and to play with it."""

import threading
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from ....data.sources import as_path
from ....datasets import find_path, read_titles
from ....errors import DataError
from ..served import Served, open_run

if TYPE_CHECKING:
    from .page import Explored

MANY, MOST = 256, 4_096  # entries of a user: with more than these, what answers is another program


def explore(
    place: Path,
    console: Console,
    solver: str | None = None,
    key: str | None = None,
    titles: Path | None = None,
    port: int | None = None,
    browser: bool = True,
) -> int:
    """Serves the page of a run until Ctrl-C.

    Args:
        place: the folder of a `jals run`.
        solver, key: which fit, see `open_run`.
        titles: a file of ids and titles of items, for data that have none; else those of the data.
        port: of 127.0.0.1; None for one that is free.
        browser: whether to open the page in a browser.

    Returns: the exit code, 0.

    Raises:
        ImportError: without the extra `explore`.
        ArgumentError: where nothing says which fit is best, for an unknown solver or key, and for a port in use.
        JalsError: for files that are missing, damaged or of another run.
    """
    if find_spec("dash") is None:
        raise ImportError('the page is made by Dash, of the extra "explore": pip install "jals[explore]"')
    from . import page, serving

    served = open_run(place, console, solver, key)
    shown = explored(as_path(place), served, titles)
    server = serving.listen(page.application(shown).server, port)
    shown.answers.compile()
    if (longest := int(np.bincount(served.fold.train.user).max())) > MANY:
        threading.Thread(target=shown.answers.compile, args=(min(longest, MOST),), daemon=True).start()
    serving.serve(server, console, browser, shown.answers.turn)
    return 0


def explored(place: Path, served: Served, titles: Path | None = None) -> "Explored":
    """What the page shows of a run.

    Raises:
        DataError: for a file of titles that is not there, cannot be read, or names none of the items.
    """
    from ....plot.item_map import ItemMap
    from .answers import Answers
    from .page import Explored
    from .search import Finder

    data, train = served.data, served.fold.train
    named = data.titles
    if titles is not None:
        named = read_titles(find_path(titles), data.vocab)
        if not (named != "").any():
            example = data.vocab.item[0] if len(data.vocab.item) else ""
            raise DataError(
                f"{titles} names none of the {len(data.vocab.item):,} items: its first column must be their ids, such "
                f"as {example}, its second their titles."
            )
    answers = Answers(served.recommender.factors, served.config.objective.build(), train)
    of_user = np.bincount(train.user, minlength=train.num_users)
    factors = served.recommender.factors
    facts = (
        f"{served.config.objective.preset}, rank {factors.rank}, fitted to {len(train):,} ratings of "
        f"{train.num_users:,} users and {train.num_items:,} items ({served.name})"
    )
    return Explored(
        place.resolve().name,
        facts,
        answers,
        Finder(data.vocab.item, named, answers.entries),
        Finder(data.vocab.user, None, of_user),
        ItemMap(answers.item, answers.entries),
    )
