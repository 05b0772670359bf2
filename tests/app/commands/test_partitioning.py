"""`jals partition`: the table that `jals.partition` makes, and what is said of it."""

import numpy as np
import pytest

import jals
from tests.partitioned.support import hashes, ratings, same
from tests.support.commands import jals_command

pytest.importorskip("duckdb", reason='partitioning needs the extra "partition"')


@pytest.fixture
def source(tmp_path):
    table = ratings(400, weighted=False, users=30, items=20)
    np.savez(tmp_path / "t.npz", who=table.user, what=table.item, stars=table.value)
    return tmp_path / "t.npz"


COLUMNS = ("--user", "0", "--item", "what", "--value", "stars")


def test_it_partitions(tmp_path, source):
    done = jals_command("partition", source, tmp_path / "out", "--shards", "4", "--memory", "300MB", *COLUMNS)
    assert done.exit_code == 0, done.output
    assert "400 entries, float64, in 4 shards of each side" in done.stdout and "30 users: " in done.stdout
    assert "writing the shards of users\n" in done.stderr
    same(jals.Problem.open(tmp_path / "out"), jals.read_ratings(source, 0, "what", "stars")[0])
    called = jals.partition(source, tmp_path / "called", 4, user="who", item="what", value="stars")
    assert hashes(called) == hashes(jals.Manifest.read(tmp_path / "out"))
    again = jals_command("partition", source, tmp_path / "out", *COLUMNS)
    assert again.exit_code == 2 and "--overwrite" in again.stderr
    assert jals_command("partition", source, tmp_path / "out", "--overwrite", *COLUMNS).exit_code == 0
    assert jals.Manifest.read(tmp_path / "out").shards == 64


def test_bad_input_is_one_message(tmp_path, source):
    done = jals_command("partition", source, tmp_path / "out", "--user", "whom")
    assert done.exit_code == 2 and "has no column 'whom'. Did you mean \"who\"?" in done.stderr
    assert jals_command("partition", source, tmp_path / "out", "--ids", "uuid").exit_code == 2
