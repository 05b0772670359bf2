"""The page of a run: its numbers are the record's, hostile texts stay texts, and a browser is content with it."""

import json
import re
import xml.etree.ElementTree
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jals
from jals.app.config.schema import Config
from jals.app.show import page
from jals.app.show.page import plots
from jals.app.study import best_fit
from jals.data.vocabulary import Vocabulary
from jals.datasets import Dataset
from jals.files.runs import record as records
from tests.support.pages import HOSTILE, Reader, check_in_browser

PROOF = {"user": 1e-8, "item": 1e-8, "last_updated": 1e-8, "last_updated_required": True} | {
    "stationarity": 1e-3,
    "bound": 1e-5,
}


SOLVERS = [{"kind": "als", "rank": 3}, {"kind": "gradient", "name": "adam", "rank": 3}]


class Run(NamedTuple):
    """What `page.write` takes."""

    record: dict
    data: Dataset
    drawn: list[page.DrawnFit]


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


def write(place, record: dict, data, drawn, others: Sequence[records.FitRecord] = ()):
    """Of a record as a run writes it; `others` are fits that are compared and not shown."""
    fits, run = (
        [records.FitRecord.model_validate(fit) for fit in record["fits"]],
        records.RunRecord.model_validate(record),
    )
    every = [*others, *fits]
    config = Config.model_validate(run.config)
    return page.write(place, config, run, fits, len(every), data, drawn, best_fit.ranking(every, config))


def invented(rng, label, parts: dict[str, jals.Ratings], bias=True) -> page.DrawnFit:
    shapes = [(12, 3), (8, 3), (12,), (8,), ()][: 5 if bias else 2]
    factors = jals.Factors(*[jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes])
    errors = [jnp.asarray(10 ** rng.uniform(-9, -6, rows), jnp.float32) for rows in (12, 8, 8)]
    proof = jals.Certificate(errors[0], errors[1], errors[2], jnp.array(1e-3))
    return page.DrawnFit(label, factors, parts["train"], parts.get("validation"), parts["test"], proof, True)


@pytest.fixture(scope="module")
def simple():
    return make(config(), titles=np.array([f"{row}: {HOSTILE} {'long' * 30}" for row in range(8)]))


@pytest.fixture(scope="module")
def several():
    kfold = {"kind": "kfold", "folds": 2, "validation_fraction": 0.2}
    return make(config(solver=SOLVERS, split=kfold), folds=(0, 1), validation=True)


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


def read(folder) -> Reader:
    return Reader((folder / "index.html").read_text(encoding="utf-8"))


def results(folder) -> dict[str, dict[str, str]]:
    """The table of results: {row: {column: cell}}."""
    head, *rows = [[" ".join(cell.split()) for cell in row] for row in read(folder).tables[0]]
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}


def lowest_mean(fits: list[dict]) -> str:
    """The solver with the lowest sum of validation RMSE."""
    sums: dict[str, float] = {}
    for fit in fits:
        sums[fit["solver"]] = sums.get(fit["solver"], 0.0) + fit["metrics"]["validation"]["rmse"]
    return min(sums, key=lambda solver: sums[solver])


