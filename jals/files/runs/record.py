"""What a run writes down: a `RunRecord` is its result.json, a `FitRecord` a line of its fits.jsonl. Only `folder` reads
and writes them."""

import json
import math
from typing import Annotated, Any, Literal, Self

try:
    from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
except ImportError as missing:
    raise ImportError('runs are read by the extra "cli": pip install "jals[cli]"') from missing

from ...metrics import RMSE

Count = Annotated[int, Field(ge=0)]
Real = float | None  # null: not finite, or not known
Status = Literal["running", "interrupted", "finished"]


class _Kept(BaseModel):
    """Strict types, so that damage shows; keys that a later version adds are passed over."""

    model_config = ConfigDict(strict=True, extra="ignore")

    def json(self) -> dict[str, Any]:
        """As it is written: the keys that were given, so that what has no value has no key."""
        return self.model_dump(mode="json", exclude_unset=True)


class HistoryRecord(_Kept):
    """The columns of a fit's history, all of one length; None where one was not measured."""

    sweep: list[Count]
    loss: list[Real] | None = None
    seconds: list[Real] | None = None
    passes: list[Count] | None = None
    operations: list[Real] | None = None
    validation: list[Real] | None = None

    @model_validator(mode="after")
    def _as_long(self) -> Self:
        for name, column in self.columns().items():
            if len(column) != len(self.sweep):
                raise ValueError(f"{name} holds {len(column):,} numbers beside {len(self.sweep):,} of sweep")
        return self

    def columns(self) -> dict[str, list]:
        """Those that there are, by name."""
        return {name: getattr(self, name) for name in self.model_fields_set if getattr(self, name) is not None}

    def last(self, name: str) -> Any:
        """The last number of a column, or None."""
        column = getattr(self, name)
        return column[-1] if column else None


class Failure(_Kept):
    """Why a fit broke down; side and row of a row without a unique solution."""

    sweep: Count
    message: str
    side: Literal["user", "item"] | None = None
    row: Count | None = None


class Proof(_Kept):
    """A certificate in numbers: see `jals.Certificate`. The sides' are the largest of the rows that could be judged."""

    user: Real
    item: Real
    last_updated: Real
    last_updated_required: bool
    stationarity: Real
    bound: float
    unjudged: Count = 0
    passed: bool

    def refused(self) -> float | None:
        """The largest backward error over the bound, of those held to it; None if none is. (A record holds no number
        that is not finite: an infinite one shows in `passed` alone.)"""
        held = (self.user, self.item, *([self.last_updated] if self.last_updated_required else []))
        worst = max((each for each in held if each is not None), default=0.0)
        if worst > self.bound:
            return worst
        return None if self.passed or self.unjudged else math.inf


class DescentRecord(_Kept):
    """What a tuning by descent did; best is a step's number, and numbers are those of every step."""

    steps: Count
    best: Count | None = None
    unseen: Count = 0
    numbers: list[dict[str, float]] | None = None


class Bin(_Kept):
    """Users, or held-out entries, whose row has `low` to `high` training entries: how many, and the mean of theirs."""

    low: Count
    high: Count
    count: Count
    mean: float
    stderr: Real = None


class RankingRecord(_Kept):
    """How a test part is ranked, besides the means in `metrics`.

    Attributes:
        users, left_out: with a relevant entry there, and without.
        stderr: standard error over users of each metric asked for.
        curves: of each metric with a k, its means at every `k`.
        by_activity: the first metric asked for, by its user's training entries; of one that is no mean over users none.
        by_popularity: whether a relevant entry is among the first `hits_at`, by its item's training entries.
    """

    users: Count
    left_out: Count
    stderr: dict[str, Real]
    k: list[Count]
    curves: dict[str, list[Real]]
    hits_at: Count
    by_popularity: list[Bin]
    by_activity: list[Bin] = []


class FitRecord(_Kept):
    """A fit, a trial or a descent. The docstring of `jals.experiment.Loaded` says what the numbers mean."""

    key: str
    solver: str
    kind: str
    fold: Count | None
    seed: Count
    point: dict[str, str | bool | int | float]
    trial: Count | None
    tuned: dict[str, int | float]
    data: str
    rank: Annotated[int, Field(ge=1)]
    own_minimiser: bool
    factors: str | None
    reason: str
    error: Failure | None
    sweeps: Count
    converged: bool
    compile_seconds: float
    program: Count | None
    history: HistoryRecord
    metrics: dict[str, dict[str, Real]] | None = None
    certificate: Proof | None = None
    certified: bool = True  # False: the config asked for no certificate
    descent: DescentRecord | None = None
    metric: str = RMSE  # what history.validation is
    ranking: RankingRecord | None = None

    @property
    def open(self) -> bool:
        """Whether a later session has to go on with it."""
        return self.reason in ("running", "interrupted")

    @property
    def broken(self) -> bool:
        """Whether it broke down, so that its factors are of no use."""
        return self.error is not None or self.reason in ("diverged", "singular")

    @property
    def validated(self) -> bool:
        """Whether there is anything that a validation part said of it."""
        return self.history.validation is not None or "validation" in (self.metrics or {})

    @property
    def label(self) -> str:
        """What tables and pictures call it."""
        return label(self.solver, self.fold, self.point, self.trial, self.descent is not None)

    def score(self, part: str, name: str) -> Real:
        """A metric of a part of the split, or None."""
        return (self.metrics or {}).get(part, {}).get(name)

    def kept_loss(self) -> Real:
        """The loss at the sweep whose factors were kept, else the last one recorded; None where there is none."""
        losses = dict(zip(self.history.sweep, self.history.loss or (), strict=False))
        known = [loss for loss in losses.values() if loss is not None]
        kept = losses.get(self.sweeps)
        return kept if kept is not None else known[-1] if known else None

    def changed(self, **changes: Any) -> "FitRecord":
        return self.model_copy(update=changes)


