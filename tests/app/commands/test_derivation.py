"""`jals derive`: every number of every step against plain NumPy loops, what it prints, and what it refuses."""

import dataclasses
import io
import json
import re

import jax
import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

import jals
from jals.app.commands import derivation
from jals.app.commands.derivation import opening, steps
from jals.app.commands.derivation.text import Walkthrough
from jals.data.vocabulary import Vocabulary
from jals.datasets import Dataset
from tests.support import ROOT, reference, script
from tests.support.commands import jals_command

REG = 0.3
FIGURES = ROOT / "docs" / "figures"
PAGE = (ROOT / "docs" / "derivation.md").read_text(encoding="utf-8")


def random_table() -> Dataset:
    """30 users with whole-number ids and 40 items, with weights, some of them 0; user 1030 has no entries."""
    rng = np.random.default_rng(0)
    user, item = np.nonzero(rng.random((30, 40)) < 0.5)
    value, weight = rng.integers(1, 11, len(user)) / 2, rng.choice([0.0, 0.5, 1.0, 2.0], len(user))
    ratings = jals.Ratings.from_arrays(user, item, value, 31, 40, weight=weight)
    names = np.array([f"[red]:heart: {item:02d} and on and on" for item in range(40)])
    return Dataset(ratings, Vocabulary(1000 + np.arange(31), names), None)


class Walk:
    """All steps on one table, and what plain NumPy makes of the same start."""

    def __init__(self, data: Dataset, row: int, rank: int):
        self.data, self.row, self.rank = data, row, rank
        self.at = at = steps.setting(data.ratings, row, REG, rank, seed=1)
        self.loss, self.slope, self.system = steps.loss(at), steps.slope(at), steps.system(at)
        self.solutions = steps.solutions(at, self.system)
        self.reach = steps.reach(at, self.solutions.right.x)
        self.inside, self.descent = steps.inside(at), steps.convergence(at)
        self.shape = steps.shape(at, self.descent.factors)

        ratings = data.ratings
        weight = np.ones(len(ratings)) if ratings.weight is None else ratings.weight
        self.table = reference.Table(
            ratings.user, ratings.item, ratings.value, weight, ratings.num_users, ratings.num_items
        )
        self.X, self.Y = np.array(at.start.user), np.array(at.start.item)
        self.mine = [e for e in range(len(ratings)) if ratings.user[e] == row and weight[e] > 0]

    def setting(self, preset: str) -> reference.Setting:
        power = 1.0 if preset == "als_wr" else 0.0
        regs = np.full(self.table.num_users, REG), np.full(self.table.num_items, REG)
        return reference.Setting(preset, *regs, reg_power=power)

    def value(self, X, Y, preset="explicit") -> float:
        return reference.loss(self.table, self.setting(preset), X, Y, np.zeros(len(X)), np.zeros(len(Y)), 0.0)

    def half_sweep(self, side, X, Y, preset="explicit"):
        zeros = np.zeros(len(X)), np.zeros(len(Y)), 0.0
        return reference.half_sweep(self.table, self.setting(preset), side, X, Y, *zeros)[0]

    def moved(self, x):
        X = self.X.copy()
        X[self.row] = x
        return X

    def gradients(self, X):
        """dL/dX and dL/dY by loops."""
        dX, dY = 2 * REG * X, 2 * REG * self.Y
        columns = (self.table.user, self.table.item, self.table.value, self.table.weight)
        for u, i, r, w in zip(*columns, strict=True):
            residual = r - X[u] @ self.Y[i]
            dX[u] += -2 * w * residual * self.Y[i]
            dY[i] += -2 * w * residual * X[u]
        return dX, dY

    def equation(self, reg):
        """(A, b) of the row by loops."""
        A, b = reg * np.eye(self.rank), np.zeros(self.rank)
        for e in self.mine:
            y, w = self.Y[self.table.item[e]], self.table.weight[e]
            A += w * np.outer(y, y)
            b += w * self.table.value[e] * y
        return A, b

    def error(self, x, reg):
        A, b = self.equation(reg)
        return np.linalg.norm(A @ x - b) / (np.linalg.norm(A) * np.linalg.norm(x) + np.linalg.norm(b))


