"""Which fit of a run is the best: over records of fits that were never made."""

import hashlib

import pytest

import jals
from jals.app.config.schema import Config
from jals.app.study import best_fit
from jals.files.runs import record

ONLY = "the only fit that could be served, and has not ended"
RANKS = {"solver.*.rank": [4, 8]}


def config(solvers=("als",), seeds=(0,), **tables) -> Config:
    return Config.model_validate(
        {
            "data": {"path": "table.csv"},
            "split": {"kind": "random", "validation_fraction": 0.1},
            "objective": {"preset": "als_wr", "reg": 0.1},
            "solver": [{"kind": "als", "name": name, "rank": 4} for name in solvers],
            "fit": {"seeds": list(seeds)},
        }
        | tables
    )


def fit(
    validation=None, test=0.5, solver="als", seed=0, fold=None, rank=None, point=None, **changes
) -> record.FitRecord:
    """A line of a record. Test RMSE is the same wherever it is to decide nothing, or lowest where it might mislead."""
    point = point or ({} if rank is None else {"solver.*.rank": rank})
    scores = {"test": {"rmse": test}} | ({} if validation is None else {"validation": {"rmse": validation}})
    key = hashlib.sha256(repr((solver, seed, fold, point, changes.get("trial"))).encode()).hexdigest()[:32]
    fields = {"key": key, "solver": solver, "kind": "als", "fold": fold, "seed": seed, "point": point, "trial": None}
    fields |= {"tuned": {}, "data": "table.csv", "rank": 4, "own_minimiser": False, "factors": f"factors/{key[:8]}.npz"}
    fields |= {"reason": "sweeps", "error": None, "sweeps": 1, "converged": False, "compile_seconds": 0.0}
    fields |= {"program": 0, "history": {"sweep": [0]}, "metrics": scores}
    kind = record.Unfinished if changes.get("reason") == "interrupted" else record.FitRecord
    return kind.model_validate(fields | changes)


def broken(**options) -> record.FitRecord:
    return fit(error={"sweep": 1, "message": "sweep 1: the loss is inf."}, reason="diverged", metrics=None, **options)


def unfinished(**options) -> record.FitRecord:
    return fit(reason="interrupted", metrics=None, **options)


def test_the_only_fit_needs_no_reason():
    only = fit()
    assert best_fit.choose([only], config()) == (only, None, [])


def test_lowest_validation_wins_whatever_the_test_part_says():
    fits = [fit(0.9, test=0.1, rank=4), fit(0.8, test=0.9, rank=8), fit(0.7, test=0.0, rank=8, trial=0)]
    chosen = best_fit.choose(fits, config(grid=RANKS))
    assert chosen.fit is fits[1]
    assert chosen.why == "lowest validation RMSE, 0.8000, of 2 fits"
    assert best_fit.fit_name(chosen.fit, several=False) == "als rank=8"


def test_the_highest_wins_where_a_ranking_decides():
    ranked = config(grid=RANKS, fit={"metric": "ndcg@5"}, output={"relevant": 4.0})
    scores = [{"validation": {"rmse": rmse, "ndcg@5": ndcg}} for rmse, ndcg in ((0.7, 0.1), (0.8, 0.3), (0.6, 0.2))]
    fits = [fit(rank=rank, metrics=each, metric="ndcg@5") for rank, each in zip((4, 8, 16), scores, strict=True)]
    chosen = best_fit.choose(fits, ranked)
    assert chosen.fit is fits[1] and chosen.why == "highest validation ndcg@5, 0.3000, of 3 fits"
    fits[1] = fit(rank=8, metrics={"validation": {"rmse": 0.1, "ndcg@5": None}}, metric="ndcg@5")
    chosen = best_fit.choose(fits, ranked)
    assert chosen.fit is fits[2] and chosen.left_out == ["als rank=8 seed 0 has no finite validation ndcg@5"]


def test_rankings_of_ratings_and_of_clicks_compare_but_their_errors_do_not():
    grid = {"objective.preset": ["als_wr", "hu_koren"]}
    fits = [fit(0.9, point={"objective.preset": preset}) for preset in ("als_wr", "hu_koren")]
    refused = best_fit.ranking(fits, config(grid=grid)).refused
    assert refused is not None and "RMSE of different targets do not compare" in refused
    ranked = config(grid=grid, fit={"metric": "auc"}, output={"relevant": 4.0})
    scored = [each.changed(metrics={"validation": {"auc": 0.8}}) for each in fits]
    assert best_fit.ranking(scored, ranked).refused is None


def test_of_equal_ones_the_first():
    fits = [fit(0.9, rank=4, test=0.9), fit(0.8, rank=8, test=0.8), fit(0.8, rank=16, test=0.1)]
    assert best_fit.choose(fits, config(grid=RANKS)).fit is fits[1]


