"""Where the rows of factor tables lie that are spread over devices.

A table's rows are dealt to *shards* of equal cost (`partitioned.dealing`); each shard has `size` places, and row r lies
at place `at[r]` of the `shards * size` that the factor table has. That does not depend on how many devices there are:
each holds the places of as many shards. Places without a row hold zeros.
"""

import functools
import hashlib
from typing import NamedTuple

import numpy as np

from ..errors import ArgumentError
from ..partitioned.dealing import deal

SIDES = ("user", "item")


class SidePlaces(NamedTuple):
    """Of one side: `at` int32 `(rows,)`, the place of each row; `size`, how many places a shard has."""

    at: np.ndarray
    size: int


class Places:
    """Of both sides, known to the host. Equal and hashed by content, so that it can be a static part of factors.

    Attributes:
        shards: how many each side has.
        user, item: `SidePlaces`.
    """

    def __init__(self, shards: int, user: SidePlaces, item: SidePlaces):
        self.shards, self.user, self.item = shards, user, item
        content = hashlib.sha256(str((shards, user.size, item.size)).encode())
        for side in (user, item):
            if side.at.strides != (0,):  # see `of_sizes`
                content.update(np.ascontiguousarray(side.at).tobytes())
        self._digest = content.digest()

    @classmethod
    def deal(cls, degrees: tuple[np.ndarray, np.ndarray], shards: int) -> "Places":
        """Rows of these many entries, users' and items', to so many shards. Within a shard they lie by their numbers:
        where scores are equal, the lower place is the lower number."""
        users, items = (places_of(deal(degree, shards).shard, shards) for degree in degrees)
        return cls(shards, users, items)

    @classmethod
    def of_sizes(cls, shards: int, rows: tuple[int, int]) -> "Places":
        """Of so many users and items, of which it is not known where they lie: for programs that are compiled, and not
        run. They take no memory."""
        sides = (SidePlaces(np.broadcast_to(np.int32(0), count), -(-count // shards)) for count in rows)
        return cls(shards, *sides)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Places) and self._digest == other._digest

    def __hash__(self) -> int:
        return hash(self._digest)

    def __repr__(self) -> str:
        users, items = (f"{len(side.at):,} in {self.shards * side.size:,}" for side in (self.user, self.item))
        return f"Places({self.shards} shards, users {users} places, items {items})"

    def side(self, name: str) -> SidePlaces:
        return self.user if name == "user" else self.item

    def count(self, name: str) -> int:
        """How many places a side has."""
        return self.shards * self.side(name).size

    @functools.cached_property
    def rows(self) -> dict[str, np.ndarray]:
        """{side: int32 `(places,)`, the row at each place; the number of rows where there is none}."""
        found = {}
        for name in SIDES:
            at = self.side(name).at
            row = np.full(self.count(name), len(at), np.int32)
            row[at] = np.arange(len(at), dtype=np.int32)
            found[name] = row
        return found

    def check_devices(self, devices: int) -> None:
        """Raises ArgumentError for a number of devices that does not divide the shards."""
        if self.shards % devices:
            fitting = ", ".join(str(each) for each in range(1, self.shards + 1) if not self.shards % each)
            raise ArgumentError(f"{devices} devices do not divide {self.shards} shards; these do: {fitting}.")


def places_of(shard: np.ndarray, shards: int) -> SidePlaces:
    """The places of rows that lie in these shards, int `(rows,)`, by their numbers within each."""
    counts = np.bincount(shard, minlength=shards)
    size = max(int(counts.max()), 1)
    if shards * size > np.iinfo(np.int32).max:
        raise ArgumentError(f"{shards} shards of {size:,} places are 2**31 or more, but places are numbered in int32.")
    order = np.argsort(shard, kind="stable")
    at = np.empty(len(shard), np.int32)
    at[order] = shard[order].astype(np.int64) * size + np.arange(len(shard)) - np.repeat(
        np.cumsum(counts) - counts, counts
    )
    return SidePlaces(at, size)