def test_table_shows_the_numbers_of_the_record(several, written):
    solvers, best = ("als", "adam"), lowest_mean(several.record["fits"])
    mark = " lowest mean validation RMSE of 4 fits"
    table = results(written["several"])
    assert list(table) == [f"{solver} mean of 2 folds{mark if solver == best else ''}" for solver in solvers] + [
        f"{solver}/{fold}" for fold in (0, 1) for solver in solvers
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
    (row,) = [row for name, row in table.items() if name.startswith("adam mean of 2 folds")]
    assert row["test RMSE"] == f"{mean:.4f} ± {error:.4f}"


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
def test_best_is_told_and_marked_once_in_the_table_the_choice_and_the_lists(tmp_path):
    """Of three fits that are ranked two are shown; a fourth broke down."""
    run = make(config(solver=SOLVERS, fit={"sweeps": 3, "seeds": [0, 1]}), validation=True)
    for fit, score in zip(run.record["fits"], (0.9, 0.8), strict=True):
        fit |= {"seed": 1, "point": {"solver.*.rank": 3}}
        fit["metrics"]["validation"]["rmse"] = score
    als, adam = run.record["fits"]
    changed = {"point": {"solver.*.rank": 2}, "metrics": als["metrics"] | {"validation": {"rmse": 0.85}}}
    lost = {"metrics": {}, "error": {"sweep": 1, "message": "inf"}, "point": {"solver.*.rank": 9}}
    others = [records.FitRecord.model_validate(als | {"key": key} | of) for key, of in (("a", changed), ("b", lost))]
    names = ["adam rank=3 seed 1", "als rank=3 seed 1"]
    drawn = [one._replace(label=name) for one, name in zip(run.drawn[::-1], names, strict=True)]
    write(tmp_path, run.record | {"fits": [adam, als]}, run.data, drawn, others)
    mark = "lowest validation RMSE of 3 fits"
    text = " ".join(read(tmp_path).text.split())
    assert "adam rank=3 seed 1 is the best: lowest validation RMSE, 0.8000, of 3 fits. The test part" in text
    assert "Not ranked: als rank=9 seed 1 broke down." in text
    assert "fits of each solver's best point and seed, by validation RMSE; the report compares all 4." in text
    assert list(results(tmp_path)) == [f"adam rank=3 seed 1 {mark}", "als rank=3 seed 1"]
    assert f"Figures and lists of all 2 fits {names[0]} (best) {names[1]} Results" in text
    assert text.count(mark) == text.count(f"{names[0]} {mark}") == 1 + 3  # in the table, and in each user's lists
    assert "--fit" not in text


@pytest.mark.usefixtures("undrawn")
def test_page_says_that_nothing_says_which_is_best(tmp_path):
    run = make(config(solver=SOLVERS))
    first = run.record["fits"][0]
    more = records.FitRecord.model_validate(first | {"key": "c", "point": {"solver.*.rank": 9}})
    for others in ([], [more]):
        write(tmp_path, *run, others)
        text = " ".join(read(tmp_path).text.split())
        assert "Nothing says which fit is the best: there is no validation part." in text
        assert ("fits of each solver's first point and seed; the report compares all 3." in text) == bool(others)
        assert "lowest validation" not in text and "(best)" not in text
        assert f"--user ID --fit {first['key'][:8]} -k 10" in text
    write(tmp_path, run.record | {"fits": [first]}, run.data, run.drawn[:1])
    text = " ".join(read(tmp_path).text.split())
    assert "Nothing says" not in text and "--fit" not in text and "Figures and lists of" not in text


@pytest.mark.usefixtures("undrawn")
def test_page_says_which_solvers_it_looks_at_closely(several, tmp_path):
    write(tmp_path, several.record, several.data, several.drawn[:1])
    assert "Of 1 of the 2 solvers a fit is looked at closely: als/0." in " ".join(read(tmp_path).text.split())


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
    """The users by degree, their unseen items by score, and the training values, each found again by plain loops. As it
    is a model of ratings, items with few entries are left out: no more than leaves half of the entries."""
    one = several.drawn[0]
    degree = np.bincount(one.train.user, minlength=12)
    order = sorted((row for row in range(12) if degree[row]), key=lambda row: degree[row])
    chosen = [order[round(share * (len(order) - 1))] for share in (0.95, 0.5, 0.05)]
    text = " ".join(read(written["several"]).text.split())
    for name, row in zip(("busy", "median", "light"), chosen, strict=True):
        assert f"The {name} user: {several.data.vocab.user[row]}, {degree[row]} training entries" in text
    tables = lists(written["several"])
    assert len(tables) == 3 * 2 * 2  # users, solvers, lists
    entries = np.bincount(one.train.item, minlength=8)
    falling = sorted(entries, reverse=True)
    least = next(falling[place] for place in range(8) if 2 * sum(falling[: place + 1]) >= sum(falling))
    assert f"items with fewer than {least} are left out" in text and 1 < (entries >= least).sum() < 8
    held_out = 0
    for place, (best, high) in enumerate(zip(tables[::2], tables[1::2], strict=True)):
        user, one = chosen[place // 2], several.drawn[place % 2]
        score = np.asarray(jals.predict(one.factors, user, np.arange(8)))
        values = {
            part: dict(zip(of.item[of.user == user].tolist(), of.value[of.user == user].tolist(), strict=True))
            for part, of in (("train", one.train), ("validation", one.validation), ("test", one.test))
        }
        unseen = sorted(set(range(8)) - set(values["train"]), key=lambda item: -score[item])
        unseen = [item for item in unseen if entries[item] >= least]
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
        for row in (best if unseen else []) + high:
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
    assert "Error by degree" not in text  # an RMSE, which says nothing of implicit feedback
    write(tmp_path, simple.record, simple.data, [drawn])
    text = " ".join(read(tmp_path).text.split())
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
    from jals.app.show.page import summaries

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


_OF_ONE = """() => [...document.querySelectorAll("[data-of]")]
    .filter(each => each.checkVisibility()).map(each => each.dataset.of).sort().join("")"""


def test_one_solver_at_a_time_can_be_chosen_by_keyboard(browser, written):
    """Of each of two: figures of certificate and residuals, and lists of three users."""
    view = browser.new_page()
    view.goto((written["several"] / "index.html").as_uri())
    pictures = view.locator("img:visible").count()
    view.get_by_label("Figures and lists of").focus()
    for key, of_one in (("", "0" * 5 + "1" * 5), ("ArrowDown", "0" * 5), ("ArrowDown", "1" * 5)):
        view.keyboard.press(key) if key else None
        assert view.evaluate(_OF_ONE) == of_one
    assert view.locator("img:visible").count() == pictures - 2
    assert view.locator("details:visible:not([open])").count() == 0
    view.keyboard.press("Home")
    assert view.evaluate(_OF_ONE) == "0" * 5 + "1" * 5
    view.close()


def test_without_scripts_everything_is_shown_and_there_is_no_choice(browser, written):
    view = browser.new_page(java_script_enabled=False)
    view.goto((written["several"] / "index.html").as_uri())
    assert view.locator("[data-of]:visible").count() == 10
    assert view.locator("select:visible").count() == 0
    view.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("name", ["simple", "several"])
def test_browser_is_content(browser, written, name, width, scheme):
    check_in_browser(browser, written[name] / "index.html", width, scheme, least=9)
