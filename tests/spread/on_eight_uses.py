"""On eight devices: fits, what is made of their factors, tables that are opened, and what is refused."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jals
from tests.support import spread, tables


@pytest.fixture(scope="module")
def parts():
    """(train, test)"""
    return jals.split.random(spread.ratings(), test_fraction=0.2)


@pytest.fixture(scope="module")
def fits(parts):
    """The same fit on one device and on four."""
    train, test = parts
    solver, objective = jals.ALS(3, init_scale=1.0), spread.objective("als_wr+bias")

    def fit(devices):
        problem = jals.Problem.build(train, devices=devices)
        return problem, jals.fit(solver, problem, objective, sweeps=3, validation=test, metric="ndcg@3")

    return objective, fit(None), fit(4)


def test_a_fit_has_the_history_of_one_device(fits):
    _, (_, one), (_, many) = fits
    for name in ("loss", "validation", "passes"):
        np.testing.assert_allclose(getattr(many.history, name), getattr(one.history, name), rtol=1e-12)
    assert many.factors.places is not None and "64 shards" in repr(many.factors)
    assert {len(leaf.devices()) for leaf in jax.tree.leaves(many.factors)} == {4}


def test_factors_are_served_by_the_numbers_of_the_ratings(fits, parts, tmp_path):
    objective, (problem, one), (_, many) = fits
    theirs, ours = one.factors, many.factors
    np.testing.assert_allclose(ours.gathered().item, theirs.item, atol=1e-12)
    train, test = parts
    np.testing.assert_allclose(jals.predict(ours, test.user, test.item), jals.predict(theirs, test.user, test.item))
    for one_way, other in zip(jals.top_k(ours, [5, 40], 4, train), jals.top_k(theirs, [5, 40], 4, train), strict=True):
        np.testing.assert_allclose(one_way, other, rtol=1e-9)
    jals.save(tmp_path / "factors.npz", ours, objective=objective)
    saved = jals.load(tmp_path / "factors.npz").factors
    assert saved.places is None and np.array_equal(saved.user, ours.gathered().user)
    # a problem on one device takes them as they are
    assert jals.certify(ours, problem, objective).holds()
    measured = [jals.metrics.ranking(each, test, seen=train, k=(3,)).mean["ndcg@3"] for each in (ours, theirs)]
    assert measured[0] == pytest.approx(measured[1])


@pytest.mark.parametrize("devices", [2, 8])
def test_the_best_items_are_those_of_one_device(devices):
    """Equal scores by item too, whatever is excluded, and for either side."""
    rng = np.random.default_rng(0)
    users, items, k = 70, 90, 12
    ratings = jals.Ratings.from_arrays(
        *np.divmod(np.sort(rng.choice(users * items, 900, replace=False)), items), rng.integers(0, 3, 900) + 1.0,
        users, items,
    )  # fmt: skip
    problem = jals.Problem.build(ratings, devices=devices)
    # whole numbers, so that many scores are equal, to the bit
    rows = (rng.integers(-1, 2, (count, 2)).astype(float) for count in (users, items))
    whole = jals.Factors(*rows, user_bias=jnp.zeros(users), item_bias=jnp.asarray(rng.integers(0, 2, items) * 1.0))
    spread_out = problem.brought(whole.placed(problem.places))
    mask = rng.random((5, items)) < 0.5
    asked = [3, 9, 69, 0, 11]
    cases = [{}, {"exclude": ratings}, {"exclude": mask}, {"exclude": [1, 2, 3], "allow": np.arange(40)}]
    cases += [{"allow": [4, 80, 7], "exclude": ratings}]
    for given in cases:
        ours, theirs = (jals.top_k(each, asked, k, **given) for each in (spread_out, whole))
        assert np.array_equal(ours[0], theirs[0]) and np.array_equal(ours[1], theirs[1])
    ours, theirs = (jals.top_k(each, asked, k, ratings, side="item") for each in (spread_out, whole))
    assert np.array_equal(ours[0], theirs[0]) and np.array_equal(ours[1], theirs[1])


def test_fits_start_from_factors_of_other_devices(fits, parts):
    """Those of one device, of four, and a result of four, gone on with on four."""
    objective, (_, one), (problem, many) = fits
    solver, eight = jals.ALS(3), jals.Problem.build(parts[0], devices=8, exchange="routed")
    ends = [jals.fit(solver, eight, objective, 2, init=each) for each in (one.factors, many.factors)]
    ends.append(jals.fit(jals.ALS(3, init_scale=1.0), problem, objective, 5, init=many))
    for end in ends:
        np.testing.assert_allclose(end.factors.gathered().user, ends[0].factors.gathered().user, atol=1e-11)
    assert ends[2].history.sweep == [0, 1, 2, 3, 4, 5]


def test_derivatives_reach_values_in_the_order_of_the_ratings():
    problem = spread.problem(4, "routed")
    objective = jals.explicit(0.3)
    values = jnp.asarray(spread.ratings().value)
    factors = jals.ALS(2).init(jax.random.key(0), spread.problem(), objective).factors

    def loss(values, problem):
        return jals.loss(factors, problem.with_values(values), objective)

    ours, theirs = (jax.grad(loss)(values, each) for each in (problem, spread.problem()))
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    for one, other in zip(problem.columns(), spread.problem().columns(), strict=True):
        assert np.array_equal(one, other)


def test_a_partitioned_table_is_opened_on_devices(tmp_path):
    pytest.importorskip("duckdb", reason="partitioning needs the extra partition")
    jals.partition(spread.ratings(), tmp_path / "table", shards=8)
    one, many = jals.Problem.open(tmp_path / "table"), jals.Problem.open(tmp_path / "table", devices=4)
    assert many.places.shards == 8
    for column, known in zip(many.columns(), one.columns(), strict=True):
        assert np.array_equal(column, known)
    objective = spread.objective("als_wr+bias")
    ours, theirs = (jals.fit(jals.ALS(2), each, objective, 2).factors.gathered() for each in (many, one))
    assert tables.largest_difference(ours, theirs) < 1e-12
    with pytest.raises(jals.ArgumentError, match=re.escape("5 devices do not divide 8 shards; these do: 1, 2, 4, 8.")):
        jals.Problem.open(tmp_path / "table", devices=5)


def test_resident_arguments_fall_with_the_devices():
    """What the compiler says a device is given of a sweep: slots, values and factors, none of them whole."""
    rng = np.random.default_rng(0)
    keys = np.unique(rng.integers(0, 4_000 * 3_000, 60_000))
    ratings = jals.Ratings.from_arrays(keys // 3_000, keys % 3_000, rng.normal(size=len(keys)), 4_000, 3_000)
    solver, objective = jals.ALS(8), jals.als_wr(0.1)
    held = []
    for devices in (1, 2, 4, 8):
        problem = jals.Problem.build(ratings, devices=devices, exchange="all_gather")
        state = solver.init(jax.random.key(0), problem, objective)
        step = jax.jit(lambda state, problem: solver.sweep(state, problem, objective)[0])
        held.append(step.lower(state, problem).compile().memory_analysis().argument_size_in_bytes)
    for halves, size in enumerate(held):
        assert size == pytest.approx(held[0] / 2**halves, rel=0.02)


@pytest.mark.parametrize("exchange", ["routed", ("ring", 2)])
def test_no_device_holds_a_whole_table(exchange):
    """In no array of a compiled sweep are there as many rows as a table has places."""
    rows, rank = 8_192, 5
    rng = np.random.default_rng(0)
    # Each user meets a few items near its own number, as in large tables: most pairs of devices share little.
    user = np.repeat(np.arange(rows), 2)
    item = (user + rng.integers(0, 3, len(user)) * 7) % rows
    keys = np.unique(user * rows + item)
    ratings = jals.Ratings.from_arrays(keys // rows, keys % rows, np.ones(len(keys)), rows, rows)
    problem = jals.Problem.build(ratings, devices=8, exchange=exchange)
    whole = jals.Problem.build(ratings, devices=8, exchange="all_gather")
    solver, objective = jals.ALS(rank), jals.ials(0.1, unobserved_weight=0.1)

    def largest(problem):
        state = solver.init(jax.random.key(0), problem, objective)
        step = jax.jit(lambda state, problem: solver.sweep(state, problem, objective)[0])
        text = step.lower(state, problem).compile().as_text()
        return max(int(found) for found in re.findall(rf"f64\[(\d+),{rank}\]", text))

    places = problem.places.count("user")
    assert largest(whole) >= places > largest(problem)


def test_what_is_refused():
    ratings = spread.ratings()
    cases = [
        ({"devices": 9}, "devices is 9, but jax has 8 here"),
        ({"devices": 0}, "devices is 0, but jax has 8 here"),
        ({"devices": 3}, "3 devices do not divide 64 shards; these do: 1, 2, 4, 8, 16, 32, 64."),
        ({"devices": "all"}, "devices is 'all', but must be a number of devices"),
        ({"devices": 2, "layout": "padded"}, 'layout is "padded", but must be "bucketed" with devices'),
        ({"devices": 2, "exchange": "broadcast"}, "exchange is 'broadcast'"),
        ({"devices": 2, "exchange": ("routed", 3)}, "asks for 3 exchanges, but a device has 32 shards"),
        ({"devices": 2, "exchange": "routed:3"}, "asks for 3 exchanges, but a device has 32 shards"),
        ({"devices": 2, "exchange": ("all_gather", 2)}, "takes one exchange"),
        ({"exchange": "routed"}, "exchange is 'routed', but is for several devices"),
    ]
    for given, said in cases:
        with pytest.raises(jals.ArgumentError, match=re.escape(said)):
            jals.Problem.build(ratings, **given)
    problem, objective = spread.problem(4, "routed"), jals.explicit(0.3)
    minibatch = jals.Gradient(2, optax.sgd, {"learning_rate": 0.1}, batch_size=8)
    with pytest.raises(jals.ArgumentError, match="no columns of entries"):
        jals.fit(minibatch, problem, objective, 1)
    factors = jals.fit(jals.ALS(2), problem, objective, 1).factors
    with pytest.raises(jals.ArgumentError, match="no columns of entries"):
        jals.leave_one_out(factors, problem, objective)
    one = jals.ALS(2).init(jax.random.key(0), spread.problem(), objective)
    with pytest.raises(jals.ArgumentError, match="are on one device, but the problem is spread"):
        jals.ALS(2).sweep(one, problem, objective)


def test_wrong_numbers_are_named_by_their_entries():
    problem = spread.problem(4, "routed")
    _, _, value, weight = problem.columns()
    for name in ("value", "weight"):
        numbers = {"value": value.copy(), "weight": weight.copy()}
        numbers[name][11] = np.nan
        with pytest.raises(jals.DataError, match=f"{name} of entry 11 is nan"):
            jals.fit(jals.ALS(2), problem.with_values(*numbers.values()), jals.explicit(0.3), 1)
    signed = problem.with_values(np.where(np.arange(len(value)) == 3, -1, np.abs(value)))
    with pytest.raises(jals.DataError, match="value of entry 3 is"):
        jals.fit(jals.ALS(2), signed, jals.hu_koren(0.1, alpha=2.0), 1)
