"""Configs: what is read, and what is refused with which words."""

import json

import numpy as np
import pytest

import jals
from jals.app import config
from jals.app.study import plan
from tests.support import ROOT

GOOD = """\
[data]
path = "table.npz"

[split]
kind = "random"
test_fraction = 0.2

[objective]
preset = "als_wr"
reg = 1

[[solver]]
kind = "als"
rank = 2

[[solver]]
kind = "gradient"
rank = 2
optimizer = "sgd"
hyper = { learning_rate = 0.1, momentum = 0.9, nesterov = true }

[fit]
sweeps = 3
"""


@pytest.fixture
def load(tmp_path):
    """Loads a config given as text."""

    def load(text):
        path = tmp_path / "experiment.toml"
        path.write_text(text, encoding="utf-8")
        return config.load(path)

    return load


@pytest.mark.parametrize(
    ("change", "place", "value"),
    [
        ("solver.0.rank=64", lambda loaded: loaded.solver[0].rank, 64),
        ("solver.1.hyper.learning_rate = 1e-3", lambda loaded: loaded.solver[1].hyper["learning_rate"], 1e-3),
        ("solver.1.optimizer=adamw", lambda loaded: loaded.solver[1].optimizer, "adamw"),
        ('fit.dtype="float64"', lambda loaded: loaded.fit.dtype, "float64"),
        ("output.folder=runs/a b", lambda loaded: loaded.output.folder, "runs/a b"),  # a table the file has not
        ("objective.reg=0.5", lambda loaded: loaded.objective.reg, 0.5),
    ],
)
def test_changes_are_read_like_the_file(tmp_path, change, place, value):
    path = tmp_path / "experiment.toml"
    text = GOOD.replace(", momentum = 0.9, nesterov = true", "")
    path.write_text(text)
    changed, before = config.load(path, [change]), config.load(path)
    assert place(changed) == value != place(before)
    path.write_bytes(config.dump(changed))
    assert config.load(path) == changed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("solver.0.rank", "--set takes KEY=VALUE"),
        ("=3", "--set takes KEY=VALUE"),
        ("solver.2.rank=3", "no table solver[2]"),
        ("solver.asl.rank=3", "no table solver.asl"),
        ("solver.0=3", "solver[0] is no key of a table"),
        ("solver.0.rank.x=3", "solver[0].rank.x is no key"),
        ("solver.0.rnak=3", '--set, solver[0].rnak: is not known. Did you mean "rank"?'),
        ("solver.0.rank=many", '--set, solver[0].rank: must be an integer, not "many"'),
        ("solver.0.linsolve=choleski", '--set, solver[0].linsolve: must be one of "cholesky"'),
    ],
)
def test_changes_that_cannot_be_meant(tmp_path, change, words):
    path = tmp_path / "experiment.toml"
    path.write_text(GOOD)
    with pytest.raises(jals.ConfigError) as error:
        config.load(path, [change])
    assert words in str(error.value)


def test_good_config_builds_what_it_says(load):
    loaded = load(GOOD)
    objective = loaded.objective.build()
    assert (objective.reg_user, objective.reg_item, objective.reg_power, objective.bias) == (1.0, 1.0, 1.0, False)
    als, gradient = (solver.build() for solver in loaded.solver)
    assert isinstance(als, jals.ALS)
    assert (als.rank, als.linsolve) == (2, "cholesky")
    assert gradient.hyper == {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True}
    assert gradient.optimizer.__name__ == "sgd"
    assert (loaded.fit.sweeps, loaded.fit.dtype, loaded.problem.layout) == (3, "float32", "bucketed")


