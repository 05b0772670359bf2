"""The one objective; `conventions` has the presets that make it.

    L(X, Y) = sum over entries of  g_u h_i (w (s - t)^2 + q (1 - 2 s))
              + a0 * sum over all pairs (u, i) of a_u c_i (x_u . y_i)^2
              + sum over users of  lambda_u |x_u - m_u|^2 + lambda_bu b_u^2  + the same over items

    s = mean + b_u + b_i + x_u . y_i
    lambda_u = reg_user (n_u + a0 a_u sum_i c_i)^nu,    lambda_i = reg_item (n_i + a0 c_i sum_u a_u)^nu
    n_u = how many entries with weight v > 0 the user has, or (count "weights") the sum of their v; n_i likewise

Sums as written: no 1/2, no mean. g_u, h_i, a_u and c_i are 1 unless given, by row or as powers of n (see `counts`; n
there counts entries, whatever `count`). An entry's (w, t, q) come from its value r and weight v by the kind of
feedback, see `feedback`; w and q are in proportion to v, so that an entry is like one of weight v g_u h_i. With
p = w t + q and c = w t^2 + q its term is w s^2 - 2 p s + c, so implicit feedback needs no second loss; written around t
it does not cancel in float32, and nothing is divided by a confidence that may be 0.
"""

import dataclasses
import functools
import operator
from collections.abc import Iterable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import ArgumentError, check_choice, is_traced
from ..reals import as_floats, check_fits_dtype, reals
from .counts import POWERS, SIDES, entry_counts, weights_of_rows
from .factors import CHUNK, Factors, in_brief, remainder, score_terms, widened
from .feedback import KINDS, POSITIVE, Entry, check_values, entry_of
from .problem import Problem
from .sharded import Sharded
from .spread_loss import row_losses

