"""What a config stands for: which fits, by which keys they are known, and which of them run as one program."""

import copy
import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import optax
import pytest

import jals
from jals.app import config as configs
from jals.app.config.schema import Config
from jals.app.config.solvers import GradientSolver
from jals.app.run import gradient_tuning
from jals.app.study import plan
from jals.files.runs.record import FitRecord
from jals.solvers.costs import Size

RAW = {
    "data": {"path": "table.npz"},
    "split": {"kind": "random", "test_fraction": 0.2, "validation_fraction": 0.2},
    "objective": {"preset": "als_wr", "reg": 0.1},
    "solver": [
        {"kind": "als", "rank": 2},
        {"kind": "gradient", "name": "sgd", "rank": 2, "optimizer": "sgd", "hyper": {"learning_rate": 0.1}},
    ],
}


def made(**changes) -> Config:
    """A config with other tables; None takes one out."""
    raw = copy.deepcopy(RAW) | changes
    return Config.model_validate({name: table for name, table in raw.items() if table is not None})


def fits(config: Config) -> list[plan.PlannedFit]:
    """Those that count, with the low ends of the ranges for what is tuned."""
    return [
        planned
        for study in plan.studies(config)
        for planned in study.fits({key: low for key, (low, _) in study.ranges.items()})
    ]


@pytest.mark.parametrize(
    ("axis", "values", "place"),
    [
        ("solver.*.rank", [2, 3], lambda planned: planned.solver.rank),
        ("objective.reg", [0.1, 0.2], lambda planned: planned.config.objective.reg),
        ("objective.preset", ["als_wr", "explicit"], lambda planned: planned.config.objective.preset),
        ("fit.dtype", ["float32", "float64"], lambda planned: planned.config.fit.dtype),
        ("fit.sweeps", [3, 4], lambda planned: planned.sweeps()),
        ("split.test_fraction", [0.1, 0.2], lambda planned: planned.config.split.test_fraction),
        ("split.seed", [0, 1], lambda planned: planned.config.split.seed),
        ("problem.layout", ["padded", "segmented"], lambda planned: planned.config.problem.layout),
        ("data.path", ["a.npz", "b.npz"], lambda planned: planned.config.data.path),
    ],
)
def test_an_axis_of_all_solvers_multiplies_all(axis, values, place):
    planned = fits(made(grid={axis: values}))
    assert {(each.solver.label, place(each)) for each in planned} == set(itertools.product(("als", "sgd"), values))
    assert len(planned) == 4
    assert all(each.point == {axis: place(each)} for each in planned)


@pytest.mark.parametrize("axis", ["solver.sgd.hyper.learning_rate", "solver.1.hyper.learning_rate"])
def test_an_axis_of_one_solver_does_not_multiply_the_others(axis):
    planned = fits(made(grid={axis: [0.1, 0.2, 0.3], "objective.reg": [1, 2]}, fit={"seeds": [0, 1]}))
    als, sgd = ([each for each in planned if each.solver.label == label] for label in ("als", "sgd"))
    assert (len(als), len(sgd)) == (2 * 2, 3 * 2 * 2)
    assert all(set(each.point) == {"objective.reg"} for each in als)
    rates = [each.solver.hyper["learning_rate"] for each in sgd if isinstance(each.solver, GradientSolver)]
    assert set(rates) == {0.1, 0.2, 0.3}


def test_an_axis_reaches_into_a_schedule_and_arguments_with_digits():
    schedule = {"schedule": "cosine_decay_schedule", "init_value": 0.1, "decay_steps": 10}
    adam = {"kind": "gradient", "rank": 2, "hyper": {"learning_rate": schedule, "b1": 0.9}}
    grid = {"solver.gradient.hyper.learning_rate.init_value": [0.1, 0.2], "solver.0.hyper.b1": [0.8, 0.9]}
    solvers = [each.solver.build() for each in fits(made(solver=[adam], grid=grid))]
    found = [solver.hyper for solver in solvers if isinstance(solver, jals.Gradient)]
    assert {(hyper["schedule_init_value"], hyper["b1"]) for hyper in found} == {
        *((0.1, 0.8), (0.1, 0.9), (0.2, 0.8), (0.2, 0.9))
    }
    assert all(hyper["schedule_decay_steps"] == 10 for hyper in found)


