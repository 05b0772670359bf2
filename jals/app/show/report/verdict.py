"""The answer to a config's question, by rule from the records: who is better, by how much, how sure that is.

    verdict.of(gathering.read([place])).text    # a paragraph; .kind, .winner, .difference, .error, ... are its facts

The measure is the config's own: the RMSE of the test part, or the first ranking metric. Contestants are the solvers, at
each point of the grid by itself; where there is one solver, its points. One leads whose mean is the best; it wins where
its paired differences to all others leave 0 out (intervals that hold together, by Bonferroni: then no correction for
having looked for the leader is needed, see Hsu, "Multiple comparisons", 1996, chapter 4).
"""

import dataclasses
from typing import Literal

import numpy as np

from ....metrics import RMSE, is_error
from . import fairness, replicates, table
from .competitors import ComparedFit, Comparison, spelt
from .replicates import Difference
from .wording import Wording

Kind = Literal["win", "tie", "untuned rival", "no replicates", "broke down", "one fit", "nothing", "several"]
_HELD_OUT = ("data.", "split.")  # axes whose values have different test parts


@dataclasses.dataclass(frozen=True)
class Standing:
    """A contestant's place.

    Attributes:
        mean: of its replicates; None where it broke down, or has none in common with the others.
        behind: the measure as an error (the lower the better), minus the leader's; None of the leader.
        together: whether it is the leader, or cannot be told from it.
        broken: how many of its `fits` broke down.
        handicap: why it may have done worse than it can, or "".
    """

    name: str
    mean: float | None
    behind: Difference | None
    together: bool
    fits: int
    broken: int
    handicap: str = ""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a contest came to.

    Attributes:
        kind: "win": one is better than all others by more than chance; "tie": the leader cannot be told from another;
            "untuned rival": it would win, but some other had less care; "no replicates": nothing says what chance
            does; "broke down": one alone ended; "one fit": no other to compare with; "nothing": nothing was measured;
            "several": see `parts`.
        headline: who, and by how much.
        cost: who comes close to the lowest loss first (else to the best validation metric), and at what cost.
        detail: what is left out, what the uncertainty is of, and how low the losses were at last.
        conditions: on what data, by what budget, what was tuned and what was not.
        text: all four.
        measure: "test RMSE".
        winner: who has the better number, in a "win", an "untuned rival", and where all others "broke down"; of
            "several" the winner of all parts, or None.
        leader, rival: of the best mean, and the nearest to it.
        difference: the leader's minus the rival's; `error` its standard error, `low` to `high` its interval.
        replicates, unit: over how many folds, or seeds.
        standings: the leader first; those that broke down last.
        at: the point of the grid, "" where there is one; `contest`: what its fits have in common, see `ComparedFit`.
        parts: the verdicts of the points, where there are several.
    """

    kind: Kind
    headline: str = ""
    cost: str = ""
    detail: str = ""
    conditions: str = ""
    text: str = ""
    measure: str = ""
    winner: str | None = None
    leader: str | None = None
    rival: str | None = None
    difference: float | None = None
    error: float | None = None
    low: float | None = None
    high: float | None = None
    replicates: int = 0
    unit: str = ""
    standings: tuple[Standing, ...] = ()
    at: str = ""
    contest: tuple | None = None
    parts: tuple["Verdict", ...] = ()


def of(comparison: Comparison) -> Verdict:
    """The verdict on these records: the same records give the same words."""
    found = [_judged(comparison, *each) for each in _contests(comparison)]
    if len(found) == 1:
        return found[0]
    if not found:
        return dataclasses.replace(Verdict("nothing"), **Wording(comparison).nothing())
    winners = {each.winner if each.kind == "win" else None for each in found}
    whole = Verdict("several", measure=found[0].measure, unit=found[0].unit, parts=tuple(found))
    whole = dataclasses.replace(whole, winner=winners.pop() if len(winners) == 1 else None)
    return dataclasses.replace(whole, **Wording(comparison).several(whole))


def _contests(comparison: Comparison) -> list[tuple[str, tuple | None, dict[str, list[ComparedFit]]]]:
    """(where, `ComparedFit.contest` or None, {contestant: its fits}): solvers against each other at a point; else the
    points of one solver, as far as they share a test part."""
    solvers: dict[tuple, dict[str, list[ComparedFit]]] = {}
    for fit in comparison.fits:
        solvers.setdefault(fit.contest, {}).setdefault(fit.name, []).append(fit)
    if len(solvers) < 2 or any(len(names) > 1 for names in solvers.values()):
        alone = len(solvers) < 2
        titles = {fit.contest: "" if alone else comparison.title(fit.point) for fit in reversed(comparison.fits)}
        return [(titles[contest], contest, names) for contest, names in solvers.items()]
    groups: dict[tuple, dict[str, list[ComparedFit]]] = {}
    for fit in comparison.fits:
        own = tuple(each for each in fit.setting if not each[0].startswith(_HELD_OUT))
        label = ", ".join(filter(None, [fit.name if len(comparison.names) > 1 else "", spelt(own)]))
        label = label or comparison.title(fit.point)
        groups.setdefault((fit.data, fit.split), {}).setdefault(label, []).append(fit)
    found = []
    for (data, _), names in groups.items():
        first = next(iter(names.values()))[0]
        apart = spelt(tuple(each for each in first.setting if each[0].startswith(_HELD_OUT)))
        found.append((apart or (data if len(groups) > 1 else ""), None, names))
    return found


def _judged(comparison: Comparison, at: str, contest: tuple | None, fits: dict[str, list[ComparedFit]]) -> Verdict:
    metric = comparison.metrics[0] if comparison.metrics else RMSE
    measure = table.measures(comparison)[table.tested(metric)]
    numbers = _errors(fits, measure)
    means = {name: float(replicates.over(its).mean()) for name, its in numbers.items()}
    order = sorted(means, key=lambda name: means[name])
    leader, sign, standings = order[0] if order else None, 1 if is_error(metric) else -1, []
    for name in [*order, *(name for name in fits if name not in order)]:
        behind = None
        if leader is not None and name in order and name != leader:
            behind = replicates.difference(numbers[name], numbers[leader], len(order) - 1)
        close = behind is not None and (not behind.certain or behind.mean <= replicates.SAME * abs(means[order[0]]))
        handicap = fairness.handicap(comparison, fits[name], fits[leader]) if name in order and leader else ""
        mean = sign * means[name] if name in means else None
        broken = sum(fit.broken for fit in fits[name])
        standings.append(Standing(name, mean, behind, close or name == leader, len(fits[name]), broken, handicap))
    found = Verdict(
        _kind(standings, order),
        measure=table.tested(metric),
        leader=leader,
        replicates=len(replicates.over(numbers[leader])) if leader else 0,
        unit="fold" if any(fit.fold is not None for its in fits.values() for fit in its) else "seed",
        standings=tuple(standings),
        at=at,
        contest=contest,
    )
    if found.kind in ("win", "untuned rival", "broke down"):
        found = dataclasses.replace(found, winner=found.leader)
    nearest = next((each for each in standings if each.behind is not None), None)
    if nearest is not None and (to := nearest.behind) is not None:
        ends = sorted((-sign * to.low, -sign * to.high))
        error = None if np.isnan(to.error) else to.error
        low, high = ends if error is not None else (None, None)
        mean = -sign * to.mean
        found = dataclasses.replace(found, rival=nearest.name, difference=mean, error=error, low=low, high=high)
    return dataclasses.replace(found, **Wording(comparison).one(found))


def _errors(fits: dict[str, list[ComparedFit]], measure: table.Measure) -> dict[str, list[tuple[ComparedFit, float]]]:
    """Of contestants none of whose fits broke down (a mean would leave the hard cases out), the measure as an error on
    the folds and seeds that all of them have (or one may have had the easier ones)."""
    found = {}
    for name, its in fits.items():
        numbers = [(fit, number) for fit in its if (number := measure.of(fit)) is not None]
        if numbers and not any(fit.broken for fit in its):
            found[name] = [(fit, measure.as_error(number)) for fit, number in numbers]
    done = [{(fit.fold, fit.seed) for fit, _ in its} for its in found.values()]
    shared = set.intersection(*done) if done else set()
    kept = {name: [each for each in its if (each[0].fold, each[0].seed) in shared] for name, its in found.items()}
    return kept if shared else {}


def _kind(standings: list[Standing], order: list[str]) -> Kind:
    if not order:
        return "broke down" if any(each.broken for each in standings) else "nothing"
    rivals = [each for each in standings if each.behind is not None]
    if not rivals:
        return "broke down" if any(each.broken for each in standings) else "one fit"
    if any(np.isnan(each.behind.error) for each in rivals if each.behind is not None):
        return "no replicates"
    if any(each.together for each in rivals):
        return "tie"
    return "untuned rival" if any(each.handicap for each in rivals) else "win"
