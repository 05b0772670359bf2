"""Two other losses by which the model x_u . y_i is fitted to implicit feedback, and their training by minibatches.

With s_ui = x_u . y_i, B observed pairs (u, i) drawn with replacement, and negatives j drawn uniformly from all items:

    BPR (Rendle et al., UAI 2009), n negatives a pair, of those j that u has not taken:
        mean over (u, i, j) of -log sigmoid(s_ui - s_uj)
    Sampled softmax, N negatives shared by the batch (Bengio & Senecal, IEEE Trans. Neural Networks 2008; for
    recommending: Wu et al., "On the effectiveness of sampled softmax loss for item recommendation", 2022):
        mean over (u, i) of -s_ui + log(exp(s_ui) + sum over j != i of exp(s_uj - log(N q_j))),  q_j = 1 / items
    to both: penalty * (mean |x_u|^2 + mean |y_i|^2 + mean |y_j|^2), over the rows that the batch touches.

-log(N q_j), the logQ correction, makes the sum over the sample estimate that over all items; with every item once among
the negatives it is 0, and the loss the full softmax. Both minimised by Adam of all rows, a `lax.scan` of steps a call.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jals

PRECISION = jax.lax.Precision.HIGHEST
START = 0.1  # standard deviation of the factors at the start
STEPS = 8  # a call


class Pairs(NamedTuple):
    """The observed pairs, and a bit for each pair of all: whether it is one of them."""

    user: jax.Array  # int32 (entries,)
    item: jax.Array
    bits: jax.Array  # uint8 (users, items / 8 rounded up)

    @classmethod
    def of(cls, ratings: jals.Ratings) -> "Pairs":
        bits = np.zeros((ratings.num_users, -(-ratings.num_items // 8)), np.uint8)
        np.bitwise_or.at(bits, (ratings.user, ratings.item >> 3), np.uint8(1) << (ratings.item & 7).astype(np.uint8))
        return cls(jnp.asarray(ratings.user), jnp.asarray(ratings.item), jnp.asarray(bits))

    def observed(self, user: jax.Array, item: jax.Array) -> jax.Array:
        return (self.bits[user, item >> 3] >> (item & 7).astype(jnp.uint8)) & 1 == 1


class Batch(NamedTuple):
    user: jax.Array  # (B,)
    item: jax.Array  # (B,)
    negative: jax.Array  # (B, n) for BPR, (N,) for sampled softmax


def bpr(factors: jals.Factors, batch: Batch, pairs: Pairs, penalty: Any) -> jax.Array:
    x, y, other = _rows(factors, batch)
    margin = (x * y).sum(1)[:, None] - jnp.einsum("br,bnr->bn", x, other, precision=PRECISION)
    new = ~pairs.observed(batch.user[:, None], batch.negative)
    fit = jnp.where(new, jax.nn.softplus(-margin), 0).sum() / jnp.maximum(new.sum(), 1)
    return fit + penalty * _squares(x, y, other)


def sampled_softmax(factors: jals.Factors, batch: Batch, pairs: Pairs, penalty: Any) -> jax.Array:
    del pairs  # another item of the user's is a negative like any, as in the full softmax
    x, y, other = _rows(factors, batch)
    own = (x * y).sum(1)
    log_nq = jnp.log(len(batch.negative) / factors.item.shape[0])
    scores = jnp.matmul(x, other.T, precision=PRECISION) - log_nq
    rest = jnp.where(batch.item[:, None] == batch.negative, -jnp.inf, scores)
    every = jax.nn.logsumexp(jnp.concatenate([own[:, None], rest], 1), 1)
    return (every - own).mean() + penalty * _squares(x, y, other)


def _rows(factors: jals.Factors, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
    return factors.user[batch.user], factors.item[batch.item], factors.item[batch.negative]


def _squares(*touched: jax.Array) -> jax.Array:
    return sum((jnp.square(rows).sum(-1).mean() for rows in touched), start=jnp.zeros(()))


LOSSES: dict[str, Callable[..., jax.Array]] = {"bpr": bpr, "sampled_softmax": sampled_softmax}


class State(NamedTuple):
    factors: jals.Factors
    memory: Any  # Adam's
    key: jax.Array


def start(ratings: jals.Ratings, rank: int, seed: int) -> State:
    user, item, key = jax.random.split(jax.random.key(seed), 3)
    factors: Any = jals.Factors(
        START * jax.random.normal(user, (ratings.num_users, rank)),
        START * jax.random.normal(item, (ratings.num_items, rank)),
    )
    return State(factors, optax.adam(0.0).init(factors), key)


@functools.partial(jax.jit, static_argnames=("loss", "batch", "negatives"), donate_argnames="state")
def advance(
    state: State, pairs: Pairs, learning_rate: Any, penalty: Any, *, loss: str, batch: int, negatives: int
) -> State:
    """STEPS steps of Adam; the state that is given is used up."""
    adam, num_items = optax.adam(learning_rate), state.factors.item.shape[0]
    shape = (batch, negatives) if loss == "bpr" else (negatives,)

    def step(state: State, _: None) -> tuple[State, None]:
        key, of_pairs, of_items = jax.random.split(state.key, 3)
        entry = jax.random.randint(of_pairs, (batch,), 0, len(pairs.user))
        negative = jax.random.randint(of_items, shape, 0, num_items)
        drawn = Batch(pairs.user[entry], pairs.item[entry], negative)
        slope = jax.grad(LOSSES[loss])(state.factors, drawn, pairs, penalty)
        change, memory = adam.update(slope, state.memory)
        factors: Any = jax.tree.map(jnp.add, state.factors, change)
        return State(factors, memory, key), None

    return jax.lax.scan(step, state, length=STEPS)[0]
