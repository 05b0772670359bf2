"""Where the numbers of a tuning's trials come from, and which are chosen.

    search = Search(tune, ranges)
    while tried := search.ask():              # a list of {key: number}, one a trial
        search.tell([fit, ...])               # their lines of the record
    search.chosen()
"""

import itertools
import math
from typing import Any

import numpy as np

from .cost import passes_per_sweep
from .record import Fit
from .schema import Tune
from .solvers import AnySolver

Numbers = dict[str, float]


class Search:
    """The trials of one study. Same seed, ranges and scores: same trials. Of a descent its start, and its end."""

    def __init__(self, tune: Tune, ranges: dict[str, list[float]]):
        self._tune, self._ranges = tune, ranges
        self._left = (1 if tune.method == "hypergradient" else tune.trials) if ranges else 0
        self._made: list[Fit] = []
        self._sampler = _Tpe(tune.seed, ranges) if tune.sampler == "optuna" else None

    def ask(self) -> list[Numbers]:
        """The next trials: all of them at once, or with a sampler that learns one; none when enough were made."""
        if not self._left:
            return []
        if self._tune.method == "hypergradient":
            tried = [{key: math.sqrt(low * high) for key, (low, high) in self._ranges.items()}]
        elif self._tune.method == "grid":
            tried = self._grid(points_of_range(self._left, len(self._ranges)))
        else:
            tried = self._hypercube(self._left) if self._sampler is None else [self._sampler.ask()]
        self._left -= len(tried)
        return tried

    def tell(self, fits: list[Fit]) -> None:
        """The lines of the trials asked for last, in their order."""
        if self._sampler is not None:
            self._sampler.tell(score(fits[0], self._tune.metric))
        self._made += fits

    def chosen(self) -> Numbers:
        """The numbers with the lowest score, the first of equals; of trials that all broke down, the longest's."""
        if not self._made:
            return {}
        best = min(self._made, key=lambda fit: (score(fit, self._tune.metric), -fit.sweeps))
        return dict(zip(self._ranges, best.tuned.values(), strict=True))

    def _grid(self, points: int) -> list[Numbers]:
        """Every combination of so many points of each range, spread over its logarithm with both ends."""
        axes = [np.geomspace(low, high, points).tolist() for low, high in self._ranges.values()]
        return [dict(zip(self._ranges, point, strict=True)) for point in itertools.product(*axes)]

    def _hypercube(self, count: int) -> list[Numbers]:
        """A Latin hypercube: in every range, one trial in each of `count` equal parts of its logarithm."""
        rng = np.random.default_rng(self._tune.seed)
        parts = np.stack([rng.permutation(count) for _ in self._ranges], axis=1)
        shares = (parts + rng.random(parts.shape)) / count
        low, high = np.log(np.array(list(self._ranges.values()))).T
        points = np.exp(low + shares * (high - low)).tolist()
        return [dict(zip(self._ranges, point, strict=True)) for point in points]


def score(fit: Fit, metric: str) -> float:
    """What tuning minimises, of a trial's line: inf where it broke down."""
    if fit.error is not None:
        return math.inf
    found = fit.score("validation", "rmse") if metric == "validation" else fit.history.last("loss")
    return math.inf if found is None or math.isnan(found) else found


def points_of_range(trials: int, ranges: int) -> int:
    """How many points a grid of so many trials has in each of its ranges; 0 where it does not come out even."""
    points = round(trials ** (1 / ranges))
    return points if points > 1 and points**ranges == trials else 0


def uneven(trials: int, ranges: int, solver: str) -> str:
    """What is wrong with the number of trials of a grid that does not come out even."""
    below = int(trials ** (1 / ranges))
    near = " or ".join(f"{points**ranges:,} ({points} each)" for points in (below, below + 1) if points > 1)
    return f"is {trials:,}, but each of the {ranges} ranges of solver {solver} has as many points: take {near}."


def refused(solver: AnySolver) -> str | None:
    """Why no descent goes through the sweeps of a solver, or None where one does."""
    if solver.kind == "anderson" or passes_per_sweep(solver.build()) is not None:
        return None
    name = solver.optimizer if solver.kind == "gradient" else solver.kind
    how = 'Take "als", or an optimizer without a line search; or method = "random" or "grid" in [tune]'
    return f'is "{name}", whose sweeps loop until satisfied: no descent goes through them. {how}.'


class _Tpe:
    """Optuna's TPE sampler, one trial after another (Bergstra et al., 2011)."""

    def __init__(self, seed: int, ranges: dict[str, list[float]]):
        try:
            import optuna
        except ImportError as missing:
            how = 'pip install "jals[optuna]"'
            raise ImportError(f'tune.sampler = "optuna" needs the extra "optuna": {how}') from missing
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study: Any = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
        between = optuna.distributions.FloatDistribution
        self._ranges: Any = {key: between(low, high, log=True) for key, (low, high) in ranges.items()}
        self._trial: Any = None

    def ask(self) -> Numbers:
        self._trial = self._study.ask(self._ranges)
        return dict(self._trial.params)

    def tell(self, score: float) -> None:
        self._study.tell(self._trial, score if math.isfinite(score) else 1e300)  # it learns from the order only
