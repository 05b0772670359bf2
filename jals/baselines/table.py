"""The table by users, as the baselines read it."""

import dataclasses
from typing import Any

import numpy as np

from ..data.ratings import Ratings
from ..errors import ArgumentError, DataError


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Rows:
    """X by rows: user u has the items `item[start[u]:start[u + 1]]` with the values `value` there."""

    start: np.ndarray
    item: np.ndarray
    value: np.ndarray
    num_items: int

    @property
    def num_users(self) -> int:
        return len(self.start) - 1

    def entries(self, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(which of `users`, place of the entry) of every entry of these users, in their order."""
        count = self.start[users + 1] - self.start[users]
        which = np.repeat(np.arange(len(users)), count)
        within = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
        return which, np.repeat(self.start[users], count) + within

    def dense(self, users: np.ndarray) -> np.ndarray:
        """`(len(users), num_items)`, 0 where an entry is missing."""
        which, place = self.entries(users)
        made = np.zeros((len(users), self.num_items), self.value.dtype)
        made[which, self.item[place]] = self.value[place]
        return made


def rows_of(name: str, ratings: Any) -> Rows:
    """The entries of weight 1, by user.

    Raises:
        ArgumentError: for what is no `Ratings`.
        DataError: for a weight that is neither 0 nor 1, or where no entry is left.
    """
    ratings = checked(name, ratings)
    if ratings.weight is not None:
        wrong = (ratings.weight != 0) & (ratings.weight != 1)
        if wrong.any():
            at = int(np.argmax(wrong))
            raise DataError(
                f"weight of entry {at} is {ratings.weight[at]}, but {name} knows no weights: an entry is there (1) or "
                "not (0)."
            )
        if not ratings.weight.any():
            raise DataError("every entry has weight 0: there is nothing to learn from.")
        ratings = ratings.select(ratings.weight == 1)
    ratings = ratings.sorted()
    start = np.zeros(ratings.num_users + 1, np.int64)
    np.cumsum(np.bincount(ratings.user, minlength=ratings.num_users), out=start[1:])
    return Rows(start, ratings.item, ratings.value, ratings.num_items)


def gram_columns(rows: Rows):
    """X'X column by column, float64: (item i, X'x_i `(num_items,)`) in the order of the items. Each takes all entries
    of the users of one item; all together one product for each ordered pair of entries of a user."""
    users = np.repeat(np.arange(rows.num_users), np.diff(rows.start))
    order = np.argsort(rows.item, kind="stable")
    ends = np.cumsum(np.bincount(rows.item, minlength=rows.num_items))
    value = rows.value.astype(np.float64)
    for item, end in enumerate(ends):
        own = order[ends[item - 1] if item else 0 : end]
        which, place = rows.entries(users[own])
        column = np.bincount(rows.item[place], value[own][which] * value[place], minlength=rows.num_items)
        yield item, column.astype(np.float64, copy=False)  # of an item without users it is int64


def checked(name: str, ratings: Any) -> Ratings:
    """Raises ArgumentError for what is no `Ratings`."""
    if not isinstance(ratings, Ratings):
        raise ArgumentError(
            f"{name} takes jals.Ratings, got {type(ratings).__name__}: "
            "make them with Ratings.from_arrays(user, item, value)."
        )
    return ratings


def checked_users(users: Any, num_users: int) -> np.ndarray:
    """Raises ArgumentError unless `users` is a list of users' numbers."""
    users = np.asarray(users)
    if users.ndim != 1 or (users.size and not np.issubdtype(users.dtype, np.integer)):
        raise ArgumentError(f"users must be a list of whole numbers, got {users.dtype} of shape {users.shape}.")
    users = users.astype(np.int64)
    if users.size and not 0 <= users.min() <= users.max() < num_users:
        wrong = users.min() if users.min() < 0 else users.max()
        raise ArgumentError(f"user {wrong} is out of range: the table has {num_users:,} users.")
    return users
