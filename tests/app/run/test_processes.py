"""Runs by several processes, and what becomes of them when one is killed, paused, or never comes.

A few in the suite, on a small table; `make faults` draws JALS_KILLS moments, over all of the processes.
"""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import jals
from jals.app.run import lock
from jals.app.run.lost import LOST
from jals.files.runs import folder
from tests.support.commands import jals_command
from tests.support.records import read_run

pytest.importorskip("duckdb", reason='partitioning needs the extra "partition"')
pytestmark = [pytest.mark.newest, pytest.mark.skipif(os.name == "nt", reason="signals are POSIX's")]

KILLS = int(os.environ.get("JALS_KILLS", 2))
HEARTBEAT = 4
CONFIG = """\
[data]
path = "{place}/table"

[split]
kind = "given"
test = {{ path = "{place}/test.npz" }}

[objective]
preset = "als_wr"
reg = 0.1
bias = true

[[solver]]
kind = "als"
rank = 2

[fit]
sweeps = 24
dtype = "float64"
devices = 4

[processes]
count = 2
heartbeat = {heartbeat}

[checkpoint]
sweeps = 4
keep = 2

[output]
certificate = false
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    place = tmp_path_factory.mktemp("several")
    rng = np.random.default_rng(0)
    pairs = rng.permutation(40 * 25)[:400]
    user, item = np.divmod(pairs, 25)
    train = np.r_[np.full(320, True), np.full(80, False)]
    test = ~train & np.isin(user, user[train]) & np.isin(item, item[train])
    for name, chosen in {"train": train, "test": test}.items():
        columns = {"user": 100 + user[chosen], "item": 7 + item[chosen], "rating": rng.normal(size=chosen.sum())}
        np.savez(place / f"{name}.npz", **columns)
    jals.partition(place / "train.npz", place / "table", shards=8)
    (place / "config.toml").write_text(CONFIG.format(place=place, heartbeat=HEARTBEAT))
    return place / "config.toml"


def started(config: Path, place: Path, *more: str, **environment: str) -> subprocess.Popen:
    """A run under way. What is compiled is kept for the other runs of the module."""
    cache = {"CACHE_DIR": str(config.parent / "cache"), "MIN_COMPILE_TIME_SECS": "0", "MIN_ENTRY_SIZE_BYTES": "-1"}
    own = {"JAX_COMPILATION_CACHE_DIR": cache.pop("CACHE_DIR")}
    own |= {f"JAX_PERSISTENT_CACHE_{name}": each for name, each in cache.items()} | {"JAX_PLATFORMS": "cpu"}
    own |= environment
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "jals", "run", str(config), "--out", str(place), *more]
    return subprocess.Popen(command, env=kept | own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ended(run: subprocess.Popen) -> tuple[str, int]:
    output, _ = run.communicate(timeout=180)
    return " ".join(output.split()), run.returncode


def processes_of(run: subprocess.Popen) -> list[int]:
    """Of a run the processes that work, by rank."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int(re.search(rb"PPid:\s*(\d+)", (path / "status").read_bytes())[1])
            role = re.search(rb"JALS_PROCESS=(\d+)", (path / "environ").read_bytes())
        except (OSError, TypeError):
            continue
        if parent == run.pid and role:
            found[int(role[1])] = int(path.name)
    return [found[rank] for rank in sorted(found)]


def waited(path: Path, run: subprocess.Popen) -> None:
    while not path.exists() and run.poll() is None:
        time.sleep(0.01)


@pytest.fixture(scope="module")
def whole(config):
    """The folder of a run that nobody disturbed."""
    output, code = ended(started(config, config.parent / "whole"))
    assert code == 0, output
    return config.parent / "whole"


def same(undisturbed: Path, place: Path) -> None:
    (one,), (other,) = (read_run(each)["fits"] for each in (undisturbed, place))
    for name in ("key", "metrics", "sweeps", "reason"):
        assert one[name] == other[name], name
    assert one["history"]["loss"] == other["history"]["loss"]
    factors = (jals.load(each / "factors.npz").factors for each in (undisturbed, place))
    jax.tree.map(np.testing.assert_array_equal, *factors)
    assert not (place / lock.NAME).exists() and not (place / folder.UNFINISHED).exists()


def test_it_is_the_fit_of_one_device(config, whole):
    made = read_run(whole)
    assert made["status"] == "finished"
    problem = jals.Problem.open(config.parent / "table")
    fit = jals.fit(jals.ALS(2), problem, jals.als_wr(0.1, bias=True), sweeps=24)
    pairs = np.divmod(np.arange(problem.num_users * problem.num_items), problem.num_items)
    ours = jals.predict(jals.load(whole / "factors.npz").factors, *pairs)
    assert np.abs(ours - jals.predict(fit.factors, *pairs)).max() < 1e-12
    np.testing.assert_allclose(made["fits"][0]["history"]["loss"], fit.history.loss, rtol=1e-12)
    # One device proves it again, and serves it.
    assert "certificate passed" in jals_command("certify", whole).output


