"""A run to look at: `index.html`, one file that needs nothing else, and its figures as PNG and SVG beside it."""

import base64
import hashlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import jals

try:
    import jinja2
    import markupsafe
except ImportError as missing:
    raise ImportError('the page of a run is made by the extra "cli": pip install "jals[cli]"') from missing

from ....errors import StorageError
from ....files.runs import folder
from ....files.runs.record import FitRecord, RunRecord, label
from ....metrics import is_error, spelt
from ....model.feedback import KINDS
from ....plot import summaries
from ....recommend.candidates import least_entries
from ...config.schema import Config
from ...study import best_fit
from ...study.best_fit import Ranking
from ..console import printable
from . import gallery
from .gallery import DrawnFit, PageFigure

TOP = 10  # items of a list
# How far along the users, sorted by training entries, the three are whose lists are shown.
_PEOPLE = {"busy": 0.95, "median": 0.5, "light": 0.05}

# Shows what is of the chosen fit alone, or everything. Without it, everything is shown and there is no choice.
_SCRIPT = """(() => {
const bar = document.querySelector(".choice"), chosen = bar.querySelector("select");
chosen.addEventListener("change", () => {
  for (const each of document.querySelectorAll("[data-of]")) {
    each.hidden = chosen.value !== "" && each.dataset.of !== chosen.value;
    if (each.localName === "details" && each.dataset.of === chosen.value) each.open = true;
  }
});
bar.hidden = false;
})();"""
_HASH = "sha256-" + base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()


def write(
    place: Path,
    config: Config,
    run: RunRecord,
    fits: list[FitRecord],
    compared: int,
    data: jals.datasets.Dataset,
    drawn: list[DrawnFit],
    ranking: Ranking,
) -> Path:
    """Writes the page of a run and its figures; each file appears whole or not at all. Same arguments, same bytes.

    Args:
        place: the run's folder; `figures/` in it is made where needed.
        config: the run's.
        run: what `result.json` holds, of a finished run or of one that was stopped.
        fits: those whose numbers it shows: each solver's of one point and seed.
        compared: how many fits the report compares.
        data: the whole table.
        drawn: the fits to draw, one a solver, or fewer where a run was stopped.
        ranking: of all fits that are compared.

    Returns: the path of `index.html`.

    Raises:
        StorageError: when the folder cannot be written to.
    """
    objective = config.objective.build()
    scored = [_scored(one, objective) for one in drawn]
    sections = {
        "curves": list(gallery.curves(fits)),
        "certificate": list(gallery.certificates(drawn)),
        "spectrum": list(gallery.spectrum(drawn)),
        "residuals": list(gallery.residuals(drawn, scored)),
        "degree": list(gallery.errors(drawn, scored)) if config.of_ratings else [],  # an RMSE, of observed pairs alone
        "data": list(gallery.data(data.ratings)),
    }
    first, several = gallery.first_fits(fits), len(config.seeds) > 1
    columns = _columns(fits, config)
    least = least_entries(objective, summaries.degrees(drawn[0].train, "item")) if drawn else 0
    best = ranking.best
    page = templates(Path(__file__).parent).get_template("page.html.j2")
    html = page.render(
        run=run,
        fits=fits,
        compared=compared if compared > len(fits) else None,
        title=config.data.source or Path(config.data.path or "").name,
        ratings=data.ratings,
        tables=list(_tables(run.config)),
        place=shlex.quote(place.as_posix()),
        points={fit.key: _point(fit, several) for fit in fits},
        best=None if best is None or ranking.mark() is None else best,
        best_name=None if best is None else best_fit.fit_name(best, several),
        ranking=ranking,
        ranked=config.ranked,
        rivals=len(first) > 1 or compared > len(fits),
        left_out=best_fit.summarise(ranking.left_out),
        key=first[0].key[:8] if ranking.refused and compared > 1 else None,
        solvers=len(first),
        script=markupsafe.Markup(_SCRIPT),
        script_hash=_HASH,
        columns=columns,
        means=_means(fits, columns),
        fold=first[0].fold if first else None,
        sections=sections,
        drawn=drawn,
        sampled=[(name, part) for name, part in (scored[0] if scored else {}).items() if len(part.user) < part.total],
        implicit=KINDS[objective.feedback].t == (1, 0),
        people=_people(data, drawn, least),
        least=least,
        preset=config.objective.preset,
        top=TOP,
    )
    _save(place, html, [shown for section in sections.values() for shown in section])
    return place / folder.PAGE


