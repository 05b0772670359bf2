"""What does not fit together is refused by every public call, before anything is computed; what an index out of range
touches is NaN, by XLA and by the kernel; numbers are numbers in every spelling."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jals
from jals import adjoint, metrics, native, protocol
from tests.support import tables

RANK = tables.RANK
TABLE = tables.table("random", weighted=True)
biased = functools.partial(jals.als_wr, bias=True, center=True)
OBJECTIVE, PLAIN = biased(0.1), jals.explicit(0.1)
SOLVERS = {
    "xla": jals.ALS(RANK, backend="xla"),
    "native": jals.ALS(RANK, backend="native"),
    "anderson": jals.AndersonALS(RANK, memory=2),
    "newton": jals.NewtonCG(RANK),
    "gradient": jals.Gradient(RANK),
}
ALS = SOLVERS["xla"]
KEY = jax.random.key(0)


@functools.cache
def problem(dtype=np.float64):
    return tables.problem(TABLE, "bucketed", dtype)


@functools.cache
def cut():
    return tables.problem(TABLE, "bucketed, cut small")


@functools.cache
def factors(dtype=np.float64):
    return ALS.init(KEY, problem(dtype), OBJECTIVE).factors


def altered(part, place, number, side="item_side", arranged=False):
    """The problem with another number in an index array of the first bucket that has one (piece_row: that is cut)."""
    whole = cut().arrange() if arranged else cut()
    if part in ("user", "item"):
        return dataclasses.replace(whole, **{part: getattr(whole, part).at[place].set(number)})
    layout = getattr(whole, side)
    at = next(at for at, each in enumerate(layout.buckets) if getattr(each, part) is not None and each.width)
    array = getattr(layout.buckets[at], part)
    changed = dataclasses.replace(layout.buckets[at], **{part: array.at[(place,) * array.ndim].set(number)})
    buckets = (*layout.buckets[:at], changed, *layout.buckets[at + 1 :])
    return dataclasses.replace(whole, **{side: dataclasses.replace(layout, buckets=buckets)})


# Every public call of factors, a problem and an objective.
def sweep(solver, factors, problem, objective):
    return solver.sweep(protocol.State(factors), problem, objective)


CALLS = {
    "loss": jals.loss,
    "certify": jals.certify,
    "leave_one_out": jals.leave_one_out,
    "update": lambda *given: ALS.update(*given, "user"),
    "fit": lambda factors, *given: jals.fit(ALS, *given, sweeps=1, init=factors),
    "run": lambda factors, *given: jals.run(ALS, protocol.State(factors), *given, 1),
    "solution_map": lambda factors, *given: jals.solution_map(ALS, *given, sweeps=1, init=factors),
    "hypergradient": lambda *given: adjoint.hypergradient(sum, *given),
    "polish": adjoint.polish,
    "stationary_factors": adjoint.stationary_factors,
    "tune": lambda factors, problem, objective: jals.tune(problem, None, objective, ALS, init=factors),
    **{f"init of {name}": lambda f, *given, s=s: s.init(KEY, *given, f) for name, s in SOLVERS.items()},
    **{f"sweep of {name}": functools.partial(sweep, s) for name, s in SOLVERS.items()},
}
WRONG = {
    "a user too few": ("factors", lambda: dataclasses.replace(factors(), user=factors().user[1:]), "user is of shape"),
    "items of another rank": ("factors", lambda: dataclasses.replace(factors(), item=jnp.zeros((9, 5))), "item is of"),
    "no biases": ("factors", lambda: dataclasses.replace(factors(), user_bias=None, item_bias=None), "bias is abs"),
    "complex": ("factors", lambda: dataclasses.replace(factors(), user=factors().user + 0j), "user is of complex128"),
    "texts": ("factors", lambda: dataclasses.replace(factors(), item=np.full((9, RANK), "a")), "item is of <U1"),
    "a dict": ("factors", lambda: {"user": factors().user}, "of type dict"),
    "swapped": ("factors", problem, "of type Problem"),
    "no problem": ("problem", lambda: None, "problem is of type NoneType"),
    "a value too few": ("problem", lambda: dataclasses.replace(problem(), value=problem().value[1:]), "problem.value"),
    "int64 ids": ("problem", lambda: dataclasses.replace(problem(), user=problem().user.astype(int)), "problem.user"),
    "more users": ("problem", lambda: dataclasses.replace(problem(), num_users=13), "problem.user_side is of 12 rows"),
    "a slab too few": (
        "problem",
        lambda: dataclasses.replace(
            problem(),
            user_side=dataclasses.replace(
                problem().user_side,
                buckets=tuple(dataclasses.replace(b, entry=b.entry[1:]) for b in problem().user_side.buckets),
            ),
        ),
        r"buckets\[0\].entry is int32 of shape",
    ),
    "slots of others": (
        "problem",
        lambda: dataclasses.replace(
            problem().arrange(), item_slots=problem().arrange().item_slots._replace(count=jnp.zeros(8))
        ),
        "item_slots.count is float64 of shape",
    ),
    "a lambda too few": ("objective", lambda: biased(reg_user=[0.1] * 11, reg_item=0.1), "reg_user has shape"),
    "a text for lambda": ("objective", lambda: biased("0.1"), "reg_user is array"),
    "a wide prior": ("objective", lambda: biased(0.1, prior_user=[0.0] * 5), "prior_user has"),
    "a problem for it": ("objective", problem, "objective is of type Problem"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_every_call_refuses_what_does_not_fit(wrong):
    name, make, message = WRONG[wrong]
    given = {"factors": factors(), "problem": problem(), "objective": OBJECTIVE, name: make()}
    for call, function in CALLS.items():
        if "native" in call and not native.status().available:
            continue
        of_state = wrong in ("a dict", "swapped") and call.startswith(("sweep", "run"))
        with pytest.raises(jals.ArgumentError, match="state is of type" if of_state else message):
            function(*given.values())


def test_calls_of_the_host_look_at_indices():
    for call in ("fit", "certify", "leave_one_out", "solution_map", "hypergradient"):
        with pytest.raises(jals.DataError, match="user of entry 3 is -1, but the problem has 12 users"):
            CALLS[call](factors(), altered("user", 3, -1), OBJECTIVE)


def test_a_state_of_another_solver_or_table_is_refused():
    for solver, other in (("anderson", "xla"), ("xla", "anderson"), ("gradient", "newton"), ("newton", "gradient")):
        state = SOLVERS[other].init(KEY, problem(), OBJECTIVE)
        with pytest.raises(jals.ArgumentError, match=r"state\.memory is not what"):
            SOLVERS[solver].sweep(state, problem(), OBJECTIVE)
    with pytest.raises(jals.ArgumentError, match=r"state\.factors\.user .* rank need it of shape \(12, 5\)"):
        jals.ALS(5).sweep(SOLVERS["xla"].init(KEY, problem(), OBJECTIVE), problem(), OBJECTIVE)
    with pytest.raises(jals.ArgumentError, match="side is 'users', but must be"):
        ALS.update(factors(), problem(), OBJECTIVE, "users")


@pytest.mark.usefixtures("strict_dtypes")
def test_a_state_keeps_its_dtype():
    """A problem and numbers of another dtype are worked on in the state's: as if they had been of it."""
    solver = jals.ALS(RANK)
    start = solver.init(KEY, problem(np.float32), OBJECTIVE)
    expected, _ = solver.sweep(start, problem(np.float32), OBJECTIVE)
    found, _ = solver.sweep(start, problem().arrange(), OBJECTIVE)
    assert jax.tree.map(lambda leaf: leaf.dtype, found) == jax.tree.map(lambda leaf: leaf.dtype, start)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert solver.init(KEY, problem(), OBJECTIVE, start.factors).factors.dtype == np.float64
    mixed = start._replace(factors=dataclasses.replace(start.factors, item=start.factors.item.astype(jnp.bfloat16)))
    with pytest.raises(jals.ArgumentError, match=r"state\.factors\.item is bfloat16, but a sweep needs float32"):
        solver.sweep(mixed, problem(), OBJECTIVE)


