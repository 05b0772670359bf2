"""The losses of the study `implicit_losses` are their formulas, its seconds are equal, and its page follows its record.
No seconds: its clock is made up."""

import importlib
import itertools
import json
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jals
from tests.support import ROOT, needs, script

needs("cli")


@pytest.fixture(scope="module")
def study():
    folder = str(ROOT / "experiments")
    sys.path.insert(0, folder)
    yield importlib.import_module("implicit_losses")
    sys.path.remove(folder)


@pytest.fixture(scope="module")
def losses(study):
    return study.sampled_losses


USERS, ITEMS, RANK, PENALTY = 5, 11, 3, 0.2


@pytest.fixture
def toy(losses):
    """(taken, factors, pairs, draw): a small table, and factors far from zero."""
    rng = np.random.default_rng(0)
    taken = rng.random((USERS, ITEMS)) < 0.35
    user, item = np.nonzero(taken)
    ratings = jals.Ratings.from_arrays(user, item, np.ones(len(user), np.float32), USERS, ITEMS)
    factors = jals.Factors(*(jnp.asarray(rng.normal(size=(rows, RANK)), jnp.float32) for rows in (USERS, ITEMS)))
    entry = rng.integers(0, len(user), 6)

    def draw(*shape):
        return losses.Batch(*(jnp.asarray(each) for each in (user[entry], item[entry], rng.integers(0, ITEMS, shape))))

    return SimpleNamespace(taken=taken, ratings=ratings, factors=factors, pairs=losses.Pairs.of(ratings), draw=draw)


def squares_and_slopes(x, y, batch):
    """The penalty and its derivatives, row by row: each sum over touched rows is divided by how many were touched."""
    touched = [(x, 0, batch.user), (y, 1, batch.item), (y, 1, batch.negative)]
    value, slopes = 0.0, [np.zeros_like(x), np.zeros_like(y)]
    for rows, side, ids in touched:
        for row in np.ravel(ids):
            value += PENALTY * (rows[row] @ rows[row]) / np.size(ids)
            slopes[side][row] += 2 * PENALTY * rows[row] / np.size(ids)
    return value, *slopes


def bpr_by_hand(x, y, batch, taken):
    value, dx, dy = squares_and_slopes(x, y, batch)
    triples = [(u, i, j) for u, i, js in zip(*map(np.asarray, batch), strict=True) for j in js if not taken[u, j]]
    for u, i, j in triples:
        margin = x[u] @ y[i] - x[u] @ y[j]
        chance = 1 / (1 + np.exp(-margin))
        value += -np.log(chance) / len(triples)
        slope = (chance - 1) / len(triples)
        dx[u] += slope * (y[i] - y[j])
        dy[i] += slope * x[u]
        dy[j] -= slope * x[u]
    return value, dx, dy


def softmax_by_hand(x, y, batch, taken):
    value, dx, dy = squares_and_slopes(x, y, batch)
    size, negatives = len(batch.user), np.asarray(batch.negative)
    for u, i in zip(*map(np.asarray, batch[:2]), strict=True):
        # One term of weight 1 for i, and for each draw of another j one of weight 1 / (N q_j).
        terms = [(i, 1.0)] + [(j, len(y) / len(negatives)) for j in negatives if j != i]
        total = sum(weight * np.exp(x[u] @ y[j]) for j, weight in terms)
        value += -np.log(np.exp(x[u] @ y[i]) / total) / size
        for j, weight in terms:
            share = weight * np.exp(x[u] @ y[j]) / total - (j == i)
            dx[u] += share * y[j] / size
            dy[j] += share * x[u] / size
    return value, dx, dy


@pytest.mark.parametrize(
    ("name", "by_hand", "shape"),
    [("bpr", bpr_by_hand, (6, 1)), ("bpr", bpr_by_hand, (6, 4)), ("sampled_softmax", softmax_by_hand, (7,))],
)
def test_a_loss_and_its_gradient_are_the_formulas(losses, toy, name, by_hand, shape):
    batch = toy.draw(*shape)
    if name == "bpr":  # a negative that the user has taken is among them
        assert toy.taken[np.asarray(batch.user)[:, None], np.asarray(batch.negative)].any()
    else:  # and one that is some pair's own item
        assert np.isin(batch.item, batch.negative).any()
    value, slope = jax.jit(jax.value_and_grad(losses.LOSSES[name]))(toy.factors, batch, toy.pairs, PENALTY)
    x, y = (np.asarray(rows, np.float64) for rows in (toy.factors.user, toy.factors.item))
    expected = by_hand(x, y, batch, toy.taken)
    for own, wanted in zip((value, slope.user, slope.item), expected, strict=True):
        np.testing.assert_allclose(own, wanted, rtol=2e-5, atol=2e-6)


