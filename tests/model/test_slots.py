"""Numbers in the order of a layout: as few bytes as hold them, and the same whoever puts them there."""

import dataclasses
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jals
from jals.data import grouping
from jals.model import slots
from jals.model.layouts import LAYOUTS
from jals.model.slots import codes, forecast_bytes


@pytest.fixture(autouse=True)
def large(monkeypatch):
    """Tables here are as tables of millions."""
    monkeypatch.setattr(slots, "_LEAN", 1)


OBJECTIVES = {
    "als_wr": jals.als_wr(reg=0.1, bias=True, center=True),
    "hu_koren": jals.hu_koren(reg=0.1, alpha=2.0),
    "log": jals.hu_koren(reg=0.1, alpha=2.0, epsilon=0.5),
    "weighted by row": dataclasses.replace(jals.explicit(reg=0.1), weight_power_user=-0.5, weight_power_item=0.25),
}


def table(values, weight=None, seed=0):
    rng = np.random.default_rng(seed)
    pairs = rng.choice(60 * 40, 700, replace=False)
    return jals.Ratings.from_arrays(pairs // 40, pairs % 40, rng.choice(np.array(values, float), 700), 60, 41, weight)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "values, wanted, step",
    [
        ([1, 2, 5], np.uint8, 1),
        ([0.5, 4.5, 3], np.uint8, 0.5),
        ([-7.25, 0, 100], np.uint16, 0.25),
        ([0, 255], np.uint8, 1),
        ([-1, 255], np.uint16, 1),
        ([3, 3 + 65535], np.uint16, 1),
        ([2**20 - 1, 2**20 - 200], np.uint8, 1),
        ([1.0], np.uint8, 1),
        ([0, 65536], None, None),
        ([0, 2**20], None, None),
        ([0.1, 0.2], None, None),
        ([1 / 512, 1], None, None),
        ([0, 1, np.nan], None, None),
        ([0, np.inf], None, None),
    ],
)
def test_codes_give_the_values_back_to_the_last_bit(dtype, values, wanted, step):
    value = np.random.default_rng(0).choice(np.array(values, dtype), 5000)
    value[: len(values)] = values
    coded, scale = codes(value)
    assert (coded is None) == (wanted is None)
    if wanted is not None:
        assert coded.dtype == wanted and scale.dtype == dtype and scale[1] == step
        np.testing.assert_array_equal(scale[0] + scale[1] * coded.astype(dtype), value)


def test_an_odd_value_at_the_end_is_seen():
    value = np.ones(3_000_000, np.float32)
    value[-1] = 1 / 3
    assert codes(value) == (None, None)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("weight", [None, "given"])
@pytest.mark.parametrize("values", [[1, 2, 3.5], [0.1, 0.7]])
def test_the_host_arranges_as_xla_does(monkeypatch, layout, weight, values):
    if grouping.library() is None:
        pytest.skip("needs jals/data/native/_grouping.so: a C++ compiler when jals is installed")
    weight = None if weight is None else np.random.default_rng(1).integers(0, 3, 700)
    problem = jals.Problem.build(table(values, weight), layout)
    here = problem.arrange()
    monkeypatch.setattr(grouping, "library", lambda: None)
    jax.tree.map(np.testing.assert_array_equal, here, problem.arrange())
    assert (here.user_slots.weight is None) == (weight is None)
    assert (here.item_slots.scale is None) == (values == [0.1, 0.7])


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES.keys())
@pytest.mark.parametrize("backend", ["xla", "native"])
@pytest.mark.parametrize("linsolve", ["cholesky", "cg"])
def test_codes_and_absent_weights_change_nothing(objective, backend, linsolve):
    if backend == "native" and not jals.native.status().available:
        pytest.skip(jals.native.status().reason)
    lean = jals.Problem.build(table([0.5, 1, 4.5])).arrange()
    full = lean.with_values(lean.value, np.ones(700)).arrange()
    assert lean.user_slots.value[0].dtype == np.uint8 and full.user_slots.value[0].dtype == full.dtype
    solver = jals.ALS(rank=3, linsolve=linsolve, backend=backend)
    state = solver.init(jax.random.key(0), full, objective)
    (one, told), (other, said) = (solver.sweep(state, problem, objective, loss=True) for problem in (lean, full))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), one.factors, other.factors)
    np.testing.assert_allclose(told.loss, said.loss, rtol=1e-11)
    pair = [jals.loss(one.factors, problem, objective) for problem in (lean, full)]
    np.testing.assert_allclose(*pair, rtol=1e-13)


@pytest.mark.parametrize("values, weight", [([1, 2, 3], None), ([0.1, 0.2], None), ([1, 2], "given")])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_is_forecast(layout, values, weight):
    rng = np.random.default_rng(0)
    user, item = (rng.geometric(0.002, 60_000) % size for size in (2_000, 900))
    value = rng.choice(np.array(values, float), len(user))
    weight = None if weight is None else rng.uniform(size=len(user))
    ratings = jals.Ratings.from_arrays(user, item, value, 2_000, 900, weight, duplicates="last")
    problem = jals.Problem.build(ratings, layout).arrange()
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(problem))
    assert abs(forecast_bytes(ratings, layout, problem.dtype) / held - 1) < 0.1


