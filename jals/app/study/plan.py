"""What a config expands to: every fit of an experiment, and which of them can share one compiled program.

config -> studies (grid point x fold x solver) -> trials, or a descent, and then fits, one a seed
"""

import hashlib
import json
from collections.abc import Hashable, Iterator
from typing import Any, NamedTuple

import jax
from pydantic import ValidationError

import jals

from ...errors import ConfigError, StorageError
from ...files.runs.record import FitRecord, label
from ...solvers.protocol import Traits, traits
from ...tuning.step import TRAVERSALS
from .. import config as configs
from ..config.schema import Config
from ..config.solvers import Solver
from ..config.splits import VALIDATIONS
from . import search

_SWEEPS = 15  # of a fit without any budget
_RECORDS = 10  # of a trial
_ENDLESS = 1_000_000  # sweeps, where seconds or tol end a fit


class DescentPlan(NamedTuple):
    """What `jals.tune` is to do in the one trial of a study that is tuned by descent.

    Attributes:
        ranges: of the objective's numbers, by key.
        seconds: None, or of work: it ends with the step that spends them.
        score: what is descended, as a config names it; None: the error.
        fit: sweeps of the fits that it tunes for. A step that follows a ranking is such a fit, from its start, though
            of no more than `MOST`; one that follows the error goes on from the step before.
    """

    ranges: dict[str, list[float]]
    steps: int
    seconds: float | None = None
    score: str | None = None
    fit: int = 0

    MOST = 15

    @property
    def start(self) -> int:
        """Sweeps before the first step."""
        return 10 if self.score is None else 0

    @property
    def each(self) -> int:
        """Sweeps a step."""
        return 2 if self.score is None else min(self.fit, self.MOST)

    def sweeps(self) -> int:
        """How many sweeps without derivatives make as many passes."""
        return self.start + self.each * TRAVERSALS["forward"] * self.steps


