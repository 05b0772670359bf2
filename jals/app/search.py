"""Where the numbers of a tuning's trials come from: log-uniform from their ranges.

    search = Search(tune, ranges)
    while tried := search.ask():              # a list of {key: number}, one a trial
        search.tell([score, ...])             # lower is better, inf for a fit that broke down
    search.best()
"""

import math
from typing import Any

import numpy as np

from .schema import Tune

Numbers = dict[str, float]


class Search:
    """The trials of one study. Same seed, ranges and scores: same trials."""

    def __init__(self, tune: Tune, ranges: dict[str, list[float]]):
        self._ranges = ranges
        self._left = tune.trials if ranges else 0
        self._asked: list[Numbers] = []
        self._scores: list[float] = []
        self._sampler = _Tpe(tune.seed, ranges) if tune.sampler == "optuna" else None
        self._seed = tune.seed

    def ask(self) -> list[Numbers]:
        """The next trials: all of them at once, or with a sampler that learns one; none when enough were made."""
        if not self._left:
            return []
        tried = self._hypercube(self._left) if self._sampler is None else [self._sampler.ask()]
        self._left -= len(tried)
        self._asked += tried
        return tried

    def tell(self, scores: list[float]) -> None:
        """The scores of the trials asked for last, in their order."""
        if self._sampler is not None:
            self._sampler.tell(scores[0])
        self._scores += scores

    def best(self) -> int:
        """The number of the trial with the lowest score, the first of equals."""
        return int(np.argmin(self._scores))

    def _hypercube(self, count: int) -> list[Numbers]:
        """A Latin hypercube: in every range, one trial in each of `count` equal parts of its logarithm."""
        rng = np.random.default_rng(self._seed)
        parts = np.stack([rng.permutation(count) for _ in self._ranges], axis=1)
        shares = (parts + rng.random(parts.shape)) / count
        low, high = np.log(np.array(list(self._ranges.values()))).T
        points = np.exp(low + shares * (high - low)).tolist()
        return [dict(zip(self._ranges, point, strict=True)) for point in points]


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
