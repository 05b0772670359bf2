"""Fits that differ in numbers, seeds and folds only, as one compiled program: how many at a time, and by which loop."""

from typing import Any

import jax

import jals

from ...errors import Interrupted
from ...files.runs.record import Loop
from ...fitting.grids import at_once, even_sizes, quicker_loop
from ...fitting.many import fit_bytes
from ..study.plan import PlannedFit
from .data import SplitTable

_MOST = 64  # fits at a time: what a stop may cost


class FitGroup:
    """The fits of one program.

    Attributes:
        kind: what a measurement of loops holds for: the kind of solver, and its batches.
    """

    def __init__(self, table: SplitTable, members: list[PlannedFit], work: float = 0.0):
        self._table, self._members, self._work = table, members, work
        self.kind = members[0].solver.batched
        self._folds = sorted({each.fold for each in members}, key=lambda fold: fold or 0)
        self._masks: Any = None

    def fit(self, chunk: list[PlannedFit], loop: str, watch: Any = None, sweeps: int | None = None) -> list:
        """What `jals.fit_many` returns for them. Raises Interrupted on Ctrl-C: those of the chunk begin anew."""
        first = chunk[0]
        settings = first.config.fit
        held_out = {fold: self._table.validation(fold, settings.metric) for fold in {each.fold for each in chunk}}
        problem, weights = self._problem(chunk)
        try:
            return jals.fit_many(
                [each.solver.build() for each in chunk],
                problem,
                [each.config.objective.build() for each in chunk],
                sweeps=sweeps or first.sweeps(),
                keys=[jax.random.key(each.seed) for each in chunk],
                weights=weights,
                tol=settings.tol,
                validation=[held_out[each.fold] for each in chunk],
                metric=settings.metric,
                loss_every=settings.loss_every,
                callbacks=[watch] if watch is not None else (),
                loop=loop,
            )
        except Interrupted as stopped:
            raise Interrupted(f"{stopped}; fits in one program begin anew", result=stopped.result) from None

    def _problem(self, chunk: list[PlannedFit]) -> tuple[jals.Problem, Any]:
        if not self._table.masked:
            return self._table.problem(chunk[0].fold), None
        if self._masks is None:
            self._masks = jax.numpy.stack([self._table.mask(fold) for fold in self._folds])
        return self._table.whole(), (self._masks, [self._folds.index(each.fold) for each in chunk])

    def chunks(self, loop: str) -> tuple[list[int], str]:
        """(how many fits at a time, why)."""
        problem, _ = self._problem(self._members)
        first = self._members[0]
        most = at_once(fit_bytes(first.solver.build(), problem, first.config.objective.build(), loop=loop))
        sizes = even_sizes(len(self._members), min(most, _MOST))
        if len(sizes) == 1:
            return sizes, "all at once"
        limit = "memory" if most < _MOST else "what a stop may cost"
        return sizes, f"in chunks, for the sake of {limit}"

    def measured(self) -> Loop:
        """Which loop makes a sweep of some of the fits in the least time, compilation apart."""
        some = self._members[: self.chunks("vmap")[0][0]]
        choice = quicker_loop(lambda loop: self.fit(some, loop, sweeps=1), len(some), self._work)
        device = jax.devices()[0].platform
        return Loop(loop=choice.loop, why=choice.why, device=device, seconds=choice.seconds or None)
