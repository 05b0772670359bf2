"""A verdict in words: each kind has its own, and all that they say is a fact of the verdict or of the records."""

from typing import TYPE_CHECKING

import numpy as np

from ....metrics import is_error, spelt
from . import reaching, replicates, setting, table
from .competitors import Comparison
from .words import capital, counted, decimals, joined, number, share, with_error

if TYPE_CHECKING:
    from .verdict import Standing, Verdict

_POINTS = 4  # with a sentence of their own
_COSTS = ("passes", "seconds")


class Wording:
    """Of the verdicts on one comparison: what `headline` and `text` of each are."""

    def __init__(self, comparison: Comparison):
        self._comparison = comparison

    def nothing(self) -> dict[str, str]:
        said = "No verdict: no fit has ended." if not self._comparison.fits else "No verdict: nothing was measured."
        return self._whole(said, [])

    def one(self, found: "Verdict") -> dict[str, str]:
        """Of a single contest."""
        headline = getattr(self, f"_{found.kind.replace(' ', '_')}")(found)
        first, *others = [*self._costs(found), ""]
        parts = [*self._notes(found), self._doubt(found), self._baselines(found), *others, self._ends(found)]
        return self._whole(headline, parts, first)

    def several(self, whole: "Verdict") -> dict[str, str]:
        """Of several points or tables: a sentence each, or where they are many a count of each outcome."""
        if len(whole.parts) <= _POINTS:
            said = [f"{capital(each.at or 'elsewhere')}: {each.headline}" for each in whole.parts]
            rest = [f"{capital(each.at)}: {cost}" for each in whole.parts for cost in self._costs(each)[:1]]
        else:
            said, rest = [self._counts(whole)], []
        rest += [note for each in whole.parts for note in self._notes(each)]
        clear = max(whole.parts, key=lambda each: each.replicates)
        return self._whole(" ".join(said), [*dict.fromkeys(rest), self._doubt(clear)])

    def _whole(self, headline: str, parts: list[str], cost: str = "") -> dict[str, str]:
        found = {"headline": headline, "cost": cost, "detail": " ".join(filter(None, parts))}
        found["conditions"] = f"Conditions: {setting.sentence(self._comparison)}"
        return found | {"text": " ".join(filter(None, found.values()))}

    def _counts(self, whole: "Verdict") -> str:
        """als wins at 7 of 10 points ..."""
        outcomes: dict[tuple, list[Verdict]] = {}
        for each in whole.parts:
            outcomes.setdefault((each.kind, each.winner), []).append(each)
        all_ = len(whole.parts)
        words = []
        for (kind, winner), its in sorted(outcomes.items(), key=lambda each: -len(each[1])):
            verb = {
                "win": f"{winner} has the better {whole.measure}",
                "tie": f"the leader by {whole.measure} cannot be told from another",
                "untuned rival": f"{winner} has the better {whole.measure}, against a rival that had less care",
                "no replicates": "there is one fit each, so that chance is not known",
                "broke down": "too many fits broke down for a comparison",
                "one fit": "there is nothing to compare",
                "nothing": "nothing was measured",
            }[kind]
            at = [each.at for each in its]
            named = joined(at) if len(at) <= _POINTS else f"{', '.join(at[:_POINTS])}, …"
            where = f"at all {all_} points" if len(its) == all_ else f"at {len(its)} of {all_} points ({named})"
            words.append(f"{where} {verb}{self._widest(its)}")
        return f"{capital('; '.join(words))}."

    def _widest(self, its: "list[Verdict]") -> str:
        """By how much, at least and at most."""
        apart = sorted(abs(each.difference) for each in its if each.difference is not None and each.kind != "tie")
        if its[0].kind not in ("win", "untuned rival") or not apart:
            return ""
        ends = dict.fromkeys((number(apart[0], 2), number(apart[-1], 2)))
        return f", by {' to '.join(ends)}"

    # The first sentence of each kind.

    def _win(self, found: "Verdict") -> str:
        return f"{self._lead(found)} ({self._interval(found)})."

    def _untuned_rival(self, found: "Verdict") -> str:
        hurt = [each for each in self._rivals(found) if each.handicap]
        fair = [each.name for each in found.standings if each.behind is not None and not each.handicap]
        said = "; ".join(f"{each.name}'s {each.handicap}" for each in hurt)
        names = joined([each.name for each in hurt])
        claim = f"It is better than {joined(fair)} by more than chance; " if fair else ""
        no = f"no win over {names}" if fair else f"This is no win over {names}"
        return f"{self._lead(found)} ({self._interval(found)}). {claim}{no}: {said}."

    def _tie(self, found: "Verdict") -> str:
        close = [each for each in found.standings if each.together and each.behind is not None]
        behind = [each for each in found.standings if not each.together and each.behind is not None]
        leader = found.standings[0]
        assert leader.mean is not None and found.low is not None and found.high is not None
        alike = all(each.behind.mean <= replicates.SAME * abs(leader.mean) for each in close if each.behind)
        first = f"{leader.name} and {close[0].name}" if len(close) == 1 else leader.name
        mean, other = (self._mean(found, at) for at in (0, 1))
        if alike:
            told = f"A tie: {joined([each.name for each in (leader, *close)])} are alike in {found.measure}, "
            told += f"{mean}, less than {share(replicates.SAME)} apart"
        elif len(close) == 1:
            most = number(max(abs(found.low), abs(found.high)), 2)
            told = f"A tie: {first} cannot be told apart by {found.measure}, {mean} and {other}; a difference of up to "
            told += f"{most} either way is not ruled out ({self._interval(found)})"
        else:
            told = f"A tie: {first} leads by {found.measure}, {mean}, but cannot be told from "
            told += f"{joined([each.name for each in close])}; the nearest, {close[0].name}, has {other} "
            told += f"({self._interval(found)})"
        names = f"{joined([each.name for each in behind])} {'is' if len(behind) == 1 else 'are'}"
        return f"{told}. {names} behind by more than chance." if behind else f"{told}."

    def _no_replicates(self, found: "Verdict") -> str:
        others = f", the nearest of {len(self._rivals(found))}" if len(self._rivals(found)) > 1 else ""
        return (
            f"No verdict on chance: {found.leader} has the {self._most(found)} {found.measure}, {self._mean(found, 0)} "
            f"against {self._mean(found, 1)} of {found.rival}{others}, but there is one fit each, and nothing says "
            "whether another seed or fold would turn that round."
        )

    def _broke_down(self, found: "Verdict") -> str:
        hurt = [each for each in found.standings if each.broken]
        lost = joined([f"{each.name} in {each.broken} of {counted(each.fits, 'fit')}" for each in hurt])
        if found.leader is None:
            return f"No verdict: every contestant broke down, {lost}."
        mean = f"{found.measure} {self._mean(found, 0)}"
        return f"{found.leader} alone came through, with {mean}: the others broke down, {lost}."

    def _one_fit(self, found: "Verdict") -> str:
        (only,) = found.standings[:1]
        if only.fits == 1:
            told = f"One fit, and nothing to compare it with: {only.name} has {found.measure} {self._mean(found, 0)}."
            return f"{told} Another [[solver]], values in [grid], or several fit.seeds make a comparison."
        counted_ = counted(found.replicates, found.unit)
        return (
            f"{only.name} alone was fitted, and there is nothing to compare it with: its {found.measure} is "
            f"{self._mean(found, 0)}, the mean of {counted_}."
        )

    def _nothing(self, found: "Verdict") -> str:
        if len(found.standings) > 1 and any(not each.broken for each in found.standings):
            return f"No verdict: no {found.measure} of two contestants on the same {found.unit}."
        return f"No verdict: no fit has a {found.measure}."

    # What they are made of.

    def _lead(self, found: "Verdict") -> str:
        rivals, apart = len(self._rivals(found)), self._apart(found)
        mean, other = self._mean(found, 0), self._mean(found, 1)
        side = "below" if self._lower(found) else "above"
        nearest = f", the nearest of {rivals} rivals" if rivals > 1 else ""
        has = f"{found.leader} has the {self._most(found)} {found.measure}, {mean}"
        return f"{has}: {apart} {side} {found.rival}'s {other}{nearest}"

    def _rivals(self, found: "Verdict") -> "list[Standing]":
        return [each for each in found.standings if each.behind is not None]

    def _lower(self, found: "Verdict") -> bool:
        return is_error(self._comparison.metrics[0]) if self._comparison.metrics else True

    def _most(self, found: "Verdict") -> str:
        """lower of two, lowest of more"""
        two = len(self._rivals(found)) < 2
        return ("lower" if two else "lowest") if self._lower(found) else ("higher" if two else "highest")

    def _places(self, found: "Verdict") -> int | None:
        return decimals([found.difference or 0.0], [found.error]) if found.error else None

    def _mean(self, found: "Verdict", at: int) -> str:
        mean = found.standings[at].mean
        places = self._places(found)
        return "–" if mean is None else number(mean) if places is None else f"{mean:,.{places}f}"

    def _apart(self, found: "Verdict") -> str:
        apart, places = abs(found.difference or 0.0), self._places(found)
        return number(apart, 2) if places is None else f"{apart:,.{places}f}"

    def _interval(self, found: "Verdict") -> str:
        assert found.low is not None and found.high is not None
        places = self._places(found)
        low, high = (
            number(each, 2) if places is None else with_error(each, np.nan, places, "+")[0]
            for each in (found.low, found.high)
        )
        over = counted(found.replicates, found.unit)
        return f"{share(replicates.SURE)} interval of the difference {low} to {high}, paired over {over}"

    def _doubt(self, found: "Verdict") -> str:
        """What the uncertainty is of, and what it leaves out."""
        if found.replicates < 2 or found.rival is None:
            return ""
        seeds = len({fit.seed for fit in self._comparison.fits})
        if found.unit == "fold":
            within = ", the seeds of a fold averaged first" if seeds > 1 else ""
            told = f"Student's interval, over folds{within}; their training parts overlap, so that it is somewhat too "
            told += "narrow"
        else:
            told = "Student's interval, over seeds: it knows the chance of the initial factors only, on one split, and "
            told += "another split may differ by more"
        rivals = len(self._rivals(found))
        return f"{told}; it is wide enough for {rivals} comparisons at once." if rivals > 1 else f"{told}."

    def _notes(self, found: "Verdict") -> list[str]:
        """Who is left out, and in a tie who had less care."""
        lost = [f"{each.name} ({each.broken} of {each.fits})" for each in found.standings if each.broken]
        alone = found.kind == "broke down"
        said = [f"Left out, since fits of theirs broke down: {joined(lost)}."] if lost and not alone else []
        if found.kind in ("tie", "no replicates"):
            said += [f"{each.name}'s {each.handicap}." for each in found.standings if each.handicap]
        return said

    def _baselines(self, found: "Verdict") -> str:
        """What the best baseline has, on the same test part."""
        comparison = self._comparison
        metric = comparison.metrics[0] if comparison.metrics else None
        splits = {fit.split for fit in comparison.fits if found.contest in (None, fit.contest)}
        rows = [row for row in table.baseline_rows(comparison) if row.split in splits and found.measure in row.means]
        leader = found.standings[0].mean if found.standings else None
        if not rows or metric is None or leader is None:
            return ""
        as_error = table.measures(comparison)[found.measure].as_error
        best = min(rows, key=lambda row: as_error(row.means[found.measure].mean))
        mean = best.means[found.measure].mean
        beaten = (leader < mean) if self._lower(found) else (leader > mean)
        told = f"The best baseline, {best.name}, has {number(mean)}"
        return f"{told}." if beaten else f"{told}: better than every solver."

    def _costs(self, found: "Verdict") -> list[str]:
        """Who comes close to the lowest loss, and to the best validation metric, at the least cost."""
        if found.contest is None or len(found.standings) < 2:
            return []
        return [told for goal in reaching.GOALS if (told := self._cost(found.contest, goal))]

    def _cost(self, contest: tuple, goal: str) -> str:
        comparison, parts, firsts = self._comparison, [], []
        for cost in _COSTS:
            its = reaching.reached(comparison, cost, reaching.NEAR[0], goal, contest)
            order = sorted(its, key=lambda name: its[name].median)
            if len(order) > 1 and np.isfinite(its[order[0]].median):
                first, second = its[order[0]], its[order[1]]
                never = np.isinf(second.median)
                told = f"{order[1]} {'never' if never else number(second.median, 3)}"
                some = f"; the first on {first.first} of {first.problems}" if first.first < first.problems else ""
                parts.append(f"{number(first.median, 3)} {cost} ({told}{some})")
                firsts.append(order[0])
        if not parts:
            return ""
        near = f"within {share(reaching.NEAR[0])} of {self._goal(goal)}"
        if len(set(firsts)) == 1:
            return f"{firsts[0]} is the first {near}: in {joined(parts)}."
        return f"The first {near}: {joined([f'{name} in {part}' for name, part in zip(firsts, parts, strict=True)])}."

    def _goal(self, goal: str) -> str:
        comparison = self._comparison
        if goal == "loss":
            return "the lowest loss that any of them reached" if reaching.unreferenced(comparison) else "the minimum"
        return f"the best {spelt(comparison.watched) if comparison.watched else 'metric'} on the validation part"

    def _ends(self, found: "Verdict") -> str:
        """How low the losses were at last, of the factors that were kept."""
        least, ends = reaching.lowest(self._comparison), {}
        for fit in self._comparison.fits:
            if found.contest == fit.contest and not fit.broken and fit.loss is not None and fit.problem in least:
                best = least[fit.problem]
                ends.setdefault(fit.name, []).append((fit.loss - best) / abs(best))
        if len(ends) < 2:
            return ""
        middle = {name: max(0.0, float(np.median(each))) for name, each in ends.items()}
        order = sorted(middle, key=lambda name: middle[name])
        told = [f"{name} {share(float(f'{middle[name]:.2g}'))}" for name in order[:_POINTS]]
        rest = f", the other {len(order) - _POINTS} more" if len(order) > _POINTS else ""
        return f"Above {self._goal('loss')} at the end (median): {', '.join(told)}{rest}."

