"""Runs the experiment of a config; certifies a run again from its files."""

import contextlib
import datetime
import os
import platform
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jaxlib
import numpy as np
import optax
from rich.console import Console

import jals

from ..errors import JalsError, StorageError
from ..files import as_path
from ..grids import memory_bytes
from . import config as configs
from . import cost, experiment, folder, plan
from . import terminal as said
from .session import Session, verdict
from .tables import Tables


def run(
    path: Path,
    out: Path | None,
    overwrite: bool,
    console: Console,
    changes: Sequence[str] = (),
    extend: bool = False,
) -> int:
    """Makes every fit of a config; shows and saves the results. A run that was stopped goes on.

    Args:
        changes: those of `config.load`; the folder then gets the config as changed.
        extend: the folder may hold a run of another config; the fits that both have are not made again.

    Returns: the exit code: 0; 1 when a fit (not a trial) broke down or a certificate failed; 130 when interrupted. What
        was fitted by then is saved in every case.

    Raises:
        JalsError: when the config, the folder or the data cannot be used; nothing has been fitted then.
    """
    path = as_path(path)
    config = configs.load(path, changes)
    place = as_path(out or config.output.folder or Path("runs", path.stem))
    asked = config.model_dump(mode="json", exclude_none=True)
    earlier = None if overwrite else _earlier(place, asked, extend)
    extend = extend and earlier is not None and bool(_differences(earlier["config"], asked))
    if earlier is not None:
        said.found(console, place, earlier, extend)
        if earlier["status"] == "finished" and (place / folder.PAGE).exists() and not extend:
            said.results(console, place, earlier["fits"])
            return verdict(earlier)
    folder.opened(place)
    started = time.perf_counter()
    begun = {"fits": [], "wall_seconds": 0.0, "started": datetime.datetime.now().astimezone().isoformat("T", "seconds")}
    record = (earlier or begun) | {
        "status": "running",
        "error": None,
        "versions": _versions(),
        "hardware": _hardware(),
        "command": _command(path, place, changes),
        "config": asked,
    }
    record = {"data": [], "programs": [], "loops": {}} | record
    if extend:
        record |= {"fits": [], "programs": [], "data": []}
    session = Session(place, config, record, started - record["wall_seconds"], console)
    session.tables.of(next(plan.studies(config)).fits({})[0])  # before the folder is touched: the data may be wrong
    if earlier is None or extend:
        text = configs.dump(config) if changes else path.read_bytes()  # first: it may be the one in the folder
        with folder.undisturbed():
            if earlier is None:
                folder.emptied(place)
            else:
                session.extend()
            folder.write(place / folder.CONFIG, text)
            session.write("running")
    return session.go()


def dry_run(path: Path, console: Console, changes: Sequence[str] = ()) -> int:
    """Shows every fit that a config stands for, with its passes, and its memory as far as the data can be read."""
    config = configs.load(path, changes)
    fits, tables, unread = [], [], {}
    for studies in plan.by_table(config):
        table, problem = None, studies[0].fits({})[0].config
        name = problem.data.source or problem.data.path
        try:
            table = experiment.Table(problem, experiment.read_data(problem))
        except (JalsError, ImportError) as error:
            unread[str(error)] = name
        else:
            size = table.size(next(iter(table.folds)))
            folds = len(table.folds) if table.masked else 1
            tables.append((name, cost.table_bytes(size, problem.fit.dtype, folds)))
        for study in studies:
            tried = study.tried
            chosen = {key: high for key, (_, high) in study.ranges.items()}  # it is not known yet, and may be these
            for planned in [*(study.trial(number, each) for number, each in enumerate(tried)), *study.fits(chosen)]:
                made = planned.solver.build()
                passes = (cost.passes_per_sweep(made) or 2) * planned.sweeps()
                size = 0 if table is None else cost.fit_bytes(made, table.size(study.fold), problem.fit.dtype)
                how = "one program" if planned.alone() is None else "alone"
                values = [f"{key.rpartition('.')[2]}={value}" for key, value in study.point.items()]
                tuning = "(trial)" if planned.descent is None else f"(descent of {planned.descent.steps} steps)"
                trial = [] if planned.trial is None else [tuning]
                fits.append((" ".join([planned.solver.label, *values, *trial]), passes, size, how))
    said.expanded(console, fits, tables)
    for why, name in unread.items():
        console.print(f"memory is unknown where {name} is the data: {why}", soft_wrap=True, markup=False)
    return 0


