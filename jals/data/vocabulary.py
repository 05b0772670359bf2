"""Outside ids and their rows: used where data enter and results leave, never in between."""

import bisect
import dataclasses
import difflib
import itertools
import json
from typing import Any

import numpy as np

from ..errors import DataError, EntryError
from ..reals import refuse_masked
from . import grouping
from .entries import shown

_NEAR = 2000  # so many ids are compared letter by letter with one that is not known
_LONG = 200  # characters of an id beyond which a near miss is not looked for: comparing takes the square of them
_BLOCK = 1 << 20  # ids that are numbered at a time, so that little is held beside them
_SMALL = 1 << 20  # bytes that are nothing to save at


@dataclasses.dataclass(frozen=True, eq=False)
class Vocabulary:
    """The outside ids of users and items; row `u` of the user factors belongs to the id `vocab.user[u]`.

    Attributes:
        user, item: outside ids, int64 or strings, sorted and each once: `(num_users,)`, `(num_items,)`. Strings have
            NumPy's fixed width; where a few are so long that this would take many times the memory of the text, they
            are an array of objects, all of them str.

    Rows to ids is plain indexing (`vocab.item[rows]`); ids to rows is `user_rows` and `item_rows`.
    """

    user: np.ndarray
    item: np.ndarray

    def __repr__(self) -> str:
        """How many ids there are of each side, and of what kind."""
        sides = (("user", self.user), ("item", self.item))
        said = (f"{len(ids):,} {side}s ({ids.dtype if ids.dtype.kind in 'iu' else 'text'})" for side, ids in sides)
        return f"Vocabulary({', '.join(said)})"

    @classmethod
    def from_ids(cls, user_ids: Any, item_ids: Any) -> tuple["Vocabulary", np.ndarray, np.ndarray]:
        """The vocabulary of a table's two columns of outside ids, and the columns as rows.

        Args:
            user_ids, item_ids: `(entries,)`, each all integers (within int64) or all strings.

        Returns:
            (vocab, user, item), with `vocab.user[user]` equal to `user_ids`; user and item are int32 `(entries,)`.

        Raises:
            DataError: when ids are neither integers nor strings, or one is masked or an empty text: the first is named.
        """
        user_vocab, user = number_ids("user ids", user_ids)
        item_vocab, item = number_ids("item ids", item_ids)
        return cls(user_vocab, item_vocab), user, item

    def user_rows(self, ids: Any) -> np.ndarray:
        """The rows of these users, in the shape of `ids` (one id or an array of them).

        Raises:
            DataError: naming the first id that is not known and the nearest one that is; for ids that are neither all
                integers nor all strings, or none at all.
        """
        return _rows("user", self.user, ids)

    def item_rows(self, ids: Any) -> np.ndarray:
        """The rows of these items, like `user_rows`."""
        return _rows("item", self.item, ids)


def number_ids(what: str, ids: Any) -> tuple[np.ndarray, np.ndarray]:
    """(known, rows): the distinct ids, sorted, and int32 `(entries,)` with `known[rows]` equal to `ids`."""
    ids = _checked(what, ids, wide=False)
    if ids.ndim != 1:
        raise DataError(f"{what} must be one-dimensional, got shape {ids.shape}.")
    if ids.dtype.kind not in "iu":
        texts = ids.tolist()
        distinct = sorted(set(texts))  # far fewer than entries: sorting those is cheap
        if not distinct[0]:
            raise empty_id(what, texts.index(""))
        if any(id.endswith("\0") for id in distinct):
            raise DataError(f"{what} end in NUL characters at places, which NumPy's strings drop: strip them.")
        place = {id: row for row, id in enumerate(distinct)}
        return text_array(distinct), np.fromiter(map(place.__getitem__, texts), np.int32, len(texts))
    low, high = int(ids.min()), int(ids.max())
    if high - low > 4 * ids.size:
        known, rows = np.unique(ids, return_inverse=True)
        return known.astype(np.int64, copy=False), rows.astype(np.int32)
    base = 0 if 0 <= low <= ids.size else low
    present = np.zeros(high - base + 1, bool)  # as good as sorted, in one pass
    blocks = [slice(at, at + _BLOCK) for at in range(0, ids.size, _BLOCK)]
    for block in blocks:
        present[ids[block].astype(np.int64) - base] = True
    known = np.flatnonzero(present) + base
    if ids.dtype == np.int32 and base == 0 and len(known) == len(present):
        return known, ids
    rank = np.cumsum(present, dtype=np.int32)
    rank -= 1
    rows = grouping.empty(ids.shape, np.int32)
    for block in blocks:
        rows[block] = rank[ids[block].astype(np.int64) - base]
    return known, rows


