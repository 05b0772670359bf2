"""The minimum that losses are measured against: whose it is, what it is of, and where it is kept."""

import json

import jax
import numpy as np
import pytest

import jals
from jals.app.run import reference
from jals.app.show.report import gathering, reaching
from jals.files.runs import folder
from tests.support.commands import SECOND_SOLVER, jals_command, write_experiment


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two solvers and two seeds, with the report that solves for the minimum."""
    place = tmp_path_factory.mktemp("reference")
    seeds = ("sweeps = 3", "sweeps = 12\nseeds = [0, 1]"), ("[[solver]]", f"{SECOND_SOLVER}\n[[solver]]")
    config = write_experiment(place, *seeds)
    assert jals_command("run", config, "--out", place / "run").exit_code == 0
    before = reaching.lowest(gathering.read([place / "run"]))
    done = jals_command("report", place / "run", "--reference")
    assert done.exit_code == 0, done.output
    assert not jax.config.read("jax_enable_x64")  # the run's dtype is float32
    return place / "run", before


def test_the_minimum_is_below_every_curve_and_stationary(finished):
    place, before = finished
    (found,) = folder.read(place).run.references
    comparison = gathering.read([place])
    assert found.reached and found.stationarity <= 1e-6
    (least,) = before.values()
    assert found.loss < least and reaching.lowest(comparison) == {next(iter(before)): found.loss}
    assert reaching.unreferenced(comparison) == []
    curves = [min(fit.record.history.loss) for fit in comparison.fits]
    assert len(curves) == 4 and all(found.loss < each for each in curves)
    lead = min(comparison.fits, key=lambda fit: fit.loss)
    assert found.fit == lead.record.key


def test_the_minimum_is_of_the_fits_own_loss(finished, tmp_path):
    """By plain ALS from the same factors, on a table read apart; in float32, so to a few digits."""
    place, _ = finished
    (found,) = folder.read(place).run.references
    (lead,) = [fit for fit in folder.read(place).fits if fit.key == found.fit]
    saved = jals.load(place / lead.factors)
    ratings, _ = jals.read_ratings(place.parent / "table.npz")
    train, _ = jals.split.random(ratings, 0.2, 0)
    problem, objective = jals.Problem.build(train), jals.als_wr(reg=0.1, bias=True, center=True)
    start = jax.tree.map(np.asarray, saved.factors)
    whole = jals.fit(jals.ALS(rank=2), problem, objective, sweeps=3000, init=start, loss_every=100)
    assert float(whole.history.loss[-1]) == pytest.approx(found.loss, rel=1e-4)


def test_it_is_solved_for_once_and_sealed(finished):
    place, _ = finished
    before = (place / folder.RESULT).read_bytes()
    assert jals_command("report", place, "--reference").exit_code == 0
    assert (place / folder.RESULT).read_bytes() == before
    run = folder.read(place).run
    assert json.loads(before)["references"] and run.status == "finished" and run.seal is not None
    assert jals_command("certify", place).exit_code == 0


def test_the_report_says_whose_the_lowest_loss_is(finished):
    place, _ = finished
    text = (place / "report" / "report.md").read_text(encoding="utf-8")
    assert "L_best is no contestant's" in text and "Above the minimum at the end" in text


def test_a_config_asks_for_it(tmp_path, monkeypatch):
    """And the solve goes on until it is there, however often it looks."""
    monkeypatch.setattr(reference, "BETWEEN", 2)
    config = write_experiment(tmp_path)
    done = jals_command("run", config, "--out", tmp_path / "run", "--set", "output.reference=true")
    assert done.exit_code == 0, done.output
    (found,) = folder.read(tmp_path / "run").run.references
    assert found.reached and found.sweeps > 2


def test_without_factors_there_is_no_start(tmp_path):
    config = write_experiment(tmp_path)
    both = ("--set", "output.factors=false", "--set", "output.reference=true")
    refused = jals_command("config", "check", config, *both)
    assert refused.exit_code == 2 and "output.reference" in refused.output
    assert jals_command("run", config, "--out", tmp_path / "run", *both[:2]).exit_code == 0
    done = jals_command("report", tmp_path / "run", "--reference")
    assert done.exit_code == 0 and "keeps no factors" in done.output
    assert folder.read(tmp_path / "run").run.references == []