def certify(place: Path, console: Console) -> int:
    """Computes the certificates of a saved run again, from its config, the data and the saved factors alone.

    Returns: the exit code: 0, or 1 when a certificate fails.

    Raises:
        JalsError: when the files are missing or damaged, or the factors were fitted to other data.
    """
    place = as_path(place)
    record = folder.record(place)
    kept = [fit for fit in record["fits"] if fit["factors"] and fit["error"] is None]
    if not kept:
        none = "keeps no factors (output.factors = false)" if record["fits"] else "was stopped before its first fit"
        raise StorageError(f"the run in {place} {none}: there is nothing to certify.")
    config = configs.load(place / folder.CONFIG)
    tables = Tables(place, [], console)
    fits = []
    for fit in kept:
        planned = plan.of_record(config, fit).of_record(fit)
        table = tables.of(planned)
        saved = jals.load(place / fit["factors"])
        if saved.data_hash != table.folds[fit["fold"]].data_hash:
            raise StorageError(
                f"{place / fit['factors']} was fitted to other ratings than {place / folder.CONFIG} now leads to: "
                "the data or the split has changed since. Run the experiment again."
            )
        cert = experiment.certificate(planned.config, saved.factors, table.problem(fit["fold"]))
        fits.append(fit | {"certificate": experiment.judged(cert, planned.solver, fit["sweeps"])})
    said.certificates(console, fits)
    return 0 if all(fit["certificate"]["passed"] for fit in fits) else 1


def _earlier(place: Path, asked: dict, extend: bool) -> dict | None:
    """The record of an earlier run in the folder, of this very config unless it is to be extended, or None where there
    is no run.

    Raises:
        StorageError: when the folder holds a run of another config, which a new one would overwrite.
    """
    if strange := folder.strangers(place):
        raise StorageError(
            f"{place} is no folder of a run, but holds {', '.join(strange)}: a run would write over it. Choose another "
            "folder with --out, or let it be replaced with --overwrite."
        )
    if not (place / folder.RESULT).exists():
        return None
    earlier = folder.record(place)
    changed = _differences(earlier["config"], asked)
    if changed and not extend:
        listing = "".join(f"\n  {key}: {before} there, {now} here" for key, before, now in changed)
        raise StorageError(
            f"{place} holds a run of another config ({earlier['status']}):{listing}\n"
            "Keep it and choose another folder with --out, replace it with --overwrite, or with --extend keep the fits "
            "that both have and make the others."
        )
    return earlier


def _differences(before: Any, now: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    """(key, before, now) wherever two configs differ; where the output goes is no difference."""
    if isinstance(before, dict) and isinstance(now, dict):
        unlike = () if key else ("output", "question")
        keys = [name for name in dict.fromkeys([*before, *now]) if name not in unlike]
        pairs = [(f"{key}.{name}".lstrip("."), before.get(name), now.get(name)) for name in keys]
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = [(f"{key}[{place}]", one, other) for place, (one, other) in enumerate(zip(before, now, strict=True))]
    else:
        return [] if before == now else [(key, before, now)]
    return [difference for name, one, other in pairs for difference in _differences(one, other, name)]


def _versions() -> dict:
    return {
        "jals": jals.__version__,
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "optax": optax.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "device": jax.devices()[0].device_kind,
    }


def _hardware() -> dict:
    return {
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "memory_gib": round(memory_bytes() / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _command(path: Path, place: Path, changes: Sequence[str]) -> str:
    sets = [part for change in changes for part in ("--set", change)]
    return shlex.join(["jals", "run", str(path), "--out", str(place), *sets])