def test_factors_of_any_numbers_are_read():
    """bfloat16, whole numbers and lists: as the same numbers in the problem's dtype; alone, in float32."""
    whole = jax.tree.map(lambda leaf: jnp.round(10 * leaf), factors())
    for kind in (jnp.bfloat16, jnp.int32):
        small = jax.tree.map(lambda leaf, kind=kind: leaf.astype(kind), whole)
        assert jals.loss(small, problem(), OBJECTIVE) == jals.loss(whole, problem(), OBJECTIVE)
        score = jals.predict(small, [1, 2], [0, 3])
        assert score.dtype == np.float32
        np.testing.assert_array_equal(score, jals.predict(whole, [1, 2], [0, 3]))
    lists = jals.Factors(*(np.asarray(leaf).tolist() for leaf in jax.tree.leaves(whole)))
    assert jals.loss(lists, problem(), OBJECTIVE) == jals.loss(whole, problem(), OBJECTIVE)
    with pytest.raises(jals.ArgumentError, match=r"factors\.item is of shape"):
        jals.predict(dataclasses.replace(whole, item=whole.item[:, 1:]), 0, 0)


OFF = {
    "an item too far": ("item", 3, 9),
    "a negative user": ("user", 3, -1),
    "another item": ("item", 3, 0),
    "other": ("other", 0, -1),
    "another other": ("other", 0, 5),
    "entry": ("entry", 0, 2**31 - 1),
    "row": ("row", 0, -(2**31)),
    "a row twice": ("row", 0, 1),
    "piece_row": ("piece_row", 0, -1),
}


