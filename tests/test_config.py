"""Configs: what is read, and what is refused with which words."""

import pytest

pytest.importorskip("pydantic", reason='configs need the extra "cli"')

import jals
from jals.app import config

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
        ("solver.als.rank=3", "no table solver.als"),
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
        ("hu_koren", "reg = 0.5\nalpha = 40", {"alpha": 40.0, "unobserved_weight": 1.0}),
        ("ials", "reg = 0.5\nunobserved_weight = 0.1", {"unobserved_weight": 0.1, "reg_power": 1.0}),
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
        ("sweeps = 3", 'sweeps = "3"', 23, ["fit.sweeps", 'must be an integer, not "3"']),
        ("sweeps = 3", "sweeps = 3.0", 23, ["fit.sweeps", "must be an integer, not 3.0"]),
        ("sweeps = 3", "sweeps = true", 23, ["fit.sweeps", "must be an integer, not true"]),
        ("reg = 1", 'reg = "1"', 10, ["objective.reg", 'must be a number, not "1"']),
        ("reg = 1", "reg = -0.1", 10, ["objective.reg", "greater than or equal to 0, not -0.1"]),
        ("reg = 1", "reg = nan", 10, ["objective.reg", "must be a finite number"]),
        ("reg = 1", "reg = 1\nreg_user = 1", 11, ["objective.reg_user", "stands beside reg"]),
        ("reg = 1", "reg_user = 1", 8, ["objective.reg", "is missing", "reg_item"]),
        ("reg = 1", "", 8, ["objective.reg", "is missing"]),
        ("reg = 1", "reg = 1\nalpha = 2", 11, ["objective.alpha", 'preset = "hu_koren"']),
        ("reg = 1", "reg = 1\nreg_bias = 2", 11, ["objective.reg_bias", "needs bias = true"]),
        ('"als_wr"', '"als-wr"', 9, ["objective.preset", '"explicit", "als_wr"', 'Did you mean "als_wr"?']),
        ('"als_wr"', '"hu_koren"\nbias = true', 10, ["objective.bias", '"explicit" or "als_wr"']),
        ('"als_wr"', '"ials"\nunobserved_weight = 1\ncenter = true', 11, ["objective.center", '"als_wr" only']),
        ('"als_wr"', '"ials"', 8, ["objective.unobserved_weight", "is missing"]),
        ('kind = "als"', 'kind = "asl"', 13, ["solver[0].kind", '"als", "gradient"', 'Did you mean "als"?']),
        ('kind = "als"', "", 12, ["solver[0].kind", '"als", "gradient"']),
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
        load(GOOD[: GOOD.index("[[solver]]\nkind = \"gradient\"")].replace("[[solver]]", "[solver]"))


def test_files_that_are_no_toml_are_refused(load, tmp_path):
    with pytest.raises(jals.ConfigError, match=r"not valid TOML.*line 1"):
        load("a = = b")
    with pytest.raises(jals.ConfigError, match="No such file"):
        config.load(tmp_path / "absent.toml")
    (tmp_path / "latin.toml").write_bytes(b"a = '\xff'")
    with pytest.raises(jals.ConfigError, match="UTF-8"):
        config.load(tmp_path / "latin.toml")


def test_configs_of_the_project_check_without_their_data(monkeypatch, request):
    monkeypatch.delenv("JALS_DATA", raising=False)
    paths = list((request.config.rootpath / "configs").glob("*.toml"))
    assert paths
    for path in paths:
        config.load(path)