def test_a_fit_for_each_seed_and_fold_and_one_study_a_fold():
    config = made(split={"kind": "kfold", "folds": 3}, fit={"seeds": [0, 7]})
    planned = fits(config)
    assert sorted((each.solver.label, each.fold, each.seed) for each in planned) == sorted(
        itertools.product(("als", "sgd"), (0, 1, 2), (0, 7))
    )
    assert all(each.config.fit.seeds is None and each.config.fit.seed == each.seed for each in planned)
    assert len(list(plan.studies(config))) == 6


def test_an_axis_of_folds_makes_each_its_own():
    planned = fits(made(split={"kind": "kfold", "folds": 2}, grid={"split.folds": [2, 3]}))
    assert sorted((each.point["split.folds"], each.fold) for each in planned if each.solver.label == "als") == [
        *((2, 0), (2, 1), (3, 0), (3, 1), (3, 2))
    ]


def test_fits_of_one_table_stand_together():
    grid = {"split.seed": [0, 1], "objective.reg": [1, 2], "fit.dtype": ["float32", "float64"]}
    groups = plan.by_table(made(grid=grid))
    assert [len(group) for group in groups] == [4] * 4
    for group in groups:
        assert len({(each.config.split.seed, each.config.fit.dtype) for study in group for each in study.fits({})}) == 1


KEY_CHANGES = {
    "split": {**RAW["split"], "seed": 1},
    "objective": {"preset": "als_wr", "reg": 0.2},
    "problem": {"layout": "segmented"},
    "fit": {"sweeps": 16},
}


def test_key_changes_with_all_that_decides():
    study = next(iter(plan.studies(made())))
    (fit,) = study.fits({})
    keys = [fit.key("hash"), fit.key("other hash")]
    keys += [fits(made(**{name: table}))[0].key("hash") for name, table in KEY_CHANGES.items()]
    rounded = {"rounding": "bfloat16"}, {"storage": "bfloat16"}
    for solver in ({"rank": 3}, {"linsolve": "lu"}, {"init_scale": 0.5}, *rounded):
        keys.append(fits(made(solver=[RAW["solver"][0] | solver]))[0].key("hash"))
    for more in ({"seed": 1}, {"tol": 1e-3}, {"dtype": "float64"}, {"passes": 30}, {"loss_every": 2}, {"timed": False}):
        keys.append(fits(made(fit=more))[0].key("hash"))
    keys.append(fits(made(data={"path": "table.npz", "duplicates": "mean"}))[0].key("hash"))
    keys += [each.key("hash") for each in fits(made(split={"kind": "kfold"})) if each.solver.label == "als"]
    tune = {"trials": 2, "range": {"solver.als.init_scale": [0.1, 1.0]}}
    (tuned,) = plan.studies(made(solver=RAW["solver"][:1], tune=tune))
    keys += [tuned.trial(number, {"solver.als.init_scale": 0.2}).key("hash") for number in (0, 1)]
    keys += [tuned.fits({"solver.als.init_scale": 0.2})[0].key("hash")]
    keys += [tuned.trial(0, {"solver.als.init_scale": 0.3}).key("hash")]
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 32 for key in keys)


def test_key_does_not_change_with_what_does_not_decide(monkeypatch):
    """So an earlier run's fits are found: whatever the question, the output, the axis or the solvers beside it."""
    key = fits(made(fit={"seed": 0, "timed": False}))[0].key("hash")
    others = [
        made(question="Why?", output={"folder": "elsewhere", "factors": False}, fit={"seed": 0, "timed": False}),
        made(solver=RAW["solver"][:1], fit={"seed": 0, "timed": False}),
        made(solver=RAW["solver"][::-1], fit={"seeds": [3, 0]}),
        made(grid={"objective.reg": [0.05, 0.1]}),
        made(grid={"solver.sgd.hyper.learning_rate": [0.05, 0.1]}),
        made(data={"path": "moved/table.npz"}, fit={"timed": False}),
        made(tune={"trials": 2, "range": {"solver.sgd.hyper.learning_rate": [0.1, 1.0]}}),
    ]
    for other in others:
        assert key in [each.key("hash") for each in fits(other)]
    monkeypatch.setattr(jals, "__version__", "another")
    assert key not in [each.key("hash") for each in fits(others[0])]


