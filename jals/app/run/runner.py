"""Runs the experiment of a config; certifies a run again from its files."""

import contextlib
import dataclasses
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

from ...data.sources import as_path
from ...errors import ConfigError, JalsError, StorageError
from ...files.runs import folder
from ...files.runs.record import RunRecord
from ...fitting.grids import memory_bytes
from ...solvers.costs import held_bytes
from .. import config as configs
from ..config.schema import Config
from ..show import printing
from ..study import plan
from . import lock, ranks, scores
from .data import Tables, read_data, split_table
from .lock import FolderLock
from .session import Session, verdict
from .signals import catch_stops, defer_stops


def run(
    path: Path, out: Path | None, overwrite: bool, console: Console, changes: Sequence[str] = (), extend: bool = False
) -> int:
    """Makes every fit of a config; shows and saves the results. A run that was stopped goes on.

    Args:
        changes: those of `config.load`; the folder then gets the config as changed.
        extend: the folder may hold a run of another config; the fits that both have are not made again.

    Returns: the exit code: 0; 1 when a fit (not a trial) broke down or a certificate failed; 130 when interrupted by
        Ctrl-C, 143 by SIGTERM, 129 by SIGHUP. What was fitted by then is saved in every case.

    Raises:
        JalsError: when the config, the folder or the data cannot be used, or another run is under way in the folder;
            nothing has been fitted then. And when the folder is removed or damaged while the run is under way.
    """
    path = as_path(path)
    config = configs.load(path, changes)
    if ranks.several() and (found := config.unshared()):
        listing = "".join(f"\n  {key} {why}" for key, why in found)
        raise ConfigError(f"{path} cannot be run by {jax.process_count()} processes:{listing}")
    place = folder_of(path, config, out)
    ranks.from_first(lambda: folder.prepare(place))
    with catch_stops() as stop, ranks.from_first_alone(lambda: FolderLock(place), lock.Follower(place)) as held:
        try:
            code = _run(held, path, config, overwrite, console, changes, extend)
        except KeyboardInterrupt as stopped:
            raise stop.named(stopped) from None
        return stop.code if code == 130 else code


def folder_of(path: Path, config: Config, out: Path | None) -> Path:
    """Where a run is written."""
    return as_path(out or config.output.folder or Path("runs", path.stem))


def _run(
    held: Any,
    path: Path,
    config: Config,
    overwrite: bool,
    console: Console,
    changes: Sequence[str],
    extend: bool,
) -> int:
    place, started = held.folder, time.perf_counter()
    run = RunRecord(
        status="running",
        started=datetime.datetime.now().astimezone().isoformat("T", "seconds"),
        wall_seconds=0.0,
        versions=_versions(),
        hardware=_hardware(),
        command=_command(path, place, changes),
        config=configs.tables(config),
        modules={name: file for solver in config.solver for name, file in solver.module.items()} or None,
        data=[],
        programs=[],
        loops={},
    )
    earlier = None if overwrite else ranks.from_first(lambda: _earlier(place, run, extend, console))
    extend = extend and earlier is not None and bool(_differences(_decisive(earlier.run, place), _decisive(run, place)))
    if earlier is not None:
        printing.print_found(console, place, earlier, extend)
        drawn = ranks.from_first(lambda: (place / (folder.REPORT if ranks.several() else folder.PAGE)).exists())
        if earlier.run.status == "finished" and drawn and not extend:
            printing.print_results(console, place, earlier)
            return verdict(earlier)
    ranks.from_first(lambda: folder.remove_leftovers(place))
    fits = []
    if earlier is not None:
        run.started, run.wall_seconds, run.loops = earlier.run.started, earlier.run.wall_seconds, earlier.run.loops
        run.baselines, run.references = earlier.run.baselines, earlier.run.references
        if not extend:
            run.data, run.programs, fits = earlier.run.data, earlier.run.programs, earlier.fits
    session = Session(held, config, folder.StoredRun(run, fits, None), started - run.wall_seconds, console)
    for planned in next(plan.studies(config)).firsts:  # before the folder is touched: the data may be wrong
        session.tables.of(planned)
    if earlier is None or extend or not ranks.from_first(lambda: _kept(place, config)):
        text = configs.dump(config) if changes else path.read_bytes()  # first: it may be the one in the folder
        with defer_stops():
            if earlier is None:
                ranks.from_first(lambda: folder.remove_run(place))
            elif extend:
                session.extend()
            ranks.from_first(lambda: folder.write(place / folder.CONFIG, text))
            session.write("running")
    return session.make_all()


