"""The schema of a config, one TOML file an experiment:

    question = "what the experiment is to settle"                                       (the report begins with it)
    [data]       source = "movielens-latest-small"  or  path = "ratings.csv", user = "userId", item = "movieId", ...
    [split]      kind = "random", test_fraction = 0.1, seed = 0  or "by_user", "by_time", "leave_last_out", ...
    [problem]    layout = "bucketed"
    [objective]  preset = "als_wr", reg = 0.05, bias = true, center = true
    [[solver]]   kind = "als", rank = 32, linsolve = "cholesky"         (one table for each solver to compare)
    [[solver]]   kind = "gradient", rank = 32, optimizer = "adam", hyper = { learning_rate = 0.01 }
    [[solver]]   kind = "my_solvers:DampedALS", rank = 32, damping = 0.5                      (a class of yours)
    [score]      item_power = -0.05         (rankings by scores times n_i^item_power)
    [fit]        sweeps = 15, seed = 0, dtype = "float32"               (or passes, seconds, tol; seeds = [0, 1, 2])
    [grid]       "objective.reg" = [0.05, 0.1], "solver.*.rank" = [8, 16]   (axes over any key; all combinations)
    [tune]       trials = 12; range = { "solver.adam.hyper.learning_rate" = [1e-4, 1.0] }     (on the validation part)
                 or method = "grid"; or "hypergradient", range = { "objective.reg_user" = [0.01, 1.0], ... },
                 with score = "softmax" for rankings
    [[baseline]] kind = "most_popular"      or "item_knn", "ease"       (what a ranking has to beat)
    [processes]  count = 2                  (on this host; with fit.devices, over which the factors are spread)
    [checkpoint] minutes = 1.0, keep = 1    (or sweeps = 10)
    [output]     folder = "runs/name", factors = true, metrics = ["ndcg@10", "recall@20"], relevant = 4.0

Nothing here reads data: a config checks on a machine without it. `jals.app.config.load` reads one from a file;
`jals.app.study.plan` lists the fits that it stands for.
"""

from collections import Counter
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from ... import datasets
from ...errors import ArgumentError, did_you_mean
from ...metrics import is_error
from ...model.counts import POWERS
from ...reals import MOST, check_fits_dtype
from .base import MOST_FITS, ConfigTable, Count, ExchangeWay, Path, Seed
from .baselines import AnyBaseline
from .measures import FitMetric, Metric, TuneScore, asked, ranked
from .presets import AnyObjective, Biased
from .solvers import AnySolver
from .splits import VALIDATIONS, AnySplit, GivenSplit
from .trials import is_signed

Column = str | Annotated[int, Field(ge=0, le=MOST)]  # a name, or a place counted from 0

Ids = Literal["auto", "int", "str"]


class DataConfig(ConfigTable):
    """A named data set; or a file, or a folder of GroupLens, with arguments for `jals.read_ratings`."""

    source: datasets.Name | None = None
    path: Path | None = None
    user: Column | None = None
    item: Column | None = None
    value: Column | Literal[False] | None = None  # false: none, every value is 1
    time: Column | Literal[False] | None = None
    weight: Column | Literal[False] | None = None
    delimiter: Annotated[str, Field(pattern=r"^(::|[\t -!#-~])$")] | None = None  # as `jals.read_ratings` takes it
    header: bool | None = None
    quoted: bool | None = None
    ids: Ids | Annotated[list[Ids], Field(min_length=2, max_length=2)] = "auto"  # or a pair: of users, of items
    duplicates: Literal["error", "last", "mean", "sum"] = "error"

    def reading(self) -> dict[str, Any]:
        """The arguments for `jals.read_ratings` besides the path."""
        return self.model_dump(exclude={"source", "path"}, exclude_defaults=True)

    def conflicts(self):
        if self.source and self.path:
            return [("path", "stands beside source: give one of the two.")]
        if not (self.source or self.path):
            return [("source", "is missing, and so is path: name a data set, or a file of ratings.")]
        if self.source:
            return [(key, "goes with path only: the named data sets are read as they are.") for key in self.reading()]
        return []


class ProblemConfig(ConfigTable):
    layout: Literal["bucketed", "padded", "segmented"] = "bucketed"
    # zeros: every pair that is no training entry becomes one, of value 0 (what ALS must not do; to show why)
    missing: Literal["skipped", "zeros"] = "skipped"