@pytest.mark.parametrize(
    ("preset", "numbers", "expected"),
    [
        ("explicit", "reg_user = 1.0\nreg_item = 2.0", {"reg_user": 1.0, "reg_item": 2.0, "reg_power": 0.0}),
        ("als_wr", "reg = 0.5\nreg_bias = 2\nbias = true", {"reg_bias": 2.0, "bias": True, "center": False}),
        ("hu_koren", "reg = 0.5\nalpha = 40", {"alpha": 40.0, "unobserved_weight": 1.0, "epsilon": None}),
        ("hu_koren", "reg = 0.5\nepsilon = 2", {"epsilon": 2.0, "feedback": "log_confidence"}),
        ("ials", "reg = 0.5\nunobserved_weight = 0.1", {"unobserved_weight": 0.1, "reg_power": 1.0}),
        ("ials", 'reg = 1\nunobserved_weight = 0.1\ncount = "weights"', {"count": "weights", "feedback": "event"}),
        ("wals", "reg = 1\nunobserved_weight = 0.1", {"count": "entries", "reg_power": 0.0, "feedback": "rating"}),
        ("hu_koren", "reg = 0.5\nreg_power = 0.5", {"reg_power": 0.5}),
        ("als_wr", "reg = 1\nreg_bias_item = 2\nbias = true", {"reg_bias_item": 2.0, "reg_bias_user": None}),
    ],
)
def test_every_preset_can_be_built(load, preset, numbers, expected):
    objective = load(GOOD.replace('"als_wr"', f'"{preset}"').replace("reg = 1", numbers)).objective.build()
    assert {name: getattr(objective, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("test_fraction = 0.2", "test_fration = 0.2", 6, ["split.test_fration", 'Did you mean "test_fraction"?']),
        ("[fit]", "[fits]", 22, ["fits: is not known", 'Did you mean "fit"?']),
        ("sweeps = 3", 'exchange = "routed:few"', 23, ["fit.exchange", "asks for 'few' exchanges"]),
        ("sweeps = 3", 'sweeps = "3"', 23, ["fit.sweeps", 'must be an integer, not "3"']),
        ("sweeps = 3", "sweeps = 3.0", 23, ["fit.sweeps", "must be an integer, not 3.0"]),
        ("sweeps = 3", "sweeps = true", 23, ["fit.sweeps", "must be an integer, not true"]),
        ("reg = 1", 'reg = "1"', 10, ["objective.reg", 'must be a number, not "1"']),
        ("reg = 1", "reg = -0.1", 10, ["objective.reg", "greater than or equal to 0, not -0.1"]),
        ("reg = 1", "reg = nan", 10, ["objective.reg", "must be a finite number"]),
        ("reg = 1", "reg = 1\nreg_user = 1", 11, ["objective.reg_user", "stands beside reg"]),
        ("reg = 1", "reg_user = 1", 8, ["objective.reg", "is missing", "reg_item"]),
        ("reg = 1", "", 8, ["objective.reg", "is missing"]),
        ('"als_wr"\nreg = 1', '"hu_koren"\nreg = 1\nepsilon = 0', 11, ["objective.epsilon", "greater than 0, not 0"]),
        ("reg = 1", "reg = 1\nalpha = 2", 11, ["objective.alpha", 'preset = "hu_koren"']),
        ("reg = 1", "reg = 1\nreg_bias = 2", 11, ["objective.reg_bias", "needs bias = true"]),
        ("reg = 1", "reg = 1\nreg_bias_user = 2", 11, ["objective.reg_bias_user", "needs bias = true"]),
        ('"als_wr"', '"als-wr"', 9, ["objective.preset", '"explicit", "als_wr"', 'Did you mean "als_wr"?']),
        ('"als_wr"', '"hu_koren"\nbias = true', 10, ["objective.bias", '"explicit" or "als_wr"']),
        ('"als_wr"', '"ials"\nunobserved_weight = 1\ncenter = true', 11, ["objective.center", '"als_wr" only']),
        ('"als_wr"', '"ials"', 8, ["objective.unobserved_weight", "is missing"]),
        ('kind = "als"', 'kind = "asl"', 13, ["solver[0].kind", '"als", "anderson", ', 'Did you mean "als"?']),
        ('kind = "als"', "", 12, ["solver[0].kind", '"als", "anderson", "newton", "gradient"']),
        ('kind = "als"', 'kind = "als"\nlinsolve = "cholesk"', 14, ['"cg"', 'Did you mean "cholesky"?']),
        ('kind = "als"', 'kind = "als"\ncg_steps = 2', 14, ["solver[0].cg_steps", 'needs linsolve = "cg"']),
        ('kind = "als"', 'kind = "als"\nbatch_size = 2', 14, ["solver[0].batch_size", 'kind = "gradient"']),
        ("rank = 2\n\n", "rank = 0\n\n", 14, ["solver[0].rank", "greater than or equal to 1, not 0"]),
        ('"gradient"', '"gradient"\nname = "../x"', 18, ["solver[1].name", "pattern"]),
        ('kind = "gradient"', 'kind = "gradient"\nname = "als"', 18, ["solver[1].name", "two solvers"]),
        ('"sgd"', '"sdg"', 19, ["solver[1].optimizer", 'Did you mean "sgd"?', "adamw"]),
        ("momentum = 0.9", "momentun = 0.9", 20, ["hyper.momentun", 'Did you mean "momentum"?']),
        ("momentum = 0.9", 'momentum = "0.9"', 20, ["hyper.momentum", "must be a number"]),
        ("sweeps = 3", "patience = 2", 23, ["fit.patience", "split.validation_fraction"]),
        ("sweeps = 3", 'metric = "ndgc@5"', 23, ["fit.metric: is 'ndgc'", 'Did you mean "ndcg"?']),
        ("sweeps = 3", 'metric = "ndcg"', 23, ["fit.metric: is 'ndcg', but must be a ranking metric", '"ndcg@10"']),
        ("sweeps = 3", 'metric = "mae"', 23, ['fit.metric: is "mae", which is measured at the end only']),
        ("sweeps = 3", 'metric = "auc"', 23, ["fit.metric: needs split.validation_fraction"]),
        ("sweeps = 3", 'metric = "auc"', 23, ['fit.metric: holds "auc"', '"als_wr" are ratings', "output.relevant"]),
        ("[fit]", '[output]\nmetrics = ["rmse", "auc@2"]\n[fit]', 23, ["output.metrics[1]: is 'auc@2'"]),
        ("[fit]", '[output]\nmetrics = ["map@5"]\n[fit]', 23, ['output.metrics: holds "map@5"', "output.relevant"]),
        ("[fit]", "[output]\nrelevant = 4.0\n[fit]", 23, ["output.relevant: says what", "output.metrics"]),
        ("[fit]", '[[baseline]]\nkind = "most_popular"\n[fit]', 22, ["baseline[0]: is compared by", "output.metrics"]),
        ("[fit]", '[[baseline]]\nkind = "popular"\n[fit]', 23, ["baseline[0].kind", 'Did you mean "most_popular"?']),
        ("[fit]", '[[baseline]]\nkind = "ease"\n[fit]', 22, ["baseline[0].reg: is missing"]),
        ("[fit]", '[[baseline]]\nkind = "ease"\nname = "als"\nreg = 1\n[fit]', 24, ["baseline[0].name", "als"]),
        ("sweeps = 3", "tol = 1e-3\nloss_every = 0", 23, ["fit.tol", "loss_every = 0"]),
        ("sweeps = 3", 'dtype = "float16"', 23, ["fit.dtype", '"float32", "float64"', "Did you mean"]),
        ('path = "table.npz"', 'source = "ml100"', 2, ["data.source", '"ml100k"', "Did you mean"]),
        ('path = "table.npz"', 'source = "ml100k"\npath = "x"', 3, ["data.path", "one of the two"]),
        ('path = "table.npz"', "", 1, ["data.source", "is missing"]),
    ],
)
def test_each_problem_is_named_with_line_key_and_fix(load, old, new, line, words):
    assert old in GOOD
    text = GOOD.replace(old, new, 1)
    with pytest.raises(jals.ConfigError) as caught:
        load(text)
    message = str(caught.value)
    assert f"\n  line {line}, " in message
    assert message.partition(" cannot be used:")[0].endswith("experiment.toml")
    for word in words:
        assert word in message


