"""The contract table on a GPU, against the CPU's answers, with the kernel that jals takes there. Where there is no GPU
every test skips; what can be said without one is in test_cuda_emulated.py.

JALS_DEVICE names another platform of jax to run them on: with "cpu" they compare the CPU's kernel with XLA, and show
that they run.
"""

import dataclasses
import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jals
from jals import native, normal
from tests.support import tables

pytestmark = [pytest.mark.newest, pytest.mark.usefixtures("fresh_caches")]

PLATFORM = os.environ.get("JALS_DEVICE", "cuda")
REFERENCE = "xla" if PLATFORM == "cpu" else "auto"  # the CPU's own, its kernel where that is built: another program
FLOATS = (np.float32, np.float64)
RANKS = (1, 17, 64, 128, 256, 300)
# How far a prediction may be off, of the largest: what well-conditioned systems make of rounding.
NEAR = {np.float32: 2e-4, np.float64: 1e-11}
# Every preset meets both dtypes, and every layout those of all terms.
CASES = [(dtype, "bucketed, cut small", preset) for dtype in FLOATS for preset in tables.PRESETS]
CASES += [(dtype, layout, preset) for dtype in FLOATS for layout in ("padded", "segmented") for preset in tables.BROAD]


@pytest.fixture(scope="module")
def device():
    """The first device of the platform, whose kernel is here."""
    try:
        found = jax.local_devices(backend=PLATFORM)[0]
    except RuntimeError:
        pytest.skip(f"needs a device that jax knows as {PLATFORM}")
    missing = native.missing()[PLATFORM]
    if missing:
        pytest.skip(missing)
    return found


@pytest.fixture
def compared(device):
    """What a function of arrays gives on the device, where the kernel solves, and on the CPU: in NumPy."""
    cpu = jax.local_devices(backend="cpu")[0]

    def on(place, function, backend, *arguments):
        with jax.default_device(place):
            program = jax.jit(functools.partial(function, backend))
            return jax.tree.map(np.asarray, program(*jax.device_put(arguments, place)))

    return lambda function, *arguments: (
        on(device, function, "native", *arguments),
        on(cpu, function, REFERENCE, *arguments),
    )


def assert_near(ours, theirs, dtype, what=""):
    """Leaf by leaf, of the largest number of each; integers and truths to the bit."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        if one.dtype.kind == "f":
            assert one.dtype == dtype
            size = np.abs(other).max(initial=1e-30)
            np.testing.assert_allclose(one / size, other / size, rtol=0, atol=NEAR[dtype], err_msg=what)
        else:
            np.testing.assert_array_equal(one, other, err_msg=what)


def sweeps(backend, start, problem, objective):
    """Two sweeps with the loss, and what no rotation changes of the factors: every prediction."""
    rank = start.factors.rank
    state, infos = jals.run(jals.ALS(rank, backend=backend), start, problem, objective, sweeps=2, loss=True)
    users, items = start.factors.user.shape[0], start.factors.item.shape[0]
    pairs = jnp.divmod(jnp.arange(users * items), items)
    return jals.predict(state.factors, *pairs), infos.loss, infos.finite, infos.bad_row


@pytest.mark.parametrize("dtype, layout, preset", CASES)
def test_every_case_of_the_contract_table(compared, dtype, layout, preset):
    table = tables.table("together", weighted=True)
    objective = tables.objective(tables.setting(preset, table)).cast(dtype)
    problem = tables.problem(table, layout, dtype).arrange()
    start = jals.ALS(tables.RANK, init_scale=1.0).init(jax.random.key(0), problem, objective)
    ours, theirs = compared(sweeps, start, problem, objective)
    assert ours[2].all() and (ours[3] == -1).all()
    assert_near(ours, theirs, dtype, preset)


@functools.cache
def systems(rank, dtype):
    """(what `normal.view` is made of, a start): users with biases, prior means, and a matrix precision a row, which
    keeps every system's condition small at any rank."""
    rng = np.random.default_rng(rank)
    table = tables.table("skewed", weighted=True)
    problem = tables.problem(table, "bucketed, cut small", dtype).arrange()
    users, items = table.num_users, table.num_items
    parts = [rng.normal(size=(count, rank)) / rank**0.5 for count in (users, items)]
    parts += [rng.normal(size=users), rng.normal(size=items)]
    factors = jals.Factors(*(jnp.asarray(each, dtype) for each in parts), mean=jnp.asarray(3.0, dtype))
    root = rng.normal(size=(users, rank, rank)) / rank**0.5
    precision = root @ np.swapaxes(root, 1, 2) + 0.5 * np.eye(rank)
    objective = jals.explicit(0.3, bias=True, center=True, reg_bias=0.7).cast(dtype)
    rest = [precision, rng.normal(size=(users, rank)), rng.normal(size=(users, rank + 1))]
    return (factors, problem, objective, *(jnp.asarray(each, dtype) for each in rest))


def solved(backend, factors, problem, objective, precision, prior, start):
    """Rows with all that can be wanted of them, and from a start."""
    view = normal.view(factors, problem, objective, "user", precision, prior)
    found = jals.rowsolve.solve(view, backend=backend, want=native.RETURNS)
    return found, jals.rowsolve.solve(view, backend=backend, want=("value",), start=start).value


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("rank", RANKS)
def test_rows_of_any_rank(compared, rank, dtype):
    """With their loss, factor, inverse and norms."""
    assert_near(*compared(solved, *systems(rank, dtype)), dtype)


