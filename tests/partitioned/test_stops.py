"""A process that ends while it partitions, however it ends: nothing half-written is taken for whole, and the same
command goes on. `make faults` kills it at more moments."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import jals
from tests.partitioned.support import hashes, leftovers, ratings, same

pytest.importorskip("duckdb", reason='partitioning needs the extra "partition"')
pytest.importorskip("polars")
posix = pytest.mark.skipif(os.name == "nt", reason="SIGKILL and limits are POSIX's")

# Partitions a file; at the call of `progress` that is asked for, the process does what it is told.
SCRIPT = """
import os, resource, signal, sys
import jals
from jals.partitioned import workplace
source, out, moment, what = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
calls = steps = 0
sync = workplace._sync
def killed(folder):
    global steps
    steps += 1
    if steps == moment and what == "within":
        for path in folder.rglob("*.*"):
            os.truncate(path, 10)
        os.kill(os.getpid(), signal.SIGKILL)
    sync(folder)
workplace._sync = killed
def progress(step, done, total):
    global calls
    calls += 1
    if calls == moment and what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if calls == moment and what == "full":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
try:
    jals.partition(source, out, 4, progress=progress)
except jals.JalsError as error:
    sys.exit(f"{type(error).__name__}: {error}")
print(calls)
"""


def started(source: Path, out: Path, moment: int = 0, what: str = "") -> subprocess.Popen:
    arguments = [sys.executable, "-c", SCRIPT, source, out, str(moment), what]
    return subprocess.Popen(list(map(str, arguments)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    table = ratings(weighted=False)
    path = tmp_path_factory.mktemp("source") / "t.csv"
    lines = zip(table.user.tolist(), table.item.tolist(), table.value.tolist(), strict=True)
    path.write_text("user,item,rating\n" + "".join(f"{u},{i},{v}\n" for u, i, v in lines))
    return path


@pytest.fixture(scope="module")
def whole(source):
    """The hashes of the table that nobody disturbed."""
    return hashes(jals.partition(source, source.parent / "whole", 4))


def goes_on(source: Path, out: Path, whole: dict) -> None:
    """After a stop: the folder is not there, and the same call makes the table."""
    assert not out.exists()
    with pytest.raises(jals.StorageError, match=r"no manifest\.json"):
        jals.Problem.open(out)
    place = out.with_name(f".{out.name}.jals-partition")

    def finished(*patterns):
        found = [path for pattern in patterns for path in place.glob(f"{pattern}/*.parquet")]
        return {path: path.stat().st_mtime_ns for path in found if path.parent.suffix != ".part"}

    kept, now = finished("ids-*", "dealt-*", "result/side=*/shard=*"), {}

    def compare(step, done, total):
        if step == "listing the items":
            now.update(finished("ids-*", "dealt-*", "result/side=*/shard=*"))

    assert hashes(jals.partition(source, out, 4, progress=compare)) == whole
    assert kept.items() <= now.items(), "a step that was finished was made again"
    assert leftovers(out.parent) == []
    same(jals.Problem.open(out), jals.read_ratings(source)[0])


@posix
@pytest.mark.parametrize("moment", [2, 7, 13])
def test_a_killed_process_leaves_nothing_that_looks_whole(tmp_path, source, whole, moment):
    """Killed before ids are numbered, among the users' shards and at the end of the items'."""
    process = started(source, tmp_path / "out", moment, "kill")
    _, said = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, said
    assert leftovers(tmp_path) == [".out.jals-partition"]
    goes_on(source, tmp_path / "out", whole)


@posix
@pytest.mark.parametrize("moment", [1, 3, 8])
def test_a_step_that_was_not_finished_is_made_again(tmp_path, source, whole, moment):
    """Killed when its files are there, but not whole on the disk."""
    process = started(source, tmp_path / "out", moment, "within")
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    goes_on(source, tmp_path / "out", whole)


@posix
@pytest.mark.slow
def test_killed_at_any_moment(tmp_path, source, whole):
    """JALS_KILLS processes, each killed after a random time, or when it is done."""
    rng = np.random.default_rng(int(os.environ.get("JALS_SEED", "0")))
    killed = 0
    for number in range(int(os.environ.get("JALS_KILLS", "10"))):
        out = tmp_path / str(number) / "out"
        out.parent.mkdir()
        process = started(source, out)
        while not leftovers(out.parent) and process.poll() is None:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 1.2))
        process.kill()
        process.communicate()
        if out.exists():
            assert hashes(jals.Manifest.read(out)) == whole
            same(jals.Problem.open(out), jals.read_ratings(source)[0])
        else:
            killed += 1
            goes_on(source, out, whole)
    assert killed


@posix
@pytest.mark.parametrize("moment", [1, 2, 5, 12])
def test_a_full_disk_is_said_and_nothing_is_left(tmp_path, source, moment):
    process = started(source, tmp_path / "out", moment, "full")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1 and said.startswith("StorageError: ") and "out cannot be" in said, said
    assert not list(tmp_path.iterdir())


def test_an_interrupted_call_goes_on(tmp_path, source, whole):
    def interrupt(step, done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jals.partition(source, tmp_path / "out", 4, progress=interrupt)
    goes_on(source, tmp_path / "out", whole)


@pytest.mark.parametrize("change", ["shards", "source"])
def test_what_another_call_left_is_not_used(tmp_path, source, change):
    def interrupt(step, done, total):
        if done == 3:
            raise KeyboardInterrupt

    copy = tmp_path / "t.csv"
    copy.write_bytes(source.read_bytes())
    with pytest.raises(KeyboardInterrupt):
        jals.partition(copy, tmp_path / "out", 4, progress=interrupt)
    if change == "source":
        copy.write_text(copy.read_text() + "1000,1000,1\n")
    manifest = jals.partition(copy, tmp_path / "out", 4 if change == "source" else 5)
    assert leftovers(tmp_path) == [] and manifest.verify() is None
    same(jals.Problem.open(tmp_path / "out"), jals.read_ratings(copy)[0])


@posix
def test_two_processes_do_not_make_one_table(tmp_path, source, whole):
    def another(step, done, total):
        if step == "listing the items":
            with pytest.raises(jals.StorageError, match="made by another process"):
                jals.partition(source, tmp_path / "out", 3)

    assert hashes(jals.partition(source, tmp_path / "out", 4, progress=another)) == whole


def test_a_finished_result_is_put_in_its_place(tmp_path, source, whole, monkeypatch):
    """Killed between the last file and the renaming; with an older table in the place."""
    jals.partition(ratings(seed=5), tmp_path / "out", 2)

    def stopped(place):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("jals.partitioned.workplace.Workplace.finish", stopped)
        with pytest.raises(KeyboardInterrupt):
            jals.partition(source, tmp_path / "out", 4, overwrite=True)
    same(jals.Problem.open(tmp_path / "out"), ratings(seed=5))
    assert hashes(jals.partition(source, tmp_path / "out", 4, overwrite=True)) == whole
    assert leftovers(tmp_path) == []
