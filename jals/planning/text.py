"""What a plan says, line by line."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..devices import in_units

if TYPE_CHECKING:
    from .plan import Plan


def told(plan: "Plan") -> Iterator[str]:
    """The lines of `str(plan)`."""
    job = plan.job
    weighted = ", weighted" if job.weighted else ""
    yield f"{plan.topology}: {job.users:,} users x {job.items:,} items, {job.entries:,} entries{weighted}"
    yield f"{plan.program}, rank {job.rank}, {job.precision}. What follows is of one device, and of one run."
    yield ""
    yield from _memory(plan)
    if plan.work is not None:
        yield ""
        yield from _work(plan)
    yield ""
    yield from _verdict(plan)


def _memory(plan: "Plan") -> Iterator[str]:
    yield f"{'memory':<34}{in_units(plan.needed):>12} of {in_units(plan.limit)}"
    for name, size in plan.arrays.items():
        yield f"  {name:<32}{in_units(size):>12}"
    if plan.memory:
        parts = [f"{part} {in_units(size)}" for part, size in plan.memory.items()]
        yield f"  by the compiler: {', '.join(parts)}"


def _work(plan: "Plan") -> Iterator[str]:
    work = plan.work
    assert work is not None
    yield f"{'work':<34}{'':>24}{'at least':>14}"
    products = plan.floors["matrix products"]
    for place, (precision, count) in enumerate(work.operations.items()):
        floor = seconds(products) if place == 0 else ""
        yield f"  {'products, ' + precision:<32}{count / 1e9:>14,.1f} G operations{floor:>12}"
    yield f"  {'memory':<32}{in_units(round(work.memory)):>24}{seconds(plan.floors['memory']):>14}"
    for kind, sent in work.sent.items():
        what = f"{kind}, {work.collectives[kind]:,} times"
        yield f"  {what:<32}{in_units(round(sent)):>24}{seconds(plan.sent[kind]):>14}"
    counts = {kind: count for kind, count in work.collectives.items() if count}
    if counts:
        early = (f"{kind} {work.begun_early.get(kind, 0):,} of {count:,}" for kind, count in counts.items())
        yield f"  begun before they are waited for: {', '.join(early)}"
    if not work.sent:
        yield f"  {'interconnect':<32}{'nothing is sent':>24}"
    if work.unestimated:
        kernels = ", ".join(f"{name} ({count:,} calls)" for name, count in work.unestimated.items())
        yield f"  without an estimate: {kernels}"
    if work.loops:
        yield f"  counted once, as their length is not known: {', '.join(work.loops)}"


def _verdict(plan: "Plan") -> Iterator[str]:
    yield f"compiled in {plan.compile_seconds:.0f} s"
    if plan.binds is not None:
        yield f"binds: {plan.binds}. A run takes {seconds(plan.floor)} or more."
    if plan.fits:
        smaller = plan.smallest not in (None, plan.topology)
        yield f"It fits, and so it does on {plan.smallest}." if smaller else "It fits."
    else:
        yield "It does not fit."
        yield from (f"  {cure}" for cure in plan.cures or ("nothing that is known here would make it fit",))
    yield from (f"note: {note}" for note in plan.notes)


def seconds(number: float) -> str:
    """A time for people; "unknown" for NaN."""
    if math.isnan(number):
        return "unknown"
    unit = next((unit for unit in ((1, "s"), (1e-3, "ms"), (1e-6, "µs")) if number >= unit[0]), (1e-6, "µs"))
    return f"{number / unit[0]:.3g} {unit[1]}"
