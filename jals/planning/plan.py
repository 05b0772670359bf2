"""Whether a slice of accelerators holds a fit, and what its sweeps are bound by: told before there is such a slice."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..devices import in_units
from ..errors import ArgumentError, check_choice
from ..model.exchange import Exchange
from ..model.slots import CODES
from ..partitioned.manifest import MOST, SIDES, Manifest
from . import chips, compiling
from .compiling import Compiled, Job, Program
from .programs import FITS, PROGRAMS
from .tables import SKEW, skew_of, told
from .work import Work

PRECISIONS = ("float32", "float64", "bfloat16")
VALUES = ("float", *(code.name for code in CODES))
PARTS = ("matrix products", "memory", "interconnect")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a fit needs of a topology, by its compiled sweep; `str` tells it all. Bytes, operations and seconds are of
    one device, and of one sweep (or whatever the program is).

    Attributes:
        job: the table and the fit (`compiling.Job`).
        program: what was compiled.
        topology: as it was asked for.
        arrays: bytes of what stays on the device, by array, as the compiler lays it out.
        memory: bytes by the compiler: "arguments", "outputs", "temporaries", "code"; empty where it refused.
        needed: bytes in all.
        limit: bytes that a program may use.
        work: what a sweep does (`work.Work`); None where the compiler refused for want of memory.
        floors: the least seconds that a chip at its stated rates takes for the "matrix products", the main "memory" and
            the "interconnect"; NaN where a rate is not known. Work of kernels in `work.unestimated` is in none of them.
        sent: the least seconds of the interconnect by kind of collective.
        binds: the part with the largest floor; None where none is known.
        slices: for every slice of the chip the bytes of a device, by the arrays there and what the compiler adds to
            them here, in proportion.
        smallest: the smallest slice that fits, compiled for it too; None where none does, or none was looked for.
        cures: what to change where the job does not fit.
        notes: what restricts all this.
        compile_seconds: what compiling took.
    """

    job: Job
    program: str
    topology: str
    arrays: dict[str, int]
    memory: dict[str, int]
    needed: int
    limit: int
    work: Work | None
    floors: dict[str, float]
    sent: dict[str, float]
    binds: str | None
    slices: dict[str, int]
    smallest: str | None
    cures: tuple[str, ...]
    notes: tuple[str, ...]
    compile_seconds: float

    @property
    def fits(self) -> bool:
        return self.work is not None and self.needed <= self.limit

    @property
    def floor(self) -> float:
        """The least seconds of a sweep: the largest of the floors, as if all else went on beside it."""
        return max((each for each in self.floors.values() if not math.isnan(each)), default=math.nan)

    def __str__(self) -> str:
        from .text import told

        return "\n".join(told(self))