def test_fits_that_differ_in_numbers_seeds_and_folds_share_a_program():
    split = {"kind": "kfold", "folds": 2, "validation_fraction": 0.2}
    grid = {"objective.reg": [1, 2], "solver.sgd.hyper.learning_rate": [0.1, 0.2], "solver.*.init_scale": [0.1, 1]}
    config = made(split=split, grid=grid, fit={"seeds": [0, 1]})
    programs = {}
    for each in fits(config):
        assert each.why_alone() is None
        programs.setdefault(each.program_key(), []).append(each)
    assert sorted(len(each) for each in programs.values()) == [2 * 2 * 2 * 2, 2 * 2 * 2 * 2 * 2]
    assert all(len({each.solver.label for each in members}) == 1 for members in programs.values())


@pytest.mark.parametrize(
    ("axis", "values"),
    [
        ("solver.als.rank", [2, 3]),
        ("solver.als.linsolve", ["lu", "cholesky"]),
        ("solver.als.rounding", ["bfloat16", "float16"]),
        ("objective.preset", ["als_wr", "hu_koren"]),
        ("objective.bias", [True, False]),
        ("fit.sweeps", [3, 4]),
        ("fit.passes", [10, 12]),
        ("fit.tol", [0.1, 0.2]),
        ("fit.loss_every", [1, 2]),
    ],
)
def test_other_differences_are_programs_of_their_own(axis, values):
    planned = fits(made(solver=RAW["solver"][:1], grid={axis: values}))
    assert len({each.program_key() for each in planned}) == len(planned) == 2


def test_trials_are_a_program_apart_from_the_fits_they_serve():
    tune = {"trials": 2, "range": {"solver.sgd.hyper.learning_rate": [0.1, 1.0]}}
    study = list(plan.studies(made(tune=tune)))[1]
    tried = {"solver.sgd.hyper.learning_rate": 0.2}
    trials, (fit,) = [study.trial(number, tried) for number in (0, 1)], study.fits(tried)
    assert trials[0].program_key() == trials[1].program_key() != fit.program_key()
    assert fit.tuned == {"hyper.learning_rate": 0.2}
    assert fit.solver.model_dump()["hyper"] == {"learning_rate": 0.2}


SIDES = {"objective.reg_user": [0.1, 1.0], "objective.reg_item": [0.1, 1.0]}
SIDED = {
    "solver": RAW["solver"][:1],
    "objective": {"preset": "als_wr", "reg_user": 0.1, "reg_item": 0.1},
    "tune": {"method": "hypergradient", "trials": 6, "range": SIDES},
}


def descent(**changes) -> plan.PlannedFit:
    (study,) = plan.studies(made(**SIDED | changes))
    assert len(study.tried) == 1
    return study.trial(0, dict.fromkeys(SIDES, 0.3))


def test_a_descent_is_one_trial_that_goes_by_itself_from_its_start():
    planned = descent()
    assert planned.descent == plan.DescentPlan(SIDES, 6, fit=15)
    assert planned.why_alone() == "a descent goes by itself"
    assert planned.tuned == dict.fromkeys(SIDES, 0.3)
    assert (planned.config.objective.reg_user, planned.config.objective.reg_item) == (0.3, 0.3)
    assert planned.name == "als descent"
    (fit,) = fits(made(**SIDED))
    assert fit.descent is None and fit.sweeps() == 15


@pytest.mark.parametrize(("seconds", "ends"), [(5.0, [False, True, True]), (None, [False] * 3)])
def test_a_descent_ends_with_the_step_that_spends_its_seconds(monkeypatch, seconds, ends):
    asked = {}
    monkeypatch.setattr(jals, "tune", lambda *_, **named: asked.update(named) or asked["nothing more"])
    planned = descent(tune=SIDED["tune"] | ({} if seconds is None else {"seconds": seconds}))
    assert planned.descent is not None and planned.config.fit.timed == (seconds is not None)
    table: Any = SimpleNamespace(validation=lambda *_: None, problem=lambda _: None)
    with pytest.raises(KeyError):
        gradient_tuning.run_descent(table, planned, planned.descent, lambda _: None)
    for took, end in zip((4.9, 5.0, 9.0), ends, strict=True):
        step: Any = SimpleNamespace(step=1, steps=6, rmse=1.0, seconds=took)
        assert any(callback(step) for callback in asked["callbacks"]) == end


