"""The tables of the documentation that no other study makes, again:

    python experiments/page_figures.py lists     docs/recommend.md: what lists of a model of ratings find
    python experiments/page_figures.py append    docs/recommend.md: appended entries against a fit of all
    python experiments/page_figures.py index     docs/recommend.md: what an index of nearest neighbours finds
    python experiments/page_figures.py starts    docs/concepts.md: fits of rank 2 to a table of rank 1

Each takes a minute or so on two cores. None is a matter of speed, so another machine gives the same up to rounding.
MovieLens latest-small comes with the extra `data`; ML-100K, for `lists`, is left out where it is not at hand.
"""

import argparse
import datetime
import os
import platform
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jals

BIASED: Any = {"bias": True, "center": True}


def said(name: str, header: str, rows: list[str]) -> None:
    machine = f"{os.cpu_count()} cores of {platform.machine()}, jax {jax.__version__}, {datetime.date.today()}"
    print(f"`python experiments/page_figures.py {name}`, {machine}\n\n{header}")
    print("|".join(["", *["---"] * (header.count("|") - 1), ""]))
    print(*rows, sep="\n")


def fit(problem: jals.Problem, objective: jals.Objective, rank: int = 32, seed: int = 0, sweeps: int = 15):
    return jals.fit(jals.ALS(rank), problem, objective, sweeps, jax.random.key(seed), loss_every=0).factors


def lists() -> None:
    """Recall@20 of held-out ratings of 4 or more, a fifth of the ratings held out; three splits and seeds."""
    tables = {"MovieLens latest-small": jals.datasets.movielens_latest_small().ratings}
    try:
        tables["ML-100K"] = jals.datasets.load("ml100k").ratings
    except jals.DataError as missing:
        print(missing)
    least = {"all items": 0, "10 entries or more": 10, "30 entries or more": 30, "100 entries or more": 100}
    found: dict[str, list[str]] = {}
    for ratings in tables.values():
        scores: dict[str, list[float]] = {}
        for seed in range(3):
            train, test = jals.split.random(ratings, 0.2, seed)
            liked = test.select(test.value >= 4)
            problem, count = jals.Problem.build(train), np.bincount(train.item, minlength=train.num_items)
            rated = fit(problem, jals.als_wr(0.15, **BIASED), seed=seed)
            taken = fit(problem, jals.ials(0.02, 0.1), seed=seed)

            def above(users, factors=rated, count=count, bar=0):
                every = np.arange(len(count))
                score = jals.predict(factors, np.repeat(users, len(count)), np.tile(every, len(users)))
                return np.where(count >= bar, np.asarray(score).reshape(len(users), -1), -1e9)

            ways = {f"als_wr, {name}": lambda users, bar=bar: above(users, bar=bar) for name, bar in least.items()}
            ways |= {"most popular": jals.baselines.most_popular(train).scores, "ials, all items": taken}
            for name, model in ways.items():
                mean = jals.metrics.ranking(model, liked, train, 20, "recall").mean["recall@20"]
                scores.setdefault(name, []).append(mean)
        for name, each in scores.items():
            found.setdefault(name, []).append(f"{np.mean(each):.4f} ± {np.std(each, ddof=1):.4f}")
    rows = [f"| {name} | {' | '.join(each)} |" for name, each in found.items()]
    said("lists", f"| | {' | '.join(tables)} |", rows)


def append() -> None:
    """A tenth of the ratings held out; some of the others are left out of the fit, then appended."""
    ratings = jals.datasets.movielens_latest_small().ratings
    train, test = jals.split.random(ratings, 0.1, seed=0)
    objective = jals.als_wr(0.12, **BIASED)
    rng, degree = np.random.default_rng(0), np.bincount(train.user)
    parts = {f"{share:.1%} at random": rng.random(len(train)) < share for share in (0.001, 0.01, 0.1)}
    for users in (1, 6, 67):
        chosen = rng.choice(np.flatnonzero(degree), users, replace=False)
        parts[f"all of {users} user{'s' * (users > 1)}"] = np.isin(train.user, chosen)

    def predicted(factors):
        return np.asarray(jals.predict(factors, test.user, test.item))

    anew = predicted(fit(jals.Problem.build(train), objective))
    other = predicted(fit(jals.Problem.build(train), objective, seed=1))
    rows = []
    for name, part in parts.items():
        before = jals.Problem.build(train.select(~part))
        factors = fit(before, objective)
        grown = jals.append(factors, before, train.select(part), objective)
        errors = [jals.metrics.rmse(each, test.value) for each in (predicted(factors), predicted(grown.factors), anew)]
        change = np.sqrt(np.mean((predicted(grown.factors) - anew) ** 2))
        touched = f"{len(grown.touched_user):,}, {len(grown.touched_item):,}"
        cells = [f"{part.sum():,}: {name}", touched, *(f"{error:.4f}" for error in errors), f"{change:.3f}"]
        rows.append(f"| {' | '.join(cells)} |")
    header = "| appended | rows solved anew: users, items | held-out RMSE before | appended | fitted anew | change |"
    said("append", header, rows)
    print(f"\ntwo seeds are {np.sqrt(np.mean((other - anew) ** 2)):.3f} apart")


