"""Experiments of many fits: what a run's record holds, whatever stops it, and what another config takes over."""

import dataclasses
import itertools
import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import jals
from jals import experiment
from jals.app.run import fit_group, session
from jals.files.runs import folder
from tests.support import reference
from tests.support.commands import jals_command, write_experiment
from tests.support.records import read_run as recorded

SGD = """
[[solver]]
kind = "gradient"
name = "sgd"
rank = 2
optimizer = "sgd"
hyper = { learning_rate = 0.01 }
"""
SEGMENTED = ("[objective]", '[problem]\nlayout = "segmented"\n\n[objective]')  # compiles quickest
FOLDS = ('kind = "random"\ntest_fraction = 0.2', 'kind = "kfold"\nfolds = 2\nvalidation_fraction = 0.2')
TUNED = """
[grid]
"objective.reg" = [0.1, 0.5]

[tune]
trials = 3
seed = 2

[tune.range]
"solver.sgd.hyper.learning_rate" = [1e-4, 10.0]
"""
CHANGES = (SEGMENTED, FOLDS, ("sweeps = 3", f"sweeps = 12\nseeds = [0, 1]\n{SGD}{TUNED}"))
TIMED = ("seeds = [0, 1]", "seeds = [0, 1]\ntimed = true")


@pytest.fixture(scope="module", autouse=True)
def _small_programs():
    """Four fits at a time, so that programs have several chunks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_group, "_MOST", 4)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a finished run of two solvers, two points, two seeds and two folds, one of the solvers tuned."""
    place = tmp_path_factory.mktemp("whole")
    done = jals_command("run", write_experiment(place, *CHANGES), "--out", place / "run")
    assert done.exit_code == 0, done.output
    return place / "run"


@pytest.fixture
def copy(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "copy"))


@pytest.fixture
def changes(whole, tmp_path):
    """The changes to the config that make it that run's own, in a test's folder."""
    return *CHANGES, (f"{tmp_path}/table", f"{whole.parent}/table")


@pytest.fixture
def undrawn(monkeypatch):
    """Runs that draw nothing, which takes as long as all else."""
    monkeypatch.setattr(session.Session, "draw", lambda self: (self.place / folder.PAGE).write_text("drawn"))


def run(place: Path, *changes: tuple[str, str], out: Path | None = None, more: tuple = ()) -> dict:
    """The record of a run that has to end well."""
    done = jals_command("run", write_experiment(place, *changes), "--out", out or place / "run", *more)
    assert done.exit_code == 0, done.output
    return recorded(out or place / "run")


def named(fit: dict) -> tuple:
    return fit["solver"], json.dumps(fit["point"]), fit["fold"], fit["seed"], fit["trial"]


def ratings() -> jals.Ratings:
    """The table as `write_experiment` makes it."""
    pairs = np.random.default_rng(0).permutation(12 * 8)[:70]
    return jals.Ratings.from_arrays(*np.divmod(pairs, 8), (1.0 + pairs % 5).astype(np.float32))


def parts(fold: int) -> tuple[jals.Ratings, jals.Ratings, jals.Ratings]:
    """(training, validation, test) of a fold."""
    train, test = list(jals.split.kfold(ratings(), 2, seed=0))[fold]
    return (*jals.split.random(train, 0.2, seed=0), test)


# ---- one run of everything ----