class FitConfig(ConfigTable):
    """One fit's budget, and how the fits are run. Of sweeps, passes, seconds and tol the first to be met ends a fit;
    without any of them it makes 15 sweeps."""

    sweeps: Count | None = None
    passes: Annotated[int, Field(ge=2, le=MOST)] | None = None  # over the entries, as History.passes counts them
    seconds: Annotated[float, Field(gt=0)] | None = None  # of solver work, as History.seconds counts them
    tol: Annotated[float, Field(gt=0)] | None = None
    patience: Count | None = None
    # of the validation part: for patience, for [tune], and to say which fit is the best
    metric: FitMetric = "rmse"
    loss_every: Annotated[int, Field(ge=0, le=MOST)] = 1
    seed: Seed = 0
    seeds: Annotated[list[Seed], Field(min_length=1, max_length=MOST_FITS)] | None = (
        None  # a fit for each; in place of seed
    )
    dtype: Literal["float32", "float64"] = "float32"
    # Factors, entries and work are spread over so many devices, "all" that jax has. Without, one has everything; of
    # several processes all are used.
    devices: Count | Literal["all"] | None = None
    exchange: ExchangeWay = "auto"  # how their rows reach each other
    # true: each fit runs alone, and its seconds are kept. false: fits that differ in numbers, seeds and folds only run
    # as one program, without seconds. Default: false where the config has seeds, a grid or [tune].
    timed: bool | None = None
    loop: Literal["auto", "map", "vmap"] = "auto"  # how one program goes through its fits; auto: by measurement

    def conflicts(self):
        found = []
        if self.tol is not None and self.loss_every == 0:
            found.append(("tol", "needs the loss, but loss_every = 0 turns it off."))
        if self.seeds is not None and self.seed:  # its default stands in every file that `jals` writes
            found.append(("seeds", "stands beside seed: give one of the two."))
        if self.seeds is not None and len(set(self.seeds)) < len(self.seeds):
            found.append(("seeds", "holds a seed twice."))
        if self.seconds is not None and self.timed is False:
            found.append(("timed", "is false, but a budget of seconds needs each fit timed: leave it out."))
        return found


class ProcessesConfig(ConfigTable):
    """A run by several processes on this host, each with as many of the devices; on a cluster its own launcher starts
    them, one `jals run` each."""

    count: Count = 1
    # seconds: one that gives no sign of life for so long is lost, and the others end; and how long they wait for each
    # other at the start
    heartbeat: Annotated[int, Field(ge=2, le=86400)] = 60
    start: Annotated[int, Field(ge=1, le=86400)] = 300


class CheckpointConfig(ConfigTable):
    """When the state of a fit that is under way is kept, to go on from."""

    sweeps: Count | None = None  # between two; in place of minutes
    minutes: Annotated[float, Field(gt=0)] = 1.0
    keep: Count = 1  # of the latest, beside the best


_TUNED = r"objective|score|solver\.[A-Za-z0-9*_-]+"
AxisKey = Annotated[str, Field(pattern=rf"^(data|split|problem|fit|{_TUNED})(\.[a-z_]\w*)+$")]
TunedKey = Annotated[str, Field(pattern=rf"^({_TUNED})(\.[a-z_]\w*)+$")]

End = int | float  # of a range, of integers or not; > 0 but where `is_signed`

_DESCENDED = (
    *("reg_user", "reg_item", "reg_bias", "reg_bias_user", "reg_bias_item", "reg_power"),
    *("alpha", "epsilon", "unobserved_weight", *POWERS),
)


