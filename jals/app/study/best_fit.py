"""Which fit of a run is the best, by the validation part alone; the test part decides nothing."""

import dataclasses
import json
from collections.abc import Iterable
from typing import NamedTuple

from ...errors import ArgumentError, StorageError, did_you_mean
from ...files.runs.record import FitRecord, Unfinished, label
from ...metrics import as_error, is_error, spelt
from ...model.feedback import KINDS
from .. import config as configs
from ..config.schema import Config

SHORTEST = 4  # characters of a key that name a fit
_LISTED = 20  # fits in a message
_TOLD = 5  # of those that could not be ranked

Cell = tuple[int | None, int]  # fold and seed


@dataclasses.dataclass(frozen=True)
class Competitor:
    """A solver at a point of the grid.

    Attributes:
        fits: those that ended, in their order, and of a run that was stopped the one under way.
        scores: their validation metric by fold and seed.
        metric: which that is, "rmse" or "ndcg@10".
        mean: that of the scores that are compared; None where it is ranked on none.
    """

    fits: list[FitRecord]
    scores: dict[Cell, float]
    metric: str
    mean: float | None = None

    @property
    def name(self) -> str:
        """als rank=8"""
        return label(self.fits[0].solver, None, self.fits[0].point, None, False)

    @property
    def best(self) -> FitRecord:
        """Of those of its first fold (whose factors have not seen that fold's test part) the seed with the best
        validation metric; the first of equal ones."""
        first = min(self.scores, key=lambda cell: -1 if cell[0] is None else cell[0])[0]
        known = [fit for fit in self.fits if fit.fold == first and _cell(fit) in self.scores]
        return min(known, key=lambda fit: as_error(self.metric, self.scores[_cell(fit)]))

    @property
    def left_out(self) -> str | None:
        """Why it cannot be ranked, or None. (A mean without its broken fits would leave out the hard cases.)"""
        for fit in self.fits:
            if fit.broken:
                return f"{fit_name(fit, several=True)} broke down"
            if fit.metrics is not None and "validation" in fit.metrics and fit.score("validation", self.metric) is None:
                return f"{fit_name(fit, several=True)} has no finite validation {spelt(self.metric)}"
        return None if self.scores else f"{self.name} has not ended"


class Ranking(NamedTuple):
    """Who is the best, as far as the validation part says so.

    Attributes:
        metric: of the validation part, "rmse" or "ndcg@10", which is compared.
        ranked: the best mean first, equal ones in the order of the fits.
        left_out: those ranked on none, each with why.
        refused: why nothing says which is best (then none is ranked), or None.
        cells: the folds and seeds of the means: those that all ranked ones share.
    """

    metric: str
    ranked: list[Competitor]
    left_out: list[str]
    refused: str | None
    cells: list[Cell]

    @property
    def measured(self) -> str:
        """validation RMSE"""
        return f"validation {spelt(self.metric)}"

    @property
    def extreme(self) -> str:
        """Which of several is the best."""
        return "lowest" if is_error(self.metric) else "highest"

    @property
    def fits(self) -> int:
        """How many fits the best is the best of."""
        return sum(len(each.scores) for each in self.ranked)

    @property
    def best(self) -> FitRecord | None:
        return self.ranked[0].best if self.ranked else None

    def mark(self, number: str = "") -> str | None:
        """lowest validation RMSE of 12 fits, with its `number` in between; None where the best has no rival."""
        first = self.ranked[0]
        seeds = sum(fold == first.best.fold for fold, _ in first.scores)
        if len(self.ranked) == 1 and seeds == 1:
            return None
        mean = "mean " if self.averaged else ""
        of = f"{self.fits:,} fits" if len(self.ranked) > 1 else f"{seeds:,} seeds"
        return f"{self.extreme} {mean}{self.measured}{number} of {of}"

    @property
    def averaged(self) -> bool:
        """Whether means over folds or seeds were compared."""
        return len(self.ranked) > 1 and max(len(self.cells), len(self.ranked[0].scores)) > 1

    def reason(self) -> str:
        """Why the best is the best, with its numbers."""
        first = self.ranked[0]
        own = first.scores[_cell(first.best)]
        said = self.mark(f", {first.mean if self.averaged else own:.4f},")
        if said is None:
            rest = "the first of its folds" if self.fits > 1 else "no other fit has one"
            return f"{self.measured} {own:.4f}; {rest}"
        seeds = len({seed for _, seed in first.scores})
        its = f"; {own:.4f} itself" + (f", the {self.extreme} of its seeds" if seeds > 1 else "")
        return said + (its if self.averaged else "")