# Numbers that each side has, one a row if need be: reg_user, reg_item ...
BY_ROW = tuple(f"{name}_{side}" for name in ("reg", "reg_bias", "unobserved", "weight") for side in SIDES)
NUMBERS = (*BY_ROW, "reg_bias", "reg_power", "unobserved_weight", "alpha", "epsilon", *POWERS)
PRIORS = ("prior_user", "prior_item")
COUNTS = ("entries", "weights")
_HIGHEST = jax.lax.Precision.HIGHEST


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
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
        unobserved_power_user, unobserved_power_item: p by which a_u and c_i are multiplied by
            max(n, 1)^p / (its mean over the side's rows), any number; None: not at all.
        weight_user, weight_item: g_u `(num_users,)` and h_i `(num_items,)`, >= 0; None means 1.
        weight_power_user, weight_power_item: p by which g_u and h_i are multiplied by
            max(n, 1)^p / (sum n max(n, 1)^p / sum n over the side's rows), any number; None: not at all.
        alpha: confidence a unit of f(value), or None.
        epsilon: of f(r) = log(1 + r / epsilon), > 0, or None.
        prior_user, prior_item: m, `(rank,)` or one a row `(rows, rank)`; None means 0.
        feedback: how (w, t, q) follow from value r and weight v; static.
            "rating": (v, r, 0). "confidence": (v alpha r, 1, v). "log_confidence": (v alpha f(r), 1, v).
            "event": (v, 1, 0).
        bias, center: whether there are biases and a mean; static.
        count: what n adds up of a row's entries, "entries" (1 each where v > 0) or "weights" (v); static.
        by_place: whether what is given by row is by place, as it is within a problem on several devices, see `placed`;
            static.
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
    reg_bias_user: Any = None
    reg_bias_item: Any = None
    unobserved_user: Any = None
    unobserved_item: Any = None
    count: str = dataclasses.field(default="entries", metadata={"static": True})
    weight_user: Any = None
    weight_item: Any = None
    weight_power_user: Any = None
    weight_power_item: Any = None
    unobserved_power_user: Any = None
    unobserved_power_item: Any = None
    by_place: bool = dataclasses.field(default=False, metadata={"static": True})

    def __repr__(self) -> str:
        """The kind of feedback and what is given; of what is by row dtype and shape."""
        numbers = {name: getattr(self, name) for name in (*NUMBERS, *PRIORS)}
        said = [f"{name} {in_brief(number)}" for name, number in numbers.items() if number is not None]
        said += [name for name in ("bias", "center", "by_place") if getattr(self, name)]
        said += [f"count of {self.count}"] if self.count != COUNTS[0] else []
        return f"Objective({self.feedback}: {', '.join(said)})"

    def entry(self, value: Any, weight: Any) -> Entry:
        """(w, t, q) of entries with these values and weights, v g_u h_i: see `weighed`."""
        return entry_of(self, value, weight)

    def weighed(self, weight: jax.Array, user: Any, item: Any) -> jax.Array:
        """v g_u h_i of entries of these weights v, users and items, whose numbers are within range; of an objective
        without powers, see `resolved`."""
        return functools.reduce(operator.mul, self.weight_factors(weight, user, item))

    def weight_factors(self, weight: jax.Array, user: Any, item: Any) -> list[jax.Array]:
        """What `weighed` multiplies: v, and those of g_u and h_i that there are."""
        self._refuse_powers()
        given = ((self.weight_user, user), (self.weight_item, item))
        by_row = [(jnp.asarray(factor, weight.dtype), row) for factor, row in given if factor is not None]
        return [weight, *(factor.at[row].get(mode="promise_in_bounds") for factor, row in by_row)]

    @property
    def powers(self) -> tuple[str, ...]:
        """The names of the powers of n that weigh entries or pairs."""
        return tuple(name for name in POWERS if getattr(self, name) is not None)

    def resolved(self, problem: Problem, newcomers: Any = None, side: str = "user") -> "Objective":
        """The same with arrays in the place of powers of n, as they are on one table: `weight_user`, `weight_item`,
        `unobserved_user` and `unobserved_item`, each `(rows,)`, what is given by row included; itself without powers.
        `loss`, solvers and certificates do it by themselves, with the problem that they are given. It is for what has
        no such table at hand: `jals.fold_in`, or a table of part of the entries that is to be weighed as the whole.

        Args:
            problem: the table; n is counted there, of entries of weight > 0.
            newcomers: n `(new rows,)` of rows that are not in it; then the arrays of `side` are theirs, by their own
                n and normalised as those of the table, and what the objective gives by row of that side must be theirs.
            side: of the newcomers, "user" or "item".

        Returns: an objective of arrays of the problem's dtype: differentiable in every number, jittable and vmappable.

        Raises:
            ArgumentError: for another side.
        """
        if not self.powers:
            return self
        check_choice("side", side, SIDES)
        new = {} if newcomers is None else {side: jnp.asarray(newcomers, problem.dtype)}
        return self.with_counts(row_counts(problem), new)

    def placed(self, problem: Problem) -> "Objective":
        """The objective of a problem on several devices: without powers of n, and what is by row by place, 0 where
        there is no row. Then such places weigh nothing in any sum. Itself for a problem on one device."""
        if not isinstance(problem, Sharded) or self.by_place:
            return self
        here = self.resolved(problem)
        made = {name: getattr(here, name) for name in (*BY_ROW, *PRIORS)}
        for side in SIDES:
            bias = made[f"reg_bias_{side}"]
            made[f"reg_bias_{side}"] = here.reg_bias if bias is None else bias
            if made[f"unobserved_{side}"] is None and here.unobserved_weight is not None:
                made[f"unobserved_{side}"] = 1.0
            for name in (f"{part}_{side}" for part in ("reg", "reg_bias", "unobserved", "weight", "prior")):
                given = made[name]
                if given is None:
                    continue
                shared = jnp.ndim(given) == (name in PRIORS)
                # What all share is never made of all rows: every device would hold that.
                given = jnp.asarray(given, jnp.result_type(problem.dtype, given))
                made[name] = (problem.at_places if shared else problem.by_place)(side, given)
        return dataclasses.replace(here, **made, reg_bias=None, by_place=True)

    def with_counts(self, counts: Iterable[jax.Array], newcomers: Any = None) -> "Objective":
        """`resolved` by the counts of the table's users and items; `newcomers`: {side: n of those in its place}."""
        if not self.powers:
            return self
        return dataclasses.replace(self, **weights_of_rows(self, counts, newcomers or {}))

    def _refuse_powers(self) -> None:
        assert not self.powers, f"{self.powers} are read before they are resolved: see Objective.resolved"

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

    def with_total_reg(self, problem: Problem, reg_power: Any) -> "Objective":
        """The same with reg multiplied by one number,

            S(reg_power) / S(self.reg_power),    S(nu) = sum over all users and items of (n + a0 a_u sum_i c_i)^nu,

        so that lambda adds up to what it would with nu = reg_power. self.reg_power then says how lambda is spread over
        rows, and not how much there is of it: a reg that was found for one nu serves for others. irspack calls
        `reg_power` nu_star.

        Args:
            problem: the table; n is counted there.
            reg_power: a number >= 0; 1 makes reg comparable with that of `als_wr` and `ials`.

        Returns: an objective whose reg, and reg of the biases, are arrays of the problem's dtype: differentiable in
            every number, jittable and vmappable.
        """
        sizes = dict(zip(SIDES, row_counts(problem, self.count), strict=True))
        others = {"user": problem.num_items, "item": problem.num_users}
        here = self.resolved(problem)

        def total(power: Any) -> jax.Array:
            ones = dataclasses.replace(here, reg_user=1.0, reg_item=1.0, reg_power=power)
            return sum((ones.row_reg(side, n, others[side])[0].sum() for side, n in sizes.items()), jnp.zeros(()))

        factor = total(reg_power) / total(self.reg_power)
        known = {name: getattr(self, name) for name in NUMBERS if name.startswith("reg_") and name != "reg_power"}
        return dataclasses.replace(self, **{name: reg * factor for name, reg in known.items() if reg is not None})

    def unobserved_mass(self, side: str, others: int) -> Any:
        """a0 a_u sum_i c_i, the weight of all of a row's pairs together, `()` or `(rows,)`; 0 without a0."""
        if self.unobserved_weight is None:
            return 0.0
        own, opposite = self.unobserved(side)
        mass = self.unobserved_weight * (others if opposite is None else jnp.sum(opposite))
        return mass if own is None else mass * own

    def unobserved(self, side: str) -> tuple[Any, Any]:
        """(the pairs' weights by rows of this side, by rows of the other); None: 1. Of an objective without powers, see
        `resolved`."""
        self._refuse_powers()
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
            refuse_offsets("unobserved_weight", self.bias, self.center)
        for side in SIDES:
            layout = getattr(problem, f"{side}_side")
            rows = layout.num_rows if self.by_place else getattr(problem, f"num_{side}s")
            for name in (f"reg_{side}", f"reg_bias_{side}"):
                _check_shape(name, getattr(self, name), ((), (rows,)), f"one number, or one for each {side}")
            for name in (f"unobserved_{side}", f"weight_{side}"):
                _check_shape(name, getattr(self, name), ((rows,),), f"(num_{side}s,), one number for each {side}")
            for name in (f"unobserved_{side}", f"unobserved_power_{side}"):
                if getattr(self, name) is None or self.unobserved_weight is not None:
                    continue
                raise ArgumentError(f"{name} weighs the pairs of a sum over all pairs, but unobserved_weight is None.")
            prior = getattr(self, f"prior_{side}")
            _check_shape(f"prior_{side}", prior, ((rank,), (rows, rank)), f"(rank,) or (num_{side}s, rank)")
        for name in NUMBERS[len(BY_ROW) :]:
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
            given, ranged = getattr(self, name), name in NUMBERS and name not in POWERS
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


def loss(factors: Factors, problem: Problem, objective: Objective) -> jax.Array:
    """`jals.loss` without its checks, in the factors' dtype; of those stored in bfloat16, in float32."""
    factors = widened(factors)
    return _loss(factors, problem, objective.cast(factors.dtype))


@jax.jit
def _loss(factors: Factors, problem: Problem, objective: Objective) -> jax.Array:
    if objective.powers:
        objective = objective.with_counts(entry_counts(problem))

    sizes = entry_counts(problem, objective.count)
    if isinstance(problem, Sharded):
        own = (objective.weight_user, objective.weight_item)
        entries = row_losses(factors, problem, dataclasses.replace(objective, **dict.fromkeys((*BY_ROW, *PRIORS))), own)
        return entries.sum() + penalty(factors, sizes, objective)

    @jax.checkpoint  # the backward pass gathers again instead of keeping every entry's factors
    def chunk(user, item, value, weight):
        weight = jnp.ones_like(value) if weight is None else weight
        entry = objective.entry(value, objective.weighed(weight, user, item))
        return entry.loss(remainder(entry.t, score_terms(factors, user, item))).sum()

    columns = (problem.user, problem.item, problem.value, problem.given_weight)
    whole = problem.num_entries // CHUNK
    chunks = jax.tree.map(lambda column: column[: whole * CHUNK].reshape(whole, CHUNK), columns)
    total = chunk(*jax.tree.map(lambda column: column[whole * CHUNK :], columns))
    if whole:
        total += jax.lax.map(lambda each: chunk(*each), chunks).sum()
    return total + penalty(factors, sizes, objective)


def row_counts(problem: Problem, count: str = "entries") -> tuple[jax.Array, ...]:
    """`entry_counts` by the rows of the ratings, wherever these lie."""
    counts = entry_counts(problem, count)
    if not isinstance(problem, Sharded):
        return counts
    return tuple(problem.by_row(side, n) for side, n in zip(SIDES, counts, strict=True))


def row_sizes(problem: Problem, objective: Objective) -> tuple[jax.Array, jax.Array]:
    """`entry_counts` of an arranged problem, by its layouts: n as this objective counts it."""
    if objective.count == "weights":
        return problem.weight_sums()
    assert problem.user_slots is not None and problem.item_slots is not None
    return problem.user_slots.count, problem.item_slots.count


def by_rows(problem: Problem, objective: Objective) -> Objective:
    """The objective without powers of n, counted by the layouts of an arranged problem: see `Objective.resolved`."""
    assert problem.user_slots is not None and problem.item_slots is not None
    return objective.with_counts((problem.user_slots.count, problem.item_slots.count))


def penalty(factors: Factors, sizes: tuple[jax.Array, jax.Array], objective: Objective) -> jax.Array:
    """All of L but the sum over entries: the sum over all pairs, and the regularisation. `sizes`: n, a side. Of an
    objective without powers of n, see `by_rows`."""
    total = jnp.zeros((), factors.dtype)
    if objective.unobserved_weight is not None:
        users, items = map(squared_sum, (factors.user, factors.item), objective.unobserved("user"))
        total += objective.unobserved_weight * jnp.sum(users * items)
    for side, n in zip(SIDES, sizes, strict=True):
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


def refuse_offsets(preset: str, bias: bool, center: bool) -> None:
    """Refuses biases and centering beside a sum over all pairs: it has no room for them."""
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
