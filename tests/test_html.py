"""What a notebook shows of an object: a small table, as long for a large object as for a small one."""

import dataclasses
import functools
import html.parser

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jals
from jals import html as drawn
from jals.fitting.grids import Grid
from jals.fitting.paths import Path
from jals.tuning.descent import Steps
from jals.tuning.scores import SquaredError
from tests.support import shown


class Cells(html.parser.HTMLParser):
    """The cells of a table, row by row, and whether every tag is closed in its order."""

    def __init__(self, text: str):
        super().__init__()
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, text

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        assert not any("color" in (value or "") or "background" in (value or "") for _, value in attrs), attrs
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


@functools.cache
def made():
    """(ratings, result, certificate)"""
    data, factors = jals.datasets.synthetic(30, 20, 3, 0.4, noise=0.3, bias=True)
    return data.ratings, shown.result(factors, 24), shown.certificate(factors)


@functools.cache
def objects():
    """{what: (object, cells that its table has)}"""
    ratings, result, certificate = made()
    factors, history = result.factors, result.history
    short = dataclasses.replace(result, history=jals.History(*(column[:3] for column in vars(history).values())))
    failed = jals.FitError("", sweep=1, side=None, row=None, result=None)
    grid, path = Grid([[result, short], [failed, short]], "map", "", {}), Path([short, failed])
    of_users = {"ndcg@10": np.array([0.5, 1.0])}
    means, errors = {"ndcg@10": 0.75, "coverage": 0.5}, {"ndcg@10": 0.25, "coverage": np.nan}
    ranking = jals.metrics.Ranking(means, errors, of_users, np.arange(2), 1, np.arange(2), {})
    left_out = jals.LeaveOneOut(None, jnp.zeros(3), jnp.array([3.0, jnp.nan, 1.0]), jnp.array([1.0, 2.0, 3.0]))
    adds = 0.1 * np.arange(7, 0, -1)
    explanation = jals.Explanation(np.arange(7), adds, 3.5, 0.01)
    values = f"{ratings.value.min():.6g} to {ratings.value.max():.6g}, float32"
    ends = [f"{end:.6g}" for end in (history.validation[2], history.validation[-1])]
    validation = [f"{end:.6g}" for end in (history.validation[0], history.validation[-1])]
    return {
        "Ratings": (ratings, [f"{ratings.num_users:,}", values]),
        "Factors": (factors, [f"{len(factors.item):,} rows of 3 numbers, each with a bias", f"{factors.mean:.6g}"]),
        "Result": (result, ["after 24 sweeps: as many as were asked for", " to ".join(validation)]),
        "History": (history, ["sweep", "0", "24", validation[1]]),
        "Certificate": (certificate, ["certificate holds", "items as given", f"{certificate.user.max():.1e}"]),
        "Grid": (grid, ["2 to 24", " to ".join(sorted(ends)), "the best: objective 0"]),
        "Path": (path, ["path", ends[0]]),
        "Ranking": (ranking, ["ndcg@10", "0.7500", "0.2500", "0.5000", ""]),
        "LeaveOneOut": (left_out, ["3", f"{np.sqrt(12 / 4):.6g}", "1"]),
        "Explanation": (explanation, ["score 6.3, as a sum", "+0.7", "2 others", "+0.3", "+3.5"]),
    }


KINDS = ("Ratings", "Factors", "Result", "History", "Certificate", "Grid", "Path", "Ranking", "LeaveOneOut")


@pytest.mark.parametrize("kind", [*KINDS, "Explanation"])
def test_a_table_says_what_matters(kind):
    thing, wanted = objects()[kind]
    text = thing._repr_html_()
    rows = Cells(text).rows
    cells = [cell for row in rows for cell in row]
    assert not [each for each in wanted if each not in cells], rows
    assert len(rows) <= drawn.ROWS + 3 and len(text) < 4000
    line = repr(thing)
    assert "\n" not in line and len(line) <= 400


def test_a_grid_has_a_line_an_objective():
    grid, _ = objects()["Grid"]
    rows = Cells(grid._repr_html_()).rows
    assert [row[:4] for row in rows[2:4]] == [["0", "2", "0", "2 to 24"], ["1", "2", "1", "2"]]


def test_tuned_and_its_steps():
    ratings, result, _ = made()
    problem, objective = jals.Problem.build(ratings), jals.explicit(0.1)
    numbers = [{"reg_user": 0.1, "reg_item": 0.2}, {"reg_user": 0.12, "reg_item": 0.24}]
    steps = Steps([1, 2], [0.9, 0.875], [0.81, 0.765625], [40, 52], [0.1, 0.2], numbers)
    tuned = jals.Tuned(objective, problem, result.factors, {}, steps, 2, "steps", 7, SquaredError(), passes=52)
    rows = Cells(tuned._repr_html_()).rows
    assert rows[-3:-1] == [["reg_user", "0.12"], ["reg_item", "0.24"]]
    assert rows[-1][0].startswith("7 validation entries")
    assert ["held-out RMSE", "0.9 to 0.875"] in rows
    assert Cells(steps._repr_html_()).rows[1:] == [
        ["step", "rmse", "score", "passes", "seconds", "reg_user", "reg_item"],
        ["1", "0.9", "0.81", "40", "0.1", "0.1", "0.2"],
        ["2", "0.875", "0.765625", "52", "0.2", "0.12", "0.24"],
    ]
    assert repr(steps).startswith("Steps(2 records, step 1 to 2, rmse 0.9 to 0.875")


def test_a_long_history_is_no_longer():
    _, result, _ = made()
    rows = Cells(result.history._repr_html_()).rows
    assert [row[0] for row in rows[2:-1]] == ["0", "3", "5", "8", "11", "13", "16", "19", "21", "24"]
    assert rows[-1] == ["10 of 25 records"]
    assert len(repr(result.history)) < 250


def test_what_is_traced_or_stands_for_it_is_its_line():
    _, result, certificate = made()
    left_out, _ = objects()["LeaveOneOut"]
    lines = []

    def look(*traced):
        lines.extend(each._repr_html_() for each in traced)

    jax.eval_shape(look, result.factors, certificate, left_out)
    assert [text.partition("(")[0] for text in lines] == ["<code>Factors", "<code>Certificate", "<code>LeaveOneOut"]
    _, structure = jax.tree.flatten(result.factors)
    places = (None, 0, "*", object(), jax.ShapeDtypeStruct((3,), jnp.float32))
    for place in places:
        text = jax.tree.unflatten(structure, [place] * structure.num_leaves)._repr_html_()
        assert text.startswith("<code>Factors(")


def test_a_certificate_says_what_it_cannot_judge():
    *_, certificate = made()
    item = certificate.item.at[:3].set(jnp.array([jnp.nan, jnp.inf, 2e-5], jnp.float32))
    rows = Cells(dataclasses.replace(certificate, item=item)._repr_html_()).rows
    assert rows[0] == ["certificate does not hold"]
    assert ["items, fresh update", "20", "inf", "2", "1"] in rows


def test_cells_are_escaped_and_rows_are_few():
    hostile = "<script>alert('x')</script>\x1b[31m\u202e"
    text = drawn.draw(drawn.Table(hostile, [(hostile, place) for place in range(1000)], ("a", hostile), hostile))
    assert "<script" not in text and "\x1b" not in text and "\u202e" not in text
    rows = Cells(text).rows
    assert rows[0][0].startswith("<script>alert('x')</script>\\x1b")
    assert len(rows) == drawn.ROWS + 3 and rows[-1][0].startswith("990 more; ")
    assert drawn.some_of(3) == [0, 1, 2] and drawn.some_of(0) == []