def test_with_every_item_among_the_negatives_it_is_the_full_softmax(losses, toy):
    batch = toy.draw(1)._replace(negative=jnp.arange(ITEMS))

    def full(factors):
        scores = jax.nn.log_softmax(jnp.matmul(factors.user, factors.item.T, precision="highest"), axis=1)
        return -scores[batch.user, batch.item].mean()

    own = jax.jit(jax.value_and_grad(losses.sampled_softmax))(toy.factors, batch, toy.pairs, 0.0)
    expected = jax.jit(jax.value_and_grad(full))(toy.factors)
    for one, two in zip(jax.tree.leaves(own), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


def test_which_pairs_are_observed(losses, toy):
    every = jnp.asarray(list(itertools.product(range(USERS), range(ITEMS))))
    np.testing.assert_array_equal(toy.pairs.observed(*every.T).reshape(USERS, ITEMS), toy.taken)


@pytest.mark.parametrize(("loss", "negatives"), [("bpr", 2), ("sampled_softmax", 16)])
def test_training_ranks_better_than_the_start(losses, loss, negatives):
    """Three groups of users take items of their own third."""
    rng = np.random.default_rng(0)
    users, items = 60, 45
    taken = (rng.random((users, items)) < 0.5) & (np.arange(users)[:, None] % 3 == np.arange(items) % 3)
    user, item = np.nonzero(taken)
    ratings = jals.Ratings.from_arrays(user, item, np.ones(len(user), np.float32), users, items)
    train, held_out = jals.split.by_user(ratings, 0.3, 0)
    pairs, state = losses.Pairs.of(train), losses.start(train, 4, 0)
    ndcg = lambda factors: jals.metrics.ranking(factors, held_out, train, 10, "ndcg").mean["ndcg@10"]  # noqa: E731
    before = ndcg(state.factors)
    for _ in range(20):
        state = losses.advance(state, pairs, 0.03, 0.001, loss=loss, batch=64, negatives=negatives)
    assert before < 0.35 and ndcg(state.factors) > before + 0.25


# ---- equal seconds ----


def test_no_piece_is_begun_that_would_not_be_done_in_time(study, monkeypatch):
    """Pieces of 3 s, of which the first, never counted, compiles for 100; a validation that falls after the third."""
    now, calls = [0.0], []

    def advance(state, numbers):
        calls.append(state)
        now[0] += 100.0 if len(calls) == 1 else 3.0
        return SimpleNamespace(factors=state.factors + 1)

    def score(factors):
        now[0] += 50.0  # outside of the clock
        return float(4 - abs(3 - factors))

    monkeypatch.setattr(study.time, "perf_counter", lambda: now[0])
    way = study.Way(lambda numbers, seed: SimpleNamespace(factors=np.float32(0)), advance)
    fit = study.fitted(way, {}, 0, 32.0, score)
    assert fit.pieces == 10  # 30 s; an eleventh would have ended at 33
    shares = [16 * share for share in study.SHARES]
    assert shares == [1, 2, 4, 6, 8, 12, 16]
    done = [0, 1, 2, 4, 5, 8, 10]  # by 2, 4, 8, 12, 16, 24, 32 s
    assert fit.seconds == [3.0 * each for each in done]
    assert fit.validation == [None, *(4.0 - abs(3 - each) for each in done[1:])]
    assert fit.best == 3 and fit.factors == 2  # the earlier of two equals
    assert fit.near == 6


def test_what_a_summary_says(study):
    one = study.Fit([None, 0.1, 0.3, 0.2], [0, 1, 2, 3], 3, None)
    two = study.Fit([0.1, 0.5, 0.4, 0.5], [1, 2, 3, 4], 4, None)
    found = study.summary([one, two])
    assert found["so_far"][0] is None and found["to_near"] == 2
    np.testing.assert_allclose(found["so_far"][1:], [[0.3, 0.2, 2], [0.4, 0.1, 2], [0.4, 0.1, 2]])


def test_differences_are_paired(study):
    """Two models that differ by a place for every user, whatever the users differ by."""
    rng = np.random.default_rng(0)
    test = jals.Ratings.from_arrays(np.arange(40), np.zeros(40, int), np.ones(40, np.float32), 40, 30)

    def rankings(shift):
        hard = rng.integers(0, 20, 40)
        scores = -np.tile(np.arange(30.0), (40, 1))
        scores[:, 0] = -hard - 0.5 + shift  # at place hard + 1, or one further up
        return study.ranked(lambda users: scores[users], test, None)

    state = rng.bit_generator.state
    first = [rankings(1.0), rankings(1.0)]
    rng.bit_generator.state = state
    second = [rankings(0.0), rankings(0.0)]
    mean, error = study.less(first, second)["ndcg@20"]
    per_user = np.mean([a.per_user["ndcg@20"] - b.per_user["ndcg@20"] for a, b in zip(first, second, strict=True)], 0)
    seeds = [a.mean["ndcg@20"] - b.mean["ndcg@20"] for a, b in zip(first, second, strict=True)]
    assert mean == pytest.approx(per_user.mean()) and mean > 0
    assert error**2 == pytest.approx(per_user.var(ddof=1) / 40 + np.var(seeds, ddof=1) / 2)


def test_random_draws_stay_in_their_ranges_and_edges_are_told(study):
    rng = np.random.default_rng(0)
    for tuned in study.TUNED.values():
        for name, number in [pair for _ in range(50) for pair in study.drawn(tuned, rng).items()]:
            of = tuned[name]
            assert of.low <= number <= of.high if isinstance(of, study.Range) else number in of
    decades = study.Range(1e-4, 1.0)
    assert [decades.at_edge(number) for number in (1.1e-4, 3e-4, 0.01, 0.3, 0.9)] == [True, False, False, False, True]


# ---- the page ----


def page_of(collect, tmp_path, monkeypatch, change):
    for path in collect.RESULTS.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    own = tmp_path / "implicit_losses.json"
    found = json.loads(own.read_text(encoding="utf-8"))
    name, of = next(iter(found["tables"].items()))
    found["tables"] = {name: of}
    change(of)
    own.write_text(json.dumps(found), encoding="utf-8")
    monkeypatch.setattr(collect, "RESULTS", tmp_path)
    page = collect.page()
    return " ".join(page[page.index("## `implicit_losses`") :].partition("\n## ")[0].split())


@pytest.mark.parametrize(
    ("difference", "said"), [(0.05, "is better than"), (-0.05, "is worse than"), (0.015, "ties with")]
)
def test_the_page_says_who_leads_by_rule(tmp_path, monkeypatch, difference, said):
    pytest.importorskip("jinja2", reason='studies need the extra "cli"')

    def change(of):
        of["order"] = ["iALS", "BPR", "sampled softmax"] if difference > 0 else ["BPR", "iALS", "sampled softmax"]
        for one, two, sign in (("iALS", "BPR", 1), ("BPR", "iALS", -1)):
            of["less"][one][two]["ndcg@20"] = [sign * difference, 0.01]
        of["less"]["iALS"]["sampled softmax"]["ndcg@20"] = [0.2, 0.01]
        of["less"]["BPR"]["sampled softmax"]["ndcg@20"] = [0.2, 0.01]
        of["most_popular"] = [0.2, 0.2]
        for label, row in of["ways"].items():
            row["test"] = [[0.3 if label == "iALS" else 0.1, 0.1]] * 3
            row["so_far"] = [[0.2 if label == "BPR" else 0.1, 0.0, 3]] * 6
            row["so_far"].append([0.4 if label == "iALS" else row["so_far"][0][0], 0.0, 3])

    page = page_of(script("experiments", "collect.py"), tmp_path, monkeypatch, change)
    assert f"iALS {said} BPR ({difference:.4f} ± 0.0100 in NDCG@20)" in page
    assert "iALS is better than sampled softmax (0.2000" in page
    first = "iALS" if difference > 0 else "BPR"
    assert f"{first} ranks the test part best{', in a tie with BPR.' if said == 'ties with' else '.'}" in page
    assert "After a sixteenth of the seconds BPR is first in validation." in page
    assert "by more than 1 % in the second half: iALS; more" in page
    assert "so far from learned in these seconds: sampled softmax, BPR." in page
