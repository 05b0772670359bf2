"""The data of a run's fits: tables, their splits, and the problem of each fold; one table at a time, as they are
large."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

import jals

from ... import datasets
from ...data.vocabulary import Vocabulary
from ...errors import StorageError
from ...files.runs.record import DataRecord
from ...metrics import is_error
from ...model.slots import forecast_bytes
from ...model.spreading import open_sharded
from ...solvers.costs import Size
from ..config.schema import Config
from ..show.printing import spinner_during
from ..study.plan import PlannedFit
from . import given
from .given import GivenTable
from .partitioned import PartitionedData, devices_of, has_manifest, in_memory, is_partitioned, read_partitioned
from .rankings import Rankings, relevant


class Fold(NamedTuple):
    """One split of the data; `number` is None where there is only one, `data_hash` is that of the training part."""

    number: int | None
    train: jals.Ratings
    validation: jals.Ratings | None
    test: jals.Ratings
    data_hash: str


class SplitTable:
    """What fits with equal `PlannedFit.table_key()` learn from: the data, its folds, and the problem of each.

    Attributes:
        masked: whether the folds are weight masks on one problem, so that one program fits all of them. (A fit by
            itself learns from a problem of its fold alone, where no padding is wasted on what is held out.)
    """

    def __init__(self, config: Config, data: datasets.Dataset):
        self.data = data
        self.hash = data.data_hash() if isinstance(data, GivenTable) else data.ratings.data_hash()
        self.folds = {fold.number: fold for fold in folds(config, data)}
        skipped = config.problem.missing == "skipped" and config.fit.devices is None
        self.masked = config.split.kind == "kfold" and not config.timed and skipped
        self.prepare(config)

    def prepare(self, config: Config) -> None:
        self._config, self._measured = config.problem, config
        self._built: tuple[Any, jals.Problem] | None = None  # the latest: tables are large
        self._ranked: tuple[Any, Rankings] | None = None
        self.rankings(next(iter(self.folds)))  # before any fit: the metrics may not fit the table

    def counts(self) -> dict[str, int]:
        """How many users, items and entries there are, and entries of each part of the first fold."""
        ratings, fold = self.data.ratings, next(iter(self.folds.values()))
        parts = {name: getattr(fold, name) for name in ("train", "validation", "test")}
        found = {"users": ratings.num_users, "items": ratings.num_items, "entries": len(ratings)}
        return found | {name: len(part) for name, part in parts.items() if part is not None}

    def rankings(self, number: int | None) -> Rankings:
        """What ranks the held-out parts of a fold."""
        if self._ranked is None or self._ranked[0] != number:
            self._ranked = number, Rankings(self._measured, self.folds[number], getattr(self.data, "candidates", None))
        return self._ranked[1]

    def validation(self, number: int | None, metric: str) -> jals.Ratings | None:
        """What a fit is to measure that metric on."""
        held_out = self.folds[number].validation
        if held_out is None or is_error(metric):
            return held_out
        return relevant(held_out, self._measured.output.relevant)

    def problem(self, number: int | None) -> jals.Problem:
        """The problem of a fold: its training entries, and no others of weight > 0."""
        if not self.masked:
            return self._problem(number)
        whole = self.whole()
        return whole.with_values(whole.value, weight=self.mask(number))

    def whole(self) -> jals.Problem:
        """The problem with every entry, on which the folds are masks."""
        return self._problem("whole")

    def mask(self, number: int | None) -> np.ndarray:
        """The weight of every entry where all but a fold's training entries are held out."""
        ratings, train = self.data.ratings, self.folds[number].train
        weight = np.ones_like(ratings.value) if ratings.weight is None else ratings.weight
        pair, of_train = (part.user * np.int64(part.num_items) + part.item for part in (ratings, train))
        return np.where(np.isin(pair, of_train), weight, 0).astype(weight.dtype)

    def size(self, number: int | None) -> Size:
        train = self.folds[number].train
        zeros = self._config.missing == "zeros"
        return Size(train.num_users, train.num_items, train.num_users * train.num_items if zeros else len(train))

    def forecast_bytes(self) -> int:
        """What the problem of the first fold will hold, see `slots.forecast_bytes`, or that of all with their masks."""
        first = next(iter(self.folds))
        ratings = self._entries("whole" if self.masked else first)
        folds = len(self.folds) if self.masked else 1
        return forecast_bytes(ratings, self._config.layout, self._measured.fit.dtype, folds)

    def in_float64(self, number: int | None) -> jals.Problem:
        """The problem of a fold, by itself and its numbers in float64, which needs jax's switch."""
        return jals.Problem.build(in_dtype(self._entries(number), "float64"), layout=self._config.layout)

    def _entries(self, which: Any) -> jals.Ratings:
        ratings = self.data.ratings if which == "whole" else self.folds[which].train
        return with_zeros(ratings) if self._config.missing == "zeros" else ratings

    def _problem(self, which: Any) -> jals.Problem:
        if self._built is None or self._built[0] != which:
            self._built = None  # let go of the one before
            self._built = which, self.build(which)
        return self._built[1]

    def build(self, which: Any) -> jals.Problem:
        """The problem of a fold, or "whole", laid out anew."""
        devices, exchange = devices_of(self._measured), self._measured.fit.exchange
        spread: Any = {} if devices is None else {"devices": devices, "exchange": exchange}
        return jals.Problem.build(self._entries(which), layout=self._config.layout, **spread)


