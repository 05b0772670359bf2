"""The comparison of the fits of one or several runs: `index.html`, which needs no other file, and `report.md`."""

from pathlib import Path

from ....data.sources import as_path
from ....errors import StorageError
from ....files.runs import folder
from ..page import templates
from . import equal_cost, gathering, overview, ranking, results, sections, sensitivity, setting, verdict, words

MARKDOWN = "report.md"
_SECTIONS = (
    results.results,
    results.differences,
    ranking.ranking,
    equal_cost.equal_cost,
    sections.curves,
    sections.profiles,
    sensitivity.tuned,
    sensitivity.axes,
    sections.stationarity,
    sections.trouble,
    setting.how,
)


def write(places: list[Path], out: Path) -> Path:
    """Compares the fits of these runs; the same records give the same bytes.

    Args:
        places: folders that `jals run` made.
        out: where `index.html` and `report.md` go; made where needed.

    Returns: the path of `index.html`.

    Raises:
        StorageError: when a folder is not that of a run, or `out` cannot be written to.
    """
    comparison, out = gathering.read(places), as_path(out)
    questions, answer = setting.questions(comparison), verdict.of(comparison)
    fitted = {
        "title": questions[0] if len(questions) == 1 else setting.title(comparison),
        "questions": questions if len(questions) > 1 else [],
        "runs": comparison.runs,
        "verdict": answer,
        "picture": overview.overview(comparison, answer),
        "state": setting.state(comparison),
        "sections": [section for make in _SECTIONS for section in make(comparison)],
    }
    environment = templates(Path(__file__).parent)
    environment.filters["md"] = words.escaped
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{out} cannot be made: {error.strerror or error}.") from error
    folder.write(out / MARKDOWN, environment.get_template("report.md.j2").render(fitted).encode())
    folder.write(out / folder.PAGE, environment.get_template("report.html.j2").render(fitted).encode())
    return out / folder.PAGE
