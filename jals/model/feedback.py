"""What an entry adds to the loss: one declaration for each kind of feedback, used everywhere.

An entry of value r and weight v adds w (s - t)^2 + q (1 - 2 s), s being its score, with

    w = v (w0 + w1 f(r)),    t = t0 + t1 f(r),    q = v q0.

`KINDS` declares the coefficients and f. The loss, the metrics, the gradient and the normal equations that XLA forms
take (w, t, q) from `entry_of`; the kernel of `jals.native`, which knows the three lines above by itself, takes the
numbers in them, `coefficients` and `feature`. Everywhere else values are as given: f(r) is never stored.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import DataError, is_traced
from .counts import POWERS, WEIGHTS

Coefficient = float | str  # a number, or the name of one of the objective's; a 0 or 1 written here costs nothing


class Entry(NamedTuple):
    """An entry's part in the loss, w (s - t)^2 + q (1 - 2 s): arrays of one shape."""

    w: jax.Array
    t: jax.Array
    q: jax.Array

    def loss(self, remainder: jax.Array) -> jax.Array:
        """The entry's term, from remainder = t - s."""
        return self.w * remainder**2 + self.q * (1 - 2 * (self.t - remainder))


class Transform(NamedTuple):
    """f, 0 at 0: `of(value, *numbers)`, `numbers` naming the objective's. Those must be > 0."""

    of: Callable[..., jax.Array]
    numbers: tuple[str, ...]


class Kind(NamedTuple):
    """A kind of feedback: (w0, w1), (t0, t1), q0, and f, None for the value itself."""

    w: tuple[Coefficient, Coefficient]
    t: tuple[Coefficient, Coefficient]
    q: Coefficient
    f: Transform | None = None

    @property
    def numbers(self) -> tuple[str, ...]:
        """Which of the objective's numbers must be there."""
        named = (each for each in (*self.w, *self.t, self.q) if isinstance(each, str))
        return (*named, *(() if self.f is None else self.f.numbers))

    @property
    def target(self) -> Any:
        """What scores are fitted to. Errors against targets that differ do not compare."""
        return self.t, None if self.t[1] == 0 else self.f

    @property
    def weighs_by_value(self) -> bool:
        """Whether w depends on the value, so that not every value will do: see `check_values`."""
        return self.w[1] != 0


KINDS = {
    "rating": Kind(w=(1, 0), t=(0, 1), q=0),
    "confidence": Kind(w=(0, "alpha"), t=(1, 0), q=1),
    "log_confidence": Kind(
        w=(0, "alpha"), t=(1, 0), q=1, f=Transform(lambda value, epsilon: jnp.log1p(value / epsilon), ("epsilon",))
    ),
    "event": Kind(w=(1, 0), t=(1, 0), q=0),
}
POSITIVE = tuple(dict.fromkeys(name for kind in KINDS.values() if kind.f is not None for name in kind.f.numbers))


def entry_of(objective: Any, value: Any, weight: Any) -> Entry:
    """(w, t, q) of entries with these values and weights, arrays of one shape; `objective` is an `Objective`."""
    kind = KINDS[objective.feedback]
    (w0, w1), (t0, t1) = kind.w, kind.t
    f = feature(objective, value, weight)
    w = [_scaled(objective, weight, w0)] if w0 != 0 else []
    w += [slope(objective, weight) * f] if w1 != 0 else []
    t = [_scaled(objective, jnp.ones_like(value), t0)] if t0 != 0 else []
    t += [_scaled(objective, f, t1)] if t1 != 0 else []
    q = [_scaled(objective, weight, kind.q)] if kind.q != 0 else []
    return Entry(*(functools.reduce(operator.add, terms) if terms else jnp.zeros_like(value) for terms in (w, t, q)))


def feature(objective: Any, value: Any, weight: Any) -> Any:
    """f(r) of entries with these values and weights (None: 1); of weight 0, where the value may be anything, f(0)."""
    f = KINDS[objective.feedback].f
    if f is None:
        return value
    value = value if weight is None else jnp.where(weight > 0, value, 0)
    return f.of(value, *(getattr(objective, name) for name in f.numbers))