class TuneConfig(ConfigTable):
    """Numbers chosen before the fits that count: for every solver, grid point and fold by `trials` fits whose numbers
    are drawn log-uniform from their ranges (integers, both ends among them, where the key is one of integers; powers of
    either sign uniformly), scored on the validation part (or on the loss), never on the test part."""

    # grid: log-spaced points of every range, ends included. hypergradient: `jals.tune` descends the validation error in
    # the objective's numbers, from the middle of their ranges; trials are its steps.
    method: Literal["random", "grid", "hypergradient"] = "random"
    trials: Annotated[int, Field(ge=2, le=MOST_FITS)]
    # Of solver work by all trials together, divided evenly among the studies that are tuned: a trial is begun as long
    # as there is some left, and the first always.
    seconds: Annotated[float, Field(gt=0)] | None = None
    seed: Seed = 0
    # random: a Latin hypercube. optuna: its TPE sampler, one trial after another, by the extra "optuna".
    sampler: Literal["random", "optuna"] = "random"
    metric: Literal["validation", "loss"] = "validation"
    # What a descent follows where fit.metric is a ranking, which itself has no derivative: "softmax", or
    # "smooth_ndcg". Default: the squared error of the validation part.
    score: TuneScore | None = None
    # Whether the fits that count learn from the validation part too, once it has chosen their numbers.
    refit: bool = False
    range: Annotated[dict[TunedKey, Annotated[list[End], Field(min_length=2, max_length=2)]], Field(min_length=1)]

    def conflicts(self):
        found = []
        for key, (low, high) in self.range.items():
            if not low < high:
                found.append((f"range.{key}", "must be [low, high] with low < high."))
            elif low <= 0 and not is_signed(key):
                found.append((f"range.{key}", f"must be [low, high], two numbers > 0, not {low}."))
        if self.method != "random" and self.sampler != "random":  # its default stands in every file that `jals` writes
            found.append(("sampler", f'goes with method = "random" only: "{self.method}" draws nothing.'))
        if self.method != "hypergradient" and self.score is not None:
            found.append(("score", 'goes with method = "hypergradient" only: the others go by fit.metric itself.'))
        if self.method == "grid" and self.seconds is not None:
            cut = "goes with the other methods: a grid that is cut short leaves out an end of its ranges"
            found.append(("seconds", f"{cut}. Leave it out, or take fewer trials."))
        return found + (self._not_descended() if self.method == "hypergradient" else [])

    def _not_descended(self) -> list[tuple[str, str]]:
        """What no descent can do."""
        found = []
        if self.metric == "loss":
            found.append(("metric", 'must be "validation": the descent follows the validation error\'s derivative.'))
        for key in self.range:
            table, _, name = key.partition(".")
            if table == "score":
                why = "corrects scores of factors that are fitted, and the descent is of the fit: use method"
                found.append((f"range.{key}", f'{why} = "random" or "grid".'))
            elif table != "objective":
                why = "is a solver's number, and the descent takes derivatives in the objective's only: use method"
                found.append((f"range.{key}", f'{why} = "random" or "grid".'))
            elif name == "reg":
                sides = 'give "objective.reg_user" and "objective.reg_item", and reg_user and reg_item in [objective]'
                found.append((f"range.{key}", f"is one number for both sides, which the descent tells apart: {sides}."))
            elif name not in _DESCENDED:
                near, known = did_you_mean(name, _DESCENDED), ", ".join(_DESCENDED)
                found.append((f"range.{key}", f"is no number that the descent can change.{near} Known: {known}."))
        return found


class ScoreConfig(ConfigTable):
    """What is ranked: in rankings of the validation and test parts at the end of a fit, and where the run is served."""

    item_power: float | None = None  # scores times max(n_i, 1)^item_power, see `jals.recommend.corrected`


class OutputConfig(ConfigTable):
    folder: Path | None = None  # default: runs/ and the config's own name
    factors: bool = True  # false: not kept, and `jals certify` has nothing to check again
    # false: no certificates, which at large ranks take longer than inexact fits; `jals certify` makes them afterwards
    certificate: bool = True
    # true: at the end each problem is solved once more, from the best fit's factors to a minimum: what the report then
    # measures losses against; `jals report --reference` does it afterwards
    reference: bool = False
    # Of validation and test parts, beside RMSE and MAE: "ndcg@10", "auc". Without: see `measures.ranked`.
    metrics: list[Metric] | None = None
    # From which value on a held-out entry counts as relevant in a ranking. Without: every value > 0 does.
    relevant: float | None = None