class Unfinished(FitRecord):
    """A fit under way, as far as it has come. `files` are those of its checkpoint, with their SHA-256."""

    files: dict[str, str] = {}


class DataRecord(_Kept):
    """A table that a run learnt from, and how it was read."""

    name: str
    hash: str
    users: Count
    items: Count
    entries: Count
    train: Count | None = None
    validation: Count | None = None
    test: Count | None = None
    dtype: str | None = None
    reading: dict[str, Any] | None = None


class BaselineRecord(_Kept):
    """What a baseline came to on a fold of a table; `point` holds the axes of the grid that decide the table."""

    key: str
    name: str
    kind: str
    data: str
    fold: Count | None = None
    point: dict[str, str | bool | int | float]
    seconds: float
    metrics: dict[str, dict[str, Real]]
    ranking: RankingRecord


class ReferenceRecord(_Kept):
    """A minimum of the loss that a fit was on its way to: where a solver that goes on from its factors, in float64,
    comes to a stationary point.

    Attributes:
        fit: the key of the fit, that of the lowest loss on its problem.
        stationarity: as a certificate has it, at the end.
        reached: whether that is as low as was asked for; else the budget of sweeps ended the solve.
    """

    fit: str
    solver: str
    loss: float
    stationarity: float
    reached: bool
    sweeps: Count
    passes: Count
    seconds: float


class Program(_Kept):
    """Fits that shared a compiled program, or one that ran alone. `first` is the key of the first of several."""

    solver: str
    loop: str
    why: str
    first: str | None = None
    chunks: list[Count] | None = None
    fits: Count = 0
    compile_seconds: float = 0.0
    seconds: float = 0.0


class Loop(_Kept):
    """By which loop the fits of one program go, and the seconds measured of each."""

    loop: str
    why: str
    device: str | None = None
    seconds: dict[str, float] | None = None


class Seal(_Kept):
    """What a finished run held: how many fits, and the SHA-256 of its files by name."""

    fits: Count
    sha256: dict[str, str]


class RunRecord(_Kept):
    """What holds for a whole run. One under way changes."""

    status: Status
    error: str | None = None
    started: str
    wall_seconds: float
    versions: dict[str, str]
    hardware: dict[str, str | int | float | None]
    command: str
    config: dict[str, Any]  # its tables, defaults written out
    modules: dict[str, str] | None = None  # of solvers that are not jals's, with the SHA-256 of their files
    data: list[DataRecord] = []
    programs: list[Program] = []
    loops: dict[str, Loop] = {}
    references: list[ReferenceRecord] = []
    baselines: list[BaselineRecord] = []
    seal: Seal | None = None

    def json(self) -> dict[str, Any]:
        kept = self.model_dump(mode="json", exclude={"config"}, exclude_none=True)
        return {"status": self.status, "error": self.error} | kept | {"config": self.config}


def label(solver: str, fold: int | None, point: dict[str, Any], trial: int | None, descent: bool) -> str:
    """als, als/0 on a fold, als rank=8 of a grid, sgd trial 3."""
    values = [f"{key.rpartition('.')[2]}={value}" for key, value in point.items()]
    tried = [] if trial is None else ["descent" if descent else f"trial {trial}"]
    return " ".join([solver + ("" if fold is None else f"/{fold}"), *values, *tried])


def run(content: bytes) -> RunRecord:
    """Of a result.json.

    Raises:
        ValueError: saying what is wrong.
    """
    return _read(RunRecord, content)


def line(content: bytes) -> FitRecord:
    """Of a line of fits.jsonl. What has ended well must have what it is to show.

    Raises:
        ValueError: as for `run`.
    """
    fit = _read(FitRecord, content)
    if fit.error is None and fit.metrics is None:
        raise ValueError("metrics are missing, of a fit that ended well")
    if fit.error is None and fit.trial is None and fit.certified and fit.certificate is None:
        raise ValueError("the certificate is missing, of a fit that ended well")
    if fit.open:
        raise ValueError(f'reason is "{fit.reason}", of a fit that has ended')
    return fit


def unfinished(content: bytes) -> Unfinished:
    """Of an unfinished.json. Raises as `run`."""
    return _read(Unfinished, content)


def any_fit(content: bytes) -> FitRecord:
    """Of either. Raises as `run`."""
    return _read(FitRecord, content)


def to_json(kept: _Kept, indent: int | None = None) -> bytes:
    return json.dumps(kept.json(), indent=indent, allow_nan=False).encode()


def _read(kind: type, content: bytes) -> Any:
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{where}: {message}" if where else message) from None


def finite(number: Any) -> Real:
    """What a record holds of a number: a float, or None where it is not finite."""
    number = float(number)
    return number if math.isfinite(number) else None