@pytest.fixture(scope="module", params=["built in", "random"])
def walk(request):
    return Walk(derivation.built_in(), 0, rank=2) if request.param == "built in" else Walk(random_table(), 5, rank=5)


def test_loss_in_its_parts(walk):
    assert walk.loss.users == pytest.approx(REG * (walk.X**2).sum())
    assert walk.loss.items == pytest.approx(REG * (walk.Y**2).sum())
    expected = walk.value(walk.X, walk.Y)
    assert walk.loss.total == pytest.approx(expected) and walk.loss.by_library == pytest.approx(expected)


def test_slope_term_by_term(walk):
    step, x = walk.slope, walk.X[walk.row]
    assert len(step.terms) == len(walk.mine)
    slip = 2 * REG * x
    for k, e in enumerate(walk.mine):
        y, r, w = walk.Y[walk.table.item[e]], walk.table.value[e], walk.table.weight[e]
        assert walk.at.value[k] == r and walk.at.item[k] == walk.table.item[e]
        assert step.score[k] == pytest.approx(x @ y)
        assert step.residual[k] == pytest.approx(r - x @ y)
        np.testing.assert_allclose(step.terms[k], -2 * w * (r - x @ y) * y)
        slip = slip - 2 * w * (r - x @ y) * x
    np.testing.assert_allclose(step.pull, 2 * REG * x)
    expected = walk.gradients(walk.X)[0][walk.row]
    np.testing.assert_allclose(step.gradient, expected)
    np.testing.assert_allclose(step.by_autodiff, expected)
    np.testing.assert_allclose(step.by_differences, expected[: steps.SHOWN], rtol=1e-8)
    np.testing.assert_allclose(step.slip, slip)
    assert np.linalg.norm(slip - expected) > 0.5 * np.linalg.norm(expected), "the slip must be seen to be wrong"


def test_reach_of_one_row(walk):
    before, after = walk.gradients(walk.X), walk.gradients(walk.moved(walk.solutions.right.x))
    for norms, old, new in zip(walk.reach, before, after, strict=True):
        columns = [np.linalg.norm(each, axis=1) for each in (old, new, new - old)]
        np.testing.assert_allclose(norms, np.stack(columns, axis=1), rtol=1e-9, atol=1e-10)
    others = np.arange(walk.table.num_users) != walk.row
    rated = np.isin(np.arange(walk.table.num_items), walk.table.item[walk.mine])
    np.testing.assert_array_equal(walk.at.others, ~rated)
    assert (walk.reach.user[others, 2] == 0).all() and (walk.reach.item[~rated, 2] == 0).all()
    assert (walk.reach.item[rated, 2] > 1e-3).all()


def test_system_is_the_librarys(walk):
    A, b = walk.equation(REG)
    np.testing.assert_allclose(walk.system.gram + REG * np.eye(walk.rank), A)
    np.testing.assert_allclose(walk.system.rhs, b)
    np.testing.assert_allclose(walk.system.library_matrix, A)
    np.testing.assert_allclose(walk.system.library_rhs, b)
    assert walk.system.agrees(REG)
    assert not walk.system.agrees(2 * REG)
    assert not walk.system._replace(library_rhs=b + 1e-6).agrees(REG)


def test_solutions(walk):
    A, b = walk.equation(REG)
    right, wrong = walk.solutions.right, walk.solutions.every_element
    expected = walk.half_sweep("user", walk.X, walk.Y)
    np.testing.assert_allclose(right.x, expected[walk.row])
    np.testing.assert_allclose(walk.solutions.by_als, expected[walk.row])
    assert np.abs(right.gradient).max() < 1e-11 and right.error <= walk.solutions.bound == 1e-13
    assert walk.solutions.worst_error <= walk.solutions.bound
    ones = A - REG * np.eye(walk.rank) + REG
    np.testing.assert_allclose(ones @ wrong.x, b, atol=1e-9)
    np.testing.assert_allclose(wrong.gradient, 2 * (A @ wrong.x - b), atol=1e-9)
    assert np.linalg.norm(wrong.gradient) > 1e-2
    assert wrong.error == pytest.approx(walk.error(wrong.x, REG)) and wrong.error > 1e-4
    for each in (right, wrong):
        assert each.loss == pytest.approx(walk.value(walk.moved(each.x), walk.Y))
    assert wrong.loss > right.loss


