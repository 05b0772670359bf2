"""On eight devices: sweeps, losses, certificates and solvers equal those of one."""

import re

import jax
import numpy as np
import optax
import pytest

import jals
from tests.support import spread, tables

pytestmark = pytest.mark.usefixtures("fresh_caches")

# Each way, each number of devices, giants or none, and several exchanges a half-sweep.
WAYS = [
    (1, "all_gather", False),
    (2, "all_gather", True),
    (4, ("routed", 2), True),
    (8, "ring", False),
    (8, ("ring", 5), True),
    (8, "routed", True),
]


@pytest.fixture(scope="module", autouse=True)
def devices():
    assert jax.device_count() == 8


def two_sweeps(solver, problem, objective):
    start = solver.init(jax.random.key(0), problem, objective)
    state, infos = jals.run(solver, start, problem, objective, 2, loss=True)
    return state.factors, infos.loss, jals.loss(state.factors, problem, objective)


@pytest.mark.parametrize(
    "preset, devices, exchange, giants",
    [("als_wr+all", *way) for way in WAYS] + [("hu_koren+all", *way) for way in WAYS[2::3]],
)
def test_two_sweeps_are_those_of_one_device(preset, devices, exchange, giants):
    objective, solver = spread.objective(preset), jals.ALS(tables.RANK, init_scale=1.0)
    one, many = spread.problem(), spread.problem(devices, exchange, giants)
    (ours, *losses), (theirs, *known) = (two_sweeps(solver, each, objective) for each in (many, one))
    assert {len(leaf.devices()) for leaf in jax.tree.leaves((many, ours))} == {devices}
    pairs = spread.pairs()
    assert np.abs(jals.predict(ours, *pairs) - jals.predict(theirs, *pairs)).max() < 1e-12
    assert tables.largest_difference(ours.gathered(), theirs) < 1e-12
    np.testing.assert_allclose(np.concatenate(list(map(np.atleast_1d, losses))), np.hstack(known), rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)])
def test_certificate_holds_and_tells_of_the_rows_of_the_ratings(dtype):
    preset, solver = tables.BROAD[0], jals.ALS(tables.RANK, init_scale=1.0)
    objective, problem = spread.objective(preset, dtype), spread.problem(4, "routed", dtype=dtype)
    factors, *_ = two_sweeps(solver, problem, objective)
    certificate = jals.certify(factors, problem, objective, solver)
    assert certificate.holds() and certificate.user.shape == (problem.num_users,)
    # A row that is moved, by its number in the ratings, is the row whose error shows.
    moved = factors.gathered()
    moved = jax.tree.map(np.array, moved)
    moved.item[7] += 1
    errors = jals.certify(moved, problem, objective, solver).last_updated
    assert errors.shape == (problem.num_items,) and int(errors.argmax()) == 7 and errors[7] > 1e-3


def test_factors_stored_in_half_are_sent_so():
    """The numbers are those of one device to the bit of bfloat16, and nothing wider than them is sent but biases."""
    objective = spread.objective(tables.BROAD[0], np.float32)
    solver = jals.ALS(tables.RANK, init_scale=1.0, storage="bfloat16")
    one, many = spread.problem(dtype=np.float32), spread.problem(4, "routed", dtype=np.float32)
    ends = []
    for problem in (one, many):
        state = solver.init(jax.random.key(0), problem, objective)
        ends.append(jals.run(solver, state, problem, objective, 2)[0].factors)
    assert {leaf.dtype.name for leaf in (ends[1].user, ends[1].item_bias)} == {"bfloat16"}
    ours, theirs = (np.asarray(jals.predict(end, *spread.pairs())) for end in ends[::-1])
    np.testing.assert_allclose(ours, theirs, rtol=2e-2, atol=2e-2)
    sweep = jax.jit(lambda state, problem: solver.sweep(state, problem, objective)[0])
    text = sweep.lower(jals.State(ends[1]), many).as_text()  # as jax wants it: XLA for a CPU sends float32
    sent = re.findall(rf"all_to_all.*?-> tensor<[\dx]*x{tables.RANK}x(\w+)>", text)
    assert set(sent) == {"bf16"} and len(sent) >= 2


@pytest.mark.parametrize(
    "solver",
    [
        jals.ALS(tables.RANK, linsolve="cg", init_scale=1.0),
        jals.ALS(tables.RANK, linsolve="subspace", block=2, init_scale=1.0),
        jals.ALS(tables.RANK, backend="xla", init_scale=1.0),
        jals.Gradient(tables.RANK, optax.adam, {"learning_rate": 0.05}),
        jals.AndersonALS(tables.RANK, memory=2),
        pytest.param(jals.NewtonCG(tables.RANK), marks=pytest.mark.slow),
    ],
    ids=["cg", "subspace", "xla", "adam", "anderson", "newton"],
)
def test_every_solver(solver):
    objective, pairs = spread.objective(tables.BROAD[0]), spread.pairs()
    (ours, *_), (theirs, *_) = (
        two_sweeps(solver, each, objective) for each in (spread.problem(8, ("routed", 5)), spread.problem())
    )
    assert np.abs(jals.predict(ours, *pairs) - jals.predict(theirs, *pairs)).max() < 1e-8


def test_a_row_without_a_solution_is_named_by_its_number_in_the_ratings():
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(30), np.where(np.arange(30) == 17, 2, 9))
    item = np.concatenate([rng.permutation(12)[: np.sum(user == each)] for each in range(30)])
    ratings = jals.Ratings.from_arrays(user, item, rng.normal(size=len(user)))
    problem = jals.Problem.build(ratings, devices=4, exchange="routed")
    with pytest.raises(jals.FitError, match="user 17 has no unique solution") as error:
        jals.fit(jals.ALS(3), problem, jals.explicit(0.0), sweeps=2)
    assert (error.value.side, error.value.row) == ("user", 17)


def test_what_all_rows_share_is_not_of_places_without_a_row():
    """A prior mean for all: the sum over all pairs would see it where there is no row."""
    prior = np.array([0.5, -0.2, 0.1])[: tables.RANK]
    objective = jals.ials(0.3, unobserved_weight=0.2, prior_user=prior, prior_item=-prior)
    solver, losses = jals.ALS(len(prior), init_scale=1.0), []
    for problem in (spread.problem(), spread.problem(8, ("routed", 5))):
        state = solver.init(jax.random.key(0), problem, objective)
        losses.append(solver.sweep(state, problem, objective, loss=True)[1].loss)
    assert float(losses[1]) == pytest.approx(float(losses[0]), rel=1e-12)
