"""`jals.partition` and `Problem.open`: the same problem as that of the ratings, whatever these come from."""

import gzip
import itertools
import json
import os

import jax
import numpy as np
import pytest

import jals
from jals.data.readers import Reading
from jals.data.sources import open_file
from jals.partitioned import sources
from tests.partitioned.support import hashes, leftovers, ratings, same

duckdb = pytest.importorskip("duckdb", reason='partitioning needs the extra "partition"')
pl = pytest.importorskip("polars")


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shards", [1, 7, 40])
def test_ratings_come_back(tmp_path, shards, weighted):
    table = ratings(weighted=weighted)
    manifest = jals.partition(table, tmp_path / "out", shards)
    assert manifest == jals.Manifest.read(tmp_path / "out")
    assert (manifest.entries, manifest.weighted, manifest.value) == (len(table), weighted, "float64")
    problem = jals.Problem.open(tmp_path / "out")
    same(problem, table)
    assert problem.vocab is None
    assert leftovers(tmp_path) == []


def test_values_and_derivatives_are_those_of_the_ratings(tmp_path):
    table = ratings()
    jals.partition(table, tmp_path / "out", 8)
    objective, solver = jals.als_wr(0.1, bias=True), jals.ALS(3)
    found = []
    for problem in (jals.Problem.build(table), jals.Problem.open(tmp_path / "out")):

        def after(values, problem=problem):
            given = problem.with_values(values)
            state = solver.init(jax.random.key(0), given, objective)
            state, _ = jals.run(solver, state, given, objective, sweeps=2)
            return jals.loss(state.factors, given, objective)

        found.append(jax.value_and_grad(after)(problem.value))
    (value, slope), (value_opened, slope_opened) = found
    assert value == value_opened and np.array_equal(slope, slope_opened) and np.abs(slope).max() > 0


def test_shards_hold_what_the_manifest_says(tmp_path):
    table = ratings()
    manifest = jals.partition(table, tmp_path / "out", 6)
    for side, other in (("user", "item"), ("item", "user")):
        said, beyond = getattr(manifest, side), getattr(manifest, other)
        placed = pl.concat(map(pl.read_parquet, manifest.row_files(side)))
        degree = np.bincount(getattr(table, side), minlength=said.rows)
        assert np.array_equal(placed["degree"], degree)
        assert said.degrees == {
            "min": 0,
            "median": np.median(degree),
            "mean": pytest.approx(degree.mean()),
            "max": degree.max(),
            "empty": (degree == 0).sum(),
        }
        row_at = {(shard, place): row for row, shard, place in placed.select("row", "shard", "place").rows()}
        opposite = pl.concat(map(pl.read_parquet, manifest.row_files(other))).select("row", "shard", "place")
        other_at = {shard * beyond.size + place: row for row, shard, place in opposite.rows()}
        pairs = set()
        for shard, files in enumerate(manifest.shard_files(side)):
            frames = [pl.read_parquet(file) for file in files]
            assert sum(frame.height for frame in frames) == said.entries[shard]
            for frame in frames:
                assert frame.schema["row"] == pl.Int32 and frame.schema["other"] == pl.Int32
                pairs |= {(row_at[shard, row], other_at[at]) for row, at in frame.select("row", "other").rows()}
        assert pairs == set(zip(getattr(table, side).tolist(), getattr(table, other).tolist(), strict=True))


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(sources, "_PIECE", 500)
    monkeypatch.setattr(sources, "_SLICE", 100)


def written(folder, kind, table, ids=lambda number: int(number) * 3 - 7):
    """A file of one kind that holds these ratings."""
    user, item = ([ids(each) for each in column.tolist()] for column in (table.user, table.item))
    lines = [f"{u},{i},{v}" for u, i, v in zip(user, item, table.value.tolist(), strict=True)]
    text = "userId,itemId,rating\n" + "\n".join(lines) + "\n"
    path = folder / f"t.{kind}"
    if kind == "csv":
        path.write_text(text)
    elif kind == "tsv":
        path.write_text(text.replace(",", "\t"))
    elif kind == "dat":
        path.write_text("\n".join(line.replace(",", "::") for line in lines))
    elif kind == "csv.gz":
        path.write_bytes(gzip.compress(text.encode()))
    elif kind == "npz":
        np.savez(path, user=user, item=item, rating=table.value)
    else:
        pl.DataFrame({"userId": user, "itemId": item, "rating": table.value}).write_parquet(path, row_group_size=500)
    return path