def test_each_solution_passes_its_own_certificate_only(walk):
    regs = REG, REG * len(walk.mine)
    for x, preset, errors, own in zip(walk.inside.x, ("explicit", "als_wr"), walk.inside.error, (0, 1), strict=True):
        np.testing.assert_allclose(x, walk.half_sweep("user", walk.X, walk.Y, preset)[walk.row])
        assert errors[own] <= walk.solutions.bound
        assert errors[1 - own] == pytest.approx(walk.error(x, regs[1 - own])) and errors[1 - own] > 1e-3


def test_backward_error_of_any_row(walk):
    for objective, reg in ((walk.at.objective, REG), (jals.als_wr(REG), REG * len(walk.mine))):
        error = steps.backward_error(walk.at, walk.X[walk.row], objective)
        assert error == pytest.approx(walk.error(walk.X[walk.row], reg))


def test_half_is_convex_and_the_whole_is_not(walk):
    A, _ = walk.equation(REG)
    np.testing.assert_allclose(walk.shape.hessian, 2 * A)
    assert walk.shape.smallest == pytest.approx(2 * np.linalg.eigvalsh(A)[0])
    assert walk.shape.smallest >= 2 * REG * (1 - 1e-12)
    X, Y = (np.asarray(part) for part in (walk.descent.factors.user, walk.descent.factors.item))
    assert walk.shape.ends == pytest.approx((walk.value(X, Y), walk.value(-X, -Y)))
    assert walk.shape.ends[0] == walk.shape.ends[1]
    assert walk.shape.middle == pytest.approx((walk.table.weight * walk.table.value**2).sum())
    assert walk.shape.middle > walk.shape.ends[0]


def test_descent_is_that_of_plain_sweeps(walk):
    X, Y, losses = walk.X, walk.Y, []
    for sweep in range(steps.SWEEPS[-1] + 1):
        if sweep in walk.descent.sweep:
            losses.append(walk.value(X, Y))
        X = walk.half_sweep("user", X, Y)
        Y = walk.half_sweep("item", X, Y)
    assert tuple(walk.descent.sweep) == steps.SWEEPS
    np.testing.assert_allclose(walk.descent.loss, losses)
    assert (np.diff(walk.descent.loss) <= 0).all()
    assert walk.descent.stationarity[-1] < walk.descent.stationarity[0]
    solver, start = jals.ALS(walk.rank), walk.at.start
    stopped = jals.fit(solver, walk.at.problem, walk.at.objective, sweeps=20, init=start, tol=1e-3)
    assert walk.descent.tol_sweep == (stopped.sweep if stopped.reason == "tol" else None)


# ---- the opening ----


def read(words: str) -> list[float]:
    """The numbers of a line, in order."""
    found = re.findall(r"[-−]?\d[\d,]*(?:\.\d+)?(?!\w)", words)
    return [float(each.replace(",", "").replace("−", "-")) for each in found]


def test_the_five_lines_in_numbers(walk):
    first, at_the_end, moves, shapes, solved = opening.numbers(
        walk.at, walk.slope, walk.reach, walk.solutions, lambda item: f"<{walk.data.vocab.item[item]}>"
    )
    n, (users, items), rank = len(walk.mine), (walk.table.num_users, walk.table.num_items), walk.rank
    rated = [f"<{walk.data.vocab.item[walk.table.item[e]]}>" for e in walk.mine]
    assert first.startswith(f"{n} of {items} items: {rated[0]}, {rated[1]}")
    named = first.count("<")
    assert named == n if n <= 4 else (named == 3 and first.endswith(f"and {n - 3} more"))

    e = walk.mine[0]
    x, y, r, w = walk.X[walk.row], walk.Y[walk.table.item[e]], walk.table.value[e], walk.table.weight[e]
    shown = steps.SHOWN if rank > steps.SHOWN else rank
    factors = [-2, w] if (walk.at.weight != 1).any() else [-2]
    error = r - x @ y
    expected = [*y[:shown], error, *factors, error, *(-2 * w * error * y)[:shown]]
    assert rated[0] in at_the_end
    np.testing.assert_allclose(read(at_the_end.replace(rated[0], "")), expected, atol=0.01)

    assert read(moves) == [n, items - n, users - 1]
    assert read(shapes) == [users, rank, rank, users, items, rank, rank, items]
    np.testing.assert_allclose(read(solved), [rank, n, *walk.solutions.right.x[:shown]], atol=1e-3)
    assert ("…" in solved) == (rank > steps.SHOWN)