class Config(ConfigTable):
    """The whole file."""

    question: Annotated[str, Field(min_length=1)] | None = None
    data: DataConfig
    split: Annotated[AnySplit, Field(discriminator="kind")]
    problem: ProblemConfig = ProblemConfig()
    objective: Annotated[AnyObjective, Field(discriminator="preset")]
    solver: Annotated[list[AnySolver], Field(min_length=1)]
    score: ScoreConfig = ScoreConfig()
    fit: FitConfig = FitConfig()
    grid: dict[AxisKey, Annotated[list[str | bool | int | float], Field(min_length=1)]] = Field(default={})
    tune: TuneConfig | None = None
    baseline: list[AnyBaseline] = Field(default=[])
    processes: ProcessesConfig = ProcessesConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    output: OutputConfig = OutputConfig()

    @property
    def seeds(self) -> list[int]:
        return [self.fit.seed] if self.fit.seeds is None else self.fit.seeds

    @property
    def timed(self) -> bool:
        """Whether each fit runs alone, for its seconds."""
        if self.fit.timed is not None:
            return self.fit.timed
        return self.fit.seconds is not None or not (self.fit.seeds or self.grid or self.tune)

    @property
    def ranked(self) -> list[str]:
        """The ranking metrics to measure, that of the fits first."""
        return ranked(self)

    @property
    def of_ratings(self) -> bool:
        """Whether errors of held-out entries say how good a fit is; of implicit feedback rankings do."""
        return isinstance(self.objective, Biased)

    @property
    def validated(self) -> bool:
        """Whether there is a validation part."""
        return any(getattr(self.split, way, None) is not None for way in VALIDATIONS)

    def conflicts(self):
        found = []
        if not self.validated:
            if self.fit.patience is not None:
                spoilt = "needs split.validation_fraction: stopping on the test set would spoil it."
                found.append(("fit.patience", spoilt))
            if not is_error(self.fit.metric):
                found.append(("fit.metric", "needs split.validation_fraction: the test set is to decide nothing."))
            if self.tune is not None and self.tune.metric == "validation":
                spoilt = "needs split.validation_fraction: tuning on the test set would spoil it."
                found.append(("tune.metric", spoilt))
        if self.tune is not None and self.tune.metric == "loss" and self.fit.loss_every == 0:
            found.append(("tune.metric", "needs the loss, but fit.loss_every = 0 turns it off."))
        if isinstance(self.split, GivenSplit) and self.data.path is None:
            found.append(("split.kind", '"given" needs data.path, the file of the training entries.'))
        labels = [("solver", place, each.label) for place, each in enumerate(self.solver)]
        labels += [("baseline", place, each.label) for place, each in enumerate(self.baseline)]
        times = Counter(label for _, _, label in labels)
        for table, place, label in labels:
            if times[label] > 1:
                found.append((f"{table}.{place}.name", f'two {table}s are called "{label}": name each.'))
        if self.fit.dtype != "float32":
            stored = [place for place, each in enumerate(self.solver) if getattr(each, "storage", None) is not None]
            wrong = f'computes in float32, and fit.dtype = "{self.fit.dtype}": take rounding = "bfloat16" in its place.'
            found += [(f"solver.{place}.storage", wrong) for place in stored]
        if self.problem.missing == "zeros" and self.objective.preset == "hu_koren":
            wrong = "an entry of value 0 is an observed pair there, of confidence 1: every pair would be one"
            found.append(("problem.missing", f'does not go with preset = "hu_koren", as {wrong}.'))
        if self.output.reference and not self.output.factors:
            found.append(("output.reference", "starts from factors, which output.factors = false does not keep."))
        if self.score.item_power is not None and self.of_ratings:
            for key in ("bias", "center"):
                if getattr(self.objective, key):
                    how = f"multiplies scores, which must not hold the {'biases' if key == 'bias' else 'mean'} of"
                    found.append(("score.item_power", f"{how} objective.{key} = true: leave one of the two out."))
        found += [(f"objective.{key}", why) for key, why in self._not_held()]
        found += [(f"grid.{key}", "holds a value twice.") for key, values in self.grid.items() if _repeats(values)]
        found += self.unshared() if self.processes.count > 1 else []
        if self.fit.devices is not None and self.problem.layout != "bucketed":
            found.append(("fit.devices", f'does not go with problem.layout = "{self.problem.layout}": leave one out.'))
        if self.fit.devices is None and self.fit.exchange != "auto" and self.processes.count == 1:
            found.append(("fit.exchange", "is between devices: give fit.devices."))
        if isinstance(self.fit.devices, int) and self.fit.devices % self.processes.count:
            each = f"is {self.fit.devices}, which {self.processes.count} processes cannot share evenly."
            found.append(("fit.devices", each))
        return found + self._conflicts_of_ranking() + self._conflicts_of_tuning()

    def unshared(self) -> list[tuple[str, str]]:
        """(key, why) of what a run by several processes cannot do: each knows only its own part of the entries."""
        found, one = [], "and several processes make one fit together"
        if not (isinstance(self.split, GivenSplit) and self.data.path is not None):
            how = 'data.path = a partitioned table and split.kind = "given", with the file of the test entries'
            found.append(("split.kind", f"of several processes each reads its own shards of the table: give {how}."))
        if len(self.solver) > 1:
            found.append(("solver", f"there are {len(self.solver)}, {one}."))
        if len(self.seeds) > 1:
            found.append(("fit.seeds", f"has {len(self.seeds)}, {one}."))
        found += [(key, f"makes several fits, {one}.") for key in ("grid", "tune") if getattr(self, key)]
        if asked(self):
            key = "output.metrics" if self.output.metrics else "fit.metric"
            found.append((key, "ranks all items that a user has not seen, which no one of several processes knows."))
        if self.output.reference:
            found.append(("output.reference", "is solved for in one process: leave it out."))
        if self.problem != ProblemConfig():
            found.append(("problem", "is another than that of several devices: leave the table out."))
        return found

    def _conflicts_of_ranking(self) -> list[tuple[str, str]]:
        if not self.ranked:
            how = 'name ranking metrics in output.metrics, such as "ndcg@10".'
            found = [("output.relevant", f"says what a ranking is to find: {how}")] if self.output.relevant else []
            return found + ([("baseline.0", f"is compared by its ranking: {how}")] if self.baseline else [])
        first, found = self.ranked[0], []
        key = "fit.metric" if first == self.fit.metric else "output.metrics"
        if self.output.relevant is None and self.of_ratings:
            of = f'the values of preset = "{self.objective.preset}" are ratings'
            how = "Give output.relevant, the least rating that counts as liked (4.0 of 5, say); or take a preset of"
            how += ' implicit feedback, "ials" or "hu_koren".'
            found.append((key, f'holds "{first}", which asks what is found of what users like, but {of}. {how}'))
        if self.fit.metric == first and self.problem.missing == "zeros":
            every = "every pair is a training entry there, and those are not ranked again"
            found.append(("fit.metric", f'does not go with problem.missing = "zeros", as {every}.'))
        if self.fit.metric == first and self.tune is not None and self.tune.method == "hypergradient":
            how = 'the descent follows that of the RMSE. Give [tune] a score that has one, "softmax" or'
            how += ' "smooth_ndcg", or method = "random" or "grid"; or set "rmse".'
            if self.tune.score is None:
                found.append(("fit.metric", f'is "{first}", which has no derivative: {how}'))
        return found

    def _not_held(self) -> list[tuple[str, str]]:
        """Numbers of the objective that the fit's dtype cannot hold: (key, why)."""
        found = []
        for key, value in self.objective:
            if isinstance(value, float):
                try:
                    check_fits_dtype(key, np.float64(value), np.dtype(self.fit.dtype))
                except ArgumentError as error:
                    found.append((key, str(error).removeprefix(f"{key} ")))
        return found

    def _conflicts_of_tuning(self) -> list[tuple[str, str]]:
        found = []
        if self.tune is not None and self.tune.score is not None and is_error(self.fit.metric):
            how = 'but fit.metric = "rmse" says that errors decide: set it to a ranking metric such as "ndcg@10"'
            found.append(("tune.score", f'is "{self.tune.score}", a ranking, {how}.'))
        if self.tune is not None and self.tune.refit:
            if self.fit.patience is not None:
                how = "leaves no validation part to the fits that count, which fit.patience would watch: end them by"
                found.append(("tune.refit", f"{how} fit.sweeps, and try several in [grid] or by hand."))
            if isinstance(self.split, GivenSplit) and self.split.validation is not None:
                how = "takes the validation part of the training entries: put those of split.validation among them, and"
                found.append(("tune.refit", f"{how} give split.validation_fraction."))
        for key in self.tune.range if self.tune else ():
            if key in self.grid:
                found.append((f"tune.range.{key}", "is an axis of the grid too: choose one of the two."))
            if key.startswith("objective.") and len(self.solver) > 1:
                shared = "is shared by the solvers, and tuning it for each would give each a loss of its own"
                found.append((f"tune.range.{key}", f"{shared}: make it an axis of [grid]."))
            if key.endswith(".init_scale") and len(self.solver) > 1:
                shared = "is shared by the solvers: they start from the same factors"
                found.append((f"tune.range.{key}", f"{shared}. Make it an axis of [grid]."))
        return found


def _repeats(values: list) -> bool:
    return len({(type(value), value) for value in values}) < len(values)
