"""Ctrl-C at any moment of a run: the files agree with one another, and the next run goes on as if nothing had been."""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import jals
from jals.app.run import checkpoint, keeper, session
from jals.files.runs import folder
from tests.support.commands import SECOND_SOLVER, jals_command, write_experiment
from tests.support.records import read_run as recorded

CHANGES = (
    ("test_fraction = 0.2", "test_fraction = 0.2\nvalidation_fraction = 0.2"),
    ("sweeps = 3", "sweeps = 150\n" + SECOND_SOLVER),
)
FITS = ["factors-als.npz", "factors-gradient.npz"]
MOMENTS = int(os.environ.get("JALS_MOMENTS", "4"))  # `make faults` tries more


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(config, folder of a run that nobody disturbed, its seconds once compiled)."""
    place = tmp_path_factory.mktemp("whole")
    config = write_experiment(place, *CHANGES)
    for _ in range(2):
        started = time.perf_counter()
        done = jals_command("run", config, "--out", place / "run", "--overwrite")
        assert done.exit_code == 0, done.output
    return config, place / "run", time.perf_counter() - started


@pytest.fixture(autouse=True)
def _sigint_is_heard():
    """A shell lets its background jobs ignore SIGINT, and what they start inherits that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupted_run(config: Path, out: Path, after: float):
    """The command, with SIGINT as a terminal would send it so many seconds after its start."""
    timer = threading.Timer(after, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        done = jals_command("run", config, "--out", out)
        timer.cancel()
        timer.join()
        time.sleep(0)  # a signal that came between is handled here
    except KeyboardInterrupt:  # it came before or after the command itself
        return None
    return done


def check_files(folder: Path) -> None:
    """The record can be read and speaks of files that are whole; nothing half written lies about."""
    record = recorded(folder)
    for fit in record["fits"]:
        saved = jals.load(folder / fit["factors"])
        assert np.isfinite(saved.factors.user).all()
    assert not list(folder.glob("*.part*"))
    certified = jals_command("certify", folder)
    if record["fits"]:
        assert certified.exit_code == 0, certified.output
        assert "certificate passed" in certified.output
    else:
        assert "stopped before its first fit" in certified.output


def same_run(undisturbed: Path, folder: Path) -> None:
    before, after = (recorded(place) for place in (undisturbed, folder))
    assert [fit["factors"] for fit in after["fits"]] == FITS
    for one, other in zip(before["fits"], after["fits"], strict=True):
        assert (one["metrics"], one["certificate"]) == (other["metrics"], other["certificate"])
        assert one["history"]["loss"] == other["history"]["loss"]
        factors = (jals.load(place / one["factors"]).factors for place in (undisturbed, folder))
        jax.tree.map(np.testing.assert_array_equal, *factors)


# What a callback of the interpreter itself meets is reported by Python, not raised.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_at_random_moments(whole, tmp_path):
    config, undisturbed, seconds = whole
    stopped = []
    for number, moment in enumerate(np.random.default_rng(0).uniform(0, seconds, 5 * MOMENTS)):
        if len(stopped) == MOMENTS:
            break
        folder = tmp_path / str(number)
        done = interrupted_run(config, folder, moment)
        if (folder / "result.json").exists():
            check_files(folder)
            if done is not None and done.exit_code == 130:
                assert "Traceback" not in done.output
                stopped.append(folder)
    assert len(stopped) == MOMENTS  # a few others were done by then, or not begun
    for folder in (stopped[0], stopped[-1]):
        done = jals_command("run", config, "--out", folder)
        assert done.exit_code == 0, done.output
        same_run(undisturbed, folder)


PROGRAM = """
import runpy, signal
from jals.app.run import keeper
keeper._MINUTE = 0.0
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("jals", run_name="__main__", alter_sys=True)
"""


def test_a_second_process_goes_on_where_the_first_was_killed(tmp_path):
    """SIGINT to a real process: exit code 130, no traceback. Then another process, from the files alone."""
    config = write_experiment(tmp_path, ("sweeps = 3", "sweeps = 20000\nloss_every = 200"))
    command = [sys.executable, "-c", PROGRAM, "run", str(config), "--out", str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not (tmp_path / "run" / "unfinished.json").exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    done = recorded(tmp_path / "run")["fits"][0]["sweeps"]
    assert done < 20_000
    again = jals_command("run", config, "--out", tmp_path / "run")
    assert again.exit_code == 0, again.output
    assert f"als stopped after {done} sweeps" in " ".join(again.output.split())
    (fit,) = recorded(tmp_path / "run")["fits"]
    assert fit["history"]["sweep"] == list(range(0, 20_001, 200))
    assert jals_command("certify", tmp_path / "run").exit_code == 0


def test_a_long_fit_is_kept_on_the_way(whole, tmp_path, monkeypatch):
    """Killed without a word, it goes on from the last minute (here: the last record)."""
    config, undisturbed, _ = whole
    fit = jals.fit

    def killed(*arguments, callbacks, **options):
        def kill(at):
            if at.sweep == 7:
                raise MemoryError

        return fit(*arguments, callbacks=[*callbacks, kill], **options)

    monkeypatch.setattr(keeper, "_MINUTE", 0.0)
    monkeypatch.setattr(jals, "fit", killed)
    assert isinstance(jals_command("run", config, "--out", tmp_path / "run").exception, MemoryError)
    record = recorded(tmp_path / "run")
    assert [record["status"]] == [fit["reason"] for fit in record["fits"]] == ["running"]
    check_files(tmp_path / "run")
    monkeypatch.setattr(keeper, "_MINUTE", 60.0)
    monkeypatch.setattr(jals, "fit", fit)
    done = jals_command("run", config, "--out", tmp_path / "run")
    assert "It is unfinished: als stopped after 7 sweeps" in " ".join(done.output.split())
    assert done.exit_code == 0, done.output
    factors = (jals.load(place / FITS[0]).factors for place in (undisturbed, tmp_path / "run"))
    jax.tree.map(np.testing.assert_array_equal, *factors)


def test_killed_between_a_fits_line_and_the_end_of_its_checkpoint(tmp_path, monkeypatch):
    config = write_experiment(tmp_path)
    clear = folder.clear_unfinished

    def killed(place):
        if (place / folder.FITS).exists():
            raise MemoryError
        clear(place)

    monkeypatch.setattr(folder, "clear_unfinished", killed)
    command = ("run", config, "--out", tmp_path / "run", "--set", "checkpoint.sweeps=1")
    assert isinstance(jals_command(*command).exception, MemoryError)
    assert (tmp_path / "run" / folder.NOTE).exists()
    monkeypatch.setattr(folder, "clear_unfinished", clear)
    assert jals_command(*command).exit_code == 0
    assert not (tmp_path / "run" / folder.NOTE).exists() and not (tmp_path / "run" / folder.UNFINISHED).exists()


def test_a_disk_that_is_full_for_a_while_does_not_stop_a_fit(whole, tmp_path, monkeypatch):
    config, _, _ = whole
    begin, calls = checkpoint.Checkpoints.begin, []

    def full_at_first(*arguments):
        calls.append(arguments)
        if len(calls) < 3:
            raise jals.StorageError("no checkpoint can be written: No space left on device.")
        return begin(*arguments)

    monkeypatch.setattr(keeper, "_MINUTE", 0.02)
    monkeypatch.setattr(checkpoint.Checkpoints, "begin", full_at_first)
    done = jals_command("run", config, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert done.output.count("No space left on device. The fit goes on.") == 2


def test_a_damaged_checkpoint_costs_what_it_held(whole, tmp_path):
    """The fit of the checkpoint begins anew; the one that had ended is not made again."""
    config, undisturbed, _ = whole
    whole_fit, made = jals.fit, []

    def interrupted(solver, *arguments, **options):
        if isinstance(solver, jals.ALS):
            return whole_fit(solver, *arguments, **options)
        result = whole_fit(solver, *arguments, **options | {"sweeps": 2})
        raise jals.Interrupted("interrupted", result=dataclasses.replace(result, reason="interrupted"))

    def counted(*arguments, **options):
        made.append(options["init"])
        return whole_fit(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jals, "fit", interrupted)
        assert jals_command("run", config, "--out", tmp_path / "run").exit_code == 130
    ended = (tmp_path / "run" / "fits.jsonl").read_bytes()
    for path in (tmp_path / "run" / "unfinished").rglob("*"):
        if path.is_file() and path.stat().st_size:
            path.write_bytes(path.read_bytes()[:-1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jals, "fit", counted)
        done = jals_command("run", config, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert "unfinished is damaged. That fit begins anew." in " ".join(done.output.split())
    assert made == [None]
    assert (tmp_path / "run" / "fits.jsonl").read_bytes().startswith(ended)
    same_run(undisturbed, tmp_path / "run")


class Killed(BaseException):
    """What no code catches, as none catches SIGKILL."""


def test_a_checkpoint_that_a_kill_left_behind_is_no_other_fits(tmp_path, monkeypatch):
    """Two solvers alike in shapes and sweeps. Killed between a fit's line and its checkpoint's end, and again before
    the other fit's line: that one goes on from its own state."""
    other = '[[solver]]\nkind = "als"\nname = "other"\nrank = 2\ninit_scale = 2.0\n'
    config = write_experiment(tmp_path, ("sweeps = 3", "sweeps = 3\n" + other))
    monkeypatch.setattr(session.Session, "draw", lambda self: folder.write(self.place / folder.PAGE, b"drawn"))
    assert jals_command("run", config, "--out", tmp_path / "whole").exit_code == 0
    monkeypatch.setattr(session, "_WORTH_KEEPING", 0.0)

    def killed(*_):
        raise Killed

    # Nothing is to be cleared before the first fit: the kill comes after its line.
    cleared = folder.clear_unfinished
    with monkeypatch.context() as patch:
        patch.setattr(folder, "clear_unfinished", lambda at: killed() if (at / folder.FITS).exists() else cleared(at))
        with pytest.raises(Killed):
            jals_command("run", config, "--out", tmp_path / "run")
    assert len(list(folder.ended_fits(tmp_path / "run"))) == 1 and (tmp_path / "run" / folder.UNFINISHED).exists()
    with monkeypatch.context() as patch:
        patch.setattr(session.Session, "add", killed)
        with pytest.raises(Killed):
            jals_command("run", config, "--out", tmp_path / "run")
    assert jals_command("run", config, "--out", tmp_path / "run").exit_code == 0
    for fit in folder.ended_fits(tmp_path / "whole"):
        factors = (jals.load(tmp_path / place / str(fit.factors)).factors for place in ("whole", "run"))
        jax.tree.map(np.testing.assert_array_equal, *factors)
