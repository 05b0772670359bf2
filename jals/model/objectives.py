"""The one objective, and the presets that name its conventions.

    L(X, Y) = sum over entries of  w (s - t)^2 + q (1 - 2 s)
              + a0 * sum over all pairs (u, i) of a_u c_i (x_u . y_i)^2
              + sum over users of  lambda_u |x_u - m_u|^2 + lambda_bu b_u^2  + the same over items

    s = mean + b_u + b_i + x_u . y_i
    lambda_u = reg_user (n_u + a0 a_u sum_i c_i)^nu,    lambda_i = reg_item (n_i + a0 c_i sum_u a_u)^nu
    n_u = how many entries with weight v > 0 the user has, or (count "weights") the sum of their v; n_i likewise

Sums as written: no 1/2, no mean. a_u and c_i are 1 unless given. An entry's (w, t, q) come from its value r and weight
v by the kind of feedback, see `feedback`. With p = w t + q and c = w t^2 + q the entry's term is w s^2 - 2 p s + c, so
implicit feedback needs no second loss; written around t it does not cancel in float32, and nothing is divided by a
confidence that may be 0.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import ArgumentError, check_choice, is_traced
from ..reals import as_floats, check_fits_dtype, reals
from .factors import Factors, remainder, score_terms
from .feedback import KINDS, POSITIVE, Entry, check_values, entry_of
from .problem import Problem

BY_ROW = ("reg", "reg_bias", "unobserved")  # numbers that each side has, one a row if need be: reg_user, reg_item ...
NUMBERS = (
    *(f"{name}_{side}" for name in BY_ROW for side in ("user", "item")),
    *("reg_bias", "reg_power", "unobserved_weight", "alpha", "epsilon"),
)
PRIORS = ("prior_user", "prior_item")
COUNTS = ("entries", "weights")
CHUNK = 2**16  # entries whose factors the loss gathers at a time
_HIGHEST = jax.lax.Precision.HIGHEST


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Objective:
    """The loss's numbers (traced leaves) and form (static). Make one with a preset: `explicit`, `als_wr`, `hu_koren`,
    `ials` or `wals`.

    Attributes:
        reg_user, reg_item: lambda before scaling by counts, `()` or one a row.
        reg_bias: takes their place for the biases, scaled alike; None: the biases share their row's lambda.
        reg_bias_user, reg_bias_item: the same for the biases of one side, `()` or one a row, before `reg_bias`.
        reg_power: nu.
        unobserved_weight: a0, or None without a term over all pairs.
        unobserved_user, unobserved_item: a_u `(num_users,)` and c_i `(num_items,)`; None means 1.
        alpha: confidence a unit of f(value), or None.
        epsilon: of f(r) = log(1 + r / epsilon), > 0, or None.
        prior_user, prior_item: m, `(rank,)` or one a row `(rows, rank)`; None means 0.
        feedback: how (w, t, q) follow from value r and weight v; static.
            "rating": (v, r, 0). "confidence": (v alpha r, 1, v). "log_confidence": (v alpha f(r), 1, v).
            "event": (v, 1, 0).
        bias, center: whether there are biases and a mean; static.
        count: what n adds up of a row's entries, "entries" (1 each where v > 0) or "weights" (v); static.
    """

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
    reg_bias_user: Any = None
    reg_bias_item: Any = None
    unobserved_user: Any = None
    unobserved_item: Any = None
    count: str = dataclasses.field(default="entries", metadata={"static": True})

    def entry(self, value: Any, weight: Any) -> Entry:
        """(w, t, q) of entries with these values and weights."""
        return entry_of(self, value, weight)

    def row_reg(self, side: str, n: jax.Array, others: int) -> tuple[jax.Array, jax.Array]:
        """(lambda, lambda of the bias) of every row, each `(rows,)`, from its `n` (see `row_sizes`) and how many
        `others`, rows opposite, there are."""
        base = n if self.unobserved_weight is None else n + self.unobserved_mass(side, others)
        scale = _power(base, jnp.asarray(self.reg_power, base.dtype))
        scale = jnp.where(jnp.isnan(n), n, scale)  # of a layout that is not the table's, see `Problem.arrange`
        reg = reg_bias = getattr(self, f"reg_{side}")
        for own in (self.reg_bias, getattr(self, f"reg_bias_{side}")):
            reg_bias = reg_bias if own is None else own
        return reg * scale, reg_bias * scale

    def unobserved_mass(self, side: str, others: int) -> Any:
        """a0 a_u sum_i c_i, the weight of all of a row's pairs together, `()` or `(rows,)`; 0 without a0."""
        if self.unobserved_weight is None:
            return 0.0
        own, opposite = self.unobserved(side)
        mass = self.unobserved_weight * (others if opposite is None else jnp.sum(opposite))
        return mass if own is None else mass * own

    def unobserved(self, side: str) -> tuple[Any, Any]:
        """(the pairs' weights by rows of this side, by rows of the other); None: 1."""
        weights = self.unobserved_user, self.unobserved_item
        return weights if side == "user" else weights[::-1]

    def cast(self, dtype: Any) -> "Objective":
        """Every number as an array of one dtype, so that all spellings of a number share one compilation."""
        given = {name: getattr(self, name) for name in (*NUMBERS, *PRIORS)}
        made = {name: as_floats(name, value, dtype) for name, value in given.items() if value is not None}
        return dataclasses.replace(self, **made)

    def check_shapes(self, problem: Problem, rank: int) -> None:
        """Refuses what does not fit the problem by shape, kind or form: all that is static.

        Raises:
            ArgumentError: for what holds no real numbers; a shape that fits neither one number nor one a row; a form
                that no preset makes.
        """
        check_choice("feedback", self.feedback, tuple(KINDS))
        check_choice("count", self.count, COUNTS)
        for name in ("bias", "center"):
            if not isinstance(getattr(self, name), (bool, np.bool_)):
                raise ArgumentError(f"{name} is {getattr(self, name)!r}, but must be True or False.")
        for name in ("reg_user", "reg_item", "reg_power", *KINDS[self.feedback].numbers):
            if getattr(self, name) is None:
                raise ArgumentError(f"{name} is None, but must be a number: make objectives by presets.")
        if self.unobserved_weight is not None:
            _refuse_offsets("unobserved_weight", self.bias, self.center)
        for side, rows in (("user", problem.num_users), ("item", problem.num_items)):
            for name in (f"reg_{side}", f"reg_bias_{side}"):
                _check_shape(name, getattr(self, name), ((), (rows,)), f"one number, or one for each {side}")
            name = f"unobserved_{side}"
            _check_shape(name, getattr(self, name), ((rows,),), f"(num_{side}s,), one number for each {side}")
            if getattr(self, name) is not None and self.unobserved_weight is None:
                raise ArgumentError(f"{name} weighs the pairs of a sum over all pairs, but unobserved_weight is None.")
            prior = getattr(self, f"prior_{side}")
            _check_shape(f"prior_{side}", prior, ((rank,), (rows, rank)), f"(rank,) or (num_{side}s, rank)")
        for name in NUMBERS[2 * len(BY_ROW) :]:
            _check_shape(name, getattr(self, name), ((),), "one number")

    def check(self, problem: Problem, rank: int, dtype: Any = None) -> None:
        """Refuses invalid numbers: shapes always, ranges where the numbers are not traced.

        Args:
            dtype: that of the computation; None for the problem's.

        Raises:
            ArgumentError: a negative or non-finite number, an epsilon of 0, one beyond `dtype`, or what `check_shapes`
                refuses.
            DataError: for `hu_koren`, an entry whose confidence is negative: see `feedback.check_values`.
        """
        self.check_shapes(problem, rank)
        dtype = problem.dtype if dtype is None else dtype
        for name in (*NUMBERS, *PRIORS):
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
        check_values(self, problem)


