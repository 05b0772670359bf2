"""What a run shows in the terminal: plain lines, and tables that fit 80 columns."""

import contextlib
import itertools
import math
from collections import Counter
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.text import Text

from ...data.vocabulary import Vocabulary
from ...diagnostics.certificate import WHAT_UNJUDGED
from ...files.runs.folder import FITS, PAGE, REPORT, RESULT, StoredRun
from ...files.runs.record import BaselineRecord, DataRecord, FitRecord, Proof
from ...metrics import is_error, spelt
from .. import config as configs
from ..config import schema
from .console import Table, spinner

LINES = 20  # a line for each fit up to so many; beyond, a line a solver and point


def print_setting(console: Console, config: schema.Config, data: list[DataRecord], folder: Path) -> None:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")  # paths have no blanks to break at
    if config.question:
        grid.add_row("question", " ".join(config.question.split()))
    told = []
    for each in data:
        density = each.entries / (each.users * each.items)
        shape = f"{each.users:,} users x {each.items:,} items, {each.entries:,} entries ({density:.2%})"
        told.append(f"{each.name}: {shape}")
    for line in dict.fromkeys(told):  # one table may be split in several ways
        grid.add_row("data", line)
    for name in ("split", "objective", "problem", *(("score",) if config.score.item_power is not None else ()), "fit"):
        grid.add_row(name, _table_text(getattr(config, name)))
    for solver in config.solver:
        grid.add_row("solver", _table_text(solver) if solver.name is None else f"{solver.name}: {_table_text(solver)}")
    for baseline in config.baseline:
        grid.add_row("baseline", f"{baseline.label}: {_table_text(baseline)}")
    for key, values in config.grid.items():
        grid.add_row("grid", f"{key}: {', '.join(map(str, values))}")
    for key, (low, high) in config.tune.range.items() if config.tune else ():
        tune = config.tune
        how = tune.sampler if tune.method == "random" else tune.method
        what = "steps" if tune.method == "hypergradient" else "trials"
        many = f"{tune.trials} {what}" if tune.seconds is None else f"at most {tune.trials} {what}, {tune.seconds:g} s"
        grid.add_row("tune", f"{key}: {low:g} to {high:g}, {many}, {how}")
    if config.validated and not config.of_ratings and is_error(config.fit.metric):
        why = f"with {config.objective.preset} the validation RMSE {_OF_PAIRS}"
        grid.add_row("note", f'{why}; fit.metric = "ndcg@10" stops, tunes and chooses by one')
    grid.add_row("output", str(folder))
    console.print(grid)
    console.print()


def print_plan(console: Console, fits: list[tuple[str, int, float, str]], tables: list[tuple[str, float]]) -> None:
    """The fits that a config stands for: (name, passes, bytes, how it runs); and (table, bytes of its problem). NaN:
    not known."""
    table = _table("", "fits", "passes\neach", "MiB\neach", "how")
    rows: dict[tuple, int] = {}
    for name, passes, size, how in fits:
        row = (name, f"{passes:,}", "–" if math.isnan(size) else f"{size / 2**20:,.1f}", how)
        rows[row] = rows.get(row, 0) + 1
    for (name, passes, size, how), count in rows.items():
        table.add_row(name, f"{count:,}", passes, size, how)
    console.print(table)
    total = sum(passes for _, passes, _, _ in fits)
    console.print(f"{len(fits):,} fits, at most {total:,} passes over the entries in all", soft_wrap=True)
    for name, size in tables:
        console.print(f"{name}: about {size / 2**20:,.0f} MiB on the device beside the fits", soft_wrap=True)


