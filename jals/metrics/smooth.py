"""Rankings that have a derivative: how probable a softmax over the catalogue makes held-out items, and an NDCG whose
places are smoothed. Both look at every item that a user has not seen, a chunk of users at a time.

For what is measured, not descended, see `ranks`.
"""

import functools
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..data.ratings import Ratings
from ..errors import ArgumentError
from ..forks import check_jax
from ..model.factors import Factors
from ..model.problem import Problem

CELLS = 2**22  # scores that are held at a time, one user's at least
_HIGHEST = jax.lax.Precision.HIGHEST


class HeldOutRanking(NamedTuple):
    """What users are to be recommended, in chunks of users; made on the host by `of`. A pytree: pass it to what is
    jitted.

    Attributes:
        user: int32 `(chunks, users a chunk)`; what fills up the last has no pairs below.
        row, item: int32 `(chunks, pairs a chunk)`, the held-out pairs: places in the chunk's `user`, items.
        share: `(chunks, pairs a chunk)`, 1 / |H_u|, and 0 in the filling.
        gain: `(chunks, pairs a chunk)`, 1 / the DCG of a list with all of H_u first, and 0 in the filling.
        seen_row, seen_item: int32 `(chunks, seen pairs a chunk)`, the pairs that are not to be shown; what fills up has
            a row that is none.
        users: how many users there are, `()`.
        log_count: `(num_items,)`, log max(n_i, 1) of the n_i seen entries of each item.
    """

    user: Any
    row: Any
    item: Any
    share: Any
    gain: Any
    seen_row: Any
    seen_item: Any
    users: Any
    log_count: Any

    @classmethod
    def of(
        cls,
        held_out: Ratings,
        seen: Ratings | Problem | None = None,
        dtype: Any = np.float32,
        users: int | None = None,
        seed: int = 0,
    ) -> "HeldOutRanking":
        """The held-out items H_u of each user (entries with a value > 0 and a weight > 0 whose pair is not among the
        seen), and the catalogue C_u that they are ranked in: all items without those that the user has seen.

        Args:
            held_out: the validation part.
            seen: the training part, or its problem: pairs of weight > 0 are not shown. None: none.
            dtype: that of the factors.
            users: how many, drawn without replacement by `seed`, where fewer than all are enough; None: all who have
                held-out items.

        Memory: eight bytes a seen pair of these users, and filling: users are dealt out to the chunks from the one who
            has seen most, so that no chunk has more pairs than another by more than the largest user's.

        Raises:
            ArgumentError: where tables are of different shapes; nothing is held out that was not seen; `users` is no
                whole number >= 1.
        """
        if not isinstance(held_out, Ratings):
            raise ArgumentError(f"held_out is of type {type(held_out).__name__}, but must be one part of a split.")
        if users is not None and (isinstance(users, bool) or not isinstance(users, numbers.Integral) or users < 1):
            raise ArgumentError(f"users is {users!r}, but must be a whole number >= 1, or None for all.")
        count = held_out.num_items
        known = _pairs(seen, held_out) if seen is not None else np.zeros(0, np.int64)
        wanted = held_out.value > 0
        if held_out.weight is not None:
            wanted &= held_out.weight > 0
        pair = np.setdiff1d(held_out.user[wanted].astype(np.int64) * count + held_out.item[wanted], known)
        if not len(pair):
            raise ArgumentError(
                "held_out has no entry with a value > 0 (and a weight > 0) that was not seen: there is nothing to find."
            )
        who = np.unique(pair // count)
        if users is not None and users < len(who):
            who = np.sort(np.random.default_rng(seed).choice(who, int(users), replace=False))
        chunks = -(-len(who) // max(1, CELLS // count))
        size = -(-len(who) // chunks)
        # From the user who has seen most to the one who has seen least, dealt out like cards.
        entries = np.searchsorted(known, (who + 1) * count) - np.searchsorted(known, who * count)
        place = np.empty(len(who), np.int64)
        place[np.argsort(-entries, kind="stable")] = np.arange(len(who))
        deal = _Deal(who, place % chunks, place // chunks, chunks)
        held, own = (deal.cut(each, count) for each in (pair, known))
        per_user = np.bincount(pair // count, minlength=held_out.num_users)
        wanted_of = np.maximum(per_user[who], 1)
        ideal = np.cumsum(1 / np.log2(1 + np.arange(1, wanted_of.max() + 1)))[wanted_of - 1]
        user = np.zeros((chunks, size), np.int32)
        user[deal.chunk, deal.row] = who
        return cls(
            user,
            held.fill(held.row, 0),
            held.fill(held.item, 0),
            held.fill(1 / wanted_of[held.who], 0.0).astype(dtype),
            held.fill(1 / ideal[held.who], 0.0).astype(dtype),
            own.fill(own.row, size),
            own.fill(own.item, 0),
            np.asarray(len(who), dtype),
            np.log(np.maximum(np.bincount(known % count, minlength=count), 1)).astype(dtype),
        )


class _Cut(NamedTuple):
    """Pairs by chunk: for each its chunk, its place there, the place of its user among all, its row and its item."""

    chunk: np.ndarray
    place: np.ndarray
    who: np.ndarray
    row: np.ndarray
    item: np.ndarray
    chunks: int

    def fill(self, column: np.ndarray, by: Any) -> np.ndarray:
        """`(chunks, the most pairs that one has)`."""
        width = int(self.place.max()) + 1 if len(self.place) else 0
        table = np.full((self.chunks, width), by, np.int32 if column.dtype.kind == "i" else column.dtype)
        table[self.chunk, self.place] = column
        return table


class _Deal(NamedTuple):
    """The chunk and the row of each of the users `who`, which are increasing."""

    who: np.ndarray
    chunk: np.ndarray
    row: np.ndarray
    chunks: int

    def cut(self, pair: np.ndarray, items: int) -> _Cut:
        """Those pairs (user * items + item) that are of these users."""
        user = pair // items
        at = np.minimum(np.searchsorted(self.who, user), len(self.who) - 1)
        here = self.who[at] == user
        at, pair = at[here], pair[here]
        order = np.argsort(self.chunk[at], kind="stable")
        at, pair = at[order], pair[order]
        chunk = self.chunk[at]
        place = np.arange(len(pair)) - np.searchsorted(chunk, chunk)
        return _Cut(chunk, place, at, self.row[at], pair % items, self.chunks)


def _pairs(seen: Any, held_out: Ratings) -> np.ndarray:
    """user * num_items + item of the seen pairs, increasing."""
    if not isinstance(seen, Ratings | Problem):
        raise ArgumentError(f"seen is of type {type(seen).__name__}, but must be Ratings, a Problem, or None.")
    shape = held_out.num_users, held_out.num_items
    if (seen.num_users, seen.num_items) != shape:
        raise ArgumentError(
            f"seen is {seen.num_users} x {seen.num_items}, held_out {shape[0]} x {shape[1]}: split one table, or give "
            "both the same num_users and num_items."
        )
    pair = np.asarray(seen.user).astype(np.int64) * held_out.num_items + np.asarray(seen.item)
    return np.unique(pair if seen.weight is None else pair[np.asarray(seen.weight) > 0])


def softmax_loss(factors: Factors, held_out: HeldOutRanking, temperature: Any, item_power: Any = 0.0) -> jax.Array:
    """How improbable held-out items are under a softmax over the catalogue, `()`: the mean over users of

        l_u = -(1 / |H_u|) sum over i in H_u of [ z_ui - log sum over j in C_u of exp z_uj ],
        z_ui = s_ui max(n_i, 1)^item_power / temperature

    s = mean + b_u + b_i + x_u . y_i, the prediction; n_i counts the item's seen entries; C_u is the catalogue without
    what the user has seen, H_u the held-out items in it. log num_items is what scores that are all equal have.

    Args:
        factors: of the table's shape.
        held_out: `HeldOutRanking.of(validation, train)`.
        temperature: > 0, in units of the score; 1 / temperature is often called tau. Scores of `ials` lie about
            within [0, 1], where 0.05 to 0.2 is of use.
        item_power: corrects scores for popularity, < 0 down and > 0 up.

    Jittable, vmappable, differentiable any number of times, forward and in reverse, in factors, temperature and
    item_power. `CELLS` scores are held at a time; in reverse each chunk of them is made again. Sums of exponentials are
    taken after their largest, so float32 is safe. Cost: one product of users x items x rank, with a gradient four.

    Raises:
        ArgumentError: for factors of another number of items.
    """

    return _mean_over_users(_softmax, factors, held_out, temperature, item_power)


def smooth_ndcg_loss(factors: Factors, held_out: HeldOutRanking, temperature: Any, item_power: Any = 0.0) -> jax.Array:
    """1 - an NDCG whose places are smooth, `()`; that NDCG is the mean over users of

        (1 / I_u) sum over i in H_u of 1 / log2(1 + p_ui),    I_u = sum over n = 1 ... |H_u| of 1 / log2(1 + n),
        p_ui = 1 + sum over j in C_u other than i of sigmoid((s_uj - s_ui) / (temperature sigma_u))

    p is the item's place with a step that is smooth, sigma_u the standard deviation of the user's scores over C_u: so
    the scale of scores does not matter. The smaller the temperature the nearer to the NDCG of the whole list, and the
    fewer items have a derivative to speak of; scores that lie close beside their spread count as half above each other,
    which is a low NDCG. Scores are corrected by max(n_i, 1)^item_power as in `softmax_loss`.

    As `softmax_loss` otherwise, but that every held-out item is compared with every item of the catalogue: so many
    sigmoids, three times that with a gradient. Source: Qin, Liu and Li, "A general approximation framework for direct
    optimization of information retrieval measures" (2010), section 4.
    """
    return 1 - _mean_over_users(_smooth_ndcg, factors, held_out, temperature, item_power)


def _mean_over_users(of_users: Callable, factors: Factors, held_out: HeldOutRanking, *numbers: Any) -> jax.Array:
    check_jax()
    if len(factors.item) != len(held_out.log_count):
        raise ArgumentError(
            f"the factors are of {len(factors.item):,} items, the held-out table of {len(held_out.log_count):,}."
        )
    return _mean(of_users, factors, held_out, *numbers)


@functools.partial(jax.jit, static_argnums=0)
def _mean(of_users, factors: Factors, held_out: HeldOutRanking, temperature: Any, item_power: Any):
    """The sum over chunks of what `of_users` adds up of theirs, over the number of users."""
    temperature, item_power = (jnp.asarray(number, factors.dtype) for number in (temperature, item_power))
    scale = jnp.exp(item_power * held_out.log_count)

    @functools.partial(jax.checkpoint, prevent_cse=False)  # the backward pass makes the scores again
    def chunk(part: dict[str, jax.Array]) -> jax.Array:
        user, now = part["user"], held_out._replace(**part)
        scores = jnp.einsum("uk,ik->ui", factors.user[user], factors.item, precision=_HIGHEST)
        if factors.user_bias is not None and factors.item_bias is not None:
            scores += factors.user_bias[user][:, None] + factors.item_bias
        if factors.mean is not None:
            scores += factors.mean
        hidden = jnp.zeros(scores.shape, bool).at[now.seen_row, now.seen_item].set(True, mode="drop")
        return of_users(now, scores * scale, ~hidden, temperature)

    per_chunk = {name: column for name, column in held_out._asdict().items() if name not in ("users", "log_count")}
    return jax.lax.map(chunk, per_chunk).sum() / held_out.users


def _softmax(part: HeldOutRanking, scores: jax.Array, shown: jax.Array, temperature: jax.Array) -> jax.Array:
    logits = scores / temperature
    whole = jax.nn.logsumexp(jnp.where(shown, logits, -jnp.inf), axis=1)
    return jnp.sum(part.share * (whole[part.row] - logits[part.row, part.item]))


def _smooth_ndcg(part: HeldOutRanking, scores: jax.Array, shown: jax.Array, temperature: jax.Array) -> jax.Array:
    # Only ratios of a user's scores count, so each user's are first brought to a size whose square can be held; that
    # size is a constant to the derivative. Scores that are all but 0 count as equal.
    size = jax.lax.stop_gradient(jnp.max(jnp.abs(scores), axis=1, where=shown, initial=0))
    size = jnp.where(size > jnp.finfo(scores.dtype).tiny / jnp.finfo(scores.dtype).eps, size, 1)
    scores = scores / size[:, None]
    count = shown.sum(axis=1)
    mean = jnp.sum(scores, axis=1, where=shown) / count
    variance = jnp.sum((scores - mean[:, None]) ** 2, axis=1, where=shown) / count
    some = variance > 0  # both guards: the root has no finite derivative at 0
    sigma = jnp.where(some, jnp.sqrt(jnp.where(some, variance, 1)), 1)

    @jax.checkpoint  # a pair's comparisons are made again in a backward pass
    def discounted(pair):
        row, item, gain = pair
        ahead = jax.nn.sigmoid((scores[row] - scores[row, item]) / (temperature * sigma[row]))
        return gain / jnp.log2(1.5 + jnp.sum(ahead, where=shown[row]))  # the item is half ahead of itself

    return jax.lax.map(discounted, (part.row, part.item, part.gain), batch_size=len(scores)).sum()