def explicit(
    reg: Any = None,
    *,
    reg_user: Any = None,
    reg_item: Any = None,
    reg_bias: Any = None,
    reg_bias_user: Any = None,
    reg_bias_item: Any = None,
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
        reg_bias: lambda of the biases, one number for both sides; None: that of their row.
        reg_bias_user, reg_bias_item: the same for one side's biases, one number or one for each row, before `reg_bias`.
        prior_user, prior_item: m, `(rank,)` or `(rows, rank)`; None: 0.
        bias: learn b_u and b_i, jointly with their row's factors.
        center: subtract the weighted mean of the training values.

    Source: the classic ALS lecture notes' equations (1) and (2), with lambda added to the Gram's diagonal.
    """
    numbers = {"reg_bias": reg_bias, "reg_bias_user": reg_bias_user, "reg_bias_item": reg_bias_item}
    numbers |= {"prior_user": prior_user, "prior_item": prior_item}
    return _made("rating", (reg, reg_user, reg_item), 0.0, **numbers, bias=bias, center=center)


def als_wr(
    reg: Any = None,
    *,
    reg_user: Any = None,
    reg_item: Any = None,
    reg_bias: Any = None,
    reg_bias_user: Any = None,
    reg_bias_item: Any = None,
    prior_user: Any = None,
    prior_item: Any = None,
    reg_power: Any = 1.0,
    count: str = "entries",
    bias: bool = False,
    center: bool = False,
) -> Objective:
    """Explicit ratings, lambda inside the sum over entries: weighted-lambda regularisation (nu = 1). It minimises

        sum_entries v (r - s)^2 + sum_u reg_user n_u (|x_u - m_u|^2 + b_u^2)
                                + sum_i reg_item n_i (|y_i - m_i|^2 + b_i^2)

    with n the number of a row's entries of weight > 0. Arguments as for `explicit`; `reg_power` is nu (1 here, any
    number >= 0: n^nu). Spark and LensKit scale lambda so. With `count="weights"` n is the sum of the row's weights v,
    as in cmfrec (weights with scale_lam); it has a derivative then. A lambda of the biases that does not grow with n
    (its scale_bias_const) is reg_bias_user = lambda / n_u^nu, one for each row.

    Source: Zhou, Wilkinson, Schreiber, Pan, "Large-scale parallel collaborative filtering for the Netflix prize",
    2008.
    """
    numbers = {"reg_bias": reg_bias, "reg_bias_user": reg_bias_user, "reg_bias_item": reg_bias_item}
    numbers |= {"prior_user": prior_user, "prior_item": prior_item}
    return _made("rating", (reg, reg_user, reg_item), reg_power, **numbers, count=count, bias=bias, center=center)


def hu_koren(
    reg: Any = None,
    alpha: Any = 1.0,
    *,
    reg_user: Any = None,
    reg_item: Any = None,
    prior_user: Any = None,
    prior_item: Any = None,
    epsilon: Any = None,
    reg_power: Any = 0.0,
    unobserved_user: Any = None,
    unobserved_item: Any = None,
    count: str = "entries",
    bias: bool = False,
    center: bool = False,
) -> Objective:
    """Implicit feedback with confidence 1 + alpha r on observed pairs and 1 on missing ones. It minimises, up to a
    constant,

        sum over all (u, i) of c_ui (p_ui - x_u . y_i)^2 + sum_u reg_user |x_u - m_u|^2 + sum_i reg_item |y_i - m_i|^2

    with c = 1 + alpha r, p = 1 where observed; c = 1, p = 0 where missing. (The library `implicit` uses confidence
    alpha r, without the 1: r - 1 / alpha here is r there.) A data weight v multiplies what an observed entry adds:
    alpha r (s - 1)^2 + 1 - 2 s. An entry of value 0 is an observed pair of confidence 1, not a missing one.
    With `epsilon` the confidence grows with the value's logarithm: log(1 + r / epsilon) stands in place of r.

    `reg` ... `prior_item` are as for `explicit`; `alpha` >= 0; `epsilon` > 0, or None. A confidence must not be
    negative: alpha r >= -1 (with epsilon r > -epsilon, and alpha log(1 + r / epsilon) >= -1). `reg_power` is nu, by
    which lambda grows: reg_user (n_u + num_items)^nu, and items alike; `count` as for `als_wr`. (Spark's lambda, which
    grows with n alone, is reg_user = lambda n_u, one for each row.) `unobserved_user` and `unobserved_item` are as for
    `ials`, a0 being 1: they weigh (x_u . y_i)^2 alone, so that an observed pair adds
    v (alpha r (s - 1)^2 + 1 - 2 s) + a_u c_i s^2. That needs v alpha r + a_u c_i >= 0.

    Raises: ArgumentError when asked for biases or centering: the sum over all pairs has no room for them.

    Source: Hu, Koren, Volinsky, "Collaborative filtering for implicit feedback datasets" (2008), equations (3) and (6).
    """
    _refuse_offsets("hu_koren", bias, center)
    numbers = {"unobserved_user": unobserved_user, "unobserved_item": unobserved_item, "unobserved_weight": 1.0}
    numbers |= {"prior_user": prior_user, "prior_item": prior_item, "alpha": alpha, "epsilon": epsilon}
    feedback = "confidence" if epsilon is None else "log_confidence"
    return _made(feedback, (reg, reg_user, reg_item), reg_power, **numbers, count=count)


def ials(
    reg: Any = None,
    unobserved_weight: Any = 1.0,
    reg_power: Any = 1.0,
    *,
    reg_user: Any = None,
    reg_item: Any = None,
    prior_user: Any = None,
    prior_item: Any = None,
    unobserved_user: Any = None,
    unobserved_item: Any = None,
    count: str = "entries",
    bias: bool = False,
    center: bool = False,
) -> Objective:
    """Implicit feedback with one weight for all pairs, and lambda scaled by frequency. It minimises

        sum_entries v (1 - x_u . y_i)^2 + a0 sum over all (u, i) of a_u c_i (x_u . y_i)^2
        + sum_u reg_user (n_u + a0 a_u sum_i c_i)^nu |x_u - m_u|^2
        + sum_i reg_item (n_i + a0 c_i sum_u a_u)^nu |y_i - m_i|^2,

    a_u = c_i = 1 unless given. The values of the table are not used.

    `unobserved_weight` is a0 >= 0, `reg_power` nu; `unobserved_user` and `unobserved_item` are a_u >= 0 and c_i >= 0,
    one for each row (c_i proportional to n_i^rho weighs popular items more, as not to have taken what many take says
    more); `count` is as for `als_wr`, the others as for `explicit`.

    Raises: ArgumentError when asked for biases or centering: the sum over all pairs has no room for them.

    Source: Rendle, Krichene, Zhang, Koren, "Revisiting the performance of iALS on item recommendation benchmarks"
    (2022), equations (2) to (4); for c_i He, Zhang, Kan, Chua, "Fast matrix factorization for online recommendation
    with implicit feedback" (2016), equation (8). (Theirs is of missing pairs only: an observed one of weight w is here
    an entry of `wals` of weight w - a0 c_i and value w / (w - a0 c_i).)
    """
    _refuse_offsets("ials", bias, center)
    numbers = {"unobserved_user": unobserved_user, "unobserved_item": unobserved_item}
    numbers |= {"prior_user": prior_user, "prior_item": prior_item, "unobserved_weight": unobserved_weight}
    return _made("event", (reg, reg_user, reg_item), reg_power, **numbers, count=count)


def wals(
    reg: Any = None,
    unobserved_weight: Any = 1.0,
    *,
    reg_user: Any = None,
    reg_item: Any = None,
    prior_user: Any = None,
    prior_item: Any = None,
    reg_power: Any = 0.0,
    unobserved_user: Any = None,
    unobserved_item: Any = None,
    count: str = "entries",
    bias: bool = False,
    center: bool = False,
) -> Objective:
    """Values as targets, and every pair drawn to 0: weighted alternating least squares. It minimises

        sum_entries v (r - x_u . y_i)^2 + a0 sum over all (u, i) of a_u c_i (x_u . y_i)^2
        + sum_u reg_user (n_u + a0 a_u sum_i c_i)^nu |x_u - m_u|^2
        + sum_i reg_item (n_i + a0 c_i sum_u a_u)^nu |y_i - m_i|^2,

    nu = 0 unless given. Arguments as for `ials`. The sum over all pairs has the observed ones too: an observed pair of
    weight w in all and target p, missing ones having a0, is an entry of weight v = w - a0 and value r = w p / v, up to
    a constant. TensorFlow's WALS, where the observed pair adds w (p - s)^2 and every pair a0 s^2 but the observed ones
    none, is so; its weights w are a0 + row weight times column weight.

    Raises: ArgumentError when asked for biases or centering: the sum over all pairs has no room for them.

    Source: as for `hu_koren`, whose loss it is for v = alpha r and values 1 + 1 / (alpha r).
    """
    _refuse_offsets("wals", bias, center)
    numbers = {"unobserved_user": unobserved_user, "unobserved_item": unobserved_item}
    numbers |= {"prior_user": prior_user, "prior_item": prior_item, "unobserved_weight": unobserved_weight}
    return _made("rating", (reg, reg_user, reg_item), reg_power, **numbers, count=count)


def _made(
    feedback: str, regs: tuple, reg_power: Any, *, bias: bool = False, center: bool = False, count="entries", **numbers
) -> Objective:
    """An objective from a preset's arguments, lists among them made arrays: a list would be a tree of numbers to jax.

    Args:
        regs: (for both sides, of users, of items).
    """
    both, user, item = regs
    if (both is None) == (user is None and item is None) or (user is None) != (item is None):
        raise ArgumentError("give either reg, or both reg_user and reg_item.")
    user, item = (both, both) if user is None else (user, item)
    given = {"reg_user": user, "reg_item": item, "reg_power": reg_power} | numbers
    every = dict.fromkeys((*NUMBERS, *PRIORS)) | {
        name: reals("the list", each) if isinstance(each, (list, tuple)) else each for name, each in given.items()
    }
    return Objective(**every, feedback=feedback, bias=bias, center=center, count=count)


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
    return total + penalty(factors, entry_counts(problem, objective.count), objective)


def entry_counts(problem: Problem, count: str = "entries") -> tuple[jax.Array, jax.Array]:
    """(n of every user, n of every item): how many entries of weight > 0 each row has, or the sum of their weights (see
    `Objective.count`), added up entry by entry; NaN where an index is out of range (see `Problem.arrange`)."""
    here = problem.weight if count == "weights" else (problem.weight > 0).astype(problem.dtype)

    def counted(rows: int, row: jax.Array) -> jax.Array:
        within = (row.min() >= 0) & (row.max() < rows)
        count = jnp.zeros(rows, problem.dtype).at[row].add(here)
        return jnp.where(within, count, jnp.asarray(jnp.nan, problem.dtype))

    return counted(problem.num_users, problem.user), counted(problem.num_items, problem.item)


def row_sizes(problem: Problem, objective: Objective) -> tuple[jax.Array, jax.Array]:
    """`entry_counts` of an arranged problem, by its layouts: n as this objective counts it."""
    if objective.count == "weights":
        return problem.weight_sums()
    assert problem.user_slots is not None and problem.item_slots is not None
    return problem.user_slots.count, problem.item_slots.count


def penalty(factors: Factors, sizes: tuple[jax.Array, jax.Array], objective: Objective) -> jax.Array:
    """All of L but the sum over entries: the sum over all pairs, and the regularisation. `sizes`: n, a side."""
    total = jnp.zeros((), factors.dtype)
    if objective.unobserved_weight is not None:
        users = squared_sum(factors.user, objective.unobserved_user)
        items = squared_sum(factors.item, objective.unobserved_item)
        total += objective.unobserved_weight * jnp.sum(users * items)
    for side, n in zip(("user", "item"), sizes, strict=True):
        total += side_penalty(factors, side, n, objective)
    return total


def side_penalty(factors: Factors, side: str, n: jax.Array, objective: Objective) -> jax.Array:
    """The regularisation of one side's rows, whose n `(rows,)` is given."""
    row, bias = getattr(factors, side), getattr(factors, f"{side}_bias")
    prior, others = getattr(objective, f"prior_{side}"), factors.item if side == "user" else factors.user
    reg, reg_bias = objective.row_reg(side, n, len(others))
    total = jnp.sum(reg * jnp.sum((row if prior is None else row - prior) ** 2, axis=-1))
    return total if bias is None else total + jnp.sum(reg_bias * bias**2)


def squared_sum(rows: jax.Array, weight: jax.Array | None = None) -> jax.Array:
    """Y'Y `(rank, rank)`, the Gram of all rows; Y'CY with weights `(rows,)`."""
    weighted = rows if weight is None else weight[:, None] * rows
    return jnp.einsum("ik,il->kl", weighted, rows, precision=_HIGHEST)


def _power(base: jax.Array, power: jax.Array) -> jax.Array:
    """base^power for base >= 0 with 0^0 = 1 and 0^power = 0; finite derivatives at base 0 (both guards are needed:
    without the inner one the unused branch's NaN reaches the gradient)."""
    positive = base > 0
    return jnp.where(positive, jnp.where(positive, base, 1.0) ** power, jnp.where(power == 0, 1.0, 0.0))


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