def print_fit_end(console: Console, name: str, fit: FitRecord) -> None:
    """One line when a fit has ended."""
    history = fit.history
    if fit.descent is not None and fit.descent.best:
        found = history.validation[fit.descent.best] if history.validation else None
        best = f"validation {spelt(fit.metric)} {math.nan if found is None else found:.4f} at step {fit.descent.best}"
        numbers = ", ".join(f"{key.rpartition('.')[2]} {number:.4g}" for key, number in fit.tuned.items())
        steps, passes = fit.descent.steps, history.last("passes")
        console.print(f"{name}: {steps} steps, {passes:,} passes; {best}, {numbers}", soft_wrap=True)
        return
    sweeps, seconds = history.last("sweep") or 0, history.last("seconds")
    took = "" if seconds is None else f" in {seconds:.2f} s"
    kept = "" if fit.sweeps == sweeps else f", the factors of sweep {fit.sweeps} kept"
    bare = fit.reason in ("interrupted", "diverged", "singular")
    end = fit.reason if bare else f"ended by {fit.reason}"
    console.print(f"{name}: {sweeps} sweeps{took}{kept}; {end}", soft_wrap=True)


def print_chunk_end(console: Console, fits: list, seconds: float) -> None:
    """One line when the fits of a program have ended."""
    console.print(f"{fits[0].solver.label}: {len(fits)} fits in one program, {seconds:.2f} s", soft_wrap=True)


def print_results(console: Console, place: Path, found: StoredRun) -> None:
    """A line a fit; of many fits, or several seeds or points, a line a solver and point, as in the report."""
    fits = [fit for fit in found.all if fit.trial is None]
    measured_fits = [fit for fit in fits if fit.metrics is not None]
    if not measured_fits:
        return
    config = configs.config_of_run(found.run, place)
    ranked = [name for name in config.ranked if any(fit.score("test", name) is not None for fit in measured_fits)]
    measured = [("test", name) for name in ranked[:_RANKED]] if ranked else _SCORES
    headings = [f"{part}\n{_heading(name)}" for part, name in measured]
    if len(fits) > LINES or any(fit.point for fit in fits) or len({fit.seed for fit in fits}) > 1:
        from .report import gathering
        from .report import table as statistics

        shown = [name for part, name in measured if part == "test"][:2]
        errors = [heading for name in shown for heading in (f"test\n{_heading(name)}", "± se")]
        table = _table("", "fits", *errors, "statio-\nnarity")
        for row in statistics.rows(gathering.read([place])):
            if row.fits:
                means = [row.means.get(statistics.tested(name)) for name in shown]
                both = [(math.nan, math.nan) if mean is None else mean[:2] for mean in means]
                numbers = [f"{number:.4f}".replace("nan", "-") for pair in both for number in pair]
                worst = "-" if row.stationarity is None else f"{row.stationarity:.1e}"
                name = row.fits[0].record.changed(fold=None).label
                table.add_row(name, str(len(row.fits)), *numbers, worst)
    else:
        proof = ("fresh\nupdate", "last\nupdate", "statio-\nnarity", "s per\nsweep", "s com-\npiling")
        table = _table("", *headings, *proof)
        for fit in fits:
            sweeps, seconds = fit.history.last("sweep"), fit.history.last("seconds")
            table.add_row(
                fit.label,
                *(_number(fit.score(part, metric)) for part, metric in measured),
                *_proof(fit.certificate),
                "-" if seconds is None or not sweeps else f"{seconds / sweeps:.3f}",
                f"{fit.compile_seconds:.2f}",
            )
        for name, group in _grouped(measured_fits).items():
            if len(group) > 1:
                table.add_row(f"{name} mean", *(_number(_mean(group, *score)) for score in measured))
    console.print(table)
    if found.run.baselines:
        _print_baselines(console, found.run.baselines, ranked[:_RANKED])
    if not ranked and not config.of_ratings:
        console.print(f"With {config.objective.preset} an error {_OF_PAIRS}: `jals evaluate` measures one.")
    _verdict(console, fits)
    if len(fits) > 1:
        _answer(console, place)


def _answer(console: Console, place: Path) -> None:
    """What the report begins with."""
    from .report import gathering, verdict

    found = verdict.of(gathering.read([place]))
    if found.kind not in ("one fit", "nothing"):
        console.print(found.headline, soft_wrap=True)


def _print_baselines(console: Console, made: list[BaselineRecord], ranked: list[str]) -> None:
    """What the rankings have to beat: a line a baseline, table and fold."""
    table = _table("baseline", *(f"test\n{_heading(name)}" for name in ranked), "s")
    for each in made:
        name = each.name + ("" if each.fold is None else f"/{each.fold}")
        point = "".join(f" {key.rpartition('.')[2]}={value}" for key, value in each.point.items())
        scores = (each.metrics["test"].get(metric) for metric in ranked)
        table.add_row(name + point, *map(_number, scores), f"{each.seconds:.2f}")
    console.print(table)