def test_what_decides_where_a_descent_goes_decides_its_key():
    tune = SIDED["tune"]
    ranked: Any = {"fit": {"metric": "ndcg@3"}, "output": {"relevant": 4.0}}
    softmax, ndcg = (descent(**ranked, tune=tune | {"score": each}) for each in ("softmax", "smooth_ndcg"))
    assert softmax.key("hash") != ndcg.key("hash")
    others = [{"trials": 7}, {"range": SIDES | {"objective.reg_user": [0.1, 2.0]}}]
    keys = {descent(tune=tune | other).key("hash") for other in [{}, *others]}
    (study,) = plan.studies(made(**SIDED | {"tune": tune | {"method": "random"}}))
    keys.add(study.trial(0, dict.fromkeys(SIDES, 0.3)).key("hash"))
    assert len(keys) == 4
    assert descent(tune=tune | {"seed": 3}).key("hash") in keys


@pytest.mark.parametrize(("method", "trials"), [("random", 9), ("grid", 9), ("hypergradient", 1)])
def test_how_many_trials_a_method_makes(method, trials):
    (study,) = plan.studies(made(**SIDED | {"tune": {"method": method, "trials": 9, "range": SIDES}}))
    assert len(study.tried) == trials
    one, other = list(plan.studies(made(tune={"trials": 2, "range": {"solver.sgd.hyper.learning_rate": [0.1, 1]}})))
    assert (len(one.tried), len(other.tried)) == (0, 2)


@pytest.mark.parametrize(
    ("fit", "words"),
    [
        ({"timed": True, "seeds": [0, 1]}, "seconds are kept"),
        ({"seconds": 1.0}, "seconds are kept"),
        ({}, "seconds are kept"),  # a single fit is timed unless the config says otherwise
        ({"patience": 2, "seeds": [0, 1]}, "patience keeps the best factors"),
    ],
)
def test_why_a_fit_runs_alone(fit, words):
    assert all(words in (each.why_alone() or "") for each in fits(made(fit=fit)))


def test_a_budget_of_passes_leaves_a_line_search_alone_and_others_together():
    lbfgs = {"kind": "gradient", "name": "lbfgs", "rank": 2, "optimizer": "lbfgs", "hyper": {"memory_size": 5}}
    config = made(solver=[*RAW["solver"], lbfgs], fit={"passes": 30, "seeds": [0, 1]})
    why = {each.solver.label: each.why_alone() for each in fits(config)}
    assert why == {"als": None, "sgd": None, "lbfgs": "its sweeps take as many passes as they need"}
    assert {each.why_alone() for each in fits(made(solver=[lbfgs], fit={"sweeps": 3, "seeds": [0, 1]}))} == {None}


@pytest.mark.parametrize(
    ("seconds_kept", "table"),
    [
        (True, {}),
        (False, {"fit": {"seeds": [0]}}),
        (False, {"grid": {"objective.reg": [1]}}),
        (False, {"tune": {"trials": 2, "range": {"solver.sgd.hyper.learning_rate": [0.1, 1.0]}}}),
        (True, {"fit": {"seeds": [0], "timed": True}}),
        (False, {"fit": {"timed": False}}),
        (True, {"fit": {"seeds": [0], "seconds": 1.0}}),
        (True, {"grid": {"fit.seconds": [1.0, 2.0]}}),
        (False, {"tune": {"trials": 2, "seconds": 1.0, "range": {"solver.sgd.hyper.learning_rate": [0.1, 1.0]}}}),
    ],
)
def test_which_fits_are_timed_unless_said(seconds_kept, table):
    assert {each.config.fit.timed for each in fits(made(**table))} == {seconds_kept}


RATE = {"solver.sgd.hyper.learning_rate": [0.1, 1.0]}


@pytest.mark.parametrize(
    ("fit", "seconds", "why"),
    [
        ({"seconds": 1.0}, None, "each fit's seconds are kept"),
        ({}, 1.0, "each fit's seconds are kept"),
        ({"timed": True}, None, None),
    ],
)
def test_a_trial_is_timed_where_seconds_decide(fit, seconds, why):
    tune = {"trials": 2, "range": RATE} | ({} if seconds is None else {"seconds": seconds})
    (study,) = [study for study in plan.studies(made(fit=fit, tune=tune)) if study.ranges]
    trial = study.trial(0, {"solver.sgd.hyper.learning_rate": 0.2})
    assert trial.why_alone() == why
    assert trial.config.fit.timed == (why is not None)


