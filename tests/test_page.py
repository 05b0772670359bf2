"""The page of a run: its numbers are the record's, hostile texts stay texts, and a browser is content with it."""

import html.parser
import json
import os
import re
import shutil
import xml.etree.ElementTree
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest

pytest.importorskip("pydantic", reason='the page needs the extra "cli"')
pytest.importorskip("rich", reason='the page needs the extra "cli"')
pytest.importorskip("matplotlib", reason='the page needs the extra "cli"')
pytest.importorskip("jinja2", reason='the page needs the extra "cli"')

import jax
import jax.numpy as jnp

import jals
from jals.app import choice, page
from jals.app import record as records
from jals.app.page import plots
from jals.app.schema import Config
from jals.datasets import Dataset
from jals.vocabulary import Vocabulary

PROOF = {"user": 1e-8, "item": 1e-8, "last_updated": 1e-8, "last_updated_required": True} | {
    "stationarity": 1e-3,
    "bound": 1e-5,
}
HOSTILE = '</td><script>alert("&")</script><img src=x onerror=alert(1)>'


class Run(NamedTuple):
    """What `page.write` takes."""

    record: dict
    data: Dataset
    drawn: list[page.Drawn]


def config(**changes) -> dict:
    tables = {
        "data": {"path": "folder/table.npz"},
        "split": {"kind": "random", "test_fraction": 0.2},
        "objective": {"preset": "als_wr", "reg": 0.1, "bias": True, "center": True},
        "solver": [{"kind": "als", "rank": 3}],
        "fit": {"sweeps": 3},
    }
    return Config.model_validate(tables | changes).model_dump(mode="json", exclude_none=True)