class ServedFit(NamedTuple):
    """The fit that is served, and why: None where the run has no other. `left_out` as of a `Ranking`."""

    fit: FitRecord
    why: str | None
    left_out: list[str]


def fit_name(fit: FitRecord, several: bool, folds: int | None = None) -> str:
    """als/0 rank=16 seed 1, the seed where there are `several`; with the number of `folds`: als rank=16 fold 0 of 5."""
    fold = fit.fold if folds is None else None
    of = f" fold {fit.fold} of {folds}" if folds is not None and fit.fold is not None else ""
    return label(fit.solver, fold, fit.point, None, False) + of + (f" seed {fit.seed}" if several else "")


def summarise(left_out: list[str]) -> str:
    """Those ranked on none, the first of them by name."""
    more = len(left_out) - _TOLD
    return "; ".join(left_out[:_TOLD] + ([f"and {more:,} more"] if more > 0 else []))


def ranking(fits: Iterable[FitRecord], config: Config) -> Ranking:
    """Ranks what competes in a run, solvers at points of the grid, by the validation metric of its fits: its mean over
    the folds and seeds that all of them have.

    Args:
        fits: of the run, or some of them; trials are passed over.
        config: the run's.
    """
    metric = config.fit.metric
    every = list(_competitors(fits, metric))
    whole = [each for each in every if each.left_out is None]
    left_out = [each.left_out for each in every if each.left_out is not None]
    cells = [cell for cell in whole[0].scores if all(cell in each.scores for each in whole)] if whole else []
    refused = _incomparable([each for each in every if not all(fit.broken for fit in each.fits)], config)
    if refused is None and not whole:
        measured = any("validation" in (fit.metrics or {}) for each in every for fit in each.fits)
        refused = "each solver and point has a fit that broke down or has not ended" if measured else _NO_PART
    elif refused is None and not cells:
        refused = "there is no fold and seed of which all have a fit"
    if refused is not None:
        return Ranking(metric, [], [], refused, [])
    means = [dataclasses.replace(each, mean=sum(each.scores[cell] for cell in cells) / len(cells)) for each in whole]
    return Ranking(metric, sorted(means, key=lambda each: as_error(metric, each.mean or 0.0)), left_out, None, cells)


def choose(fits: Iterable[FitRecord], config: Config, solver: str | None = None, key: str | None = None) -> ServedFit:
    """The fit of a run to serve: the only one there is, the one asked for, or the best by validation.

    Args:
        fits: all of the run, with the one that is unfinished.
        config: the run's.
        solver: the name of a solver of the config, or its kind where it has none: no other's.
        key: the beginning of a fit's key: that one.

    Raises:
        ArgumentError: for a solver or key that is not there, and where nothing says which fit is best: the message
            lists them.
        StorageError: when no fit is left that has factors.
    """
    labels = [each.label for each in config.solver]
    if solver is not None and solver not in labels:
        raise ArgumentError(f'no solver "{solver}": the run has {", ".join(labels)}.{did_you_mean(solver, labels)}')
    meant = [fit for fit in fits if fit.trial is None and solver in (None, fit.solver)]
    own = [fit for fit in meant if fit.factors and not fit.broken]
    if not own:
        broken = any(fit.broken for fit in meant)
        why = "it was stopped before" if config.output.factors else "it keeps none (output.factors = false)"
        why = "every fit broke down" if broken else why
        raise StorageError(f"the run holds no factors of {solver or 'any solver'} to serve: {why}.")
    if key is not None:
        return ServedFit(_of_key(own, key), "as --fit asks", [])
    if len(own) == 1:
        single = not config.grid and own[0].fold is None and len(config.solver) == len(config.seeds) == 1
        of = "" if solver is None else f" of {solver}"
        ended = ", and has not ended" if isinstance(own[0], Unfinished) else ""
        return ServedFit(own[0], None if single else f"the only fit{of} that could be served{ended}", [])
    found = ranking([fit for fit in meant if fit.factors or fit.broken], config)
    refitted = config.tune is not None and config.tune.refit
    if found.refused == _NO_PART and refitted and len({(fit.solver, json.dumps(fit.point)) for fit in own}) == 1:
        # its seeds differ by chance alone, and its numbers the validation part has chosen
        return ServedFit(own[0], "the first seed: all learnt from the validation part too", [])
    if found.refused is not None:
        raise ArgumentError(
            f"{len(own):,} fits could be served, and nothing says which is best: {found.refused}.\n"
            f"{_listed(own, config.fit.metric)}\nChoose one {_ways(own)}{_NEXT if found.refused == _NO_PART else ''}."
        )
    return ServedFit(found.ranked[0].best, found.reason(), found.left_out)