def test_whichever_is_killed_all_end_and_the_same_command_goes_on(config, whole, tmp_path):
    for rank in (1, 0):
        run = started(config, tmp_path / "run")
        note = tmp_path / "run" / folder.NOTE
        seen = note.read_bytes() if note.exists() else b""
        while run.poll() is None and not (note.exists() and note.read_bytes() != seen):
            time.sleep(0.01)
        every = processes_of(run)
        os.kill(every[rank], signal.SIGKILL)
        start = time.monotonic()
        output, code = ended(run)
        assert time.monotonic() - start < HEARTBEAT + 10
        assert code == LOST, output
        assert f"rank {rank} of 2 (process {every[rank]}) was killed by SIGKILL" in output, output
        assert f"Go on with: jals run {config} --out {tmp_path / 'run'}" in output
        assert not any(Path(f"/proc/{each}").exists() for each in every)
    output, code = ended(started(config, tmp_path / "run"))
    assert code == 0 and "als stopped after" in output, output
    same(whole, tmp_path / "run")


# ---- longer ones, by `make faults` ----


@pytest.mark.slow
@pytest.mark.parametrize("rank", [1, 0])
def test_one_that_is_paused_is_lost_after_the_heartbeat(config, whole, tmp_path, rank):
    run = started(config, tmp_path / "run", "--set", "fit.sweeps=100000")
    waited(tmp_path / "run" / folder.NOTE, run)
    os.kill(processes_of(run)[rank], signal.SIGSTOP)
    start = time.monotonic()
    output, code = ended(run)
    assert time.monotonic() - start < HEARTBEAT + 10
    assert code == LOST and f"rank {rank} of 2" in output and "gave no sign of life" in output, output
    assert "Go on with: jals run" in output


@pytest.mark.slow
def test_both_stop_at_a_signal_and_go_on_to_the_same_end(config, whole, tmp_path):
    run = started(config, tmp_path / "run")
    waited(tmp_path / "run" / folder.NOTE, run)
    run.send_signal(signal.SIGTERM)
    output, code = ended(run)
    assert code == 143 and "The factors of the last finished sweep are saved" in output, output
    assert folder.read(tmp_path / "run").run.status == "interrupted"
    output, code = ended(started(config, tmp_path / "run"))
    assert code == 0 and "als stopped after" in output, output
    same(whole, tmp_path / "run")


@pytest.mark.slow
def test_a_process_that_never_comes(config, tmp_path):
    """As a cluster's launcher would start it, but for the other one."""
    cluster = {"JAX_COORDINATOR_ADDRESS": "127.0.0.1:21987", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}
    run = started(config, tmp_path / "run", "--set", "processes.count=1", "--set", "processes.start=3", **cluster)
    output, code = ended(run)
    assert code == LOST and "not all processes met within 3 seconds (processes.start)" in output, output


@pytest.mark.slow
def test_started_one_by_one_as_on_a_cluster(config, whole, tmp_path):
    def both():
        address = f"127.0.0.1:{random.randint(20000, 30000)}"
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
        for rank in "01":
            cluster = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": rank}
            given = cluster | {"XLA_FLAGS": flags, "NPROC": "8"}
            yield started(config, tmp_path / "run", "--set", "processes.count=1", **given)

    first, second = tuple(both())
    waited(tmp_path / "run" / folder.NOTE, first)
    os.kill(second.pid, signal.SIGKILL)  # its process goes with it
    start = time.monotonic()
    ended(second)
    output, code = ended(first)
    assert time.monotonic() - start < HEARTBEAT + 10
    assert code == LOST and "rank 1 of 2 gave no sign of life" in output, output
    outcomes = [ended(each) for each in list(both())]
    assert [code for _, code in outcomes] == [0, 0], outcomes
    same(whole, tmp_path / "run")


@pytest.mark.slow
def test_a_second_run_in_the_folder_is_refused(config, whole, tmp_path):
    run = started(config, tmp_path / "run", "--set", "fit.sweeps=100000")
    waited(tmp_path / "run" / folder.NOTE, run)
    output, code = ended(started(config, tmp_path / "run"))
    assert code == 2 and "is in use: another run" in output, output
    run.send_signal(signal.SIGTERM)
    assert ended(run)[1] == 143


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_as_if_undisturbed(config, whole, tmp_path, capsys):
    """Each run is killed, one of its processes or their parent, some times at work and some at its start or end, then
    ended."""
    draw, killed, runs, kept = random.Random(int(os.environ.get("JALS_SEED", 0))), 0, 0, 0
    place, over = tmp_path / "0", True
    while killed < KILLS or not over:
        run = started(config, place)
        if over := killed == KILLS or (killed > 0 and draw.random() < 0.2):
            output, code = ended(run)
            assert code == 0, output
            same(whole, place)
            runs, place = runs + 1, tmp_path / str(runs + 1)
            continue
        if at_work := draw.random() < 0.8:
            note = place / folder.NOTE
            seen = note.read_bytes() if note.exists() else b""
            while run.poll() is None and not (note.exists() and note.read_bytes() != seen):
                time.sleep(0.01)
        else:
            waited(place / folder.RESULT, run)
        time.sleep(draw.uniform(0, 2))
        chosen = draw.choice([run.pid, *processes_of(run)])
        if run.poll() is None:
            os.kill(chosen, signal.SIGKILL)
            killed, kept = killed + 1, kept + at_work
        output, code = ended(run)
        assert code in (0, LOST, -signal.SIGKILL), (code, output)
        time.sleep(0.5)  # those whose parent was killed end by themselves
    with capsys.disabled():
        print(f"\n{killed} kills, {kept} of them after a checkpoint: {killed} resumes, {runs} runs, factors identical")