@pytest.mark.parametrize(
    ("fit", "every"),
    [({"sweeps": 50}, 5), ({"seconds": 1.0}, 1), ({"tol": 0.1, "sweeps": 50}, 1), ({"seconds": 1.0, "sweeps": 50}, 1)],
)
def test_a_trial_keeps_few_records_unless_one_may_end_it(fit, every):
    """A budget of seconds that is looked at each hundred thousand sweeps is none."""
    (study,) = [study for study in plan.studies(made(fit=fit, tune={"trials": 2, "range": RATE})) if study.ranges]
    assert study.trial(0, {"solver.sgd.hyper.learning_rate": 0.2}).config.fit.loss_every == every


def test_seconds_of_a_tuning_are_shared_evenly_by_what_is_tuned():
    tune = {"trials": 2, "seconds": 60.0, "range": RATE}
    grids = [{}, {"objective.reg": [0.1, 0.2]}, {"solver.als.rank": [2, 3]}, {"split.folds": [2, 3]}]
    for grid in grids:
        split = {"kind": "kfold", "folds": 3, "validation_fraction": 0.2}
        all_of_them = list(plan.studies(made(grid=grid, split=split, tune=tune)))
        tuned = [study for study in all_of_them if study.ranges]
        assert 0 < len(tuned) < len(all_of_them)
        assert {study.seconds for study in all_of_them} == {60.0 / len(tuned)}
    assert {study.seconds for study in plan.studies(made(tune={"trials": 2, "range": RATE}))} == {None}


def test_a_range_over_integers_is_one_of_integers_and_any_other_of_floats():
    schedule = {"schedule": "cosine_decay_schedule", "init_value": 0.1, "decay_steps": 10}
    solvers = [
        {"kind": "als", "rank": 2, "linsolve": "cg"},
        {"kind": "anderson", "rank": 2},
        {"kind": "gradient", "rank": 2, "hyper": {"learning_rate": schedule}},
        {"kind": "gradient", "name": "lbfgs", "rank": 2, "optimizer": "lbfgs"},
    ]
    whole = ["als.rank", "als.cg_steps", "1.memory", "gradient.batch_size", "2.hyper.learning_rate.decay_steps"]
    whole += ["lbfgs.hyper.memory_size"]
    real = ["gradient.hyper.learning_rate.init_value", "gradient.hyper.b1", "lbfgs.hyper.learning_rate"]
    ranges = {f"solver.{key}": [1, 4] for key in (*whole, *real)}
    found = {}
    for study in plan.studies(made(solver=solvers, tune={"trials": 2, "range": ranges})):
        found |= study.ranges
    assert {key for key, ends in found.items() if [type(end) for end in ends] == [int, int]} == {
        f"solver.{key}" for key in whole
    }
    assert all([type(end) for end in found[f"solver.{key}"]] == [float, float] for key in real)


def test_trials_of_other_ranks_are_other_programs():
    (study,) = plan.studies(made(solver=RAW["solver"][:1], tune={"trials": 3, "range": {"solver.als.rank": [2, 60]}}))
    trials = [study.trial(number, tried) for number, tried in enumerate(study.tried)]
    assert len({trial.program_key() for trial in trials}) == len(trials) == 3
    assert [trial.solver.rank for trial in trials] == [trial.tuned["rank"] for trial in trials]


@pytest.mark.parametrize(
    ("fit", "als", "cg"),  # exact ALS makes 2 passes a sweep; with 3 steps of conjugate gradients 2 (2 + 2 * 3) = 16
    [
        ({}, 15, 15),
        ({"sweeps": 7}, 7, 7),
        ({"passes": 48}, 24, 3),
        ({"passes": 49}, 24, 3),
        ({"passes": 15}, 7, 1),  # one sweep at least
        ({"sweeps": 2_000_000}, 2_000_000, 2_000_000),
        ({"passes": 48, "sweeps": 5}, 5, 3),
        ({"tol": 1e-3}, 1_000_000, 1_000_000),
        ({"seconds": 1.0}, 1_000_000, 1_000_000),
        ({"seconds": 1.0, "sweeps": 4}, 4, 4),
    ],
)
def test_sweeps_that_a_budget_allows(fit, als, cg):
    cg_solver = {"kind": "als", "name": "cg", "rank": 2, "linsolve": "cg", "cg_steps": 3}
    assert [each.sweeps() for each in fits(made(solver=[RAW["solver"][0], cg_solver], fit=fit))] == [als, cg]