@pytest.mark.parametrize("backend", ["xla", "native"])
@pytest.mark.parametrize("off", OFF)
def test_an_index_that_is_off_shows(off, backend):
    """On the host it is named. Inside a program all that is solved is NaN, and the loss where it would read it."""
    if backend == "native" and not native.status().available:
        pytest.skip(native.status().reason)
    wrong = altered(*OFF[off])
    if backend == "xla":
        with pytest.raises(jals.DataError, match=r"(user|item)_side|(user|item) of entry 3 is"):
            wrong.check()
        if "far" in off or "negative" in off:
            assert np.isnan(jals.loss(factors(), wrong, OBJECTIVE))
    _, info = SWEEPS[backend](wrong)
    assert not info.finite and np.isnan(info.loss)
    if backend == "xla" or "another" in off or "twice" in off:
        return
    if OFF[off][0] in ("other", "row", "piece_row"):  # altered after it was arranged: the kernel looks again
        _, info = SWEEPS[backend](altered(*OFF[off], arranged=True))
        assert not info.finite and info.bad_row >= 0


SWEEPS = {
    name: jax.jit(lambda problem, s=SOLVERS[name]: s.sweep(s.init(KEY, problem, PLAIN), problem, PLAIN, True))
    for name in ("xla", "native")
}


def test_sizes_have_an_upper_bound():
    for make, message in (
        (lambda: jals.ALS(2**15 + 1), "rank is 32,769, but must be at most 32,768"),
        (lambda: jals.ALS(2, cg_steps=2**31), "cg_steps is 2,147,483,648, but must be at most 2,147,483,647"),
        (lambda: jals.AndersonALS(2, memory=2**20), "memory is 1,048,576, but"),
        (lambda: jals.Gradient(2, batch_size=2**40), "batch_size is 1,099,511,627,776, but"),
        (lambda: jals.run(ALS, protocol.State(factors()), problem(), OBJECTIVE, sweeps=2**31), "sweeps is"),
        (lambda: jals.fit(ALS, problem(), OBJECTIVE, sweeps=2**40, loss_every=0), "sweeps is 1,099,511,627,776"),
        (lambda: jals.fit(ALS, problem(), OBJECTIVE, loss_every=10**5000), r"loss_every is 10\^18 or more"),
    ):
        with pytest.raises(jals.ArgumentError, match=message):
            make()


def test_a_rank_beyond_memory_is_refused(monkeypatch):
    monkeypatch.setattr(protocol, "memory_bytes", lambda: 700)
    with pytest.raises(jals.ArgumentError, match="rank is 4, but then factors of 12 users and 9 items take"):
        jals.fit(ALS, problem(), OBJECTIVE)


