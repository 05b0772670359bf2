"""The one objective, and the presets that name its conventions.

    L(X, Y) = sum over entries of  w (s - t)^2 + q (1 - 2 s)
              + a0 * sum over all pairs (u, i) of (x_u . y_i)^2
              + sum over users of  lambda_u |x_u - m_u|^2 + lambda_bu b_u^2  + the same over items

    s = mean + b_u + b_i + x_u . y_i        lambda_u = reg_user (n_u + a0 num_items)^nu
    n_u = the user's entries with weight v > 0    lambda_i = reg_item (n_i + a0 num_users)^nu

Sums as written: no 1/2, no mean. An entry's (w, t, q) come from its value r and weight v by the kind of feedback, see
`feedback`. With p = w t + q and c = w t^2 + q the entry's term is w s^2 - 2 p s + c, so implicit feedback needs no
second loss; written around t it does not cancel in float32, and nothing is divided by a confidence that may be 0.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import ArgumentError, check_choice, is_traced
from ..reals import as_floats, check_fits_dtype, reals
from .factors import Factors, remainder, score_terms
from .feedback import KINDS, POSITIVE, Entry, check_values, entry_of
from .problem import Problem

NUMBERS = ("reg_user", "reg_item", "reg_bias", "reg_power", "unobserved_weight", "alpha", "epsilon")
CHUNK = 2**16  # entries whose factors the loss gathers at a time
_HIGHEST = jax.lax.Precision.HIGHEST


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Objective:
    """The loss's numbers (traced leaves) and form (static). Make one with a preset: `explicit`, `als_wr`, `hu_koren`
    or `ials`.

    Attributes:
        reg_user, reg_item: lambda before scaling by counts, `()` or one a row.
        reg_bias: takes their place for the biases, scaled alike; None: the biases share their row's lambda.
        reg_power: nu.
        unobserved_weight: a0, or None without a term over all pairs.
        alpha: confidence a unit of f(value), or None.
        epsilon: of f(r) = log(1 + r / epsilon), > 0, or None.
        prior_user, prior_item: m, `(rank,)` or one a row `(rows, rank)`; None means 0.
        feedback: how (w, t, q) follow from value r and weight v; static.
            "rating": (v, r, 0). "confidence": (v alpha r, 1, v). "log_confidence": (v alpha f(r), 1, v).
            "event": (v, 1, 0).
        bias, center: whether there are biases and a mean; static.
    """

    # What differs from a library, where `jals.presets.like` made it: no field, so no part of the tree.
    notes: ClassVar[tuple[str, ...]] = ()
    reg_user: Any
    reg_item: Any
    reg_bias: Any
    reg_power: Any
    unobserved_weight: Any
    alpha: Any
    epsilon: Any
    prior_user: Any
    prior_item: Any
    feedback: str = dataclasses.field(metadata={"static": True})
    bias: bool = dataclasses.field(metadata={"static": True})
    center: bool = dataclasses.field(metadata={"static": True})

    def entry(self, value: Any, weight: Any) -> Entry:
        """(w, t, q) of entries with these values and weights."""
        return entry_of(self, value, weight)

    def row_reg(self, side: str, count: jax.Array, others: int) -> tuple[jax.Array, jax.Array]:
        """(lambda, lambda of the bias) of every row, each `(rows,)`, for n = `count` and `others` rows opposite."""
        base = count if self.unobserved_weight is None else count + self.unobserved_weight * others
        scale = _power(base, jnp.asarray(self.reg_power, base.dtype))
        scale = jnp.where(jnp.isnan(count), count, scale)  # of a layout that is not the table's, see `Problem.arrange`
        reg = self.reg_user if side == "user" else self.reg_item
        reg_bias = reg if self.reg_bias is None else self.reg_bias
        return reg * scale, reg_bias * scale

    def cast(self, dtype: Any) -> "Objective":
        """Every number as an array of one dtype, so that all spellings of a number share one compilation."""
        given = {name: getattr(self, name) for name in (*NUMBERS, "prior_user", "prior_item")}
        made = {name: as_floats(name, value, dtype) for name, value in given.items() if value is not None}
        return dataclasses.replace(self, **made)

    def check_shapes(self, problem: Problem, rank: int) -> None:
        """Refuses what does not fit the problem by shape, kind or form: all that is static.

        Raises:
            ArgumentError: for what holds no real numbers; a shape that fits neither one number nor one a row; a form
                that no preset makes.
        """
        check_choice("feedback", self.feedback, tuple(KINDS))
        for name in ("bias", "center"):
            if not isinstance(getattr(self, name), (bool, np.bool_)):
                raise ArgumentError(f"{name} is {getattr(self, name)!r}, but must be True or False.")
        for name in (*NUMBERS[:2], "reg_power", *KINDS[self.feedback].numbers):
            if getattr(self, name) is None:
                raise ArgumentError(f"{name} is None, but must be a number: make objectives by presets.")
        if self.unobserved_weight is not None:
            _refuse_offsets("unobserved_weight", self.bias, self.center)
        for side, rows in (("user", problem.num_users), ("item", problem.num_items)):
            reg = getattr(self, f"reg_{side}")
            _check_shape(f"reg_{side}", reg, ((), (rows,)), f"one number, or one for each {side}")
            prior = getattr(self, f"prior_{side}")
            _check_shape(f"prior_{side}", prior, ((rank,), (rows, rank)), f"(rank,) or (num_{side}s, rank)")
        for name in NUMBERS[2:]:
            _check_shape(name, getattr(self, name), ((),), "one number")

    def check(self, problem: Problem, rank: int, dtype: Any = None) -> None:
        """Refuses invalid numbers: shapes always, ranges where the numbers are not traced.

        Args:
            dtype: that of the computation; None for the problem's.

        Raises:
            ArgumentError: a negative or non-finite number, an epsilon of 0, one beyond `dtype`, or what `check_shapes`
                refuses.
            DataError: for `hu_koren`, an entry with value <= 0.
        """
        self.check_shapes(problem, rank)
        dtype = problem.dtype if dtype is None else dtype
        for name in (*NUMBERS, "prior_user", "prior_item"):
            given, ranged = getattr(self, name), name in NUMBERS
            numbers = None if given is None else reals(name, given)
            if numbers is None or is_traced(numbers):
                continue
            known = np.asarray(numbers, np.float64)
            least = (">" if name in POSITIVE else ">=") if ranged else ""
            wrong = ~np.isfinite(known) | {"": False, ">": known <= 0, ">=": known < 0}[least]
            if wrong.any():
                row = f" in row {np.argwhere(wrong)[0][0]}" if known.ndim else ""
                need = f"a finite number {least} 0" if ranged else "finite"
                raise ArgumentError(f"{name} is {np.asarray(numbers)[wrong].flat[0]}{row}, but must be {need}.")
            check_fits_dtype(name, numbers, dtype, zero=ranged)  # a prior mean may be rounded to 0
        check_values(self, problem.value, problem.weight)


def explicit(
    reg: Any = None,
    *,
    reg_user: Any = None,
    reg_item: Any = None,
    reg_bias: Any = None,
    prior_user: Any = None,
    prior_item: Any = None,
    bias: bool = False,
    center: bool = False,
) -> Objective:
    """Explicit ratings, lambda outside the sum over entries (nu = 0). It minimises

        sum_entries v (r - s)^2 + sum_u reg_user (|x_u - m_u|^2 + b_u^2) + sum_i reg_item (|y_i - m_i|^2 + b_i^2).

    Args:
        reg: lambda >= 0 for both sides; or give
        reg_user, reg_item: each one number, or one for each row.
        reg_bias: lambda of the biases; None: that of their row.
        prior_user, prior_item: m, `(rank,)` or `(rows, rank)`; None: 0.
        bias: learn b_u and b_i, jointly with their row's factors.
        center: subtract the weighted mean of the training values.

    Source: the classic ALS lecture notes' equations (1) and (2), with lambda added to the Gram's diagonal.
    """
    regs, priors = _both(reg, reg_user, reg_item), _as_arrays(prior_user, prior_item)
    return Objective(*regs, reg_bias, 0.0, None, None, None, *priors, "rating", bias, center)


def als_wr(
    reg: Any = None,
    *,
    reg_user: Any = None,
    reg_item: Any = None,
    reg_bias: Any = None,
    prior_user: Any = None,
    prior_item: Any = None,
    reg_power: Any = 1.0,
    bias: bool = False,
    center: bool = False,
) -> Objective:
    """Explicit ratings, lambda inside the sum over entries: weighted-lambda regularisation (nu = 1). It minimises

        sum_entries v (r - s)^2 + sum_u reg_user n_u (|x_u - m_u|^2 + b_u^2)
                                + sum_i reg_item n_i (|y_i - m_i|^2 + b_i^2)

    with n the number of a row's entries of weight > 0. Arguments as for `explicit`; `reg_power` is nu (1 here, any
    number >= 0: n^nu). Spark and LensKit scale lambda so.

    Source: Zhou, Wilkinson, Schreiber, Pan, "Large-scale parallel collaborative filtering for the Netflix prize",
    2008.
    """
    regs, priors = _both(reg, reg_user, reg_item), _as_arrays(prior_user, prior_item)
    return Objective(*regs, reg_bias, reg_power, None, None, None, *priors, "rating", bias, center)


def hu_koren(
    reg: Any = None,
    alpha: Any = 1.0,
    *,
    reg_user: Any = None,
    reg_item: Any = None,
    prior_user: Any = None,
    prior_item: Any = None,
    epsilon: Any = None,
    bias: bool = False,
    center: bool = False,
) -> Objective:
    """Implicit feedback with confidence 1 + alpha r on observed pairs and 1 on missing ones. It minimises, up to a
    constant,

        sum over all (u, i) of c_ui (p_ui - x_u . y_i)^2 + sum_u reg_user |x_u - m_u|^2 + sum_i reg_item |y_i - m_i|^2

    with c = 1 + alpha r, p = 1 where observed; c = 1, p = 0 where missing. (The library `implicit` uses confidence
    alpha r, without the 1.) A data weight v multiplies what an observed entry adds: alpha r (s - 1)^2 + 1 - 2 s.
    With `epsilon` the confidence grows with the value's logarithm: log(1 + r / epsilon) stands in place of r.

    Args: `reg` ... `prior_item` as for `explicit`; `alpha` >= 0; `epsilon` > 0, or None. Values must be > 0.

    Raises: ArgumentError when asked for biases or centering: the sum over all pairs has no room for them.

    Source: Hu, Koren, Volinsky, "Collaborative filtering for implicit feedback datasets" (2008), equations (3) and (6).
    """
    _refuse_offsets("hu_koren", bias, center)
    regs, priors = _both(reg, reg_user, reg_item), _as_arrays(prior_user, prior_item)
    feedback = "confidence" if epsilon is None else "log_confidence"
    return Objective(*regs, None, 0.0, 1.0, alpha, epsilon, *priors, feedback, False, False)


def ials(
    reg: Any = None,
    unobserved_weight: Any = 1.0,
    reg_power: Any = 1.0,
    *,
    reg_user: Any = None,
    reg_item: Any = None,
    prior_user: Any = None,
    prior_item: Any = None,
    bias: bool = False,
    center: bool = False,
) -> Objective:
    """Implicit feedback with one weight for all pairs, and lambda scaled by frequency. It minimises

        sum_entries v (1 - x_u . y_i)^2 + a0 sum over all (u, i) of (x_u . y_i)^2
        + sum_u reg_user (n_u + a0 num_items)^nu |x_u - m_u|^2 + sum_i reg_item (n_i + a0 num_users)^nu |y_i - m_i|^2.

    The values of the table are not used. Args: `unobserved_weight` is a0 >= 0, `reg_power` nu; others as for
    `explicit`.

    Raises: ArgumentError when asked for biases or centering: the sum over all pairs has no room for them.

    Source: Rendle, Krichene, Zhang, Koren, "Revisiting the performance of iALS on item recommendation benchmarks"
    (2022), equations (2) to (4).
    """
    _refuse_offsets("ials", bias, center)
    regs, priors = _both(reg, reg_user, reg_item), _as_arrays(prior_user, prior_item)
    return Objective(*regs, None, reg_power, unobserved_weight, None, None, *priors, "event", False, False)


def loss(factors: Factors, problem: Problem, objective: Objective) -> jax.Array:
    """`jals.loss` without its checks, in the factors' dtype."""
    return _loss(factors, problem, objective.cast(factors.dtype))


