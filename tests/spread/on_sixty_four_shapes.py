"""On 64 devices (or as many as there are): what a device holds in a sweep, by the shapes of the compiled program."""

import math
import re

import jax
import numpy as np
import pytest

import jals

RANK = 7  # no other dimension is of this size
DEVICES = jax.device_count()
USERS, ITEMS = 12 * DEVICES, 8 * DEVICES


@pytest.fixture(scope="module")
def ratings():
    """Six ratings a user, so that no device needs many items, or the items many users."""
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(USERS), 6)
    item = np.concatenate([rng.choice(ITEMS, 6, replace=False) for _ in range(USERS)])
    return jals.Ratings.from_arrays(user, item, rng.normal(size=len(user)), num_users=USERS, num_items=ITEMS)


def most_rows(ratings, exchange) -> int:
    """How many rows the largest array of rows has that a device holds."""
    problem = jals.Problem.build(ratings, devices=DEVICES, exchange=exchange)
    solver, objective = jals.ALS(RANK), jals.als_wr(reg=0.1)
    state = solver.init(jax.random.key(0), problem, objective)
    step = jax.jit(lambda state, problem: solver.sweep(state, problem, objective)[0])
    compiled = step.lower(state, problem).compile().as_text()
    shapes = {tuple(map(int, each.split(","))) for each in re.findall(r"\bf\d+\[([\d,]+)\]", compiled)}
    return max(math.prod(shape) // RANK for shape in shapes if RANK in shape)


def test_no_device_holds_a_whole_table(ratings):
    """But where every row is sent to every device, which this sees."""
    assert most_rows(ratings, "all_gather") >= USERS
    for exchange in ("routed", "ring"):
        assert most_rows(ratings, exchange) < ITEMS, exchange
