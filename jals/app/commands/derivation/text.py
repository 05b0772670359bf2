"""What `jals derive` shows in the terminal: the answer, then nine short steps, on 80 columns, in colour or not."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from rich import text
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from ....data.vocabulary import Vocabulary
from ...show.console import printable
from . import opening, steps
from .typeset import add_row, aligned, column, coordinates, counted, marked, matrix, number, ruled, short, verdict

LISTED = 8  # rows of a list that are shown; the rest is summed up
SMALL = (12, 7)  # users and items of a table that is shown whole
MARK = "bold cyan"  # the row's own entries


class Walkthrough:
    """Prints the steps of one walk; every public method prints one, from its numbers."""

    def __init__(self, console: Console, at: steps.Setting, vocab: Vocabulary, titles: Any = None):
        self.console, self.at, self.vocab, self.titles = console, at, vocab, titles
        self.name = self._user(at.row)
        assert at.ratings.weight is not None  # `steps.setting` fills it
        self.weighted = bool((at.ratings.weight != 1).any())
        self.w = "w_ui " if self.weighted else ""  # the entry's weight in a formula
        self.small = at.ratings.num_users <= SMALL[0] and at.ratings.num_items <= SMALL[1]

    def opening(self, slope: steps.Slope, reach: steps.Reach, found: steps.Solutions) -> None:
        """The answer in five lines, each with the row's numbers."""
        mine = opening.numbers(self.at, slope, reach, found, self._item)
        self._heading("The answer, in five lines")
        self._print(escape(opening.plain(opening.SETTING)))
        grid = Table.grid(padding=(0, 1))
        for place, (line, here) in enumerate(zip(opening.LINES, mine, strict=True), 1):
            question, answer = (escape(opening.plain(words, self.weighted)) for words in line)
            add_row(grid, str(place), f"[bold]{question}[/] {answer}")
            add_row(grid, "", f"[{MARK}]→ {self.name}:[/] {here}")
        self._print(grid)
        self._print(escape(opening.plain(opening.SIGNS)))

    # ---- the steps ----

    def table(self) -> None:
        table, n = self.at.ratings, len(self.at.value)
        pairs = table.num_users * table.num_items
        self._heading("1  The table")
        self._print(
            f"{counted(table.num_users, 'user')}, {counted(table.num_items, 'item')}, {counted(len(table), 'entry')}; "
            f"the other {pairs - len(table):,} of {pairs:,} pairs are missing."
        )
        if self.small:
            self._whole_table()
        else:
            listed = ruled("item", "r")
            for entry in self._listed():
                add_row(listed, self._item(self.at.item[entry]), f"[{MARK}]{self.at.value[entry]:g}[/]")
            if n > len(self._listed()):
                add_row(listed, f"… and {n - len(self._listed()):,} more", "")
            self._print(listed)
        self._print(
            f"We follow the row of {self.name}, with {counted(n, 'entry')}. A missing pair is a blank that no sum "
            "below reads. It is not a 0."
        )
        self._print(
            "A user's row is the line of ratings here, and x_u, line u of X. An item's row is y_i, line i of Y, though "
            "its ratings are a column here."
        )

    def loss(self, step: steps.Loss) -> None:
        self._heading("2  The loss")
        self._formula(
            f"L = Σ {self.w}(r_ui − x_uᵀy_i)² + λ (Σ_u ‖x_u‖² + Σ_i ‖y_i‖²)        (1)",
            f"    first Σ: over the {counted(len(self.at.ratings), 'entry')} (u, i), and no other pair",
        )
        self._print(
            f"‖x‖² adds up the squares of the numbers in x. X and Y are random to begin with, rank {len(self.at.x)} "
            f"({counted(len(self.at.x), 'number')} a row); λ is {self.at.reg:g}. Here"
        )
        parts = {"Σ squared residuals": step.squared, "λ Σ ‖x_u‖²": step.users, "λ Σ ‖y_i‖²": step.items}
        parts |= {"their sum, L": step.total, "L by jals.loss": step.by_library}
        self._rows(parts, [[each] for each in parts.values()])
        if len(self.at.x) > steps.SHOWN:
            self._print(f"Of every vector below, {steps.SHOWN} of its {len(self.at.x)} coordinates are shown.")

    def slope(self, step: steps.Slope) -> None:
        at, n, w = self.at, len(self.at.value), self.w
        self._heading(f"3  The derivative in one row, x of {self.name}")
        self._print(
            "d/dx_u stands for the derivatives by each number of x_u, all else held: a vector, called the gradient in "
            "that row. L is a sum, so take it of each term:"
        )
        self._formula(f"d/dx_u {w}(r_ui − x_uᵀy_i)²  =  −2 {w}(r_ui − x_uᵀy_i) y_i", "d/dx_u λ‖x_u‖²  =  2λ x_u")
        self._print(
            "The chain rule gives 2 (…) times the derivative of what stands inside the bracket. That of −x_uᵀy_i by "
            f"x_u is −y_i. So y_i ends the term, not x_u. With term = −2 {w}(r − xᵀy) y:"
        )
        self._print(self._terms(step))
        self._print(
            f"Skipped: {counted(at.ratings.num_items - n, 'missing pair')} of this row, not in the sum (1) at all; "
            f"{counted(len(at.ratings) - n, 'entry')} of other rows and the rest of the λ terms, which do not contain "
            "this x_u. The same derivative in other ways:"
        )
        ways = {
            "the sum above": step.gradient,
            "jax.grad of jals.loss": step.by_autodiff,
            "finite differences of jals.loss": step.by_differences,
            "x_u in place of y_i: [red]wrong[/]": step.slip,
        }
        self._rows(ways, ways.values())

    def reach(self, step: steps.Reach) -> None:
        at = self.at
        self._heading(f"4  What x of {self.name} touches when it moves")
        self._print(
            "Move x_u to its solution (step 6) and hold the rest. The gradient in every other row, by jax.grad, before "
            "and after:"
        )
        others = np.arange(at.ratings.num_users) != at.row
        shown = ruled("", "‖gradient‖\nbefore", "\nafter", "changed by\n‖difference‖")
        if self.small:
            names = [*map(self._user, np.flatnonzero(others).tolist()), *map(self._item, range(at.ratings.num_items))]
            norms = np.concatenate([step.user[others], step.item])
            touched = np.concatenate([np.zeros(others.sum(), bool), ~at.others])
            for name, cells, changed in zip(names, aligned(norms), touched, strict=True):
                add_row(shown, f"{name} (an entry of the row)" if changed else name, *cells)
        else:
            groups = {"other users": step.user[others], "its items": step.item[~at.others]}
            groups["other items"] = step.item[at.others]
            means = [norms.mean(axis=0) if len(norms) else np.zeros(3) for norms in groups.values()]
            for (name, norms), cells in zip(groups.items(), aligned(means), strict=True):
                add_row(shown, f"{len(norms):,} {name} (mean)", *cells)
        self._print(shown)
        self._print(
            "Other users' rows do not notice: so all users are solved at once, each by itself. The items of this row "
            "do: when their turn comes, they are solved against the new X. That is why the two sides alternate."
        )

    def system(self, step: steps.System, found: steps.Solutions) -> None:
        w, reg = self.w, self.at.reg
        self._heading("5  Gram matrix, right-hand side, λI")
        self._print(
            "Set the derivative to 0, and bring what multiplies x_u to the left: x_uᵀy_i is a number, so (x_uᵀy_i) y_i "
            "is y_i (y_iᵀx_u), and that is (y_i y_iᵀ) x_u. Both sums run over this row's entries."
        )
        self._print(f"Such a y_i y_iᵀ in numbers, that of {self._item(self.at.item[0])}:")
        self._outer(self.at.y[0])
        self._print("Their sum is the Gram matrix. λ x_u is λI x_u: λI is λ on the diagonal, 0 elsewhere. Together:")
        self._formula(f"(Σ {w}y_i y_iᵀ + λI) x_u = Σ {w}r_ui y_i")
        grid = Table.grid(padding=(0, 3))
        for _ in range(3):
            grid.add_column(justify="center")
        add_row(grid, f"Σ {w}y_i y_iᵀ", "λI", f"Σ {w}r_ui y_i")
        diagonal = [[f"{reg:g}" if k == l else "0" for l in range(len(step.rhs))] for k in range(len(step.rhs))]
        wide = len(f"{reg:g}")
        lines = ["  ".join(cell.rjust(wide) for cell in row[: steps.SHOWN]) for row in diagonal[: steps.SHOWN]]
        add_row(grid, matrix(step.gram), "\n".join(lines), "\n".join(column(step.rhs[: steps.SHOWN])))
        self._print(grid)
        self._print(f"Does jals form the same two? {verdict(step.agrees(reg), 'yes', 'no')}")
        self._print(
            "A number cannot be added to a matrix: + λ in this place means + λI, on the diagonal. Added to every "
            "element, as array libraries read A + λ, it gives another x_u, and the gradient there is not 0:"
        )
        both = {"with λI": found.right, "λ everywhere": found.every_element}
        shown = ruled("", *coordinates("x", self.at.x), *coordinates("dL/dx", self.at.x))
        for name, each in both.items():
            add_row(shown, name, *column(each.x[: steps.SHOWN]), *map(number, each.gradient[: steps.SHOWN]))
        self._print(shown)
        if len(self.at.x) == 1:
            self._print("With rank 1 there is one element, and the two are the same.")

    def solution(self, found: steps.Solutions) -> None:
        self._heading("6  The solution")
        self._formula(f"x_u = (Σ {self.w}y_i y_iᵀ + λI)⁻¹ Σ {self.w}r_ui y_i        (2)")
        self._rows({"solved here": 0, "by jals.ALS, all users once": 0}, [found.right.x, found.by_als])
        self._heading("7  The gradient there")
        size = float(np.linalg.norm(found.right.gradient))
        self._print(f"‖gradient of L in x_u‖ at (2), by jax.grad: {number(size)}. Zero, but for rounding?")
        self._formula("η = ‖A x − b‖ / (‖A‖ ‖x‖ + ‖b‖)       with ‖A x − b‖ = ½ ‖gradient‖")
        self._print(
            "The norm ‖…‖ is the root of the sum of all squares. "
            f"The backward error η compares it with the sizes in the equation A x = b: {found.right.error:.1e}. An "
            f"exact solver stays under {found.bound:.0e}: {verdict(found.right.error <= found.bound)}. jals.certify "
            f"asks it of all {counted(self.at.ratings.num_users, 'user')}; the worst is {found.worst_error:.1e}: "
            f"{verdict(found.worst_error <= found.bound)}."
        )

    def inside(self, step: steps.Inside, bound: float) -> None:
        n, reg = len(self.at.value), self.at.reg
        self._heading("8  λ inside the sum over entries: another loss")
        self._formula(f"Σ over entries of  {self.w}(r_ui − x_uᵀy_i)² + λ‖x_u‖² + λ‖y_i‖²")
        self._print(
            f"has λ‖x_u‖² once for each entry of the row: λ n_u = {reg:g} · {n} = {reg * n:g} in all. Its solution has "
            "λ n_u I where (2) has λI. jals calls this loss als_wr, and (1) explicit:"
        )
        shown = ruled("", *coordinates("x", self.at.x), "η under\nexplicit", "η under\nals_wr")
        rows = aligned(step.x[:, : steps.SHOWN])
        for name, x, errors in zip(("with λI", "with λ n_u I"), rows, step.error, strict=True):
            add_row(shown, name, *x, *(f"{error:.1e} {verdict(error <= bound)}" for error in errors))
        self._print(shown)
        if n == 1:
            self._print("This row has one entry, so λ n_u is λ and the two are the same.")
        elif ((step.error <= bound) == np.eye(2, dtype=bool)).all():
            self._print("Each solution passes under its own loss, and fails under the other.")
        self._print(
            "Which of the two predicts better is for held-out ratings to say. On MovieLens latest-small λ alone does "
            "(the study lambda_convention), though λ n_u is the usual one."
        )

    def shape(self, step: steps.Shape) -> None:
        self._heading("9  Why it works, and when to stop")
        self._print(f"In x_u alone L is a bowl. Its Hessian, 2 (Σ {self.w}y_i y_iᵀ + λI), by jax.hessian:")
        self._print(matrix(step.hessian))
        self._print(
            f"Its smallest eigenvalue is {number(step.smallest)}, never less than 2λ = {2 * self.at.reg:g} > 0: one "
            "minimum, and (2) is it. In X and Y together L is not convex. After some sweeps"
        )
        values = {"L at (X, Y)": step.ends[0], "L at (−X, −Y)": step.ends[1], "L halfway, at 0": step.middle}
        self._rows(values, [[each] for each in values.values()])
        if step.middle > step.ends[0]:
            self._print(
                "and the middle of a bowl is not higher than its rim. Other random factors may end in another minimum."
            )
        else:
            self._print("and all factors go to 0: with so large a λ nothing is learnt, and this test shows nothing.")

    def descent(self, step: steps.Convergence) -> None:
        self._print("Each half-sweep solves its rows exactly, so the loss cannot rise:")
        shown = ruled("sweep", "loss", "stationarity")
        for sweep, loss, stationarity in zip(step.sweep, step.loss, step.stationarity, strict=True):
            add_row(shown, str(sweep), f"{loss:#,.4g}" if loss < 1e4 else f"{loss:,.0f}", f"{stationarity:.1e}")
        self._print(shown)
        when = f"here after {counted(step.tol_sweep, 'sweep')}" if step.tol_sweep else "here later than that"
        self._print(
            f"Stop when the loss has settled (tol=1e-3: a sweep takes off less than a thousandth; {when}); or when "
            "the stationarity, the gradient of all rows relative to their systems, is as small as you want; or, to "
            "predict, when the error on held-out ratings no longer falls (validation=, patience=)."
        )

    def saved(self, picture: Any) -> None:
        self.console.print(text.Text(printable(f"saved {picture}")), soft_wrap=True)

    # ---- parts of steps ----

    def _user(self, row: int) -> str:
        return short(steps.user_name(self.vocab, row), 16)

    def _item(self, item: int) -> str:
        return short(steps.item_name(self.vocab, self.titles, item), 16)

    def _listed(self) -> range:
        n = len(self.at.value)
        return range(n if n <= LISTED + 2 else LISTED)

    def _whole_table(self) -> None:
        table = self.at.ratings
        shown = Table(box=None, padding=(0, 1), header_style="none")
        shown.add_column("")
        width = 54 // table.num_items - 2
        for item in range(table.num_items):
            shown.add_column(marked(short(steps.item_name(self.vocab, self.titles, item), width)), justify="center")
        value = {(u, i): f"{r:g}" for u, i, r in zip(table.user, table.item, table.value, strict=True)}
        for user in range(table.num_users):
            mine = user == self.at.row
            cells = [value.get((user, item), "·") for item in range(table.num_items)]
            cells = [f"[{MARK}]{cell}[/]" if mine and cell != "·" else cell for cell in cells]
            add_row(shown, f"{'→' if mine else ' '} {self._user(user)}", *cells)
        self._print(shown)

    def _terms(self, step: steps.Slope) -> Table:
        """One line an entry, what the entries not listed add up to, the pull of lambda, and the sum of all."""
        at, listed, n = self.at, self._listed(), len(self.at.value)
        heads = (*["w"] * self.weighted, "r", "xᵀy", "r − xᵀy")
        shown = ruled("entry", *heads, *coordinates("term", at.x))
        rest = step.terms[len(listed) :].sum(axis=0)
        columns = aligned(np.vstack([step.terms[: len(listed)], rest, step.pull, step.gradient])[:, : steps.SHOWN])
        for k, score, residual in zip(listed, column(step.score[listed]), column(step.residual[listed]), strict=True):
            weight = [f"{at.weight[k]:g}"] * self.weighted
            add_row(shown, self._item(at.item[k]), *weight, f"[{MARK}]{at.value[k]:g}[/]", score, residual, *columns[k])
        blank = [""] * len(heads)
        if n > len(listed):
            add_row(shown, f"… and {n - len(listed):,} more", *blank, *columns[-3])
        add_row(shown, "2λ x_u", *blank, *columns[-2])
        add_row(shown, "sum", *blank, *columns[-1], style="bold")
        return shown

    def _outer(self, y: np.ndarray) -> None:
        """y, y' and y y' beside one another."""
        y = y[: steps.SHOWN]
        grid = Table.grid(padding=(0, 3))
        for _ in range(3):
            grid.add_column(justify="center")
        add_row(grid, "y", "yᵀ", "y yᵀ")
        add_row(grid, "\n".join(column(y)), "  ".join(column(y)), matrix(np.outer(y, y)))
        self._print(grid)

    # ---- how things are printed ----

    def _heading(self, words: str) -> None:
        self.console.print(marked(words), style="bold")

    def _formula(self, *lines: str) -> None:
        self._print("\n".join(f"   {line}" for line in lines))

    def _rows(self, names: Iterable[str], vectors: Iterable[Any]) -> None:
        grid = Table.grid(padding=(0, 2))
        for name, row in zip(names, aligned([np.asarray(each)[: steps.SHOWN] for each in vectors]), strict=True):
            add_row(grid, f"   {name}", *row)
        self._print(grid)

    def _print(self, what: Any) -> None:
        """A paragraph or a table, set in a little, and an empty line."""
        what = marked(what) if isinstance(what, str) else what
        self.console.print(Padding(what, (0, 0, 1, 3), expand=False))
