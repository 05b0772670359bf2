"""Where the numbers of a tuning's trials come from, and which are chosen.

search = Search(tune, ranges)           # of integers where a range's ends are
while tried := search.ask():              # a list of {key: number}, one a trial
    search.tell([fit, ...])               # their lines of the record
search.chosen()
"""

import itertools
import math
from typing import Any

import numpy as np

from ...files.runs.record import FitRecord
from ...metrics import RMSE, as_error
from ..config.schema import TuneConfig
from ..config.trials import is_signed, points_of_range

Numbers = dict[str, float]
LOSS = "loss"


class Search:
    """The trials of one study. Same seed, ranges and scores: same trials. A descent is one trial."""

    def __init__(
        self, tune: TuneConfig, ranges: dict[str, list[Any]], seconds: float | None = None, metric: str = RMSE
    ):
        """`seconds` is what the trials may take together, as far as their lines tell it: no trial is begun once they
        are spent, but the first always is. `metric` is that of the fits."""
        self._tune, self._ranges, self._seconds = tune, ranges, seconds
        self._metric = LOSS if tune.metric == "loss" else metric
        self._sampler = _Tpe(tune.seed, ranges) if tune.sampler == "optuna" else None
        self._left = expected_trials(tune, ranges)
        self._made: list[FitRecord] = []

    def ask(self) -> list[Numbers]:
        """The next trials: all of them at once, or one where the next depends on it; none when enough were made."""
        if not self._left or (self._seconds is not None and sum(map(_seconds, self._made)) >= self._seconds):
            return []
        count = len(self._left) if self._sampler is None and self._seconds is None else 1
        tried, self._left = self._left[:count], self._left[count:]
        return tried if self._sampler is None else [self._sampler.ask()]

    def tell(self, fits: list[FitRecord]) -> None:
        """The lines of the trials asked for last, in their order."""
        if self._sampler is not None:
            self._sampler.tell(score(fits[0], self._metric))
        self._made += fits

    def chosen(self) -> Numbers:
        """The numbers with the lowest score, the first of equals; of trials that all broke down, the longest's."""
        if not self._made:
            return {}
        best = min(self._made, key=lambda fit: (score(fit, self._metric), -fit.sweeps))
        return dict(zip(self._ranges, best.tuned.values(), strict=True))


def expected_trials(tune: TuneConfig, ranges: dict[str, list[Any]]) -> list[Numbers]:
    """What the trials of a study try, as far as it is known before any: of a sampler that learns the upper ends, as
    often as it is asked. Integers that repeat are tried once."""
    if not ranges:
        return []
    if tune.method == "hypergradient":
        return [{key: _spread(key, low, high, 3)[1] for key, (low, high) in ranges.items()}]
    if tune.sampler == "optuna":
        return [{key: high for key, (_, high) in ranges.items()}] * tune.trials
    drawn = _grid(tune, ranges) if tune.method == "grid" else _hypercube(tune, ranges)
    points = [tuple(map(_whole, point, ranges.values())) for point in drawn]
    return [dict(zip(ranges, point, strict=True)) for point in dict.fromkeys(points)]


def _whole(number: float, between: list[Any]) -> float:
    """The integer nearest to a number where its range is one of integers, else the number."""
    low, high = between
    return min(max(round(number), low), high) if isinstance(low, int) else number


def _grid(tune: TuneConfig, ranges: dict[str, list[Any]]) -> list[tuple[float, ...]]:
    """Every combination of so many points of each range, both ends among them."""
    points = points_of_range(tune.trials, len(ranges))
    return list(itertools.product(*(_spread(key, low, high, points) for key, (low, high) in ranges.items())))


def _spread(key: str, low: float, high: float, points: int) -> list[float]:
    """So many points from one end to the other: even in the logarithm, or in themselves where both signs go."""
    return (np.linspace if is_signed(key) else np.geomspace)(low, high, points).tolist()


def _hypercube(tune: TuneConfig, ranges: dict[str, list[Any]]) -> list[list[float]]:
    """A Latin hypercube: in every range, one trial in each of `trials` equal parts of its logarithm (of itself where
    both signs go). An integer has the part from half below it to half above."""
    rng = np.random.default_rng(tune.seed)
    parts = np.stack([rng.permutation(tune.trials) for _ in ranges], axis=1)
    shares = (parts + rng.random(parts.shape)) / tune.trials
    ends = np.array([(low - 0.5, high + 0.5) if isinstance(low, int) else (low, high) for low, high in ranges.values()])
    plain = np.array([is_signed(key) for key in ranges])
    low, high = np.where(plain, ends.T, np.log(np.where(plain, 1, ends.T)))
    drawn = low + shares * (high - low)
    return np.where(plain, drawn, np.exp(np.where(plain, 0, drawn))).tolist()


def _seconds(fit: FitRecord) -> float:
    """What a trial took, of solver work."""
    return fit.history.last("seconds") or 0.0


def score(fit: FitRecord, metric: str) -> float:
    """What tuning minimises, of a trial's line: the loss, or a metric of the validation part, the lower the better; inf
    where it broke down."""
    if fit.error is not None:
        return math.inf
    found = fit.history.last("loss") if metric == LOSS else fit.score("validation", metric)
    if found is None or math.isnan(found):
        return math.inf
    return found if metric == LOSS else as_error(metric, found)


class _Tpe:
    """Optuna's TPE sampler, one trial after another (Bergstra et al., 2011)."""

    def __init__(self, seed: int, ranges: dict[str, list[Any]]):
        try:
            import optuna
        except ImportError as missing:
            how = 'pip install "jals[optuna]"'
            raise ImportError(f'tune.sampler = "optuna" needs the extra "optuna": {how}') from missing
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study: Any = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
        real, whole = optuna.distributions.FloatDistribution, optuna.distributions.IntDistribution
        self._ranges: Any = {
            key: (whole if isinstance(low, int) else real)(low, high, log=not is_signed(key))
            for key, (low, high) in ranges.items()
        }
        self._trial: Any = None

    def ask(self) -> Numbers:
        self._trial = self._study.ask(self._ranges)
        return dict(self._trial.params)

    def tell(self, score: float) -> None:
        self._study.tell(self._trial, score if math.isfinite(score) else 1e300)  # it learns from the order only
