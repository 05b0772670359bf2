"""A run under way: which fits are there, which have to be made, and what is kept of each."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

import jals

from ..errors import FitError, Interrupted, StorageError
from . import checkpoint, cost, descents, experiment, folder, plan
from . import terminal as said
from .group import Group
from .keeping import Keeper, over
from .page import Drawn
from .page import write as write_page
from .plan import Planned, Study
from .schema import Config
from .search import Search
from .tables import Tables
from .watch import Watch

_KEEP_EVERY = 60.0  # seconds: what a power cut may cost
_WORTH_KEEPING = 10.0  # seconds of a fit that a stop between its end and its record is not to cost
_UNFINISHED = ("running", "interrupted")  # why a fit ended, where a later session has to go on
_DRAWN = 6  # solvers that the page looks at closely


class Session:
    """A run under way: what it has and what it has to show. `record` is what result.json says; a fit's line is
    written after the files that it speaks of, so that the folder agrees with itself whenever the run is stopped."""

    def __init__(self, place: Path, config: Config, record: dict, started: float, console: Console):
        self.place, self.config, self.record, self.console = place, config, record, console
        self.started = started
        self.done = {fit["key"]: fit for fit in record["fits"] if fit["reason"] not in _UNFINISHED}
        self.earlier = folder.earlier(place)  # fits of another config that this one extends
        self.keeper = Keeper(place, config)
        self.watch = Watch(console)
        self.tables = Tables(place, record["data"], console)

    def go(self) -> int:
        stopped = None
        said.setting(self.console, self.config, self.record["data"], self.place)
        try:
            with self.watch:
                for studies in plan.by_table(self.config):
                    self.tables.of(studies[0].fits({})[0])
                    self.study(studies)
        except KeyboardInterrupt as error:
            stopped = error
        with folder.undisturbed():
            status = "finished" if stopped is None else "interrupted"
            self.record["error"] = None if stopped is None else str(stopped) or "interrupted"
            self.record["fits"] = folder.record(self.place)["fits"]
            for place, program in enumerate(self.record["programs"]):  # a kill may have come between fit and count
                program["fits"] = sum(fit["program"] == place for fit in self.record["fits"])
            self.write(status)
            if stopped is None:
                folder.forget_earlier(self.place)
            said.results(self.console, self.place, self.record["fits"])
        if stopped is None:  # who presses Ctrl-C wants to leave
            with said.waiting(self.console, "drawing the page"):
                self.draw()
        said.saved(self.console, self.place, self.record)
        said.broken(self.console, self.record["fits"], self.tables.vocab())
        if stopped is not None:
            said.stopped(self.console, stopped, self.record)
        return verdict(self.record)

    def write(self, status: str) -> None:
        self.record |= {"status": status, "wall_seconds": time.perf_counter() - self.started}
        folder.write_record(self.place, self.record)

    def extend(self) -> None:
        """Sets the fits of the run in the folder aside: those that this config has too are taken from there."""
        folder.set_aside(self.place)
        self.earlier = folder.earlier(self.place)
        self.done = {}

    def study(self, studies: list[Study]) -> None:
        """Tunes the studies of one table, and makes their fits."""
        tune = self.config.tune
        searches = [Search(tune, study.ranges, study.seconds) if tune is not None else None for study in studies]
        trials: list[list[Planned]] = [[] for _ in studies]
        while True:
            asked = []
            for study, search, made in zip(studies, searches, trials, strict=True):
                tried = search.ask() if search is not None else []
                asked.append([study.trial(len(made) + place, numbers) for place, numbers in enumerate(tried)])
                made += asked[-1]
            if not any(asked):
                break
            self.make([planned for some in asked for planned in some])
            for search, some in zip(searches, asked, strict=True):
                if search is not None and some:
                    search.tell([self.done[planned.key(self.tables.latest.hash)] for planned in some])
        chosen = [search.chosen() if search is not None else {} for search in searches]
        self.make([each for study, numbers in zip(studies, chosen, strict=True) for each in study.fits(numbers)])

    def make(self, planned: list[Planned]) -> None:
        """Makes those of the fits that are not there: alone, or as one program those that can share one."""
        table = self.tables.latest
        units: dict[Any, list[Planned]] = {}
        for each in planned:
            alone = each.alone() is not None
            shared = None if alone else (each.program(), None if table.masked else each.fold)
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
                self.together(table, own)
            elif missing:
                self.alone(table, *missing)

    def reuse(self, members: list[Planned], keys: list[str]) -> None:
        """Takes over the fits that the run before has, where this config extends another."""
        kept = [
            self.earlier[key] | {"point": each.point, "program": None} | ({} if each.descent else {"tuned": each.tuned})
            for each, key in zip(members, keys, strict=True)
            if key in self.earlier and key not in self.done
        ]
        if kept:
            self.add(kept)

    def taken_over(self, key: str) -> bool:
        """Whether a fit comes from the run before, so that no program of this one makes it."""
        return key in self.done and self.done[key]["program"] is None

    def add(self, fits: list[dict]) -> None:
        folder.append(self.place, fits)
        self.done |= {fit["key"]: fit for fit in fits}

    def weight(self, planned: Planned) -> float:
        """Estimated operations of a fit, by which the time left is told."""
        size = self.tables.latest.size(planned.fold)
        sweeps = min(planned.sweeps(), 1000)
        each = cost.passes_per_sweep(planned.solver.build()) or 4
        made, objective = planned.solver.build(), planned.config.objective.build()
        return float(cost.operations(made, objective, size, sweeps, each * sweeps))

    # Fits that run alone.

    def alone(self, table: experiment.Table, planned: Planned) -> None:
        """Fits, proves and keeps one fit."""
        why = planned.alone() or "no other fit shares its program"
        program = self.program(planned, {"loop": "one by one", "why": why})
        began, line = time.monotonic(), {}
        if planned.descent is not None:
            with self.watch.fit(planned.name) as watch:
                result, error, line = descents.descended(table, planned, planned.descent, watch)
        else:
            result, error = self.fitted(table, planned, program)
        if error is None and planned.descent is None and time.monotonic() - began > _WORTH_KEEPING:
            self.keeper.keep(table, planned, result, program)
        with folder.undisturbed():
            fit = self.keeper.ended(table, planned, result, error, program) | line
            self.add([fit])
            folder.clear_unfinished(self.place)
            self.count(program, 1, result)
            self.write("running")
        self.watch.advance(self.weight(planned))
        if len(self.done) <= said.LINES:
            said.progress(self.console, planned.name, fit)

    def fitted(
        self, table: experiment.Table, planned: Planned, program: int
    ) -> tuple[jals.Result, FitError | None]:
        """(result, None), or (what there was by then, why it broke down)."""
        settings = planned.config.fit
        problem, fold = table.problem(planned.fold), table.folds[planned.fold]
        made, objective = planned.solver.build(), planned.config.objective.build()
        init = checkpoint.restore(self.place, planned.key(table.hash), made, problem, objective)
        if init is not None and _spent(settings, init.history.last()):
            return dataclasses.replace(init, reason="callback"), None
        kept = time.monotonic()

        def keep(at: jals.Progress) -> None:
            nonlocal kept
            if time.monotonic() - kept >= _KEEP_EVERY:
                try:
                    self.keeper.keep(table, planned, at.result, program)
                except StorageError as error:  # no reason to stop: the disk may have room again by the end
                    self.console.print(f"{error} The fit goes on.", soft_wrap=True)
                kept = time.monotonic()

        try:
            with self.watch.fit(planned.name) as watch:
                result = jals.fit(
                    made,
                    problem,
                    objective,
                    sweeps=planned.sweeps(),
                    key=jax.random.key(settings.seed),
                    tol=settings.tol,
                    init=init,
                    validation=fold.validation,
                    patience=settings.patience,
                    loss_every=settings.loss_every,
                    callbacks=[watch, keep, lambda at: _spent(settings, at)],
                )
        except FitError as error:
            return error.result, error
        except Interrupted as stopped:
            if stopped.result.history.sweep:  # else the sweep was still being compiled
                try:
                    self.keeper.keep(table, planned, stopped.result, program)
                except StorageError as full:
                    raise self.keeper.rescued(table, planned, stopped.result, full) from full
                line = self.keeper.line(table, planned, stopped.result, None, program)
                said.progress(self.console, planned.name, line)
            raise
        return result, None

    # Fits that run as one program.

    def together(self, table: experiment.Table, members: list[Planned]) -> None:
        """Fits, proves and keeps the fits of one program, chunk by chunk; the chunks are those of the first session."""
        group = Group(table, members, sum(map(self.weight, members)))
        first = members[0].key(table.hash)
        program = next((at for at, each in enumerate(self.record["programs"]) if each.get("first") == first), None)
        if program is None:
            loop = self.loop(group)
            chunks, why = group.chunks(loop["loop"])
            about = {"first": first, "chunks": chunks, "loop": loop["loop"], "why": f"{loop['why']}; {why}"}
            program = self.program(members[0], about)
            self.write("running")
        entry = self.record["programs"][program]
        start = 0
        for size in entry["chunks"]:
            chunk = members[start : start + size]
            start += size
            missing = [each for each in chunk if each.key(table.hash) not in self.done]
            if missing:
                self.chunk(table, group, chunk, missing, program)

    def chunk(
        self, table: experiment.Table, group: Group, chunk: list[Planned], missing: list[Planned], program: int
    ) -> None:
        label = f"{chunk[0].solver.label}: {len(chunk)} fits in one program"
        began = time.perf_counter()
        with self.watch.fit(label) as watch:
            outcomes = group.fit(chunk, self.record["programs"][program]["loop"], watch)
        took = time.perf_counter() - began
        entry = self.record["programs"][program]
        errors = [outcome if isinstance(outcome, FitError) else None for outcome in outcomes]
        results = [outcome.result if isinstance(outcome, FitError) else outcome for outcome in outcomes]
        for planned, result, error in zip(chunk, results, errors, strict=True):
            if planned in missing:
                with folder.undisturbed():
                    fit = self.keeper.ended(table, planned, result, error, program)
                    self.add([fit])
                self.watch.advance(self.weight(planned))
        entry["fits"] += len(missing)
        entry["compile_seconds"] += results[0].compile_seconds
        entry["seconds"] += took - results[0].compile_seconds
        self.write("running")
        said.chunk(self.console, chunk, took)

    def loop(self, group: Group) -> dict:
        """How the program goes through its fits: as the config says, or as measured once a run for this kind."""
        asked = self.config.fit.loop
        if asked != "auto":
            return {"loop": asked, "why": "the config says so"}
        known = self.record["loops"]
        if group.kind not in known:
            with self.watch.fit(f"{group.kind}: measuring which loop is quicker"):
                known[group.kind] = group.measured()
        return known[group.kind]

    # What both have in common.

    def program(self, planned: Planned, about: dict) -> int:
        """The place in the record of a program, which is added where it is new."""
        new = {"solver": planned.solver.label} | about
        for place, entry in enumerate(self.record["programs"]):
            if all(entry.get(key) == value for key, value in new.items()):
                return place
        self.record["programs"].append(new | {"fits": 0, "compile_seconds": 0.0, "seconds": 0.0})
        return len(self.record["programs"]) - 1

    def count(self, program: int, fits: int, result: jals.Result) -> None:
        entry = self.record["programs"][program]
        entry["fits"] += fits
        entry["compile_seconds"] += result.compile_seconds
        entry["seconds"] += result.history.seconds[-1] if result.history.sweep else 0.0

    def draw(self) -> None:
        """The report that compares all fits; and the page that looks at single ones, each solver's first, which also
        says that all was drawn."""
        from .report import write as write_report  # half a second of imports

        drawn, shown = [], []
        first: dict[str, dict] = {}
        for fit in self.record["fits"]:
            if fit["trial"] is None:
                one = first.setdefault(fit["solver"], fit)
                if (fit["point"], fit["seed"]) == (one["point"], one["seed"]):
                    shown.append(fit)
        for fit in list(first.values())[:_DRAWN]:
            if fit["factors"] and "certificate" in fit:
                planned = plan.of_record(self.config, fit).of_record(fit)
                table = self.tables.of(planned)
                factors = jals.load(self.place / fit["factors"]).factors
                cert = experiment.certificate(planned.config, factors, table.problem(fit["fold"]))
                fold = table.folds[fit["fold"]]
                required = fit["certificate"]["last_updated_required"]
                label = experiment.label(fit)
                drawn.append(Drawn(label, factors, fold.train, fold.validation, fold.test, cert, required))
        compared = sum(fit["trial"] is None for fit in self.record["fits"])
        of_page = {"fits": shown, "compared": compared if compared > len(shown) else None}
        write_report([self.place], self.place / folder.REPORT)
        write_page(self.place, self.record | of_page, self.tables.latest.data, drawn)


def verdict(record: dict) -> int:
    if record["status"] != "finished":
        return 130
    fits = [fit for fit in record["fits"] if fit["trial"] is None]
    return 0 if all(fit["error"] is None and fit["certificate"]["passed"] for fit in fits) else 1


def _spent(settings: Any, at: Any) -> bool:
    """Whether a fit has used up its passes or seconds."""
    return over(settings.passes, [at.passes]) or over(settings.seconds, [at.seconds])