@pytest.mark.parametrize("weight", [None, np.ones(700)])
def test_only_large_tables_leave_out_what_can_be(monkeypatch, weight):
    for least, lean in ((700, True), (701, False)):
        monkeypatch.setattr(slots, "_LEAN", least)
        problem = jals.Problem.build(table([1, 2, 3], weight))
        assert (problem.given_weight is None) == (problem.arrange().user_slots.scale is not None) == lean
        np.testing.assert_array_equal(problem.weight, np.ones(700))


def test_the_mean_of_equal_values_is_their_value():
    """To the last bit, as with weights: what is left of the targets is 0."""
    for value in (0.7, 3.0, 1e6 / 3):
        problem = jals.Problem.build(table([value]))
        state = jals.ALS(2).init(jax.random.key(0), problem, jals.als_wr(0.1, center=True))
        weighted = problem.with_values(problem.value, np.ones(700))
        right = jals.ALS(2).init(jax.random.key(0), weighted, jals.als_wr(0.1, center=True))
        assert state.factors.mean == right.factors.mean
    assert state.factors.mean.dtype == problem.dtype


def test_numbers_given_later_are_kept_as_they_are():
    """Whatever they are, nothing is compiled again."""
    problem = jals.Problem.build(table([1, 2, 3]))
    for values in (np.ones(700), np.full(700, 0.3)):
        slots = problem.with_values(values).arrange().user_slots
        assert slots.scale is None and slots.value[0].dtype == problem.dtype


def test_derivatives_reach_values_and_weights_of_a_lean_table():
    problem, objective = jals.Problem.build(table([1, 2, 3])), jals.als_wr(reg=0.1)
    solver = jals.ALS(rank=2)

    def error(values, weight):
        state = solver.init(jax.random.key(0), problem, objective)
        state, _ = jals.run(solver, state, problem.with_values(values, weight), objective, sweeps=2)
        return jnp.mean(jals.predict(state.factors, problem.user, problem.item) ** 2)

    by_value, by_weight = jax.grad(error, argnums=(0, 1))(problem.value, problem.weight)
    assert by_value.shape == by_weight.shape == (700,)
    step = 1e-5 * np.random.default_rng(3).normal(size=700)
    for at, slope in ((0, by_value), (1, by_weight)):
        given = [problem.value, problem.weight]
        ends = [error(*[each + sign * step * (at == n) for n, each in enumerate(given)]) for sign in (1, -1)]
        np.testing.assert_allclose((ends[0] - ends[1]) / 2, slope @ step, rtol=1e-5)


def test_a_row_that_lies_nowhere_is_seen_on_the_host():
    """Without entries it is in no fingerprint."""
    problem = jals.Problem.build(table([1, 2, 3]))
    empty = problem.item_side.buckets[-1]
    assert empty.width == 0
    buckets = *problem.item_side.buckets[:-1], dataclasses.replace(empty, row=jnp.full_like(empty.row, 41))
    altered = dataclasses.replace(problem, item_side=dataclasses.replace(problem.item_side, buckets=buckets))
    assert np.isnan(altered.arrange().item_slots.count).all()


@pytest.mark.parametrize("part", ["row", "other", "entry"])
def test_a_layout_that_is_not_the_tables_is_seen_on_the_host(part):
    problem = jals.Problem.build(table([1, 2, 3]))
    bucket = problem.user_side.buckets[0]
    array = np.array(getattr(bucket, part))
    array[(0,) * array.ndim] = (array[(0,) * array.ndim] + 1) % 40
    buckets = (dataclasses.replace(bucket, **{part: jnp.asarray(array)}), *problem.user_side.buckets[1:])
    altered = dataclasses.replace(problem, user_side=dataclasses.replace(problem.user_side, buckets=buckets))
    assert np.isnan(altered.arrange().user_slots.count).all()
    assert not np.isnan(altered.arrange().item_slots.count).any()


WHOLE_JOB = """
import re, sys, jax, jals
def most():  # not ru_maxrss, which begins at that of who started the process
    return 1024 * int(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1])
def job(path):
    ratings, _ = jals.read_ratings(path)
    problem = jals.Problem.build(ratings).arrange()
    jax.block_until_ready(jax.tree.leaves(problem))
    return problem
job(sys.argv[1])  # what is loaded and compiled once
before = most()
problem = job(sys.argv[2])
print(most() - before, problem.num_entries)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, which says how much memory a process held")
def test_reading_and_building_hold_little_more_than_the_problem(tmp_path):
    """Of half stars a problem is 12 bytes an entry and 9 a slot of each side: one more column would be four bytes."""
    if grouping.library() is None:
        pytest.skip("needs jals/data/native/_grouping.so: a C++ compiler when jals is installed")
    rng = np.random.default_rng(0)
    for name, count in (("small", 1000), ("large", 2**21)):
        pairs = rng.permutation(np.unique(rng.integers(0, 40_000 * 5_000, count, np.int32)))
        value = rng.integers(1, 11, len(pairs)).astype(np.float32) / 2
        np.savez(tmp_path / name, user=pairs // 5_000, item=pairs % 5_000, value=value)
    call = [sys.executable, "-c", WHOLE_JOB, *(str(tmp_path / f"{name}.npz") for name in ("small", "large"))]
    done = subprocess.run(call, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    more, entries = map(int, done.stdout.split())
    assert more / entries < 39
