"""Takes the figures of finished studies into experiments/results/, and writes experiments/README.md from them.

    python experiments/collect.py runs/als_vs_gradient ...    takes in these runs, each under its folder's name
    python experiments/collect.py                             writes README.md again, from what was taken in

README.md.j2 holds the words, the results hold the numbers: none is typed. Words that say what the numbers show hang on
them, by a condition of theirs or by `given`: the page is not written once a claim has become false.
"""

import json
import sys
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

import jals
from jals.app.show.report import competitors, equal_cost, gathering, reaching, table, verdict
from jals.metrics import is_error

HERE = Path(__file__).parent
RESULTS = HERE / "results"


def taken(place: Path) -> dict[str, Any]:
    """What README.md says of a run: a row a solver and point, means as [mean, standard error, n].

    Raises:
        StorageError: when there is no run in the folder, or it has not ended.
    """
    comparison = gathering.read([place])
    (run,) = comparison.runs
    record, trials = run.record, comparison.trials
    if record.status != "finished":
        raise jals.StorageError(f"{place} holds a run that has not ended: run its command again.")
    least = reaching.lowest(comparison)
    scores = _trials(trials)
    rows = []
    for row in table.rows(comparison):
        first = row.fits[0] if row.fits else None
        point = {competitors.short(axis): value for axis, value in first.values.items()} if first else {}
        found: dict[str, Any] = {"solver": row.name, "point": point, "broken": row.broken}
        found |= {name.replace(" ", "_"): [mean.mean, mean.error, mean.n] for name, mean in row.means.items()}
        found["stationarity"] = row.stationarity
        comparable = [fit for fit in row.fits if fit.comparable and fit.problem in least and fit.loss is not None]
        if comparable:
            found["excess"] = float(np.mean([(fit.loss or 0.0) / least[fit.problem] - 1 for fit in comparable]))
            for cost in ("seconds", "passes"):
                costs = [reaching.first_cost(fit, cost, 0.01, least[fit.problem]) for fit in comparable]
                found[f"near_{cost}"] = float(np.median(costs))
            losses = np.array([fit.loss for fit in comparable])
            found["losses"] = [float(losses.min()), float(losses.max())]
        tuned = [fit.record.tuned for fit in row.fits if fit.record.tuned]
        found["tuned"] = {key: sorted({each[key] for each in tuned}) for key in (tuned[0] if tuned else {})}
        found["at_edge"] = any(_at_edge(run, fit) for fit in row.fits)
        found["certificate"] = _worst(row.fits)
        found["of_known_users"] = _of_known_users([fit.record.ranking for fit in row.fits])
        if first and (first.record.solver, str(first.record.point)) in scores:
            found["trials_near"] = scores[first.record.solver, str(first.record.point)]
        rows.append(found)
    by_degree = place / "by_degree.json"
    return _plain(
        {
            "command": record.command.partition(" --out")[0],
            "minutes": record.wall_seconds / 60,
            "date": record.started[:10],
            "hardware": record.hardware,
            "versions": record.versions,
            "data": [table.json() for table in record.data],
            "fits": len(comparison.fits),
            "trials": len(trials),
            "broken_trials": sum(fit.broken for fit in trials),
            "verdict": _said(verdict.of(comparison)),
            "rows": rows,
            "paired": [each._asdict() for each in table.paired(comparison)],
            "equal_cost": _standings(comparison),
            "own_points": _own_points(comparison),
            "baselines": [_baseline(comparison, row) for row in table.baseline_rows(comparison)],
            "by_degree": json.loads(by_degree.read_text("utf-8")) if by_degree.exists() else [],
        }
    )


def _said(found: verdict.Verdict) -> dict[str, Any]:
    """What the report begins with, by rule from the records."""
    facts = ("kind", "winner", "leader", "rival", "difference", "low", "high", "replicates", "unit")
    return {name: getattr(found, name) for name in (*facts, "headline", "cost", "detail")}


def _standings(comparison: competitors.Comparison) -> dict[str, Any]:
    """By cost: what was spent, and the validation metric of each solver there, as [mean, error]. Of rankings only."""
    if comparison.watched is None or is_error(comparison.watched):
        return {}
    found = {}
    for cost in equal_cost.COSTS:
        budgets, rows = equal_cost.standings(comparison, comparison.points[0], cost)
        numbers = {row.name: [list(pair) for pair in zip(row.means, row.errors, strict=True)] for row in rows}
        found[cost] = {"spent": budgets, "solvers": numbers}
    return found


