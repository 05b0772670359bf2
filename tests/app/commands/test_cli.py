"""The command line: what it shows and writes, its exit codes, and what it says of bad input."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import jals
from jals import experiment
from jals.app import cli
from tests.support.commands import SECOND_SOLVER, jals_command, write_experiment
from tests.support.records import read_run as recorded
from tests.support.records import resealed


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run: (its folder, what it printed). Tests that change the folder work on a copy."""
    folder = tmp_path_factory.mktemp("a-name-that-is-longer-than-what-a-line-of-a-terminal-of-eighty-columns-can-hold")
    done = jals_command("run", write_experiment(folder), "--out", folder / "run")
    assert done.exit_code == 0, done.output
    return folder / "run", done.output


@pytest.fixture
def copy(finished, tmp_path):
    return Path(shutil.copytree(finished[0], tmp_path / "run"))


def test_run_shows_and_saves(finished):
    folder, output = finished
    output = " ".join(output.split())  # the terminal's width breaks lines
    for words in ("12 users x 8 items, 70 entries", "als_wr, reg 0.1, bias, center", "RMSE", "certificate passed"):
        assert words in output
    result = recorded(folder)
    assert result["status"] == "finished"
    assert result["versions"]["jax"] == jax.__version__
    (fit,) = result["fits"]
    assert fit["history"]["sweep"] == [0, 1, 2, 3]
    assert fit["history"]["loss"][0] > fit["history"]["loss"][-1]
    assert fit["certificate"]["last_updated"] <= fit["certificate"]["bound"] == 1e-5
    saved = jals.load(folder / "factors.npz")
    assert saved.factors.item.shape == (8, 2)
    assert saved.vocab is not None
    assert saved.vocab.user.tolist() == [100 + 10 * row for row in range(12)]
    assert f"{fit['metrics']['test']['rmse']:.4f}" in output
    assert {path.name for path in folder.iterdir()} == {
        *("config.toml", "result.json", "fits.jsonl", "factors.npz", "index.html", "figures", "report")
    }


def test_a_long_path_is_shown_whole(finished):
    folder, output = finished
    assert str(folder.parent / "table.npz") in "".join(line.strip() for line in output.splitlines())


