"""Certificates: proof, by autodiff of the loss, that the closed-form updates are right."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..devices import match_varying, told_exhausted
from ..errors import is_traced
from ..html import Table, shown
from ..model.factors import Factors, in_brief
from ..model.objectives import Objective, loss
from ..model.places import SIDES
from ..model.problem import Problem
from ..model.sharded import Sharded
from ..rows import backward_error
from ..rows.norms import norm
from ..solvers.als import ALS
from ..solvers.protocol import checked_inputs, smaller, traits

WHAT_UNJUDGED = (
    "Unjudged rows hold a NaN, or numbers too small or too large for the dtype: scale the values towards 1 (and with "
    "prior means and lambda), or take float64."
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class Certificate:
    """How well rows solve their normal equations, measured by the gradient of the loss.

    The backward error of a row x, the smallest relative change of A and b that makes it exact, is

        |A x - b| / (|A|_F |x| + |b|)

    over the joint (row, bias) system. The numerator is half the norm of the row's gradient by `jax.grad(jals.loss)`,
    which knows nothing of layouts and normal equations; so one number checks algebra, mask, padding and lambda.

    It is 0 in rows of zeros where b is exactly 0, since every product in it has a factor that is exactly 0 (no entries,
    targets of 0), or where A is 0. It is NaN, *unjudged*, where the dtype cannot tell: where something
    overflows, where a row is NaN, and where what products under the least normal number of the dtype may have taken
    (XLA makes them 0) is more than half the bound times the denominator. That takes numbers of very small or very large
    magnitude, such as values of 1e-30 in float32. An unjudged row fails `holds`, and `str(certificate)` counts it;
    scale the values towards 1, or take float64.

    Attributes:
        user, item: `(rows,)`, of a fresh update of that side from the other side as given.
        last_updated: `(num_items,)`, of the item rows as given: a sweep ends with the items; `(num_users,)`, of the
            users' where the solver ends with them (`ALS(first="item")`).
        stationarity: `()`, |grad L / 2| / sqrt(sum over all rows of (|A|_F |x| + |b|)^2) at the factors as given: how
            far both sides together are from a stationary point. 0 and NaN as for a row.
        last: whose rows `last_updated` is of, "item" or "user".
    """

    user: jax.Array
    item: jax.Array
    last_updated: jax.Array
    stationarity: jax.Array
    last: str = dataclasses.field(default="item", metadata={"static": True})

    @property
    def bound(self) -> float:
        """What an exact solver's backward errors stay under: 1e-5 in float32, 1e-13 in float64."""
        return backward_error.bound(self.user.dtype)

    @property
    def unjudged(self) -> dict[str, int]:
        """How many rows the dtype cannot judge: {"user": ..., "item": ..., "last_updated": ...}."""
        return {side: int(jnp.isnan(error).sum()) for side, error in self._errors().items()}

    def holds(self, last_updated: bool = True) -> bool:
        """Whether every fresh update meets the bound, and (unless False) the rows updated last too. A NaN fails."""
        return bool(_all_within(list(self._errors(last_updated).values()), self.bound))

    def errors(self) -> dict[str, jax.Array]:
        """The backward errors of each kind, by its name in tables and pictures."""
        fresh = {"users, fresh update": self.user, "items, fresh update": self.item}
        return fresh | {f"{self.last}s as given": self.last_updated}

    def plot(self, *, required: bool = True, ax: Any = None) -> Any:
        """Histograms of the backward errors beside the bound: `jals.plot.certificate`."""
        from .. import plot

        return plot.certificate(self, required=required, ax=ax)

    def _errors(self, last_updated: bool = True) -> dict[str, jax.Array]:
        errors = {"user": self.user, "item": self.item}
        return errors | {"last_updated": self.last_updated} if last_updated else errors

    def __repr__(self) -> str:
        """Whether it holds, and the worst row of each kind beside the bound; dtypes and shapes of what is traced."""
        parts = {name: leaf for name, leaf in vars(self).items() if name != "last"}
        if not all(isinstance(leaf, jax.Array) and not is_traced(leaf) for leaf in parts.values()):
            return f"Certificate({', '.join(f'{name} {in_brief(leaf)}' for name, leaf in parts.items())})"
        worst = [f"{side} {float(jnp.max(error)):.1e}" for side, error in self._errors().items()]
        worst += [f"bound {self.bound:.0e}", f"stationarity {float(jnp.max(self.stationarity)):.1e}"]
        return f"Certificate({self._verdict()}: {', '.join(worst)})"

    def _verdict(self) -> str:
        return "holds" if self.holds() else "holds of updates" if self.holds(last_updated=False) else "does not hold"

    @shown
    def _repr_html_(self) -> Table:
        rows = []
        for kind, error in self.errors().items():
            error = np.asarray(error)
            known, over = error[~np.isnan(error)], int((error > self.bound).sum())
            worst = f"{known.max():.1e}" if len(known) else ""
            rows.append((kind, f"{error.size:,}", worst, f"{over:,}", f"{error.size - len(known):,}"))
        head = ("backward errors", "rows", "largest", f"over the bound {self.bound:.0e}", "unjudged")
        stationarity = f"stationarity {np.max(np.asarray(self.stationarity)):.1e}"
        return Table(f"certificate {self._verdict()}", rows, head, f"{stationarity} (0 at a stationary point)")

    def __str__(self) -> str:
        """What holds, the largest backward errors, and the rows that could not be judged."""
        if any(map(is_traced, jax.tree.leaves(self))):
            return repr(self)
        unjudged, said = self.unjudged, []
        for side, error in self._errors().items():
            rows = f"{self.last}s as given ({error.size:,})" if side == "last_updated" else f"{side}s ({error.size:,})"
            known = unjudged[side] < error.size
            said.append(f"{rows} {float(jnp.nanmax(error)):.1e}" if known else f"{rows} none")
            said[-1] += f" and {unjudged[side]:,} unjudged" if unjudged[side] else ""
        verdict = "holds" if self.holds() else "does not hold"
        text = f"certificate {verdict}: largest backward errors {', '.join(said)}; bound {self.bound:.0e}; "
        text += f"stationarity {float(jnp.max(self.stationarity)):.1e}."
        return f"{text} {WHAT_UNJUDGED}" if any(unjudged.values()) else text


