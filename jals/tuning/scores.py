"""What `jals.tune` descends: the held-out error, or a ranking of the held-out items over the whole catalogue.

Each kind prepares the validation part on the host, and has a value at some factors that is differentiable in them and
in the kind's own parameters, which are descended beside the objective's numbers.
"""

import dataclasses
import numbers
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from ..data.ratings import Ratings
from ..errors import ArgumentError, check_choice
from ..metrics import HeldOutRanking, smooth_ndcg_loss, softmax_loss
from ..model.factors import Factors
from ..model.problem import Problem
from ..reals import one_real


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SquaredError:
    """sum v (s - t)^2 / sum v over the validation entries: see `jals.metrics.held_out_error`. No parameters."""

    name: ClassVar[str] = "error"

    def check(self, problem: Problem) -> None:
        """Refuses numbers that do not fit the table."""

    def prepare(self, validation: Ratings, problem: Problem) -> Any:
        """What `value` is to be told of the validation part beside its entries: a pytree of arrays, made on the
        host."""
        return None

    def start(self, dtype: Any) -> dict[str, Any]:
        """The parameters, where the descent starts."""
        return {}

    def value(self, parameters: dict[str, Any], factors: Factors, prepared: Any, error: Any) -> jax.Array:
        """What is descended, `()`: the lower the better. `error()` is the held-out error of the factors."""
        return error()

    def numbers(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """The parameters as numbers with a meaning of their own, by name."""
        return {}

    def with_numbers(self, numbers: dict[str, Any]) -> Self:
        """The same with these numbers."""
        return dataclasses.replace(self, **numbers)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Softmax(SquaredError):
    """How improbable held-out items are under a softmax over all items that the user has not seen:
    `jals.metrics.softmax_loss`, whose formula is there. Its users are those with validation entries of a value > 0.

    Attributes:
        temperature: > 0, in units of the score; where the descent starts, in its logarithm, if it is learned.
        item_power: of the popularity max(n_i, 1) that multiplies an item's scores; in itself, if it is learned. It is
            tuned for scores that are corrected alike where they are served: see `jals.recommend.corrected`.
        learn: which of these two are descended; static.
        users: how many users to draw, by `seed`; None for all. One drawing for the whole descent. Static.
    """

    temperature: Any = 0.1
    item_power: Any = 0.0
    learn: tuple[str, ...] = dataclasses.field(default=("temperature",), metadata={"static": True})
    users: int | None = dataclasses.field(default=None, metadata={"static": True})
    seed: int = dataclasses.field(default=0, metadata={"static": True})

    name: ClassVar[str] = "softmax loss"
    learnable: ClassVar[tuple[str, ...]] = ("temperature", "item_power")

    def check(self, problem: Problem) -> None:
        kind = type(self).__name__
        if not 0 < one_real(f"{kind}.temperature", self.temperature) < np.inf:
            raise ArgumentError(f"{kind}.temperature is {self.temperature}, but must be a number > 0.")
        if not np.isfinite(one_real(f"{kind}.item_power", self.item_power)):
            raise ArgumentError(f"{kind}.item_power is {self.item_power}, but must be finite.")
        if not isinstance(self.learn, tuple):
            raise ArgumentError(f"{kind}.learn is {self.learn!r}, but must be a tuple of names.")
        for name in self.learn:
            check_choice(f"a name in {kind}.learn", name, self.learnable)
        if isinstance(self.seed, bool) or not isinstance(self.seed, numbers.Integral) or self.seed < 0:
            raise ArgumentError(f"{kind}.seed is {self.seed!r}, but must be a whole number >= 0.")

    def prepare(self, validation: Ratings, problem: Problem) -> Any:
        return HeldOutRanking.of(validation, problem, problem.dtype, self.users, self.seed)

    def start(self, dtype: Any) -> dict[str, Any]:
        given = {"temperature": jnp.log(jnp.asarray(self.temperature, dtype)), "item_power": self.item_power}
        return {name: jnp.asarray(given[name], dtype) for name in dict.fromkeys(self.learn)}

    def value(self, parameters: dict[str, Any], factors: Factors, prepared: Any, error: Any) -> jax.Array:
        return softmax_loss(factors, prepared, *self.both(parameters))

    def both(self, parameters: dict[str, Any]) -> tuple[Any, Any]:
        """(temperature, item_power), learned or not."""
        now = {"temperature": self.temperature, "item_power": self.item_power} | self.numbers(parameters)
        return now["temperature"], now["item_power"]

    def numbers(self, parameters: dict[str, Any]) -> dict[str, Any]:
        told = {name: parameters[name] for name in self.learnable if name in parameters}
        return {name: jnp.exp(number) if name == "temperature" else number for name, number in told.items()}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SmoothNDCG(Softmax):
    """1 - an NDCG whose places are smooth: `jals.metrics.smooth_ndcg_loss`, whose formula is there. It looks at the top
    of the list, as what is measured does, where a softmax looks at all of it.

    Attributes:
        temperature: > 0, in units of the standard deviation of a user's scores; not descended, as it says how near to
            the NDCG that is measured this one is.
        item_power, users, seed: as `Softmax`.
        learn: ("item_power",) or (); static.
    """

    learn: tuple[str, ...] = dataclasses.field(default=(), metadata={"static": True})

    name: ClassVar[str] = "1 - smooth NDCG"
    learnable: ClassVar[tuple[str, ...]] = ("item_power",)

    def value(self, parameters: dict[str, Any], factors: Factors, prepared: Any, error: Any) -> jax.Array:
        return smooth_ndcg_loss(factors, prepared, *self.both(parameters))
