"""The contract table: every layout, linsolve, preset and kind of data of the suite. A new one adds a row."""

import contextlib
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jals
from jals.model import layouts
from tests.support.reference import Setting, Table

RANK = 4
# How a row is solved, by name: each is what `ALS` is told.
SOLVES = {
    "cholesky": {"linsolve": "cholesky", "backend": "xla"},
    "lu": {"linsolve": "lu", "backend": "xla"},
    "native": {"linsolve": "cholesky", "backend": "native"},
    "cg": {"linsolve": "cg", "backend": "xla"},
    "subspace": {"linsolve": "subspace", "block": 2, "backend": "auto"},
}
EXACT = ("cholesky", "lu", "native")
DATA = ("random", "skewed", "rank_above_entries", "empty_rows")
# Tables this small would never be cut: the last row of the table shrinks widths, slabs and steps until they are. Nor do
# two layouts of the first row differ in their shapes: in one test they share what is compiled.
ALIKE = (("bucketed", "padded"), ("segmented",), ("bucketed, cut small",))
LAYOUTS = tuple(layout for alike in ALIKE for layout in alike)
PRESETS = ("explicit", "als_wr", "explicit+bias", "als_wr+bias", "als_wr+all", "hu_koren+all", "hu_koren+log")
PRESETS += ("ials", "wals")
# Two that reach every term of the equations, where what is tested does not look at the preset.
BROAD = ("als_wr+all", "hu_koren+all")


def als(solve: str, rank: int = RANK, **more: Any) -> jals.ALS:
    """ALS with one of `SOLVES`; skips the test where the kernel is not built."""
    if SOLVES[solve]["backend"] == "native" and not jals.native.status().available:
        pytest.skip(jals.native.status().reason)
    return jals.ALS(rank, **SOLVES[solve], **more)


def table(data: str, weighted: bool, seed: int = 0) -> Table:
    """A small table of one kind of data, or "together": all kinds as blocks of one table."""
    if data == "together":
        blocks = [table(each, weighted, seed) for each in DATA]
        users = np.cumsum([0] + [block.num_users for block in blocks])
        items = np.cumsum([0] + [block.num_items for block in blocks])
        return Table(
            np.concatenate([block.user + start for block, start in zip(blocks, users[:-1], strict=True)]),
            np.concatenate([block.item + start for block, start in zip(blocks, items[:-1], strict=True)]),
            np.concatenate([block.value for block in blocks]),
            np.concatenate([block.weight for block in blocks]),
            int(users[-1]),
            int(items[-1]),
        )
    rng = np.random.default_rng(seed)
    users, items = 12, 9
    if data == "random":
        observed = rng.random((users, items)) < 0.5
    elif data == "skewed":
        users, items = 23, 11
        observed = rng.random((users, items)) < np.linspace(0.02, 0.6, items)
        observed[:, -1] = observed[0] = True
    elif data == "rank_above_entries":
        observed = np.zeros((users, items), bool)
        observed[np.arange(users), np.arange(users) % items] = True
    else:
        observed = rng.random((users, items)) < 0.5
        observed[[0, 5]] = observed[:, [3, -1]] = False
    user, item = np.nonzero(observed)
    order = rng.permutation(len(user))
    value = rng.integers(1, 6, len(user)).astype(float)
    if data == "empty_rows":  # as well as what is no count: nothing, and a confidence under 1
        value = np.array([0.0, -0.1, 0.0, 3.0, 4.0, 5.0])[value.astype(int)]
    weight = rng.choice([0.0, 0.5, 1.0, 2.0], len(user)) if weighted else np.ones(len(user))
    return Table(user[order], item[order], value, weight, users, items)