@jax.jit
def _all_within(errors: list[jax.Array], bound: float) -> jax.Array:
    return jnp.stack([(error <= bound).all() for error in errors]).all()


def certify(factors: Factors, problem: Problem, objective: Objective, solver: Any = None) -> Certificate:
    """Checks closed-form updates against the gradient of the loss; see `Certificate`.

    Args:
        factors: where to check. `user` and `item` hold for any factors; `last_updated` is small after a sweep of exact
            ALS on this problem and objective.
        solver: makes the updates, where it has an `update` as `ALS` does; None for Cholesky, and so for solvers
            without one: their rows are judged in `last_updated` and `stationarity`, the updates are Cholesky's. Its
            `first` says which side `last_updated` is of: the other.

    Twelve passes over the entries. Pure and jittable.

    Raises:
        ArgumentError: where factors, problem and objective do not fit together.
        DataError: see `Problem.check`.
        OutOfMemory: where XLA has too little of it.
    """
    given, (factors, problem, objective) = objective, checked_inputs(factors, problem, objective)
    last = "item" if traits(solver).first == "user" else "user"
    if not hasattr(solver, "update"):
        solver = ALS(factors.rank)
    problem = problem.checked()
    given.check(problem, factors.rank)
    with told_exhausted("certify", smaller(solver, problem), problem):
        certificate = _certify(*match_varying(factors, problem, objective), solver, last)
        if isinstance(problem, Sharded):
            by_row = {name: problem.by_row(name, getattr(certificate, name)) for name in SIDES}
            by_row["last_updated"] = problem.by_row(last, certificate.last_updated)
            certificate = dataclasses.replace(certificate, **by_row)
        return certificate if is_traced(certificate.user) else jax.block_until_ready(certificate)


@functools.partial(jax.jit, static_argnames="last")
def _certify(factors: Factors, problem: Problem, objective: Objective, solver: Any, last: str) -> Certificate:
    problem = problem.arrange()

    sides = ("user", "item")
    # A row's system is the same for the row as given and as updated: it depends on the other side alone.
    sizes = [backward_error.sizes(factors, problem, objective, side) for side in sides]

    def errors(at: Factors) -> list[backward_error.Error]:
        gradient = jax.grad(loss)(at, problem, objective)
        residual = [norm(gradient.joint(side), axis=-1) / 2 for side in sides]
        return [backward_error.error(*each) for each in zip(residual, map(at.joint, sides), sizes, strict=True)]

    # As given, and with each side updated: one loop, so that the gradient is compiled once.
    places = [factors, *(solver.update(factors, problem, objective, side)[0] for side in sides)]
    every = jax.lax.map(errors, jax.tree.map(lambda *leaves: jnp.stack(leaves), *places))
    given, (user, _), (_, item) = (jax.tree.map(lambda leaf, at=at: leaf[at], every) for at in range(3))
    stationarity = backward_error.Error.together(given).ratio()
    return Certificate(user.ratio(), item.ratio(), given[sides.index(last)].ratio(), stationarity, last)
