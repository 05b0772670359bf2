"""How many entries rows have, and what entries and pairs weigh by that: powers of a count, normalised over a table.

    g_u = max(n_u, 1)^p / (sum over users of n_u max(n_u, 1)^p / sum over users of n_u)        of entries
    a_u = max(n_u, 1)^p / (the mean of max(n_u, 1)^p over all users)                           of pairs

and items likewise, n being how many entries of weight > 0 a row has. So entries weigh 1 in the mean, and so do the
rows' pairs, whatever p: lambda and a0 keep their meaning while p moves. p is any number, of either sign; derivatives
in it are finite, and n carries none.

Source: of pairs He, Zhang, Kan and Chua, "Fast matrix factorization for online recommendation with implicit feedback"
(2016), section 4.1: c_i proportional to f_i^alpha.
"""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from .problem import Problem

SIDES = ("user", "item")
WEIGHTS = tuple(f"weight_{side}" for side in SIDES)  # by row: g_u, h_i
WEIGHT_POWERS = tuple(f"weight_power_{side}" for side in SIDES)
PAIR_POWERS = tuple(f"unobserved_power_{side}" for side in SIDES)
POWERS = (*WEIGHT_POWERS, *PAIR_POWERS)  # one number each, of either sign


def entry_counts(problem: Problem, count: str = "entries") -> tuple[jax.Array, jax.Array]:
    """(n of every user, n of every item): how many entries of weight > 0 each row has, or the sum of their weights (see
    `Objective.count`), added up entry by entry; NaN where an index is out of range (see `Problem.arrange`)."""
    if problem.user is None:  # spread over devices: by place
        assert problem.user_slots is not None and problem.item_slots is not None
        return problem.weight_sums() if count == "weights" else (problem.user_slots.count, problem.item_slots.count)
    here = problem.weight if count == "weights" else (problem.weight > 0).astype(problem.dtype)

    def counted(rows: int, row: jax.Array) -> jax.Array:
        within = (row.min() >= 0) & (row.max() < rows) if len(row) else True
        count = jnp.zeros(rows, problem.dtype).at[row].add(here)
        return jnp.where(within, count, jnp.asarray(jnp.nan, problem.dtype))

    return counted(problem.num_users, problem.user), counted(problem.num_items, problem.item)


def weights_of_rows(objective: Any, counts: Iterable[jax.Array], newcomers: dict[str, jax.Array]) -> Any:
    """What an objective's powers, and what it gives by row of the same, come to: its fields `weight_user` ... by name,
    None in place of the powers. `counts`: n of the table's users and items; `newcomers`: of other rows in their place,
    by side, normalised as those of the table."""
    made: dict[str, Any] = dict.fromkeys(POWERS)
    for side, n in zip(SIDES, counts, strict=True):
        for name, weights in (("weight", entry_weights), ("unobserved", pair_weights)):
            given, power = getattr(objective, f"{name}_{side}"), getattr(objective, f"{name}_power_{side}")
            if power is not None:
                own = weights(power, newcomers.get(side, n), n)
                made[f"{name}_{side}"] = own if given is None else own * jnp.asarray(given, own.dtype)
    return made


def entry_weights(power: Any, n: jax.Array, table: jax.Array | None = None) -> jax.Array:
    """`(rows,)`, what the entries of rows of `n` entries weigh; normalised by the counts of `table`, None for `n`.
    Without any entry in the table not normalised. NaN where a count is."""
    table = n if table is None else table
    total = jnp.sum(table)
    mean = jnp.sum(table * _raised(table, power)) / jnp.where(total == 0, 1, total)
    return _raised(n, power) / jnp.where(total == 0, 1, mean)


def pair_weights(power: Any, n: jax.Array, table: jax.Array | None = None) -> jax.Array:
    """The same for the pairs of a row."""
    return _raised(n, power) / jnp.mean(_raised(n if table is None else table, power))


def _raised(n: jax.Array, power: Any) -> jax.Array:
    return jnp.maximum(n, 1) ** jnp.asarray(power, n.dtype)
