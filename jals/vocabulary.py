"""Outside ids and the rows they stand for: looked up at the edges of jals, never inside."""

import dataclasses
from typing import Any

import numpy as np

from .errors import DataError, did_you_mean


@dataclasses.dataclass(frozen=True, eq=False)
class Vocabulary:
    """The outside ids of users and items; row `u` of the user factors belongs to the id `vocab.user[u]`.

    Attributes:
        user, item: outside ids, integers or strings, sorted and each once: `(num_users,)`, `(num_items,)`.

    Rows to ids is plain indexing (`vocab.item[rows]`); ids to rows is `user_rows` and `item_rows`.
    """

    user: np.ndarray
    item: np.ndarray

    @classmethod
    def from_ids(cls, user_ids: Any, item_ids: Any) -> tuple["Vocabulary", np.ndarray, np.ndarray]:
        """The vocabulary of a table's two columns of outside ids, and the columns as rows.

        Returns:
            (vocab, user, item), with `vocab.user[user]` equal to `user_ids`.

        Raises:
            DataError: when ids are neither integers nor strings.
        """
        user_vocab, user = np.unique(_checked("user", user_ids), return_inverse=True)
        item_vocab, item = np.unique(_checked("item", item_ids), return_inverse=True)
        return cls(user_vocab, item_vocab), user, item

    def user_rows(self, ids: Any) -> np.ndarray:
        """The rows of these users. Raises `DataError` that names the first id not known and the nearest one."""
        return _rows("user", self.user, ids)

    def item_rows(self, ids: Any) -> np.ndarray:
        """The rows of these items. Raises `DataError` that names the first id not known and the nearest one."""
        return _rows("item", self.item, ids)


def _checked(side: str, ids: Any) -> np.ndarray:
    """Ids as an integer or string array. A column of objects must hold strings only: 7 and "7" are not one id."""
    ids = np.asarray(ids)
    if ids.dtype == object and all(isinstance(id, str) for id in ids.ravel()):
        ids = ids.astype(str)
    if ids.dtype.kind not in "iuU":
        raise DataError(f"{side} ids must be all integers or all strings, got {ids.dtype}.")
    return ids


def _rows(side: str, known: np.ndarray, ids: Any) -> np.ndarray:
    ids = _checked(side, ids)
    texts = known.dtype.kind == "U"
    if (ids.dtype.kind == "U") != texts:
        raise DataError(f"{side} ids are {ids.dtype}, but this vocabulary holds {'strings' if texts else 'integers'}.")
    rows = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    missing = known[rows] != ids
    if missing.any():
        unknown = ids[missing].item(0)
        if texts:
            hint = did_you_mean(unknown, known)
        else:
            hint = f" The nearest known id is {min(known.tolist(), key=lambda id: abs(id - unknown))}."
        raise DataError(f"{side} id {unknown!r} is not in the vocabulary of {len(known):,} {side}s.{hint}")
    return rows