def test_all_problems_come_at_once_in_the_order_of_the_file(load):
    text = GOOD.replace("reg = 1", "reg = -1").replace("sweeps = 3", "swepes = 3").replace("0.2", "2")
    head, fit = text.split("[fit]")
    with pytest.raises(jals.ConfigError) as caught:
        load(f"[fit]{fit}{head}")
    assert [line.split(",")[0] for line in str(caught.value).splitlines()[1:]] == ["  line 2", "  line 8", "  line 12"]


def test_lines_are_found_in_later_tables_of_a_list_and_their_subtables(load):
    text = GOOD + '[[solver]]\nkind = "gradient"\nname = "b"\nrank = 2\n[solver.hyper]\nx = 1\n'
    with pytest.raises(jals.ConfigError, match=r"line 29, solver\[2\]\.hyper\.x: "):
        load(text)


def test_missing_tables_are_all_named(load):
    with pytest.raises(jals.ConfigError) as caught:
        load("")
    for table in ("data", "split", "objective", "solver"):
        assert f"{table}: is missing" in str(caught.value)


def test_single_brackets_for_a_solver_are_explained(load):
    with pytest.raises(jals.ConfigError, match=r"\[\[solver\]\], in double brackets"):
        load(GOOD[: GOOD.index('[[solver]]\nkind = "gradient"')].replace("[[solver]]", "[solver]"))


def test_files_that_are_no_toml_are_refused(load, tmp_path):
    with pytest.raises(jals.ConfigError, match=r"not valid TOML.*line 1"):
        load("a = = b")
    with pytest.raises(jals.ConfigError, match="No such file"):
        config.load(tmp_path / "absent.toml")
    (tmp_path / "latin.toml").write_bytes(b"a = '\xff'")
    with pytest.raises(jals.ConfigError, match="UTF-8"):
        config.load(tmp_path / "latin.toml")