@pytest.mark.parametrize("ids", [lambda each: int(each) * 3 - 7, lambda each: f"ü{each}"], ids=["ints", "texts"])
@pytest.mark.parametrize("kind", ["csv", "tsv", "dat", "csv.gz", "npz", "parquet"])
@pytest.mark.usefixtures("small_pieces")
def test_a_file_means_what_read_ratings_reads(tmp_path, kind, ids):
    path = written(tmp_path, kind, ratings(500, weighted=False, users=40, items=30), ids)
    expected, vocab = jals.read_ratings(path)
    jals.partition(path, tmp_path / "out", 5)
    problem = jals.Problem.open(tmp_path / "out")
    same(problem, expected)
    for side in ("user", "item"):
        have, want = getattr(problem.vocab, side), getattr(vocab, side)
        assert have.dtype == want.dtype and np.array_equal(have, want)


TEXTS = {
    "weights": "user,item,rating,weight\n1,2,3,.5\n2,2,1,1\n",
    "whole numbers": "1,2,3\n4,5,6\n7,8,9\n",
    "whole at first": "user,item,rating\n" + "".join(f"{n},2,{n % 5}\n" for n in range(60)) + "99,2,.25\n",
    "beyond float32": "user,item,rating\n" + "".join(f"{n},2,{2**24 + n}\n" for n in range(60)) + "99,2,.25\n",
    "zeros before": "user,item,rating\n007,2,3\n008,2,4\n",
    "zeros later": "user,item,rating\n" + "".join(f"{n},2,1\n" for n in range(60)) + "0077,2,4\n",
    "quoted": 'user,item,rating\n"a, b",x,1\n"c\nd",y,2\n"a second\nbreak",y,2\n"e ""f""",z,3\n',
    "quotes within": "user,item,rating\n" + "".join(f'{n}" vinyl,x,1\n' for n in range(60)),
    "blank lines": "user,item,rating\n1,2,3\n\n2,3,4\n\n",
    "carriage returns": "user,item,rating\r\n1,2,3\r\n2,3,4\r\n",
    "no values": "user,item\n1,2\n2,3\n",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.usefixtures("small_pieces")
def test_text_in_pieces_means_what_the_whole_means(tmp_path, monkeypatch, text):
    monkeypatch.setattr(sources, "_PIECE", 20)
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode())
    expected, vocab = jals.read_ratings(path)
    jals.partition(path, tmp_path / "out", 2)
    problem = jals.Problem.open(tmp_path / "out")
    same(problem, expected)
    assert problem.vocab.user.tolist() == vocab.user.tolist() and problem.vocab.item.tolist() == vocab.item.tolist()


@pytest.mark.parametrize("text", ["weights", "whole at first", "quoted", "quotes within", "blank lines"])
@pytest.mark.usefixtures("small_pieces")
def test_regular_text_is_never_read_whole(tmp_path, monkeypatch, text):
    monkeypatch.setattr(sources, "_PIECE", 20)
    monkeypatch.setattr(sources, "read_table", None)
    (tmp_path / "t.csv").write_bytes(TEXTS[text].encode())
    assert jals.partition(tmp_path / "t.csv", tmp_path / "out", 2).entries > 1


def test_pieces_are_cut_where_quotes_are_closed(tmp_path):
    path, content = tmp_path / "t.csv", TEXTS["quoted"].encode()
    path.write_bytes(content)
    wanted = dict.fromkeys(("user", "item", "value", "time", "weight"))
    text = Reading.checked(wanted, None, None, None, "auto").text(path, *open_file(path)[1:])
    for size in range(1, len(content)):
        pieces = [piece.content for piece in text.pieces(size)]
        assert b"".join(pieces) == content.partition(b"\n")[2]
        assert all(piece.count(b'"') % 2 == 0 for piece in pieces)


def test_a_folder_of_files_is_one_table(tmp_path):
    table = ratings(weighted=False)
    folder = tmp_path / "source"
    (folder / "deep").mkdir(parents=True)
    (folder / "_SUCCESS").touch()
    cuts = np.linspace(0, len(table), 12).astype(int)
    for number, (start, end) in enumerate(itertools.pairwise(cuts)):
        inside = folder / f"b{number:02d}"
        inside.mkdir()
        written(inside, "csv" if number % 5 == 4 else "parquet", table.select(np.arange(start, end)), int)
    jals.partition(folder, tmp_path / "out", 4)
    problem = jals.Problem.open(tmp_path / "out")
    expected, vocab = jals.read_ratings(written(tmp_path, "parquet", table, int))
    same(problem, expected)
    assert np.array_equal(problem.vocab.user, vocab.user)