def test_means_over_seeds_rank_and_then_the_seed_with_the_lowest_is_served():
    """Rank 4 has the lowest fit, rank 8 the lowest mean."""
    by_rank = {4: [0.70, 0.95], 8: [0.82, 0.80]}
    fits = [fit(score, rank=rank, seed=seed) for rank, of in by_rank.items() for seed, score in enumerate(of)]
    chosen = best_fit.choose(fits, config(seeds=(0, 1), grid=RANKS))
    assert chosen.fit is fits[3]
    assert chosen.why == "lowest mean validation RMSE, 0.8100, of 4 fits; 0.8000 itself, the lowest of its seeds"
    alone = best_fit.choose(fits[:2], config(seeds=(0, 1)))
    assert alone.fit is fits[0] and alone.why == "lowest validation RMSE, 0.7000, of 2 seeds"


def test_means_are_over_what_all_have():
    """Of a run that was stopped: rank 8 lacks the fold that is hard."""
    kfold = {"kind": "kfold", "folds": 3, "validation_fraction": 0.1}
    fits = [fit(0.8, rank=4, fold=0), fit(1.5, rank=4, fold=1), fit(0.9, rank=8, fold=0)]
    chosen = best_fit.choose(fits, config(split=kfold, grid=RANKS))
    assert chosen.fit is fits[0] and chosen.why.startswith("lowest mean validation RMSE, 0.8000, of 3 fits")
    apart = [fit(0.8, rank=4, fold=0), fit(0.9, rank=8, fold=1)]
    with pytest.raises(jals.ArgumentError, match="no fold and seed of which all have a fit"):
        best_fit.choose(apart, config(split=kfold, grid=RANKS))


def test_of_folds_the_first_is_served():
    """The seed is the best of that fold, though another fold's is lower."""
    kfold = {"kind": "kfold", "folds": 5, "validation_fraction": 0.1}
    fits = [fit(0.5, fold=1, seed=0), fit(0.9, fold=0, seed=0), fit(0.8, fold=0, seed=1), fit(0.6, fold=1, seed=1)]
    settings = config(seeds=(0, 1), split=kfold)
    chosen = best_fit.choose(fits, settings)
    assert chosen.fit is fits[2]
    assert best_fit.fit_name(chosen.fit, True, best_fit.folds_of(chosen.fit, settings)) == "als fold 0 of 5 seed 1"
    assert best_fit.fit_name(chosen.fit, True) == "als/0 seed 1"


@pytest.mark.parametrize(
    ("spoilt", "words"),
    [
        (broken(rank=8, seed=1), "als rank=8 seed 1 broke down"),
        (fit(rank=8, seed=1, metrics={"validation": {"rmse": None}}), "has no finite validation RMSE"),
    ],
)
def test_who_broke_down_once_is_ranked_on_none_and_told_of(spoilt, words):
    fits = [fit(0.9, rank=4, seed=0), fit(0.9, rank=4, seed=1), fit(0.1, rank=8, seed=0), spoilt]
    chosen = best_fit.choose(fits, config(seeds=(0, 1), grid=RANKS))
    assert chosen.fit is fits[0]
    assert len(chosen.left_out) == 1 and words in chosen.left_out[0]
    with pytest.raises(jals.ArgumentError, match="each solver and point has a fit that broke down"):
        best_fit.choose([*fits[2:], fit(0.2, rank=8, seed=2)], config(seeds=(0, 1, 2)))


def test_unfinished_fit_serves_alone_and_is_told_of_beside_others():
    under_way = unfinished(rank=8)
    assert best_fit.choose([under_way], config(grid=RANKS)) == (under_way, ONLY, [])
    chosen = best_fit.choose([fit(0.9, rank=4), under_way], config(grid=RANKS))
    assert chosen.fit.point == {"solver.*.rank": 4} and chosen.left_out == ["als rank=8 has not ended"]


def test_solver_and_key_narrow():
    fits = [fit(0.9, rank=4), fit(0.8, rank=4, solver="b"), fit(0.7, rank=8, solver="b"), fit(0.6, rank=8)]
    settings = config(("als", "b"), grid=RANKS)
    assert best_fit.choose(fits, settings).fit is fits[3]
    assert best_fit.choose(fits, settings, solver="b").fit is fits[2]
    assert best_fit.choose(fits, settings, key=fits[0].key[:6]) == (fits[0], "as --fit asks", [])
    assert best_fit.choose(fits[:2], settings, solver="b").why == "the only fit of b that could be served"
    with pytest.raises(jals.ArgumentError, match=r'no solver "bb".*Did you mean "b"'):
        best_fit.choose(fits, settings, solver="bb")
    with pytest.raises(jals.ArgumentError, match="no fit that could be served"):
        best_fit.choose(fits, settings, solver="b", key=fits[0].key[:6])