@pytest.mark.parametrize("rank", (*RANKS, 18))
def test_rows_against_a_table_in_bfloat16(compared, rank):
    """Of odd ranks, even ones and multiples of 8: their numbers are gathered in pieces of 2, 4 and 16 bytes."""
    factors, *rest = systems(rank, np.float32)
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16) if leaf.ndim else leaf, factors)
    assert_near(*compared(solved, narrow, *rest), np.float32)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("rank", RANKS)
def test_the_same_bits_twice(device, rank, dtype):
    arguments = jax.device_put(systems(rank, dtype), device)
    program = jax.jit(functools.partial(solved, "native"))
    first = jax.tree.map(np.asarray, program(*arguments))
    for _ in range(5):
        jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, program(*arguments)), first)


@pytest.mark.parametrize("dtype", FLOATS)
def test_rows_of_many_parts(compared, device, dtype):
    """Long rows are cut, and added up in a fixed order."""
    rng = np.random.default_rng(0)
    lengths = [20_000, 3, 0, 4097, 40, 2048, 2049]
    user = np.repeat(np.arange(len(lengths)), lengths)
    item = np.concatenate([rng.permutation(20_000)[:length] for length in lengths])
    value, weight = rng.integers(1, 6, len(user)).astype(float), rng.uniform(0.1, 2.0, len(user))
    problem = tables.problem(tables.Table(user, item, value, weight, len(lengths), 20_000), "bucketed", dtype).arrange()
    objective = jals.als_wr(0.3, bias=True, center=True).cast(dtype)
    start = jals.ALS(33, init_scale=1.0).init(jax.random.key(0), problem, objective)

    def users(backend, factors, problem, objective):
        view = normal.view(factors, problem, objective, "user")
        return jals.rowsolve.solve(view, backend=backend, want=("value", "norms"))

    assert_near(*compared(users, start.factors, problem, objective), dtype)
    program = jax.jit(functools.partial(users, "native"))
    there = jax.device_put((start.factors, problem, objective), device)
    once, again = (jax.tree.map(np.asarray, program(*there)) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, once, again)


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_row_that_cannot_be_solved_is_named(compared, dtype):
    """Parallel items without a lambda; the rows beside it are solved."""
    user, item = np.array([(0, 0), (0, 1), (1, 0), (1, 1), (2, 2), (2, 3)]).T
    problem = jals.Problem.build(jals.Ratings.from_arrays(user, item, np.ones(6, dtype), 4, 4)).arrange()
    factors = jals.Factors(jnp.zeros((4, 2), dtype), jnp.array([[1, 0], [0, 1], [1, 3], [2, 6]], dtype))

    def users(backend, factors, problem, objective):
        found = jals.rowsolve.solve(normal.view(factors, problem, objective, "user"), backend=backend)
        return found.good, jnp.nan_to_num(found.rows, nan=7.0)

    ours, theirs = compared(users, factors, problem, jals.explicit(0.0).cast(dtype))
    np.testing.assert_array_equal(ours[0], [True, True, False, True])
    assert (ours[1][2] == 7).all()
    assert_near(ours, theirs, dtype)


@pytest.mark.parametrize("preset", tables.BROAD)
def test_derivatives_and_vmap(compared, preset):
    """Value, gradient and second derivative of a score of two sweeps (a `scan`) in lambda, values and weights, for two
    lambdas by `vmap`."""
    table = tables.table("empty_rows", weighted=False)
    problem = tables.problem(table, "segmented")
    objective = tables.objective(tables.setting(preset, table)).cast(float)
    start = jals.ALS(tables.RANK, init_scale=1.0).init(jax.random.key(0), problem, objective)

    def curved(backend, scale, values, weight, problem, objective, start):
        solver = jals.ALS(tables.RANK, backend=backend)

        def score(scale, values, weight):
            now = problem.with_values(values, weight=weight)
            scaled = dataclasses.replace(objective, reg_user=objective.reg_user * scale)
            state, _ = jals.run(solver, start, now, scaled, sweeps=2)
            return jnp.mean(jals.predict(state.factors, table.user, table.item) ** 2)

        def bent(scale):
            slopes = jax.grad(score, argnums=(0, 1, 2))
            return jax.jvp(lambda scale: slopes(scale, values, weight), (scale,), (jnp.ones_like(scale),))

        return jax.vmap(lambda scale: score(scale, values, weight))(scale), jax.vmap(bent)(scale)

    weight = jnp.asarray(np.random.default_rng(0).uniform(0.5, 2.0, len(table.user)))
    arguments = jnp.array([0.7, 1.5]), jnp.asarray(table.value), weight, problem, objective, start
    ours, theirs = compared(curved, *arguments)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-8 * np.abs(other).max())
        assert np.abs(other).max() > 1e-6


@pytest.mark.parametrize("linsolve", ["cg", "subspace"])
def test_steps_take_xla(device, linsolve):
    """They have no kernel on a GPU: "auto" does without."""
    table = tables.table("random", weighted=True)
    problem, objective = tables.problem(table, "segmented"), jals.explicit(0.3).cast(float)
    results = []
    for place in (device, jax.local_devices(backend="cpu")[0]):
        with jax.default_device(place):
            solver = jals.ALS(tables.RANK, linsolve, cg_steps=4, block=2, init_scale=1.0)
            start = jals.ALS(tables.RANK, init_scale=1.0).init(jax.random.key(0), problem, objective)
            state, _ = jals.run(solver, *jax.device_put((start, problem, objective), place), sweeps=2)
            results.append(np.asarray(jals.predict(state.factors, table.user, table.item)))
    np.testing.assert_allclose(*results, rtol=1e-9)