@jax.jit
def _loss(factors: Factors, problem: Problem, objective: Objective) -> jax.Array:
    @jax.checkpoint  # the backward pass gathers again instead of keeping every entry's factors
    def chunk(user, item, value, weight):
        entry = objective.entry(value, weight)
        return entry.loss(remainder(entry.t, score_terms(factors, user, item))).sum()

    columns = (problem.user, problem.item, problem.value, problem.weight)
    whole = problem.num_entries // CHUNK
    chunks = [column[: whole * CHUNK].reshape(whole, CHUNK) for column in columns]
    total = chunk(*(column[whole * CHUNK :] for column in columns))
    if whole:
        total += jax.lax.map(lambda each: chunk(*each), tuple(chunks)).sum()
    return total + penalty(factors, entry_counts(problem), objective)


def entry_counts(problem: Problem) -> tuple[jax.Array, jax.Array]:
    """(n of every user, n of every item): how many entries of weight > 0 each row has, counted entry by entry; NaN
    where an index is out of range (see `Problem.arrange`)."""
    here = (problem.weight > 0).astype(problem.dtype)

    def counted(rows: int, row: jax.Array) -> jax.Array:
        within = (row.min() >= 0) & (row.max() < rows)
        count = jnp.zeros(rows, problem.dtype).at[row].add(here)
        return jnp.where(within, count, jnp.asarray(jnp.nan, problem.dtype))

    return counted(problem.num_users, problem.user), counted(problem.num_items, problem.item)


