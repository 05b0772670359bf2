"""The command that shows a user's best unseen items."""

import dataclasses
import io

import numpy as np
import pytest
from rich.console import Console

import jals
from jals.app.commands.evaluate import evaluate, export
from jals.app.commands.recommend import recommend, similar
from jals.app.commands.served import open_run
from jals.files.runs import folder, record
from tests.support.records import resealed


def best_unseen(factors, user, seen, k):
    """(items, scores), the best first: by a plain sort."""
    scores = np.asarray(jals.predict(factors, user, np.arange(len(factors.item))))
    unseen = np.setdiff1d(np.arange(len(scores)), seen)
    best = unseen[np.argsort(-scores[unseen], kind="stable")[:k]]
    return best, scores[best]


def test_items_with_few_entries_can_be_left_out(saved):
    place, table, train = saved
    entries = np.bincount(train.item, minlength=8)
    least = int(np.median(entries)) + 1
    user = table.vocab.user[3]
    listed = [shown(place, str(user), 8, min_entries=bar) for bar in (0, least)]
    unseen = set(range(8)) - set(train.item[train.user == 3].tolist())
    for bar, text in zip((0, least), listed, strict=True):
        for item in range(8):
            assert (str(7000 + item) in text) == (item in unseen and entries[item] >= bar)
    assert listed[0] != listed[1]
    assert f"{(entries < least).sum()} items with fewer than {least} training entries left out\n" in listed[1]
    assert "training entries left out" not in listed[0]


def test_ratings_rest_on_entries_enough_unless_asked_otherwise(saved):
    """Half of the entries are those of the items with most; it is said why, and what answers the other question."""
    place, table, train = saved
    entries = np.bincount(train.item, minlength=8)
    falling = np.sort(entries)[::-1]
    least = next(n for n, of_more in zip(falling, np.cumsum(falling), strict=True) if 2 * of_more >= len(train))
    user = str(table.vocab.user[3])
    default, asked = (shown(place, user, 8, min_entries=bar) for bar in (None, least))
    assert 0 < (entries < least).sum() < 8
    assert [line for line in default.splitlines() if "Title" in line] == [
        line for line in asked.splitlines() if "Title" in line
    ]
    assert f"fewer than {least} training entries left out (--min-entries 0 keeps them): als_wr predicts" in default
    assert "ials and hu_koren" in default and "ials and hu_koren" not in asked


def shown(place, user, k=3, solver="small", **options):
    options = {"min_entries": 0} | options
    output = io.StringIO()
    assert recommend(place, user, k, Console(file=output, width=120, highlight=False), solver, **options) == 0
    return output.getvalue()


def test_command_shows_the_best_unseen_of_a_fit(saved):
    place, table, train = saved
    output = shown(place, str(table.vocab.user[4]))
    seen = train.item[train.user == 4]
    items, scores = best_unseen(jals.load(place / "factors-small.npz").factors, 4, seen, 3)
    rows = [line.split() for line in output.splitlines() if "Title" in line]
    assert [row[:2] for row in rows] == [[str(rank + 1), str(7000 + item)] for rank, item in enumerate(items)]
    assert [row[-1] for row in rows] == [f"{score:.4f}" for score in scores]
    assert f"[bold]Title {items[0]} & <b>" in output
    assert f"{len(seen)} items in the training part" in output
    assert "small (factors-small.npz): the only fit of small that could be served" in output


def test_command_takes_a_solver_by_name(saved):
    place, table, train = saved
    output = shown(place, str(table.vocab.user[4]), solver="large")
    items, scores = best_unseen(jals.load(place / "factors-large.npz").factors, 4, train.item[train.user == 4], 3)
    assert f"{scores[0]:.4f}" in output and str(7000 + items[0]) in output
    with pytest.raises(jals.ArgumentError, match='Did you mean "large"'):
        shown(place, str(table.vocab.user[4]), solver="lage")


