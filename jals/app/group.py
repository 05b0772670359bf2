"""Fits that differ in numbers, seeds and folds only, as one compiled program: how many at a time, and by which loop."""

import os
import time
from typing import Any

import jax

import jals

from ..many import fit_bytes
from .experiment import Table
from .plan import Planned

_SHARE = 0.25  # of the machine's memory, which the fits of one program may take
_MOST = 64  # fits at a time: what a stop may cost
_WORTH_MEASURING = 2e11  # operations: below, a run is over before two compilations are


class Group:
    """The fits of one program.

    Attributes:
        kind: what a measurement of loops holds for: the kind of solver, and its batches.
    """

    def __init__(self, table: Table, members: list[Planned], work: float = 0.0):
        self._table, self._members, self._work = table, members, work
        solver = members[0].solver
        batch = getattr(solver, "batch_size", None)
        self.kind = solver.kind if batch is None else f"{solver.kind}, minibatch"
        self._folds = sorted({each.fold for each in members}, key=lambda fold: fold or 0)
        self._masks: Any = None

    def fit(self, chunk: list[Planned], loop: str, watch: Any = None, sweeps: int | None = None) -> list:
        """What `jals.fit_many` returns for them."""
        first = chunk[0]
        settings, folds = first.config.fit, self._table.folds
        problem, weights = self._problem(chunk)
        return jals.fit_many(
            [each.solver.build() for each in chunk],
            problem,
            [each.config.objective.build() for each in chunk],
            sweeps=sweeps or first.sweeps(),
            keys=[jax.random.key(each.seed) for each in chunk],
            weights=weights,
            tol=settings.tol,
            validation=[folds[each.fold].validation for each in chunk],
            loss_every=settings.loss_every,
            callbacks=[watch] if watch is not None else (),
            loop=loop,
        )

    def _problem(self, chunk: list[Planned]) -> tuple[jals.Problem, Any]:
        if not self._table.masked:
            return self._table.problem(chunk[0].fold), None
        if self._masks is None:
            self._masks = jax.numpy.stack([self._table.mask(fold) for fold in self._folds])
        return self._table.whole(), (self._masks, [self._folds.index(each.fold) for each in chunk])

    def chunks(self, loop: str) -> tuple[list[int], str]:
        """(how many fits at a time, why)."""
        problem, _ = self._problem(self._members)
        first = self._members[0]
        each = fit_bytes(first.solver.build(), problem, first.config.objective.build(), loop=loop)
        most = int(memory_bytes() * _SHARE // max(each, 1))
        count, size = len(self._members), max(1, min(most, _MOST))
        number = -(-count // size)
        sizes = [count // number + (place < count % number) for place in range(number)]
        if number == 1:
            return sizes, "all at once"
        limit = "memory" if most < _MOST else "what a stop may cost"
        return sizes, f"in chunks, for the sake of {limit}"

    def measured(self) -> dict:
        """Which loop makes a sweep of some of the fits in the least time, compilation apart."""
        device = jax.devices()[0].platform
        default = {"device": device, "loop": "map" if device == "cpu" else "vmap"}
        if self._work < _WORTH_MEASURING or len(self._members) < 3:
            return default | {"why": f"the {device}'s usual loop: too little work to measure"}
        size = min(len(self._members), *self.chunks("vmap")[0][:1])
        seconds = {}
        for loop in ("map", "vmap"):
            self.fit(self._members[:size], loop, sweeps=1)
            started = time.perf_counter()
            self.fit(self._members[:size], loop, sweeps=1)
            seconds[loop] = time.perf_counter() - started
        best = min(seconds, key=lambda loop: seconds[loop])
        figures = ", ".join(f"{loop} {took:.3g} s" for loop, took in seconds.items())
        return {"device": device, "loop": best, "seconds": seconds, "why": f"measured on {size} fits: {figures}"}


def memory_bytes() -> int:
    """Of the machine; 8 GiB where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 8 * 2**30
