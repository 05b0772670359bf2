"""A run under way: which fits exist, which have to be made, and what is saved of each."""

import dataclasses
import math
import time
from typing import Any

import jax
from rich.console import Console

import jals

from ...errors import FitError, Interrupted, StorageError
from ...files.runs import folder
from ...files.runs.record import FitRecord, Loop, Program
from ...solvers import costs
from ..config.schema import Config
from ..show import printing
from ..show.page import DrawnFit
from ..show.page import write as write_page
from ..show.progress_bar import Watch
from ..study import best_fit, plan
from ..study.plan import PlannedFit, Study
from ..study.search import Search
from . import baselines, checkpoint, gradient_tuning, ranks, reference, scores
from .data import SplitTable, Tables
from .fit_group import FitGroup
from .keeper import Keeper, Keeping, over_budget
from .lock import FolderLock, Follower
from .signals import defer_stops

_WORTH_KEEPING = 10.0  # seconds of a fit that a stop between its end and its record is not to cost
_DRAWN = 6  # solvers that the page looks at closely


class Session:
    """A run under way. `run` is the content of result.json; a fit's line is written after the files that it names, so
    that the folder is consistent whenever the run is stopped. Of a run by several processes each has one of these, and
    the first's reads and writes the folder.

    Attributes:
        done: the fits that have ended, by key: the lines of fits.jsonl whose factors are whole.
    """

    def __init__(
        self, held: FolderLock | Follower, config: Config, found: folder.StoredRun, started: float, console: Console
    ):
        self.held, self.place, self.run, self.console = held, held.folder, found.run, console
        self.config, self.started = config, started
        whole, self.spoilt = ranks.from_first(lambda: folder.split_intact(self.place, found.fits))
        self.done = {fit.key: fit for fit in whole}
        self.wanted: set[str] = set()  # baselines of this config, by key
        self.earlier = self.earlier_fits()
        self.keeper = Keeper(held, self.config)
        self.watch = Watch(console)
        self.tables = Tables(self.place, self.run.data, console)
        self.kept: checkpoint.Checkpoints | None = None  # of the fit under way
        self.stops = ranks.StopsTogether()
        if ranks.several():
            self.stops.listen()

    def make_all(self) -> int:
        stopped = None
        printing.print_setting(self.console, self.config, self.run.data, self.place)
        printing.print_damaged(self.console, self.place, self.spoilt)
        try:
            with self.watch:
                for studies in plan.by_table(self.config):
                    first = studies[0].fits({})[0]
                    self.measure_baselines(first, self.tables.of(first))
                    self.tune_and_fit(studies)
        except KeyboardInterrupt as error:
            stopped = error
        with defer_stops():
            found = ranks.from_first(lambda: self.finish(stopped))
            printing.print_results(self.console, self.place, found)
        if stopped is None and ranks.is_first():  # who presses Ctrl-C wants to leave
            if self.config.output.reference:
                reference.solve(self.held, self.console)
            with printing.spinner_during(self.console, "drawing the page"):
                self.draw()
        self.held.check()
        printing.print_saved(self.console, self.place, found)
        printing.print_broken(self.console, found.fits, self.tables.vocab())
        if stopped is not None:
            printing.print_stopped(self.console, stopped, found)
        return self.stops.code or verdict(found)

    def finish(self, stopped: BaseException | None) -> folder.StoredRun:
        """Writes what the run has come to, and reads it as any other reader would.

        Raises:
            StorageError: when the folder has lost what the run had saved there.
        """
        self.held.check()
        self.run.error = None if stopped is None else str(stopped) or "interrupted"
        kept = {fit.key: fit for fit in folder.ended_fits(self.place)}
        if lost := self.done.keys() - kept.keys():
            raise StorageError(
                f"{self.place / folder.FITS} has lost {len(lost):,} of the lines that the run had written. The same "
                "command makes those fits again."
            )
        for place, program in enumerate(self.run.programs):  # a kill may have come between fit and count
            program.fits = sum(fit.program == place for fit in kept.values())
        self.run.wall_seconds = time.perf_counter() - self.started
        if stopped is None:
            self.run.baselines = [each for each in self.run.baselines if each.key in self.wanted]
            folder.forget_earlier(self.place)
            folder.clear_unfinished(self.place)  # a kill may have come between the last fit's line and this
            folder.seal(self.place, self.run)
        else:
            self._write("interrupted")
        return folder.read(self.place)

    def write(self, status: Any) -> None:
        ranks.from_first(lambda: self._write(status))

    def _write(self, status: Any) -> None:
        self.held.check()
        self.run.status, self.run.wall_seconds = status, time.perf_counter() - self.started
        folder.write_run(self.place, self.run)

    def extend(self) -> None:
        """Sets the fits of the run in the folder aside: those that this config has too are taken from there."""
        ranks.from_first(lambda: folder.set_aside(self.place))
        self.earlier = self.earlier_fits()
        self.done = {}

    def earlier_fits(self) -> dict[str, FitRecord]:
        """Fits of another config that this one extends, whose factors are whole."""
        earlier = ranks.from_first(lambda: folder.earlier_fits(self.place)).values()
        whole, _ = ranks.from_first(lambda: folder.split_intact(self.place, earlier))
        return {fit.key: fit for fit in whole}

    def measure_baselines(self, planned: PlannedFit, table: SplitTable) -> None:
        """Those of the config on each fold of a table that have not been measured yet."""
        for fold in table.folds if self.config.baseline else ():
            for each in self.config.baseline:
                wanted = baselines.key(each, planned, table, fold)
                self.wanted.add(wanted)
                if wanted not in {made.key for made in self.run.baselines}:
                    with self.watch.fit(each.label if fold is None else f"{each.label}/{fold}"):
                        made = baselines.measure(each, planned, table, fold)
                    with defer_stops():
                        self.run.baselines.append(made)
                        self.write("running")

    def tune_and_fit(self, studies: list[Study]) -> None:
        """Tunes studies whose trials share a table, and makes their fits, which share one too."""
        tune = self.config.tune
        metric = self.config.fit.metric
        searches = [Search(tune, study.ranges, study.seconds, metric) if tune else None for study in studies]
        trials: list[list[PlannedFit]] = [[] for _ in studies]
        while True:
            asked = []
            for study, search, made in zip(studies, searches, trials, strict=True):
                tried = search.ask() if search is not None else []
                asked.append([study.trial(len(made) + place, numbers) for place, numbers in enumerate(tried)])
                made += asked[-1]
            if not any(asked):
                break
            together = [planned for some in asked for planned in some]
            self.tables.of(together[0])
            self.make_fits(together)
            for search, some in zip(searches, asked, strict=True):
                if search is not None and some:
                    search.tell([self.done[planned.key(self.tables.latest.hash)] for planned in some])
        chosen = [search.chosen() if search is not None else {} for search in searches]
        fits = [each for study, numbers in zip(studies, chosen, strict=True) for each in study.fits(numbers)]
        self.tables.of(fits[0])
        self.make_fits(fits)

    def make_fits(self, planned: list[PlannedFit]) -> None:
        """Makes those of the fits that are not there: alone, or as one program those that can share one."""
        table = self.tables.latest
        units: dict[Any, list[PlannedFit]] = {}
        for each in planned:
            alone = each.why_alone() is not None
            shared = None if alone else (each.program_key(), None if table.masked else each.fold)
            units.setdefault(shared or each.key(table.hash), []).append(each)
        self.watch.begin([self.weight(each) for each in planned])
        for members in units.values():
            keys = [each.key(table.hash) for each in members]
            self.reuse(members, keys)
            missing = [each for each, key in zip(members, keys, strict=True) if key not in self.done]
            own = [each for each, key in zip(members, keys, strict=True) if not self.taken_over(key)]
            for each in members:
                if each not in missing:
                    self.watch.advance(self.weight(each), made=False)
            if missing and len(own) > 1:
                self.fit_together(table, own)
            elif missing:
                self.fit_alone(table, *missing)

    def reuse(self, members: list[PlannedFit], keys: list[str]) -> None:
        """Takes over the fits that the run before has, where this config extends another."""
        kept = [
            self.earlier[key].changed(point=each.point, program=None, **({} if each.descent else {"tuned": each.tuned}))
            for each, key in zip(members, keys, strict=True)
            if key in self.earlier and key not in self.done
        ]
        if kept:
            self.add(kept)

    def taken_over(self, key: str) -> bool:
        """Whether a fit comes from the run before, so that no program of this one makes it."""
        return key in self.done and self.done[key].program is None

    def add(self, fits: list[FitRecord]) -> None:

        def added() -> None:
            self.held.check()
            folder.append(self.place, fits)

        ranks.from_first(added)
        self.done |= {fit.key: fit for fit in fits}

    def weight(self, planned: PlannedFit) -> float:
        """For the time left: the seconds that a fit may take, else its estimated operations."""
        if planned.config.fit.seconds is not None and planned.descent is None:
            return planned.config.fit.seconds
        size = self.tables.latest.size(planned.fold)
        sweeps = min(planned.sweeps(), 1000)
        of, objective = planned.traits, planned.config.objective.build()
        passes = (of.passes_per_sweep or 4) * sweeps
        work = float(of.operations(objective, size, sweeps, passes))
        return work if math.isfinite(work) else passes * costs.terms(planned.solver.rank, objective, size).one_pass

    # Fits that run alone.

    def fit_alone(self, table: SplitTable, planned: PlannedFit) -> None:
        """Fits, proves and keeps one fit."""
        why = planned.why_alone() or "no other fit shares its program"
        program = self.program_index(planned, "one by one", why)
        began, changes = time.monotonic(), {}
        if planned.descent is not None:
            with self.watch.fit(planned.name) as watch:
                result, error, changes = gradient_tuning.run_descent(table, planned, planned.descent, watch)
        else:
            result, error = self.run_fit(table, planned, program)
        (long,) = ranks.any_of(time.monotonic() - began > _WORTH_KEEPING)
        if error is None and planned.descent is None and long:
            kept = self.kept or self.keeper.checkpoints(table, planned)
            self.keeper.save_checkpoint(table, planned, result, kept, program)
        self.close_checkpoints()
        with defer_stops():
            fit = self.keeper.finish(table, planned, result, error, program).changed(**changes)
            self.add([fit])
            ranks.from_first(lambda: folder.clear_unfinished(self.place))
            self.count(program, 1, result)
            self.write("running")
        self.watch.advance(self.weight(planned))
        if len(self.done) <= printing.LINES:
            printing.print_fit_end(self.console, planned.name, fit)

    def run_fit(self, table: SplitTable, planned: PlannedFit, program: int) -> tuple[jals.Result, FitError | None]:
        """(result, None), or (what there was by then, why it broke down)."""
        settings = planned.config.fit
        problem = table.problem(planned.fold)
        made, objective = planned.solver.build(), planned.config.objective.build()
        init = self.restore(table, planned, made, problem, objective)
        if init is not None and init.reason not in ("running", "interrupted"):
            return init, None  # the run was killed between its end and its line
        if init is not None and _budget_spent(settings, init.history.last()):
            return dataclasses.replace(init, reason="callback"), None
        kept = self.kept or self.keeper.checkpoints(table, planned)
        self.kept = kept
        keep = Keeping(self.keeper, (table, planned, kept, program), self.stops, self.console)

        try:
            with self.watch.fit(planned.name, settings) as watch:
                result = jals.fit(
                    made,
                    problem,
                    objective,
                    sweeps=planned.sweeps(),
                    key=jax.random.key(settings.seed),
                    tol=settings.tol,
                    init=init,
                    validation=table.validation(planned.fold, settings.metric),
                    metric=settings.metric,
                    patience=settings.patience,
                    loss_every=settings.loss_every,
                    callbacks=[watch, keep, lambda at: _budget_spent(settings, at)],
                )
        except FitError as error:
            return error.result, error
        except Interrupted as stopped:
            if stopped.result.history.sweep:  # else the sweep was still being compiled
                try:
                    self.keeper.save_checkpoint(table, planned, stopped.result, kept, program)
                except StorageError as full:
                    raise self.keeper.rescue_factors(table, planned, stopped.result, full) from full
                self.close_checkpoints()
                line = self.keeper.record(table, planned, stopped.result, None, program)
                printing.print_fit_end(self.console, planned.name, line)
            raise
        return result, None

    def restore(
        self, table: SplitTable, planned: PlannedFit, solver: Any, problem: Any, objective: Any
    ) -> jals.Result | None:
        """The result in the fit's checkpoint, or None. Of a damaged checkpoint only its own fit starts anew."""
        key = planned.key(table.hash)
        try:
            kept = ranks.from_first(lambda: folder.unfinished_fit(self.place))
            if kept is not None and kept.key == key:
                result, damaged = checkpoint.restore(self.place, key, kept.files, solver, problem, objective)
                for step in damaged:
                    said = f"The checkpoint of sweep {step} in {self.place / folder.UNFINISHED} is damaged"
                    self.console.print(f"{said}. That fit goes on from sweep {result.done}.", soft_wrap=True)
                files = {name: each for name, each in kept.files.items() if checkpoint.step_of(name) not in damaged}
                checkpoint.keep_only(self.place, files)
                self.kept = self.keeper.checkpoints(table, planned, files)
                return result
            ranks.from_first(lambda: folder.clear_unfinished(self.place))  # of one that has ended: a kill came before
        except StorageError as damaged:
            self.console.print(f"{damaged} That fit begins anew.", soft_wrap=True)
            ranks.from_first(lambda: folder.clear_unfinished(self.place))
        return None

    def close_checkpoints(self) -> None:
        if self.kept is not None:
            self.kept.close()
            self.kept = None

    # Fits that run as one program.

    def fit_together(self, table: SplitTable, members: list[PlannedFit]) -> None:
        """Fits, proves and keeps the fits of one program, chunk by chunk; the chunks are those of the first session."""
        group = FitGroup(table, members, sum(map(self.weight, members)))
        first = members[0].key(table.hash)
        program = next((at for at, each in enumerate(self.run.programs) if each.first == first), None)
        if program is None:
            loop = self.loop(group)
            chunks, why = group.chunks(loop.loop)
            program = self.program_index(members[0], loop.loop, f"{loop.why}; {why}", first, chunks)
            self.write("running")
        start = 0
        for size in self.run.programs[program].chunks or ():
            chunk = members[start : start + size]
            start += size
            missing = [each for each in chunk if each.key(table.hash) not in self.done]
            if missing:
                self.fit_chunk(table, group, chunk, missing, program)

    def fit_chunk(
        self, table: SplitTable, group: FitGroup, chunk: list[PlannedFit], missing: list[PlannedFit], program: int
    ) -> None:
        label = f"{chunk[0].solver.label}: {len(chunk)} fits in one program"
        began = time.perf_counter()
        with self.watch.fit(label, chunk[0].config.fit) as watch:
            outcomes = group.fit(chunk, self.run.programs[program].loop, watch)
        took = time.perf_counter() - began
        entry = self.run.programs[program]
        errors = [outcome if isinstance(outcome, FitError) else None for outcome in outcomes]
        results = [outcome.result if isinstance(outcome, FitError) else outcome for outcome in outcomes]
        for planned, result, error in zip(chunk, results, errors, strict=True):
            if planned in missing:
                with defer_stops():
                    fit = self.keeper.finish(table, planned, result, error, program)
                    self.add([fit])
                self.watch.advance(self.weight(planned))
        entry.fits += len(missing)
        entry.compile_seconds += results[0].compile_seconds
        entry.seconds += took - results[0].compile_seconds
        self.write("running")
        printing.print_chunk_end(self.console, chunk, took)

    def loop(self, group: FitGroup) -> Loop:
        """How the program goes through its fits: as the config says, or as measured once a run for this kind."""
        asked = self.config.fit.loop
        if asked != "auto":
            return Loop(loop=asked, why="the config says so")
        known = self.run.loops
        if group.kind not in known:
            with self.watch.fit(f"{group.kind}: measuring which loop is quicker"):
                known[group.kind] = group.measured()
        return known[group.kind]

    # What both have in common.

    def program_index(
        self, planned: PlannedFit, loop: str, why: str, first: str | None = None, chunks: list[int] | None = None
    ) -> int:
        """The place in the record of a program, which is added where it is new."""
        new = Program(solver=planned.solver.label, loop=loop, why=why, first=first, chunks=chunks)
        nothing = {"fits": 0, "compile_seconds": 0.0, "seconds": 0.0}
        for place, entry in enumerate(self.run.programs):
            if entry.model_copy(update=nothing) == new:
                return place
        self.run.programs.append(new)
        return len(self.run.programs) - 1

    def count(self, program: int, fits: int, result: jals.Result) -> None:
        entry = self.run.programs[program]
        entry.fits += fits
        entry.compile_seconds += result.compile_seconds
        entry.seconds += result.history.seconds[-1] if result.history.sweep else 0.0

    def draw(self) -> None:
        """Writes the report that compares all fits, and then the page of each solver's best fit: once the page exists,
        everything is drawn."""
        from ..show.report import write as write_report  # half a second of imports

        if ranks.several():  # a page shows entries, which no process has all of
            write_report([self.place], self.place / folder.REPORT)
            return
        fits = [fit for fit in folder.ended_fits(self.place) if fit.trial is None]
        ranking = best_fit.ranking(fits, self.config)
        leads = best_fit.best_by_solver(fits, ranking)
        shown = [fit for lead in leads for fit in [lead, *(each for each in fits if _fold_mate(each, lead))]]
        drawn = []
        for fit in leads[:_DRAWN]:
            if fit.factors and fit.certificate is not None:
                planned = plan.study_of_fit(self.config, fit).planned_fit(fit)
                table = self.tables.of(planned)
                factors = jals.load(self.place / fit.factors).factors
                cert = scores.certify_fit(planned.config, factors, table.problem(fit.fold))
                fold = table.folds[fit.fold]
                required = fit.certificate.last_updated_required
                name = best_fit.fit_name(fit, len(self.config.seeds) > 1)
                drawn.append(DrawnFit(name, factors, fold.train, fold.validation, fold.test, cert, required))
        write_report([self.place], self.place / folder.REPORT)
        write_page(self.place, self.config, self.run, shown, len(fits), self.tables.latest.data, drawn, ranking)


def _fold_mate(fit: FitRecord, lead: FitRecord) -> bool:
    """Whether it is the same fit on another fold."""
    alike = (fit.solver, fit.point, fit.seed) == (lead.solver, lead.point, lead.seed)
    return alike and fit.fold != lead.fold


def verdict(found: folder.StoredRun) -> int:
    """The exit code of a run: see `runner.run`."""
    if found.run.status != "finished":
        return 130
    fits = [fit for fit in found.fits if fit.trial is None]
    proven = all(fit.certificate is not None and fit.certificate.passed for fit in fits if fit.certified)
    return 1 if any(fit.broken for fit in fits) or not proven else 0


def _budget_spent(settings: Any, at: Any) -> bool:
    """Whether a fit has used up its passes or seconds."""
    (late,) = (False,) if settings.seconds is None else ranks.any_of(over_budget(settings.seconds, [at.seconds]))
    return over_budget(settings.passes, [at.passes]) or late