def test_command_serves_the_best_by_validation_or_refuses(saved):
    place, table, train = saved
    user = str(table.vocab.user[4])
    with pytest.raises(jals.ArgumentError, match="no validation part"):
        shown(place, user, solver=None)
    fits = folder.read(place).fits
    output = shown(place, user, solver=None, key=fits[1].key[:8])
    assert "large (factors-large.npz): as --fit asks" in output
    measured = [
        fit.changed(metrics=fit.metrics | {"validation": {"rmse": rmse}})
        for fit, rmse in zip(fits, (0.9, 0.8), strict=True)
    ]
    lost = measured[0].changed(key="0" * 32, solver="small", seed=1, error=record.Failure(sweep=1, message="inf"))
    for more, told in (([], "of 2 fits"), ([lost], "not ranked: small seed 1 broke down")):
        (place / folder.FITS).write_text("")
        folder.append(place, measured + more)
        resealed(place)
        output = shown(place, user, solver=None)
        assert "large (factors-large.npz)" in output and told in output
        items, scores = best_unseen(jals.load(place / "factors-large.npz").factors, 4, train.item[train.user == 4], 3)
        assert f"{scores[0]:.4f}" in output and str(7000 + items[0]) in output


def test_unknown_user_is_told_the_nearest(saved):
    place, table, _ = saved
    if table.vocab.user.dtype.kind == "i":
        with pytest.raises(jals.DataError, match="nearest known id is 210"):
            shown(place, "9999")
        with pytest.raises(jals.DataError, match='whole numbers, but "ann" is none'):
            shown(place, "ann")
    else:
        with pytest.raises(jals.DataError, match='Did you mean "user-07"'):
            shown(place, "user-7")


def test_missing_damaged_and_foreign_factors_are_storage_errors(saved):
    place, table, _ = saved
    user = str(table.vocab.user[0])
    path = place / "factors-small.npz"
    factors = jals.load(path).factors
    jals.save(path, factors, table.vocab, data_hash=table.ratings.data_hash())
    with pytest.raises(jals.StorageError, match=r"factors-small\.npz was changed"):
        shown(place, user)
    resealed(place)
    with pytest.raises(jals.StorageError, match="other ratings"):
        shown(place, user)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(jals.StorageError, match="factors-small"):
        shown(place, user)
    path.unlink()
    with pytest.raises(jals.StorageError, match="factors-small"):
        shown(place, user)
    with pytest.raises(jals.StorageError, match=r"not the folder of a `jals run`"):
        shown(place / "nowhere", user)


def test_run_without_factors_is_a_storage_error(saved):
    place, table, _ = saved
    (place / folder.FITS).write_text("")
    resealed(place)
    with pytest.raises(jals.StorageError, match="holds no factors"):
        shown(place, str(table.vocab.user[0]))


# ---- a new user, explanations, similar items, evaluation, export ----


def output_of(command, place, *arguments, **options) -> str:
    output = io.StringIO()
    console = Console(file=output, width=120, highlight=False)
    assert command(place, *arguments, console=console, solver="small", **options) == 0
    return output.getvalue()


def test_a_new_user_is_solved_from_liked_items_at_the_highest_value(saved):
    place, table, train = saved
    output = output_of(recommend, place, None, 3, items="7001, 7004", min_entries=0)
    factors, objective = jals.load(place / "factors-small.npz").factors, jals.als_wr(0.1, bias=True, center=True)
    liked = jals.Ratings.from_arrays([0, 0], [1, 4], np.full(2, train.value.max()), 1, 8)
    row, bias = jals.fold_in(factors, liked, objective)
    alone = dataclasses.replace(factors, user=row, user_bias=bias)
    scores = np.array(jals.predict(alone, 0, np.arange(8)))
    scores[[1, 4]] = -np.inf
    rows = [line.split() for line in output.splitlines() if "Title" in line]
    assert [row[1] for row in rows] == [str(7000 + item) for item in np.argsort(-scores)[:3]]
    assert f"a new user (value {train.value.max():g} each): 2 items given, left out" in output
    with pytest.raises(jals.DataError, match="7777"):
        output_of(recommend, place, None, 3, items="7001,7777")
    for both_or_none in ({"user": None}, {"user": str(table.vocab.user[0]), "items": "7001"}):
        with pytest.raises(jals.ArgumentError, match="either --user"):
            output_of(recommend, place, both_or_none.pop("user"), 3, **both_or_none)