def empty_id(what: str, entry: int) -> EntryError:
    """The error for an id that is an empty text; `what` as for `number_ids`."""
    return EntryError(f"{what}: the id", entry, "is empty. Leave such entries out.")


def text_array(texts: list[str]) -> np.ndarray:
    """Strings as NumPy has them: all as wide as the longest, 4 bytes a character; or as objects where few are so long
    that this takes more than about four times as much."""
    wide = len(texts) * max(map(len, texts), default=0)
    uneven = 4 * wide > _SMALL and wide > 4 * (sum(map(len, texts)) + 16 * len(texts))
    return np.array(texts, object if uneven else str)


def _checked(what: str, ids: Any, wide: bool = True) -> np.ndarray:
    """Ids as an array of int64, of strings, or of objects that are strings. 7 and "7" are two ids, so none mix."""
    refuse_masked(f"{what}: the id", ids)
    try:
        ids = np.asarray(ids) if hasattr(ids, "dtype") else np.array(ids, object)
        ids = ids.astype(object) if ids.dtype.kind == "T" else ids  # where a missing one is no str
    except Exception as error:  # ragged, or what a class of someone else's says to being an array
        raise DataError(f"{what} are no array: {str(error).rstrip('.')}. Give one id an entry.") from error
    if not ids.size:
        raise DataError(f"there are no {what}: give at least one.")
    kinds = {type(id) for id in ids.ravel().tolist()} if ids.dtype == object else {ids.dtype.type}
    if all(issubclass(kind, str) for kind in kinds):
        return ids
    if all(issubclass(kind, int | np.integer) and kind not in (bool, np.timedelta64) for kind in kinds):
        return _int64(what, ids) if wide or ids.dtype.kind not in "iu" or ids.dtype.itemsize == 8 else ids
    problem = f"{what} must be all integers or all strings, got {' and '.join(sorted(k.__name__ for k in kinds))}"
    if len(kinds) > 1:
        items = ids.ravel().tolist()
        at = next(at for at, id in enumerate(items) if type(id) is not type(items[0]))
        problem += f" (entry {at} is {shown(items[at])}, the first {shown(items[0])})"
    raise DataError(f"{problem}.")


def _int64(what: str, ids: np.ndarray) -> np.ndarray:
    if ids.dtype.kind in "Ou":
        beyond = [id for id in (int(ids.min()), int(ids.max())) if not -(2**63) <= id < 2**63]
        if beyond:
            raise DataError(f"{what} must be within int64, but {beyond[0]} is not. Give them as strings.")
    return ids.astype(np.int64, copy=False)


def _rows(side: str, known: np.ndarray, ids: Any) -> np.ndarray:
    given = _checked(f"{side} ids", ids)
    texts = known.dtype.kind not in "iu"
    if texts and given.dtype != np.int64:
        given = text_array(given.ravel().tolist()).reshape(given.shape)
        common = object if object in (known.dtype, given.dtype) else str
        known, given = known.astype(common, copy=False), given.astype(common, copy=False)
    elif texts or given.dtype != np.int64:
        raise DataError(
            f"{side} ids are given as {'integers' if texts else 'strings'}, but this vocabulary holds "
            f"{'strings' if texts else 'integers'}, such as {shown(known.item(0))}."
        )
    rows = np.minimum(np.searchsorted(known, given), len(known) - 1)
    missing = known[rows] != given
    if missing.any():
        unknown = given[missing].item(0)
        hint = _near_text(unknown, known) if texts else _near_number(unknown, known)
        raise DataError(f"{side} id {shown(unknown)} is not in the vocabulary of {len(known):,} {side}s.{hint}")
    return rows


def _near_number(unknown: int, known: np.ndarray) -> str:
    after = int(np.searchsorted(known, unknown))
    nearest = min(known[max(after - 1, 0) : after + 1].tolist(), key=lambda id: abs(id - unknown))
    return f" The nearest known id is {nearest}."


def _near_text(unknown: str, known: np.ndarray) -> str:
    """A near miss whatever its case. A word with one slip keeps its first or its second half, which among a million
    ids is looked for in about a second; only what is found so is compared letter by letter."""
    word = unknown.strip().lower()
    if len(word) > _LONG:
        return ""
    names = {id.lower(): id for id in known.tolist()}
    if len(names) > _NEAR:
        half = (len(word) + 1) // 2
        fits = [id for id in names if abs(len(id) - len(word)) <= 1]
        begun = sorted(id for id in fits if id.startswith(word[:half]))
        middle = bisect.bisect_left(begun, word)  # ids with much in common: the next in order
        ended = itertools.islice((id for id in fits if id.endswith(word[half:])), _NEAR)
        names = {id: names[id] for id in (*begun[max(middle - _NEAR, 0) : middle + _NEAR], *ended)}
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return f" Did you mean {json.dumps(names[near[0]], ensure_ascii=False)}?" if near else ""