DEEP = 3000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD + f"seed = {'1' * 5000}\n", "line 24: an integer has more digits"),
        (GOOD + f"seed = 0x{'f' * 5000}\n", "line 24, fit.seed: is an integer beyond the 64 bits"),
        (GOOD + f"seed = {2**63}\n", "line 24, fit.seed: is an integer beyond the 64 bits"),
        (GOOD + f"\nx = {'[' * DEEP}{']' * DEEP}\n", "line 25: lists or tables are nested too deep"),
        (GOOD + f"x = {'{ a = ' * DEEP}1{' }' * DEEP}\n", "line 24: lists or tables are nested too deep"),
        (GOOD + f"x = {'[' * 50}{']' * 50}\n", "line 24, fit.x[0][0][0][0][0][0]: is nested 8 deep or more"),
        (GOOD + f"{'.'.join('a' * DEEP)} = 1\n", "fit.a.a.a.a.a.a.a: is nested 8 deep or more"),
        (GOOD + f'[grid]\n"solver.{"9" * 5000}.rank" = [1]\n', "line 25, grid.solver.999"),
        (GOOD + "[fit]\n", "Cannot declare"),
        (GOOD + "sweeps = 4\n", "(at line 24"),
        (GOOD + 'x = "', "line 24"),
    ],
)
def test_what_python_cannot_read_is_told_by_its_line(load, text, words):
    with pytest.raises(jals.ConfigError) as error:
        load(text)
    assert words in str(error.value)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (f"fit.x={'[' * DEEP}{']' * DEEP}", "--set fit.x, line 1: lists or tables are nested too deep"),
        (f"fit.seed={'1' * 5000}", "--set fit.seed, line 1: an integer has more digits"),
        (f"fit.seed=0x{'f' * 5000}", "--set, fit.seed: is an integer beyond"),
        (f"fit.{'.'.join('a' * DEEP)}=1", "is nested 8 deep or more"),
        (f"solver.{'9' * 5000}.rank=1", "there is no table solver.999"),
        ("fit.\x1b[2J=1", "fit.\\x1b[2J: is not known"),
    ],
)
def test_changes_that_python_cannot_read(tmp_path, change, words):
    path = tmp_path / "experiment.toml"
    path.write_text(GOOD)
    with pytest.raises(jals.ConfigError) as error:
        config.load(path, [change])
    assert words in str(error.value)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('path = "table.npz"', 'path = "a\\u0000b"', "line 2, data.path: must be a path, in which no system has the"),
        ("[fit]", '[output]\nfolder = "\\u0000"\n[fit]', "line 23, output.folder: must be a path"),
        ('path = "table.npz"', 'path = "t"\ndelimiter = ",,"', 'data.delimiter: must be "::" or one ASCII character'),
        ("rank = 2", "rank = 32_769", "line 14, solver[0].rank: must be less than or equal to 32768"),
        ('kind = "als"', 'kind = "anderson"\nmemory = 40_000', "memory: must be less than or equal to 32768"),
        ('kind = "als"', 'kind = "als"\nlinsolve = "cg"\ncg_steps = 40_000', "must be less than or equal to 32768"),
        ("sweeps = 3", f"sweeps = {2**31}", "fit.sweeps: must be less than or equal to 2147483647"),
        ("sweeps = 3", f"passes = {2**31}", "fit.passes: must be less than or equal to 2147483647"),
        (
            'kind = "random"\ntest_fraction = 0.2',
            'kind = "kfold"\nfolds = 100_001',
            "split.folds: must be less than or",
        ),
        ('kind = "random"\ntest_fraction = 0.2', 'kind = "kfold"\nfolds = 60_000', "folds: makes 120,000 fits in all"),
        ("sweeps = 3", f"seeds = {list(range(50_001))}", "fit.seeds: makes 100,002 fits in all, more than the 100,000"),
        ("sweeps = 3", f"seeds = {list(range(100_001))}", "fit.seeds: has more than 100,000 values"),
        (
            "[fit]",
            f'[grid]\n"objective.reg" = {list(range(1, 401))}\n"split.seed" = {list(range(400))}\n[fit]',
            "line 22, grid: makes 320,000 fits in all",
        ),
        ("reg = 1", "reg = 1e300", "line 10, objective.reg: is 1e+300, which float32 cannot hold"),
        ("momentum = 0.9, nesterov = true", "nesterov = 0.5", "hyper.nesterov: must be true or false, not 0.5"),
        ("momentum = 0.9, nesterov = true", "momentum = true", "hyper.momentum: must be a number, not true"),
        ("nesterov = true", "accumulator_dtype = 3", "hyper: is refused by optax.sgd"),
        (
            '"sgd"\nhyper = { learning_rate = 0.1, momentum = 0.9, nesterov = true }',
            '"adamw"\nhyper = { learning_rate = 0.1, mask = 2.5 }',
            "line 20, solver[1].hyper: is refused by optax.adamw",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_expanded(load, monkeypatch, old, new, words):
    assert old in GOOD
    monkeypatch.setattr("jals.app.config.reading.at", None)  # what each point, fold and solver would need
    with pytest.raises(jals.ConfigError) as error:
        load(GOOD.replace(old, new, 1))
    assert words in str(error.value)
    assert len(str(error.value)) < 1000


def test_so_many_trials_are_too_many(load):
    with pytest.raises(jals.ConfigError, match=r"tune.trials: must be less than or equal to 100000"):
        load(MANY.replace("trials = 3", "trials = 100_001"))
    with pytest.raises(jals.ConfigError, match=r"line 31, tune.trials: makes 120,004 fits in all"):
        load(MANY.replace("trials = 3", "trials = 60_000"))
    with pytest.raises(jals.ConfigError, match=r"tune.seconds: goes with the other methods: a grid that is cut short"):
        load(MANY.replace("trials = 3", 'trials = 3\nmethod = "grid"\nseconds = 1.0'))


@pytest.mark.parametrize("ids", ['["auto", "str"]', '["int", "str"]', '"str"'])
def test_ids_of_both_sides_or_of_each(load, ids):
    loaded = load(GOOD.replace('path = "table.npz"', f'path = "table.npz"\nids = {ids}'))
    assert loaded.data.reading() == {"ids": json.loads(ids)}


def test_configs_of_the_project_check_without_their_data(monkeypatch):
    monkeypatch.delenv("JALS_DATA", raising=False)
    paths = list((ROOT / "configs").glob("*.toml"))
    assert paths
    for path in paths:
        config.load(path)


MANY = """\
[data]
path = "table.npz"

[split]
kind = "random"
test_fraction = 0.2
validation_fraction = 0.2

[objective]
preset = "als_wr"
reg = 1

[[solver]]
kind = "als"
rank = 2

[[solver]]
kind = "gradient"
name = "sgd"
rank = 2
optimizer = "sgd"
hyper = { learning_rate = 0.1 }

[fit]
sweeps = 3

[grid]
"objective.reg" = [0.1, 0.2]

[tune]
trials = 3

[tune.range]
"solver.sgd.hyper.learning_rate" = [1e-3, 1.0]
"""
AXIS = '"objective.reg" = [0.1, 0.2]'
RANGE = '"solver.sgd.hyper.learning_rate" = [1e-3, 1.0]'
RATE = "{ learning_rate = 0.1 }"
SCHEDULE = '{ learning_rate = { schedule = "cosine_decay_schedule", init_value = 0.1, decay_steps = 10 } }'


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        # axes of the grid
        (AXIS, "objective.reg = [0.1, 0.2]", 27, ["grid.objective", "put the whole key in quotes"]),
        (AXIS, '"objective.reg" = 0.1', 28, ["grid.objective.reg: must be a list of values, not 0.1."]),
        (AXIS, '"objective.reg" = []', 28, ["grid.objective.reg: must be a list of values, not []."]),
        (AXIS, '"objective.reg" = [0.1, 0.1]', 28, ["grid.objective.reg: holds a value twice"]),
        (AXIS, '"objective.reg" = [[0.1]]', 28, ["must hold numbers, texts, true or false, not [0.1]"]),
        (AXIS, '"objective.reg" = [nan]', 28, ["must hold numbers, texts, true or false, not NaN"]),
        (AXIS, '"objective.reg" = [0.1, "a"]', 28, ['objective.reg = "a" cannot be used', "must be a number"]),
        (AXIS, '"objective.rge" = [1]', 28, ["objective.rge = 1 cannot be used", 'Did you mean "reg"?']),
        (AXIS, '"solver.als.rank" = [2, 0]', 28, ["solver.als.rank = 0 cannot be used", "greater than or equal to 1"]),
        (AXIS, '"solver.asl.rank" = [2]', 28, ["no table solver.asl", 'Did you mean "als"?']),
        (AXIS, '"solver.2.rank" = [2]', 28, ["no table solver[2]"]),
        (AXIS, '"solver.*.batch_size" = [2]', 28, ["solver[0].batch_size", 'goes with kind = "gradient" only']),
        (AXIS, '"solver.sgd.hyper.b1" = [0.9]', 28, ["hyper.b1: is not an argument of optax.sgd"]),
        (AXIS, '"sovler.als.rank" = [2]', 28, ["grid.sovler.als.rank", 'Did you mean "solver"?']),
        (AXIS, '"output.factors" = [true]', 28, ["grid.output.factors", "data, split, problem, objective, score, fit"]),
        (AXIS, '"fit.seed" = [0, 1]', 28, ["grid.fit.seed: is no axis", "fit.seeds"]),
        (AXIS, '"fit.timed" = [true, false]', 28, ["grid.fit.timed: is no axis: it holds for the whole run"]),
        (AXIS, '"solver.als.name" = ["a", "b"]', 28, ["is no axis: it tells solvers apart"]),
        (AXIS, '"split.kind" = ["random", "kfold"]', 28, ['"kfold" cannot be used: split.test_fraction: goes with']),
        (AXIS, '"problem.layout" = ["paded"]', 28, ["problem.layout", 'Did you mean "padded"?']),
        (AXIS, '"fit.loss_every" = [1, 0]\n"fit.tol" = [1e-3]', 27, ["fit.loss_every = 0, fit.tol = 0.001 cannot"]),
        (AXIS, '"objective.reg" = [1]\n"objective.reg_user" = [1]', 29, ["reg_user: stands beside reg"]),
        (AXIS, '"solver.*.rank" = [2]\n"solver.als.rank" = [3]', 29, ['same key of solver als as "solver.*.rank"']),
        # ranges of the tuning
        (RANGE, "solver.sgd.hyper.learning_rate = [1e-3, 1.0]", 33, ["tune.range.solver", "in quotes"]),
        (RANGE, '"solver.sgd.hyper.learning_rate" = [1.0, 1e-3]', 34, ["must be [low, high] with low < high"]),
        (RANGE, '"solver.sgd.hyper.learning_rate" = [0, 1.0]', 34, ["must be [low, high], two numbers > 0, not 0."]),
        (RANGE, '"score.item_power" = [-0.1]', 34, ["must be [low, high], two numbers, not [-0.1]"]),
        (RANGE, '"score.item_power" = [0.1, -0.1]', 34, ["must be [low, high] with low < high"]),
        (RANGE, '"score.item_pwoer" = [0.1, 0.2]', 34, ['Did you mean "item_power"?']),
        (AXIS, '"score.item_power" = [-0.1, "a"]', 28, ["score.item_power", "must be a number"]),
        (AXIS, '"objective.unobserved_power_item" = [0.5]', 28, ["unobserved_power_item"]),
        (RANGE, '"solver.sgd.hyper.learning_rate" = [1.0]', 34, ["must be [low, high], two numbers > 0, not [1.0]"]),
        (RANGE, '"solver.sgd.hyper.learning_rat" = [0.1, 1]', 34, ['Did you mean "learning_rate"?']),
        (RANGE, '"solver.sdg.hyper.learning_rate" = [0.1, 1]', 34, ["no table solver.sdg", 'Did you mean "sgd"?']),
        (RANGE, '"solver.sgd.rank" = [2.5, 8]', 34, ["solver.sgd.rank = 2.5 cannot", "must be an integer, not 2.5"]),
        (RANGE, '"solver.sgd.rank" = [2, 40_000]', 34, ["rank = 40000 cannot be used", "less than or equal to 32768"]),
        (RANGE, '"solver.sgd.optimizer" = [1, 2]', 34, ["solver[1].optimizer: must be a text in quotes, not 1"]),
        (RANGE, '"solver.sgd.hyper.nesterov" = [0.1, 1]', 34, ["hyper.nesterov: must be true or false, not 0.1"]),
        (RANGE, '"solver.als.linsolve" = [1, 2]', 34, ["linsolve", 'must be one of "cholesky"']),
        (RANGE, '"objective.bias" = [0.5, 1]', 34, ["objective.bias", "is shared by the solvers"]),
        (RANGE, '"fit.sweeps" = [2, 8]', 34, ["is no key of a table of objective, score or solver.NAME"]),
        (RANGE, '"objective.alpha" = [0.1, 1]', 34, ["is shared by the solvers", "make it an axis of [grid]"]),
        (RANGE, '"solver.*.init_scale" = [0.1, 1]', 34, ["they start from the same factors"]),
        (RANGE, f'{RANGE}\n"solver.1.hyper.learning_rate" = [1, 2]', 35, ["same key of solver sgd as"]),
        (RANGE, "", 33, ["tune.range: must be a table such as"]),
        (AXIS, RANGE, 34, ["is an axis of the grid too: choose one of the two"]),
        (AXIS, RANGE.replace("sgd", "1"), 34, ["same key of solver sgd as"]),
        ("trials = 3", "trials = 1", 31, ["tune.trials", "greater than or equal to 2"]),
        ("trials = 3", "", 30, ["tune.trials: is missing"]),
        ("trials = 3", 'trials = 3\nsampler = "optuan"', 32, ["tune.sampler", 'Did you mean "optuna"?']),
        ("trials = 3", 'trials = 3\nmetric = "test"', 32, ["tune.metric", '"validation", "loss"']),
        ("validation_fraction = 0.2\n", "", 29, ["tune.metric: needs split.validation_fraction", "would spoil it"]),
        # seeds and budgets
        ("sweeps = 3", "seeds = [1, 1]", 25, ["fit.seeds: holds a seed twice"]),
        ("sweeps = 3", "seeds = []", 25, ["fit.seeds: needs at least one value"]),
        ("sweeps = 3", "seeds = 3", 25, ["fit.seeds: must be a list, not 3"]),
        ("sweeps = 3", "seeds = [0, -1]", 25, ["fit.seeds[1]: must be greater than or equal to 0"]),
        ("sweeps = 3", "seed = 1\nseeds = [1, 2]", 26, ["fit.seeds: stands beside seed"]),
        ("sweeps = 3", "seconds = 1\ntimed = false", 26, ["fit.timed", "a budget of seconds needs each fit timed"]),
        ("sweeps = 3", "seconds = 0", 25, ["fit.seconds: must be greater than 0"]),
        ("sweeps = 3", "passes = 1", 25, ["fit.passes: must be greater than or equal to 2"]),
        ("sweeps = 3", "sweep = 1", 25, ["fit.sweep", 'Did you mean "sweeps"?']),
        ("sweeps = 3", 'loop = "scan"', 25, ["fit.loop", '"auto", "map", "vmap"']),
        # schedules, rounding and the rest
        (RATE, SCHEDULE.replace("_schedule", ""), 22, ["learning_rate.schedule", '"cosine_decay_schedule"?']),
        (RATE, SCHEDULE.replace("init_value", "init_valu"), 22, ["init_valu", 'Did you mean "init_value"?']),
        (RATE, SCHEDULE.replace(", decay_steps = 10", ""), 22, ["decay_steps: is missing", "needs it"]),
        (RATE, SCHEDULE.replace("= 10", '= "10"'), 22, ["a number, or a table of a schedule and its numbers"]),
        (RATE, SCHEDULE.replace("learning_rate", "momentum"), 22, ["hyper.momentum", "only learning_rate"]),
        (RATE, SCHEDULE.replace("10", "0"), 22, ["hyper: is refused by optax.sgd", "requires positive decay_steps"]),
        (RATE, "{ learning_rate = { schedule = [1] } }", 22, ["learning_rate.schedule", "unknown to optax"]),
        (RATE, "{ momentum = 0.9 }", 22, ["hyper.learning_rate: is missing: optax.sgd needs it"]),
        ('kind = "als"', 'kind = "als"\nrounding = "bfloat61"', 15, ["rounding", 'Did you mean "bfloat16"?']),
        ('kind = "als"', 'kind = "als"\nstorage = "float16"', 15, ["storage", 'must be one of "bfloat16"']),
        ('kind = "als"', 'kind = "als"\nrounding = "float16"\nstorage = "bfloat16"', 16, ["storage: rounds by itself"]),
        (
            'rank = 2\n\n[[solver]]\nkind = "gradient"\nname = "sgd"\nrank = 2\noptimizer = "sgd"\n'
            "hyper = { learning_rate = 0.1 }\n\n[fit]",
            'rank = 2\nstorage = "bfloat16"\n\n[fit]\ndtype = "float64"',
            16,
            ["storage: computes in float32", 'take rounding = "bfloat16"'],
        ),
        ("table.npz", 't.csv"\nvalue = true\nuser = "u', 3, ["data.value: must be a column's name", "or false"]),
        ("table.npz", 't.csv"\nuser = 1.5\nitem = "i', 3, ["data.user: must be a column's name"]),
        ("[data]", 'question = ""\n[data]', 1, ["question: must have at least 1 character"]),
    ],
)
def test_each_problem_of_an_experiment_is_named_with_line_key_and_fix(load, old, new, line, words):
    text = MANY.replace(old, new, 1)
    with pytest.raises(jals.ConfigError) as caught:
        load(text)
    message = str(caught.value)
    assert f"\n  line {line}, " in message
    for word in words:
        assert word in message
    listed = message.splitlines()[1:]
    assert len(set(listed)) == len(listed)  # none is said twice
    assert all(len(line) < 400 and line.endswith((".", "?")) for line in listed)