def _kept(place: Path, config: Config) -> bool:
    """Whether the folder holds this config, and whole."""
    try:
        there = configs.load(place / folder.CONFIG, classes=False)
    except ConfigError:
        return False
    return not _differences(configs.decisive(there), configs.decisive(config))


def _decisive(run: RunRecord, place: Path) -> dict[str, Any]:
    """What two runs must have in common for the fits of the one to be those of the other."""
    tables = configs.decisive(configs.config_of_run(run, place))
    return tables | ({"modules": run.modules} if run.modules else {})


def dry_run(path: Path, console: Console, changes: Sequence[str] = ()) -> int:
    """Shows every fit that a config stands for, with its passes, and its memory as far as the data can be read."""
    config = configs.load(path, changes)
    fits, tables, unread = [], [], {}
    for studies in plan.by_table(config):
        table, problem = None, studies[0].fits({})[0].config
        name = problem.data.source or problem.data.path
        try:
            table = split_table(problem, read_data(problem))
        except (JalsError, ImportError) as error:
            unread[str(error)] = name
        else:
            tables.append((name, table.forecast_bytes()))
        for study in studies:
            tried = study.tried
            chosen = {key: high for key, (_, high) in study.ranges.items()}  # it is not known yet, and may be these
            for planned in [*(study.trial(number, each) for number, each in enumerate(tried)), *study.fits(chosen)]:
                passes = (planned.traits.passes_per_sweep or 2) * planned.sweeps()
                size = 0 if table is None else held_bytes(planned.traits, table.size(study.fold), problem.fit.dtype)
                how = "one program" if planned.why_alone() is None else "alone"
                values = [f"{key.rpartition('.')[2]}={value}" for key, value in study.point.items()]
                tuning = "(trial)" if planned.descent is None else f"(descent of {planned.descent.steps} steps)"
                trial = [] if planned.trial is None else [tuning]
                fits.append((" ".join([planned.solver.label, *values, *trial]), passes, size, how))
    printing.print_plan(console, fits, tables)
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
    found = folder.read(place)
    kept = [(fit, fit.factors) for fit in found.all if fit.factors and fit.error is None]
    if not kept:
        none = "keeps no factors (output.factors = false)" if found.all else "was stopped before its first fit"
        raise StorageError(f"the run in {place} {none}: there is nothing to certify.")
    config = configs.on_one_device(configs.load(place / folder.CONFIG))
    tables = Tables(place, [], console)
    fits = []
    for fit, name in kept:
        planned = plan.study_of_fit(config, fit).planned_fit(fit)
        table = tables.of(planned)
        saved = jals.load(place / name)
        if saved.data_hash != table.folds[fit.fold].data_hash:
            raise StorageError(
                f"{place / name} was fitted to other ratings than {place / folder.CONFIG} now leads to: "
                "the data or the split has changed since. Run the experiment again."
            )
        cert = scores.certify_fit(planned.config, saved.factors, table.problem(fit.fold))
        fits.append(fit.changed(certificate=scores.proof_of(cert, planned.solver, fit.sweeps)))
    printing.print_certificates(console, fits)
    return 0 if all(fit.certificate.passed for fit in fits) else 1


def _earlier(place: Path, run: RunRecord, extend: bool, console: Console) -> folder.StoredRun | None:
    """What there is of an earlier run in the folder, of the same config unless it is to be extended, or None where
    there is no run.

    Raises:
        StorageError: when the folder holds a run of another config, which a new one would overwrite, or a damaged one.
    """
    if strange := folder.unrelated_files(place):
        raise StorageError(
            f"{place} holds no {folder.RESULT}, and so no run, but {', '.join(strange)}: a run would write over it. "
            "Choose another folder with --out, or let it be replaced with --overwrite."
        )
    if not (place / folder.RESULT).exists():
        return None
    earlier = folder.read(place, under_way=False)
    changed = _differences(_decisive(earlier.run, place), _decisive(run, place))
    if changed and not extend:
        listing = "".join(f"\n  {key}: {before} there, {now} here" for key, before, now in changed)
        raise StorageError(
            f"{place} holds a run of another config ({earlier.run.status}):{listing}\n"
            "Keep it and choose another folder with --out, replace it with --overwrite, or with --extend keep the fits "
            "that both have and make the others."
        )
    if earlier.run.status == "finished":
        return earlier
    try:
        return dataclasses.replace(earlier, unfinished=folder.unfinished_fit(place))
    except StorageError as damaged:  # only that fit is lost
        console.print(f"{damaged} That fit begins anew.", soft_wrap=True)
        folder.clear_unfinished(place)
        return earlier


def _differences(before: Any, now: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    """(key, before, now) wherever two configs differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = dict.fromkeys([*before, *now])
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
