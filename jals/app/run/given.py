"""Tables that come split: a file for training, and others with what is held out."""

import hashlib
from typing import Any

import numpy as np

import jals

from ... import datasets
from ...data.vocabulary import Vocabulary
from ...errors import ConfigError, DataError
from ..config.schema import Config
from ..config.splits import GivenPart

TRAIN, VALIDATION, TEST = range(3)


class GivenTable(datasets.Dataset):
    """A table that comes split.

    Attributes:
        part: uint8 `(entries,)`, what each entry is of.
        candidates: rows of the items that each test entry is ranked among, `(test entries, c)`; None: all.
    """

    part: np.ndarray
    candidates: np.ndarray | None

    def __new__(cls, data: datasets.Dataset, part: np.ndarray, candidates: np.ndarray | None):
        made = super().__new__(cls, *data)
        made.part, made.candidates = part, candidates
        return made

    def select(self, part: int) -> jals.Ratings:
        """The entries of one part."""
        return self.ratings.select(self.part == part)

    def data_hash(self) -> str:
        """As of `Ratings`, and of how it is split."""
        hashes = [self.select(part).data_hash() for part in np.unique(self.part)]
        return hashlib.sha256("".join(hashes).encode()).hexdigest()


def read(config: Config) -> GivenTable:
    """The entries of all files as one table.

    Raises:
        DataError: for a file that cannot be read, ids of several types, and a pair that is in two files.
    """
    split: Any = config.split
    parts: list[tuple[str, GivenPart | None]] = [("data", None), ("split.validation", split.validation)]
    read = [
        (number, key, _table(config, part))
        for number, (key, part) in enumerate([*parts, ("split.test", split.test)])
        if number == TRAIN or part is not None
    ]
    sides = {}
    for side in ("user", "item"):
        columns = [getattr(each.vocab, side)[getattr(each.ratings, side)] for _, _, each in read]
        kinds = {column.dtype.kind in "iu": key for column, (_, key, _) in zip(columns, read, strict=True)}
        if len(kinds) > 1:
            raise DataError(
                f'{side} ids are numbers in {kinds[True]}, but texts in {kinds[False]}: give data.ids = "str".'
            )
        sides[side] = np.concatenate(columns)
    vocab, user, item = Vocabulary.from_ids(sides["user"], sides["item"])
    part = np.concatenate([np.full(len(each.ratings), number, np.uint8) for number, _, each in read])
    value = np.concatenate([each.ratings.value for *_, each in read])
    weights = [each.ratings.weight for *_, each in read]
    weight = None
    if any(each is not None for each in weights):
        ones = [np.ones(len(each.ratings), value.dtype) for *_, each in read]
        weight = np.concatenate([one if own is None else own for own, one in zip(weights, ones, strict=True)])
    try:
        ratings = jals.Ratings.from_arrays(user, item, value, len(vocab.user), len(vocab.item), weight=weight)
    except DataError as error:
        raise DataError(f"data.path, split.validation and split.test together: {error}") from None
    candidates = None if split.candidates is None else _candidates(split, vocab, read[-1][2])
    return GivenTable(datasets.Dataset(ratings, vocab, None), part, candidates)


def _table(config: Config, part: GivenPart | None) -> datasets.Dataset:
    from .data import open_data  # which reads these tables with this module

    given = config.data.reading()
    if part is not None:
        given |= part.model_dump(exclude={"path"}, exclude_none=True)
    return open_data(part.path if part is not None else str(config.data.path), **given)


def _candidates(split: Any, vocab: Vocabulary, test: datasets.Dataset) -> np.ndarray:
    """The rows of the items that each test entry is ranked among, in the order of the test entries."""
    path = datasets.find_path(split.test.path)
    try:
        with np.load(path, allow_pickle=False) as file:
            ids = file[split.candidates]
    except (OSError, KeyError, ValueError) as error:
        raise ConfigError(f'split.candidates: {path} has no array "{split.candidates}" ({error}).') from None
    if ids.ndim != 2 or len(ids) != len(test.ratings):
        need = f"({len(test.ratings)}, c), a row for each test entry"
        raise ConfigError(f"split.candidates: {split.candidates} is of shape {ids.shape}, but must be {need}.")
    return vocab.item_rows(ids)
