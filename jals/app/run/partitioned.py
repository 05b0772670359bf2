"""Partitioned tables as the data of a run: in memory, or of several processes in each the shards of its devices."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jals

from ... import datasets
from ...data.vocabulary import Vocabulary
from ...errors import ConfigError, DataError
from ...model.spreading import mesh_of, own_shards
from ...partitioned.manifest import NAME, SIDES, Manifest
from ...partitioned.reader import read, row_places
from ..config.schema import Config
from ..config.splits import GivenPart, GivenSplit
from . import ranks


class PartitionedData(datasets.Dataset):
    """A partitioned table of training entries; of several processes `ratings` are None.

    Attributes:
        manifest: of the table.
        held_out: the validation and test parts that there are, by name.
    """

    manifest: Manifest
    held_out: dict[str, jals.Ratings]

    def __new__(cls, data: Any, manifest: Manifest, held_out: dict[str, jals.Ratings]):
        made = super().__new__(cls, *data)
        made.manifest, made.held_out = manifest, held_out
        return made

    def data_hash(self) -> str:
        """Of what the manifest says, the SHA-256 of the files among it, and of what is held out: the same whoever has
        which shards."""
        said = dataclasses.asdict(self.manifest)
        del said["folder"]
        parts = {name: part.data_hash() for name, part in self.held_out.items()}
        return hashlib.sha256(json.dumps([said, parts], sort_keys=True).encode()).hexdigest()


def is_partitioned(config: Config) -> bool:
    """Whether the training entries are a partitioned table that is not split any further."""
    path = config.data.path
    return isinstance(config.split, GivenSplit) and path is not None and has_manifest(datasets.find_path(path))


def has_manifest(folder: Path) -> bool:
    return (folder / NAME).is_file()


def in_memory(folder: Path) -> datasets.Dataset:
    """A partitioned table as any other; without outside ids its rows' numbers are the ids."""
    manifest = Manifest.read(folder)
    manifest.verify()
    ratings, vocab = read(manifest)
    return datasets.Dataset(ratings, vocab or _numbers(manifest), None)


def devices_of(config: Config) -> int | None:
    """How many devices a fit is spread over; None where it is not."""
    asked = config.fit.devices
    if asked is None and not ranks.several():
        return None
    return asked if isinstance(asked, int) else jax.device_count()


def read_partitioned(config: Config) -> PartitionedData:
    """The table and what is held out beside it; what this process reads of it has been verified.

    Raises:
        ConfigError, DataError, StorageError: for what cannot be used.
    """
    split: Any = config.split
    for key in ("validation_fraction", "candidates"):
        if getattr(split, key) is not None:
            raise ConfigError(f"split.{key} does not go with a partitioned table: give files of held-out entries.")
    manifest = Manifest.read(datasets.find_path(str(config.data.path)))
    ratings, spread = None, devices_of(config)
    if ranks.several():
        manifest.verify(shards=own_shards(manifest, mesh_of(spread)))
        users, items = (row_places(manifest, side)[0] for side in SIDES)
        vocab = None if users is None or items is None else Vocabulary(users, items)
    else:
        manifest.verify()
        ratings, vocab = read(manifest)
        numbers = {name: getattr(ratings, name) for name in ("value", "weight")}
        cast = {name: None if each is None else each.astype(config.fit.dtype) for name, each in numbers.items()}
        ratings = dataclasses.replace(ratings, **cast)
    vocab = vocab or _numbers(manifest)
    parts = {"validation": split.validation, "test": split.test}
    held_out = {name: _held_out(config, name, part, vocab) for name, part in parts.items() if part is not None}
    return PartitionedData((ratings, vocab, None), manifest, held_out)


def _held_out(config: Config, name: str, part: GivenPart, vocab: Vocabulary) -> jals.Ratings:
    """The entries of a file, whose users and items are among those of the table."""
    from .data import open_data  # which reads these tables with this module

    given = config.data.reading() | part.model_dump(exclude={"path"}, exclude_none=True)
    read = open_data(part.path, **given)
    try:
        user = vocab.user_rows(read.vocab.user[read.ratings.user])
        item = vocab.item_rows(read.vocab.item[read.ratings.item])
    except DataError as error:
        whose = "what is held out of a partitioned table is of users and items that the table has"
        raise DataError(f"split.{name}: {error} ({whose}.)") from None
    value, weight = read.ratings.value.astype(config.fit.dtype), read.ratings.weight
    return jals.Ratings.from_arrays(user, item, value, len(vocab.user), len(vocab.item), weight=weight)


def _numbers(manifest: Manifest) -> Vocabulary:
    return Vocabulary(*(np.arange(getattr(manifest, side).rows) for side in SIDES))
