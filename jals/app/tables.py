"""What the fits of a run learn from: one table at a time, since tables are large, each noted in the run's record."""

from pathlib import Path
from typing import Any

from rich.console import Console

from .. import datasets
from ..data.vocabulary import Vocabulary
from ..errors import StorageError
from . import experiment, terminal
from .plan import Planned
from .record import Data
from .schema import Config


class Tables:
    """Reads data, splits it and lays it out, each as late as possible, and once as long as it serves.

    Attributes:
        latest: the table asked for last.
    """

    latest: experiment.Table

    def __init__(self, place: Path, notes: list[Data], console: Console):
        """`notes` is what the run's record says of its data; tables that are new add to it."""
        self._place, self._notes, self._console = place, notes, console
        self._name: str | None = None  # of the latest
        self._data: tuple[Any, datasets.Dataset] | None = None

    def of(self, planned: Planned) -> experiment.Table:
        """What a fit learns from.

        Raises:
            DataError: when the data cannot be read.
            StorageError: when the run began on other data.
        """
        name, config = planned.table(), planned.config
        if self._name != name:
            wanted = (config.data, config.fit.dtype)
            if self._data is None or self._data[0] != wanted:
                self._data = self._name = None  # let go of the one before
                if hasattr(self, "latest"):
                    del self.latest
                with terminal.waiting(self._console, "reading the data"):
                    self._data = wanted, experiment.read_data(config)
            self.latest = experiment.Table(config, self._data[1])
            self._note(config)
            self._name = name
        return self.latest

    def vocab(self) -> Vocabulary | None:
        """The outside ids of the run's rows, where it has one table of data."""
        return self.latest.data.vocab if len({note.hash for note in self._notes}) == 1 else None

    def _note(self, config: Config) -> None:
        ratings, fold = self.latest.data.ratings, next(iter(self.latest.folds.values()))
        parts = {name: getattr(fold, name) for name in ("train", "validation", "test")}
        name = config.data.source or config.data.path or ""
        read = name, config.fit.dtype, config.data.reading()
        before = [other for other in self._notes if (other.name, other.dtype, other.reading) == read]
        if before and before[0].hash != self.latest.hash:
            raise StorageError(
                f"{self._place} holds an unfinished run on other data than its config now leads to. Start it again "
                "with --overwrite, or choose another folder with --out."
            )
        note = Data(
            name=name,
            hash=self.latest.hash,
            users=ratings.num_users,
            items=ratings.num_items,
            entries=len(ratings),
            **{name: len(part) for name, part in parts.items() if part is not None},
            dtype=config.fit.dtype,
            reading=config.data.reading(),
        )
        if note not in self._notes:
            self._notes.append(note)
