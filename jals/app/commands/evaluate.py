"""The bodies of `jals evaluate` and `jals export`: how a run ranks held-out items, and its factors in another file."""

import math
from pathlib import Path

from rich import box
from rich.console import Console

import jals

from ...data.sources import as_path
from ...errors import ArgumentError
from ..run.rankings import known, relevant
from ..run.scores import as_ranked
from ..show.console import Table
from .served import open_run


def evaluate(
    place: Path,
    console: Console,
    k: tuple[int, ...],
    metrics: tuple[str, ...],
    part: str = "test",
    solver: str | None = None,
    key: str | None = None,
) -> int:
    """Shows how well a run's fit ranks the items of a part of its split among all that users have not seen, beside the
    most popular items.

    Args:
        place: the folder of a `jals run`.
        k, metrics: see `jals.metrics.ranking`.
        part: "validation" or "test". What is not ranked again for a user, and from which value on an entry counts, is
            as in the run: with "test" the items of the validation part are left out too.
        solver, key: which fit, see `open_run`.

    Returns: the exit code, 0.

    Raises:
        ArgumentError: for a part that the split has not, and as `jals.metrics.ranking`.
        JalsError: as `open_run`.
    """
    served = open_run(place, console, solver, key)
    held_out, train = getattr(served.fold, part), served.fold.train
    if held_out is None:
        raise ArgumentError("the run has no validation part: give split.validation_fraction, or take --part test.")
    held_out, seen = relevant(held_out, served.config.output.relevant), known(served.fold, part)
    ranked = as_ranked(served.config, served.recommender.factors, served.fold)
    rankings = [
        jals.metrics.ranking(scores, held_out, seen, k, metrics)
        for scores in (ranked, jals.baselines.most_popular(train).scores)
    ]
    rankings.append(rankings[0].minus(rankings[1]))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
    for heading in ("", served.name, "most popular", "difference"):
        table.add_column(heading, justify="right" if heading else "left", overflow="fold")
    for name in rankings[0].mean:
        table.add_row(name, *(_with_error(ranking.mean[name], ranking.stderr[name]) for ranking in rankings))
    one = rankings[0]
    console.print(f"{part} part: {len(one.user):,} users, {one.left_out:,} without entries in it left out")
    console.print(table)
    return 0


def export(place: Path, out: Path, console: Console, solver: str | None = None, key: str | None = None) -> int:
    """Writes the factors of a run with their ids, their objective and what users have seen to a file of their own, by
    its suffix: `.npz`, `.safetensors` or `.parquet`. `jals.load` reads it without the run. With `score.item_power` the
    item rows are the corrected ones, and no objective goes with them: newcomers are solved for against rows as fitted.

    Returns: the exit code, 0.

    Raises:
        StorageError: for another suffix, or a file that cannot be written. JalsError: as `open_run`.
    """
    served = open_run(place, console, solver, key)
    factors, vocab, objective, data_hash, seen = served.recommender
    power, parts = served.config.score.item_power, "ids, objective"
    if power:
        factors, objective = as_ranked(served.config, factors, served.fold), None
        parts = f"item rows times n^{power:g} for its scores (so no newcomers can be folded in by them), ids"
    jals.save(as_path(out), factors, vocab, objective, data_hash=data_hash, seen=seen)
    console.print(f"saved {out}: {served.name}, {parts}, and the entries of the training part", soft_wrap=True)
    return 0


def _with_error(mean: float, error: float) -> str:
    return f"{mean:.4f}" + ("" if math.isnan(error) else f" ± {error:.4f}")