def test_metrics_are_those_of_the_saved_factors(finished):
    """The split again, the factors from their file, RMSE and MAE by NumPy."""
    folder, _ = finished
    arrays = np.load(folder.parent / "table.npz")
    ratings = jals.Ratings.from_arrays((arrays["user"] - 100) // 10, arrays["item"] - 7000, arrays["rating"])
    factors = jals.load(folder / "factors.npz").factors
    metrics = recorded(folder)["fits"][0]["metrics"]
    for name, part in zip(("train", "test"), jals.split.random(ratings, 0.2, seed=0), strict=True):
        score = factors.mean + factors.user_bias[part.user] + factors.item_bias[part.item]
        error = score + (factors.user[part.user] * factors.item[part.item]).sum(axis=1) - part.value
        assert metrics[name]["rmse"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-5)
        assert metrics[name]["mae"] == pytest.approx(np.abs(error).mean(), rel=1e-5)


def test_certify_passes_on_what_was_saved(finished):
    done = jals_command("certify", finished[0])
    assert done.exit_code == 0, done.output
    assert "certificate passed" in done.output


def test_certify_fails_when_a_saved_item_row_is_moved(copy):
    saved = jals.load(copy / "factors.npz")
    saved.factors.item[5] += 1e-2
    jals.save(copy / "factors.npz", *saved)
    done = jals_command("certify", copy)
    assert (done.exit_code, "factors.npz was changed" in done.output) == (2, True)
    resealed(copy)
    done = jals_command("certify", copy)
    assert done.exit_code == 1, done.output
    assert "certificate FAILED: als" in done.output


def test_certify_refuses_other_data_and_damaged_files(copy, tmp_path):
    config = copy / "config.toml"
    config.write_text(config.read_text().replace("test_fraction = 0.2", "test_fraction = 0.2\nseed = 1"))
    resealed(copy)
    done = jals_command("certify", copy)
    assert (done.exit_code, "was fitted to other ratings" in done.output) == (2, True)
    config.write_text(config.read_text().replace('kind = "als"', 'kind = "als"\nname = "other"') + SECOND_SOLVER)
    resealed(copy)
    done = jals_command("certify", copy)
    assert (done.exit_code, "disagree on the fits" in done.output) == (2, True)
    (copy / "fits.jsonl").write_text("{}\n")
    done = jals_command("certify", copy)
    assert (done.exit_code, "fits.jsonl was changed" in done.output) == (2, True)
    (copy / "result.json").write_text("{}")
    done = jals_command("certify", copy)
    assert (done.exit_code, "result.json is damaged: status" in done.output) == (2, True)
    done = jals_command("certify", tmp_path / "nowhere")
    assert (done.exit_code, "not the folder of a `jals run`" in done.output) == (2, True)




def test_several_solvers_and_folds_in_float64(tmp_path):
    config = write_experiment(
        tmp_path,
        ('kind = "random"\ntest_fraction = 0.2', 'kind = "kfold"\nfolds = 2'),
        ("sweeps = 3", 'sweeps = 2\ndtype = "float64"\n' + SECOND_SOLVER),
    )
    done = jals_command("run", config, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    fits = recorded(tmp_path / "run")["fits"]
    names = [f"factors-{solver}-{fold}.npz" for fold in (0, 1) for solver in ("als", "gradient")]
    assert [fit["factors"] for fit in fits] == names
    assert all(fit["certificate"]["bound"] == 1e-13 for fit in fits)
    mean = sum(fit["metrics"]["test"]["rmse"] for fit in fits if fit["solver"] == "als") / 2
    row = next(line for line in done.output.splitlines() if line.startswith("als mean"))
    assert f"{mean:.4f}" in row
    certified = jals_command("certify", tmp_path / "run")
    assert certified.exit_code == 0, certified.output
    for label in ("als/0", "als/1", "gradient/0", "gradient/1"):
        assert label in certified.output


@pytest.mark.parametrize(
    ("split", "held_out"), [('kind = "by_user"\ntest_fraction = 0.25', 24), ('kind = "leave_last_out"\ncount = 2', 24)]
)
def test_a_table_of_ones_own_split_by_user_and_by_time(tmp_path, split, held_out):
    """12 users with the 8 items each: a quarter, or the last two, of each user's 8 entries are held out."""
    rows = [f"{user};i{item};{1 + (user * item) % 5};{1000 - item}" for user in range(12) for item in range(8)]
    (tmp_path / "mine.txt").write_text("\n".join(["who;what;stars;when", *rows]))
    columns = 'mine.txt"\nuser = "who"\nitem = "what"\nvalue = "stars"\ntime = 3'
    config = write_experiment(
        tmp_path, ('table.npz"', columns), ('kind = "random"\ntest_fraction = 0.2', split), ("sweeps = 3", "sweeps = 1")
    )
    done = jals_command("run", config, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert "12 users x 8 items, 96 entries" in " ".join(done.output.split())
    saved = jals.load(tmp_path / "run" / "factors.npz")
    assert saved.vocab is not None
    assert saved.vocab.item.tolist() == [f"i{item}" for item in range(8)]
    page = (tmp_path / "run" / "index.html").read_text()
    assert f"{held_out} test entries" in page


def test_check_needs_no_data_and_set_changes_a_run(tmp_path):
    config = write_experiment(tmp_path)
    change = ["--set", "solver.0.rank=3", "--set", "fit.sweeps=1"]
    (tmp_path / "table.npz").rename(tmp_path / "elsewhere")
    shown = jals_command("config", "check", config, *change)
    assert shown.exit_code == 0
    assert "rank = 3" in shown.output and 'layout = "bucketed"' in shown.output
    (tmp_path / "elsewhere").rename(tmp_path / "table.npz")
    done = jals_command("run", config, "--out", tmp_path / "run", *change)
    assert done.exit_code == 0, done.output
    assert jals.load(tmp_path / "run" / "factors.npz").factors.rank == 3
    assert (tmp_path / "run" / "config.toml").read_text() == shown.output
    assert jals_command("certify", tmp_path / "run").exit_code == 0
    refused = jals_command("run", config, "--out", tmp_path / "run")
    assert "solver[0].rank: 3 there, 2 here" in refused.output
    assert jals_command("config", "check", config, "--set", "solver.0.rank=-1").exit_code == 2


def test_schema_is_that_of_the_configs():
    schema = json.loads(jals_command("config", "schema").output)
    assert set(schema["required"]) == {"data", "split", "objective", "solver"}
    assert schema["$defs"]["AlsSolver"]["properties"]["linsolve"]["enum"] == ["cholesky", "lu", "cg", "subspace"]


def test_output_folder_is_tried_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(jals, "fit", lambda *_, **__: pytest.fail("fitted before the folder was tried"))
    (tmp_path / "file").write_text("")
    done = jals_command("run", write_experiment(tmp_path), "--out", tmp_path / "file" / "run")
    assert done.exit_code == 2
    assert "cannot write to the output folder" in done.output
    assert "--out" in done.output


def test_a_second_run_says_what_it_found_and_fits_nothing(copy, finished, monkeypatch):
    monkeypatch.setattr(jals, "fit", lambda *_, **__: pytest.fail("fitted again"))
    before = {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()}
    done = jals_command("run", copy / "config.toml", "--out", copy)
    assert done.exit_code == 0, done.output
    started = json.loads(before["result.json"])["started"].replace("T", " ")
    assert f"a run of this config, begun {started}" in " ".join(done.output.split())
    assert "It is finished; --overwrite fits it again" in done.output
    assert "certificate passed" in done.output
    assert before == {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()}


def test_a_tilde_is_the_home_folder(copy, finished, monkeypatch, tmp_path):
    """Also where no shell has replaced it: in a config, and after an equals sign."""
    home = finished[0].parent
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    where = ("--set", 'data.path="~/table.npz"', "--set", 'output.folder="~/tilde"')
    (home / "tilde").mkdir()
    for name in copy.iterdir():
        shutil.move(name, home / "tilde")
    raw = (home / "tilde" / "result.json").read_text()
    (home / "tilde" / "result.json").write_text(raw.replace(str(home / "table.npz"), "~/table.npz"))
    resealed(home / "tilde")
    for arguments, said in (
        (("run", "~/experiment.toml", *where), "found in "),
        (("run", "~/experiment.toml", *where[:2], "--out=~/tilde"), "found in "),
        (("run", "~/experiment.toml", *where, "--dry-run"), "als"),
        (("recommend", "~/tilde", "--user", "110"), "user 110"),
        (("report", "~/tilde", "--out", "~/compared"), "compared/index.html"),
    ):
        done = jals_command(*arguments)
        assert done.exit_code == 0, done.output
        assert said in done.output.replace("\n", "")
    assert experiment.load("~/tilde").fits["solver"].to_list() == ["als"]
    assert (home / "compared" / "report.md").exists()
    assert not any(path.name == "~" for path in tmp_path.rglob("*"))


def test_overwrite_fits_again_and_leaves_nothing_of_the_run_before(copy, tmp_path, monkeypatch):
    """Also from the config in the folder itself."""
    once = recorded(copy)
    (copy / "notes.txt").write_text("mine")
    (copy / "config.toml").write_text((copy / "config.toml").read_text().replace("reg = 0.1", "reg = 0.2"))
    done = jals_command("run", copy / "config.toml", "--out", copy, "--overwrite")
    assert done.exit_code == 0, done.output
    again = recorded(copy)
    assert (again["config"]["objective"]["reg"], once["config"]["objective"]["reg"]) == (0.2, 0.1)
    assert (copy / "notes.txt").read_text() == "mine"
    monkeypatch.setattr(jals, "fit", lambda *_, **__: (_ for _ in ()).throw(MemoryError))
    jals_command("run", write_experiment(tmp_path), "--out", copy, "--overwrite")
    assert {path.name for path in copy.iterdir()} == {"config.toml", "notes.txt", "result.json"}
    assert recorded(copy)["status"] == "running"


def test_a_run_of_another_config_is_not_written_over(copy, tmp_path):
    before = (copy / "result.json").read_bytes()
    config = write_experiment(tmp_path, ("reg = 0.1", "reg = 0.2"), ("bias = true\n", ""))
    done = jals_command("run", config, "--out", copy)
    assert done.exit_code == 2
    changes = ("objective.reg: 0.1 there, 0.2 here", "objective.bias: True there")
    for words in ("run of another config (finished)", *changes):
        assert words in done.output
    assert "--out" in done.output and "--overwrite" in done.output
    assert (copy / "result.json").read_bytes() == before


def test_a_page_that_is_missing_is_drawn_again(copy, finished, monkeypatch):
    monkeypatch.setattr(jals, "fit", lambda *_, **__: pytest.fail("fitted again"))
    page = (copy / "index.html").read_bytes()
    (copy / "index.html").unlink()
    done = jals_command("run", copy / "config.toml", "--out", copy)
    assert done.exit_code == 0, done.output
    assert "finished but for its page" in done.output
    assert len((copy / "index.html").read_bytes()) == pytest.approx(len(page), rel=0.01)


def test_a_folder_that_is_no_run_is_not_written_over(tmp_path):
    config = write_experiment(tmp_path)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("my page")
    done = jals_command("run", config, "--out", tmp_path / "site")
    assert done.exit_code == 2
    assert "holds no result.json, and so no run, but index.html" in done.output
    assert (tmp_path / "site" / "index.html").read_text() == "my page"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("sweeps = 3", "swepes = 3", ["line 19, fit.swepes", 'Did you mean "sweeps"?']),
        ('kind = "als"', 'kind = "alz"', ["solver[0].kind", 'Did you mean "als"?']),
        ("rank = 2", 'rank = "2"', ["solver[0].rank", "must be an integer"]),
        ("table.npz", "absent.npz", ["no file", "JALS_DATA"]),
        ("test_fraction = 0.2", "test_fraction = 0.001", ["test_fraction is 0.001"]),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(tmp_path, old, new, words):
    done = jals_command("run", write_experiment(tmp_path, (old, new)), "--out", tmp_path / "run")
    assert done.exit_code == 2
    for word in words:
        assert word in done.output
    assert "Traceback" not in done.output


def test_interrupted_run_keeps_what_there_is(tmp_path, monkeypatch):
    whole = jals.fit

    def interrupted(*arguments, callbacks, **options):
        def press(at):
            if at.sweep == 2:
                raise KeyboardInterrupt

        return whole(*arguments, callbacks=[*callbacks, press], **options)

    config = write_experiment(tmp_path, ("[fit]", SECOND_SOLVER + "[fit]"))
    monkeypatch.setattr(jals, "fit", interrupted)
    done = jals_command("run", config, "--out", tmp_path / "run")
    assert done.exit_code == 130, done.output
    assert "interrupted after 2 of 3 sweeps" in done.output
    assert "The same command goes on from here" in done.output
    result = recorded(tmp_path / "run")
    assert result["status"] == "interrupted"
    assert [(fit["factors"], fit["sweeps"]) for fit in result["fits"]] == [("factors-als.npz", 2)]
    assert jals_command("certify", tmp_path / "run").exit_code == 0
    monkeypatch.setattr(jals, "fit", whole)
    done = jals_command("run", config, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert "It is interrupted: als stopped after 2 sweeps. Going on" in " ".join(done.output.split())
    result = recorded(tmp_path / "run")
    assert [fit["history"]["sweep"] for fit in result["fits"]] == [[0, 1, 2, 3]] * 2
    assert not (tmp_path / "run" / "unfinished").exists()


def test_a_disk_that_is_full_costs_no_factors(tmp_path, monkeypatch):
    """The folder takes small files and no large ones, as a full disk does; the factors are found elsewhere."""
    save = jals.save

    def full(path, *arguments, **options):
        if path.parent == tmp_path / "run":
            raise jals.StorageError(f"{path} cannot be written: No space left on device.")
        save(path, *arguments, **options)

    monkeypatch.setattr(jals, "save", full)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    config = write_experiment(tmp_path)
    done = jals_command("run", config, "--out", tmp_path / "run")
    assert done.exit_code == 2
    (rescued,) = tmp_path.glob("jals-*/factors.npz")
    assert "No space left on device" in done.output
    assert f"The factors are in {rescued} instead" in done.output
    monkeypatch.setattr(jals, "save", save)
    assert jals_command("run", config, "--out", tmp_path / "run").exit_code == 0
    kept, again = (jals.load(path).factors for path in (rescued, tmp_path / "run" / "factors.npz"))
    np.testing.assert_array_equal(kept.item, again.item)


def test_fit_that_breaks_down_names_the_row_and_keeps_the_last_factors(tmp_path):
    config = write_experiment(
        tmp_path, ("reg = 0.1", "reg = 0"), ("rank = 2", "rank = 9"), ("bias = true\ncenter = true", "")
    )
    done = jals_command("run", config, "--out", tmp_path / "run")
    assert done.exit_code == 1, done.output
    assert "user 0 has no unique solution" in done.output
    assert "the user with id 100" in done.output
    assert np.isfinite(jals.load(tmp_path / "run" / "factors.npz").factors.item).all()
    (fit,) = recorded(tmp_path / "run")["fits"]
    assert (fit["reason"], fit["error"]["sweep"], fit["error"]["row"]) == ("singular", 1, 0)
    assert (tmp_path / "run" / "index.html").exists()
    again = jals_command("run", config, "--out", tmp_path / "run")
    assert again.exit_code == 1, again.output
    assert "It is finished" in again.output


def test_missing_extra_is_named(monkeypatch, capsys):
    monkeypatch.setattr(cli, "find_spec", lambda name: None if name == "rich" else object())
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    assert capsys.readouterr().err == 'jals: the command line needs rich: pip install "jals[cli]"\n'


def test_version_and_help():
    assert jals_command("--version").output == f"jals {jals.__version__}\n"
    assert "certify" in jals_command("--help").output