def print_certificates(console: Console, fits: list[FitRecord]) -> None:
    table = _table("", "fresh\nupdate", "last\nupdate", "statio-\nnarity", "sweeps")
    for fit in fits:
        table.add_row(fit.label, *_proof(fit.certificate), str(fit.sweeps))
    console.print(table)
    _verdict(console, fits)


def print_found(console: Console, place: Path, earlier: StoredRun, extend: bool) -> None:
    """What an earlier run of the same config, or of one to be extended, has left in the folder."""
    begun, ended, stopped = earlier.run.started.replace("T", " "), earlier.fits, earlier.unfinished
    config = "another config, to be extended" if extend else "this config"
    console.print(f"found in {place}: a run of {config}, begun {begun}", soft_wrap=True)
    if extend:
        has = f"It has {_count(len(ended))}; those that this config has too are not made again."
        console.print(has, soft_wrap=True)
        console.print()
        return
    if earlier.run.status == "finished":
        drawn = "" if (place / PAGE).exists() else " but for its page"
        console.print(f"It is finished{drawn}; --overwrite fits it again.")
        console.print()
        return
    parts = [f"{_count(len(ended))} done"] if ended else []
    if stopped is not None:
        parts.append(f"{stopped.label} stopped after {stopped.history.last('sweep') or 0} sweeps")
    what = "; ".join(parts) or "nothing fitted yet"
    status = _STATUS[earlier.run.status]
    console.print(f"It is {status}: {what}. Going on from there; --overwrite starts again.", soft_wrap=True)
    console.print()


def print_damaged(console: Console, place: Path, fits: list[FitRecord]) -> None:
    """The fits of the earlier run that are made again, as their factors are gone or damaged."""
    for fit in fits[:LINES]:
        text = f"{place / str(fit.factors)} is missing or damaged: {fit.label} is made again."
        console.print(text, soft_wrap=True)
    if more := len(fits[LINES:]):
        console.print(f"{more:,} more fits are made again, for the same reason.")


def _count(fits: int) -> str:
    return "1 fit" if fits == 1 else f"{fits:,} fits"


_STATUS = {"running": "unfinished", "interrupted": "interrupted"}


def spinner_during(console: Console, what: str) -> contextlib.AbstractContextManager:
    """A spinner while something takes its time; nothing in a log file."""
    if not console.is_terminal:
        return contextlib.nullcontext()
    return console.status(f"{what} ...", spinner=spinner(console))


def print_saved(console: Console, place: Path, found: StoredRun) -> None:
    names = [fit.factors for fit in found.all if fit.factors]
    if not found.all:
        return
    if len(names) > 6:
        names = [f"{len(names)} files of factors"]
    names += [name for name in (FITS, PAGE, f"{REPORT}/{PAGE}") if (place / name).exists()]
    console.print(f"saved {place / RESULT} and, beside it, {', '.join(names)}", soft_wrap=True)


def print_broken(console: Console, fits: list[FitRecord], vocab: Vocabulary | None) -> None:
    """The fits that broke down, with the outside id of a row that failed."""
    wrong = [(fit, fit.error) for fit in fits if fit.error is not None]
    counted = [(fit, error) for fit, error in wrong if fit.trial is None]
    for fit, error in counted[:LINES]:
        text = f"{fit.label} broke down at {error.message.removesuffix('.')}."
        if vocab is not None and error.side is not None:
            text += f" That row is the {error.side} with id {getattr(vocab, error.side)[error.row]}."
        console.print(text, soft_wrap=True)
    for what, others in (("fits", len(counted[LINES:])), ("trials", len(wrong) - len(counted))):
        if others:
            console.print(f"{others:,} {what} broke down; {FITS} says at which sweep.", soft_wrap=True)


