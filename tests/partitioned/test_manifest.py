"""What the manifest says is checked, and so are the files that it names."""

import json
import shutil

import numpy as np
import pytest

import jals
from tests.partitioned.support import ratings, same

pytest.importorskip("duckdb", reason='partitioning needs the extra "partition"')
pl = pytest.importorskip("polars")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table") / "whole"
    jals.partition(ratings(), folder, 4)
    return folder


@pytest.fixture
def table(whole, tmp_path):
    """A copy to be damaged."""
    return shutil.copytree(whole, tmp_path / "table")


def change(table, **keys):
    """Changes keys of the manifest; `user__rows` is that of the user side."""
    content = json.loads((table / "manifest.json").read_text())
    for key, value in keys.items():
        *outer, last = key.split("__")
        inner = content
        for name in outer:
            inner = inner[name]
        inner[last] = value
    (table / "manifest.json").write_text(json.dumps(content))


def synthetic(folder, shards=1024, entries=30_000_000, **keys):
    """The manifest of a table of 30 G entries, which is not there."""
    side = {"rows": 365_000_000, "size": 365_000_000 // shards + 1, "ids": "int64", "entries": [entries] * shards}
    content = {"format": "jals partitioned table", "version": 1, "shards": shards, "entries": entries * shards}
    content |= {"value": "float32", "weighted": False, "ordered": True, "user": side, "item": side | {"files": None}}
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps(content | keys))
    return folder


def test_more_entries_than_int32_numbers(tmp_path):
    manifest = jals.Manifest.read(synthetic(tmp_path / "web"))
    assert manifest.entries == 30_720_000_000 > 2**31
    assert [len(manifest.shards_of(part, 256)) for part in (0, 255)] == [4, 4]
    assert manifest.shards_of(255, 256) == range(1020, 1024)
    with pytest.raises(jals.DataError, match=r"holds 30,720,000,000 entries, but a problem in memory"):
        jals.Problem.open(tmp_path / "web")


def test_a_shard_of_too_many_entries_is_refused(tmp_path):
    assert jals.Manifest.read(synthetic(tmp_path / "most", 2, 2**31 - 1)).entries == 2**32 - 2
    with pytest.raises(jals.StorageError, match=r"shard 0 of the user side holds 2,147,483,648 entries"):
        jals.Manifest.read(synthetic(tmp_path / "more", 2, 2**31))


def test_parts_have_to_divide_the_shards(whole):
    with pytest.raises(jals.ArgumentError, match=r"3 parts do not divide 4 shards; these do: 1, 2, 4\."):
        jals.Manifest.read(whole).shards_of(0, 3)


@pytest.mark.parametrize(
    "keys, said",
    [
        ({"version": 2}, "is of version 2, but this jals reads version 1"),
        ({"format": "orc"}, "is not one of jals"),
        ({"shards": 0}, "shards is 0, but must be a whole number from 1"),
        ({"shards": 4.0}, r"shards is 4\.0"),
        ({"value": "float16"}, 'value is "float16", but must be one of "float32", "float64"'),
        ({"weighted": 1}, "weighted is 1, but must be one of false, true"),
        ({"user": None}, "user is null, but must be an object"),
        ({"user__rows": 10**6}, "user.size is 24, but must be so large that 4 shards hold 1,000,000 rows"),
        ({"user__ids": "uuid"}, "user.ids is"),
        ({"user__entries": [1, 2]}, "user.entries is .* a list of 4 whole numbers"),
        ({"user__entries": [1, 2, 3, 4]}, "user.entries sum to 10, but entries is 3,000"),
        ({"user__files": [{"name": "a"}]}, "user.files is"),
        ({"user__files": [{"path": "../x.parquet"}]}, "no place for a file of the user side"),
        ({"user__files": [{"path": "side=user/shard=9/x.parquet"}]}, "no place for a file of the user side"),
    ],
)
def test_a_manifest_that_cannot_be_is_refused(table, keys, said):
    change(table, **keys)
    with pytest.raises(jals.StorageError, match=said):
        jals.Problem.open(table)


def test_a_missing_or_cut_manifest_is_refused(table):
    (table / "manifest.json").write_text((table / "manifest.json").read_text()[:-20])
    with pytest.raises(jals.StorageError, match=r"manifest\.json cannot be read"):
        jals.Problem.open(table)
    (table / "manifest.json").unlink()
    with pytest.raises(jals.StorageError, match=r"no manifest\.json: it is no partitioned table, or not a whole one"):
        jals.Problem.open(table)


