"""The format of a partitioned table: what manifest.json says of it, and whether the files are those that it says.

docs/partitioned.md specifies the layout, so that other programs write it too.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import os
import re
import warnings
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, StorageError

VERSION = 1
NAME, FORMAT = "manifest.json", "jals partitioned table"
SIDES = ("user", "item")
MOST = 2**31 - 1  # entries of a shard are numbered in int32, and so are the rows in it
_SHARD = re.compile(r"side=(user|item)/shard=(\d+)/[^/]+\.parquet")
_ROWS = re.compile(r"rows/(user|item)/[^/]+\.parquet")


@dataclasses.dataclass(frozen=True)
class File:
    """A Parquet file of the table: its path in it, with "/"; what is None is not known, and not verified."""

    path: str
    rows: int | None = None
    bytes: int | None = None
    sha256: str | None = None


@dataclasses.dataclass(frozen=True)
class SideManifest:
    """One side of a partitioned table.

    Attributes:
        rows: how many users (items) there are, those without entries included.
        size: places a shard has; row `r` of shard `s` is the place `s * size + r` of the side's factor table.
        ids: "int64", "text", or None where the table has no outside ids.
        entries: how many each shard holds, or None where nobody counted.
        degrees: `min`, `median`, `mean`, `max` of the rows' entries, and how many rows are `empty`; or None.
        files: of the side's shards and of its rows; None for whatever lies in the folders.
    """

    rows: int
    size: int
    ids: str | None = None
    entries: tuple[int, ...] | None = None
    degrees: dict[str, float] | None = None
    files: tuple[File, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What is known of a partitioned table without its entries; made by `jals.partition`, read by `Manifest.read`.

    Attributes:
        folder: where the table is.
        shards: how many each side is cut into.
        entries: of the whole table; there may be more than 2**31.
        value: "float32" or "float64".
        weighted: whether the files have weights; without them each is 1.
        ordered: whether the user side's files say where in the input each entry stood.
        user, item: the sides.
    """

    folder: Path
    shards: int
    entries: int
    value: str
    weighted: bool
    ordered: bool
    user: SideManifest
    item: SideManifest

    @classmethod
    def read(cls, path: Any) -> "Manifest":
        """The manifest in a folder.

        Raises:
            StorageError: where there is none, or none of this version, or it contradicts itself; the key is named.
        """
        folder = Path(path).expanduser()
        here = folder / NAME
        try:
            content = json.loads(here.read_bytes())
        except FileNotFoundError:
            raise StorageError(
                f"{folder} has no {NAME}: it is no partitioned table, or not a whole one. Make one with jals.partition."
            ) from None
        except (OSError, ValueError) as error:
            raise StorageError(f"{here} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise StorageError(f'{here} is not one of jals: its "format" is not {FORMAT!r}.')
        if content.get("version") != VERSION:
            raise StorageError(
                f"{here} is of version {content.get('version')!r}, but this jals reads version {VERSION}. Read it with "
                "the jals that wrote it, or partition the source again."
            )
        checked = _Keys(here, content)
        shards = checked.whole("shards", 1, MOST)
        manifest = cls(
            folder,
            shards,
            checked.whole("entries", 1, 2**63 - 1),
            checked.one_of("value", ("float32", "float64")),
            checked.one_of("weighted", (False, True)),
            checked.one_of("ordered", (False, True)),
            **{side: _side(checked.inner(side), side, shards) for side in SIDES},
        )
        for side in SIDES:
            counted = getattr(manifest, side).entries
            if counted is not None and sum(counted) != manifest.entries:
                problem = f"{side}.entries sum to {sum(counted):,}, but entries is {manifest.entries:,}"
                raise StorageError(f"{here}: {problem}. Write it again.")
        return manifest

    def write(self) -> None:
        """Writes manifest.json into the folder, and waits until it is on the disk."""
        content = {"format": FORMAT, "version": VERSION} | dataclasses.asdict(self)
        del content["folder"]
        with open(self.folder / NAME, "x", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
            file.flush()
            os.fsync(file.fileno())

    def shards_of(self, part: int, parts: int) -> range:
        """The shards of one of several equal parts, from 0: a device's, say. Each side's places from
        `shards_of(part, parts)[0] * size` on are those of the part's rows of the factor table.

        Raises:
            ArgumentError: for a number of parts that does not divide the shards.
        """
        if parts < 1 or self.shards % parts:
            fitting = ", ".join(str(each) for each in range(1, self.shards + 1) if not self.shards % each)
            raise ArgumentError(f"{parts} parts do not divide {self.shards} shards; these do: {fitting}.")
        each = self.shards // parts
        return range(part * each, (part + 1) * each)

    def shard_files(self, side: str) -> list[list[Path]]:
        """The files of each of a side's shards."""
        found: list[list[Path]] = [[] for _ in range(self.shards)]
        for file in self.files_of(side):
            if matched := _SHARD.fullmatch(file.path):
                found[int(matched[2])].append(self.folder / file.path)
        return found

    def row_files(self, side: str) -> list[Path]:
        """The files that say which row of the ratings stands at which place."""
        return [self.folder / file.path for file in self.files_of(side) if file.path.startswith("rows/")]

    def files_of(self, side: str) -> tuple[File, ...]:
        """The files of a side's shards and rows: those listed, or what lies in the folders."""
        listed = getattr(self, side).files
        if listed is not None:
            return listed
        folders = [*self.folder.glob(f"side={side}/shard=*"), self.folder / "rows" / side]
        paths = [path.relative_to(self.folder).as_posix() for each in folders for path in each.glob("[!._]*.parquet")]
        shards = [int(matched[2]) for path in paths if (matched := _SHARD.fullmatch(path))]
        if shards and max(shards) >= self.shards:
            raise StorageError(f"{self.folder}/side={side} has a shard {max(shards)}, but {NAME} says {self.shards}.")
        return tuple(map(File, sorted(paths)))

    def verify(self, hashes: bool = True, shards: set[int] | None = None) -> None:
        """Compares the files with what the manifest says of them: that they are there, their sizes and their SHA-256.
        Warns where files have none. `shards`: only those of these, and of the rows; None: all.

        Raises:
            StorageError: naming the first file that is missing or changed.
        """
        listed = [file for side in SIDES for file in self.files_of(side) if _is_among(file.path, shards)]
        for file in listed:
            path = self.folder / file.path
            try:
                size = path.stat().st_size
            except OSError:
                raise StorageError(
                    f"{path} is missing{_where(file.path)}. Copy the table again, or partition its source again."
                ) from None
            if file.bytes is not None and size != file.bytes:
                raise StorageError(
                    f"{path} is changed{_where(file.path)}: it has {size:,} bytes, but had {file.bytes:,} when it was "
                    "written. Copy the table again, or partition its source again."
                )
        if not hashes:
            return
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            known = [file for file in listed if file.sha256 is not None]
            for file, found in zip(known, pool.map(lambda file: sha256(self.folder / file.path), known), strict=True):
                if found != file.sha256:
                    raise StorageError(
                        f"{self.folder / file.path} is changed{_where(file.path)}: its SHA-256 is not the one that "
                        f"{NAME} has. Copy the table again, or partition its source again."
                    )
        if len(known) < len(listed):
            warnings.warn(
                f"{self.folder}: {len(listed) - len(known):,} of {len(listed):,} files have no SHA-256 in {NAME} and "
                "are read unverified. verify=False asks for no verification.",
                stacklevel=3,
            )


def sha256(path: Path) -> str:
    """The SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shard_folder(side: str, shard: int) -> str:
    """The path of a shard in its table."""
    return f"side={side}/shard={shard:04d}"


def _is_among(path: str, shards: set[int] | None) -> bool:
    matched = _SHARD.fullmatch(path)
    return shards is None or matched is None or int(matched[2]) in shards


def _where(path: str) -> str:
    matched = _SHARD.fullmatch(path)
    return f" (shard {int(matched[2])} of the {matched[1]} side)" if matched else ""


class _Keys:
    """The keys of a JSON object, each checked where it is read."""

    def __init__(self, path: Path, content: dict[str, Any], prefix: str = ""):
        self.path, self.content, self.prefix = path, content, prefix

    def wrong(self, key: str, need: str) -> StorageError:
        have = json.dumps(self.content.get(key))[:80]
        return StorageError(f"{self.path}: {self.prefix}{key} is {have}, but must be {need}.")

    def whole(self, key: str, least: int, most: int) -> int:
        value = self.content.get(key)
        if type(value) is not int or not least <= value <= most:
            raise self.wrong(key, f"a whole number from {least} to {most}")
        return value

    def one_of(self, key: str, allowed: tuple) -> Any:
        value = self.content.get(key)
        if not any(value is each or (isinstance(each, str) and value == each) for each in allowed):
            raise self.wrong(key, "one of " + ", ".join(map(json.dumps, allowed)))
        return value

    def inner(self, key: str) -> "_Keys":
        value = self.content.get(key)
        if not isinstance(value, dict):
            raise self.wrong(key, "an object")
        return _Keys(self.path, value, f"{self.prefix}{key}.")


def _side(keys: _Keys, side: str, shards: int) -> SideManifest:
    rows, size = keys.whole("rows", 1, 2**63 - 1), keys.whole("size", 1, MOST)
    if shards * size < rows:
        raise keys.wrong("size", f"so large that {shards} shards hold {rows:,} rows")
    entries = keys.content.get("entries")
    if entries is not None:
        if not isinstance(entries, list) or len(entries) != shards or any(type(each) is not int for each in entries):
            raise keys.wrong("entries", f"null, or a list of {shards} whole numbers")
        for shard, count in enumerate(entries):
            if not 0 <= count <= MOST:
                raise StorageError(
                    f"{keys.path}: shard {shard} of the {side} side holds {count:,} entries, but entries are numbered "
                    "in int32 within a shard: fewer than 2**31. Partition into more shards."
                )
    files = keys.content.get("files")
    if files is not None:
        try:
            files = tuple(File(**each) for each in files)
        except TypeError:
            raise keys.wrong("files", "null, or a list of {path, rows, bytes, sha256}") from None
        for file in files:
            matched = isinstance(file.path, str) and (_SHARD.fullmatch(file.path) or _ROWS.fullmatch(file.path))
            if not matched or matched[1] != side or (len(matched.groups()) > 1 and int(matched[2]) >= shards):
                raise StorageError(f"{keys.path}: {file.path!r} is no place for a file of the {side} side.")
    degrees = keys.content.get("degrees")
    return SideManifest(rows, size, keys.one_of("ids", (None, "int64", "text")), _as_tuple(entries), degrees, files)


def _as_tuple(entries: list[int] | None) -> tuple[int, ...] | None:
    return None if entries is None else tuple(entries)