def test_an_item_that_is_a_number_is_called_an_item(walk):
    arguments = walk.at, walk.slope, walk.reach, walk.solutions
    assert "for item 12, y_i is" in opening.numbers(*arguments, lambda item: str(item + 12 - walk.at.item[0]))[1]
    assert "for Alien, y_i is" in opening.numbers(*arguments, lambda item: "Alien")[1]


def test_a_row_that_moves_more_than_its_own_items_is_told(walk):
    """The third line counts what autodiff has found; it does not repeat the words beside it."""
    item = walk.reach.item.copy()
    item[np.flatnonzero(walk.at.others)[0], 2] = 1e-9
    user = walk.reach.user.copy()
    user[(walk.row + 1) % len(user), 2] = 1e-9
    spoilt = opening.numbers(walk.at, walk.slope, steps.Reach(user, item), walk.solutions, str)[2]
    n = len(walk.mine)
    assert read(spoilt) == [n + 1, walk.table.num_items - n - 1, walk.table.num_users - 2]


def test_the_words_without_latex():
    words = r"$x_u^T y_i$, $\sum y_i y_i^T + λI$, $X^T Y$ is $X Y^T$, $r_{ui} - x_{u1}$"
    assert opening.plain(words) == "x_uᵀy_i, Σ y_i y_iᵀ + λI, XᵀY is X Yᵀ, r_ui − x_u1"
    assert opening.plain(r"$\sum r_{ui} y_i$", weighted=True) == "Σ w_ui r_ui y_i"
    for line in opening.LINES:
        assert not re.search(r"[$\\{}^]", opening.plain(line.question + line.answer))


def test_the_page_opens_with_the_words_of_the_command():
    parts = [opening.SETTING]
    parts += [f"{place}. **{line.question}** {line.answer}" for place, line in enumerate(opening.LINES, 1)]
    title, *opened = [" ".join(block.split()) for block in PAGE.split("\n## ")[0].split("\n\n")]
    assert title.startswith("# ")
    assert " ".join(opened).startswith(" ".join([*parts, opening.SIGNS]))


def test_short_is_the_opening_alone():
    data = derivation.built_in()
    short, whole = plain(printed(data, short=True)), plain(printed(data))
    assert whole.startswith(short) and len(short.splitlines()) < 35 and not re.search(r"^\d  ", short, re.M)
    assert max(map(cell_len, short.splitlines())) <= 80
    said = " ".join(short.split())
    for line in opening.LINES:
        assert " ".join(opening.plain(f"{line.question} {line.answer}").split()) in said
    assert said.count("→ Ann:") == 5 and "→ Ann: 3 of 4 items: Alien, Casablanca and Duel" in said
    theirs = " ".join(plain(printed(random_table(), "1005", rank=5, short=True)).split())
    assert theirs.count("→ user 1005:") == 5 and "Σ w_ui y_i y_iᵀ + λI" in theirs and "[red]:heart: " in theirs


def test_short_on_the_command_line():
    done = jals_command("derive", "--short", "--user", "Eva")
    assert done.exit_code == 0, done.output
    assert done.output.count("→ Eva:") == 5 and "The table" not in done.output
    assert jals_command("derive", "--short", "--user", "Anna").exit_code != 0


# ---- what it prints ----