def is_plain(objective: Any) -> bool:
    """Whether f(r) = r."""
    return KINDS[objective.feedback].f is None


def slope(objective: Any, weight: Any) -> Any:
    """v w1, which f(r) is multiplied by in w."""
    return _scaled(objective, weight, KINDS[objective.feedback].w[1])


def coefficients(objective: Any, dtype: Any) -> jax.Array:
    """`(5,)`, (w0, w1, t0, t1, q0)."""
    kind = KINDS[objective.feedback]
    return jnp.stack([jnp.asarray(_number(objective, each), dtype) for each in (*kind.w, *kind.t, kind.q)])


def check_values(objective: Any, problem: Any) -> None:
    """Refuses values that the objective cannot take, where nothing that decides it is traced: those of a negative
    confidence, w + q for v = 1, and those whose pair would weigh less than nothing in all, g_u h_i w + a0 a_u c_i, so
    that the loss might have no minimum. Either may be 0, and what rounding makes of 0.

    Raises:
        DataError: naming the first entry.
    """
    kind = KINDS[objective.feedback]
    numbers = problem.user_slots if problem.value is None else (problem.value, problem.given_weight)
    if not kind.weighs_by_value or any(map(is_traced, jax.tree.leaves(numbers))):
        return
    user, item, value, weight = problem.columns()
    weight = np.ones_like(value) if weight is None else weight
    names = (*kind.numbers, "unobserved_weight", "unobserved_user", "unobserved_item", *WEIGHTS, *POWERS)
    if any(is_traced(getattr(objective, name)) for name in names):
        return
    weighs = any(getattr(objective, name) is not None for name in (*WEIGHTS, *POWERS))
    with jax.ensure_compile_time_eval():  # a table that a traced function closes over is known, too
        given = {name: getattr(objective, name) for name in names if getattr(objective, name) is not None}
        numbers = {name: jnp.asarray(number, value.dtype) for name, number in given.items()}
        objective = dataclasses.replace(objective, **numbers).resolved(problem)
        entry = entry_of(objective, value, jnp.ones_like(value))
        shared = jnp.asarray(0 if objective.unobserved_weight is None else objective.unobserved_weight, value.dtype)
        for number, row in zip(objective.unobserved("user"), (user, item), strict=True):
            shared = shared if number is None else shared * number[row]
        whole = objective.weighed(jnp.asarray(weight), user, item) * entry.w + shared
        slack = 4 * jnp.finfo(value.dtype).eps
        value, weight, confidence, whole, slacks = (
            np.asarray(each) for each in (value, weight, entry.w + entry.q, whole, slack * shared)
        )
    unsure = ~(confidence >= -slack) & (weight > 0)
    hollow = ~(whole >= -slacks) & (weight > 0)
    if unsure.any():
        at, f = int(np.argmax(unsure)), "r" if kind.f is None else "log(1 + r / epsilon)"
        more = "" if kind.f is None else " and r > -epsilon"
        raise DataError(
            f"value of entry {at} is {value[at]}, a confidence 1 + alpha {f} of {confidence[at]}, but "
            f"hu_koren needs alpha {f} >= -1{more}. Leave such entries out (a missing pair has confidence 1), or lower "
            "alpha. (What is disliked is no negative confidence: that is a target of 0, see jals.wals.)"
        )
    if hollow.any():
        at = int(np.argmax(hollow))
        raise DataError(
            f"entry {at} has value {value[at]} and weight {weight[at]}, so that its pair weighs {whole[at]} in all, "
            "which must not be negative: lower its weight, or raise unobserved_user and unobserved_item there."
            + (" (weight_user, weight_item and powers of n have part in what pairs weigh.)" if weighs else "")
        )


def _number(objective: Any, coefficient: Coefficient) -> Any:
    return getattr(objective, coefficient) if isinstance(coefficient, str) else coefficient


def _scaled(objective: Any, array: Any, coefficient: Coefficient) -> Any:
    return array if coefficient == 1 else array * _number(objective, coefficient)
