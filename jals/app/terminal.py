"""What a run shows in the terminal: plain lines, and tables that fit 80 columns."""

import contextlib
import math
from collections import Counter
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from ..certificate import WHAT_UNJUDGED
from ..vocabulary import Vocabulary
from . import schema
from .experiment import label, refused
from .folder import FITS, PAGE, REPORT, RESULT

LINES = 20  # a line for each fit up to so many; beyond, a line a solver and point


def setting(console: Console, config: schema.Config, data: list[dict], folder: Path) -> None:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")  # paths have no blanks to break at
    if config.question:
        grid.add_row("question", config.question)
    for each in data:
        density = each["entries"] / (each["users"] * each["items"])
        shape = f"{each['users']:,} users x {each['items']:,} items, {each['entries']:,} entries ({density:.2%})"
        grid.add_row("data", f"{each['name']}: {shape}")
    for name in ("split", "objective", "problem", "fit"):
        grid.add_row(name, _said(getattr(config, name)))
    for solver in config.solver:
        grid.add_row("solver", _said(solver) if solver.name is None else f"{solver.name}: {_said(solver)}")
    for key, values in config.grid.items():
        grid.add_row("grid", f"{key}: {', '.join(map(str, values))}")
    for key, (low, high) in config.tune.range.items() if config.tune else ():
        tune = config.tune
        how = tune.sampler if tune.method == "random" else tune.method
        what = "steps" if tune.method == "hypergradient" else "trials"
        many = f"{tune.trials} {what}" if tune.seconds is None else f"at most {tune.trials} {what}, {tune.seconds:g} s"
        grid.add_row("tune", f"{key}: {low:g} to {high:g}, {many}, {how}")
    grid.add_row("output", str(folder))
    console.print(grid)
    console.print()


def expanded(console: Console, fits: list[tuple[str, int, float, str]], tables: list[tuple[str, float]]) -> None:
    """The fits that a config stands for: (name, passes, bytes, how it runs); and (table, bytes of its problem)."""
    table = _table("", "fits", "passes\neach", "MiB\neach", "how")
    rows: dict[tuple, int] = {}
    for name, passes, size, how in fits:
        row = (name, f"{passes:,}", f"{size / 2**20:,.1f}", how)
        rows[row] = rows.get(row, 0) + 1
    for (name, passes, size, how), count in rows.items():
        table.add_row(name, f"{count:,}", passes, size, how)
    console.print(table)
    total = sum(passes for _, passes, _, _ in fits)
    console.print(f"{len(fits):,} fits, at most {total:,} passes over the entries in all", soft_wrap=True)
    for name, size in tables:
        console.print(f"{name}: about {size / 2**20:,.0f} MiB on the device beside the fits", soft_wrap=True)


def progress(console: Console, name: str, fit: dict) -> None:
    """One line when a fit has ended."""
    sweeps = fit["history"]["sweep"][-1] if fit["history"]["sweep"] else 0
    seconds = f" in {fit['history']['seconds'][-1]:.2f} s" if fit["history"].get("seconds") else ""
    kept = "" if fit["sweeps"] == sweeps else f", the factors of sweep {fit['sweeps']} kept"
    if fit.get("descent", {}).get("best"):
        steps, passes = fit["descent"]["steps"], fit["history"]["passes"][-1]
        best = f"validation RMSE {min(fit['history']['validation'][1:]):.4f} at step {fit['descent']['best']}"
        numbers = ", ".join(f"{key.rpartition('.')[2]} {number:.4g}" for key, number in fit["tuned"].items())
        console.print(f"{name}: {steps} steps, {passes:,} passes; {best}, {numbers}", soft_wrap=True)
        return
    bare = fit["reason"] in ("interrupted", "diverged", "singular")
    end = fit["reason"] if bare else f"ended by {fit['reason']}"
    console.print(f"{name}: {sweeps} sweeps{seconds}{kept}; {end}", soft_wrap=True)


def chunk(console: Console, fits: list, seconds: float) -> None:
    """One line when the fits of a program have ended."""
    console.print(f"{fits[0].solver.label}: {len(fits)} fits in one program, {seconds:.2f} s", soft_wrap=True)