def with_zeros(ratings: jals.Ratings) -> jals.Ratings:
    """The table with an entry of value 0 and weight 1 for every missing pair: what ALS must not read."""
    value = np.zeros((ratings.num_users, ratings.num_items), ratings.value.dtype)
    value[ratings.user, ratings.item] = ratings.value
    weight = None
    if ratings.weight is not None:
        weight = np.ones_like(value)
        weight[ratings.user, ratings.item] = ratings.weight
        weight = weight.ravel()
    user, item = (ids.ravel() for ids in np.indices(value.shape))
    return jals.Ratings.from_arrays(user, item, value.ravel(), *value.shape, weight=weight)


def read_data(config: Config) -> datasets.Dataset:
    """The data set in the dtype of the fit: float64 needs jax's switch, which only a program may touch."""
    jax.config.update("jax_enable_x64", config.fit.dtype == "float64")
    source = config.data
    named = source.source
    data: datasets.Dataset
    if is_partitioned(config):
        return read_partitioned(config)
    if config.split.kind == "given":
        data = given.read(config)
    else:
        data = datasets.load(named) if named else open_data(source.path or "", **source.reading())
    made = data._replace(ratings=in_dtype(data.ratings, config.fit.dtype))
    return GivenTable(made, data.part, data.candidates) if isinstance(data, GivenTable) else made


def in_dtype(ratings: jals.Ratings, dtype: str) -> jals.Ratings:
    """The table with its numbers in a dtype."""
    columns = {"value": ratings.value, "weight": ratings.weight}
    cast = {name: None if column is None else column.astype(dtype) for name, column in columns.items()}
    return dataclasses.replace(ratings, **cast)


def open_data(path: str, **reading: Any) -> datasets.Dataset:
    """A file of ratings (`reading` as for `jals.read_ratings`), an unpacked folder of GroupLens, or in memory a
    partitioned table."""
    found = datasets.find_path(path)
    if has_manifest(found):
        return in_memory(found)
    return datasets.movielens(found) if found.is_dir() else datasets.from_file(found, **reading)


class PartitionedTable(SplitTable):
    """Of a partitioned table, which is the training part whole; of several processes none knows all of it."""

    data: PartitionedData

    def __init__(self, config: Config, data: PartitionedData):
        self.data, self.hash, self.masked = data, data.data_hash(), False
        held_out = data.held_out
        fold = Fold(None, data.ratings, held_out.get("validation"), held_out["test"], self.hash)  # pyright: ignore
        self.folds = {None: fold}
        self.prepare(config)

    def counts(self) -> dict[str, int]:
        manifest, parts = self.data.manifest, {name: len(part) for name, part in self.data.held_out.items()}
        every = manifest.entries + sum(parts.values())
        found = {"users": manifest.user.rows, "items": manifest.item.rows, "entries": every}
        return found | {"train": manifest.entries} | parts

    def size(self, number: int | None) -> Size:
        manifest = self.data.manifest
        return Size(manifest.user.rows, manifest.item.rows, manifest.entries)

    def build(self, which: Any) -> jals.Problem:
        devices, settings = devices_of(self._measured), self._measured.fit
        if devices is None:
            return super().build(which)
        made = open_sharded(self.data.manifest, devices, settings.exchange, verify=False)
        return made.astype(np.dtype(settings.dtype))


