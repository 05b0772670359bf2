"""What a run shows in the terminal: plain lines, and tables that fit 80 columns."""

import contextlib
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from ..errors import FitError
from ..ratings import Ratings
from ..vocabulary import Vocabulary
from . import schema
from .folder import PAGE, RESULT


def setting(console: Console, config: schema.Config, ratings: Ratings, folder: Path) -> None:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")  # paths have no blanks to break at
    data = config.data.source or config.data.path
    density = len(ratings) / (ratings.num_users * ratings.num_items)
    shape = f"{ratings.num_users:,} users x {ratings.num_items:,} items, {len(ratings):,} entries ({density:.2%})"
    grid.add_row("data", f"{data}: {shape}")
    for name in ("split", "objective", "problem", "fit"):
        grid.add_row(name, _said(getattr(config, name)))
    for solver in config.solver:
        grid.add_row("solver", _said(solver) if solver.name is None else f"{solver.name}: {_said(solver)}")
    grid.add_row("output", str(folder))
    console.print(grid)
    console.print()


def progress(console: Console, fit: dict) -> None:
    """One line when a fit has ended."""
    sweeps, seconds = fit["history"]["sweep"][-1], fit["history"]["seconds"][-1]
    kept = "" if fit["sweeps"] == sweeps else f", the factors of sweep {fit['sweeps']} kept"
    end = fit["reason"] if fit["reason"] in ("interrupted", "failed") else f"ended by {fit['reason']}"
    console.print(f"{_label(fit)}: {sweeps} sweeps in {seconds:.2f} s{kept}; {end}")


def results(console: Console, fits: list[dict]) -> None:
    if not any("certificate" in fit for fit in fits):
        return
    table = _table(
        *("", "train\nRMSE", "train\nMAE", "test\nRMSE", "test\nMAE"),
        *("fresh\nupdate", "last\nupdate", "statio-\nnarity", "s per\nsweep", "s com-\npiling"),
    )
    for fit in fits:
        sweeps, seconds = fit["history"]["sweep"][-1], fit["history"]["seconds"][-1]
        table.add_row(
            _label(fit),
            *_scores(fit.get("metrics")),
            *_proof(fit.get("certificate")),
            f"{seconds / sweeps:.3f}" if sweeps else "-",
            f"{fit['compile_seconds']:.2f}",
        )
    for solver, metrics in _means(fits).items():
        table.add_row(f"{solver} mean", *_scores(metrics))
    console.print(table)
    _verdict(console, fits)


def certificates(console: Console, fits: list[dict]) -> None:
    table = _table("", "fresh\nupdate", "last\nupdate", "statio-\nnarity", "sweeps")
    for fit in fits:
        table.add_row(_label(fit), *_proof(fit["certificate"]), str(fit["sweeps"]))
    console.print(table)
    _verdict(console, fits)


def found(console: Console, place: Path, earlier: dict) -> None:
    """What an earlier run of the same config has left in the folder."""
    done = sum("certificate" in fit for fit in earlier["fits"])
    begun = earlier["started"].replace("T", " ")
    console.print(f"found in {place}: a run of this config, begun {begun}", soft_wrap=True)
    if earlier["status"] == "finished":
        drawn = "" if (place / PAGE).exists() else " but for its page"
        console.print(f"It is finished{drawn}; --overwrite fits it again.\n")
        return
    parts = [f"{done} fits done"] if done else []
    parts += [
        f"{_label(fit)} stopped after {fit['history']['sweep'][-1]} sweeps"
        for fit in earlier["fits"]
        if "certificate" not in fit
    ]
    what = "; ".join(parts) or "nothing fitted yet"
    status = _STATUS[earlier["status"]]
    console.print(f"It is {status}: {what}. Going on from there; --overwrite starts again.\n", soft_wrap=True)


_STATUS = {"running": "unfinished", "interrupted": "interrupted", "failed": "broken down"}


def waiting(console: Console, what: str) -> contextlib.AbstractContextManager:
    """A spinner while something takes its time; nothing in a log file."""
    return console.status(f"{what} ...") if console.is_terminal else contextlib.nullcontext()


def saved(console: Console, place: Path, record: dict) -> None:
    names = [fit["factors"] for fit in record["fits"]]
    if not names:
        return
    page = [PAGE] if (place / PAGE).exists() else []
    console.print(f"saved {place / RESULT} and, beside it, {', '.join([*names, *page])}", soft_wrap=True)


def stopped(console: Console, why: BaseException, record: dict, vocab: Vocabulary) -> None:
    """Why a run ended early, with the outside id of the row that failed."""
    text = str(why) or "interrupted"
    text = text.removesuffix(".") + "."
    if isinstance(why, FitError) and why.side and why.row is not None:
        text += f" That row is the {why.side} with id {getattr(vocab, why.side)[why.row]}."
    if record["fits"]:
        text += " The factors of the last finished sweep are saved."
    if not isinstance(why, FitError):
        text += " The same command goes on from here."
    console.print(text, soft_wrap=True)


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left", no_wrap=bool(heading), overflow="fold")
    return table


def _label(fit: dict) -> str:
    return fit["solver"] if fit["fold"] is None else f"{fit['solver']}/{fit['fold']}"


def _scores(metrics: dict | None) -> list[str]:
    if metrics is None:
        return ["-"] * 4
    return [f"{metrics[part][metric]:.4f}" for part in ("train", "test") for metric in ("rmse", "mae")]


def _proof(certificate: dict | None) -> list[str]:
    if certificate is None:
        return ["-"] * 3
    bound = certificate["bound"]
    fresh = max(certificate["user"], certificate["item"])
    last = certificate["last_updated"]
    return [
        _marked(fresh, fresh <= bound),
        _marked(last, last <= bound or not certificate["last_updated_required"]),
        f"{certificate['stationarity']:.1e}",
    ]


def _marked(number: float, fine: bool) -> str:
    return f"{number:.1e}" if fine else f"[bold red]{number:.1e}[/]"


def _means(fits: list[dict]) -> dict[str, dict]:
    """Each solver's metrics averaged over its folds, where there are folds."""
    folds: dict[str, list[dict]] = {}
    for fit in fits:
        if fit["fold"] is not None and "metrics" in fit:
            folds.setdefault(fit["solver"], []).append(fit["metrics"])

    def mean(of: list[dict]) -> dict:
        return {part: {name: sum(each[part][name] for each in of) / len(of) for name in of[0][part]} for part in of[0]}

    return {solver: mean(metrics) for solver, metrics in folds.items()}


def _verdict(console: Console, fits: list[dict]) -> None:
    """What the numbers were held against, and the rows that failed, with the number that did."""
    proofs = [fit for fit in fits if "certificate" in fit]
    if not proofs:
        return
    bound = proofs[0]["certificate"]["bound"]
    console.print(f"worst backward error of a row, bound {bound:.0e} (last update: exact ALS only)")
    failed = [_label(fit) for fit in proofs if not fit["certificate"]["passed"]]
    if failed:
        console.print(f"[bold red]certificate FAILED[/]: {', '.join(failed)}", soft_wrap=True)
    else:
        console.print("[bold green]certificate passed[/]")


def _said(table: Any) -> str:
    """A config table in words: random, test_fraction 0.1, seed 0."""
    values = table.model_dump(exclude={"name"}, exclude_none=True)
    values |= values.pop("hyper", {})
    parts = []
    for key, value in values.items():
        if value is not False:
            parts.append(key if value is True else str(value) if key in ("kind", "preset") else f"{key} {value}")
    return ", ".join(parts)