def printed(data: Dataset, *arguments, **options) -> str:
    """What `derive` prints on 80 columns, colours included; its exit code must be 0."""
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True, color_system="standard", highlight=False)
    assert derivation.derive(console, data.ratings, data.vocab, *arguments, titles=data.titles, **options) == 0
    return out.getvalue()


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_the_built_in_table_on_80_columns():
    coloured = printed(derivation.built_in())
    text = plain(coloured)
    assert max(map(cell_len, text.splitlines())) <= 80
    assert not re.search(r"\bnan\b", text) and not re.search(r"\w…", text), "no NaN, and nothing cut"
    assert [line[0] for line in text.splitlines() if re.match(r"\d  \S", line)] == list("123456789")
    assert re.search(r"→ Ann +5 +· +1 +4", text) and re.search(r"  Eva +· +4 +· +5", text)
    assert "wrong" in text and "yes" in text
    assert text.count("passes") == 2 + 2 + 1 and text.count("fails") == 2 + 1  # certificates, and a sentence on them
    walked = coloured[coloured.index("The table") :]
    lit = [line for line in walked.splitlines() if "\x1b[1;36m" in line]
    assert len(lit) == 1 + 3 and all(re.search("Ann|Alien|Casablanca|Duel", line) for line in lit)


def test_one_outer_product_is_shown_in_numbers():
    at = steps.setting(derivation.built_in().ratings, 0)
    text = plain(printed(derivation.built_in()))
    (block,) = re.findall(r"in numbers, that of Alien:(.*?)Their sum", text, re.S)
    y = at.y[0]
    lines = [read(line) for line in block.splitlines() if read(line)]
    np.testing.assert_allclose(lines[0], [y[0], *y, *(y[0] * y)], atol=1e-3)
    np.testing.assert_allclose(lines[1], [y[1], *(y[1] * y)], atol=1e-3)


def test_the_better_convention_is_the_one_of_the_study():
    """The page's two errors, and the winner that page and command name, are those of the study's record."""
    study = json.loads((ROOT / "experiments" / "results" / "lambda_convention.json").read_text(encoding="utf-8"))
    errors = {row["point"]["preset"]: row["test_RMSE"][0] for row in study["rows"]}
    (words,) = re.findall(r"\*\*Which λ is better\?\*\* (.*?)\n\n", PAGE, re.S)
    written = {preset: float(error) for error, preset in re.findall(r"([\d.]+)\swith\s\S+\s\(`(\w+)`\)", words)}
    assert written == {preset: round(error, 3) for preset, error in errors.items()}
    assert errors["explicit"] < errors["als_wr"] and words.startswith("λ alone was")
    assert "λ alone does" in " ".join(plain(printed(derivation.built_in())).split())


def test_a_larger_table_is_cut_short():
    data = random_table()
    text = plain(printed(data, "1005", reg=12.5, rank=5))
    entries = int(((data.ratings.user == 5) & (data.ratings.weight > 0)).sum())
    assert entries > 10 and text.count(f"… and {entries - 8} more") == 2
    assert "[red]:heart: " in text, "a title is no markup"
    assert "3 of its 5 coordinates" in text and "w_ui" in text and "user 1005" in text
    assert f"{(data.ratings.weight > 0).sum()} entries" in text, "an entry of weight 0 is missing"
    assert max(map(cell_len, text.splitlines())) <= 80
    assert not re.search(r"\bnan\b", text)
    assert len(text.splitlines()) < 240


def test_special_cases_are_said():
    ratings = jals.Ratings.from_arrays([0, 1, 1], [0, 0, 1], np.array([3.0, 4.0, 5.0]))
    at, out = steps.setting(ratings, 0, rank=1), io.StringIO()
    text = Walkthrough(Console(file=out, width=80), at, Vocabulary(np.array([1, 2]), np.array([7, 9])))
    same = steps.Solution(np.ones(1), np.zeros(1), 0.0, 1.0)
    text.system(steps.system(at), steps.Solutions(same, same, np.ones(1), 0.0, 1e-13))
    text.inside(steps.Inside(np.ones((2, 1)), np.zeros((2, 2))), 1e-13)
    text.shape(steps.Shape(np.eye(1), 1.0, (50.0, 50.0), 50.0))
    for words in ("This row has one entry", "With rank 1", "nothing is learnt"):
        assert words in " ".join(out.getvalue().split())