def test_a_point_without_the_loss_that_tuning_needs_is_refused(load):
    text = MANY.replace("trials = 3", 'trials = 3\nmetric = "loss"').replace(AXIS, '"fit.loss_every" = [1, 0]')
    with pytest.raises(jals.ConfigError, match=r"line 28, .*fit.loss_every = 0 cannot be used: tune.metric: needs the"):
        load(text)


TUNED = """\
[data]
path = "table.npz"

[split]
kind = "random"
validation_fraction = 0.2

[objective]
preset = "als_wr"
reg_user = 1
reg_item = 1

[[solver]]
kind = "als"
rank = 2

[tune]
method = "METHOD"
trials = 9

[tune.range]
"objective.reg_user" = [0.1, 1]
"objective.reg_item" = [0.1, 1]
"""
USER = '"objective.reg_user"'
LBFGS = 'kind = "gradient"\nrank = 2\noptimizer = "lbfgs"\nhyper = { memory_size = 5 }'


@pytest.mark.parametrize(
    ("method", "old", "new", "line", "words"),
    [
        ("grdi", "", "", 18, ["tune.method", '"random", "grid", "hypergradient"', 'Did you mean "grid"?']),
        ("grid", "trials = 9", "trials = 10", 19, ["each of the 2 ranges of solver als", "take 9 (3 each) or 16 (4"]),
        ("grid", "trials = 9", "trials = 2", 19, ["is 2, but", "as many points: take 4 (2 each)."]),
        ("grid", "trials = 9", 'sampler = "optuna"\ntrials = 9', 19, ['method = "random" only: "grid" draws nothing']),
        ("hypergradient", "trials", 'sampler = "optuna"\ntrials', 19, ['method = "random" only: "hypergradient"']),
        ("hypergradient", "trials", 'metric = "loss"\ntrials', 19, ["tune.metric", 'must be "validation"']),
        ("hypergradient", USER, '"solver.als.init_scale"', 22, ["is a solver's number", '"random" or "grid"']),
        ("hypergradient", USER, '"objective.reg"', 22, ["one number for both sides", '"objective.reg_user" and']),
        ("hypergradient", USER, '"objective.reg_uesr"', 22, ["no number that", 'Did you mean "reg_user"?']),
        ("hypergradient", USER, '"objective.bias"', 22, ["tune.range.objective.bias", "reg_power, alpha"]),
        ("hypergradient", USER, '"objective.alpha"', 22, ["alpha", 'goes with preset = "hu_koren" only']),
        ("hypergradient", 'kind = "als"', 'kind = "newton"', 14, ['solver[0].kind: is "newton"', "have no derivative"]),
        ("hypergradient", 'kind = "als"\nrank = 2', LBFGS, 16, ['optimizer: is "lbfgs"', "have no derivative"]),
        ("grid", "trials = 9", 'score = "softmax"\ntrials = 9', 19, ["tune.score", 'method = "hypergradient" only']),
        ("hypergradient", "trials = 9", 'score = "softmx"\ntrials = 9', 19, ["tune.score", "softmx"]),
        ("hypergradient", "trials = 9", 'score = "smooth_recall"\ntrials = 9', 19, ["tune.score", "smooth_ndcg"]),
        ("hypergradient", "trials = 9", 'score = "softmax"\ntrials = 9', 19, ["tune.score", "set it to a ranking"]),
        ("hypergradient", "validation_fraction = 0.2\n", "", 16, ["tune.metric: needs split.validation_fraction"]),
    ],
)
def test_each_problem_of_a_method_of_tuning_is_named_with_line_key_and_fix(load, method, old, new, line, words):
    assert old in TUNED
    with pytest.raises(jals.ConfigError) as caught:
        load(TUNED.replace("METHOD", method).replace(old, new, 1))
    for word in (f"\n  line {line}, ", *words):
        assert word in str(caught.value)


