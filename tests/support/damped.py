"""A solver as a stranger writes one: ALS that goes a part of the way, by public names only."""

import dataclasses

import jax

import jals
from jals import protocol


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DampedALS:
    rank: int = dataclasses.field(metadata={"static": True})
    share: float = 0.5  # of the way to each half-sweep's minimum
    init_scale: float = 0.1

    monotone = True
    passes_per_sweep = 2

    def init(self, key, problem, objective, factors=None):
        return jals.State(protocol.start_from(factors, key, self, problem, objective)[0])

    def sweep(self, state, problem, objective, loss=False):
        solver, state, problem, objective = protocol.entering(self, state, problem, objective)
        factors, good = state.factors, []
        for side in ("user", "item"):
            there, well = jals.ALS(self.rank).update(factors, problem, objective, side)
            factors = jax.tree.map(lambda now, then: now + solver.share * (then - now), factors, there)
            good.append(well)
        after = jals.loss(factors, problem, objective) if loss else None
        return jals.State(factors), protocol.sweep_info(factors, *good, self.passes_per_sweep, after)
