"""A partitioned table that stays on the disk: laid out once, shard by shard, and fitted one shard at a time."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..data.vocabulary import Vocabulary
from ..errors import ArgumentError, DataError, StorageError
from ..partitioned.manifest import SIDES, Manifest
from ..partitioned.reader import Places, read_shard, row_places
from ..partitioned.slabs import Arrays, remove_leftovers, write_arrays
from ..partitioned.workplace import alone
from .layouts import Side
from .problem import Problem
from .shards import Plan
from .slots import CODES, Slots, codes

_VERSION = 1  # of what lies in the folder; other versions have other folders
_TABLE = "table"
REFUSAL = "is opened with stream=True, for jals.fit alone: open it without stream=True, in memory."


@dataclasses.dataclass(frozen=True, repr=False)
class Streamed:
    """A partitioned table that `jals.fit` reads from the disk, a shard at a time; made by `Problem.open(stream=True)`.
    Nothing else takes it.

    Attributes:
        num_users, num_items, num_entries: of the table.
        dtype: float32 or float64, what factors will be.
        vocab: the outside ids of the rows, or None.
        memory: bytes that the process may hold in memory of its own while it fits, or None.
        folder: where the laid out shards are.
        head: a problem without a side, of the table's counts, of the mean of its values, the lowest and the largest:
            what a start needs.
        weight_sums: (of users, of items), the sum of the entries' weights, as `Problem.weight_sums`.
        shards: how many each side has.
        steps: of each side's `shards.Plan`.
        scale: as of `Slots`.
    """

    num_entries: int
    vocab: Vocabulary | None
    memory: int | None
    folder: Path
    head: Problem
    weight_sums: tuple[jax.Array, jax.Array]
    shards: int
    steps: dict[str, tuple[int, ...]]
    scale: jax.Array | None

    def __repr__(self) -> str:
        shape = f"{self.num_users:,} users x {self.num_items:,} items"
        return f"Streamed({shape}, {self.num_entries:,} entries, {self.dtype}, {self.shards} shards in {self.folder})"

    @property
    def num_users(self) -> int:
        return self.head.num_users

    @property
    def num_items(self) -> int:
        return self.head.num_items

    @property
    def dtype(self) -> Any:
        return self.head.dtype

    def shard(self, side: str, number: int) -> Arrays:
        """The arrays of a shard, as `Shard.of` takes them.

        Raises:
            StorageError: naming a file that is missing or damaged.
        """
        return Arrays(_path(self.folder, side, number))

    def largest_bytes(self) -> int:
        """Of the largest file of a shard."""
        sizes = [_path(self.folder, side, number).stat().st_size for side in SIDES for number in range(self.shards)]
        return max(sizes)


def open_streamed(
    manifest: Manifest,
    memory: Any = None,
    folder: Any = None,
    verify: bool = True,
    progress: Callable[[str, int, int], None] | None = None,
) -> Streamed:
    """`Problem.open(stream=True)`: lays out what is not yet laid out, and opens it."""
    limit, said = _bytes(memory), progress or (lambda *_: None)
    wide = manifest.value == "float64" and jax.config.read("jax_enable_x64")
    laying = _Laying(manifest, np.dtype(np.float64 if wide else np.float32), Path(folder or manifest.folder / "slabs"))
    vocab = laying.finish(verify, said)
    found = Arrays(laying.folder / f"{_TABLE}.slabs")
    found.verify()
    table = {name: np.array(array) for name, array in found.arrays.items()}
    low, high, mean = table["numbers"].astype(laying.dtype)
    counts = {side: table[f"{side}_count"].astype(laying.dtype) for side in SIDES}
    none, sides = np.zeros(3, np.int32), {}
    for side in SIDES:
        sides[f"{side}_side"] = Side((), len(counts[side]), 3)
        sides[f"{side}_slots"] = Slots((), (), jnp.asarray(counts[side]))
    numbers = np.array([[low, high, mean], [0, 0, 1]], laying.dtype)  # values and weights: the mean is that of these
    columns = jax.device_put((none, none, *numbers))
    head = Problem(*columns, **sides, num_users=len(counts["user"]), num_items=len(counts["item"]))
    sums = jax.device_put(tuple(table.get(f"{side}_weight", counts[side]).astype(laying.dtype) for side in SIDES))
    steps = {side: tuple(table[f"{side}_steps"].tolist()) for side in SIDES}
    scale = jnp.asarray(table["scale"]) if len(table["scale"]) else None
    return Streamed(manifest.entries, vocab, limit, laying.folder, head, sums, manifest.shards, steps, scale)


def _path(folder: Path, side: str, number: int) -> Path:
    return folder / f"{side}-{number:04d}.slabs"


def _bytes(memory: Any) -> int | None:
    """So many bytes, of "300MB" and the like."""
    if memory is None or (isinstance(memory, int | np.integer) and not isinstance(memory, bool) and memory > 0):
        return None if memory is None else int(memory)
    bases = {"B": 1000, "IB": 1024}
    units = {unit + end: base**power for power, unit in enumerate("KMGT", 1) for end, base in bases.items()}
    text = memory.strip().upper() if isinstance(memory, str) else ""
    for unit, size in units.items():
        number = text.removesuffix(unit).strip() if text.endswith(unit) else ""
        if number.replace(".", "", 1).isdigit() and float(number) > 0:
            return int(float(number) * size)
    raise ArgumentError(f'memory is {memory!r}, but must be a size, such as "300MB" or "2GB", or bytes, or None.')


# ---- laying out ----


class _Laying:
    """The folder of a table's shards, laid out for a dtype and the platform that jax is on.

    First one pass over the user side: what the layout of any shard depends on of all others. Then each shard of either
    side by itself. A file that is there is not made again.
    """

    def __init__(self, manifest: Manifest, dtype: np.dtype, folder: Path):
        self.manifest, self.dtype, self.platform = manifest, dtype, jax.default_backend()
        files = [
            [file.path, file.sha256 or _state(manifest.folder / file.path)]
            for side in SIDES
            for file in manifest.files_of(side)
        ]
        what = [_VERSION, manifest.shards, manifest.entries, dtype.name, self.platform, files]
        self.folder = folder / hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]

    def finish(self, verify: bool, progress: Callable[[str, int, int], None]) -> Vocabulary | None:
        """Makes what is missing, and looks at what is there. Returns the table's ids."""
        wanted = [(side, number) for side in SIDES for number in range(self.manifest.shards)]
        missing = [each for each in wanted if not _path(self.folder, *each).exists()]
        table = self.folder / f"{_TABLE}.slabs"
        if missing or not table.exists():
            self.manifest.verify(hashes=verify)
        places = {side: row_places(self.manifest, side) for side in SIDES}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"{self.folder} cannot be made: {error.strerror or error}. Choose another folder for what is laid out: "
                "slabs=..."
            ) from error
        if missing or not table.exists():
            with alone(self.folder, str(self.folder)):
                remove_leftovers(self.folder)
                if not table.exists():
                    write_arrays(table, self._surveyed(places, progress))
                self._lay_out(Arrays(table).arrays, missing, places, progress)
        for done, each in enumerate(wanted if verify else ()):
            if each not in missing:
                Arrays(_path(self.folder, *each)).verify()
                progress("verify", done + 1, len(wanted))
        known = [places[side][0] for side in SIDES]
        return None if known[0] is None or known[1] is None else Vocabulary(known[0], known[1])

    def _surveyed(self, places: Places, progress: Callable[[str, int, int], None]) -> dict[str, np.ndarray]:
        """What has to be known of all entries before any is laid out."""
        manifest, rows = self.manifest, {side: getattr(self.manifest, side).rows for side in SIDES}
        degree, count = ({side: np.zeros(rows[side], np.int32) for side in SIDES} for _ in range(2))
        sums = {side: np.zeros(rows[side]) for side in SIDES}
        low, high, total, weights, plain, marks = np.inf, -np.inf, 0.0, 0.0, True, 0
        distinct: np.ndarray | None = np.empty(0, self.dtype)
        for shard, part in self._shards("user", places):
            user = places["user"][1][shard * manifest.user.size + part["row"]]
            value = part["value"].astype(self.dtype)
            weight = part["weight"].astype(self.dtype) if manifest.weighted else np.ones_like(value)
            plain &= bool((weight == 1).all())
            for side, row in (("user", user), ("item", part["other"])):
                np.add.at(degree[side], row, 1)
                np.add.at(count[side], row, (weight > 0).astype(np.int32))
                np.add.at(sums[side], row, weight.astype(np.float64))
            low, high = min(low, value.min(initial=np.inf)), max(high, value.max(initial=-np.inf))
            total += np.dot(value.astype(np.float64), weight)
            weights += weight.sum(dtype=np.float64)
            marks += _marks(user, part["other"], value)
            if distinct is not None:
                distinct = np.union1d(distinct, value)
                distinct = distinct if len(distinct) <= np.iinfo(CODES[-1]).max + 1 else None
            progress("survey", shard + 1, manifest.shards)
        if (have := int(degree["user"].sum())) != manifest.entries:
            said = f"but the manifest says {manifest.entries:,}"
            raise StorageError(f"{manifest.folder}: the shards of the user side hold {have:,} entries, {said}.")
        if not weights:
            raise DataError(f"{manifest.folder}: every entry has weight 0: there is nothing to learn from.")
        coded, scale = (None, None) if distinct is None else codes(distinct)
        nothing = np.empty(0, self.dtype)
        found = {"numbers": np.array([low, high, total / weights]), "marks": np.array([marks % 2**64], np.uint64)}
        found["scale"] = nothing if scale is None else scale
        found["codes"] = np.empty(0, np.uint8) if coded is None else coded
        found["distinct"] = nothing if coded is None or distinct is None else distinct
        for side in SIDES:
            row_at = places[side][1].reshape(manifest.shards, -1)
            at = np.where(row_at >= 0, degree[side][row_at], 0)
            found |= {f"{side}_degree": at, f"{side}_count": count[side]}
            found |= {} if plain else {f"{side}_weight": sums[side]}
            found[f"{side}_steps"] = np.array(Plan(at, self.platform).steps)
        return found

    def _lay_out(self, table: Any, missing: list, places: Places, progress: Callable[[str, int, int], None]) -> None:
        done = 0
        for side in SIDES:
            numbers = {number for of, number in missing if of == side}
            if not numbers:
                continue
            plan, rows = Plan(table[f"{side}_degree"], self.platform), getattr(self.manifest, side).rows
            marks = 0
            for number, part in self._shards(side, places, numbers):
                size = getattr(self.manifest, side).size
                row_at = places[side][1][number * size : (number + 1) * size]
                value, weight = part["value"].astype(self.dtype), None
                own, other = row_at[part["row"]], part["other"]
                marks += _marks(*((own, other) if side == "user" else (other, own)), value)
                self._check_degrees(side, number, part["row"], table[f"{side}_degree"][number])
                if f"{side}_weight" in table:
                    weight = part["weight"].astype(self.dtype)
                if len(table["codes"]):
                    place = np.searchsorted(table["distinct"], value).clip(max=len(table["distinct"]) - 1)
                    if (table["distinct"][place] != value).any():
                        raise self._differ(f", as shard {number} of the {side} side shows")
                    value = table["codes"][place]
                shard = plan.lay_out(
                    number, np.where(row_at >= 0, row_at, rows).astype(np.int32), part["row"], other, value, weight
                )
                write_arrays(_path(self.folder, side, number), shard.named())
                done += 1
                progress("lay out", done, len(missing))
            if len(numbers) == self.manifest.shards and marks % 2**64 != int(table["marks"][0]):
                for number in numbers:
                    _path(self.folder, side, number).unlink()
                raise self._differ()

    def _check_degrees(self, side: str, number: int, row: np.ndarray, degree: np.ndarray) -> None:
        if (np.bincount(row, minlength=len(degree)) != degree).any():
            raise self._differ(f", as shard {number} of the {side} side shows")

    def _differ(self, where: str = "") -> DataError:
        return DataError(
            f"{self.manifest.folder}: the item side does not hold the entries of the user side{where}. Partition the "
            "source again."
        )

    def _shards(
        self, side: str, places: Places, numbers: set[int] | None = None
    ) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        for number, paths in enumerate(self.manifest.shard_files(side)):
            if numbers is None or number in numbers:
                yield number, read_shard(self.manifest, side, number, paths, places)


def _marks(user: np.ndarray, item: np.ndarray, value: np.ndarray) -> int:
    """A sum, but for multiples of 2^64, by which the same entries are known in any order."""
    key = user.astype(np.uint64) << np.uint64(32) | item.astype(np.uint64)
    for factor in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB):  # of splitmix64
        key = (key ^ (key >> np.uint64(30))) * np.uint64(factor)
    return int(np.sum(key * (2 * value.astype(np.float64).view(np.uint64) + np.uint64(1)), dtype=np.uint64))


def _state(path: Path) -> list[int]:
    try:
        state = path.stat()
    except OSError:
        return []
    return [state.st_size, state.st_mtime_ns]