def templates(folder: Path) -> jinja2.Environment:
    """The templates in a folder. Whatever they write of their arguments is `printable`, and in HTML escaped; the filter
    `lines` is for texts whose line breaks are meant."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=lambda name: name is not None and ".html" in name,
        undefined=jinja2.StrictUndefined,
        finalize=_finished,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["lines"] = _lines
    environment.filters["metric"] = spelt
    return environment


@jinja2.pass_eval_context
def _finished(context: Any, value: Any) -> Any:
    """What is written of an expression. Markup has been through here in its parts; so, where nothing is HTML, has what
    a macro made, whose line breaks stay."""
    if isinstance(value, jinja2.Undefined) or hasattr(value, "__html__"):
        return value
    return printable(value, lines=not context.autoescape)


@jinja2.pass_eval_context
def _lines(context: Any, text: str) -> str:
    text = printable(text, lines=True)
    return markupsafe.escape(text) if context.autoescape else text


def _scored(one: DrawnFit, objective: jals.Objective) -> dict[str, summaries.Scored]:
    """The parts of the split that have entries of weight > 0."""
    parts = {"train": one.train, "test": one.test}
    scored = {name: summaries.scored(one.factors, part, objective) for name, part in parts.items()}
    return {name: part for name, part in scored.items() if part.total}


def _point(fit: FitRecord, several: bool) -> str:
    """rank=16 seed 1"""
    return best_fit.fit_name(fit, several).removeprefix(label(fit.solver, fit.fold, {}, None, False)).strip()


def _people(data: jals.datasets.Dataset, drawn: list[DrawnFit], least: int) -> list[dict[str, Any]]:
    """Three users of different degree, and for each fit what it would show them, of items with enough entries, beside
    what they rated high."""
    if not drawn:
        return []
    degree = summaries.degrees(drawn[0].train, "user")
    users = np.argsort(degree, kind="stable")[np.count_nonzero(degree == 0) :]
    popular = summaries.degrees(drawn[0].train, "item")
    people = {}
    for name, share in _PEOPLE.items():
        user = int(users[round(share * (len(users) - 1))])
        if user not in people:
            fits = [{"label": one.label, **_lists(data, one, user, popular, least)} for one in drawn]
            said = {"name": name, "share": f"{share:.0%}", "id": data.vocab.user[user], "degree": int(degree[user])}
            people[user] = said | {"fits": fits}
    return list(people.values())


def _entries_of(ratings: jals.Ratings, user: int) -> np.ndarray:
    """The places of a user's entries of weight > 0."""
    places = np.flatnonzero(ratings.user == user)
    return places if ratings.weight is None else places[ratings.weight[places] > 0]


def _lists(
    data: jals.datasets.Dataset, one: DrawnFit, user: int, popular: np.ndarray, least: int
) -> dict[str, list[dict]]:
    """The user's best unseen items of `least` entries or more, with the value where it was held out, and the training
    entries of highest value (of equal ones the items with more entries, then by row)."""
    held = {}
    for part in (one.validation, one.test):
        if part is not None:
            its = _entries_of(part, user)
            held |= dict(zip(part.item[its].tolist(), part.value[its].tolist(), strict=True))
    its = _entries_of(one.train, user)
    item, value = one.train.item[its], one.train.value[its]
    unseen = jals.top_k(one.factors, user, min(TOP, one.train.num_items), item, np.flatnonzero(popular >= least))
    best, scores = (np.asarray(part)[0] for part in unseen)
    best, scores = best[best >= 0], scores[best >= 0]
    order = np.lexsort((item, -popular[item], -value))[:TOP]
    predicted = np.asarray(jals.predict(one.factors, user, item[order]))

    def row(item: Any, score: Any, value: float | None) -> dict[str, Any]:
        title = "" if data.titles is None else str(data.titles[item])
        said = {"id": str(data.vocab.item[item]), "title": title, "entries": int(popular[item])}
        return said | {"score": float(score), "value": value}

    high = zip(item[order], predicted, value[order], strict=True)
    return {
        "best": [row(item, score, held.get(int(item))) for item, score in zip(best, scores, strict=True)],
        "high": [row(item, score, float(value)) for item, score, value in high],
    }


def _columns(fits: list[FitRecord], config: Config) -> list[tuple[str, str]]:
    """(part, metric) of every number that some fit has; where rankings were asked for, of those and what decided."""
    pairs = ((part, name) for fit in fits for part, scores in (fit.metrics or {}).items() for name in scores)
    found = list(dict.fromkeys(pairs))
    if not config.ranked:
        return found
    errors = ["rmse"] if config.of_ratings else []
    by = config.ranked[0] if is_error(config.fit.metric) and not errors else config.fit.metric
    wanted = [("validation", by), *(("test", name) for name in [*config.ranked, *errors])]
    return [each for each in wanted if each in found] or found


def _means(fits: list[FitRecord], columns: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """Over the folds of each solver, where there are several: mean and standard error of every metric."""
    rows = []
    for solver in dict.fromkeys(fit.solver for fit in fits):
        folds = [fit for fit in fits if fit.solver == solver and fit.metrics]
        if len(folds) > 1:
            numbers = {key: np.array([fit.score(*key) for fit in folds], float) for key in columns}
            mean = {key: float(of.mean()) for key, of in numbers.items()}
            error = {key: float(of.std(ddof=1) / np.sqrt(len(of))) for key, of in numbers.items()}
            rows.append({"solver": solver, "folds": len(folds), "mean": mean, "error": error})
    return rows


def _tables(config: dict) -> Iterator[tuple[str, dict[str, Any]]]:
    """The config's tables but for the output's, nested ones laid flat."""
    for name, table in config.items():
        if isinstance(table, str):  # the question
            continue
        for each in table if isinstance(table, list) else [table]:
            flat = {key: value for key, value in each.items() if not isinstance(value, dict)}
            for value in each.values():
                flat |= value if isinstance(value, dict) else {}
            if name != "output" and flat:
                yield name, flat


def _save(place: Path, html: str, shown: list[PageFigure]) -> None:
    try:
        (place / folder.FIGURES).mkdir(exist_ok=True)
    except OSError as error:
        raise StorageError(f"{place / folder.FIGURES} cannot be made: {error.strerror or error}.") from error
    for one in shown:
        folder.write(place / folder.FIGURES / f"{one.name}.png", one.picture.png)
        folder.write(place / folder.FIGURES / f"{one.name}.svg", one.picture.svg)
    folder.write(place / folder.PAGE, html.encode())