def penalty(factors: Factors, counts: tuple[jax.Array, jax.Array], objective: Objective) -> jax.Array:
    """All of L but the sum over entries: the sum over all pairs, and the regularisation."""
    total = jnp.zeros((), factors.dtype)
    if objective.unobserved_weight is not None:
        total += objective.unobserved_weight * jnp.sum(squared_sum(factors.user) * squared_sum(factors.item))
    for side, count in zip(("user", "item"), counts, strict=True):
        total += side_penalty(factors, side, count, objective)
    return total


def side_penalty(factors: Factors, side: str, count: jax.Array, objective: Objective) -> jax.Array:
    """The regularisation of one side's rows, whose n is `count` `(rows,)`."""
    row, bias = getattr(factors, side), getattr(factors, f"{side}_bias")
    prior, others = getattr(objective, f"prior_{side}"), factors.item if side == "user" else factors.user
    reg, reg_bias = objective.row_reg(side, count, len(others))
    total = jnp.sum(reg * jnp.sum((row if prior is None else row - prior) ** 2, axis=-1))
    return total if bias is None else total + jnp.sum(reg_bias * bias**2)


def squared_sum(rows: jax.Array) -> jax.Array:
    """Y'Y `(rank, rank)`, the Gram of all rows."""
    return jnp.einsum("ik,il->kl", rows, rows, precision=_HIGHEST)