def make(config: dict, titles=None, folds=(None,), validation=False) -> Run:
    """A small table, and fits of it that were never made: every number is drawn at random, so all are different."""
    rng = np.random.default_rng(0)
    pairs = rng.permutation(12 * 8)[:60]
    vocab, user, item = Vocabulary.from_ids(
        np.array([f"user <{row}>" for row in pairs // 8]), np.array([f"item <{row}>" for row in pairs % 8])
    )
    ratings = jals.Ratings.from_arrays(user, item, (1 + pairs % 5).astype(np.float32))
    train, test = jals.split.random(ratings, 0.2)
    parts = {"train": train, "test": test}
    if validation:
        parts["train"], parts["validation"] = jals.split.random(train, 0.2)
    fits, drawn = [], {}
    for fold in folds:
        for settings in Config.model_validate(config).solver:
            history = {"sweep": [0, 1, 2], "passes": [0, 2, 4], "seconds": np.cumsum(rng.random(3)).tolist()}
            for column in ("loss", "validation") if validation else ("loss",):
                history[column] = np.sort(rng.random(3))[::-1].tolist()
            fits.append(
                {
                    "key": f"{settings.label} {fold}",
                    "solver": settings.label,
                    "kind": settings.kind,
                    "fold": fold,
                    "seed": 0,
                    "point": {},
                    "trial": None,
                    "tuned": {},
                    "data": "table",
                    "rank": 3,
                    "own_minimiser": False,
                    "program": 0,
                    "error": None,
                    "factors": "factors.npz",
                    "sweeps": 2,
                    "reason": "sweeps",
                    "converged": False,
                    "compile_seconds": 5 + rng.random(),
                    "history": history,
                    "metrics": {part: {"rmse": rng.random(), "mae": rng.random()} for part in parts},
                    "certificate": PROOF | {"passed": True},
                }
            )
            label = settings.label if fold is None else f"{settings.label}/{fold}"
            drawn.setdefault(settings.label, invented(rng, label, parts))
    record = {
        "status": "finished",
        "error": None,
        "versions": {"jals": jals.__version__, "jax": jax.__version__},
        "started": "2026-01-02T03:04:05+00:00",
        "config": config,
        "data": [{"name": "table", "hash": ratings.data_hash(), "users": 12, "items": 8, "entries": len(ratings)}],
        "hardware": {},
        "command": "",
        "wall_seconds": 12.5,
        "fits": fits,
    }
    return Run(record, Dataset(ratings, vocab, titles), list(drawn.values()))


def write(place, record: dict, data, drawn, others: Sequence[records.Fit] = ()):
    """Of a record as a run writes it; `others` are fits that are compared and not shown."""
    fits, run = [records.Fit.model_validate(fit) for fit in record["fits"]], records.Run.model_validate(record)
    every = [*others, *fits]
    return page.write(place, run, fits, len(every), data, drawn, choice.ranking(every, run.config))


def invented(rng, label, parts: dict[str, jals.Ratings], bias=True) -> page.Drawn:
    shapes = [(12, 3), (8, 3), (12,), (8,), ()][: 5 if bias else 2]
    factors = jals.Factors(*[jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes])
    errors = [jnp.asarray(10 ** rng.uniform(-9, -6, rows), jnp.float32) for rows in (12, 8, 8)]
    proof = jals.Certificate(errors[0], errors[1], errors[2], jnp.array(1e-3))
    return page.Drawn(label, factors, parts["train"], parts.get("validation"), parts["test"], proof, True)


@pytest.fixture(scope="module")
def simple():
    return make(config(), titles=np.array([f"{row}: {HOSTILE} {'long' * 30}" for row in range(8)]))


@pytest.fixture(scope="module")
def several():
    solvers = [{"kind": "als", "rank": 3}, {"kind": "gradient", "name": "adam", "rank": 3}]
    kfold = {"kind": "kfold", "folds": 2, "validation_fraction": 0.2}
    return make(config(solver=solvers, split=kfold), folds=(0, 1), validation=True)


@pytest.fixture(scope="module")
def written(simple, several, tmp_path_factory):
    """The folders of both, written."""
    folders = {}
    for name, run in (("simple", simple), ("several", several)):
        folders[name] = tmp_path_factory.mktemp(name)
        assert write(folders[name], *run) == folders[name] / "index.html"
    return folders


@pytest.fixture
def undrawn(monkeypatch):
    """Pages with empty figures, for tests that read only: drawing takes most of a page's time."""
    empty = plots.Picture(b"", b"", b"", 100, 50)
    monkeypatch.setattr(plots, "picture", lambda draw, *arguments: empty)


class Reader(html.parser.HTMLParser):
    """The elements of a page, its tables as lists of rows of cells, and all its text."""

    def __init__(self, text: str):
        super().__init__()
        self.elements, self.tables, self.text, self.inside = [], [], "", ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag in ("style", "td", "th"):
            self.inside = tag
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        if tag == self.inside:
            self.inside = ""

    def handle_data(self, text):
        if self.inside != "style":
            self.text += text
        if self.inside in ("td", "th"):
            self.tables[-1][-1][-1] += text


def read(folder) -> Reader:
    return Reader((folder / "index.html").read_text(encoding="utf-8"))


def results(folder) -> dict[str, dict[str, str]]:
    """The table of results: {row: {column: cell}}."""
    head, *rows = [[" ".join(cell.split()) for cell in row] for row in read(folder).tables[0]]
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}


def test_table_shows_the_numbers_of_the_record(several, written):
    table = results(written["several"])
    assert list(table) == [f"{solver} mean of 2 folds" for solver in ("als", "adam")] + [
        f"{solver}/{fold}" for fold in (0, 1) for solver in ("als", "adam")
    ]
    for fit in several.record["fits"]:
        row = table[f"{fit['solver']}/{fit['fold']}"]
        for part, metrics in fit["metrics"].items():
            for metric, number in metrics.items():
                assert row[f"{part} {metric.upper()}"] == f"{number:.4f}"
        assert row["seconds"] == f"{fit['history']['seconds'][-1]:.2f}"
        assert row["compiling"] == f"{fit['compile_seconds']:.2f}"
        assert (row["sweeps"], row["certificate"]) == ("2", "✓ passed")
    one, other = (fit["metrics"]["test"]["rmse"] for fit in several.record["fits"] if fit["solver"] == "adam")
    mean, error = (one + other) / 2, abs(one - other) / 2  # of two: their spread over sqrt(2), over sqrt(2) again
    assert table["adam mean of 2 folds"]["test RMSE"] == f"{mean:.4f} ± {error:.4f}"


def test_setting_is_told(simple, several, written):
    text = " ".join(read(written["several"]).text.split())
    for words in (
        "12 users × 8 items, 60 entries",
        "kind kfold folds 2 validation_fraction 0.2",
        "preset als_wr reg 0.1 bias true center true",
        "optimizer adam learning_rate 0.01",
        several.record["data"][0]["hash"],
        "2026-01-02 03:04:05",
        f"jax {jax.__version__}",
        f"jals run {written['several']}/config.toml",
        "Figures show fold 0 of each solver",
    ):
        assert words in text
    text = " ".join(read(written["simple"]).text.split())
    assert "Figures show fold" not in text
    assert "validation" not in " ".join(results(written["simple"])["als"])
    assert "Mean and biases, which this objective has too, are not in it" in text


@pytest.mark.usefixtures("undrawn")
def test_failed_certificate_is_marked(simple, tmp_path):
    fit = simple.record["fits"][0] | {"certificate": PROOF | {"passed": False}}
    write(tmp_path, simple.record | {"fits": [fit]}, simple.data, simple.drawn)
    assert results(tmp_path)["als"]["certificate"] == "✗ FAILED"


@pytest.mark.usefixtures("undrawn")
def test_hostile_texts_are_escaped(simple, written, tmp_path):
    record = json.loads(json.dumps(simple.record)) | {"status": "interrupted", "error": HOSTILE}
    record["config"]["data"]["path"] = f"folder/{HOSTILE}.npz"
    write(tmp_path, record, simple.data, simple.drawn)
    for folder in (written["simple"], tmp_path):
        reader = read(folder)
        assert "script" not in {tag for tag, _ in reader.elements}
        assert all(not name.startswith("on") for _, attributes in reader.elements for name in attributes)
        assert f"3: {HOSTILE} long" in reader.text
    assert reader.text.count(f"This run was interrupted: {HOSTILE}") == 1


@pytest.mark.parametrize("name", ["simple", "several"])
def test_figures_are_there_as_png_and_svg_and_in_the_page(written, name):
    from matplotlib import image

    reader = read(written[name])
    pictures = [attributes for tag, attributes in reader.elements if tag == "img"]
    assert all(each["src"].startswith("data:image/svg+xml;base64,") and len(each["alt"]) > 20 for each in pictures)
    links = {attributes["href"] for tag, attributes in reader.elements if tag == "a" and attributes["href"][0] != "#"}
    files = sorted((written[name] / "figures").iterdir())
    assert links == {f"figures/{file.name}" for file in files}
    stems = {file.stem for file in files}
    assert len(files) == 2 * len(stems) == 2 * len(pictures)
    expected = {"loss-by-sweep", "loss-by-seconds", "spectrum", "error-by-user-degree", "error-by-item-degree"}
    if name == "simple":
        expected |= {"certificate-als", "residuals-als"}
    else:
        expected |= {f"{kind}-{fit}-0" for kind in ("certificate", "residuals") for fit in ("als", "adam")}
        expected |= {"validation-by-sweep", "validation-by-seconds"}
    assert stems == expected | {"degrees", "density"}
    for file in files:
        if file.suffix == ".svg":
            assert xml.etree.ElementTree.parse(file).getroot().tag == "{http://www.w3.org/2000/svg}svg"
        else:
            assert image.imread(file).std() > 0.01
    assert (written[name] / "index.html").stat().st_size < 3e6


def test_captions_say_what_the_certificate_says(simple, written):
    (alt,) = [at["alt"] for tag, at in read(written["simple"]).elements if tag == "img" and "backward" in at["alt"]]
    assert "bound 1.0×10⁻⁵" in alt
    plain = alt.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")).replace("×10", "e")
    proof = simple.drawn[0].certificate
    worst = [float(number) for number in re.findall(r"\d\.\de-\d", plain)][:3]
    assert worst == [float(f"{float(errors.max()):.1e}") for errors in (proof.user, proof.item, proof.last_updated)]


def test_page_needs_nothing_from_outside(written):
    for folder in written.values():
        places = {attributes["id"] for _, attributes in read(folder).elements if "id" in attributes}
        links = {attributes["href"] for _, attributes in read(folder).elements if "href" in attributes}
        assert {link[1:] for link in links if link.startswith("#")} == places
        for tag, attributes in read(folder).elements:
            for name in ("src", "srcset", "href"):
                assert re.match(r"data:|#|figures/", attributes.get(name, "#")), (tag, attributes)


def test_same_record_same_bytes(simple, written, tmp_path):
    # The page names its folder in the commands: so a second one goes into the same.
    folder = written["simple"]
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    write(folder, *simple)
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


def lists(folder) -> list[list[list[str]]]:
    """The rows of the tables of items: best unseen and rated high in turn."""
    return [[[" ".join(cell.split()) for cell in row] for row in table[1:]] for table in read(folder).tables[1:]]


def test_three_users_and_their_lists(several, written):
    """The users by degree, their unseen items by score, and the training values, each found again by plain loops."""
    one = several.drawn[0]
    degree = np.bincount(one.train.user, minlength=12)
    order = sorted((row for row in range(12) if degree[row]), key=lambda row: degree[row])
    chosen = [order[round(share * (len(order) - 1))] for share in (0.95, 0.5, 0.05)]
    text = " ".join(read(written["several"]).text.split())
    for name, row in zip(("busy", "median", "light"), chosen, strict=True):
        assert f"The {name} user: {several.data.vocab.user[row]}, {degree[row]} training entries" in text
    tables = lists(written["several"])
    assert len(tables) == 3 * 2 * 2  # users, solvers, lists
    held_out = 0
    for place, (best, high) in enumerate(zip(tables[::2], tables[1::2], strict=True)):
        user, one = chosen[place // 2], several.drawn[place % 2]
        score = np.asarray(jals.predict(one.factors, user, np.arange(8)))
        values = {
            part: dict(zip(of.item[of.user == user].tolist(), of.value[of.user == user].tolist(), strict=True))
            for part, of in (("train", one.train), ("validation", one.validation), ("test", one.test))
        }
        unseen = sorted(set(range(8)) - set(values["train"]), key=lambda item: -score[item])
        held = values["validation"] | values["test"]
        expected = [
            [str(several.data.vocab.item[item]), f"{score[item]:.2f}", f"{held[item]:g}" if item in held else "–"]
            for item in unseen
        ]
        assert [[row[0], *row[2:]] for row in best] == (expected or [["none"]])
        held_out += sum(row[-1] != "–" for row in best)
        rated = sorted((row[3], row[0], row[2]) for row in high)
        assert rated == sorted(
            (f"{value:g}", str(several.data.vocab.item[item]), f"{score[item]:.2f}")
            for item, value in values["train"].items()
        )
        assert [row[3] for row in high] == sorted((row[3] for row in high), reverse=True)
        for row in best + high:
            item = int(np.flatnonzero(several.data.vocab.item == row[0]).item())
            assert row[1] == str((one.train.item == item).sum())
    assert held_out


@pytest.mark.usefixtures("undrawn")
def test_interrupted_run_has_a_page_that_says_so(simple, tmp_path):
    fit = {name: value for name, value in simple.record["fits"][0].items() if name not in ("metrics", "certificate")}
    fit["reason"] = "interrupted"
    record = simple.record | {"status": "interrupted", "error": "interrupted after 2 of 3 sweeps", "fits": [fit]}
    write(tmp_path, record, simple.data._replace(titles=None), simple.drawn)
    reader = read(tmp_path)
    assert "This run was interrupted: interrupted after 2 of 3 sweeps" in reader.text
    assert results(tmp_path)["als"]["certificate"] == "–"
    assert "item <3>" in reader.text
    assert (tmp_path / "figures" / "spectrum.svg").exists()


@pytest.mark.usefixtures("undrawn")
def test_run_that_drew_nothing_still_has_its_data_and_curves(simple, tmp_path):
    fit = simple.record["fits"][0]
    history = {name: column for name, column in fit["history"].items() if name != "loss"}
    write(tmp_path, simple.record | {"fits": [fit | {"history": history}]}, simple.data, [])
    assert {file.stem for file in (tmp_path / "figures").iterdir()} == {"degrees", "density"}
    assert "No loss and no validation was asked for" in read(tmp_path).text
    write(tmp_path, simple.record | {"status": "interrupted", "error": "sweep 1", "fits": []}, simple.data, [])
    assert "This run was interrupted: sweep 1" in read(tmp_path).text


def test_entries_of_weight_0_and_implicit_feedback(simple, tmp_path):
    """Entries without weight count as missing everywhere; the target of the others is 1."""
    parts = {
        name: weighted(part, np.arange(len(part)) % 3 != 0)
        for name, part in (("train", simple.drawn[0].train), ("test", simple.drawn[0].test))
    }
    drawn = invented(np.random.default_rng(2), "als", parts, bias=False)
    implicit = config(objective={"preset": "hu_koren", "reg": 0.1})
    write(tmp_path, simple.record | {"config": implicit}, simple.data, [drawn])
    text = " ".join(read(tmp_path).text.split())
    assert "The target of an observed entry is 1" in text
    assert "are not in it" not in text
    assert f"By user: {sum(place % 3 != 0 for place in range(12))} test entries" in text


@pytest.mark.usefixtures("undrawn")
def test_part_without_weight_is_not_drawn(simple, tmp_path):
    one = simple.drawn[0]
    write(tmp_path, simple.record, simple.data, [one._replace(test=weighted(one.test, np.zeros(len(one.test))))])
    stems = {file.stem for file in (tmp_path / "figures").iterdir()}
    assert "residuals-als" in stems and "error-by-user-degree" not in stems
    assert "Error by degree" not in read(tmp_path).text


def weighted(part: jals.Ratings, weight) -> jals.Ratings:
    return jals.Ratings.from_arrays(part.user, part.item, part.value, 12, 8, weight=weight)


@pytest.mark.usefixtures("undrawn")
def test_sampling_is_told(simple, tmp_path, monkeypatch):
    from jals.app.page import summaries

    monkeypatch.setattr(summaries, "SAMPLE", 20)
    write(tmp_path, *simple)
    text = " ".join(read(tmp_path).text.split())
    assert "drawn with seed 0: 20 of 48 train entries." in text


@pytest.mark.usefixtures("undrawn")
def test_unwritable_folder_is_a_storage_error(simple, tmp_path):
    (tmp_path / "figures").write_text("a file where the folder should be")
    with pytest.raises(jals.StorageError, match="figures cannot be made"):
        write(tmp_path, *simple)
    assert not (tmp_path / "index.html").exists()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="pages are opened by playwright")
    names = (os.environ.get("JALS_CHROMIUM") or "", "chromium", "chromium-browser", "google-chrome")
    found = next((path for path in map(shutil.which, filter(None, names)) if path), None)
    if found is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on PATH, and JALS_CHROMIUM names none")
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield launched
        launched.close()


_STICKING_OUT = """() => [...document.querySelectorAll("body *")]
    .filter(each => each.getBoundingClientRect().right > innerWidth + 0.5 || each.getBoundingClientRect().left < -0.5)
    .map(each => each.outerHTML.slice(0, 80))"""


def check_in_browser(browser, page, width, scheme, least):
    """Everything folds open, shows at least so many pictures in the scheme's colours, sticks out nowhere, asks for
    nothing and logs nothing."""
    view = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    said, asked = [], []
    view.on("console", lambda message: said.append(message.text))
    view.on("pageerror", lambda error: said.append(str(error)))
    view.on("request", lambda request: asked.append(request.url))
    view.goto(page.as_uri())
    view.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
    widths = view.evaluate("[...document.images].map(image => image.complete && image.naturalWidth)")
    assert len(widths) >= least and all(widths)
    dark = view.evaluate("[...document.images].every(image => image.currentSrc !== image.src)")
    assert dark == (scheme == "dark")
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    assert view.evaluate(_STICKING_OUT) == []
    assert said == []
    view.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("name", ["simple", "several"])
def test_browser_is_content(browser, written, name, width, scheme):
    check_in_browser(browser, written[name] / "index.html", width, scheme, least=9)