def print_stopped(console: Console, why: BaseException, found: StoredRun) -> None:
    """Why a run ended early."""
    text = (str(why) or "interrupted").removesuffix(".") + "."
    if found.unfinished is not None:
        text += " The factors of the last finished sweep are saved."
    console.print(text + " The same command goes on from here.", soft_wrap=True)


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left", no_wrap=bool(heading), overflow="fold")
    return table


_SCORES = [(part, metric) for part in ("train", "test") for metric in ("rmse", "mae")]


_RANKED = 3  # ranking metrics in a table
_OF_PAIRS = "is that of observed pairs alone, and says nothing of a ranking"


def _heading(metric: str) -> str:
    """In few letters: ndcg over @10."""
    return spelt(metric).replace("recall_popularity", "recall_pop")


def _number(score: float | None) -> str:
    return "-" if score is None else f"{score:.4f}"


def _mean(fits: list[FitRecord], part: str, metric: str) -> float | None:
    scores = [fit.score(part, metric) for fit in fits]
    known = [score for score in scores if score is not None]
    return sum(known) / len(known) if len(known) == len(scores) else None


def _proof(certificate: Proof | None) -> list[str | Text]:
    if certificate is None:
        return ["-"] * 3
    bound, stationarity = certificate.bound, certificate.stationarity
    fresh = [each for each in (certificate.user, certificate.item) if each is not None]
    return [
        _marked(max(fresh, default=None), bound),
        _marked(certificate.last_updated, bound if certificate.last_updated_required else math.inf),
        "-" if stationarity is None else f"{stationarity:.1e}",
    ]


def _marked(number: float | None, bound: float) -> str | Text:
    """A backward error, in red over the bound; "-" where no row could be judged."""
    if number is None:
        return "-"
    return f"{number:.1e}" if number <= bound else Text(f"{number:.1e}", "bold red")


def _grouped(fits: list[FitRecord]) -> dict[str, list[FitRecord]]:
    """The fits that differ in seeds and folds only."""
    groups: dict[str, list[FitRecord]] = {}
    for fit in fits:
        groups.setdefault(fit.changed(fold=None).label, []).append(fit)
    return groups


def _verdict(console: Console, fits: list[FitRecord]) -> None:
    """What the numbers were held against, and the rows that failed, with the number that did."""
    proofs = [(fit.label, fit.certificate) for fit in fits if fit.certificate is not None]
    if not proofs:
        if fits and not any(fit.certified for fit in fits):
            console.print("not certified, as output.certificate = false: `jals certify` does it", soft_wrap=True)
        return
    bound = proofs[0][1].bound
    of_what = "the largest error with which a row solves its equations (backward error), once it is solved anew from"
    of_what += " the factors, and as the fit left the side that it solved last"
    console.print(f"fresh and last update: {of_what}. Exact solvers keep both under {bound:.0e}.")
    failed = Counter(label for label, proof in proofs if proof.refused() is not None)
    if failed:
        names = [name if count == 1 else f"{name} ({count} fits)" for name, count in failed.items()]
        console.print(Text("certificate FAILED", "bold red"), f": {', '.join(names)}", sep="", soft_wrap=True)
    unjudged: Counter[str] = Counter()
    for label, proof in proofs:
        unjudged[label] += proof.unjudged
    if unjudged := +unjudged:
        names = [f"{name} ({count:,} row{'s' * (count > 1)})" for name, count in unjudged.items()]
        told = f": {', '.join(names)}. {WHAT_UNJUDGED}"
        console.print(Text("certificate NOT JUDGED", "bold red"), told, sep="", soft_wrap=True)
    if all(proof.passed for _, proof in proofs):
        console.print(Text("certificate passed", "bold green"))


def _table_text(table: Any) -> str:
    """A config table in words: random, test_fraction 0.1, seed 0."""
    values = table.model_dump(exclude={"name"}, exclude_none=True)
    values |= values.pop("hyper", {})
    parts = []
    for key, value in values.items():
        if isinstance(value, dict):  # a file, or a schedule and its numbers
            value = value["path"] if "path" in value else " ".join(map(str, itertools.chain(*value.items())))
        if value is not False:
            parts.append(key if value is True else str(value) if key in ("kind", "preset") else f"{key} {value}")
    return ", ".join(parts)
