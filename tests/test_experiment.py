"""A run's fits as data frames: every number of the record in its column, and null where there is none."""

import json

import pytest

pytest.importorskip("polars", reason='runs are loaded by the extra "tables"')
pytest.importorskip("pydantic", reason='runs are read by the extra "cli"')

import polars as pl

import jals
from jals import experiment
from tests.support.records import made_run, write_fits


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("run")
    grid = {"objective.reg": [0.05, 0.1], "solver.*.rank": [4, 8]}
    return place, made_run(place, grid=grid, seeds=(0,), diverged=[("sgd", 0)])


def test_a_row_a_fit(run):
    place, record = run
    fits = experiment.load(place).fits
    assert fits["key"].to_list() == [fit["key"] for fit in record["fits"]]
    rows = dict(zip(fits["key"].to_list(), fits.to_dicts(), strict=True))
    for fit in record["fits"]:
        row = rows[fit["key"]]
        for name in ("solver", "kind", "fold", "seed", "trial", "rank", "own_minimiser", "reason", "sweeps", "factors"):
            assert row[name] == fit[name], name
        for axis, value in fit["point"].items():
            assert row[axis] == value
        assert row["tuned.hyper.learning_rate"] == fit["tuned"].get("hyper.learning_rate")
        assert row["loss"] == fit["history"]["loss"][-1]
        assert row["passes"] == fit["history"]["passes"][-1]
        assert row["seconds"] == fit["history"]["seconds"][-1]
        assert row["test_rmse"] == fit["metrics"].get("test", {}).get("rmse")
        assert row["error_sweep"] == (fit["error"] or {}).get("sweep")
        proof = fit["certificate"] or {}
        assert (row["stationarity"], row["certificate_passed"]) == (proof.get("stationarity"), proof.get("passed"))
    assert fits["fold"].dtype == fits["solver.*.rank"].dtype == pl.Int64
    assert fits["objective.reg"].dtype == pl.Float64
    assert fits["own_minimiser"].dtype == pl.Boolean


def test_a_row_a_record_of_the_history(run):
    place, record = run
    sweeps = experiment.load(place).sweeps
    which, history = ("key", "solver", "fold", "seed", "trial"), ("sweep", "loss", "seconds", "passes", "operations")
    assert sweeps.columns == [*which, *history, "validation"]
    for fit in record["fits"][:3]:
        own = sweeps.filter(pl.col("key") == fit["key"])
        for name, column in fit["history"].items():
            assert own[name].to_list() == column
    assert len(sweeps) == sum(len(fit["history"]["sweep"]) for fit in record["fits"])


def test_what_was_not_measured_is_null(tmp_path):
    record = made_run(tmp_path, folds=(None,), timed=False, tuned=())
    fits = record["fits"]
    fits[-1] |= {"reason": "interrupted", "metrics": None, "certificate": None}
    fits[-1]["history"]["loss"][-1] = None
    fits[0]["history"] = {"sweep": [0], "passes": [0]}
    (tmp_path / "result.json").write_text(json.dumps(record | {"status": "interrupted"}))
    write_fits(tmp_path, fits)
    found = experiment.load(tmp_path)
    assert found.fits["seconds"].is_null().all() and found.fits["fold"].is_null().all()
    loss = found.fits["loss"].to_list()
    assert (loss[0], loss[-1]) == (None, fits[-1]["history"]["loss"][-2])
    assert found.fits["test_rmse"].to_list()[-1] is None
    assert found.sweeps["seconds"].is_null().all() and found.sweeps["passes"].is_not_null().all()


def test_loss_is_that_of_the_factors_kept(tmp_path):
    record = made_run(tmp_path, folds=(None,), seeds=(0,), solvers=("adam",), tuned=())
    record["fits"][0]["sweeps"] = 7  # patience kept them
    (tmp_path / "fits.jsonl").write_text(json.dumps(record["fits"][0]) + "\n")
    fits = experiment.load(tmp_path).fits
    assert fits["loss"].item() == record["fits"][0]["history"]["loss"][7]
    assert fits["passes"].item() == record["fits"][0]["history"]["passes"][-1]


def test_axes_that_mix_types_become_text(tmp_path):
    made_run(tmp_path, folds=(None,), seeds=(0,), tuned=(), grid={"fit.b": ["x", 1.5], "fit.d": [1, 1.5]})
    fits = experiment.load(tmp_path).fits
    assert set(fits["fit.b"]) == {"x", "1.5"}
    assert set(fits["fit.d"]) == {1.0, 1.5}


def test_pandas_has_what_polars_has(run):
    """Value by value, nulls included; and columns of kinds that know a missing value."""
    pd = pytest.importorskip("pandas")
    place, _ = run
    ours, theirs = (experiment.load(place, backend=backend) for backend in ("polars", "pandas"))
    for name in ours._fields:
        frame, other = getattr(ours, name), getattr(theirs, name)
        assert isinstance(other, pd.DataFrame) and list(other.columns) == frame.columns
        for column in frame.columns:
            values = [None if pd.isna(each) else each for each in other[column].to_list()]
            assert values == frame[column].to_list(), column
    kinds = {column: str(theirs.fits[column].dtype) for column in ("fold", "own_minimiser", "loss", "solver")}
    assert kinds == {"fold": "Int64", "own_minimiser": "boolean", "loss": "float64", "solver": "string"}
    assert theirs.fits["trial"].isna().any() and ours.fits["trial"].is_null().any()
    assert theirs._repr_html_() == ours._repr_html_() and repr(theirs) == repr(ours)
    with pytest.raises(jals.ArgumentError, match="backend is 'pyarrow'"):
        experiment.load(place, backend="pyarrow")


def test_a_notebook_shows_how_many_fits_of_each_solver(run):
    place, record = run
    found = experiment.load(place)
    text = found._repr_html_()
    for solver in {fit["solver"] for fit in record["fits"]}:
        own = [fit for fit in record["fits"] if fit["solver"] == solver]
        counts = len(own), sum(fit["trial"] is not None for fit in own), sum(fit["error"] is not None for fit in own)
        row = "".join(f'<td style="text-align: left">{cell}</td>' for cell in (solver, *counts))
        assert row in text, solver
    assert repr(found) == f"Loaded(fits {len(found.fits)} x {found.fits.width}, sweeps {len(found.sweeps):,} x 11)"


def test_no_fits_yet_and_no_run(tmp_path):
    made_run(tmp_path, seeds=(), tuned=())
    found = experiment.load(tmp_path)
    assert len(found.fits) == len(found.sweeps) == 0
    assert {"key", "loss", "stationarity"} <= set(found.fits.columns)
    assert {"key", "sweep", "validation"} <= set(found.sweeps.columns)
    with pytest.raises(jals.StorageError, match="not the folder of a"):
        experiment.load(tmp_path / "nowhere")
