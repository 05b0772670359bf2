"""Bytes that a device sends in a sweep, by how rows reach the devices that need them: no device is needed.

What is routed is known beforehand, so all this is counted on the host, from the very places, routes and giants that
`Problem.build(ratings, devices=)` makes; a test compares such counts with the collectives of compiled sweeps. Beside
them stands the scheme of ALX (Mehta et al., 2021), which fetches rows batch by batch, the same row again
wherever it is met: each device gathers the numbers of the rows that all need for a batch, fills in its own rows and
zeros for the others, and a sum over the devices makes each row whole.

With D devices, rows of b = 4 rank bytes, P places of the other side's table, a half-sweep sends
    all_gather          (D - 1) P/D b                 every block of the table to every other device
    routed, n times     n (D - 1) B b                 B: the most distinct rows that one device needs of one other
    ring                (D - 1) P/D b                 the blocks passed on
    ALX                 S (D - 1) (4 + 2 b)           S slots: numbers gathered, (D - 1) S 4, and rows summed by a
                                                      reduce-scatter and a gather of the sums, 2 (D - 1)/D (D S) b
and what giants need comes on top of the first three. `chosen` is exchange="auto".

Command: python experiments/exchange_bytes.py [TABLE.npz] [--rank 64] [--devices 8 64 256]
    TABLE.npz: a scipy.sparse table; without it one is made, of MovieLens 20M's shape and skew.
Time: half a minute.
Writes: nothing; docs/scaling.md has what it printed. Exit code 1 where the chosen way sends more than 1.05 times what
    all_gather does, more than .7 times that on 256 devices, or less than 100 times under ALX's scheme.
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from speed.table import made_table

import jals
from jals.model.exchange import WAYS, Amounts, Needs
from jals.model.layouts import forecast_slots
from jals.model.places import SIDES
from jals.model.spreading import SHARDS, OfRatings, chosen


class Sent(NamedTuple):
    """Rows that a device sends in a sweep on so many devices: by way, those of the ways that "auto" takes, and slots
    of a device; `ways` are what it takes for users and items."""

    devices: int
    rows: dict[str, int]
    chosen: int
    ways: tuple[str, str]
    slots: int

    def bytes(self, way: str, rank: int) -> int:
        if way == "ALX":
            return self.slots * (self.devices - 1) * (4 + 2 * 4 * rank)
        return 4 * rank * (self.chosen if way == "chosen" else self.rows[way])


def needs_of(source: OfRatings, side: str, devices: int) -> tuple[Amounts, Amounts | None]:
    """What the rows of a side need of the other, and what its giants do."""
    each, places = source.places.shards // devices, source.places.count(SIDES[side == "user"])
    shards = ([source.shard(side, device * each + at).other for at in range(each)] for device in range(devices))
    rest = Needs.find(map(np.concatenate, shards), devices, 1, places).amounts
    if not len(source.giants[side]):
        return rest, None
    giants = (source.of_giants(side, device, devices).other for device in range(devices))
    return rest, Needs.find(giants, devices, 1, places).amounts


def sent(ratings: jals.Ratings, devices: int) -> Sent:
    source = OfRatings(ratings, max(SHARDS, devices))
    rows: dict[str, int] = dict.fromkeys(WAYS, 0)
    ways, taken, slots = [], 0, 0
    for side in SIDES:
        amounts = [each for each in needs_of(source, side, devices) if each is not None]
        for way in WAYS:
            rows[way] += sum(each.sent_rows(way) for each in amounts)
        taken += sum(each.sent_rows(chosen(each, np.float32)) for each in amounts)
        ways.append(chosen(amounts[0], np.float32))
        degree = np.bincount(getattr(ratings, side))
        slots += -(-forecast_slots(degree, "bucketed", "tpu") // devices)
    return Sent(devices, rows, taken, (ways[0], ways[1]), slots)


def holds(found: Sent, rank: int) -> bool:
    """Whether the chosen way keeps within what is said of it."""
    of = {way: found.bytes(way, rank) for way in ("chosen", "all_gather", "ALX")}
    most = 0.7 if found.devices >= 256 else 1.05
    return of["chosen"] <= most * of["all_gather"] and 100 * of["chosen"] <= of["ALX"]


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("table", nargs="?", type=Path)
    asked.add_argument("--rank", type=int, default=64)
    asked.add_argument("--devices", type=int, nargs="+", default=[8, 64, 256])
    given = asked.parse_args()
    table = made_table(1) if given.table is None else sp.load_npz(given.table)
    ratings = jals.Ratings.from_scipy(table)
    print(f"{ratings.num_users:,} users x {ratings.num_items:,} items, {len(ratings):,} entries, rank {given.rank}")
    columns = [*WAYS, "chosen", "ALX"]
    print("| devices | " + " | ".join(f"{way}, MiB" for way in columns) + " | users by, items by | of all_gather |")
    print("|---|" + "---|" * (len(columns) + 2))
    fine = True
    for devices in given.devices:
        found = sent(ratings, devices)
        of = [found.bytes(way, given.rank) for way in columns]
        numbers = " | ".join(f"{each / 2**20:,.1f}" for each in of)
        share = found.chosen / found.rows["all_gather"]
        print(f"| {devices} | {numbers} | {', '.join(found.ways)} | {share:.3f} |", flush=True)
        fine &= holds(found, given.rank)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