def _own_points(comparison: competitors.Comparison) -> dict[str, Any]:
    """By solver, when each takes, of every fold, the point of the grid with the best validation part: the test RMSE and
    what it is less the first solver's, as [mean, standard error, n], and the points taken. Where there is one split,
    of every seed."""
    if len(comparison.points) < 2:
        return {}
    folds = any(fit.fold is not None for fit in comparison.fits)
    scored: dict[str, dict[Any, dict[tuple, list]]] = {}
    for fit in comparison.fits:
        scores = fit.metric("validation", "rmse"), fit.metric("test", "rmse")
        if not fit.broken and None not in scores:
            of = scored.setdefault(fit.name, {}).setdefault(fit.fold if folds else fit.seed, {})
            of.setdefault(fit.setting, []).append(scores)
    best: dict[str, dict[Any, tuple]] = {}
    for name, of in scored.items():
        means = {at: {point: np.mean(each, axis=0) for point, each in points.items()} for at, points in of.items()}
        best[name] = {at: min(points.items(), key=lambda each: each[1][0]) for at, points in means.items()}
    first = next(iter(best.values()), {})
    found = {}
    for name, taken in best.items():
        less = [scores[1] - first[at][1][1] for at, (_, scores) in taken.items() if at in first]
        found[name] = {
            "test_RMSE": _mean([scores[1] for _, scores in taken.values()]),
            "less_first": _mean(less),
            "taken": [{competitors.short(axis): each for axis, each in point} for point, _ in taken.values()],
        }
    return found


def _mean(numbers: list[float]) -> list[Any]:
    """[mean, standard error, n]; no error of a single one."""
    n = len(numbers)
    return [np.mean(numbers) if n else None, np.std(numbers, ddof=1) / n**0.5 if n > 1 else None, n]


def _baseline(comparison: competitors.Comparison, row: table.BaselineRow) -> dict[str, Any]:
    """A row of the table, as those of the solvers."""
    own = [each.record.ranking for each in comparison.baselines if each.group == (row.name, row.data, row.split)]
    means = {name.replace(" ", "_"): [mean.mean, mean.error, mean.n] for name, mean in row.means.items()}
    return {"solver": row.name, **means, "of_known_users": _of_known_users(own)}


def _of_known_users(rankings: list[Any]) -> float | None:
    """The first ranking metric over the users who have training entries: those who have none a solver cannot know."""
    means = []
    for each in rankings:
        bins = [one for one in (each.by_activity if each else ()) if one.low > 0]
        if bins:
            means.append(np.average([one.mean for one in bins], weights=[one.count for one in bins]))
    return float(np.mean(means)) if means else None


def _trials(trials: list[competitors.ComparedFit]) -> dict[tuple[str, str], float]:
    """By solver and point: the share of the trials whose validation RMSE is within 1 % of the best trial's."""
    found: dict[tuple, dict[Any, list[float]]] = {}
    for fit in trials:
        score = fit.metric("validation", "rmse")
        score = np.inf if fit.broken or score is None else score
        which = fit.record.solver, str(fit.record.point)
        found.setdefault(which, {}).setdefault(fit.fold, []).append(score)
    shares = {key: [np.mean(np.array(of) <= 1.01 * min(of)) for of in folds.values()] for key, folds in found.items()}
    return {key: float(np.mean(each)) for key, each in shares.items()}


def _at_edge(run: competitors.ComparedRun, fit: competitors.ComparedFit) -> bool:
    """Whether a number that the tuning chose lies in the outermost tenth of its range, so the best may lie beyond."""
    ranges = {
        key.removeprefix(f"solver.{fit.record.solver}."): between
        for key, between in run.config.get("tune", {}).get("range", {}).items()
    }
    return any(table.at_edge(key, chosen, *ranges[key]) for key, chosen in fit.record.tuned.items())


def _worst(fits: list[competitors.ComparedFit]) -> dict[str, float]:
    """The worst backward errors of the fits."""
    proofs = [fit.record.certificate for fit in fits if fit.record.certificate is not None]
    errors = {side: [getattr(proof, side) for proof in proofs] for side in ("user", "item", "last_updated")}
    return {side: max(known) for side, each in errors.items() if (known := [one for one in each if one is not None])}