def test_a_line_for_each_trial_and_fit(whole):
    record = recorded(whole)
    lines = (whole / "fits.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in lines] == [fit["key"] for fit in record["fits"]]
    names = {named(fit) for fit in record["fits"]}
    points = [json.dumps({"objective.reg": reg}) for reg in (0.1, 0.5)]
    counted = set(itertools.product(("als", "sgd"), points, (0, 1), (0, 1), (None,)))
    trials = set(itertools.product(("sgd",), points, (0, 1), (0,), (0, 1, 2)))
    assert names == counted | trials
    assert len(lines) == 16 + 12
    assert len({fit["key"] for fit in record["fits"]}) == 28
    assert record["status"] == "finished"


def test_a_trial_never_sees_the_test_part_and_keeps_no_factors(whole):
    for fit in recorded(whole)["fits"]:
        assert set(fit["tuned"]) == ({"hyper.learning_rate"} if fit["solver"] == "sgd" else set())
        if fit["trial"] is None:
            assert set(fit["metrics"]) == {"train", "validation", "test"}
            assert fit["certificate"]["passed"]
            assert (whole / fit["factors"]).exists()
        else:
            assert set(fit["metrics"]) == (set() if fit["error"] else {"train", "validation"})
            assert "certificate" not in fit
            assert fit["factors"] is None
    factors = {fit["factors"] for fit in recorded(whole)["fits"]} - {None}
    assert {f"factors/{path.name}" for path in (whole / "factors").iterdir()} == factors
    assert len(factors) == 16


def test_a_trial_that_diverges_is_recorded_and_the_rest_goes_on(whole):
    for study in ((reg, fold) for reg in (0.1, 0.5) for fold in (0, 1)):
        trials = [
            fit
            for fit in recorded(whole)["fits"]
            if fit["trial"] is not None and (fit["point"]["objective.reg"], fit["fold"]) == study
        ]
        (wrong,) = [fit for fit in trials if fit["error"] is not None]
        assert wrong["tuned"]["hyper.learning_rate"] == max(fit["tuned"]["hyper.learning_rate"] for fit in trials)
        assert wrong["reason"] == "diverged"
        assert wrong["error"]["sweep"] == len(wrong["history"]["sweep"]) == wrong["sweeps"] + 1
        assert f"sweep {wrong['error']['sweep']}: the " in wrong["error"]["message"]
        assert np.isfinite(wrong["history"]["loss"]).all()
        assert all(fit["history"]["sweep"] == list(range(13)) for fit in trials if fit is not wrong)


def test_the_fits_use_the_trial_that_validates_best(whole):
    fits = recorded(whole)["fits"]
    chosen = set()
    for fit in fits:
        if (fit["solver"], fit["trial"]) == ("sgd", None):
            trials = [each for each in fits if each["trial"] is not None and named(each)[:3] == named(fit)[:3]]
            ended = [each for each in trials if each["error"] is None]
            best = min(ended, key=lambda each: each["metrics"]["validation"]["rmse"])
            assert fit["tuned"] == best["tuned"]
            chosen.add(best["trial"])
            if fit["seed"] == 0:  # the seed of the trials: the same fit
                assert fit["history"]["loss"] == best["history"]["loss"]
    assert len(chosen) > 1  # else any trial would do


def test_programs_say_which_fits_ran_together(whole):
    record = recorded(whole)
    programs = record["programs"]
    assert [(each["solver"], each["fits"], each["chunks"]) for each in programs] == [
        *(("sgd", 12, [4, 4, 4]), ("als", 8, [4, 4]), ("sgd", 8, [4, 4]))
    ]
    for place, program in enumerate(programs):
        members = [fit for fit in record["fits"] if fit["program"] == place]
        assert len(members) == program["fits"]
        assert {fit["solver"] for fit in members} == {program["solver"]}
        assert len({fit["trial"] is None for fit in members}) == 1
        assert program["loop"] == ("map" if jax.default_backend() == "cpu" else "vmap")
        assert "what a stop may cost" in program["why"]
    assert all("seconds" not in fit["history"] for fit in record["fits"])


@pytest.mark.parametrize("fold", [0, 1])
def test_loss_and_metrics_are_those_of_numpy_on_the_stored_factors(whole, fold):
    train, validation, test = parts(fold)
    for fit in recorded(whole)["fits"]:
        if fit["fold"] != fold or fit["trial"] is not None:
            continue
        factors = jals.load(whole / fit["factors"]).factors
        X, Y, bu, bi = (
            np.asarray(each, float) for each in (factors.user, factors.item, factors.user_bias, factors.item_bias)
        )
        mean = float(np.asarray(factors.mean))
        assert mean == pytest.approx(train.value.mean(), rel=1e-6)
        reg = fit["point"]["objective.reg"]
        setting = reference.Setting("als_wr", np.full(12, reg), np.full(8, reg), reg_power=1.0, bias=True, center=True)
        table = reference.Table(train.user, train.item, train.value.astype(float), np.ones(len(train)), 12, 8)
        loss = reference.loss(table, setting, X, Y, bu, bi, mean)
        assert fit["history"]["loss"][-1] == pytest.approx(loss, rel=1e-5)
        for name, part in (("train", train), ("validation", validation), ("test", test)):
            score = mean + bu[part.user] + bi[part.item] + (X[part.user] * Y[part.item]).sum(axis=1)
            error = score - part.value
            assert fit["metrics"][name]["rmse"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-5)
            assert fit["metrics"][name]["mae"] == pytest.approx(np.abs(error).mean(), rel=1e-5)
        assert fit["history"]["validation"][-1] == pytest.approx(fit["metrics"]["validation"]["rmse"], rel=1e-5)


def test_fits_of_one_program_are_those_made_one_by_one(whole, tmp_path, undrawn):
    singles = run(tmp_path, *CHANGES, TIMED)
    together = {named(fit): fit for fit in recorded(whole)["fits"]}
    assert {named(fit) for fit in singles["fits"]} == set(together)
    for fit in singles["fits"]:
        other = together[named(fit)]
        for name in ("point", "tuned", "reason", "sweeps", "rank", "converged"):
            assert fit[name] == other[name], name
        assert (fit["error"] is None) == (other["error"] is None)
        if fit["error"] is None:
            for name in ("sweep", "passes", "operations"):
                assert fit["history"][name] == other["history"][name]
            for name in ("loss", "validation"):
                np.testing.assert_allclose(fit["history"][name], other["history"][name], rtol=2e-4)
        if fit["trial"] is None:
            np.testing.assert_allclose(fit["metrics"]["test"]["rmse"], other["metrics"]["test"]["rmse"], rtol=2e-4)
            assert 0.0 == fit["history"]["seconds"][0] < fit["history"]["seconds"][-1]
            assert singles["programs"][fit["program"]]["loop"] == "one by one"
        else:
            assert "seconds" not in fit["history"]
    assert all("seconds are kept" in each["why"] for each in singles["programs"] if each["loop"] == "one by one")


def test_page_and_report_are_there_and_certify_agrees(whole):
    assert (whole / "index.html").stat().st_size > 10_000
    assert "sgd" in (whole / "report" / "report.md").read_text()
    assert (whole / "report" / "index.html").exists()
    done = jals_command("certify", whole)
    assert done.exit_code == 0, done.output
    assert "certificate passed" in done.output


def test_page_and_recommendations_are_of_the_best_by_validation(whole):
    """The lowest mean over folds and seeds, and of the first fold the lower seed, found again by plain loops."""
    found: dict[tuple, dict[tuple, float]] = {}
    for fit in recorded(whole)["fits"]:
        if fit["trial"] is None:
            own = found.setdefault((fit["solver"], fit["point"]["objective.reg"]), {})
            own[fit["fold"], fit["seed"]] = fit["metrics"]["validation"]["rmse"]
    solver, reg = min(found, key=lambda name: sum(found[name].values()))
    seed = min((0, 1), key=lambda seed: found[solver, reg][0, seed])
    page = (whole / "index.html").read_text()
    assert f"<strong>{solver}/0 reg={reg} seed {seed}</strong> is the best" in page
    head = page.partition("<tbody>")[2].partition("</tbody>")[0]
    assert re.findall(r"<td>(\w+) <small>mean of 2 folds", head)[0] == solver
    assert f"{solver}/1 <small>reg={reg} seed {seed}</small>" in head
    done = jals_command("recommend", whole, "--user", "110", "-k", "2")
    assert done.exit_code == 0, done.output
    assert done.output.startswith(f"{solver} reg={reg} fold 0 of 2 seed {seed} (factors/{solver}-")
    assert f"lowest mean validation RMSE, {sum(found[solver, reg].values()) / 4:.4f}, of 16 fits" in done.output
    last = recorded(whole)["fits"][-1]
    done = jals_command("recommend", whole, "--user", "110", "--fit", last["key"][:6])
    assert f"({last['factors']}): as --fit asks" in done.output


def test_the_same_command_again_fits_nothing(copy, monkeypatch):
    for name in ("fit", "fit_many"):
        monkeypatch.setattr(jals, name, lambda *_, **__: pytest.fail("fitted again"))
    before = {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()}
    done = jals_command("run", copy / "config.toml", "--out", copy)
    assert done.exit_code == 0, done.output
    assert "It is finished" in done.output
    assert before == {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()}


def test_the_run_as_data_frames(whole):
    pytest.importorskip("polars", reason='runs are loaded by the extra "tables"')
    loaded, record = experiment.load(whole), recorded(whole)
    rows = {row["key"]: row for row in loaded.fits.to_dicts()}
    assert set(rows) == {fit["key"] for fit in record["fits"]}
    for fit in record["fits"]:
        row = rows[fit["key"]]
        for name in ("solver", "fold", "seed", "trial", "reason", "sweeps", "program"):
            assert row[name] == fit[name]
        assert row["objective.reg"] == fit["point"]["objective.reg"]
        assert row["tuned.hyper.learning_rate"] == fit["tuned"].get("hyper.learning_rate")
        assert row["loss"] == fit["history"]["loss"][-1]
        assert row["seconds"] is None
        assert row["test_rmse"] == fit["metrics"].get("test", {}).get("rmse")
        assert row["certificate_passed"] == fit.get("certificate", {}).get("passed")
        assert row["error_sweep"] == (fit["error"] or {}).get("sweep")
        own = loaded.sweeps.filter(loaded.sweeps["key"] == fit["key"])
        assert own["loss"].to_list() == fit["history"]["loss"]
        assert own["operations"].to_list() == fit["history"]["operations"]


def test_fits_of_a_program_that_was_interrupted_begin_anew(tmp_path, undrawn):
    """The user is told so, and how far they were; nothing of them is in the record."""
    fit_many = jals.fit_many

    def press(at):
        if at[0].sweep == 2:
            raise KeyboardInterrupt

    def stopped(*arguments, callbacks, **options):
        return fit_many(*arguments, callbacks=[*callbacks, press], **options)

    config = write_experiment(tmp_path, ("sweeps = 3", "sweeps = 3\nseeds = [0, 1]"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jals, "fit_many", stopped)
        done = jals_command("run", config, "--out", tmp_path / "run")
    assert done.exit_code == 130, done.output
    said = "interrupted after 2 of 3 sweeps, with 2 of 2 fits under way; fits in one program begin anew."
    assert said in " ".join(done.output.split())
    assert recorded(tmp_path / "run")["fits"] == []


# ---- killed ----


class Killed(BaseException):
    """What no code catches, as none catches SIGKILL."""


def torn_line(place: Path, fits: list[dict], append=folder.append) -> None:
    append(place, fits)
    with (place / folder.FITS).open("rb+") as file:
        file.truncate((place / folder.FITS).stat().st_size - 25)


def half_file(path: Path, content: bytes = b"half of it", *_, **__) -> None:
    path.with_name(f".jals-{path.name}.part").write_bytes(content[: len(content) // 2])


SEAMS = [  # of a run with the world outside, and how each is left where a kill comes in its midst
    (folder, "append", torn_line),
    (folder, "write", half_file),
    (folder, "forget_earlier", None),
    (jals, "save", lambda path, *_, **__: half_file(path)),
    (jals, "fit_many", None),
]


def drawn(rng: np.random.Generator, most: int) -> tuple[int, int]:
    """(at which call of a seam to kill, whether 0 before it, 1 in its midst, or 2 after it)."""
    return int(rng.integers(1, most)), int(rng.integers(3))


def killed_run(config: Path, place: Path, left: int, moment: int, *more: str) -> bool:
    """Whether the command was killed, as `drawn` says."""

    def seam(function, torn):
        def called(*arguments, **options):
            nonlocal left
            left -= 1
            if left:
                return function(*arguments, **options)
            if moment == 1 and torn is not None:
                torn(*arguments, **options)
            elif moment == 2:
                function(*arguments, **options)
            raise Killed

        return called

    with pytest.MonkeyPatch.context() as patch:
        for owner, name, torn in SEAMS:
            patch.setattr(owner, name, seam(getattr(owner, name), torn))
        try:
            jals_command("run", config, "--out", place, *more)
        except Killed:
            return True
    return False


def lines(record: dict) -> list[dict]:
    """All that a record says of its fits, but what the clock told."""
    return [{name: value for name, value in fit.items() if name != "compile_seconds"} for fit in record["fits"]]


def check_same(place: Path, undisturbed: Path) -> None:
    one, other = recorded(place), recorded(undisturbed)
    assert one["status"] == "finished"
    assert lines(one) == lines(other)
    for a, b in zip(one["programs"], other["programs"], strict=True):
        assert {**a, "compile_seconds": 0, "seconds": 0} == {**b, "compile_seconds": 0, "seconds": 0}
    for fit in one["fits"]:
        if fit["factors"]:
            jax.tree.map(
                np.testing.assert_array_equal, *(jals.load(at / fit["factors"]).factors for at in (place, undisturbed))
            )
    assert {path.name for path in (place / "factors").glob("*.npz")} == {
        path.name for path in (undisturbed / "factors").glob("*.npz")
    }


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_ten_times_a_run_ends_as_if_undisturbed(whole, tmp_path, changes, undrawn, seed):
    config, rng = write_experiment(tmp_path, *changes), np.random.default_rng(seed)
    for _ in range(10):
        assert killed_run(config, tmp_path / "run", *drawn(rng, 9))
        if (tmp_path / "run" / "result.json").exists():
            for fit in recorded(tmp_path / "run")["fits"]:
                assert fit["factors"] is None or jals.load(tmp_path / "run" / fit["factors"]).factors.rank == 2
    assert 0 < len(recorded(tmp_path / "run")["fits"]) < 28
    run(tmp_path, *changes)
    check_same(tmp_path / "run", whole)
    assert jals_command("certify", tmp_path / "run").exit_code == 0


def test_a_sampler_that_learns_goes_on_where_it_was_killed(tmp_path, undrawn):
    pytest.importorskip("optuna", reason='needs the extra "optuna"')
    learning = *CHANGES, ("trials = 3\nseed = 2", 'trials = 4\nsampler = "optuna"')
    whole = run(tmp_path, *learning)
    rng = np.random.default_rng(0)
    for _ in range(4):
        assert killed_run(tmp_path / "experiment.toml", tmp_path / "again", *drawn(rng, 9))
    assert lines(run(tmp_path, *learning, out=tmp_path / "again")) == lines(whole)
    assert len({fit["tuned"]["hyper.learning_rate"] for fit in whole["fits"] if fit["trial"] is not None}) == 4


# ---- tables and trials that are unusual ----


def test_axes_of_data_and_dtype_read_each_table_as_its_point_says(tmp_path, undrawn):
    """Of each pair that stands twice: the last value, or the mean of both."""
    axes = '[grid]\n"data.duplicates" = ["last", "mean"]\n"fit.dtype" = ["float32", "float64"]'
    config = write_experiment(tmp_path, SEGMENTED, ("sweeps = 3", f"sweeps = 1\n{axes}"))
    columns = dict(np.load(tmp_path / "table.npz"))
    user, item = (np.tile(columns[name], 2) for name in ("user", "item"))
    np.savez(tmp_path / "table.npz", user=user, item=item, rating=np.append(columns["rating"], np.full(70, 3.0)))
    for _ in range(2):  # and once more, as found
        done = jals_command("run", config, "--out", tmp_path / "run")
        assert done.exit_code == 0, done.output
    record = recorded(tmp_path / "run")
    assert sorted((each["reading"]["duplicates"], each["dtype"]) for each in record["data"]) == [
        *(("last", "float32"), ("last", "float64"), ("mean", "float32"), ("mean", "float64"))
    ]
    for fit in record["fits"]:
        assert (fit["certificate"]["bound"] < 1e-10) == (fit["point"]["fit.dtype"] == "float64")
        saved = jals.load(tmp_path / "run" / fit["factors"]).factors
        assert saved.user.dtype == fit["point"]["fit.dtype"]
        assert (saved.mean == 3.0) == (fit["point"]["data.duplicates"] == "last")
    assert jals_command("certify", tmp_path / "run").exit_code == 0


def test_of_trials_that_all_break_down_the_longest_lived_is_taken(tmp_path, undrawn):
    config = write_experiment(tmp_path, *CHANGES, ("[1e-4, 10.0]", "[0.3, 30.0]"))
    done = jals_command("run", config, "--out", tmp_path / "run")
    assert done.exit_code == 1, done.output
    assert "broke down at sweep" in done.output
    fits = recorded(tmp_path / "run")["fits"]
    for fit in fits:
        if fit["solver"] == "als":
            assert fit["certificate"]["passed"]
        elif fit["trial"] is None:
            assert fit["reason"] == "diverged"
            assert "certificate" not in fit
            trials = [each for each in fits if each["trial"] is not None and named(each)[:3] == named(fit)[:3]]
            longest = max(trials, key=lambda each: (each["sweeps"], -each["trial"]))
            assert fit["tuned"] == longest["tuned"] != trials[0]["tuned"]


# ---- --extend ----

MORE = ("[0.1, 0.5]", "[0.1, 0.9, 0.5]")  # in the middle, where a chunk of fours would hold old fits and new
FEWER = ("[0.1, 0.5]", "[0.5]")


@pytest.fixture
def fitted(monkeypatch):
    """The lambdas of the fits that are made."""
    regs, fit, fit_many = [], jals.fit, jals.fit_many

    def one(solver, problem, objective, **options):
        regs.append(float(objective.reg_user))
        return fit(solver, problem, objective, **options)

    def many(solvers, problem, objectives, **options):
        regs.extend(float(objective.reg_user) for objective in objectives)
        return fit_many(solvers, problem, objectives, **options)

    monkeypatch.setattr(jals, "fit", one)
    monkeypatch.setattr(jals, "fit_many", many)
    return regs


def test_extend_makes_only_what_is_new_and_drops_what_nobody_asks_for(copy, whole, tmp_path, changes, undrawn, fitted):
    before = {named(fit): fit for fit in recorded(whole)["fits"]}
    config = write_experiment(tmp_path, *changes, MORE)
    refused = jals_command("run", config, "--out", copy)
    assert refused.exit_code == 2
    assert "grid.objective.reg: [0.1, 0.5] there, [0.1, 0.9, 0.5] here" in refused.output
    assert "--extend" in refused.output
    assert lines(recorded(copy)) == lines(recorded(whole))

    extended = run(tmp_path, *changes, MORE, out=copy, more=("--extend",))
    assert set(fitted) == {0.9}
    assert len(fitted) == len(extended["fits"]) - 28 == 14
    for fit in extended["fits"]:
        if fit["point"]["objective.reg"] != 0.9:
            assert {**fit, "program": 0} == {**before[named(fit)], "program": 0}
            assert fit["program"] is None  # none of this run's
    assert jals_command("certify", copy).exit_code == 0

    shrunk = run(tmp_path, *changes, FEWER, out=copy, more=("--extend",))
    assert len(fitted) == 14
    assert {fit["point"]["objective.reg"] for fit in shrunk["fits"]} == {0.5}
    assert len(shrunk["fits"]) == 14
    kept = {fit["factors"] for fit in shrunk["fits"]} - {None}
    assert {f"factors/{path.name}" for path in (copy / "factors").iterdir()} == kept
    assert not (copy / "earlier.jsonl").exists()
    assert (copy / "config.toml").read_text().count("[0.5]") == 1
    assert jals_command("certify", copy).exit_code == 0


def test_extend_takes_nothing_over_that_another_number_made(copy, tmp_path, changes, undrawn, fitted):
    stale = {path.name: path.read_bytes() for path in (copy / "factors").iterdir()}
    again = run(tmp_path, *changes, ("sweeps = 12", "sweeps = 2"), out=copy, more=("--extend",))
    assert len(fitted) == len(again["fits"]) == 28
    assert all(len(fit["history"]["sweep"]) <= 3 for fit in again["fits"])
    assert not stale.keys() & {path.name for path in (copy / "factors").iterdir()}


@pytest.mark.parametrize("seed", [0, 1])
def test_an_extension_that_is_killed_goes_on(copy, tmp_path, changes, undrawn, fitted, seed):
    """By the same command; no earlier fit is made again, and what ran together stays together."""
    config, rng = write_experiment(tmp_path, *changes, MORE), np.random.default_rng(seed)
    kills = 0
    while killed_run(config, copy, *drawn(rng, 12), "--extend"):
        kills += 1
        recorded(copy)  # can be read at any moment
    assert kills > 1
    assert set(fitted) == {0.9}
    record = recorded(copy)
    assert (record["status"], len(record["fits"])) == ("finished", 28 + 14)
    assert [each["fits"] for each in record["programs"]] == [6, 4, 4]
    assert jals_command("certify", copy).exit_code == 0


@pytest.mark.parametrize("at", range(1, 7))
def test_an_extension_killed_at_its_start_costs_nothing(copy, whole, tmp_path, changes, undrawn, fitted, at):
    """The first seams of an extension; then the run's own config again, as if nobody had asked for more."""
    assert killed_run(write_experiment(tmp_path, *changes, MORE), copy, at, 2, "--extend")
    fitted.clear()
    record = recorded(copy)
    assert record["status"] == "running" or len(record["fits"]) == 28
    begun = record["config"]["grid"]["objective.reg"] != [0.1, 0.5]
    run(tmp_path, *changes, out=copy, more=("--extend",) if begun else ())
    assert fitted == []
    assert {named(fit) for fit in recorded(copy)["fits"]} == {named(fit) for fit in recorded(whole)["fits"]}
    assert jals_command("certify", copy).exit_code == 0


# ---- other methods of tuning ----

SIDES = ("objective.reg_user", "objective.reg_item")
METHOD = """
[tune]
method = "METHOD"
trials = 4

[tune.range]
"objective.reg_user" = [0.02, 2.0]
"objective.reg_item" = [0.05, 3.0]
"""
SIDED = (SEGMENTED, FOLDS, ("reg = 0.1", "reg_user = 0.1\nreg_item = 0.1"), ("sweeps = 3", f"seeds = [0, 1]\n{METHOD}"))
GRID, DESCENT = (*SIDED, ("METHOD", "grid")), (*SIDED, ("METHOD", "hypergradient"))
TALL = ("trials = 4", "trials = 5")


@pytest.fixture(scope="module")
def descents(tmp_path_factory):
    """The folder of a run with a descent of five steps on each of two folds, and two fits after each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session.Session, "draw", lambda self: (self.place / folder.PAGE).write_text("drawn"))
        place = tmp_path_factory.mktemp("descents")
        run(place, *DESCENT, TALL)
    return place / "run"


def split(record: dict, fold: int) -> tuple[list[dict], list[dict]]:
    """(trials, fits) of a fold."""
    its = [fit for fit in record["fits"] if fit["fold"] == fold]
    return [fit for fit in its if fit["trial"] is not None], [fit for fit in its if fit["trial"] is None]


def in_table(place: Path) -> list[list[str]]:
    """The rows of the report's table of what tuning took."""
    assert jals_command("report", place).exit_code == 0
    rows = [line.strip("| ").split(" | ") for line in (place / "report" / "report.md").read_text().splitlines()]
    first = next(number for number, row in enumerate(rows) if "method" in row) + 2
    return list(itertools.takewhile(lambda row: len(row) > 1, rows[first:]))


def test_a_grid_tries_its_corners_and_takes_the_best(tmp_path, undrawn):
    record = run(tmp_path, *GRID)
    shown = in_table(tmp_path / "run")
    for fold in (0, 1):
        trials, fits = split(record, fold)
        tried = [tuple(fit["tuned"][key] for key in SIDES) for fit in trials]
        assert sorted(tried) == sorted(itertools.product((0.02, 2.0), (0.05, 3.0)))
        best = min(trials, key=lambda fit: fit["metrics"]["validation"]["rmse"])
        assert [fit["tuned"] for fit in fits] == [best["tuned"]] * 2
        assert fits[0]["history"]["loss"][-1] == pytest.approx(best["history"]["loss"][-1], rel=1e-5)
        assert shown[fold][:2] == ["als", str(fold)]
        assert shown[fold][2:5] == ["grid", "4 trials", str(4 * 15 * 2)]  # of 15 sweeps of 2 passes
        assert float(shown[fold][5]) == pytest.approx(best["metrics"]["validation"]["rmse"], rel=1e-3)


def test_the_steps_of_a_descent_and_their_passes_are_kept(descents):
    record = recorded(descents)
    assert len(record["fits"]) == 2 * (1 + 2)
    for fold in (0, 1):
        (trial,), fits = split(record, fold)
        numbers, validation = trial["descent"]["numbers"], trial["history"]["validation"]
        assert (trial["reason"], trial["error"], trial["factors"], trial["trial"]) == ("steps", None, None, 0)
        # ten sweeps of two passes first; a step is two sweeps, and a tangent costs two passes for each of theirs
        assert trial["history"]["passes"] == [0, *(20 + 12 * step for step in range(1, 6))]
        assert trial["history"]["sweep"] == [0, *(10 + 2 * step for step in range(1, 6))]
        assert validation[0] is None and len(numbers) == trial["descent"]["steps"] == 5
        best = int(np.argmin(validation[1:]))
        assert trial["descent"]["best"] == best + 1 and trial["sweeps"] == 10 + 2 * (best + 1)
        assert trial["metrics"].keys() == {"train", "validation"}
        assert trial["metrics"]["validation"]["rmse"] == pytest.approx(validation[1 + best], rel=1e-5)
        assert [fit["tuned"] for fit in fits] == [numbers[best]] * 2
        assert trial["tuned"] == numbers[best] != numbers[0]
        for key, (low, high) in zip(SIDES, ([0.02, 2.0], [0.05, 3.0]), strict=True):
            assert numbers[0][key] == pytest.approx(np.sqrt(low * high), rel=1e-5)  # the geometric middle
            assert all(low * (1 - 1e-6) <= each[key] <= high * (1 + 1e-6) for each in numbers)
        assert record["programs"][trial["program"]]["why"] == "a descent goes by itself"
    assert jals_command("certify", descents).exit_code == 0


@pytest.mark.filterwarnings("ignore:.*validation entries are of a user or an item without")
def test_a_descent_of_a_run_is_that_of_tune(descents):
    jax.config.update("jax_enable_x64", False)  # as the run did: nothing is compiled again
    whole, (train, validation, _) = ratings(), parts(1)
    pair, of_train = (8 * part.user + part.item for part in (whole, train))
    middle = jals.als_wr(reg_user=0.2, reg_item=0.15**0.5, bias=True, center=True)
    box = {"reg_user": (0.02, 2.0), "reg_item": (0.05, 3.0)}
    problem = jals.Problem.build(whole, layout="segmented")
    problem = problem.with_values(whole.value, weight=np.isin(pair, of_train).astype(np.float32))
    found = jals.tune(problem, validation, middle, jals.ALS(rank=2), over=tuple(box), box=box, steps=5)
    (trial,), _ = split(recorded(descents), 1)
    np.testing.assert_allclose(trial["history"]["validation"][1:], found.history.rmse, rtol=1e-4)
    assert trial["history"]["passes"][1:] == found.history.passes
    assert trial["descent"]["unseen"] == found.unseen
    for made, expected in zip(trial["descent"]["numbers"], found.history.numbers, strict=True):
        assert made == pytest.approx({f"objective.{name}": number for name, number in expected.items()}, rel=1e-3)


def test_the_report_shows_what_a_descent_took(descents, tmp_path):
    place = Path(shutil.copytree(descents, tmp_path / "run"))
    shown = in_table(place)
    for fold in (0, 1):
        (trial,), _ = split(recorded(descents), fold)
        assert shown[fold][:5] == ["als", str(fold), "hypergradient", "5 steps", "80"]
        assert float(shown[fold][5]) == pytest.approx(min(trial["history"]["validation"][1:]), rel=1e-3)
        errors = [fit["metrics"]["validation"]["rmse"] for fit in split(recorded(descents), fold)[1]]
        assert float(shown[fold][7]) == pytest.approx(np.mean(errors), rel=1e-3)
        for key, number in trial["tuned"].items():
            words = re.search(rf"{key.partition('.')[2]} ([\d.]+)", shown[fold][6])
            assert words is not None and float(words[1]) == pytest.approx(number, rel=1e-2)
    assert "and 2 descents" in (place / "report" / "report.md").read_text()


def interrupting(monkeypatch, at: int, steps: int) -> None:
    """Ctrl-C in the `at`-th descent, after so many of its steps."""
    tune, calls = jals.tune, itertools.count(1)

    def pressed(progress):
        if progress.step == steps:
            raise KeyboardInterrupt

    def stopped(*arguments, callbacks, **options):
        more = [pressed] if next(calls) == at else []
        return tune(*arguments, callbacks=[*callbacks, *more], **options)

    monkeypatch.setattr(jals, "tune", stopped)


@pytest.mark.parametrize("at", [1, 2])
def test_a_descent_that_was_stopped_begins_anew_and_ends_the_same(descents, tmp_path, undrawn, at):
    changes = (*DESCENT, TALL, (f"{tmp_path}/table", f"{descents.parent}/table"))
    config = write_experiment(tmp_path, *changes)
    with pytest.MonkeyPatch.context() as patch:
        interrupting(patch, at, steps=3)
        done = jals_command("run", config, "--out", tmp_path / "run")
    assert done.exit_code == 130, done.output
    assert "interrupted after 3 of 5 steps of a descent, which begins anew." in " ".join(done.output.split())
    assert len(recorded(tmp_path / "run")["fits"]) == at - 1
    again = run(tmp_path, *changes)
    check_same(tmp_path / "run", descents)
    assert again["status"] == "finished"


def test_extend_takes_a_descent_over(descents, tmp_path, undrawn, monkeypatch):
    monkeypatch.setattr(jals, "tune", lambda *_, **__: pytest.fail("tuned again"))
    place = Path(shutil.copytree(descents, tmp_path / "run"))
    changes = (*DESCENT, TALL, (f"{tmp_path}/table", f"{descents.parent}/table"))
    record = run(tmp_path, *changes, ("seeds = [0, 1]", "seeds = [0]"), out=place, more=("--extend",))
    for fold in (0, 1):
        (trial,), fits = split(record, fold)
        assert {**trial, "program": 0} == {**split(recorded(descents), fold)[0][0], "program": 0}
        assert [(fit["seed"], fit["tuned"]) for fit in fits] == [(0, trial["tuned"])]


def test_the_step_that_tune_calls_best_is_taken_and_the_ranges_are_its_box(tmp_path, undrawn, monkeypatch):
    tune, boxes = jals.tune, []

    def early(*arguments, box, **options):
        boxes.append(box)
        return dataclasses.replace(tune(*arguments, box=box, **options), step=2)

    monkeypatch.setattr(jals, "tune", early)
    for fold, record in enumerate([run(tmp_path, *DESCENT)] * 2):
        (trial,), fits = split(record, fold)
        assert [fit["tuned"] for fit in [trial, *fits]] == [trial["descent"]["numbers"][1]] * 3
        assert (trial["descent"]["best"], trial["sweeps"]) == (2, 10 + 2 * 2)
    assert boxes == [{"reg_user": (0.02, 2.0), "reg_item": (0.05, 3.0)}] * 2


def test_of_a_descent_that_breaks_down_the_best_step_is_taken(tmp_path, undrawn, monkeypatch):
    tune = jals.tune

    def broken(*arguments, steps, **options):
        so_far = tune(*arguments, steps=2, **options)
        raise jals.FitError("step 3: its derivative is not finite.", sweep=3, side=None, row=None, result=so_far)

    monkeypatch.setattr(jals, "tune", broken)
    record = run(tmp_path, *DESCENT)
    for fold in (0, 1):
        (trial,), fits = split(record, fold)
        assert (trial["reason"], trial["error"]["sweep"], trial["metrics"]) == ("diverged", 10 + 2 * 3, {})
        assert trial["descent"]["steps"] == 2
        best = int(np.argmin(trial["history"]["validation"][1:]))
        assert [fit["tuned"] for fit in fits] == [trial["descent"]["numbers"][best]] * 2
    assert in_table(tmp_path / "run")[0][2:5] == ["hypergradient", "2 steps of 4", "44"]


def test_a_descent_that_breaks_down_before_its_first_step_leaves_its_start(tmp_path, undrawn, monkeypatch):
    def broken(problem, validation, objective, solver, **_):
        """As where the sweeps before the first step break down."""
        so_far = jals.fit(solver, problem, objective, sweeps=3)
        raise jals.FitError("sweep 4: the loss is inf.", sweep=4, side=None, row=None, result=so_far)

    monkeypatch.setattr(jals, "tune", broken)
    record = run(tmp_path, *DESCENT)
    for fold in (0, 1):
        (trial,), fits = split(record, fold)
        assert (trial["reason"], trial["error"]["sweep"], trial["descent"]) == ("diverged", 4, {"steps": 0})
        assert trial["tuned"] == pytest.approx({SIDES[0]: 0.2, SIDES[1]: 0.15**0.5})
        assert all(fit["tuned"] == trial["tuned"] for fit in fits)
    assert in_table(tmp_path / "run")[0][2:5] == ["hypergradient", "0 steps of 4", "6"]


def test_dry_run_says_how_many_steps_a_descent_has(tmp_path, monkeypatch):
    monkeypatch.setattr(jals, "tune", lambda *_, **__: pytest.fail("tuned"))
    shown = jals_command("run", write_experiment(tmp_path, *DESCENT, TALL), "--dry-run")
    assert shown.exit_code == 0, shown.output
    assert re.search(r"als \(descent of 5 steps\) +2 +80 +\S+ +alone", shown.output)
    assert f"6 fits, at most {2 * 80 + 4 * 30} passes" in shown.output


# ---- budgets ----

ALONE = (SEGMENTED, FOLDS, ("sweeps = 3", f"seeds = [0, 1]\ntimed = true\nBUDGET\n{SGD}"))


def ends(record: dict) -> dict:
    """(why, sweeps, passes) of each solver's fits."""
    found = {}
    for fit in record["fits"]:
        end = fit["reason"], fit["history"]["sweep"][-1], fit["history"]["passes"][-1]
        assert found.setdefault(fit["solver"], end) == end
    return found


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        ("passes = 8", {"als": ("passes", 4, 8), "sgd": ("passes", 4, 8)}),
        ("passes = 9", {"als": ("passes", 4, 8), "sgd": ("passes", 4, 8)}),
        ("passes = 8\nsweeps = 3", {"als": ("sweeps", 3, 6), "sgd": ("sweeps", 3, 6)}),
        ("passes = 8\nloss_every = 3", {"als": ("passes", 4, 8), "sgd": ("passes", 4, 8)}),
        ("seconds = 1e-9", {"als": ("seconds", 1, 2), "sgd": ("seconds", 1, 2)}),  # over at the first record
    ],
)
def test_budgets_and_why_a_fit_ended(tmp_path, undrawn, budget, expected):
    record = run(tmp_path, *ALONE, ("BUDGET", budget))
    assert ends(record) == expected
    for fit in record["fits"]:
        steps = np.diff(fit["history"]["sweep"])
        assert fit["history"]["passes"] == [2 * sweep for sweep in fit["history"]["sweep"]]
        assert (steps[:-1] == (3 if "loss_every" in budget else 1)).all()
        assert (np.diff(fit["history"]["seconds"]) > 0).all()
        assert fit["certificate"]["passed"]
    if "passes" in budget:
        together = run(tmp_path, *ALONE, ("BUDGET", budget), ("timed = true\n", ""), out=tmp_path / "together")
        assert ends(together) == expected
        assert all("seconds" not in fit["history"] for fit in together["fits"])


def test_tol_ends_where_the_loss_settles(tmp_path, undrawn):
    for fit in run(tmp_path, *ALONE, ("BUDGET", "tol = 1e-2"))["fits"]:
        loss = fit["history"]["loss"]
        settled = [abs(now - before) <= 1e-2 * before for before, now in itertools.pairwise(loss)]
        assert (fit["reason"], fit["converged"]) == ("tol", True)
        assert settled == [False] * (len(settled) - 1) + [True]


def test_a_line_search_ends_at_the_first_record_past_its_passes(tmp_path, undrawn):
    solver = SGD.replace('"sgd"', '"lbfgs"').replace("learning_rate = 0.01", "memory_size = 5")
    record = run(tmp_path, SEGMENTED, FOLDS, ("sweeps = 3", f"seeds = [0, 1]\npasses = 30\n{solver}"))
    for fit in record["fits"]:
        passes, why = fit["history"]["passes"], record["programs"][fit["program"]]["why"]
        assert fit["reason"] == "passes"
        assert passes[-2] < 30 <= passes[-1]
        if fit["solver"] == "lbfgs":
            assert len(passes) - 1 < 15  # some of its sweeps looked more than once
            assert why == "its sweeps take as many passes as they need"
        else:
            assert (len(passes) - 1, passes[-1]) == (15, 30)
            assert "all at once" in why


# ---- what a run costs ----


def test_dry_run_counts_fits_and_passes_without_the_data(tmp_path, monkeypatch):
    for name in ("fit", "fit_many"):
        monkeypatch.setattr(jals, name, lambda *_, **__: pytest.fail("fitted"))
    config = write_experiment(tmp_path, *CHANGES)
    shown = jals_command("run", config, "--dry-run", "--out", tmp_path / "run")
    assert shown.exit_code == 0, shown.output
    (tmp_path / "table.npz").unlink()
    monkeypatch.delenv("JALS_DATA", raising=False)  # where it would be looked for
    without = jals_command("run", config, "--dry-run")
    assert without.exit_code == 0, without.output
    assert f"memory is unknown where {tmp_path / 'table.npz'} is the data: " in " ".join(without.output.split())
    assert "JALS_DATA, the folder of local data, is not set" in " ".join(without.output.split())
    assert "memory is unknown" not in shown.output
    for output in (shown.output, without.output):
        assert "28 fits, at most 672 passes" in output  # 28 fits of 12 sweeps of 2 passes
        found = re.finditer(r"^(\S.*?) +(\d+) +(\d+) +\S+ +(.+?) *$", output, re.MULTILINE)
        rows = {match[1]: match.groups()[1:] for match in found}
        expected = {f"als reg={reg}": "4" for reg in (0.1, 0.5)} | {f"sgd reg={reg}": "4" for reg in (0.1, 0.5)}
        expected |= {f"sgd reg={reg} (trial)": "6" for reg in (0.1, 0.5)}
        assert {name: row[0] for name, row in rows.items()} == expected
        assert {row[1:] for row in rows.values()} == {("24", "one program")}
    assert not (tmp_path / "run").exists()


def test_memory_does_not_grow_with_the_number_of_fits(tmp_path, monkeypatch, undrawn):
    """As many arrays are alive after the last of 40 chunks of fits as after the second."""
    alive, chunk = [], session.printing.print_chunk_end

    def counted(*arguments):
        chunk(*arguments)
        alive.append(len(jax.live_arrays()))

    monkeypatch.setattr(session.printing, "print_chunk_end", counted)
    record = run(tmp_path, SEGMENTED, FOLDS, ("sweeps = 3", f"sweeps = 1\nseeds = {list(range(80))}"))
    assert len(record["fits"]) == len({fit["history"]["loss"][-1] for fit in record["fits"]}) == 160
    assert len(alive) == 40
    assert alive[-1] <= alive[1]
