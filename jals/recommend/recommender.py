"""Recommendations by outside ids, from a file or from memory: the one object that a service needs."""

import dataclasses
import numbers
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..data.ratings import Ratings
from ..data.vocabulary import Vocabulary, number_ids
from ..errors import ArgumentError, DataError
from ..files import storage
from ..files.storage import Saved
from ..model.factors import Factors
from ..model.objectives import Objective
from ..solvers.protocol import check_kind, check_side
from .candidates import entries_of, least_entries
from .folding import SIDES, fold_in
from .top import similar, top_k


class Recommender(Saved):
    """Factors with the outside ids of their rows, and what users have seen. `jals.load` returns one; in memory,

        recommender = jals.Recommender(result.factors, vocab, objective, seen=train)

    Attributes: those of `Saved`; None for what is not there. Without a vocabulary the ids are the rows' numbers.
        entries: how many entries each item was fitted to, `(num_items,)`: those of `seen`, but of new users' items
            (`fold_in`) those of the table that was fitted; None where it is not known.
    """

    entries: np.ndarray | None

    def __new__(
        cls,
        factors: Factors,
        vocab: Vocabulary | None = None,
        objective: Objective | None = None,
        seen: Ratings | None = None,
        data_hash: str | None = None,
    ) -> "Recommender":
        """
        Raises:
            ArgumentError: for a part of another kind, or sizes that do not fit.
        """
        for name, value, kind in (
            ("factors", factors, Factors),
            ("vocab", vocab, Vocabulary | None),
            ("objective", objective, Objective | None),
            ("seen", seen, Ratings | None),
        ):
            check_kind(name, value, kind, f"Recommender takes {kind}")
        for side in SIDES:
            rows = len(getattr(factors, side))
            if vocab is not None and len(getattr(vocab, side)) != rows:
                have = len(getattr(vocab, side))
                raise ArgumentError(f"the vocabulary has {have:,} {side} ids, but the factors have {rows:,} {side}s.")
            if seen is not None and getattr(seen, f"num_{side}s") != rows:
                have = getattr(seen, f"num_{side}s")
                raise ArgumentError(f"seen has {have:,} {side}s, but the factors have {rows:,}.")
        made = super().__new__(cls, factors, vocab, objective, data_hash, seen)
        made.entries = None if seen is None else entries_of(seen)
        return made

    def __getnewargs__(self) -> tuple:
        """For pickle and copy, in the order that `__new__` takes."""
        return self.factors, self.vocab, self.objective, self.seen, self.data_hash

    def _replace(self, /, **changes: Any) -> "Recommender":
        made = type(self)(**self._asdict() | changes)
        if "seen" not in changes:
            made.entries = self.entries
        return made

    def __repr__(self) -> str:
        """What there is, never the numbers of a row."""
        said = [f"{name}={part!r}" for name, part in self._asdict().items() if part is not None and name != "objective"]
        return f"Recommender({', '.join(said)})"

    def recommend(
        self,
        ids: Any,
        k: int = 10,
        exclude_seen: bool = True,
        allow: Any = None,
        exclude: Any = None,
        min_entries: int | None = 0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k items of highest score for each user, see `top_k`.

        Args:
            ids: users, `(n,)`; one id counts as a list of one.
            k: at most the number of items.
            exclude_seen: whether to leave out what each user has seen.
            allow, exclude: ids of items: only these, not these.
            min_entries: leaves out items that were fitted to fewer entries. None: a number where the scores are
                predicted ratings (objectives without a sum over all pairs: `explicit`, `als_wr`), the highest of which
                rest on few: 30, or as many fewer as it takes for the items that are left to have half of all entries.
                Else, and with `allow`, and where neither is known, 0.

        Returns: (ids `(n, k)`, scores `(n, k)`), the best first. Where too few items are left the score is -inf, and
            the id -1, or "" where ids are texts.

        Raises:
            DataError: for an id that is not known, naming the nearest that is.
            ArgumentError: where seen entries are to be left out, or entries to be counted, but none were saved.
        """
        rows = self._rows("user", ids)
        if exclude_seen and self.seen is None:
            raise ArgumentError(
                "there are no seen entries to leave out: save them, jals.save(..., seen=train), or pass "
                "exclude_seen=False."
            )
        if allow is not None and not np.size(allow):
            raise ArgumentError("allow names no item: give one at least, or None to allow all.")
        closed = None if exclude is None else self._mask(exclude)
        open_ = None if allow is None else self._mask(allow)
        if closed is not None:
            open_ = ~closed if open_ is None else open_ & ~closed
        established = self._established(min_entries, allow is not None)
        if established is not None:
            open_ = established if open_ is None else open_ & established
        item, score = top_k(self.factors, rows, k, self.seen if exclude_seen else None, open_)
        return self._ids("item", np.asarray(item)), np.asarray(score)

    def similar(
        self, ids: Any, k: int = 10, side: str = "item", measure: str = "cosine"
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k rows of one side that are most like each of these, see `jals.similar`: (ids `(n, k)`, scores `(n, k)`).

        Raises:
            DataError: for an id that is not known, naming the nearest that is.
        """
        check_side(side)
        found, score = similar(self.factors, self._rows(side, ids), k, side, measure)
        return self._ids(side, np.asarray(found)), np.asarray(score)

    def fold_in(
        self, ids: Any, others: Any, values: Any = None, weight: Any = None, side: str = "user"
    ) -> "Recommender":
        """A recommender for newcomers: rows from their own entries alone, see `jals.fold_in`.

        Args:
            ids: of the newcomer, for each entry `(entries,)`; one id for all of them. They may be known: the row is
                then that of these entries.
            others: the ids of what they have entries with, `(entries,)`: items, for new users.
            values: `(entries,)`; None for 1 each.
            weight: `(entries,)`, or None.
            side: "user", or "item" for new items.

        Powers of n of the objective weigh by the entries that were seen: the other side by its own, newcomers by
        theirs, normalised as the rows that were fitted.

        Returns: one whose rows of `side` are the newcomers, in the order of their sorted ids, and which has seen these
            entries; the other side as here. Where there are powers of n, its objective has arrays in their place.

        Raises:
            DataError: for an id of `others` that is not known, and for entries that no table can have.
            ArgumentError: where no objective was saved, or it gives numbers by row of this side; where it has powers of
                n, and no seen entries were saved to count.
        """
        check_side(side)
        if self.objective is None:
            raise ArgumentError("there is no objective to solve rows for: jals.save(..., objective=objective).")
        other = np.atleast_1d(self._rows(SIDES[side], others))
        ids = np.asarray(ids)
        ids = np.broadcast_to(ids, other.shape) if ids.ndim == 0 else ids
        known, row = number_ids(f"{side} ids", ids)
        values = np.ones(len(other), np.float32) if values is None else values
        column = {side: row, SIDES[side]: other}
        size = {side: len(known), SIDES[side]: len(getattr(self.factors, SIDES[side]))}
        seen = Ratings.from_arrays(column["user"], column["item"], values, size["user"], size["item"], weight)
        objective = self._objective_for(seen, side)
        rows, bias = fold_in(self.factors, seen, objective, side)
        factors = dataclasses.replace(self.factors, **{side: rows, f"{side}_bias": bias})
        there = self.vocab or Vocabulary(*(np.arange(len(getattr(self.factors, each))) for each in SIDES))
        vocab = dataclasses.replace(there, **{side: known})
        made = Recommender(factors, vocab, objective, seen)
        if side == "user":
            made.entries = self.entries  # the items are those that were fitted
        return made

    def _objective_for(self, entries: Ratings, side: str) -> Objective:
        """The objective for newcomers of a side with these entries: without powers of n."""
        assert self.objective is not None
        if not self.objective.powers:
            return self.objective
        if self.seen is None:
            raise ArgumentError(
                f"{self.objective.powers[0]} weighs by how many entries rows were fitted to, and there are none to "
                "count: save them, jals.save(..., seen=train)."
            )
        dtype = self.factors.user.dtype
        counts = (jnp.asarray(entries_of(self.seen, each), dtype) for each in ("user", "item"))
        return self.objective.with_counts((*counts,), {side: jnp.asarray(entries_of(entries, side), dtype)})

    def _established(self, least: int | None, chosen: bool) -> np.ndarray | None:
        """A mask of the items that have entries enough, or None for all; `chosen`: the caller names the items."""
        if least is None:
            if self.entries is None or chosen:
                return None
            least = least_entries(self.objective, self.entries)
        elif isinstance(least, bool) or not isinstance(least, numbers.Integral) or least < 0:
            raise ArgumentError(f"min_entries is {least!r}, but must be a whole number >= 0, or None.")
        if not least:
            return None
        if self.entries is None:
            raise ArgumentError(
                f"min_entries is {least}, but it is not known how many entries items have: save them, jals.save(..., "
                "seen=train), or leave min_entries out."
            )
        return self.entries >= least

    def _rows(self, side: str, ids: Any) -> np.ndarray:
        if self.vocab is not None:
            return self.vocab.user_rows(ids) if side == "user" else self.vocab.item_rows(ids)
        rows, count = np.asarray(ids), len(getattr(self.factors, side))
        if rows.dtype.kind not in "iu":
            raise DataError(f"{side} ids are numbers of rows here, as there is no vocabulary, but got {rows.dtype}.")
        wrong = (rows < 0) | (rows >= count)
        if wrong.any():
            raise DataError(f"{side} {rows[wrong].flat[0]} is not there: the factors have {count:,} {side}s.")
        return rows

    def _ids(self, side: str, rows: np.ndarray) -> np.ndarray:
        if self.vocab is None:
            return rows
        known = getattr(self.vocab, side)
        nothing: Any = -1 if known.dtype.kind in "iu" else ""
        return np.where(rows < 0, np.asarray(nothing, known.dtype), known[rows])

    def _mask(self, ids: Any) -> np.ndarray:
        mask = np.zeros(len(self.factors.item), bool)
        if np.size(ids):
            mask[self._rows("item", ids)] = True
        return mask


def load(path: Any) -> Recommender:
    """Reads what `save` wrote, by the path's suffix.

    Returns: the parts as NumPy arrays (see `Saved`), with the calls of a `Recommender`.

    Raises:
        StorageError: for a file that is missing, damaged, not from jals, or of another format version; for another
            suffix.
        ImportError: without the extra that the format needs.
    """
    saved = storage.load(path)
    return Recommender(saved.factors, saved.vocab, saved.objective, saved.seen, saved.data_hash)