def plan(
    table: Any,
    rank: int,
    topology: str,
    precision: str = "float32",
    *,
    weighted: bool | None = None,
    value: str = "float",
    exchange: Any = "auto",
    search: bool = True,
    program: str | Program = "als",
) -> Plan:
    """Compiles a fit's sweep ahead of time for a slice of accelerators, and tells what it needs there. The data is not
    made, and no accelerator is there. TPUs need the extra "plan"; for GPUs, CPU devices stand in. Compiling takes a
    minute or two for hundreds of devices.

    Args:
        table: (users, items, entries); or a `jals.Manifest`, or the folder of a partitioned table.
        rank: of the factors.
        topology: "v5e:16x16", "v5p:4x4x4", "gpu:h100x8", "cpu:8".
        precision: in which factors are kept and exchanged: "float32", "float64", "bfloat16".
        weighted: whether entries have weights; None: as the table says, else no.
        value: how values lie on the devices: "float", as numbers of the precision; "uint8" or "uint16", as the codes
            that `Problem.build` makes of 2^20 entries and more where these hold them exactly (half stars, say).
        exchange: as of `Problem.build`, for what is spread over several devices.
        search: whether to look for the smallest slice that fits: it is compiled for that one too.
        program: what to compile: a sweep of `jals.ALS` ("als") or `jals.Gradient` ("gradient"), or "top_k" for 4,096
            users; or a function of a module (`compiling.Program`).

    Raises:
        ArgumentError: for a table, rank, precision or topology that cannot be, or where compiling fails.
        ImportError: for a TPU without the extra "plan".
    """
    place = chips.topology(topology)
    job = _job(table, rank, precision, weighted)
    check_choice("value", value, VALUES)
    asked = Exchange.of(exchange)
    ways = {} if asked is None else {"way": asked.way, "exchanges": asked.groups}
    job = job._replace(platform=place.chip.platform, value=value, **ways)
    if not callable(program):
        check_choice("program", program, PROGRAMS)
        program = PROGRAMS[program]
    if job.entries > MOST * place.devices:
        least = -(-job.entries // MOST)
        raise ArgumentError(
            f"{job.entries:,} entries on {place.devices:,} devices are more than 2**31 on each, where int32 numbers "
            f"them. Plan for {least:,} devices or more."
        )
    found = compiling.compiled(program, job, place)
    needs = _Needs(program, job, place, found)
    slices = list(needs.on_slices())
    smallest = _smallest(program, job, slices, {place: found}) if search else None
    fits = _fits(found, place)
    sent = place.interconnect_seconds(found.work.sent) if found.work else {}
    floors = _floors(found.work, place, sent) if found.work else {}
    known = {part: least for part, least in floors.items() if least > 0}
    return Plan(
        job=job,
        program=program.__name__.replace("_", " "),
        topology=str(place),
        arrays=found.arrays,
        memory=found.memory,
        needed=needs.own + needs.added,
        limit=place.memory,
        work=found.work,
        floors=floors,
        sent=sent,
        binds=max(known, key=lambda part: known[part]) if known else None,
        slices={str(each): size for each, size in slices},
        smallest=None if smallest is None else str(smallest),
        cures=() if fits else _cures(needs, place, slices if search else [], smallest),
        notes=(*_notes(place), *(told(job, place.devices) if program in FITS else ())),
        compile_seconds=found.seconds,
    )


def _fits(found: Compiled, place: chips.Topology) -> bool:
    return found.work is not None and found.needed <= place.memory


def _smallest(
    program: Program, job: Job, slices: list[tuple[chips.Topology, int]], known: dict[chips.Topology, Compiled]
) -> chips.Topology | None:
    """The first slice that holds the job when it is compiled for it, of those that should."""
    for each, size in slices:
        if size <= each.memory and _fits(known.get(each) or compiling.compiled(program, job, each), each):
            return each
    return None


class _Needs:
    """What a device needs elsewhere, of what the compiler says of one slice: its arrays, and in proportion what the
    compiler adds to them here."""

    def __init__(self, program: Program, job: Job, place: chips.Topology, found: Compiled):
        self.program, self.job, self.place = program, job, place
        self.own = self._arrays(job, place.devices)
        self.added = max(0, found.needed - self.own)

    def _arrays(self, job: Job, devices: int) -> int:
        return sum(compiling.by_array(self.program, job, devices).values())

    def on_slices(self) -> Iterator[tuple[chips.Topology, int]]:
        """Of all slices of the chip, but those that the table's shards cannot be divided among."""
        for each in self.place.slices():
            with contextlib.suppress(ArgumentError):
                yield each, self.on(each.devices)

    def on(self, devices: int, **changed: Any) -> int:
        """Bytes on one of so many devices, of a job with something changed."""
        arrays = self._arrays(self.job._replace(**changed), devices)
        return round(arrays * (1 + self.added / self.own))


def _job(table: Any, rank: int, precision: str, weighted: bool | None) -> Job:
    check_choice("precision", precision, PRECISIONS)
    if isinstance(table, str | Path):
        table = Manifest.read(table)
    more: dict[str, Any] = {}
    if isinstance(table, Manifest):
        sides = [getattr(table, side) for side in SIDES]
        sizes = (*(side.rows for side in sides), table.entries)
        weighted = table.weighted if weighted is None else weighted
        known = [side.degrees for side in sides]
        skew = [SKEW if each is None else skew_of(each["median"], each["mean"]) for each in known]
        more = {"shards": table.shards, "skew": tuple(skew)}
    else:
        sizes = tuple(table)
    whole = [type(each) is int and each >= 1 for each in (*sizes, rank)]
    if len(sizes) != 3 or not all(whole):
        raise ArgumentError(
            f"the table is {sizes} and the rank {rank}, but a plan needs (users, items, entries) and a rank, whole "
            "numbers of 1 or more."
        )
    users, items, entries = sizes
    if entries > users * items:
        raise ArgumentError(f"{entries:,} entries are more than {users:,} users and {items:,} items have pairs.")
    return Job(users, items, entries, rank, precision, bool(weighted), **more)


def _floors(work: Work, place: chips.Topology, sent: dict[str, float]) -> dict[str, float]:
    rates, bandwidth = place.chip.products, place.chip.bandwidth
    products = sum(count / rates.get(precision, math.nan) for precision, count in work.operations.items())
    products = products if rates else math.nan
    if bandwidth is None or place.chip.platform == "gpu":  # a CPU's compiler stands in, which moves other bytes
        bandwidth = math.nan
    return dict(zip(PARTS, (products, work.memory / bandwidth, sum(sent.values())), strict=True))


def _notes(place: chips.Topology) -> tuple[str, ...]:
    found = []
    if place.chip.platform == "gpu":
        found.append(
            f"compiled for {place.devices} CPU devices, which stand in for GPUs: what is sent between devices is the "
            "same; temporaries, bytes in memory and kernels are a CPU's"
        )
    if place.chip.platform == "tpu" and (why := compiling.pinned_libtpu()):
        found.append(why)
    if place.chip.platform == "cpu":
        found.append("no rates are known of this machine, so there are no floors")
    else:
        found.append(f"floors are by stated peak rates, unvalidated: nothing of this ran on {place.chip.name}")
    return tuple(found)


def _cures(
    needs: _Needs, place: chips.Topology, slices: list[tuple[chips.Topology, int]], smallest: chips.Topology | None
) -> tuple[str, ...]:
    """What would make the job fit."""

    def fits(**changed: Any) -> bool:
        try:
            return needs.on(place.devices, **changed) <= place.memory
        except ArgumentError:  # the program does not have that
            return False

    cures = []
    if smallest is not None:
        cures.append(f"more devices: {smallest} is the smallest slice that holds it")
    elif slices:
        largest, size = max(slices, key=lambda each: each[0].devices)
        has = in_units(largest.memory)
        cures.append(f"another chip: a device of the largest slice, {largest}, needs {in_units(size)} and has {has}")
    if needs.job.precision != "bfloat16" and fits(precision="bfloat16"):
        cures.append('precision "bfloat16"')
    low, high = 0, needs.job.rank
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(rank=middle) else (low, middle)
    if low:
        cures.append(f"a rank of {low} or less")
    return tuple(cures)
