"""A new solver is one file, one table of a config, one row of a table of the tests (`damped` and `solvers` of
tests/support/); jals knows nothing of it."""

import json
import re
import sys
from pathlib import Path

import pytest

import jals
from jals.app import config as configs
from jals.app.show.page import plots
from jals.errors import ConfigError
from jals.files.runs import folder
from tests.support import ROOT
from tests.support.commands import jals_command, write_experiment
from tests.support.records import read_run

SOURCE = (ROOT / "tests/support/damped.py").read_text(encoding="utf-8")
OWN = """
[[solver]]
kind = "{module}:DampedALS"
rank = 2
share = 0.9
"""
TUNED = """
[tune]
trials = 2

[tune.range]
"solver.DampedALS.share" = [0.25, 1.0]
"""


def experiment(place: Path, module: str, *changes: tuple[str, str]) -> Path:
    """A config in which ALS and a solver of the module beside it compete."""
    (place / f"{module}.py").write_text(SOURCE, encoding="utf-8")
    return write_experiment(place, ("[fit]", f"{OWN.format(module=module)}\n[fit]"), *changes)


def forget(module: str) -> None:
    """As in a new process."""
    sys.modules.pop(module, None)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(the config, the folder of its run): pictures left empty, as drawing takes most of the time."""
    place = tmp_path_factory.mktemp("stranger")
    validated = ("test_fraction = 0.2", "test_fraction = 0.2\nvalidation_fraction = 0.2")
    segmented = ("[objective]", '[problem]\nlayout = "segmented"\n\n[objective]')  # compiles quickest
    config = experiment(place, "stranger", validated, segmented, ("sweeps = 3", f"sweeps = 3\n{TUNED}"))
    empty = plots.Picture(b"", b"", b"", 100, 50)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "picture", lambda draw, *arguments, **options: empty)
        done = jals_command("run", config, "--out", place / "run")
        assert done.exit_code == 0, done.output
        yield config, place / "run"
    forget("stranger")


def test_it_is_written_in_public_names_and_few_lines():
    assert len(SOURCE.splitlines()) < 40
    assert not re.findall(r"\._[a-z]|import _", SOURCE)


def test_a_run_fits_tunes_and_records_it(run):
    _, place = run
    found = read_run(place)
    assert list(found["modules"]) == ["stranger"]
    fits = [fit for fit in found["fits"] if fit["kind"] == "stranger:DampedALS"]
    trials = [fit for fit in fits if fit["trial"] is not None]
    (fit,) = [fit for fit in fits if fit["trial"] is None]
    assert fit["solver"] == "DampedALS" and fit["certificate"]["passed"]
    assert not fit["certificate"]["last_updated_required"]
    assert len(trials) == 2 and all(0.25 <= each["tuned"]["share"] <= 1 for each in trials)
    assert fit["tuned"] in [each["tuned"] for each in trials]
    assert fit["history"]["passes"] == [0, 2, 4, 6] and "operations" not in fit["history"]
    (als,) = [fit for fit in found["fits"] if fit["kind"] == "als"]
    assert als["history"]["operations"][-1] > 0
    assert json.loads((place / "result.json").read_text())["config"]["solver"][1]["kind"] == "stranger:DampedALS"


def test_its_run_is_reported_and_read_where_its_module_is_not(run, tmp_path):
    _, place = run
    forget("stranger")
    done = jals_command("report", place, "--out", tmp_path / "report")
    assert done.exit_code == 0, done.output
    said = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    row = next(line for line in said.splitlines() if line.startswith("| DampedALS"))
    assert "| 3 | 6 |" in row  # sweeps and passes
    (spent,) = [line for line in said.splitlines() if "Against floating point operations" in line]
    assert "als after" in spent and "DampedALS" not in spent
    assert jals.experiment.load(place).fits["kind"].to_list().count("stranger:DampedALS") == 3
    recommended = jals_command("recommend", place, "--user", "110", "--solver", "DampedALS", "-k", "2")
    assert recommended.exit_code == 0, recommended.output
    assert "stranger" not in sys.modules


def test_certify_needs_the_module(run, monkeypatch):
    config, place = run
    forget("stranger")
    refused = jals_command("certify", place)
    assert refused.exit_code == 2 and 'names the module "stranger", which was not found' in refused.output
    monkeypatch.chdir(config.parent)
    done = jals_command("certify", place)
    assert done.exit_code == 0 and "certificate passed" in done.output


def test_a_changed_module_is_another_config(run):
    config, place = run
    forget("stranger")
    try:
        (config.parent / "stranger.py").write_text(f"{SOURCE}\n# better\n", encoding="utf-8")
        refused = jals_command("run", config, "--out", place)
        assert refused.exit_code == 2 and "holds a run of another config" in refused.output
        assert "modules.stranger: " in refused.output
    finally:
        (config.parent / "stranger.py").write_text(SOURCE, encoding="utf-8")
        forget("stranger")
    assert folder.read(place).run.status == "finished"
    again = jals_command("run", config, "--out", place)
    assert again.exit_code == 0, again.output


def test_its_cost_is_shown_as_unknown_before_it_runs(run):
    config, _ = run
    done = jals_command("run", config, "--dry-run")
    rows = [line.split() for line in done.output.splitlines() if line.startswith("DampedALS ")]
    assert ["DampedALS", "1", "6", "–"] in [row[:4] for row in rows]


@pytest.mark.parametrize(
    "old, new, key, said",
    [
        ("{module}:", "nowhere:", "kind", 'names the module "nowhere", which was not found: it is looked for where'),
        ("{module}:", "{module}.inner:", "kind", "was not found"),
        ("{module}:DampedALS", "{module}:DampedAls", "kind", r"has no such class\. Did you mean \"DampedALS\"\?"),
        ("{module}:DampedALS", "{module}:jax", "kind", "is no solver: it must be a frozen dataclass"),
        ("{module}:DampedALS", "{module}:", "kind", "must be a module and a class in it, such as"),
        ("{module}:DampedALS", "damped", "kind", r'must be one of "als", .*"module:Class", not "damped"'),
        ("share = 0.9", "shares = 0.9", "shares", r"Did you mean \"share\"\? Known here: kind, name, rank"),
        ("share = 0.9", 'share = "0.9"', "share", 'must be a number, not "0.9"'),
        ("share = 0.9", "share = true", "share", "must be a number, not true"),
        ("share = 0.9", "share = nan", "share", "must be a finite number"),
        ("share = 0.9", "share = 1\nstages = 2.5", "stages", "must be an integer, not 2.5"),
        ("share = 0.9", 'share = 1\nway = "up"', "way", 'must be "down", not "up"'),
        ("rank = 2\nshare", 'rank = "2"\nshare', "rank", 'must be an integer, not "2"'),
        ("rank = 2\nshare", "share", "rank", "is missing"),
        ("share = 0.9\n", "", "share", "is missing: DampedALS needs it"),
        ("share = 0.9", "share = 2", "kind", r"is refused by DampedALS: share is 2\.0"),
    ],
)
def test_what_a_config_cannot_say_of_it(tmp_path, old, new, key, said):
    module = "asks"
    strict = SOURCE.replace("share: float = 0.5", "share: float").replace(
        "    monotone = True",
        '    stages: int = dataclasses.field(default=1, metadata={"static": True})\n'
        '    way: Literal["down"] = dataclasses.field(default="down", metadata={"static": True})\n\n'
        "    def __post_init__(self):\n        if isinstance(self.share, float) and self.share > 1:\n"
        '            raise ValueError(f"share is {self.share}")\n\n    monotone = True',
    )
    assert old in OWN and strict.count("\n") > SOURCE.count("\n") + 5
    table = OWN.replace(old, new).format(module=module)
    config = write_experiment(tmp_path, ("[fit]", f"{table}\n[fit]"))
    (tmp_path / f"{module}.py").write_text(f"from typing import Literal\n{strict}", encoding="utf-8")
    lines = config.read_text().splitlines()
    first = len(lines) - lines[::-1].index("[[solver]]")  # the line of its table
    line = next((at for at, text in enumerate(lines[first:], first + 1) if text.startswith(f"{key} =")), first)
    forget(module)
    try:
        with pytest.raises(ConfigError, match=rf"\n  line {line}, solver\[1\]\.{key}: .*{said}"):
            configs.load(config)
    finally:
        forget(module)


@pytest.mark.parametrize(
    "axis, said",
    [
        ('"solver.DampedALS.share" = [0.5, "a"]', r'share = "a" cannot be used: solver\[1\]\.share: must be a number'),
        ('"solver.*.shares" = [0.5]', r"shares = 0\.5 cannot be used: solver\[0\]\.shares: is not known"),
        ('"solver.DampedALS.shares" = [0.5]', r"solver\[1\]\.shares: is not known\. Did you mean \"share\"\?"),
    ],
)
def test_an_axis_of_its_numbers_is_checked(tmp_path, axis, said):
    config = experiment(tmp_path, "walks", ("sweeps = 3", f"sweeps = 3\n\n[grid]\n{axis}"))
    with pytest.raises(ConfigError, match=rf"line \d+, grid.*{said}"):
        configs.load(config)
    forget("walks")


def test_a_module_that_fails_is_told_of(tmp_path):
    (tmp_path / "fails.py").write_text("import math\nmath.no_such_thing\n")
    config = write_experiment(tmp_path, ("[fit]", f"{OWN.format(module='fails')}\n[fit]"))
    before = list(sys.path)
    with pytest.raises(ConfigError, match=r'"fails", which fails when it is imported: AttributeError: module \'math\''):
        configs.load(config)
    assert sys.path == before


def test_an_unregistered_solver_is_refused(tmp_path):
    registered = "@jax.tree_util.register_dataclass\n"
    assert registered in SOURCE
    (tmp_path / "bare.py").write_text(SOURCE.replace(registered, ""), encoding="utf-8")
    config = write_experiment(tmp_path, ("[fit]", f"{OWN.format(module='bare')}\n[fit]"))
    with pytest.raises(ConfigError, match=r"is refused by DampedALS: solver is of type DampedALS, no pytree"):
        configs.load(config)
    forget("bare")