@pytest.mark.parametrize("path", ["side=item/shard=0002/0000.parquet", "rows/user/0000.parquet"])
def test_a_changed_file_is_named(table, path):
    content = bytearray((table / path).read_bytes())
    content[len(content) // 2] ^= 1
    (table / path).write_bytes(content)
    with pytest.raises(jals.StorageError, match=f"{path} is changed.*SHA-256"):
        jals.Problem.open(table)
    (table / path).write_bytes(content[:-1])
    with pytest.raises(jals.StorageError, match=f"{path} is changed.*bytes"):
        jals.Problem.open(table, verify=False)
    (table / path).unlink()
    with pytest.raises(jals.StorageError, match=f"{path} is missing"):
        jals.Problem.open(table, verify=False)


def test_the_shard_is_named(table):
    (table / "side=user/shard=0003/0000.parquet").unlink()
    with pytest.raises(jals.StorageError, match=r"missing \(shard 3 of the user side\)"):
        jals.Problem.open(table)


def test_files_without_hashes_are_read_and_said(table):
    content = json.loads((table / "manifest.json").read_text())
    change(table, user__files=[{"path": file["path"]} for file in content["user"]["files"]])
    with pytest.warns(UserWarning, match=r"5 of 10 files have no SHA-256 in manifest\.json and are read unverified"):
        same(jals.Problem.open(table), ratings())
    same(jals.Problem.open(table, verify=False), ratings())


def rewrite(table, path, of):
    """One file of the table with other columns; its size and hash are no longer said."""
    (of(pl.read_parquet(table / path))).write_parquet(table / path)
    change(table, user__files=None, item__files=None)


SHARD = "side=user/shard=0001/0000.parquet"
ROWS = "rows/user/0000.parquet"


def with_one(column, row, value):
    return lambda frame: frame.with_columns(
        pl.Series(column, [value if at == row else each for at, each in enumerate(frame[column])])
    )


@pytest.mark.parametrize(
    "path, of, said",
    [
        (SHARD, with_one("value", 5, np.nan), r"0000\.parquet \(shard 1 of the user side\), row 5: value is nan"),
        (SHARD, with_one("value", 5, np.inf), "row 5: value is inf"),
        (SHARD, with_one("value", 5, None), "row 5: value is empty"),
        (SHARD, with_one("weight", 6, -1.0), "row 6: weight is -1.0"),
        (SHARD, with_one("row", 7, 1000), r"row 7: row is 1000, but must be from 0 to 2\d"),
        (SHARD, with_one("other", 0, -1), "row 0: other is -1, but"),
        (SHARD, with_one("entry", 0, 1), "two entries of the user side have the number 1"),
        (SHARD, lambda frame: frame[1:], r"shard 1 of the user side holds 7\d\d entries, but manifest.json says"),
        (SHARD, lambda frame: frame[[0, *range(frame.height - 1)]], "user .*, item .* twice"),
        (SHARD, lambda frame: frame.drop("weight"), "lacks a column"),
        (SHARD, lambda frame: frame.with_columns(pl.col("row").cast(pl.Float64)), "column 'row' holds Float64"),
        (ROWS, lambda frame: frame[1:], "has 92 rows, but must have each of 93 once"),
        (ROWS, with_one("shard", 0, 4), "shard 4 is not below 4"),
        (ROWS, lambda frame: frame.with_columns(shard=0, place=0), "two users at one place"),
    ],
)
def test_a_wrong_field_of_a_partition_is_named(table, path, of, said):
    rewrite(table, path, of)
    with pytest.raises((jals.DataError, jals.StorageError), match=said):
        jals.Problem.open(table, verify=False)


def test_a_place_of_no_row_is_refused(table):
    manifest = jals.Manifest.read(table)
    taken = pl.read_parquet(manifest.row_files("item")[0])
    spots = set((taken["shard"] * manifest.item.size + taken["place"]).to_list())
    free = next(spot for spot in range(manifest.shards * manifest.item.size) if spot not in spots)
    rewrite(table, SHARD, with_one("other", 3, free))
    with pytest.raises(jals.DataError, match="row 3: item is -1, but is no row's place"):
        jals.Problem.open(table, verify=False)


def test_a_file_that_is_no_parquet_is_named(table):
    (table / SHARD).write_bytes(b"PAR1 and no more")
    change(table, user__files=None)
    with pytest.raises(jals.StorageError, match=r"0000\.parquet is damaged, or not a Parquet file"):
        jals.Problem.open(table, verify=False)


def test_what_does_not_work_says_what_does(whole):
    with pytest.raises(jals.ArgumentError, match=r"devices is 64, but jax has \d+ here"):
        jals.Problem.open(whole, devices=64)
    for given in ({"stream": True}, {"layout": "padded"}):
        with pytest.raises(jals.ArgumentError, match='devices are for stream=False and layout="bucketed"'):
            jals.Problem.open(whole, devices=1, **given)
    with pytest.raises(jals.ArgumentError, match="exchange is 'ring', but is for several devices"):
        jals.Problem.open(whole, exchange="ring")
    with pytest.raises(jals.ArgumentError, match=r"stream is 1\.5, but must be True or False"):
        jals.Problem.open(whole, stream=1.5)
