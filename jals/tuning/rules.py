"""How lambda varies over the rows of a side: from one number, or few, or one a row, that `jals.tune` descends in.

Each kind has parameters for a side and turns them into log lambda, `()` or one a row, before the objective's own
scaling by n^nu. It starts from one number, log lambda = a, and has what more it needs at 0.

The same kinds say how weights vary over the rows (`start_ratios`, `ratios`), of which the level is not theirs to tell:
there a is missing.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import ArgumentError, check_choice
from ..model.problem import Problem


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class One:
    """log lambda = a, one number a side. Parameters of a side: a, `()`."""

    def check(self, problem: Problem) -> None:
        """Refuses numbers that do not fit the table."""

    def start(self, side: str, a: Any, count: jax.Array) -> Any:
        """The parameters of a side for which log lambda = a in every row of `count` `(rows,)` entries."""
        return a

    def logs(self, parameters: Any, side: str, count: jax.Array) -> jax.Array:
        """log lambda, `()` or `(rows,)`."""
        return parameters

    def penalty(self, parameters: Any) -> jax.Array | float:
        """What a side's parameters add to what is descended."""
        return 0.0

    def start_ratios(self, side: str, count: jax.Array) -> Any:
        """The parameters of a side for which all weights are alike. (One number has none: it is a level.)"""
        raise NotImplementedError

    def ratios(self, parameters: Any, side: str, count: jax.Array) -> jax.Array:
        """log weight `(rows,)`, up to a number that is the same for all."""
        raise NotImplementedError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Groups(One):
    """log lambda_u = a_g, one number for each group of rows. Parameters of a side: a, `(groups,)`.

    Attributes:
        user, item: the group of every row, whole numbers >= 0 `(rows,)`; None: one number for the side.
    """

    user: Any = None
    item: Any = None

    def check(self, problem: Problem) -> None:
        for side, rows in (("user", problem.num_users), ("item", problem.num_items)):
            ids = getattr(self, side)
            if ids is None:
                continue
            ids = np.asarray(ids)
            if ids.shape != (rows,) or ids.dtype.kind not in "iu" or ids.min() < 0:
                have = f"{ids.dtype} of shape {ids.shape}"
                raise ArgumentError(
                    f"Groups.{side} is {have}, but must hold the group of every {side}: whole numbers >= 0, ({rows},)."
                )

    def start(self, side: str, a: Any, count: jax.Array) -> Any:
        ids = getattr(self, side)
        return a if ids is None else jnp.full(int(np.max(ids)) + 1, a)

    def logs(self, parameters: Any, side: str, count: jax.Array) -> jax.Array:
        ids = getattr(self, side)
        return parameters if ids is None else parameters[ids]

    def start_ratios(self, side: str, count: jax.Array) -> Any:
        return self.start(side, jnp.zeros((), count.dtype), count)

    def ratios(self, parameters: Any, side: str, count: jax.Array) -> jax.Array:
        return self.logs(parameters, side, count)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ByDegree(One):
    """log lambda_u = a + b z_u (+ c z_u^2 for degree 2): a polynomial in how many entries a row has.

    z = (log n - its mean) / its standard deviation, both over the side's rows with entries; rows without entries take
    the value of n = 1. Parameters of a side: (a, b) or (a, b, c), `(degree + 1,)`; of weights (b,) or (b, c): with
    degree 1 they are a power of n.

    Attributes:
        degree: 1 or 2; static.
    """

    degree: int = dataclasses.field(default=1, metadata={"static": True})

    def __post_init__(self):
        check_choice("degree", self.degree, (1, 2))

    def start(self, side: str, a: Any, count: jax.Array) -> Any:
        return jnp.zeros(self.degree + 1, count.dtype).at[0].set(a)

    def logs(self, parameters: Any, side: str, count: jax.Array) -> jax.Array:
        return jnp.polyval(parameters[::-1], standard_log(count))

    def start_ratios(self, side: str, count: jax.Array) -> Any:
        return jnp.zeros(self.degree, count.dtype)

    def ratios(self, parameters: Any, side: str, count: jax.Array) -> jax.Array:
        z = standard_log(count)
        return z * jnp.polyval(parameters[::-1], z)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PerRow(One):
    """log lambda_u = a + d_u, free for every row, held together by `shrinkage`: sum_u d_u^2 / rows of each side, times
    it, is added to what is descended. Parameters of a side: {"all": a, "row": d `(rows,)`}.

    Of weights log weight_u = b z_u + d_u: held to a power of n, as `ByDegree` has it; {"power": b, "row": d}.

    Attributes:
        shrinkage: >= 0, in units of what is descended (a held-out error: of squared value): rows that all differ by a
            factor e from the rest add `shrinkage`.
    """

    shrinkage: Any = 0.01

    def check(self, problem: Problem) -> None:
        if not (np.ndim(self.shrinkage) == 0 and self.shrinkage >= 0):
            raise ArgumentError(f"shrinkage is {self.shrinkage!r}, but must be a number >= 0.")

    def start(self, side: str, a: Any, count: jax.Array) -> Any:
        return {"all": a, "row": jnp.zeros_like(count)}

    def logs(self, parameters: Any, side: str, count: jax.Array) -> jax.Array:
        return parameters["all"] + parameters["row"]

    def penalty(self, parameters: Any) -> jax.Array | float:
        return self.shrinkage * jnp.mean(parameters["row"] ** 2)

    def start_ratios(self, side: str, count: jax.Array) -> Any:
        return {"power": jnp.zeros((), count.dtype), "row": jnp.zeros_like(count)}

    def ratios(self, parameters: Any, side: str, count: jax.Array) -> jax.Array:
        return parameters["power"] * standard_log(count) + parameters["row"]


def standard_log(count: jax.Array) -> jax.Array:
    """z `(rows,)`, see `ByDegree`."""
    logs = jnp.log(jnp.maximum(count, 1))
    mean = mean_log(count)
    spread = jnp.sqrt(jnp.mean((logs - mean) ** 2, where=count > 0))
    return (logs - mean) / jnp.where(spread > 0, spread, 1)


def mean_log(count: jax.Array, more: Any = 0.0) -> jax.Array:
    """The mean of log (n + more) over the rows with entries."""
    return jnp.mean(jnp.log(jnp.maximum(count, 1) + more), where=count > 0)