TINY = Size(users=5, items=4, entries=10)  # 9 rows


@pytest.mark.parametrize(
    ("solver", "objective", "each"),  # operations of a sweep, by hand; "+ bias" makes rank 2 three unknowns
    [
        # both half-sweeps: 2 * 10 (9 + 9) for Grams and right-hand sides; 9 rows (27 / 3 + 18) to solve
        (jals.ALS(rank=3), jals.als_wr(0.1), 360 + 243),
        (jals.ALS(rank=2), jals.als_wr(0.1, bias=True), 360 + 243),
        (jals.ALS(rank=3, linsolve="lu"), jals.als_wr(0.1), 360 + 9 * (18 + 18)),
        # and 4 * 9 a row for the sum over all pairs
        (jals.ALS(rank=3), jals.hu_koren(0.1, alpha=1.0), 360 + 243 + 324),
        # 16 passes, each 4 * 3 * 10
        (jals.ALS(rank=3, linsolve="cg", cg_steps=3), jals.als_wr(0.1), 16 * 120),
        # both half-sweeps: 2 * 10 (3 * 2 + 7 * 3); 9 rows (3 * 4 / 3 + 2 * 3 * 2) for their blocks
        (jals.ALS(rank=3, linsolve="subspace", block=2), jals.als_wr(0.1), 540 + 144),
        # 2 passes, and 12 for each of 27 numbers a step
        (jals.Gradient(rank=3), jals.als_wr(0.1), 240 + 324),
        (jals.Gradient(rank=3, batch_size=4), jals.als_wr(0.1), 240 + 3 * 324),
        (jals.Gradient(rank=3), jals.hu_koren(0.1, alpha=1.0), 240 + 324 + 324),
    ],
)
def test_operations_are_those_counted_by_hand(solver, objective, each):
    passes = solver.passes_per_sweep
    assert passes is not None
    counted = solver.operations(objective, TINY, np.array([0, 1, 5]), np.array([0, passes, 5 * passes]))
    assert counted.tolist() == pytest.approx([0, each, 5 * each])


def test_a_line_search_is_charged_for_each_look():
    solver = jals.Gradient(rank=3, optimizer=optax.lbfgs, hyper={"memory_size": 5})
    assert solver.passes_per_sweep is None
    few, many = solver.operations(jals.als_wr(0.1), TINY, np.array([1, 1]), np.array([2, 6]))
    assert many - few == 4 * 120


def test_a_fit_of_the_record_finds_its_study():
    config = made(
        split={"kind": "kfold", "folds": 2, "validation_fraction": 0.2},
        grid={"objective.reg": [0.1, 0.2], "solver.als.rank": [2, 3]},
        tune={"trials": 2, "range": {"solver.sgd.hyper.learning_rate": [0.1, 1.0]}},
        fit={"seeds": [0, 1]},
    )
    tried = {"solver.sgd.hyper.learning_rate": 0.3}
    for study in plan.studies(config):
        numbers = {key: tried[key] for key in study.ranges}
        for planned in [study.trial(1, numbers), *study.fits(numbers)]:
            known = {name: getattr(planned, name) for name in ("fold", "seed", "trial", "point", "tuned")}
            fit = FitRecord.model_construct(**known, solver=planned.solver.label)
            assert plan.study_of_fit(config, fit).planned_fit(fit).key("hash") == planned.key("hash")
            for wrong in ({"fold": 2}, {"seed": 2}, {"solver": "asl"}, {"point": {"objective.reg": 3}}, {"point": {}}):
                with pytest.raises(jals.StorageError, match="disagree on the fits"):
                    plan.study_of_fit(config, fit.changed(**wrong))
            with pytest.raises(jals.StorageError, match="disagree on the fits"):
                study.planned_fit(fit.changed(tuned={"one": 1.0, "more": 1.0}))


def test_points_are_all_combinations_and_leave_the_config_as_it_is():
    config = made(grid={"objective.reg": [1, 2], "solver.*.rank": [3, 4, 5]})
    points = list(configs.points(config))
    assert [tuple(point.values()) for point in points] == list(itertools.product([1, 2], [3, 4, 5]))
    assert configs.at(config, points[-1]).solver[1].rank == 5
    assert config.solver[1].rank == 2