def test_a_descent_is_refused_for_a_solver_of_the_grid(load):
    adam = 'kind = "gradient"\nrank = 2\nhyper = { learning_rate = 0.1 }'
    text = TUNED.replace("METHOD", "hypergradient").replace('kind = "als"\nrank = 2', adam)
    for optimizers in ('["adam", "sgd"]', '["adam", "lbfgs"]'):
        grid = f'[grid]\n"solver.gradient.optimizer" = {optimizers}\n\n[tune]'
        if "lbfgs" in optimizers:
            with pytest.raises(jals.ConfigError, match=r'solver\[0\].optimizer: is "lbfgs"'):
                load(text.replace("[tune]", grid))
        else:
            load(text.replace("[tune]", grid))


@pytest.mark.parametrize("method", ["random", "grid", "hypergradient"])
@pytest.mark.parametrize("solver", ['kind = "als"', 'kind = "als"\nlinsolve = "cg"', 'kind = "anderson"'])
def test_every_method_takes_the_solvers_it_can(load, tmp_path, method, solver):
    loaded = load(TUNED.replace("METHOD", method).replace('kind = "als"', solver))
    assert loaded.tune.method == method
    (tmp_path / "experiment.toml").write_bytes(config.dump(loaded))
    assert config.load(tmp_path / "experiment.toml") == loaded


