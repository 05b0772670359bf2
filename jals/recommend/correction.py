"""Scores corrected for how popular items are, once the factors are fitted."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from ..data.ratings import Ratings
from ..errors import ArgumentError
from ..model.counts import entry_counts
from ..model.factors import Factors, consistent
from ..model.problem import Problem
from ..reals import reals
from .candidates import entries_of


def corrected(factors: Factors, counts: Any, item_power: Any) -> Factors:
    """Factors whose score of item i is that of the given ones times max(n_i, 1)^item_power: the item rows multiplied by
    it. So all that goes by scores is corrected: `top_k`, `metrics.ranking`, `similar` by "dot", `index_vectors`, a
    `Recommender` of them. With item_power < 0 items that few have taken rise in every list; with 0 nothing changes.

    For serving only: rows of newcomers (`fold_in`), `explain` and `append` solve against items as they were fitted, so
    give them the factors as fitted, and correct what they return. Cosines (`similar`) do not change.

    Args:
        factors: as fitted, without biases and mean: a score that holds these cannot be multiplied into the rows.
        counts: the `Problem` or `Ratings` that the factors were fitted to, for n_i, how many entries of weight > 0 item
            i has; or n `(num_items,)` itself.
        item_power: one number, of either sign.

    Returns: factors of the same shapes and dtypes; the user rows are those given. Differentiable in the factors and in
        item_power, jittable and vmappable with a `Problem` or n.

    Raises:
        ArgumentError: for factors with biases or a mean, counts of other items, and an item_power that is no number.
    """
    factors = consistent(factors)
    offsets = [name for name in ("user_bias", "item_bias", "mean") if getattr(factors, name) is not None]
    if offsets:
        raise ArgumentError(
            f"factors.{offsets[0]} is part of the score, which item_power multiplies: correct scores of models without "
            "biases and mean, such as jals.ials fits."
        )
    if isinstance(counts, Problem):
        counts = entry_counts(counts)[1]
    elif isinstance(counts, Ratings):
        counts = entries_of(counts)
    counts, power = reals("counts", counts), reals("item_power", item_power)
    if counts.shape != (len(factors.item),):
        need = f"({len(factors.item):,},), one number for each item"
        raise ArgumentError(f"counts has shape {counts.shape}, but must be {need} of the factors.")
    if power.ndim:
        raise ArgumentError(f"item_power has shape {power.shape}, but must be one number.")
    n = jnp.maximum(jnp.asarray(counts, factors.item.dtype), 1)
    return dataclasses.replace(factors, item=factors.item * (n ** jnp.asarray(power, n.dtype))[:, None])