def test_the_user_to_show_where_none_is_named():
    vocab = Vocabulary(np.arange(10, 15), np.arange(6))
    user, item = np.array(
        [[0] * 5 + [1] * 2 + [2] * 4 + [3] * 3 + [4] * 3, [*range(5), 0, 1, *range(4), 0, 1, 2, 3, 4, 5]]
    )
    weight = np.ones(len(user))
    ratings = jals.Ratings.from_arrays(user, item, weight, weight=weight)
    assert derivation.user_row(ratings, vocab, None) == 3
    weight[user == 3] = 0
    assert derivation.user_row(dataclasses.replace(ratings, weight=weight), vocab, None) == 4
    few = jals.Ratings.from_arrays([1, 1, 2], [0, 1, 0], np.ones(3))
    assert derivation.user_row(few, vocab, None) == 1
    assert derivation.user_row(ratings, vocab, "12") == derivation.user_row(ratings, vocab, 12) == 2


def test_float32_is_judged_by_its_own_bound():
    jax.config.update("jax_enable_x64", False)
    at = steps.setting(derivation.built_in().ratings, 0)
    equations = steps.system(at)
    found = steps.solutions(at, equations)
    assert at.start.dtype == np.float32 and equations.agrees(at.reg)
    assert 0 < max(found.right.error, found.worst_error) <= found.bound == 1e-5


def test_a_failed_certificate_is_exit_code_1(monkeypatch):
    found = steps.solutions

    def spoilt(*arguments):
        solutions = found(*arguments)
        return solutions._replace(right=solutions.right._replace(error=1e-3))

    monkeypatch.setattr(steps, "solutions", spoilt)
    data, out = derivation.built_in(), io.StringIO()
    assert derivation.derive(Console(file=out, width=80), data.ratings, data.vocab) == 1
    assert "under 1e-13: fails" in " ".join(out.getvalue().split())


def test_a_table_of_the_readers_own(tmp_path):
    """The built-in table again, from a file with ids of its own."""
    from jals.data.readers import read_ratings

    people, drinks, table = ("pia", "quin", "rosa", "sam", "tom"), ("ale", "bun", "cake", "dip"), derivation.built_in()
    entries = zip(table.ratings.user, table.ratings.item, table.ratings.value, strict=True)
    lines = ["user,item,rating", *(f"{people[u]},{drinks[i]},{r}" for u, i, r in entries)]
    (tmp_path / "mine.csv").write_text("\n".join(lines) + "\n")
    ratings, vocab = read_ratings(tmp_path / "mine.csv")
    text = plain(printed(Dataset(ratings, vocab, None), "pia"))
    assert re.search(r"→ pia +5 +· +1 +4", text)
    theirs = plain(printed(table, "Ann"))
    numbers = [re.findall(r"-?\d+\.\d{2,}", each) for each in (text, theirs)]
    assert numbers[0] == numbers[1] and len(numbers[0]) > 60


# ---- what it refuses ----


def test_unknown_user_and_bad_numbers():
    data, out = derivation.built_in(), io.StringIO()
    console = Console(file=out)

    def derive(*arguments, data=data, **options):
        return derivation.derive(console, data.ratings, data.vocab, *arguments, **options)

    with pytest.raises(jals.DataError, match=r"'Anna' is not in the vocabulary of 5 users\. Did you mean \"Ann\""):
        derive("Anna")
    with pytest.raises(jals.DataError, match=r"99 is not in the vocabulary of 31 users.* nearest known id is 1000"):
        derive("99", data=random_table())
    with pytest.raises(jals.DataError, match=r"no entries.*Choose a user with entries"):
        derive(1030, data=random_table())
    for reg in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(jals.ArgumentError, match=r"reg is .* must be a number > 0"):
            derive("Ann", reg)
    with pytest.raises(jals.ArgumentError, match="rank is 0"):
        derive("Ann", rank=0)
    with pytest.raises(jals.ArgumentError, match=r"must end in \.png or \.svg"):
        derive("Ann", picture="table.pdf")
    assert out.getvalue() == "", "refused before anything is printed"


