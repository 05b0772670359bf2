"""The steps from a source to a partitioned table, by DuckDB where they do not fit into memory; each is done once."""

import concurrent.futures
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..data.entries import shown
from ..data.frames import polars
from ..data.ratings import DuplicateEntries, Ratings
from ..data.readers import Reading
from ..data.vocabulary import Vocabulary, empty_id
from ..errors import DataError
from .dealing import deal
from .manifest import MOST, NAME, SIDES, File, Manifest, SideManifest, sha256, shard_folder
from .sources import of_files, of_ratings, quoted_path
from .workplace import Workplace

_BUFFERED = 1 << 21  # rows that wait to be written, over all shards and threads
_SHARD = "CAST(regexp_extract(filename, 'shard=(\\d+)[/\\\\][^/\\\\]*$', 1) AS BIGINT)"  # of a file in it


class Writing:
    """The steps, from the source to the table."""

    def __init__(self, connection: Any, place: Workplace, shards: int, duplicates: str, progress: Callable):
        self.connection, self.place, self.shards = connection, place, shards
        self.duplicates, self.progress = duplicates, progress
        self.sizes: dict[str, int] = {}
        connection.execute(f"SET partitioned_write_flush_threshold = {max(_BUFFERED // shards, 2048)}")

    def made(self, source: Any, reading: Reading, vocab: Vocabulary | None) -> Manifest:
        self.step("reading the source")
        if isinstance(source, Ratings):
            self.source = of_ratings(self.connection, source, self.place.once)
        else:
            self.source = of_files(self.connection, source, reading, self.place.once)
        self.connection.execute(f"CREATE VIEW source AS {self.source.sql()}")
        self.weighted = self.check()
        self.entry = "INTEGER" if self.source.starts[-1] + self.source.parts[-1].rows <= MOST else "BIGINT"
        for side in SIDES:
            self.step(f"numbering and dealing the {side}s")
            self.place.once(f"ids-{side}", lambda folder, side=side: self.write_ids(folder, side))
            dealt = self.place.once(f"dealt-{side}", lambda folder, side=side: self.write_dealt(folder, side))
            self.sizes[side] = int((dealt / "size").read_text())
        for side in SIDES:
            self.write_side(side)
        sides = {}
        for side in SIDES:
            self.step(f"listing the {side}s")
            self.place.once(f"result/rows/{side}", lambda folder, side=side: self.write_rows(folder, side, vocab))
            sides[side] = self.described(side, vocab)
        (self.place.result / NAME).unlink(missing_ok=True)
        entries = sum(sides["user"].entries)
        numbers = (self.shards, entries, self.source.value, self.weighted, True)
        Manifest(self.place.result, *numbers, **sides).write()
        self.place.finish()
        return Manifest.read(self.place.out)

    def step(self, name: str, done: int = 0, total: int = 1) -> None:
        self.progress(name, done, total)

    def query(self, text: str) -> list[tuple]:
        return self.connection.execute(text).fetchall()

    def check(self) -> bool:
        """Refuses what no table may hold; whether there are weights other than 1."""
        wrong = {
            "user": "user IS NULL",
            "item": "item IS NULL",
            "value": "value IS NULL OR NOT isfinite(value)",
            "weight": "weight IS NULL OR NOT isfinite(weight) OR weight < 0",
        }
        for side in SIDES:
            if self.source.ids[side] == "text":
                wrong[side] += f" OR {side} = '' OR contains({side}, chr(0))"
        counts = ", ".join(f"count(*) FILTER ({condition})" for condition in wrong.values())
        ((*found, weighted),) = self.query(f"SELECT {counts}, coalesce(bool_or(weight <> 1), false) FROM source")
        for (role, condition), count in zip(wrong.items(), found, strict=True):
            if count:
                # Not WHERE: DuckDB would pass over row groups whose statistics, as some write them, know no NaN.
                ((entry,),) = self.query(f"SELECT min(entry) FILTER ({condition}) FROM source")
                raw = self.source.raw(self.connection, entry, role)
                raise self.source.error(entry, role, _problem(role, raw, count))
        return weighted

    def write_ids(self, folder: Path, side: str) -> None:
        """The ids, sorted: the row of each is its place here; and how many entries each has, duplicates included."""
        counted = f"SELECT {side} AS id, count(*) AS degree FROM source GROUP BY 1"
        if self.source.counts is not None:
            every = f"range({self.source.counts[side]}) every(id)"
            counted = f"SELECT id, coalesce(degree, 0) AS degree FROM {every} LEFT JOIN ({counted}) USING (id)"
        self.connection.execute(f"COPY ({counted} ORDER BY id) TO {quoted_path(folder / 'ids.parquet')}")

    def write_dealt(self, folder: Path, side: str) -> None:
        ids = f"read_parquet({quoted_path(self.place.path / f'ids-{side}' / 'ids.parquet')})"
        found = self.connection.execute(f"SELECT degree FROM {ids} ORDER BY file_row_number").fetchnumpy()
        if len(found["degree"]) > self.shards * MOST:
            raise DataError(f"{len(found['degree']):,} {side}s are too many for {self.shards} shards: take more.")
        dealt = deal(found["degree"], self.shards)
        polars().DataFrame({"spot": dealt.at()}).write_parquet(folder / "places.parquet")
        (folder / "size").write_text(str(dealt.size))

    def placed(self, side: str) -> str:
        """Row, id and place of each of a side's rows."""
        ids = quoted_path(self.place.path / f"ids-{side}" / "ids.parquet")
        places = quoted_path(self.place.path / f"dealt-{side}" / "places.parquet")
        numbered = f"(SELECT id, file_row_number AS row FROM read_parquet({ids}))"
        return f"{numbered} JOIN (SELECT spot, file_row_number AS row FROM read_parquet({places})) USING (row)"

    def write_side(self, side: str) -> None:
        """The shards of one side: the entries are split by shard first, and then each shard is sorted by itself."""
        names = [f"result/{shard_folder(side, shard)}" for shard in range(self.shards)]
        missing = [shard for shard, name in enumerate(names) if not (self.place.path / name).exists()]
        what = f"writing the shards of {side}s"
        self.step(what, self.shards - len(missing), self.shards)
        if missing:
            split = self.place.once(f"split-{side}", lambda folder: self.write_split(folder, side))
            for done, shard in enumerate(missing, self.shards - len(missing) + 1):
                files = sorted((split / f"shard={shard}").glob("*.parquet"))
                self.place.once(names[shard], lambda folder, files=files: self.write_shard(folder, side, files))
                self.step(what, done, self.shards)
        self.place.drop(f"split-{side}")

    def shard_files(self, side: str) -> str:
        files = sorted((self.place.result / f"side={side}").glob("shard=*/*.parquet"))
        return f"read_parquet([{', '.join(map(quoted_path, files))}], hive_partitioning=false)"

    def write_split(self, folder: Path, side: str) -> None:
        sizes = {each: f"{self.sizes[each]}" for each in SIDES}
        other = "item" if side == "user" else "user"
        numbers = "value, weight" if self.weighted else "value"
        if side == "user":
            at, beyond, numbers = "u.spot", "i.spot", f"{numbers}, CAST(entry AS {self.entry}) AS entry"
            table = f"source JOIN (SELECT id, spot FROM {self.placed('user')}) u ON source.user = u.id"
            table += f" JOIN (SELECT id, spot FROM {self.placed('item')}) i ON source.item = i.id"
        else:  # from the users' shards, in which duplicates are merged
            at, beyond, table = "other", f"{_SHARD} * {sizes['user']} + row", self.shard_files("user")
        index = "INTEGER" if self.shards * self.sizes[other] <= MOST else "BIGINT"
        columns = f"CAST({at} // {sizes[side]} AS INTEGER) AS shard, CAST({at} % {sizes[side]} AS INTEGER) AS row"
        columns += f", CAST({beyond} AS {index}) AS other, {numbers}"
        self.connection.execute(
            f"COPY (SELECT {columns} FROM {table}) TO {quoted_path(folder)} "
            "(FORMAT parquet, PARTITION_BY (shard), OVERWRITE_OR_IGNORE)"
        )

    def write_shard(self, folder: Path, side: str, files: list[Path]) -> None:
        """One shard, sorted by row and other; of the users' side, with duplicates merged."""
        pl = polars()
        if not files:
            return
        listing = ", ".join(map(quoted_path, files))
        ((entries,),) = self.query(f"SELECT sum(num_rows) FROM parquet_file_metadata([{listing}])")
        if entries > MOST:
            raise DataError(f"a shard of {side}s would hold 2**31 entries or more. Partition into more shards.")
        frame = pl.read_parquet(files, hive_partitioning=False)
        keys = self.keys(side, frame)
        order = np.argsort(keys)
        ordered = keys[order]
        if (ordered[1:] == ordered[:-1]).any():
            frame = self.merged(frame)
            order = np.argsort(self.keys(side, frame))
        frame[order].write_parquet(folder / "0000.parquet", compression_level=1)

    def keys(self, side: str, frame: Any) -> np.ndarray:
        """One int64 an entry of a shard that sorts like (row, other)."""
        others = self.shards * self.sizes["item" if side == "user" else "user"]
        return frame["row"].to_numpy().astype(np.int64) * others + frame["other"].to_numpy()

    def merged(self, frame: Any) -> Any:
        """A shard of users without duplicates, by the rules of Ratings."""
        pl = polars()
        frame = frame.sort("entry")
        known, other = np.unique(frame["other"].to_numpy(), return_inverse=True)
        columns = {name: frame[name].to_numpy() for name in ("row", "value", "entry")}
        weight = frame["weight"].to_numpy() if self.weighted else None
        try:
            ratings = Ratings.from_arrays(
                columns["row"], other, columns["value"], weight=weight, duplicates=self.duplicates
            )
        except DuplicateEntries as error:
            raise self.twice(int(columns["entry"][error.first]), int(columns["entry"][error.second])) from None
        merged = {"row": ratings.user, "other": known[ratings.item], "value": ratings.value}
        if ratings.weight is not None:
            merged["weight"] = ratings.weight
        merged["entry"] = columns["entry"][ratings.source_index]
        return pl.DataFrame(merged)

    def twice(self, first: int, second: int) -> DataError:
        ((user, item),) = self.query(f"SELECT user, item FROM source WHERE entry = {first}")
        return DataError(
            f"duplicate entries; the first found: user {shown(user)}, item {shown(item)} in {self.source.place(first)} "
            f'and in {self.source.place(second)}. Merge them with duplicates="last", "mean" or "sum".'
        )

    def write_rows(self, folder: Path, side: str, vocab: Vocabulary | None) -> None:
        """Which row stands where, with its id and how many entries it has."""
        spot = f"{_SHARD} * {self.sizes[side]} + row"
        counted = f"SELECT {spot} AS spot, count(*) AS degree FROM {self.shard_files(side)} GROUP BY 1"
        placed = f"SELECT row, id, spot FROM {self.placed(side)}"
        if self.source.counts is not None:
            placed = f"SELECT row, spot FROM {self.placed(side)}"
        if vocab is not None:
            known = getattr(vocab, side)
            texts = known.dtype.kind not in "iu"
            path = self.place.path / f"vocab-{side}.parquet"
            polars().DataFrame({"id": known.tolist() if texts else known}).write_parquet(path)
            ids = f"SELECT file_row_number AS row, id FROM read_parquet({quoted_path(path)})"
            placed = f"SELECT row, id, spot FROM ({placed}) JOIN ({ids}) USING (row)"
        columns = "row, id" if vocab is not None or self.source.counts is None else "row"
        size = self.sizes[side]
        columns += f", CAST(spot // {size} AS INTEGER) AS shard, CAST(spot % {size} AS INTEGER) AS place"
        columns += ", coalesce(degree, 0) AS degree"
        rows = f"SELECT {columns} FROM ({placed}) LEFT JOIN ({counted}) USING (spot) ORDER BY row"
        self.connection.execute(f"COPY ({rows}) TO {quoted_path(folder / '0000.parquet')}")

    def described(self, side: str, vocab: Vocabulary | None) -> SideManifest:
        """What the manifest says of a side that is written."""
        result = self.place.result
        listing = quoted_path(result / "rows" / side / "0000.parquet")
        spread = "min(degree), median(degree), avg(degree), max(degree), count(*) FILTER (degree = 0), count(*)"
        ((*spread, rows),) = self.query(f"SELECT {spread} FROM read_parquet({listing})")
        counted = dict(self.query(f"SELECT shard, sum(degree) FROM read_parquet({listing}) GROUP BY 1"))
        paths = [*sorted((result / f"side={side}").glob("shard=*/*.parquet")), result / "rows" / side / "0000.parquet"]
        names = ", ".join(map(quoted_path, paths))
        lengths = dict(self.query(f"SELECT file_name, num_rows FROM parquet_file_metadata([{names}])"))
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            digests = list(pool.map(sha256, paths))
        files = tuple(
            File(path.relative_to(result).as_posix(), lengths[str(path)], path.stat().st_size, digest)
            for path, digest in zip(paths, digests, strict=True)
        )
        kind = self.source.ids[side] if self.source.counts is None else None
        if vocab is not None:
            kind = "int64" if getattr(vocab, side).dtype.kind in "iu" else "text"
        degrees: dict[str, float] = dict(zip(("min", "median", "mean", "max", "empty"), spread, strict=True))
        entries = tuple(int(counted.get(shard, 0)) for shard in range(self.shards))
        return SideManifest(rows, self.sizes[side], kind, entries, degrees, files)


def _problem(role: str, raw: Any, count: int) -> str:
    """What is wrong with a field, which is as the file has it."""
    if raw is None:
        return "is empty. Drop such rows first."
    if role in SIDES and raw == "":
        return empty_id(role, 0).problem
    if role in SIDES:
        if isinstance(raw, str):
            return f"is {shown(raw)}, with a NUL character. Strip it."
        return f"is {raw}, beyond int64. Give such ids as text."
    if role == "weight" and raw < 0:
        return f"is {raw}, but weights must be >= 0."
    return (
        f"is {raw}; {count:,} entries are not finite. Leave missing entries out of the table instead of marking them."
    )
