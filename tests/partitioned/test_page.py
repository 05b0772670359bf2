"""The page on the layout is enough to write a table: its writer in pyarrow, with several files a shard and rows in no
order, makes the problem that the ratings make."""

import re

import numpy as np
import pytest

import jals
from tests.partitioned.support import same
from tests.support import ROOT

pl = pytest.importorskip("polars")
pytest.importorskip("pyarrow")

pytestmark = pytest.mark.filterwarnings("ignore:.*are read unverified")


@pytest.fixture(scope="module")
def write_table():
    text = (ROOT / "docs/partitioned.md").read_text(encoding="utf-8")
    code = re.search(r"^```python\n(import json.*?)^write_table\(", text, re.M | re.S)
    names: dict = {"np": np}
    exec(code[1], names)
    return names["write_table"]


@pytest.mark.parametrize("shards", [1, 6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_table_written_by_the_page_is_the_same_problem(tmp_path, write_table, shards, dtype):
    rng = np.random.default_rng(1)
    pairs = rng.permutation(50 * 40)[:700]
    user, item, value = pairs // 40 * 3 + 5, pairs % 40 * 2, rng.random(700).astype(dtype)
    write_table(tmp_path, user, item, value, shards)
    assert len(list(tmp_path.glob("side=user/shard=*/*.parquet"))) == 3 * shards
    problem = jals.Problem.open(tmp_path)
    order = np.lexsort((item, user))
    known, rows = zip(*(np.unique(ids[order], return_inverse=True) for ids in (user, item)), strict=True)
    same(problem, jals.Ratings.from_arrays(*rows, value[order]))
    assert np.array_equal(problem.vocab.user, known[0]) and np.array_equal(problem.vocab.item, known[1])


def test_folders_that_the_manifest_does_not_know_are_refused(tmp_path, write_table):
    write_table(tmp_path, np.arange(9), np.arange(9), np.ones(9), 3)
    (tmp_path / "side=user" / "shard=2").rename(tmp_path / "side=user" / "shard=3")
    with pytest.raises(jals.StorageError, match=r"side=user has a shard 3, but manifest\.json says 3"):
        jals.Problem.open(tmp_path)


@pytest.mark.parametrize("gap", [1, 5, 10**10])
def test_entries_are_opened_in_the_order_of_their_numbers(tmp_path, write_table, gap):
    """Numbers with gaps, as Spark gives them, too."""
    rng = np.random.default_rng(2)
    pairs = rng.permutation(30 * 20)[:400]
    user, item, value = pairs // 20, pairs % 20, rng.random(400)
    write_table(tmp_path, user, item, value, 4)
    number = dict(zip(value.tolist(), (np.arange(400) * gap).tolist(), strict=True))
    for path in tmp_path.glob("side=user/shard=*/*.parquet"):
        frame = pl.read_parquet(path, hive_partitioning=False)
        entry = pl.Series("entry", [number[each] for each in frame["value"]], dtype=pl.Int64)
        frame.with_columns(entry).write_parquet(path)
    manifest = tmp_path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"ordered": false', '"ordered": true'))
    rows = [np.unique(ids, return_inverse=True)[1] for ids in (user, item)]
    same(jals.Problem.open(tmp_path), jals.Ratings.from_arrays(*rows, value))