def test_a_grid_counts_the_ranges_of_each_solver(load):
    """One range here and two there: four points or two a range."""
    rate = '"solver.sgd.hyper.learning_rate" = [0.1, 1]\n"solver.sgd.hyper.momentum" = [0.1, 0.9]'
    adam = '[[solver]]\nkind = "gradient"\nname = "adam"\nrank = 2\n\n[fit]'
    text = MANY.replace(RANGE, f'{rate}\n"solver.adam.hyper.b1" = [0.5, 0.9]').replace("[fit]", adam)
    load(text.replace("trials = 3", 'trials = 4\nmethod = "grid"'))
    with pytest.raises(jals.ConfigError, match="2 ranges of solver sgd") as caught:
        load(text.replace("trials = 3", 'trials = 5\nmethod = "grid"'))
    assert "adam" not in str(caught.value)


# What mutations put in place of a value, or add.
ODD = ["0", "-1", "1", "2.5", "1e400", "nan", "true", '""', '"als"', '"kfold"', '"*"', "[]", "[1]", '["a", "a"]']
ODD += ["{}", "{ a = 1 }", "[{ kind = 1 }]", "1979-05-27", "[[1], 2]", '{ schedule = "linear_schedule" }']
KEYS = [
    *("kind", "rank", "reg", "name", "hyper", "seeds", "range", "preset", "trials", "question", "layout", "path"),
    *("user", "value", "optimizer", "metric", "passes", "timed", "a b", "solver.als.rank", '"solver.*.rank"', '"..."'),
    *('"solver.sgd"', '"solver.sgd.hyper.learning_rate"', '"objective"', '"data.path"', '"solver.9.x"', '"fit.seed"'),
]


def test_whatever_a_file_holds_is_a_config_or_one_message(load):
    """300 files with one to three random changes; an exception of any other kind fails."""
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        lines = MANY.splitlines()
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(len(lines)))
            key, odd = rng.choice(KEYS), rng.choice(ODD)
            match rng.integers(6):
                case 0:
                    del lines[at]
                case 1:
                    lines.insert(at, f"{key} = {odd}")
                case 2:
                    lines[at] = f"{lines[at].partition('=')[0].strip() or key} = {odd}"
                case 3:
                    lines[at] = f"{key} = {lines[at].partition('=')[2] or odd}"
                case 4:
                    lines.insert(at, f"[{key}]")
                case 5:
                    lines[at] = lines[at][: rng.integers(len(lines[at]) + 1)]
        message, loaded = "", None
        try:
            loaded = load("\n".join(lines))
        except jals.ConfigError as error:
            message = str(error)
        if loaded is None:
            refused += 1
            assert "\n  line " in message or "not valid TOML" in message
        else:
            assert load(config.dump(loaded).decode()) == loaded
            for study in plan.studies(loaded):
                study.fits({key: low for key, (low, _) in study.ranges.items()})
    assert 150 < refused < 300
