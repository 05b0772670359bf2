"""A fit as a layer: networks learn through it, by derivatives that equal differences."""


import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jals
from tests.support import needs, script

needs("cli")
pytestmark = pytest.mark.newest


@pytest.fixture(scope="module")
def layer():
    return script("docs", "gallery", "fit_as_layer.py")


@pytest.fixture(scope="module")
def study():
    return script("experiments", "side_features.py")


@pytest.fixture(scope="module")
def table():
    """(problem, held-out entries, features of the items) in float64; a third of the items have no training entries."""
    ratings = jals.datasets.synthetic(25, 18, 4, 0.5, noise=0.3, dtype=np.float64)[0].ratings
    held_out = (ratings.item % 3 == 0) | (np.arange(len(ratings)) % 5 == 0)
    problem = jals.Problem.build(ratings.select(~held_out), "padded")
    return problem, ratings.select(held_out), np.random.default_rng(1).normal(size=(18, 8))


def check_slope(error, parameters):
    """Every part of the derivative in a pytree, against a difference along the part alone."""
    look, rng = jax.jit(jax.value_and_grad(error)), np.random.default_rng(2)
    slope = look(parameters)[1]
    for name in parameters:
        way = {each: np.zeros_like(part) for each, part in parameters.items()}
        way[name] = rng.normal(size=way[name].shape)
        ahead, behind = (
            look(jax.tree.map(lambda part, along, by=by: part + by * along, parameters, way))[0] for by in (1e-4, -1e-4)
        )
        told = float(ravel_pytree(slope)[0] @ ravel_pytree(way)[0])
        assert abs(told) > 1e-5  # not a comparison of zeros
        assert told == pytest.approx(float(ahead - behind) / 2e-4, rel=1e-5)


def test_the_derivative_in_the_weights_of_a_net_of_prior_means(layer, table):
    problem, held_out, features = table
    rng = np.random.default_rng(0)
    weights = {"in": rng.normal(size=(8, 5)), "out": 0.3 * rng.normal(size=(5, layer.RANK))}
    start = jals.fit(jals.ALS(layer.RANK), problem, jals.explicit(1.0), sweeps=3).factors
    check_slope(lambda weights: layer.error(weights, features, problem, start, held_out), weights)


def test_the_derivative_in_the_parameters_of_a_net_of_entry_weights(study, table):
    problem, held_out, _ = table
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(problem.num_entries, 4))
    first = study.first_network(rng, 4, 5, 1)
    parameters = {name: part + 0.3 * rng.normal(size=part.shape) for name, part in first.items()}
    weight = jnp.asarray(rng.random(problem.num_entries) < 0.9, problem.dtype)
    made = study.entry_weights(parameters, inputs, weight)
    assert float(made.sum()) == pytest.approx(float(weight.sum()))
    assert ((made > 0) == (weight > 0)).all() and made.std() > 0.1

    def error(parameters):
        weighted = problem.with_values(problem.value, study.entry_weights(parameters, inputs, weight))
        predict = jals.solution_map(jals.ALS(4), weighted, jals.als_wr(0.1), sweeps=2)
        return jnp.mean((predict(held_out.user, held_out.item) - held_out.value) ** 2)

    check_slope(error, parameters)


def test_the_gallery_learns_to_speak_for_unseen_items(layer, tmp_path):
    rmse = layer.main(small=True, picture=tmp_path / "layer.png")
    assert (tmp_path / "layer.png").stat().st_size > 10_000
    ratings = jals.datasets.synthetic(60, 45, layer.RANK, 0.2, noise=0.3)[0].ratings
    unseen = ratings.value[ratings.item % 9 == 0]
    assert rmse[0, 1] == pytest.approx(np.sqrt(np.mean(unseen**2)), rel=1e-5)  # m = 0: the prediction is 0
    assert rmse[-1, 0] < 0.7 * rmse[0, 0]
    assert rmse[-1, 1] < 0.9 * rmse[0, 1]


def test_what_the_study_holds_out(study):
    ratings = jals.datasets.synthetic(50, 40, 2, 0.4)[0].ratings
    among = np.random.default_rng(0).random(len(ratings)) < 0.8
    mask = study.held_out(np.random.default_rng(1), ratings, among, 0.3)
    assert not (mask & ~among).any()
    had, left = (np.bincount(ratings.item[part], minlength=40) for part in (among, among & ~mask))
    cold = left <= 2  # with 16 entries an item, no other item loses so many
    assert 0.1 < cold.mean() < 0.5 and set(left[cold]) == {0, 1, 2}
    assert 0.2 < 1 - left[~cold].sum() / had[~cold].sum() < 0.4
    row, by = np.array([1, 0, 1, 1, 0]), np.array([3.0, 1.0, 2.0, 5.0, 0.0])
    assert study.places(row, by).tolist() == [1, 1, 0, 2, 0]