def _plain(value: Any) -> Any:
    """Six digits are enough to read, and keep the files small; what is not finite becomes null."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


class Study:
    """A study's results, as the template asks for them."""

    def __init__(self, results: dict[str, Any]):
        self.results = results

    def __getattr__(self, name: str) -> Any:
        return self.results[name]

    def row(self, solver: str, **point: Any) -> dict[str, Any]:
        """The one row of a solver whose point has these values."""
        found = [
            row
            for row in self.results["rows"]
            if row["solver"] == solver and all(row["point"].get(axis) == value for axis, value in point.items())
        ]
        if len(found) != 1:
            raise ValueError(f"{len(found)} rows of {solver} at {point}")
        return found[0]

    def where(self, **point: Any) -> list[dict[str, Any]]:
        rows = self.results["rows"]
        return [row for row in rows if all(row["point"].get(axis) == value for axis, value in point.items())]

    def better(self, **point: Any) -> list[dict[str, Any]]:
        """Whose test RMSE at a point is below the reference's by all of the interval of the paired difference; by most
        first."""
        found = []
        for pair in self.results["paired"]:
            values = {competitors.short(axis): value for axis, value in pair["point"][3]}
            if pair["high"] is not None and pair["high"] < 0 and point.items() <= values.items():
                found.append(pair)
        return sorted(found, key=lambda pair: pair["mean"])

    def order(self, column: str, **point: Any) -> list[dict[str, Any]]:
        """The rows at a point that have the column, lowest first."""
        rows = [row for row in self.where(**point) if row.get(column) is not None]
        return sorted(rows, key=lambda row: row[column][0] if isinstance(row[column], list) else row[column])


def mean(numbers: list | None, digits: int = 4) -> str:
    """0.8698 ± 0.0012"""
    if not numbers or numbers[0] is None:
        return "–"
    spread = "" if numbers[1] is None else f" ± {numbers[1]:.{digits}f}"
    return f"{numbers[0]:.{digits}f}{spread}"


def short(number: float | None, digits: int = 3) -> str:
    """Some digits of a number, or "never" where there is none."""
    if number is None:
        return "never"
    if number == 0 or 1e-3 <= abs(number) < 1e6:
        return f"{float(f'{number:.{digits}g}'):,.10g}"
    mantissa, exponent = f"{number:.{digits - 1}e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def columns(rows: list[list[float]]) -> list[list[float]]:
    """Of each column [mean, standard error, n] of the rows."""
    each = np.array(rows)
    errors = each.std(axis=0, ddof=1) / len(each) ** 0.5
    return [[float(mean), float(error), len(each)] for mean, error in zip(each.mean(axis=0), errors, strict=True)]


def changed(setting: dict[str, Any], before: dict[str, Any]) -> str:
    """reg 0.002, rank 256: what of a setting was not so before."""
    new = {name: value for name, value in setting.items() if before.get(name) != value}
    return ", ".join(f"{name} {value if isinstance(value, int) else short(value)}" for name, value in new.items())


def is_below(one: list, other: list) -> bool:
    """Of two [mean, standard error, ...]: whether the first is lower by more than two standard errors of the two."""
    return one[0] - other[0] < -2 * float(np.hypot(one[1] or 0, other[1] or 0))


def is_above(one: list, other: list) -> bool:
    return is_below(other, one)


def is_like(one: list, other: list) -> bool:
    return not (is_below(one, other) or is_above(one, other))


def given(claim: str, *shown: bool) -> str:
    """The claim, which stands on the page as long as the results show it.

    Raises:
        ValueError: when they do not: the sentence has to be written anew.
    """
    if not all(shown):
        raise ValueError(f'the results no longer show what README.md.j2 says of them: "{claim}"')
    return claim


def page() -> str:
    """README.md, from the template and what was taken in.

    Raises:
        ValueError: when the results do not show what the template claims; see `given`.
    """
    studies = {path.stem: Study(json.loads(path.read_text("utf-8"))) for path in RESULTS.glob("*.json")}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"mean": mean, "short": short, "percent": lambda share: f"{100 * share:.3g} %"}
    environment.filters |= {"columns": columns, "changed": changed, "given": given}
    environment.tests |= {"below": is_below, "above": is_above, "like": is_like}
    return environment.get_template("README.md.j2").render(**studies).rstrip() + "\n"


def main(*runs: str) -> None:
    for run in runs:
        place = Path(run)
        text = json.dumps(taken(place), indent=1, ensure_ascii=False)
        (RESULTS / f"{place.resolve().name}.json").write_text(text + "\n", encoding="utf-8")
    (HERE / "README.md").write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except jals.JalsError as error:
        sys.exit(str(error))
