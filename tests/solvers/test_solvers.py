"""What every solver must do, in the words of `jals.protocol`. (Derivatives: derivatives/test_derivatives.py; every
layout and kind of data, for ALS: model/test_contract.py.)"""

import collections
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jals
from jals.solvers.protocol import traits
from jals.tuning.step import check_reverse
from tests.support import solvers, tables

COMPILED = collections.Counter()
SWEEPS = 3
REGS = (0.5, 1.0, 3.0)


def _count(event, duration_secs, **about):
    if event == "/jax/core/compile/backend_compile_duration":
        COMPILED["_run"] += "_run" in about["fun_name"]


jax.monitoring.register_event_duration_secs_listener(_count)


@dataclasses.dataclass
class Case:
    """A solver, on a table with empty rows. Few programs serve all tests, as compiling them is what takes time: one of
    `fit` and one of `run` under `vmap` in float64, with biases and a mean; one of `run` in float32, without."""

    solver: Any
    preset: str
    dtype: Any

    def __post_init__(self):
        self.table = tables.table("empty_rows", weighted=True)
        self.setting = tables.setting(self.preset, self.table)
        self.problem = tables.problem(self.table, "segmented", self.dtype).arrange()
        self.objective = tables.objective(self.setting)
        self.start = self.solver.init(jax.random.key(0), self.problem, self.objective)

    def run(self, start=None, problem=None, objective=None, solver=None):
        given = start or self.start, problem or self.problem, objective or self.objective
        return jals.run(solver or self.solver, *given, sweeps=SWEEPS, loss=True)

    def fit(self, sweeps=SWEEPS, reg=1.0, **arguments):
        return jals.fit(self.solver, self.problem, self.at(reg), sweeps=sweeps, **arguments)

    def at(self, reg):
        """The objective with another lambda on the users' side."""
        return dataclasses.replace(self.objective, reg_user=reg * self.objective.reg_user)

    @functools.cached_property
    def ran(self):
        return self.run()

    @functools.cached_property
    def fitted(self):
        return self.fit()

    @functools.cached_property
    def mapped(self):
        """Runs at each of `REGS` under vmap."""
        return jax.jit(jax.vmap(lambda reg: self.run(objective=self.at(reg))))(np.array(REGS))

    def loss(self, factors):
        return float(jals.loss(factors, self.problem, self.objective))


@pytest.fixture(scope="module", params=solvers.MAKE)
def case(request):
    return Case(solvers.MAKE[request.param](), "als_wr+all", np.float64)


@pytest.fixture(scope="module")
def single(case):
    return Case(case.solver, "hu_koren+all", np.float32)


@pytest.fixture(scope="module", autouse=True)
def let_go():
    yield
    jax.clear_caches()


def kinds(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, getattr(leaf, "weak_type", False)), tree)


def assert_same(one, two):
    """To the bit; of keys, their numbers."""
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


def test_a_sweep_gives_back_the_kind_of_state_it_took(case, single):
    for each, after in ((case, case.fitted.state), (single, single.ran[0])):
        once, info = jax.eval_shape(each.solver.sweep, each.start, each.problem, each.objective)
        assert kinds(once) == kinds(each.start) == kinds(after) and info.loss is None
        assert {leaf.dtype for leaf in jax.tree.leaves(once.factors)} == {np.dtype(each.dtype)}


@pytest.mark.parametrize("preset", ["explicit", "als_wr+bias", "ials"])
def test_the_other_presets_trace(case, preset):
    objective = tables.objective(tables.setting(preset, case.table))
    state = jax.eval_shape(case.solver.init, jax.random.key(0), case.problem, objective)
    once, info = jax.eval_shape(lambda state: case.solver.sweep(state, case.problem, objective, True), state)
    assert kinds(once) == kinds(state) and info.loss.shape == ()


def test_it_repeats_to_the_bit(case, single):
    assert_same(single.ran, single.run())
    assert_same(case.fitted.state, case.fit().state)
    assert bool(single.ran[1].finite.all()) and int(single.ran[1].bad_row.max()) == -1


