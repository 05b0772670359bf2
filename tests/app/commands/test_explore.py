"""What `jals explore` answers, without a page."""

import dataclasses

import numpy as np
import pytest
from rich.console import Console

import jals
from jals.app.commands import explore as room
from jals.app.commands.explore.answers import Answers
from jals.app.commands.explore.search import Finder
from jals.plot.item_map import ItemMap
from jals.recommend import explanation, folding
from tests.support import needs
from tests.support.commands import jals_command


def some_answers(objective, users=30, items=40, rank=4, weighted=False):
    """Of factors drawn at random."""
    data, factors = jals.datasets.synthetic(users, items, rank, 0.3, seed=1, bias=objective.bias, skew=1.0)
    value = (1 + np.arange(len(data.ratings)) % 5).astype(np.float32)
    weight = (np.arange(len(value)) % 3 / 2).astype(np.float32) if weighted else None
    train = jals.Ratings.from_arrays(data.ratings.user, data.ratings.item, value, users, items, weight)
    return Answers(factors, objective, train), factors, train


RATED, TAKEN = jals.als_wr(0.1, bias=True, center=True), jals.ials(0.1, 0.1)


def test_search_takes_ids_first_then_beginnings_then_words_in_any_order():
    titles = ["Matrix, The", "The Others", "Amélie", "Otherworld 12", "", "The other Matrix"]
    finder = Finder([12, 7, 120, 9, 1200, 3], titles, np.array([5, 9, 2, 1, 3, 8]))
    assert finder.find("12") == [0, 4, 2, 3]
    assert finder.find("the matrix") == [5, 0]
    assert finder.find("MATRIX the") == [0, 5]  # begins so, without its comma
    assert finder.find("amelie") == finder.find("AMÉLIE ") == [2]
    assert finder.find("other") == [3, 1, 5]
    assert finder.find("nowhere") == []
    assert finder.find(None) == finder.find("  ") == [1, 5, 0, 4, 2, 3]  # those with most entries
    assert finder.find("", most=2) == [1, 5] and finder.find("t", most=1) == [1]
    assert [finder.name(row) for row in (2, 4)] == ["Amélie", "1200"]
    without = Finder(["u-1", "u-10"], None, np.array([1, 2]))
    assert without.find("u-1") == [0, 1] and without.name(1) == "u-10"


@pytest.mark.parametrize("measure", ["cosine", "dot"])
def test_neighbours_are_those_of_a_plain_sort(measure):
    answers, factors, _ = some_answers(TAKEN)
    least = int(np.median(answers.entries))
    for bar in (0, least):
        y = factors.item / (np.linalg.norm(factors.item, axis=1, keepdims=True) if measure == "cosine" else 1)
        likeness = y @ y[3]
        open_ = [row for row in range(40) if row != 3 and answers.entries[row] >= bar]
        expected = sorted(open_, key=lambda row: -likeness[row])[:5]
        found = answers.near(3, measure, bar, k=5)
        assert [row for row, _ in found] == expected
        np.testing.assert_allclose([one for _, one in found], likeness[expected], rtol=1e-5)
    assert least > 0 and answers.near(3, least=10**6) == []


def test_what_has_no_factors_is_like_nothing():
    _, factors, train = some_answers(TAKEN)
    blank = np.where(np.arange(40)[:, None] == 3, 0, factors.item)
    assert Answers(dataclasses.replace(factors, item=blank), TAKEN, train).near(3) == []


def test_ratings_are_a_users_own_with_the_changes():
    answers, _, train = some_answers(RATED, weighted=True)
    user = int(np.bincount(train.user).argmax())
    counted = (train.user == user) & (train.weight > 0)
    own = dict(zip(train.item[counted].tolist(), train.value[counted].tolist(), strict=True))
    plain = answers.rated(user)
    assert dict(zip(plain.item.tolist(), plain.value.tolist(), strict=True)) == own
    assert (np.diff(plain.value) <= 0).all() and not plain.changed.any() and (plain.weight > 0).all()
    assert len(own) < (train.user == user).sum(), "some have weight 0"
    kept, gone, *_ = own
    new = next(item for item in range(40) if item not in train.item[train.user == user])
    after = answers.rated(user, {kept: 2.5, new: 4.5}, (gone,))
    assert after.item[:2].tolist() == [new, kept] and after.value[:2].tolist() == [4.5, 2.5]
    assert after.changed.tolist() == [True, True] + [False] * (len(own) - 2)
    assert set(after.item.tolist()) == set(own) - {gone} | {new} and len(after.item) == len(own)
    assert len(answers.rated(None).item) == 0


@pytest.mark.parametrize("objective, weighted", [(RATED, True), (TAKEN, False)], ids=["rated", "taken"])
def test_recommendations_are_those_of_a_row_folded_in_and_are_explained(objective, weighted):
    answers, factors, _ = some_answers(objective, weighted=weighted)
    rated = answers.rated(2, {5: 1.0, 6: 5.0})
    nobody = np.zeros(len(rated.item), int)
    table = jals.Ratings.from_arrays(nobody, rated.item, rated.value, 1, 40, rated.weight)
    row, bias = jals.fold_in(factors, table, objective)
    scores = np.array(jals.predict(dataclasses.replace(factors, user=row, user_bias=bias), nobody[:1], np.arange(40)))
    least = int(np.median(answers.entries))
    for bar in (0, least):
        open_ = [item for item in range(40) if item not in rated.item and answers.entries[item] >= bar]
        best = answers.recommended(rated, bar)
        assert [one.item for one in best] == sorted(open_, key=lambda item: -scores[item])[:10]
        for one in best:
            assert one.score == pytest.approx(scores[one.item], abs=1e-5)
            parts = [part for _, part in one.reasons]
            assert sum(parts) + one.rest + one.offset == pytest.approx(one.score, abs=1e-5)
            assert {item for item, _ in one.reasons} <= set(rated.item.tolist())
            assert len(parts) == 3 and (np.diff(np.abs(parts)) <= 0).all() and one.others == len(rated.item) - 3
    assert answers.recommended(answers.rated(None)) == [] == answers.recommended(rated, 10**6)


