"""The loss that contestants are measured against: that of the minimum which the best of them was on its way to.

A contestant's own lowest loss is no such measure: whoever reached it would be the first at a goal that it set itself.
The loss has many minima, so that the solve starts from the factors of the fit of the lowest loss: it goes down from
there, in float64, to the minimum of that fit's own basin, which is below every curve of the problem.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from rich.console import Console

import jals

from ...data.sources import as_path
from ...errors import JalsError, StorageError
from ...files.runs import folder
from ...files.runs.record import ReferenceRecord
from .. import config as configs
from ..show.printing import spinner_during
from ..show.report import gathering
from ..show.report.competitors import ComparedFit
from ..study import plan
from .data import Tables
from .lock import FolderLock, Follower

STATIONARITY = 1e-6  # of a certificate: where a fit counts as converged
BETWEEN, MOST = 50, 5000  # sweeps from one certificate to the next, and in all


def solve(held: FolderLock | Follower, console: Console) -> None:
    """Solves for the reference of every problem of a run that has none, and writes each into the run's record once it
    is there: a stop loses one at most. One that cannot be solved for is told, and left out.

    Raises:
        JalsError: when the run, or its data, cannot be read, or its folder is not its own any more.
    """
    place = held.folder
    run = folder.read(place).run
    config = configs.on_one_device(configs.load(place / folder.CONFIG))
    tables = Tables(place, [], console)
    leads = _leads(gathering.read([place]).fits)
    run.references = [each for each in run.references if each.fit in leads]
    for lead in [lead for key, lead in leads.items() if key not in {each.fit for each in run.references}]:
        planned = plan.study_of_fit(config, lead.record).planned_fit(lead.record)
        try:
            with spinner_during(console, f"solving for the minimum below {lead.record.label}"):
                run.references.append(_solved(place, lead, planned, tables))
        except JalsError as error:
            console.print(f"no reference for {lead.record.label}: {error}", soft_wrap=True, markup=False)
            continue
        held.check()
        if run.status == "finished":
            folder.seal(place, run)
        else:
            folder.write_run(place, run)


def solve_in(place: Path, console: Console) -> None:
    """`solve` in a folder that no run is under way in. Raises as `solve`."""
    place = as_path(place)
    folder.read(place)  # before a lock is laid into what may be no run's folder
    with FolderLock(place) as held:
        solve(held, console)


def _leads(fits: list[ComparedFit]) -> dict[str, ComparedFit]:
    """By key, of each problem the fit whose factors have the lowest loss."""
    best: dict[tuple, ComparedFit] = {}
    for fit in fits:
        if fit.loss is not None and not fit.broken:
            before = best.get(fit.problem)
            if before is None or before.loss is None or fit.loss < before.loss:
                best[fit.problem] = fit
    return {fit.record.key: fit for fit in best.values()}


def _solved(place: Path, lead: ComparedFit, planned: plan.PlannedFit, tables: Tables) -> ReferenceRecord:
    if lead.record.factors is None:
        raise StorageError("the run keeps no factors (output.factors = false).")
    table = tables.of(planned)
    saved = jals.load(place / lead.record.factors)
    if saved.data_hash != table.folds[lead.fold].data_hash:
        raise StorageError("the data or the split has changed since the run was made.")
    objective = planned.config.objective.build()
    with _float64():
        problem = table.in_float64(lead.fold)
        start = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), saved.factors)
        solver, result = jals.AndersonALS(rank=start.rank), start
        for sweeps in range(BETWEEN, MOST + 1, BETWEEN):
            result = jals.fit(solver, problem, objective, sweeps=sweeps, init=result, loss_every=BETWEEN)
            stationarity = float(jals.certify(result.factors, problem, objective).stationarity)
            if not stationarity > STATIONARITY:
                break
        return ReferenceRecord(
            fit=lead.record.key,
            solver="AndersonALS",
            loss=float(jals.loss(result.factors, problem, objective)),
            stationarity=stationarity,
            reached=stationarity <= STATIONARITY,
            sweeps=result.done,
            passes=int(result.history.passes[-1]),
            seconds=float(result.history.seconds[-1]),
        )


@contextlib.contextmanager
def _float64() -> Iterator[None]:
    """jax's switch on, and afterwards as it was: what a run draws next is of its own dtype."""
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)