class Study(NamedTuple):
    """A solver at a grid point on a fold: what is tuned by itself, and then fitted once a seed.

    Attributes:
        point: the values of those axes of the grid that have to do with the solver.
        place: the solver's in the config.
        fold: its number, or None where there is one split.
    """

    config: Config
    point: dict[str, Any]
    place: int
    fold: int | None

    @property
    def ranges(self) -> dict[str, list[Any]]:
        """The ranges of the tuning that have to do with the solver: of integers where the key is one of integers, and
        of floats."""
        given = {} if self.config.tune is None else self.config.tune.range
        own = {key: between for key, between in given.items() if configs.applies_to(key, self.config, self.place)}
        if not own:
            return {}
        solver = configs.at(self.config, self.point).solver[self.place]
        whole = [key for key in own if key.startswith("solver.") and solver.whole(".".join(key.split(".")[2:]))]
        return {key: [(int if key in whole else float)(end) for end in between] for key, between in own.items()}

    @property
    def tried(self) -> list[dict[str, Any]]:
        """The numbers of the trials as far as they are known beforehand. A descent counts as one trial."""
        return [] if self.config.tune is None else search.expected_trials(self.config.tune, self.ranges)

    @property
    def firsts(self) -> list["PlannedFit"]:
        """A fit for each table that it learns from: that of the trials, where there are some, and that of the fits."""
        trials = [self.trial(0, {key: low for key, (low, _) in self.ranges.items()})] if self.ranges else []
        return [*trials, *self.fits({})[:1]]

    @property
    def seconds(self) -> float | None:
        """The study's share of the seconds that all tuning may take, the same for each; None where that has no end."""
        tune = self.config.tune
        if tune is None or tune.seconds is None:
            return None
        places = range(len(self.config.solver))
        tuned = [each for each in places if any(configs.applies_to(key, self.config, each) for key in tune.range)]
        return tune.seconds / sum(configs.count_studies(self.config, place) for place in tuned)

    def trial(self, number: int, tried: dict[str, float]) -> "PlannedFit":
        return self._planned(self.config.seeds[0], number, tried)

    def fits(self, chosen: dict[str, float]) -> list["PlannedFit"]:
        """One for each seed, with the numbers that the tuning chose."""
        return [self._planned(seed, None, chosen) for seed in self.config.seeds]

    def planned_fit(self, fit: FitRecord) -> "PlannedFit":
        """What was planned for a fit of the record.

        Raises:
            StorageError: when it is none of this study's.
        """
        if len(fit.tuned) != len(self.ranges):
            raise _disagree(fit)
        try:
            return self._planned(fit.seed, fit.trial, dict(zip(self.ranges, fit.tuned.values(), strict=True)))
        except (ConfigError, ValidationError) as error:
            raise _disagree(fit) from error

    def _planned(self, seed: int, trial: int | None, tuned: dict[str, float]) -> "PlannedFit":
        resolved = configs.at(self.config, self.point | tuned)
        raw = resolved.model_dump(exclude_unset=True, exclude={"question", "output", "tune", "baseline", "checkpoint"})
        raw["output"] = resolved.output.model_dump(include={"metrics", "relevant"}, exclude_none=True)
        raw["solver"] = [raw["solver"][self.place]]
        raw["fit"] = {key: value for key, value in raw.get("fit", {}).items() if key != "seeds"}
        tune, budget = self.config.tune, resolved.fit
        by_seconds = budget.seconds is not None or (trial is not None and tune is not None and tune.seconds is not None)
        raw["fit"] |= {"seed": seed, "timed": by_seconds or (self.config.timed and trial is None)}
        if trial is None and tune is not None and tune.refit:  # no validation part: its entries are for training
            raw["split"] = {key: value for key, value in raw["split"].items() if key not in VALIDATIONS}
            raw["output"]["metrics"] = resolved.ranked
            raw["fit"].pop("metric", None)
        short = {".".join(key.split(".")[2:]) if key.startswith("solver.") else key: tuned[key] for key in tuned}
        planned = PlannedFit(Config.model_validate(raw), self.point, self.fold, trial, short)
        if trial is not None and tune is not None and tune.method == "hypergradient":
            about = self.ranges, tune.trials, self.seconds, tune.score, planned.sweeps()
            return planned._replace(descent=DescentPlan(*about))
        if trial is None or planned.may_end_early():
            return planned
        raw["fit"]["loss_every"] = max(budget.loss_every, planned.sweeps() // _RECORDS)  # its end is what counts
        return planned._replace(config=Config.model_validate(raw))


class PlannedFit(NamedTuple):
    """One fit to make.

    Attributes:
        config: of this fit alone: one solver, one seed, no grid and no tuning.
        trial: the number of a fit that is made to tune; None for one that counts.
        tuned: the numbers that the tuning chose, or tries; the solver's without its name. Of a descent: its start.
        descent: None for what is a fit.
    """

    config: Config
    point: dict[str, Any]
    fold: int | None
    trial: int | None
    tuned: dict[str, float]
    descent: DescentPlan | None = None

    @property
    def solver(self) -> Solver:
        return self.config.solver[0]

    @property
    def traits(self) -> Traits:
        """What its solver says of itself."""
        return traits(self.solver.build())

    @property
    def seed(self) -> int:
        return self.config.fit.seed

    @property
    def name(self) -> str:
        """For a progress bar: "adam/0 rank=16 trial 2 seed 1"."""
        called = label(self.solver.label, self.fold, self.point, self.trial, self.descent is not None)
        return called + (f" seed {self.seed}" if self.seed else "")

    def key(self, data_hash: str) -> str:
        """A hash of all that decides the result: config, fold, data, the version of jals, and the file of a solver that
        is not jals's."""
        config = self.config.model_dump(mode="json", exclude={"data": True} | configs.WITHOUT_EFFECT)
        decides = [jals.__version__, config, self.config.data.reading(), self.fold, self.trial, data_hash]
        decides += [] if self.descent is None else [self.descent._asdict()]
        decides += [self.solver.module] if self.solver.module else []
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:32]

    def sweeps(self) -> int:
        """At most so many; of a descent, those that make as many passes."""
        if self.descent is not None:
            return self.descent.sweeps()
        fit = self.config.fit
        each = self.traits.passes_per_sweep
        given = [] if fit.sweeps is None else [fit.sweeps]
        given += [] if fit.passes is None else [max(fit.passes // (each or 2), 1)]
        return min(given, default=_SWEEPS if fit.seconds is None and fit.tol is None else _ENDLESS)

    def may_end_early(self) -> bool:
        """Whether a record may end the fit before its last sweep."""
        fit = self.config.fit
        by_passes = fit.passes is not None and self.traits.passes_per_sweep is None
        return by_passes or any(each is not None for each in (fit.tol, fit.patience, fit.seconds))

    def table_key(self) -> str:
        """Fits with equal tables learn from the same data, split and laid out alike."""
        config = self.config
        tables = (config.data, config.split, config.problem)
        return json.dumps([*(table.model_dump(mode="json") for table in tables), config.fit.dtype], sort_keys=True)

    def why_alone(self) -> str | None:
        """Why the fit cannot share a program with others, or None when it can."""
        fit = self.config.fit
        if self.descent is not None:
            return "a descent goes by itself"
        if fit.timed or fit.seconds is not None:
            return "each fit's seconds are kept"
        if fit.devices is not None:
            return "its factors are spread over devices"
        if fit.patience is not None:
            return "patience keeps the best factors of each fit"
        if fit.passes is not None and self.traits.passes_per_sweep is None:
            return "its sweeps take as many passes as they need"
        return None

    def program_key(self) -> Hashable:
        """Fits of one table with equal programs differ in numbers, seeds and folds only."""
        solver, objective = self.solver.build(), self.config.objective.build()
        fit = self.config.fit
        forms = jax.tree.structure(solver), jax.tree.structure(objective)
        return (self.solver.label, *forms, self.sweeps(), fit.tol, fit.loss_every, self.trial is None)


def studies(config: Config) -> Iterator[Study]:
    """Every study, once: an axis that a solver has nothing to do with does not multiply its fits."""
    seen = set()
    for point in configs.points(config):
        for fold in _folds(config, point):
            for place in range(len(config.solver)):
                own = {key: value for key, value in point.items() if configs.applies_to(key, config, place)}
                name = json.dumps([own, fold, place], sort_keys=True)
                if name not in seen:
                    seen.add(name)
                    yield Study(config, own, place, fold)


def _folds(config: Config, point: dict[str, Any]) -> list[int | None]:
    split = configs.at(config, point).split
    return [*range(split.folds)] if split.kind == "kfold" else [None]


def by_table(config: Config) -> list[list[Study]]:
    """The studies, those together whose trials learn from one table, and whose fits do."""
    tables: dict[str, list[Study]] = {}
    for study in studies(config):
        own = dict.fromkeys(each.table_key() for each in study.firsts)
        tables.setdefault(" ".join(own), []).append(study)
    return list(tables.values())


def study_of_fit(config: Config, fit: FitRecord) -> Study:
    """The study that a fit of a run's record belongs to.

    Raises:
        StorageError: when the config has none.
    """
    labels = [solver.label for solver in config.solver]
    if fit.solver in labels and fit.seed in config.seeds:
        place, point = labels.index(fit.solver), fit.point
        own = {key: values for key, values in config.grid.items() if configs.applies_to(key, config, place)}
        planned = point.keys() == own.keys() and all(point[key] in own[key] for key in own)
        if planned and fit.fold in _folds(config, point):
            return Study(config, point, place, fit.fold)
    raise _disagree(fit)


def _disagree(fit: FitRecord) -> StorageError:
    return StorageError(f"a run's config and record disagree on the fits, as on {fit.label}: one was changed.")