def test_sweeps_one_by_one_are_a_run_also_under_vmap(case):
    """`fit` makes one sweep at a time, and takes the loss from the sweep where that knows it."""
    states, infos = case.mapped
    for place, reg in enumerate(REGS):
        alone = case.fit(reg=reg)
        one = jax.tree.map(lambda leaf, place=place: leaf[place], states.factors)
        seen = [jals.predict(factors, case.table.user, case.table.item) for factors in (one, alone.factors)]
        np.testing.assert_allclose(*seen, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(infos.loss[place], alone.history.loss[1:], rtol=1e-10)
        assert [0, *np.cumsum(infos.passes[place])] == alone.history.passes
    assert len({round(float(last), 6) for last in infos.loss[:, -1]}) == len(REGS)


def test_the_loss_told_with_a_sweep_is_the_loss(case, single):
    states, infos = case.mapped
    factors = jax.tree.map(lambda leaf: leaf[REGS.index(1.0)], states.factors)
    np.testing.assert_allclose(infos.loss[REGS.index(1.0), -1], case.loss(factors), rtol=1e-11)
    np.testing.assert_allclose(case.fitted.history.loss[-1], case.loss(case.fitted.factors), rtol=1e-11)
    np.testing.assert_allclose(single.ran[1].loss[-1], single.loss(single.ran[0].factors), rtol=2e-5)


def test_it_counts_its_passes(case, single):
    each = traits(case.solver).passes_per_sweep
    for passes in (np.asarray(single.ran[1].passes), np.diff(case.fitted.history.passes)):
        assert (passes >= 2).all() if each is None else (passes == each).all()


def test_the_loss_never_rises_where_that_is_promised(case, single):
    for each, after in ((case, case.fitted.history.loss[1:]), (single, single.ran[1].loss)):
        losses = np.array([each.loss(each.start.factors), *after], float)
        assert losses[-1] < losses[0]
        if traits(case.solver).monotone:
            assert (np.diff(losses) <= 20 * np.finfo(each.dtype).eps * losses[1:]).all()


def test_the_certificate_holds(case):
    certificate = jals.certify(case.fitted.factors, case.problem, case.objective)
    assert certificate.holds(last_updated=traits(case.solver).exact)


def test_rows_without_entries_are_at_their_prior_mean(case):
    factors = case.fitted.factors
    for side, rows in (("user", [0, 5]), ("item", [3, 8])):
        np.testing.assert_array_equal(getattr(factors, side)[rows, :], getattr(case.setting, f"prior_{side}")[rows, :])
        np.testing.assert_array_equal(getattr(factors, f"{side}_bias")[rows,], 0)


def test_new_numbers_compile_nothing(single):
    assert len(jax.tree.leaves(single.solver)) >= sum(isinstance(each, float) for each in vars(single.solver).values())
    expected, before = single.ran, COMPILED["_run"]
    solver = jax.tree.map(lambda number: 0.9 * number, single.solver)
    objective = jax.tree.map(lambda number: 1.1 * number, single.objective)
    problem = single.problem.with_values(single.problem.value[::-1], single.problem.weight + 1).arrange()
    state, _ = single.run(solver.init(jax.random.key(1), problem, objective), problem, objective, solver)
    assert COMPILED["_run"] == before
    assert tables.largest_difference(state.factors, expected[0].factors) > 1e-3


def test_a_state_keeps_float32_under_a_problem_in_float64(single):
    expected, before = single.ran, COMPILED["_run"]
    assert_same(single.run(problem=tables.problem(single.table, "segmented").arrange()), expected)
    assert COMPILED["_run"] == before


def test_a_fit_goes_on_to_the_bit(case):
    rest = case.fit(init=case.fit(sweeps=1), key=jax.random.key(9))
    assert_same(rest.state, case.fitted.state)
    for column in ("sweep", "loss", "passes"):
        assert getattr(rest.history, column) == getattr(case.fitted.history, column)


@pytest.mark.parametrize("name", [name for name in solvers.MAKE if not solvers.said(name).differentiable])
def test_what_has_no_derivative_says_so(name):
    """In reverse jax refuses, and `jals.tune` says of which solver."""
    case = Case(solvers.MAKE[name](), "hu_koren+all", np.float32)
    with pytest.raises(ValueError, match="everse-mode") as refused:
        jax.grad(lambda reg: case.solver.sweep(case.start, case.problem, case.at(reg), True)[1].loss)(1.0)
    with pytest.raises(jals.ArgumentError, match=f"{type(case.solver).__name__} here loops an unknown number"):
        check_reverse(refused.value, case.solver)