def test_another_rating_compiles_nothing():
    answers, *_ = some_answers(TAKEN, items=300)
    programs = folding._solved, explanation._parts
    answers.compile()
    before = [program._cache_size() for program in programs]
    for count in (2, 3, 20):
        assert answers.recommended(answers.rated(None, dict.fromkeys(range(count), 1.0)), k=2)
        assert answers.recommended(answers.rated(count), k=1)
    assert [program._cache_size() for program in programs] == before


def test_a_value_counts_where_the_model_looks_at_it():
    made = [some_answers(each)[0] for each in (RATED, TAKEN, jals.hu_koren(0.1, 2.0), jals.wals(0.1, 0.1))]
    said = [(answers.values_count, answers.by_value) for answers in made]
    assert said == [(True, True), (False, False), (True, False), (True, True)]
    rated, taken, *_ = made
    assert (rated.low, rated.high, rated.step, rated.liked) == (1, 5, 1, 5) and taken.liked == 3
    assert rated.least > 0 == taken.least


def test_the_map_shows_the_two_widest_directions_of_the_items_with_most_entries():
    rng = np.random.default_rng(0)
    item = rng.normal(size=(50, 6)) * [1, 3, 0.5, 2, 0.1, 0.2]
    item[7] = 0
    entries = rng.permutation(50)
    entries[[7, 8]] = 100, 0
    plane = ItemMap(item, entries, most=30)
    known = [row for row in np.argsort(-entries) if row not in (7, 8)]
    assert plane.drawn.tolist() == known[:30]
    assert set(ItemMap(item, entries).drawn.tolist()) == {row for row in known if entries[row]}
    y = item[known[:30]] / np.linalg.norm(item[known[:30]], axis=1, keepdims=True)
    u, s, _ = np.linalg.svd(y - y.mean(axis=0), full_matrices=False)
    place = plane.place(plane.drawn)
    np.testing.assert_allclose(np.abs(place), np.abs((u * s)[:, :2]), atol=1e-10)
    np.testing.assert_allclose(plane.share, s[:2] ** 2 / (s**2).sum())
    assert np.isfinite(plane.place([7, 8, known[40]])).all()
    line = ItemMap(item[:, :1], entries)
    assert line.share[1] == 0 and (line.place([3, 4])[:, 1] == 0).all()
    assert len(ItemMap(np.zeros((4, 3)), np.ones(4)).drawn) == 0


# ---- the command ----


def test_without_the_extra_it_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr(room, "find_spec", lambda name: None)
    told = jals_command("explore", tmp_path)
    assert told.exit_code == 2 and 'pip install "jals[explore]"' in told.output


def test_titles_come_from_a_file(saved, tmp_path):
    place, table, train = saved
    needs("explore")
    served = room.open_run(place, Console(quiet=True), "small")
    assert room.explored(place, served).items.titles == table.titles.tolist()
    (tmp_path / "named.csv").write_text('movieId,title,year\n7001,"One, or more",1999\n7003,Three\n9999,Nothing\n')
    shown = room.explored(place, served, tmp_path / "named.csv")
    assert [shown.items.name(row) for row in (0, 1, 3)] == ["7000", "One, or more", "Three"]
    assert f"als_wr, rank 2, fitted to {len(train)} ratings of 12 users and 8 items" in shown.facts
    (tmp_path / "others.csv").write_text("id,title\n1,One\n")
    with pytest.raises(jals.DataError, match="names none of the 8 items: its first column must be their ids"):
        room.explored(place, served, tmp_path / "others.csv")
    with pytest.raises(jals.DataError, match="no file or folder"):
        room.explored(place, served, tmp_path / "nowhere.csv")


def test_a_visitor_weighs_what_a_newcomer_of_the_table_does():
    """Where entries weigh by their numbers: the visitor's own number, in the measure of the table's."""
    objective = jals.ials(0.1, 0.1, weight_power_user=-0.5, weight_power_item=0.4, unobserved_power_user=0.3)
    answers, factors, train = some_answers(objective, weighted=True)
    rated = answers.rated(None, {3: 1.0, 8: 2.0, 11: 1.0})
    found = answers.recommended(rated, k=4)
    vocab = jals.Vocabulary(np.arange(train.num_users).astype(str), np.arange(train.num_items))
    recommender = jals.Recommender(factors, vocab, objective, train)
    own = jals.Ratings.from_arrays(np.zeros(3, int), rated.item, rated.value, 1, train.num_items)
    row, _ = jals.fold_in(factors, own, objective.resolved(jals.Problem.build(train), [3.0]))
    grown = recommender.fold_in("someone", rated.item, rated.value)
    expected = factors.item @ row[0]
    np.testing.assert_allclose(grown.factors.user[-1], row[0], rtol=1e-4)
    for one in found:
        np.testing.assert_allclose(one.score, expected[one.item], rtol=1e-4)
        np.testing.assert_allclose(sum(part for _, part in one.reasons) + one.rest + one.offset, one.score, rtol=1e-3)
