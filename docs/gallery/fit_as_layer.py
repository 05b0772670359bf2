"""A fit as a layer of a network: a net learns, through ALS, what to expect of items that nobody has rated.

An item's factors are pulled towards a prior mean, m_i = net(features of the item), and equal it where the item has no
entries. `jals.solution_map` gives predictions that can be differentiated in m, so jax.grad reaches the net's weights.
"""

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax

import jals

RANK = 4


def net(weights, features):
    return jnp.tanh(features @ weights["in"]) @ weights["out"]


def error(weights, features, problem, start, held_out):
    """The held-out error of the fit whose prior means the net makes, three sweeps from the factors `start`."""
    objective = jals.explicit(1.0, prior_item=net(weights, features))
    predict = jals.solution_map(jals.ALS(RANK), problem, objective, sweeps=3, init=start)
    return jnp.mean((predict(held_out.user, held_out.item) - held_out.value) ** 2)


def main(small=False, picture="fit_as_layer.png"):
    users, items, steps = (60, 45, 60) if small else (400, 300, 150)
    table, truth = jals.datasets.synthetic(users, items, RANK, density=0.2, noise=0.3)
    rng = np.random.default_rng(0)
    features = np.tanh(truth.item @ rng.normal(size=(RANK, 8))) + 0.1 * rng.normal(size=(items, 8))

    # Every third item loses all its entries; the net learns from two of three of these, and never sees the third.
    new, unseen = table.ratings.item % 3 == 0, table.ratings.item % 9 == 0
    train, validation, test = (table.ratings.select(mask) for mask in (~new, new & ~unseen, unseen))
    problem = jals.Problem.build(train)
    start = jals.fit(jals.ALS(RANK), problem, jals.explicit(1.0), sweeps=20, loss_every=0).factors  # m = 0

    @jax.jit
    def look(weights):
        learned, slope = jax.value_and_grad(error)(weights, features, problem, start, validation)
        return slope, jnp.sqrt(jnp.array([learned, error(weights, features, problem, start, test)]))

    # A rival in two steps: the factors of items with ratings, regressed on their features.
    rated = np.bincount(train.item, minlength=items) > 0
    slope, *_ = np.linalg.lstsq(features[rated], np.asarray(start.item)[rated])
    regressed = np.sum(np.asarray(start.user)[test.user] * (features @ slope)[test.item], axis=1)
    rival = float(jals.metrics.rmse(regressed, test.value))

    weights = {"in": 0.5 * rng.normal(size=(8, 16)), "out": np.zeros((16, RANK))}  # so that m = 0 at first
    adam, rmse = optax.adam(0.02), []
    memory = adam.init(weights)
    for _ in range(steps):
        slope, errors = look(weights)
        rmse.append(errors)
        updates, memory = adam.update(slope, memory)
        weights = optax.apply_updates(weights, updates)

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    axis.plot(np.array(rmse), label=["items that the net learns from", "items that it never saw"])
    axis.axhline(rival, color="grey", linestyle="--", label="the latter, by a regression of factors on features")
    axis.set(xlabel="step of Adam", ylabel="RMSE", ylim=0, title="Items without ratings, by their features alone")
    axis.legend(frameon=False)
    figure.savefig(picture, dpi=130)
    plt.close(figure)
    return np.array(rmse)  # (steps, 2)


if __name__ == "__main__":
    print("RMSE on items that the net never saw: m = 0 {:.3f}, learned {:.3f}".format(*main()[[0, -1], 1]))
