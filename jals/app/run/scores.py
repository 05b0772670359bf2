"""How good a fit is: metrics of the parts of its split, and its certificate."""

from typing import Any

import numpy as np

import jals

from ...files.runs.record import Proof, RankingRecord, finite
from ...solvers.protocol import traits
from ..config.schema import Config
from ..config.solvers import Solver
from .data import Fold
from .rankings import Rankings


def certify_fit(config: Config, factors: Any, problem: jals.Problem) -> jals.Certificate:
    """The certificate of one fit. A fresh update must always meet the bound, so it is made by Cholesky where the solver
    is not exact."""
    made = config.solver[0].build()
    judge = made if traits(made).exact else None
    return jals.certify(factors, problem, config.objective.build(), solver=judge)


def proof_of(cert: jals.Certificate, solver: Solver, sweeps: int) -> Proof:
    """The certificate in numbers, and whether it passes: rows as given must meet the bound only where an exact sweep
    made them."""
    required = traits(solver.build()).exact and sweeps > 0
    unjudged = cert.unjudged
    return Proof(
        **{side: _worst(getattr(cert, side)) for side in unjudged},
        last_updated_required=required,
        stationarity=finite(cert.stationarity),
        bound=float(cert.bound),
        unjudged=sum(rows for side, rows in unjudged.items() if required or side != "last_updated"),
        passed=cert.holds(last_updated=required),
    )


def _worst(errors: Any) -> float | None:
    errors = np.asarray(errors)
    errors = errors[~np.isnan(errors)]
    return finite(errors.max()) if len(errors) else None


def metrics(objective: jals.Objective, factors: jals.Factors, fold: Fold, parts: tuple[str, ...]) -> dict:
    """RMSE and MAE of some parts of the split, unclipped, against the objective's target: the value, or with implicit
    feedback 1."""
    found = {}
    for name in parts:
        part = getattr(fold, name)
        if part is not None:
            predicted = jals.predict(factors, part.user, part.item)
            target = objective.entry(part.value, np.ones_like(part.value)).t
            found[name] = {
                "rmse": finite(jals.metrics.rmse(predicted, target, part.weight)),
                "mae": finite(jals.metrics.mae(predicted, target, part.weight)),
            }
    return found


def as_ranked(config: Config, factors: jals.Factors, fold: Fold) -> jals.Factors:
    """The factors that rankings and lists are of: as fitted, or with scores corrected by the counts of training."""
    power = config.score.item_power
    return factors if power is None else jals.recommend.corrected(factors, fold.train, power)


def trial_metrics(config: Config, factors: jals.Factors, fold: Fold, rankings: Rankings) -> dict:
    """What is measured of a trial: the metric of its fits too, on the validation part."""
    found = metrics(config.objective.build(), factors, fold, ("train", "validation"))
    if "validation" in found:
        found["validation"] |= rankings.means("validation", as_ranked(config, factors, fold), [config.fit.metric])
    return found


def fit_metrics(
    config: Config, factors: jals.Factors, fold: Fold, rankings: Rankings
) -> tuple[dict, RankingRecord | None]:
    """(what is measured of a fit, and what its ranking of the test part is besides)."""
    found = metrics(config.objective.build(), factors, fold, ("train", "validation", "test"))
    ranked = as_ranked(config, factors, fold)
    if "validation" in found:
        found["validation"] |= rankings.means("validation", ranked)
    told, ranking = rankings.test(ranked)
    found["test"] |= told
    return found, ranking
