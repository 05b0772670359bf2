"""What contributors and those who cite jals are told: examples run and do what they say; what is named is there."""

import re
import tomllib

import numpy as np
import pytest

import jals
from jals.metrics import formulas, ranks
from jals.model import feedback, layouts
from tests.support import ROOT, solvers, tables
from tests.support.pages import anchors

GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


@pytest.fixture
def made(monkeypatch):
    """The names that the examples make; what they add to jals is taken back afterwards."""
    for module, table in ((solvers, "MAKE"), (feedback, "KINDS"), (formulas, "AT_K")):
        for key in ("anderson, short memory", "root", "miss_rate"):
            monkeypatch.setitem(getattr(module, table), key, None)  # so that it goes away again
    for name in ("LAYOUTS", "choose_widths"):
        monkeypatch.setattr(layouts, name, getattr(layouts, name))
    names: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```$", GUIDE, re.M | re.S):
        exec(block, names)
    return names


@pytest.fixture
def ratings():
    return jals.datasets.synthetic(30, 20, rank=2, density=0.4, noise=0.2, seed=0)[0].ratings


def fitted(problem, objective):
    return jals.fit(jals.ALS(tables.RANK), problem, objective, sweeps=2).factors


def test_a_solver_is_a_row(made, ratings):
    solver = solvers.MAKE["anderson, short memory"]()
    result = jals.fit(solver, jals.Problem.build(ratings), made["halfway"](0.1), sweeps=3)
    assert result.history.loss[-1] < result.history.loss[1] and solver.memory == 1


def test_a_preset_is_the_loss_that_it_says(made, ratings):
    n = np.bincount(ratings.user, minlength=ratings.num_users), np.bincount(ratings.item, minlength=ratings.num_items)
    value = np.abs(ratings.value)
    problem = jals.Problem.build(ratings).with_values(value)
    for name, power, target in (("halfway", 0.5, value), ("of_roots", 0.0, np.sqrt(value))):
        objective = made[name](0.3)
        factors = fitted(problem, objective)
        scores = np.asarray(jals.predict(factors, ratings.user, ratings.item))
        squares = [np.sum(np.asarray(rows) ** 2, axis=1) for rows in (factors.user, factors.item)]
        penalty = sum(0.3 * count**power @ square for count, square in zip(n, squares, strict=True))
        expected = np.sum((target - scores) ** 2) + penalty
        np.testing.assert_allclose(jals.loss(factors, problem, objective), expected, rtol=1e-5)
        assert jals.certify(factors, problem, objective).holds()


def test_a_metric_is_a_function_of_lists(made, ratings, monkeypatch):
    monkeypatch.setattr(ranks, "METRICS", (*formulas.AT_K, *ranks.METRICS))
    train, held_out = jals.split.random(ratings.select(ratings.value > 0), 0.3, seed=0)
    factors = fitted(jals.Problem.build(train), jals.als_wr(0.1))
    found = jals.metrics.ranking(factors, held_out, train, 3, ("recall", "miss_rate"))
    assert 0 < found.mean["miss_rate@3"] < 1
    assert found.mean["miss_rate@3"] == pytest.approx(1 - found.mean["recall@3"])


def test_a_layout_is_its_widths(made, ratings):
    objective = jals.als_wr(0.1)
    problem = jals.Problem.build(ratings, layout="doubling")
    for side in problem.describe().values():
        assert len(side["widths"]) > 1 and all(width & (width - 1) == 0 for width in side["widths"])
    usual = fitted(jals.Problem.build(ratings), objective)
    np.testing.assert_allclose(fitted(problem, objective).user, usual.user, rtol=1e-4, atol=1e-5)


def test_all_that_is_named_is_there():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", GUIDE, re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target
    paths = re.findall(r"`((?:jals|tests|docs)/[\w/.]*|[\w.]+\.(?:md|toml))`", GUIDE)
    assert len(paths) > 10
    assert not [path for path in paths if not (ROOT / path).exists()]
    for link, anchor in re.findall(r"\]\(([\w/.]+)(?:#([\w-]+))?\)", GUIDE):
        text = (ROOT / link).read_text(encoding="utf-8")
        assert not anchor or anchor in anchors(text), (link, anchor)


def test_the_citation_is_of_this_version():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    said = dict(re.findall(r"^([\w-]+): +(\S.*)$", citation, re.M))
    assert said["version"] == jals.__version__ == project["version"] and said["license"] == project["license"]
    assert f"version = {{{jals.__version__}}}" in (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert {"cff-version", "message", "title", "authors"} <= set(re.findall(r"^([\w-]+):", citation, re.M))


def test_issue_templates_say_what_they_are_for():
    templates = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.md"))
    assert [path.stem for path in templates] == ["bug", "feature", "question"]
    for path in templates:
        text = path.read_text(encoding="utf-8")
        assert re.match(r"---\nname: \w.*\nabout: \w.*\nlabels: \w+\n---\n\n\*\*", text), path.name
        assert not [page for page in re.findall(r"`(docs/[\w.-]+)`", text) if not (ROOT / page).is_file()]