def setting(preset: str, table: Table, seed: int = 1) -> Setting:
    rng = np.random.default_rng(seed)
    m, n = table.num_users, table.num_items
    same = np.full(m, 0.3), np.full(n, 0.3)
    name, _, extra = preset.partition("+")
    if name == "hu_koren":
        every = {"prior_user": rng.normal(size=(m, RANK)), "prior_item": rng.normal(size=(n, RANK)), "reg_power": 0.4}
        every |= {"unobserved_user": rng.uniform(0.8, 1.5, m), "unobserved_item": rng.uniform(0.8, 1.5, n)}
        every |= {"unobserved_power_user": -0.1, "unobserved_power_item": 0.2, "weight_power_user": -0.3}
        every |= {"weight_item": rng.uniform(0.2, 1.2, n)}
        every["weight_item"][1] = 0
        more = {"all": every, "log": {"epsilon": 0.7}, "": {}}[extra]
        return Setting(name, *same, alpha=2.0, unobserved_weight=1.0, **more)
    if name in ("ials", "wals"):
        pairs = {"unobserved_user": rng.uniform(0.1, 1.0, m), "unobserved_item": rng.uniform(0.1, 1.0, n)}
        pairs["unobserved_user"][1] = pairs["unobserved_item"][0] = 0
        pairs |= {"unobserved_power_item": 0.4, "weight_power_item": -0.5}
        more = {} if name == "ials" else pairs | {"count": "weights"}
        return Setting(name, *same, reg_power=0.7, unobserved_weight=0.2, **more)
    power = 1.0 if name == "als_wr" else 0.0
    if extra == "all":
        prior = {"prior_user": rng.normal(size=(m, RANK)), "prior_item": rng.normal(size=(n, RANK))}
        regs = rng.uniform(0.1, 1.0, m), rng.uniform(0.1, 1.0, n)
        prior["reg_bias_user"] = rng.uniform(0.1, 1.0, m)
        prior |= {"weight_power_user": -0.4, "weight_power_item": 0.3, "weight_user": rng.uniform(0.2, 1.5, m)}
        return Setting(name, *regs, reg_bias=0.7, reg_power=power, bias=True, center=True, **prior)
    return Setting(name, *same, reg_power=power, bias=bool(extra), center=bool(extra))


def objective(setting: Setting) -> jals.Objective:
    """The jals objective of a setting, by the preset's own arguments."""
    names = ("reg_user", "reg_item", "prior_user", "prior_item")
    names += ("weight_user", "weight_item", "weight_power_user", "weight_power_item")
    numbers = {name: getattr(setting, name) for name in names}
    if setting.preset in ("hu_koren", "ials", "wals"):
        names = ("unobserved_user", "unobserved_item", "unobserved_power_user", "unobserved_power_item")
        names += ("reg_power", "count")
        names += ("alpha", "epsilon") if setting.preset == "hu_koren" else ("unobserved_weight",)
        return getattr(jals, setting.preset)(**numbers, **{name: getattr(setting, name) for name in names})
    names = ("reg_bias", "reg_bias_user", "reg_bias_item", "bias", "center")
    names += ("count",) if setting.preset == "als_wr" else ()
    return getattr(jals, setting.preset)(**numbers, **{name: getattr(setting, name) for name in names})


def problem(table: Table, layout: str, dtype: Any = np.float64) -> jals.Problem:
    layout, _, cut = layout.partition(",")
    small = {"_MAX_WIDTH": 4, "_MIN_CUT_WIDTH": 3, "_WIDTH_SLOTS": 0}
    small |= {"SIZES": dict.fromkeys(layouts.SIZES, layouts.Sizes(widths=2, slots=8, rows=3, pieces=5))}
    with mock.patch.multiple("jals.model.layouts", **small) if cut else contextlib.nullcontext():
        ratings = jals.Ratings.from_arrays(
            table.user,
            table.item,
            table.value.astype(dtype),
            table.num_users,
            table.num_items,
            weight=table.weight.astype(dtype),
        )
        return jals.Problem.build(ratings, layout)


def arrays(factors: jals.Factors):
    """(X, Y, b_u, b_i, mean) in NumPy, zeros for what is absent."""
    X, Y = np.asarray(factors.user), np.asarray(factors.item)
    bu = np.zeros(len(X)) if factors.user_bias is None else np.asarray(factors.user_bias)
    bi = np.zeros(len(Y)) if factors.item_bias is None else np.asarray(factors.item_bias)
    return X, Y, bu, bi, 0.0 if factors.mean is None else float(factors.mean)


def largest_difference(a, b) -> float:
    """The largest absolute difference between the leaves of two trees."""
    return max(float(jnp.max(jnp.abs(x - y))) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