def _power(base: jax.Array, power: jax.Array) -> jax.Array:
    """base^power for base >= 0 with 0^0 = 1 and 0^power = 0; finite derivatives at base 0 (both guards are needed:
    without the inner one the unused branch's NaN reaches the gradient)."""
    positive = base > 0
    return jnp.where(positive, jnp.where(positive, base, 1.0) ** power, jnp.where(power == 0, 1.0, 0.0))


def _both(reg: Any, reg_user: Any, reg_item: Any) -> tuple[Any, Any]:
    if (reg is None) == (reg_user is None and reg_item is None) or (reg_user is None) != (reg_item is None):
        raise ArgumentError("give either reg, or both reg_user and reg_item.")
    return _as_arrays(*((reg, reg) if reg_user is None else (reg_user, reg_item)))


def _refuse_offsets(preset: str, bias: bool, center: bool) -> None:
    if bias or center:
        asked = " and ".join(f"{name}=True" for name, on in (("bias", bias), ("center", center)) if on)
        raise ArgumentError(
            f"{preset} sums over all pairs of user and item and cannot take {asked}: "
            "leave it out, or use explicit or als_wr."
        )


def _check_shape(name: str, numbers: Any, shapes: tuple, allowed: str) -> None:
    shape = None if numbers is None else reals(name, numbers).shape
    if shape is not None and shape not in shapes:
        raise ArgumentError(f"{name} has shape {shape}, but must be {allowed}.")


def _as_arrays(one: Any, other: Any) -> tuple[Any, Any]:
    """The numbers with lists made arrays: a list of numbers would be a tree of them to jax. All else as given."""
    made = [reals("the list", each) if isinstance(each, (list, tuple)) else each for each in (one, other)]
    return made[0], made[1]