def results(console: Console, place: Path, fits: list[dict]) -> None:
    """A line a fit; of many fits, or several seeds or points, a line a solver and point, as in the report."""
    fits = [fit for fit in fits if fit["trial"] is None]
    proven = [fit for fit in fits if "certificate" in fit]
    if not proven:
        return
    headings = ("train\nRMSE", "train\nMAE", "test\nRMSE", "test\nMAE")
    if len(fits) > LINES or any(fit["point"] for fit in fits) or len({fit["seed"] for fit in fits}) > 1:
        from .report import records
        from .report import table as statistics

        table = _table("", "fits", "test\nRMSE", "± se", "test\nMAE", "± se", "statio-\nnarity")
        for row in statistics.rows(records.read([place])):
            if row.fits:
                means = [row.means[name] for name in ("test RMSE", "test MAE")]
                numbers = [f"{number:.4f}".replace("nan", "-") for mean in means for number in (mean.mean, mean.error)]
                worst = "-" if row.stationarity is None else f"{row.stationarity:.1e}"
                name = label(row.fits[0].record | {"fold": None})
                table.add_row(name, str(len(row.fits)), *numbers, worst)
    else:
        proof = ("fresh\nupdate", "last\nupdate", "statio-\nnarity", "s per\nsweep", "s com-\npiling")
        table = _table("", *headings, *proof)
        for fit in fits:
            sweeps, seconds = fit["history"]["sweep"][-1:], fit["history"].get("seconds")
            table.add_row(
                label(fit),
                *_scores(fit.get("metrics")),
                *_proof(fit.get("certificate")),
                f"{seconds[-1] / sweeps[0]:.3f}" if seconds and sweeps[0] else "-",
                f"{fit['compile_seconds']:.2f}",
            )
        for name, group in _grouped(proven).items():
            if len(group) > 1:
                table.add_row(f"{name} mean", *_scores(_mean([fit["metrics"] for fit in group])))
    console.print(table)
    _verdict(console, fits)


def certificates(console: Console, fits: list[dict]) -> None:
    table = _table("", "fresh\nupdate", "last\nupdate", "statio-\nnarity", "sweeps")
    for fit in fits:
        table.add_row(label(fit), *_proof(fit["certificate"]), str(fit["sweeps"]))
    console.print(table)
    _verdict(console, fits)


def found(console: Console, place: Path, earlier: dict, extend: bool) -> None:
    """What an earlier run of the same config, or of one to be extended, has left in the folder."""
    ended = [fit for fit in earlier["fits"] if fit["reason"] not in ("running", "interrupted")]
    begun = earlier["started"].replace("T", " ")
    config = "another config, to be extended" if extend else "this config"
    console.print(f"found in {place}: a run of {config}, begun {begun}", soft_wrap=True)
    if extend:
        has = f"It has {_count(len(ended))}; those that this config has too are not made again."
        console.print(f"{has}\n", soft_wrap=True)
        return
    if earlier["status"] == "finished":
        drawn = "" if (place / PAGE).exists() else " but for its page"
        console.print(f"It is finished{drawn}; --overwrite fits it again.\n")
        return
    parts = [f"{_count(len(ended))} done"] if ended else []
    parts += [
        f"{label(fit)} stopped after {fit['history']['sweep'][-1]} sweeps"
        for fit in earlier["fits"]
        if fit not in ended
    ]
    what = "; ".join(parts) or "nothing fitted yet"
    status = _STATUS[earlier["status"]]
    console.print(f"It is {status}: {what}. Going on from there; --overwrite starts again.\n", soft_wrap=True)


def _count(fits: int) -> str:
    return "1 fit" if fits == 1 else f"{fits:,} fits"


_STATUS = {"running": "unfinished", "interrupted": "interrupted"}


def waiting(console: Console, what: str) -> contextlib.AbstractContextManager:
    """A spinner while something takes its time; nothing in a log file."""
    return console.status(f"{what} ...") if console.is_terminal else contextlib.nullcontext()