@pytest.mark.skipif(os.name == "nt", reason="such names are POSIX's")
def test_names_stand_for_nothing_else(tmp_path):
    table, folder = ratings(300, weighted=False), tmp_path / "it's [1] *"
    folder.mkdir()
    path = written(folder, "parquet", table).rename(folder / "a?.parquet")
    written(folder, "parquet", ratings(20, 1, False)).rename(folder / "ab.parquet")
    jals.partition(path, folder / "o'ut", 2)
    same(jals.Problem.open(folder / "o'ut"), jals.read_ratings(path)[0])


@pytest.mark.parametrize("duplicates", ["last", "mean", "sum"])
def test_duplicates_are_merged_as_in_ratings(tmp_path, duplicates):
    rng = np.random.default_rng(3)
    user, item = rng.integers(0, 12, 300), rng.integers(0, 9, 300)
    path = tmp_path / "t.parquet"
    columns = {"user": user, "item": item, "value": rng.normal(size=300), "weight": rng.choice([0.0, 1.0, 3.0], 300)}
    pl.DataFrame(columns).write_parquet(path)
    expected, _ = jals.read_ratings(path, duplicates=duplicates)
    manifest = jals.partition(path, tmp_path / "out", 3, duplicates=duplicates)
    same(jals.Problem.open(tmp_path / "out"), expected)
    assert manifest.entries == sum(manifest.item.entries) == len(expected) < 300


def test_duplicates_are_named(tmp_path):
    (tmp_path / "t.csv").write_text("user,item,rating\na,x,1\nb,x,2\n\na,x,3\n")
    with pytest.raises(jals.DataError, match=r"user 'a', item 'x' in .*t\.csv, line 2 and in .*t\.csv, line 5\. Merge"):
        jals.partition(tmp_path / "t.csv", tmp_path / "out", 2)
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


GOOD = {"user": [1, 2, 3], "item": [1, 1, 2], "rating": [1.0, 2.0, 3.0], "weight": [1.0, 1.0, 2.0]}
BAD = {
    "nan": {"rating": [1.0, np.nan, np.nan]},
    "infinite": {"rating": [1.0, 2.0, np.inf]},
    "no value": {"rating": [1.0, None, 2.0]},
    "negative weight": {"weight": [1.0, -1.0, 2.0]},
    "weight of nan": {"weight": [1.0, 1.0, np.nan]},
    "no id": {"user": [1, None, 2]},
    "empty id": {"user": ["a", "", "b"]},
    "ids are numbers": {"user": [0.5, 1.0, 2.0]},
    "values are text": {"rating": ["a", "b", "c"]},
    "no column": {"rating": None},
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD)
def test_a_wrong_field_is_refused_as_by_read_ratings(tmp_path, change):
    columns = {name: column for name, column in (GOOD | change).items() if column is not None}
    pl.DataFrame(columns).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(jals.DataError) as expected:
        jals.read_ratings(tmp_path / "t.parquet")
    with pytest.raises(jals.DataError) as found:
        jals.partition(tmp_path / "t.parquet", tmp_path / "out", 2)
    types = {"Float64": "DOUBLE", "String": "VARCHAR"}  # in the words of each library
    want = str(expected.value)
    for old, new in types.items():
        want = want.replace(old, new)
    start = "such as" if "holds" in want else "\n"
    assert str(found.value).startswith(want.partition(start)[0].removesuffix(", "))
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]


def test_ids_beyond_int64_are_refused(tmp_path):
    pl.DataFrame(GOOD | {"user": pl.Series([1, 2**63, 2], dtype=pl.UInt64)}).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(jals.DataError, match=r"t\.parquet, row 1, column 'user' is 9223372036854775808, beyond int64"):
        jals.partition(tmp_path / "t.parquet", tmp_path / "out", 2)


@pytest.mark.usefixtures("small_pieces")
def test_a_wrong_line_is_named(tmp_path):
    lines = [f"{n},{n},1" for n in range(80)]
    lines[71] = "71,x1,1"
    (tmp_path / "t.csv").write_text("user,item,rating\n" + "\n".join(lines) + "\n")
    with pytest.raises(jals.DataError, match=r"t\.csv, line 73, column 'item' is 'x1', no integer"):
        jals.partition(tmp_path / "t.csv", tmp_path / "out", 2)