# ---- pictures ----


def test_picture_of_a_small_and_a_large_table(tmp_path):
    text = plain(printed(derivation.built_in(), "Ann", picture=tmp_path / "table.png"))
    assert (tmp_path / "table.png").read_bytes().startswith(b"\x89PNG") and "table.png" in text
    printed(random_table(), "1005", rank=5, picture=str(tmp_path / "table.svg"))
    assert "Drawn: 6 of" in (tmp_path / "table.svg").read_text(encoding="utf-8")
    with pytest.raises(jals.StorageError, match="cannot write the picture"):
        printed(derivation.built_in(), picture=tmp_path / "nowhere" / "table.svg")


@pytest.mark.parametrize("long_names", [False, True])
@pytest.mark.parametrize("row", [0, 2, 4])
def test_picture_shows_the_row_and_no_words_overlap(row, long_names):
    from matplotlib import cbook
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from jals.app.commands.derivation import picture

    data = derivation.built_in()
    titles = np.array([f"$5 or $6: {title}, the cut of it" for title in data.vocab.item]) if long_names else None
    at = steps.setting(data.ratings, row, rank=3)
    figure = picture.table(at, data.vocab, titles)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    words = [text for text in figure.axes[0].texts if text.get_text()]
    said = [text.get_text() for text in words]
    assert not any(map(cbook.is_math_text, said)), "two dollar signs are no formula"
    for number in (*at.x, *at.y.ravel()):
        assert f"{number:.2f}" in said
    assert said.count("skipped") == at.others.sum()
    lit = [text.get_text() for text in words if text.get_fontweight() == "bold" and text.get_text() in "12345"]
    assert lit == [f"{value:g}" for value in at.value]
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in words if not text.get_rotation()]
    for k, box in enumerate(boxes):
        assert figure.bbox.containsx(box.x0) and figure.bbox.containsx(box.x1)
        assert figure.bbox.containsy(box.y0) and figure.bbox.containsy(box.y1)
        assert not any(box.overlaps(other) for other in boxes[:k])


def structure(svg: str) -> tuple[list[str], int]:
    """The words of a picture, which its comments repeat, and how many shapes it has."""
    drawn = re.sub(r"<defs>.*?</defs>", "", svg, flags=re.S)
    return re.findall(r"<!-- (.*?) -->", svg), drawn.count("<path ")


def test_pictures_of_the_page_are_up_to_date(tmp_path):
    from jals.app.commands.derivation import picture

    figures = script("docs", "figures", "draw.py").figures()
    assert set(figures) == {path.name for path in FIGURES.glob("*.svg")}
    for name, figure in figures.items():
        picture.save(tmp_path / name, figure)
        fresh, kept = ((folder / name).read_text(encoding="utf-8") for folder in (tmp_path, FIGURES))
        assert structure(fresh) == structure(kept), f"{name}: draw it again with python docs/figures/draw.py"


def test_the_page_has_the_built_in_table():
    """The page writes the table out; the command carries it."""
    rows = re.findall(r"^    \[(.*?)\],\s+# (\w+)$", PAGE, re.M)
    data = derivation.built_in()
    table = np.full((5, 4), np.nan)
    table[data.ratings.user, data.ratings.item] = data.ratings.value
    assert [name for _, name in rows] == data.vocab.user.tolist()
    written = [[float(cell.replace("no", "nan")) for cell in cells.split(",")] for cells, _ in rows]
    np.testing.assert_array_equal(written, table)


def test_the_start_is_that_of_the_solver():
    """The page draws its own start; the numbers of the command are the page's."""
    data = derivation.built_in()
    at = steps.setting(data.ratings, 0)
    start = jals.ALS(2, init_scale=1.0).init(jax.random.key(0), at.problem, at.objective).factors
    for one, other in zip(dataclasses.astuple(at.start), dataclasses.astuple(start), strict=True):
        np.testing.assert_array_equal(one, other)