def saved(console: Console, place: Path, record: dict) -> None:
    names = [fit["factors"] for fit in record["fits"] if fit["factors"]]
    if not record["fits"]:
        return
    if len(names) > 6:
        names = [f"{len(names)} files of factors"]
    names += [name for name in (FITS, PAGE, f"{REPORT}/{PAGE}") if (place / name).exists()]
    console.print(f"saved {place / RESULT} and, beside it, {', '.join(names)}", soft_wrap=True)


def broken(console: Console, fits: list[dict], vocab: Vocabulary | None) -> None:
    """The fits that broke down, with the outside id of a row that failed."""
    wrong = [fit for fit in fits if fit["error"] is not None]
    counted = [fit for fit in wrong if fit["trial"] is None]
    for fit in counted[:LINES]:
        error = fit["error"]
        text = f"{label(fit)} broke down at {error['message'].removesuffix('.')}."
        if vocab is not None and "row" in error:
            text += f" That row is the {error['side']} with id {getattr(vocab, error['side'])[error['row']]}."
        console.print(text, soft_wrap=True)
    for what, others in (("fits", len(counted[LINES:])), ("trials", len(wrong) - len(counted))):
        if others:
            console.print(f"{others:,} {what} broke down; {FITS} says at which sweep.", soft_wrap=True)


def stopped(console: Console, why: BaseException, record: dict) -> None:
    """Why a run ended early."""
    text = (str(why) or "interrupted").removesuffix(".") + "."
    if any(fit["reason"] == "interrupted" for fit in record["fits"]):
        text += " The factors of the last finished sweep are saved."
    console.print(text + " The same command goes on from here.", soft_wrap=True)


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left", no_wrap=bool(heading), overflow="fold")
    return table


def _scores(metrics: dict | None) -> list[str]:
    if metrics is None:
        return ["-"] * 4
    return [f"{metrics[part][metric]:.4f}" for part in ("train", "test") for metric in ("rmse", "mae")]


def _proof(certificate: dict | None) -> list[str]:
    if certificate is None:
        return ["-"] * 3
    bound, last = certificate["bound"], certificate["last_updated"]
    fresh = [certificate[side] for side in ("user", "item") if certificate[side] is not None]
    stationarity = certificate["stationarity"]
    return [
        _marked(max(fresh, default=None), bound),
        _marked(last, bound if certificate["last_updated_required"] else math.inf),
        "-" if stationarity is None or math.isnan(stationarity) else f"{stationarity:.1e}",
    ]


def _marked(number: float | None, bound: float) -> str:
    """A backward error, in red over the bound; "-" where no row could be judged."""
    if number is None:
        return "-"
    return f"{number:.1e}" if number <= bound else f"[bold red]{number:.1e}[/]"


def _grouped(fits: list[dict]) -> dict[str, list[dict]]:
    """The fits that differ in seeds and folds only."""
    groups: dict[str, list[dict]] = {}
    for fit in fits:
        groups.setdefault(label(fit | {"fold": None}), []).append(fit)
    return groups


def _mean(of: list[dict]) -> dict:
    return {part: {name: sum(each[part][name] for each in of) / len(of) for name in of[0][part]} for part in of[0]}


def _verdict(console: Console, fits: list[dict]) -> None:
    """What the numbers were held against, and the rows that failed, with the number that did."""
    proofs = [fit for fit in fits if "certificate" in fit]
    if not proofs:
        return
    bound = proofs[0]["certificate"]["bound"]
    console.print(f"worst backward error of a row, bound {bound:.0e} (last update: exact ALS only)")
    failed = Counter(label(fit) for fit in proofs if refused(fit["certificate"]) is not None)
    if failed:
        names = [name if count == 1 else f"{name} ({count} fits)" for name, count in failed.items()]
        console.print(f"[bold red]certificate FAILED[/]: {', '.join(names)}", soft_wrap=True)
    unjudged: Counter[str] = Counter()
    for fit in proofs:
        unjudged[label(fit)] += fit["certificate"].get("unjudged", 0)
    if unjudged := +unjudged:
        names = [f"{name} ({count:,} row{'s' * (count > 1)})" for name, count in unjudged.items()]
        console.print(f"[bold red]certificate NOT JUDGED[/]: {', '.join(names)}. {WHAT_UNJUDGED}", soft_wrap=True)
    if all(fit["certificate"]["passed"] for fit in proofs):
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
