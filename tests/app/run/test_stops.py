"""Real processes that are stopped, killed, or started twice: nothing is lost, mixed, or left half written.

A few in the suite; `make faults` draws JALS_KILLS moments of SIGKILL, and SIGTERM for two in five of them.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import jals
from jals.app.run import lock, signals
from jals.files.atomic import leftovers
from jals.files.runs import folder
from tests.support.commands import SECOND_SOLVER, jals_command, write_experiment
from tests.support.records import read_run

KILLS = int(os.environ.get("JALS_KILLS", 1))  # by SIGKILL; by SIGTERM 2 for 5 of them
DRAWN = "JALS_KILLS" in os.environ  # drawing takes longer than all else
RACES = int(os.environ.get("JALS_RACES", 1))
SWEEPS = 12_000
CHANGES = (
    ("[objective]", '[problem]\nlayout = "segmented"\n\n[objective]'),  # compiles quickest
    ("test_fraction = 0.2", "test_fraction = 0.2\nvalidation_fraction = 0.2"),
    ("sweeps = 3", f"sweeps = {SWEEPS}\nloss_every = 100\n" + SECOND_SOLVER),
)
# Every record is kept, and every fit before its line: so that there are many moments to be killed at.
PROGRAM = f"""
import runpy, signal
from jals.app.run import keeper, session
from jals.files.runs import folder
if not {DRAWN}:
    session.Session.draw = lambda self: folder.write(self.place / folder.PAGE, b"drawn")
keeper._MINUTE, session._WORTH_KEEPING = 0.2, 0.0
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("jals", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(config, folder of a run that nobody disturbed, its seconds)."""
    place = tmp_path_factory.mktemp("whole")
    config = write_experiment(place, *CHANGES)
    started = time.monotonic()
    output, code = ended(process(config, place / "run"))
    assert code == 0, output
    return config, place / "run", time.monotonic() - started


def process(config: Path, place: Path, *more: str, **options) -> subprocess.Popen:
    command = [sys.executable, "-c", PROGRAM, "run", str(config), "--out", str(place), *more]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, **pipes | options)


def ended(made: subprocess.Popen) -> tuple[str, int]:
    output, _ = made.communicate(timeout=180)
    return output or "", made.returncode


def waited(path: Path, made: subprocess.Popen) -> None:
    while not path.exists() and made.poll() is None:
        time.sleep(0.01)


def same(undisturbed: Path, place: Path) -> None:
    """Table and factors to the last bit, and nothing half written."""
    one, other = read_run(undisturbed), read_run(place)
    assert other["status"] == "finished"
    fits = [{fit["solver"]: fit for fit in record["fits"]} for record in (one, other)]
    assert fits[0].keys() == fits[1].keys()
    for solver, fit in fits[0].items():
        again = fits[1][solver]
        for name in ("key", "metrics", "certificate", "sweeps", "reason", "factors"):
            assert fit[name] == again[name], (solver, name)
        for name in ("sweep", "loss", "validation", "passes"):
            assert fit["history"][name] == again["history"][name], (solver, name)
        factors = (jals.load(each / fit["factors"]).factors for each in (undisturbed, place))
        jax.tree.map(np.testing.assert_array_equal, *factors)
    inside = [place, *(each for each in place.iterdir() if each.is_dir())]
    assert not [left for each in inside for left in leftovers(each)]
    assert not (place / lock.NAME).exists() and not (place / folder.UNFINISHED).exists()


def test_killed_at_random_moments_it_ends_as_if_undisturbed(whole, tmp_path):
    """Each run is killed until it has been as often as it is to be, then ended."""
    config, undisturbed, seconds = whole
    draw = random.Random(int(os.environ.get("JALS_SEED", 0)))
    signs = [signal.SIGKILL] * KILLS + [signal.SIGTERM] * (2 * KILLS // 5 or 1)
    draw.shuffle(signs)
    number, place = 0, tmp_path / "0"
    while signs:
        made = process(config, place)
        waited(place / folder.RESULT, made)
        time.sleep(draw.uniform(0, 1.1 * seconds))
        sign = signs[-1]
        if made.poll() is None:
            made.send_signal(sign)
            signs.pop()
        output, code = ended(made)
        assert "Traceback" not in output, output
        assert code in (0, -signal.SIGKILL, 128 + signal.SIGTERM, -signal.SIGTERM), (code, output)
        if code == 0 or draw.random() < 0.3:
            last, code = ended(process(config, place))
            assert code == 0, last
            same(undisturbed, place)
            number, place = number + 1, tmp_path / str(number + 1)
    if place.exists():
        output, code = ended(process(config, place))
        assert code == 0, output
        same(undisturbed, place)


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_keeps_the_fit_under_way(whole, tmp_path, sign):
    config, undisturbed, _ = whole
    made = process(config, tmp_path / "run")
    waited(tmp_path / "run" / folder.NOTE, made)
    made.send_signal(sign)
    output, code = ended(made)
    assert code == 128 + sign, output
    assert "The factors of the last finished sweep are saved" in " ".join(output.split()), output
    found = folder.read(tmp_path / "run")
    assert found.run.status == "interrupted" and found.unfinished is not None
    assert not (tmp_path / "run" / lock.NAME).exists()
    output, code = ended(process(config, tmp_path / "run"))
    assert code == 0 and "stopped after" in output, output
    same(undisturbed, tmp_path / "run")


def test_a_signal_that_is_ignored_stays_ignored(whole, tmp_path):
    """As nohup starts a program."""
    config, _, _ = whole
    ignore = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + PROGRAM
    made = subprocess.Popen([sys.executable, "-c", ignore, "run", str(config), "--out", str(tmp_path / "run")])
    waited(tmp_path / "run" / folder.NOTE, made)
    made.send_signal(signal.SIGHUP)
    assert made.wait(timeout=180) == 0


def test_two_runs_in_one_folder(whole, tmp_path):
    """Whichever comes first is whole, and the other is told so and touches nothing; also with --overwrite."""
    config, undisturbed, _ = whole
    for race in range(RACES):
        place = tmp_path / str(race)
        both = [process(config, place), process(config, place, *(["--overwrite"] if race % 2 else []))]
        (first, second) = sorted((ended(each) for each in both), key=lambda one: one[1])
        assert (first[1], second[1]) == (0, 2), (first, second)
        assert "is in use: another run (process" in " ".join(second[0].split()), second
        same(undisturbed, place)


def test_a_folder_that_is_removed_or_replaced_ends_the_run(whole, tmp_path):
    config, _, _ = whole
    for at, replaced in enumerate((False, True)):
        place = tmp_path / str(at)
        made = process(config, place)
        waited(place / folder.NOTE, made)
        place.rename(tmp_path / f"away {at}")
        if replaced:
            place.mkdir()
        output, code = ended(made)
        assert code == 2 and "was removed or replaced" in " ".join(output.split()), output
        assert "Traceback" not in output and "saved " not in output
        assert not place.exists() or not list(place.iterdir())


def test_time_that_a_process_stands_still_in_is_no_work(tmp_path):
    """Stopped for longer than the whole fit may take."""
    config = write_experiment(tmp_path, *CHANGES[:2], ("sweeps = 3", "seconds = 1.0\nloss_every = 100"))
    made = process(config, tmp_path / "run")
    waited(tmp_path / "run" / folder.NOTE, made)
    made.send_signal(signal.SIGSTOP)
    time.sleep(3)
    made.send_signal(signal.SIGCONT)
    output, code = ended(made)
    assert code == 0, output
    (fit,) = folder.read(tmp_path / "run").fits
    seconds = [0.0, *(fit.history.seconds or ())]
    assert fit.history.last("seconds") < 2.5, "3 s of it were none"
    assert max(np.diff(seconds)) < 1 and min(np.diff(seconds)) >= -0.1


LATE = """
import os, signal, subprocess, time
from jals import clock
from jals.app.run import signals
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCONT])  # by every thread that is begun from here on, too
with signals.catch_stops():
    began = clock.seconds()
    subprocess.Popen(["sh", "-c", f"sleep 2; kill -CONT {os.getpid()}"])
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(0.3)  # the thread that notes the time goes on before the signal is heard
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCONT])
    time.sleep(0.1)
    print(clock.seconds() - began)