def test_explanations_name_the_entries_that_add_most(saved):
    place, table, train = saved
    output = output_of(recommend, place, str(table.vocab.user[4]), 1, explained=True, min_entries=0)
    factors = jals.load(place / "factors-small.npz").factors
    (item, *_), _ = best_unseen(factors, 4, train.item[train.user == 4], 1)
    parts = jals.explain(factors, jals.Problem.build(train), jals.als_wr(0.1, bias=True, center=True), 4, int(item))
    told = " ".join(output.split())
    for other, part in zip(parts.item[:3], parts.contribution[:3], strict=True):
        assert f"Title {other} & <b> {part:+.2f}" in told


def test_similar_items_are_those_of_the_largest_cosine(saved):
    place, _, _ = saved
    output = output_of(similar, place, "7003", 3)
    rows = np.asarray(jals.load(place / "factors-small.npz").factors.item)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosine = rows @ rows[3]
    expected = [row for row in np.argsort(-cosine, kind="stable") if row != 3][:3]
    lines = [line.split() for line in output.splitlines() if "Title" in line][1:]
    assert [line[1] for line in lines] == [str(7000 + row) for row in expected]


def test_evaluation_stands_beside_the_most_popular(saved):
    place, table, train = saved
    output = output_of(evaluate, place, k=(2, 3), metrics=("recall", "coverage"))
    test = jals.split.random(table.ratings, 0.2, seed=0)[1]
    factors = jals.load(place / "factors-small.npz").factors
    own = jals.metrics.ranking(factors, test, train, (2, 3), ("recall", "coverage"))
    rows = {line.split()[0]: line.split() for line in output.splitlines() if "@" in line}
    assert rows.keys() == own.mean.keys()
    for name, (_, mean, *rest) in rows.items():
        assert mean == f"{own.mean[name]:.4f}"
        assert ("±" in rest) == (not name.startswith("coverage"))
    assert "most popular" in output and f"{len(own.user)} users" in output
    with pytest.raises(jals.ArgumentError, match="no validation part"):
        output_of(evaluate, place, k=(2,), metrics=("recall",), part="validation")


def test_a_user_who_has_seen_everything_is_told(saved):
    place, _, _ = saved
    every = ",".join(str(7000 + item) for item in range(8))
    output = output_of(recommend, place, None, 3, items=every, min_entries=0)
    assert "Nothing is left: 8 of 8 items are seen." in output and "rank" not in output and "lower" not in output
    output = output_of(recommend, place, None, 3, items="7001", min_entries=99)
    assert "Nothing is left: 1 of 8 items are seen. The others have fewer than 99 training entries: lower" in output


@pytest.mark.parametrize("bias", [True, False])
def test_rows_of_zeros_are_told(saved, bias, monkeypatch):
    """A user and an item without training entries: what the order rests on, and that nothing is like the item."""
    place, table, train = saved
    served = open_run(place, Console(file=io.StringIO()), "small")
    factors = served.recommender.factors
    user, item = (np.asarray(rows).copy() for rows in (factors.user, factors.item))
    user[4], item[3] = 0, 0
    none = {} if bias else {"user_bias": None, "item_bias": None, "mean": None}
    factors = dataclasses.replace(factors, user=user, item=item, **none)
    fold = served.fold._replace(train=train.select(train.user != 4))
    poor = served._replace(recommender=served.recommender._replace(factors=factors), fold=fold)
    monkeypatch.setattr("jals.app.commands.recommend.open_run", lambda *_: poor)
    output = output_of(recommend, place, str(table.vocab.user[4]), 1)
    said = "items are ordered as for everyone" if bias else "all scores are equal, and the order means nothing"
    assert f"This user has no training entries: {said}. --items takes" in output
    assert "no training entries" not in output_of(recommend, place, str(table.vocab.user[5]), 1)
    output = output_of(similar, place, "7003", 3)
    assert "The factors of item 7003 are 0" in output and "rank" not in output


def test_an_export_answers_without_the_run(saved, tmp_path_factory):
    place, table, train = saved
    path = tmp_path_factory.mktemp("elsewhere") / "factors.npz"
    assert str(path.name) in output_of(export, place, path)
    loaded = jals.load(path)
    user = table.vocab.user[4]
    ids, scores = loaded.recommend([user], k=3)
    items, best = best_unseen(loaded.factors, 4, train.item[train.user == 4], 3)
    assert ids[0].tolist() == [7000 + item for item in items]
    np.testing.assert_allclose(scores[0], best, rtol=1e-6)