@pytest.mark.parametrize(
    ("key", "words", "listed"),
    [
        ("abcd", '"abcd" begins the keys of 2 fits', ["abcd1", "abcd2"]),
        ("fff", "too short for the key of a fit: at least 4 characters", ["abcd1", "abcd2", "ffff3"]),
        ("1234", 'no fit that could be served has a key that begins with "1234"', ["abcd1", "abcd2", "ffff3"]),
    ],
)
def test_wrong_keys_are_told_what_there_is(key, words, listed):
    fits = [fit(0.9, seed=seed, key=f"{start}{'0' * 12}") for seed, start in enumerate(("abcd1", "abcd2", "ffff3"))]
    with pytest.raises(jals.ArgumentError, match=words) as caught:
        best_fit.choose([*fits, fit(seed=3, key="9" * 16, factors=None)], config(seeds=range(4)), key=key)
    assert [line.split()[0][:5] for line in str(caught.value).splitlines()[1:]] == listed


IMPLICIT = [{"objective.preset": name} for name in ("als_wr", "hu_koren", "explicit")]


@pytest.mark.parametrize(
    ("fits", "tables", "words"),
    [
        ([fit(rank=4), fit(rank=8)], {"grid": RANKS}, "there is no validation part"),
        ([fit(fold=0), fit(fold=1)], {}, "there is no validation part"),
        (
            [fit(0.9, point={"split.seed": seed}) for seed in (0, 1)],
            {"grid": {"split.seed": [0, 1]}},
            "the grid changes split.seed",
        ),
        (
            [fit(0.9, point={"data.path": name}) for name in ("a", "b")],
            {"grid": {"data.path": ["a", "b"]}},
            "the grid changes data.path",
        ),
        (
            [fit(0.9, point=point) for point in IMPLICIT[:2]],
            {"grid": {"objective.preset": ["als_wr", "hu_koren"]}},
            "different targets",
        ),
    ],
)
def test_where_nothing_says_which_is_best_all_are_listed(fits, tables, words):
    with pytest.raises(jals.ArgumentError, match=words) as caught:
        best_fit.choose(fits, config(**tables))
    lines = str(caught.value).splitlines()
    assert len(lines) == 2 + len(fits)
    for line, one in zip(lines[1:-1], fits, strict=True):
        validation = "–" if one.score("validation", "rmse") is None else "0.9000"
        assert line.split()[0] == one.key[:8] and one.label in line and f"seed {one.seed}" in line
        assert f"validation RMSE {validation}  test RMSE 0.5000" in line
    assert "--fit KEY" in lines[-1] and "--solver" not in lines[-1]
    assert ("split.validation_fraction" in lines[-1]) == ("no validation part" in words)


def test_what_is_the_same_for_all_is_no_axis_that_parts_them():
    same = [fit(0.9 - 0.1 * (rank > 4), point={"split.seed": 3, "solver.*.rank": rank}) for rank in (4, 8)]
    assert best_fit.choose(same, config(grid={"split.seed": [3]} | RANKS)).fit is same[1]
    ratings = [fit(score, point=point) for score, point in zip((0.9, 0.8), IMPLICIT[::2], strict=True)]
    assert best_fit.choose(ratings, config(grid={"objective.preset": ["als_wr", "explicit"]})).fit is ratings[1]


def test_long_lists_are_cut_and_solvers_named():
    fits = [fit(seed=seed, solver=solver) for seed in range(12) for solver in ("als", "b")]
    with pytest.raises(jals.ArgumentError) as caught:
        best_fit.choose(fits, config(("als", "b"), seeds=range(12)))
    lines = str(caught.value).splitlines()
    assert len(lines) == 1 + 20 + 2 and lines[-2].strip() == "and 4 more" and "--solver NAME" in lines[-1]


def test_nothing_to_serve_is_a_storage_error():
    with pytest.raises(jals.StorageError, match="holds no factors of als to serve: every fit broke down"):
        best_fit.choose([broken()], config(), solver="als")
    with pytest.raises(jals.StorageError, match="it was stopped before"):
        best_fit.choose([fit(trial=0)], config())
    with pytest.raises(jals.StorageError, match=r"output\.factors = false"):
        best_fit.choose([fit(factors=None)], config(output={"factors": False}))


def test_leads_are_each_solvers_best_and_the_best_of_all_first():
    scores = {("als", 4): 0.9, ("als", 8): 0.8, ("b", 4): 0.6, ("b", 8): 0.7}
    fits = [fit(score, solver=solver, rank=rank) for (solver, rank), score in scores.items()]
    fits = [broken(solver="lost", rank=4), *fits, fit(0.1, solver="b", rank=8, trial=0)]
    found = best_fit.ranking(fits, config(("lost", "als", "b"), grid=RANKS))
    assert best_fit.best_by_solver(fits, found) == [fits[3], fits[2], fits[0]]
    assert found.mark() == "lowest validation RMSE of 4 fits"
    unknown = [fit(solver=solver, rank=rank) for solver, rank in scores]
    assert best_fit.best_by_solver(unknown, best_fit.ranking(unknown, config(("als", "b"), grid=RANKS))) == unknown[::2]


def test_of_those_left_out_five_are_told():
    assert best_fit.summarise(["a", "b"]) == "a; b"
    assert best_fit.summarise(list("abcdefg")) == "a; b; c; d; e; and 2 more"