def split_table(config: Config, data: Any) -> SplitTable:
    """What `read_data` has read, split as the config says."""
    return PartitionedTable(config, data) if isinstance(data, PartitionedData) else SplitTable(config, data)


def folds(config: Config, data: Any) -> Iterator[Fold]:
    """Every split of the data, a `GivenTable` where it comes split."""
    split, ratings = config.split, data.ratings
    match split.kind:
        case "given":
            pairs = [(None, (data.select(given.TRAIN), data.select(given.TEST)))]
        case "random":
            pairs = [(None, jals.split.random(ratings, split.test_fraction, split.seed))]
        case "by_user":
            pairs = [(None, jals.split.by_user(ratings, split.test_fraction, split.seed))]
        case "by_time":
            pairs = [(None, jals.split.by_time(ratings, split.test_fraction))]
        case "leave_last_out":
            pairs = [(None, jals.split.leave_last_out(ratings, split.count))]
        case "kfold":
            pairs = enumerate(jals.split.kfold(ratings, split.folds, split.seed))
    for number, (train, test) in pairs:
        validation = None
        if split.kind == "given" and split.validation is not None:
            validation = data.select(given.VALIDATION)
        elif split.kind == "leave_last_out" and split.validation_count is not None:
            train, validation = jals.split.leave_last_out(train, split.validation_count)
        elif split.validation_fraction is not None:
            fraction = split.validation_fraction
            by_time = split.kind == "by_time"
            cut = jals.split.by_time(train, fraction) if by_time else jals.split.random(train, fraction, split.seed)
            train, validation = cut
        yield Fold(number, train, validation, test, train.data_hash())


class Tables:
    """Reads data, splits it and lays it out: each as late as possible, and kept while it is needed.

    Attributes:
        latest: the table asked for last.
    """

    latest: SplitTable

    def __init__(self, place: Path, notes: list[DataRecord], console: Console):
        """`notes` is what the run's record says of its data; tables that are new add to it."""
        self._place, self._notes, self._console = place, notes, console
        self._name: str | None = None  # of the latest
        self._data: tuple[Any, datasets.Dataset] | None = None

    def of(self, planned: PlannedFit) -> SplitTable:
        """What a fit learns from.

        Raises:
            DataError: when the data cannot be read.
            StorageError: when the run began on other data.
        """
        name, config = planned.table_key(), planned.config
        if self._name != name:
            wanted = (config.data, config.fit.dtype, config.split if config.split.kind == "given" else None)
            if self._data is None or self._data[0] != wanted:
                self._data = self._name = None  # let go of the one before
                if hasattr(self, "latest"):
                    del self.latest
                with spinner_during(self._console, "reading the data"):
                    self._data = wanted, read_data(config)
            self.latest = split_table(config, self._data[1])
            self._note(config)
            self._name = name
        return self.latest

    def vocab(self) -> Vocabulary | None:
        """The outside ids of the run's rows, where it has one table of data."""
        return self.latest.data.vocab if len({note.hash for note in self._notes}) == 1 else None

    def _note(self, config: Config) -> None:
        name = config.data.source or config.data.path or ""
        read = name, config.fit.dtype, config.data.reading()
        before = [other for other in self._notes if (other.name, other.dtype, other.reading) == read]
        if before and before[0].hash != self.latest.hash:
            raise StorageError(
                f"{self._place} holds an unfinished run on other data than its config now leads to. Start it again "
                "with --overwrite, or choose another folder with --out."
            )
        note = DataRecord(
            name=name,
            hash=self.latest.hash,
            **self.latest.counts(),
            dtype=config.fit.dtype,
            reading=config.data.reading(),
        )
        if note not in self._notes:
            self._notes.append(note)