def index() -> None:
    """Of the ten films that an index of usearch finds for each user, those with a score as high as the tenth best has.
    (By score, as films that one user alone has rated, alike, are alike themselves.)"""
    from usearch.index import Index

    ratings = jals.datasets.movielens_latest_small().ratings
    problem, rows = jals.Problem.build(ratings), []
    for name, objective in {"als_wr": jals.als_wr(0.15, **BIASED), "ials": jals.ials(0.02, 0.1)}.items():
        factors = fit(problem, objective)
        users = np.arange(ratings.num_users)
        tenth = np.asarray(jals.top_k(factors, users, 10)[1])[:, -1:]
        for space, metric, search in (("dot", "ip", 200), ("dot", "ip", 50), ("l2", "l2sq", 200)):
            vectors, query = jals.recommend.index_vectors(factors, space)
            wide: Any = {"expansion_add": 200, "expansion_search": search}
            engine = Index(ndim=vectors.shape[1], metric=metric, dtype="f32", **wide)
            engine.add(np.arange(len(vectors)), vectors, threads=1)  # as the index depends on the order
            found = engine.search(query, 10).keys.astype(int)
            score = np.asarray(jals.predict(factors, users.repeat(10), found.ravel())).reshape(-1, 10)
            rows.append(f"| {name} | {space} | {search} | {np.mean(score >= tenth - 1e-5):.1%} |")
    said("index", "| factors | space | expansion_search | found |", rows)


def starts() -> None:
    """An exact table of rank 1, 20 x 40, 60 % observed: of 50 starts of rank 2 those that miss by less than 0.001."""
    draw = np.random.default_rng(7)
    exact = draw.uniform(-1, 1, (20, 1)) * draw.uniform(-1, 1, (1, 40))
    seen = draw.random(exact.shape) < 0.6
    user, item = np.nonzero(seen)
    problem = jals.Problem.build(jals.Ratings.from_arrays(user, item, exact[seen]))
    ways: dict = {f"init_scale={scale}": scale for scale in (0.1, 0.3, 1.0)}
    ways |= {"rows of length 1": "length 1", "one column first": "one first"}
    rows = []
    for name, scale in ways.items():
        counts = []
        for reg in (1e-5, 1e-4):
            objective, good = jals.als_wr(reg), 0
            for seed in range(50):
                start, rng = None, np.random.default_rng(seed)
                if scale == "length 1":
                    rows_of_start = rng.normal(size=(60, 2))
                    rows_of_start /= np.linalg.norm(rows_of_start, axis=1, keepdims=True)
                    start = jals.Factors(jnp.asarray(rows_of_start[:20]), jnp.asarray(rows_of_start[20:]))
                elif scale == "one first":
                    one = fit(problem, objective, 1, seed, 10)
                    more = 0.01 * np.std(one.item) * rng.normal(size=(40, 1))
                    start = jals.Factors(jnp.pad(one.user, [(0, 0), (0, 1)]), jnp.hstack([one.item, more]))
                solver = jals.ALS(2, init_scale=0.1 if start else scale)
                two = jals.fit(solver, problem, objective, 10, jax.random.key(seed), init=start, loss_every=0).factors
                missed = (np.asarray(two.user) @ np.asarray(two.item).T - exact)[~seen]
                good += np.sqrt((missed**2).mean()) < 0.001
            counts.append(f"{good}")
        rows.append(f"| {name} | {' | '.join(counts)} |")
    said("starts", "| start | λ = 1e-5 | λ = 1e-4 |", rows)


if __name__ == "__main__":
    made = {"lists": lists, "append": append, "index": index, "starts": starts}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=made)
    made[parser.parse_args().which]()