def best_by_solver(fits: list[FitRecord], found: Ranking) -> list[FitRecord]:
    """One fit of each solver, the best first: the best of its points and seeds, or its first where it is not ranked."""
    first: dict[str, FitRecord] = {}
    for fit in [competitor.best for competitor in found.ranked] + [fit for fit in fits if fit.trial is None]:
        first.setdefault(fit.solver, fit)
    return list(first.values())


def folds_of(fit: FitRecord, config: Config) -> int | None:
    """How many folds the split has that a fit is of, None where there is one split."""
    return None if fit.fold is None else getattr(configs.at(config, fit.point).split, "folds", None)


_NO_PART = "there is no validation part"
_NEXT = "; or set split.validation_fraction in the config, and a new run knows its best"


def _cell(fit: FitRecord) -> Cell:
    return fit.fold, fit.seed


def _competitors(fits: Iterable[FitRecord], metric: str) -> Iterable[Competitor]:
    groups: dict[str, list[FitRecord]] = {}
    for fit in fits:
        if fit.trial is None:
            groups.setdefault(json.dumps([fit.solver, sorted(fit.point.items())]), []).append(fit)
    for own in groups.values():
        scores = {_cell(fit): fit.score("validation", metric) for fit in own if not fit.broken}
        yield Competitor(own, {cell: score for cell, score in scores.items() if score is not None}, metric)


def _incomparable(competitors: list[Competitor], config: Config) -> str | None:
    """Why their metrics are of different entries, or of different targets; None if they are of the same."""
    points = [each.fits[0].point for each in competitors]
    for axis in dict.fromkeys(axis for point in points for axis in point if axis.startswith(("data.", "split."))):
        if len({json.dumps(point.get(axis)) for point in points}) > 1:
            return f"the grid changes {axis}, and {spelt(config.fit.metric)} of different entries do not compare"
    presets = {point["objective.preset"]: point for point in points if "objective.preset" in point}
    targets = {KINDS[configs.at(config, point).objective.build().feedback].target for point in presets.values()}
    if len(targets) > 1 and is_error(config.fit.metric):
        return "objective.preset is of ratings and of implicit feedback, and RMSE of different targets do not compare"
    return None


def _of_key(fits: list[FitRecord], key: str) -> FitRecord:
    found = [fit for fit in fits if fit.key.startswith(key)]
    if len(key) >= SHORTEST and len(found) == 1:
        return found[0]
    if len(key) < SHORTEST:
        what, found = f'"{key}" is too short for the key of a fit: at least {SHORTEST} characters', fits
    elif found:
        what = f'"{key}" begins the keys of {len(found):,} fits'
    else:
        what, found = f'no fit that could be served has a key that begins with "{key}"', fits
    raise ArgumentError(f"{what}. There are:\n{_listed(found, fits[0].metric)}")


def _listed(fits: list[FitRecord], metric: str) -> str:
    """A fit a line: key, name, what is measured of it."""
    length = 8 if len({fit.key[:8] for fit in fits}) == len(fits) else None
    rows = [(fit.key[:length], fit_name(fit, several=True), fit) for fit in fits[:_LISTED]]
    width = max(len(name) for _, name, _ in rows)
    lines = [
        f"  {key}  {name:<{width}}  "
        + "  ".join(f"{part} {spelt(metric)} {_number(fit, part, metric)}" for part in ("validation", "test"))
        + ("  unfinished" if isinstance(fit, Unfinished) else "")
        for key, name, fit in rows
    ]
    more = len(fits) - len(rows)
    return "\n".join(lines + ([f"  and {more:,} more"] if more else []))


def _number(fit: FitRecord, part: str, metric: str) -> str:
    score = fit.score(part, metric)
    return "–" if score is None else f"{score:.4f}"


def _ways(fits: list[FitRecord]) -> str:
    several = len({fit.solver for fit in fits}) > 1
    return "with --fit KEY" + (", or a solver with --solver NAME" if several else "")