def test_empty_sources_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(jals.DataError, match="without files"):
        jals.partition(tmp_path / "empty", tmp_path / "out")
    pl.DataFrame(GOOD).clear().write_parquet(tmp_path / "empty" / "t.parquet")
    with pytest.raises(jals.DataError, match="has no rows"):
        jals.partition(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(jals.DataError, match="no file or folder"):
        jals.partition(tmp_path / "none", tmp_path / "out")


def test_files_whose_ids_differ_in_kind_are_refused(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    pl.DataFrame(GOOD).write_parquet(source / "a.parquet")
    pl.DataFrame(GOOD | {"user": ["1", "7", "8"]}).write_parquet(source / "b.parquet")
    with pytest.raises(jals.DataError, match=r"b\.parquet: column 'user' holds text, but .*a\.parquet integers"):
        jals.partition(source, tmp_path / "out", 2)
    jals.partition(source, tmp_path / "out", 2, ids=("str", "auto"), duplicates="last")
    assert jals.Problem.open(tmp_path / "out").vocab.user.tolist() == ["1", "2", "3", "7", "8"]


def test_a_vocabulary_goes_with_ratings(tmp_path):
    table, vocab = jals.Ratings.from_dataframe(pl.DataFrame({"user": ["b", "a"], "item": [9, 4], "value": [1.0, 2.0]}))
    jals.partition(table, tmp_path / "out", 2, vocab=vocab)
    problem = jals.Problem.open(tmp_path / "out")
    assert problem.vocab.user.tolist() == ["a", "b"] and problem.vocab.item.tolist() == [4, 9]
    assert problem.with_values(problem.value).arrange().vocab is problem.vocab
    with pytest.raises(jals.ArgumentError, match="vocab has 2 users, but the ratings have 93"):
        jals.partition(ratings(), tmp_path / "other", vocab=vocab)


def test_ids_do_not_compile_anything_again(tmp_path):
    table, vocab = jals.Ratings.from_dataframe(pl.DataFrame({"user": ["b", "a"], "item": [9, 4], "value": [1.0, 2.0]}))
    jals.partition(table, tmp_path / "out", 2, vocab=vocab)
    traced = []

    @jax.jit
    def entries(problem):
        traced.append(problem)
        return problem.value.sum()

    opened = jals.Problem.open(tmp_path / "out")
    assert entries(opened) == entries(jals.Problem.build(table)) == 3
    assert len(traced) == 1 and traced[0].vocab is None


def test_threads_and_memory_change_nothing(tmp_path):
    table = ratings()
    found = [
        hashes(jals.partition(table, tmp_path / str(threads), 5, threads=threads, memory=memory))
        for threads, memory in ((1, "200MB"), (3, "1GB"))
    ]
    assert found[0] == found[1] and len(found[0]) == 12


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"shards": 0}, "shards is 0"),
        ({"memory": "lots"}, "memory is 'lots'"),
        ({"threads": 0}, "threads is 0"),
        ({"duplicates": "first"}, "duplicates is 'first'"),
        ({"ids": "float"}, "ids is 'float'"),
    ],
)
def test_arguments_are_checked(tmp_path, arguments, said):
    with pytest.raises(jals.ArgumentError, match=said):
        jals.partition(ratings(), tmp_path / "out", **arguments)
    assert not list(tmp_path.iterdir())


def test_too_little_memory_is_said(tmp_path):
    with pytest.raises(jals.StorageError, match="20KB of memory are too little"):
        jals.partition(ratings(), tmp_path / "out", memory="20KB")
    assert not list(tmp_path.iterdir())


def test_what_exists_is_kept(tmp_path):
    first, second = ratings(seed=1), ratings(seed=2)
    jals.partition(first, tmp_path / "out", 2)
    with pytest.raises(jals.StorageError, match="exists"):
        jals.partition(second, tmp_path / "out", 2)
    same(jals.Problem.open(tmp_path / "out"), first)
    jals.partition(second, tmp_path / "out", 3, overwrite=True)
    same(jals.Problem.open(tmp_path / "out"), second)
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["shards"] == 3
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(jals.StorageError, match="not replaced"):
        jals.partition(second, tmp_path / "mine", 3, overwrite=True)
    assert (tmp_path / "mine" / "thesis.tex").exists() and leftovers(tmp_path) == []