"""


def test_a_pause_whose_end_is_told_late_is_no_work():
    """As on a machine that has other work when the process goes on."""
    made = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True, check=True)
    assert float(made.stdout) < 1.5, "2 s of it were none"


# ---- one by one ----


def test_a_lock_is_released_with_its_process_and_names_its_holder(tmp_path):
    with lock.FolderLock(tmp_path) as held:
        with pytest.raises(jals.StorageError, match=rf"in use: another run \(process {os.getpid()} on "):
            lock.FolderLock(tmp_path)
        held.check()
        (tmp_path / lock.NAME).unlink()
        with pytest.raises(jals.StorageError, match="was removed or replaced"):
            held.check()
        with lock.FolderLock(tmp_path) as other:  # of the folder that stands there now
            other.check()
    assert not list(tmp_path.iterdir())


@pytest.fixture(autouse=True)
def heard():
    """Signals as a shell's program hears them: under nohup SIGHUP is ignored, and so it would be by what is started."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def kill(sign: int, seconds: float = 1.0) -> None:
    os.kill(os.getpid(), sign)
    time.sleep(seconds)  # a handler runs between two steps of the interpreter


def test_signals_wait_for_files_that_belong_together():
    seen = []

    @signals.defer_stops()
    def written():
        kill(signal.SIGTERM, 0.01)
        kill(signal.SIGHUP, 0.01)
        seen.append("whole")

    with signals.catch_stops() as heard:
        with pytest.raises(signals.Stopped, match="SIGTERM"):
            written()
        assert seen == ["whole"] and heard.code == 143
        with pytest.raises(signals.Stopped) as stopped:
            kill(signal.SIGHUP)
        assert stopped.value.signum == signal.SIGHUP and isinstance(stopped.value, KeyboardInterrupt)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_stop_that_nothing_can_be_raised_through_is_raised_again():
    class Collected:
        def __del__(self):
            kill(signal.SIGTERM)

    def collected():
        Collected()
        time.sleep(1)

    with signals.catch_stops(), pytest.raises(signals.Stopped):
        collected()


def test_a_run_writes_with_the_users_umask_and_through_links(whole, tmp_path):
    """What the user has made of a file's mode and place is respected."""
    config, undisturbed, _ = whole
    kept = tmp_path / "kept.json"
    (tmp_path / "run").mkdir()
    for path in undisturbed.iterdir():
        if path.name in (folder.RESULT, folder.FITS, folder.CONFIG) or path.suffix == ".npz":
            (tmp_path / "run" / path.name).write_bytes(path.read_bytes())
    kept.write_bytes((tmp_path / "run" / folder.RESULT).read_bytes())
    (tmp_path / "run" / folder.RESULT).unlink()
    (tmp_path / "run" / folder.RESULT).symlink_to(kept)
    before = os.umask(0o027)
    try:
        done = jals_command("run", config, "--out", tmp_path / "run")  # draws the page
    finally:
        os.umask(before)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "run" / folder.RESULT).is_symlink() and kept.stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "run" / folder.PAGE).stat().st_mode & 0o777 == 0o640
    with contextlib.suppress(FileNotFoundError):
        assert not (tmp_path / "run" / lock.NAME).stat()