@pytest.mark.parametrize(
    "objective, message",
    [
        (biased(1e39), r"reg_user is 1e\+39, which float32 cannot hold \(it becomes inf\)"),
        (biased(1e-60), r"reg_user is 1e-60, which float32 cannot hold \(it becomes 0\)"),
        (biased(0.1, prior_user=[1e39] * RANK), r"prior_user is 1e\+39 in row 0"),
        (jals.ials(0.1, unobserved_weight=1e-60), "unobserved_weight is 1e-60"),
    ],
)
def test_numbers_beyond_the_dtype_are_named(objective, message):
    with pytest.raises(jals.ArgumentError, match=message):
        jals.fit(ALS, problem(np.float32), objective)
    objective.check(problem(), RANK)  # float64 holds them


def test_numbers_in_every_spelling():
    plain = jals.loss(factors(), problem(), jals.als_wr(0.5, prior_user=np.ones(RANK), bias=True, center=True))
    for half in (np.float16(0.5), jnp.asarray(0.5, jnp.bfloat16), jnp.float16(0.5), np.full(12, 0.5), [0.5] * 12):
        given = jals.als_wr(reg_user=half, reg_item=0.5, prior_user=(1,) * RANK, bias=True, center=True)
        given.check(problem(), RANK)
        assert jals.loss(factors(), problem(), given) == plain
    values = problem().with_values([1] * problem().num_entries, weight=[True] * problem().num_entries)
    assert float(values.value.sum()) == float(values.weight.sum()) == problem().num_entries
    for wrong in (["a"] * problem().num_entries, np.zeros(problem().num_entries, complex), [[1], [2, 3]]):
        with pytest.raises(jals.ArgumentError, match="values"):
            problem().with_values(wrong)
    low = jals.predict(factors(), [0], [0], clip=(jnp.asarray(7, jnp.bfloat16), np.float16(8)))
    np.testing.assert_array_equal(low, [7.0])


def test_metrics_hold_what_they_sum():
    assert metrics.mae(np.array([1, 2], np.uint8), np.array([2, 4], np.uint8)) == 1.5
    assert metrics.rmse([70000], [0]) == 70000
    assert metrics.mae([True, False], [False, False], weight=[3, 1]) == 0.75
    small = jnp.asarray([1.0, 3.0], jnp.bfloat16)
    assert metrics.rmse(small, small * 0) == pytest.approx(5**0.5, rel=1e-6)
    for size in (1e30, 3e38, 1e-30):
        far = jnp.asarray([size, -size, 0, 0], jnp.float32)
        for metric, expected in ((metrics.rmse, 2**0.5), (metrics.mae, 1)):
            if size < 3e38 or metric is metrics.mae:
                assert metric(far, -far) == pytest.approx(size * expected, rel=1e-6)
            assert metric(far, 0 * far) == pytest.approx(size * expected / 2, rel=1e-6)
            weighted = metric(far, 0 * far, jnp.full(4, 1e38, jnp.float32))
            assert weighted == pytest.approx(size * expected / 2, rel=1e-6)
    slope = jax.grad(lambda p: metrics.rmse(p, jnp.array([1.0, 1.0])))(jnp.array([4.0, 5.0]))
    np.testing.assert_allclose(slope, [3 / (2 * 12.5**0.5), 4 / (2 * 12.5**0.5)], rtol=1e-12)
    for predicted, actual in (([1j], [1]), (["a"], ["b"]), ([1], [1, 2]), ([], [])):
        with pytest.raises(jals.ArgumentError):
            metrics.rmse(predicted, actual)


# The optimizers of optax that take whole numbers, with one.
WHOLE = {
    ("noisy_sgd", "key"): 0,
    ("noisy_sgd", "seed"): 3,
    ("adafactor", "min_dim_size_to_factor"): 2,
    ("adafactor", "decay_offset"): 0,
    ("lbfgs", "memory_size"): 2,
}


@pytest.mark.parametrize("name, argument", WHOLE)
def test_whole_numbers_of_optimizers_stay_whole(name, argument):
    for number in (WHOLE[name, argument], np.int64(WHOLE[name, argument]), jnp.asarray(WHOLE[name, argument])):
        solver = jals.Gradient(RANK, getattr(optax, name), {"learning_rate": 1, argument: number})
        numbers = jax.tree.map(float, jax.tree.leaves(solver))
        assert numbers == [1.0, 0.1], "learning rate and init_scale alone are traced"
        hash(jax.tree.structure(solver))
        made = jax.eval_shape(lambda solver=solver: solver.init(KEY, problem(), OBJECTIVE))
        assert made.factors.user.dtype == np.float64
