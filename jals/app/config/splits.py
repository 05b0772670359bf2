"""The [split] tables: what is held out, for the test and for validation."""

from typing import Annotated, Literal

from pydantic import Field

from .base import MOST_FITS, ConfigTable, Count, Fraction, Path, Seed


class RandomSplit(ConfigTable):
    kind: Literal["random"]
    test_fraction: Fraction = 0.1
    validation_fraction: Fraction | None = None  # of what is left for training
    seed: Seed = 0


class KFoldSplit(ConfigTable):
    kind: Literal["kfold"]
    folds: Annotated[int, Field(ge=2, le=MOST_FITS)] = 5
    validation_fraction: Fraction | None = None
    seed: Seed = 0


class ByUserSplit(ConfigTable):
    kind: Literal["by_user"]
    test_fraction: Fraction = 0.1
    validation_fraction: Fraction | None = None
    seed: Seed = 0


class LeaveLastOutSplit(ConfigTable):
    kind: Literal["leave_last_out"]
    count: Count = 1  # of each user's entries, the latest
    validation_fraction: Fraction | None = None
    validation_count: Count | None = None  # in its place: of each user's entries the latest before those of the test
    seed: Seed = 0  # of a validation part that is drawn

    def conflicts(self):
        both = self.validation_count is not None and self.validation_fraction is not None
        return [("validation_count", "stands beside validation_fraction: give one of the two.")] if both else []


class ByTimeSplit(ConfigTable):
    """The latest entries of the whole table, and for validation the latest of what is left: nothing is drawn."""

    kind: Literal["by_time"]
    test_fraction: Fraction = 0.1
    validation_fraction: Fraction | None = None


class GivenPart(ConfigTable):
    """A file of held-out entries, read as [data] says but for columns that have other names."""

    path: Path
    user: str | None = None
    item: str | None = None


class GivenSplit(ConfigTable):
    """The table comes split: [data] has the path of its training entries."""

    kind: Literal["given"]
    test: GivenPart
    validation: GivenPart | None = None
    validation_fraction: Fraction | None = None  # of the training entries, in its place
    seed: Seed = 0
    # An array of the test part's npz file, (its entries, c): the items that each is ranked among, as some papers do.
    candidates: str | None = None

    def conflicts(self):
        both = self.validation is not None and self.validation_fraction is not None
        return [("validation_fraction", "stands beside validation: give one of the two.")] if both else []


VALIDATIONS = ("validation_fraction", "validation_count", "validation")  # keys that set a validation part aside

AnySplit = RandomSplit | KFoldSplit | ByUserSplit | ByTimeSplit | LeaveLastOutSplit | GivenSplit
