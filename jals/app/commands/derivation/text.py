"""What `jals derive` shows in the terminal: nine short steps that fit 80 columns, with or without colour."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from rich import box, text
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from ....data.vocabulary import Vocabulary
from ...show.console import printable
from . import steps

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

    # ---- the steps ----

    def table(self) -> None:
        table, n = self.at.ratings, len(self.at.value)
        pairs = table.num_users * table.num_items
        self._heading("1  The table")
        self._print(
            f"{_count(table.num_users, 'user')}, {_count(table.num_items, 'item')}, {_count(len(table), 'entry')}; the "
            f"other {pairs - len(table):,} of {pairs:,} pairs are missing."
        )
        if self.small:
            self._whole_table()
        else:
            listed = _table("item", "r")
            for entry in self._listed():
                _row(listed, self._item(self.at.item[entry]), f"[{MARK}]{self.at.value[entry]:g}[/]")
            if n > len(self._listed()):
                _row(listed, f"… and {n - len(self._listed()):,} more", "")
            self._print(listed)
        self._print(
            f"We follow the row of {self.name}, with {_count(n, 'entry')}. A missing pair is a blank that no sum below "
            "reads. It is not a 0."
        )

    def loss(self, step: steps.Loss) -> None:
        self._heading("2  The loss")
        self._formula(
            f"L = Σ {self.w}(r_ui − x_uᵀy_i)² + λ (Σ_u ‖x_u‖² + Σ_i ‖y_i‖²)        (1)",
            f"    first Σ: over the {_count(len(self.at.ratings), 'entry')} (u, i), and no other pair",
        )
        self._print(f"X and Y are random to begin with, rank {len(self.at.x)}; λ is {self.at.reg:g}. Here")
        parts = {"Σ squared residuals": step.squared, "λ Σ ‖x_u‖²": step.users, "λ Σ ‖y_i‖²": step.items}
        parts |= {"their sum, L": step.total, "L by jals.loss": step.by_library}
        self._rows(parts, [[each] for each in parts.values()])
        if len(self.at.x) > steps.SHOWN:
            self._print(f"Of every vector below, {steps.SHOWN} of its {len(self.at.x)} coordinates are shown.")

    def slope(self, step: steps.Slope) -> None:
        at, n, w = self.at, len(self.at.value), self.w
        self._heading(f"3  The derivative in one row, x of {self.name}")
        self._print("L is a sum: differentiate each term by x_u, with Y and all other rows held.")
        self._formula(f"d/dx_u {w}(r_ui − x_uᵀy_i)²  =  −2 {w}(r_ui − x_uᵀy_i) y_i", "d/dx_u λ‖x_u‖²  =  2λ x_u")
        self._print(
            "The chain rule gives 2 (…) times the derivative of what stands inside the bracket. That of −x_uᵀy_i by "
            f"x_u is −y_i. So y_i ends the term, not x_u. With term = −2 {w}(r − xᵀy) y:"
        )
        self._print(self._terms(step))
        self._print(
            f"Skipped: {_count(at.ratings.num_items - n, 'missing pair')} of this row, not in the sum (1) at all; "
            f"{_count(len(at.ratings) - n, 'entry')} of other rows and the rest of the λ terms, which do not contain "
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
        shown = _table("", "‖gradient‖\nbefore", "\nafter", "changed by\n‖difference‖")
        if self.small:
            names = [*map(self._user, np.flatnonzero(others).tolist()), *map(self._item, range(at.ratings.num_items))]
            norms = np.concatenate([step.user[others], step.item])
            touched = np.concatenate([np.zeros(others.sum(), bool), ~at.others])
            for name, cells, changed in zip(names, _cells(norms), touched, strict=True):
                _row(shown, f"{name} (an entry of the row)" if changed else name, *cells)
        else:
            groups = {"other users": step.user[others], "its items": step.item[~at.others]}
            groups["other items"] = step.item[at.others]
            means = [norms.mean(axis=0) if len(norms) else np.zeros(3) for norms in groups.values()]
            for (name, norms), cells in zip(groups.items(), _cells(means), strict=True):
                _row(shown, f"{len(norms):,} {name} (mean)", *cells)
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
        self._formula(f"(Σ {w}y_i y_iᵀ + λI) x_u = Σ {w}r_ui y_i")
        grid = Table.grid(padding=(0, 3))
        for _ in range(3):
            grid.add_column(justify="center")
        _row(grid, f"Σ {w}y_i y_iᵀ", "λI", f"Σ {w}r_ui y_i")
        diagonal = [[f"{reg:g}" if k == l else "·" for l in range(len(step.rhs))] for k in range(len(step.rhs))]
        wide = len(f"{reg:g}")
        lines = ["  ".join(cell.rjust(wide) for cell in row[: steps.SHOWN]) for row in diagonal[: steps.SHOWN]]
        _row(grid, _matrix(step.gram), "\n".join(lines), "\n".join(_column(step.rhs[: steps.SHOWN])))
        self._print(grid)
        self._print(f"Does jals form the same two? {_verdict(step.agrees(reg), 'yes', 'no')}")
        self._print(
            "A number cannot be added to a matrix: + λ in this place means + λI, on the diagonal. Added to every "
            "element, as array libraries read A + λ, it gives another x_u, and the gradient there is not 0:"
        )
        both = {"with λI": found.right, "λ everywhere": found.every_element}
        shown = _table("", *_coordinates("x", self.at.x), *_coordinates("dL/dx", self.at.x))
        for name, each in both.items():
            _row(shown, name, *_column(each.x[: steps.SHOWN]), *map(_number, each.gradient[: steps.SHOWN]))
        self._print(shown)
        if len(self.at.x) == 1:
            self._print("With rank 1 there is one element, and the two are the same.")

    def solution(self, found: steps.Solutions) -> None:
        self._heading("6  The solution")
        self._formula(f"x_u = (Σ {self.w}y_i y_iᵀ + λI)⁻¹ Σ {self.w}r_ui y_i        (2)")
        self._rows({"solved here": 0, "by jals.ALS, half a sweep": 0}, [found.right.x, found.by_als])
        self._heading("7  The gradient there")
        size = float(np.linalg.norm(found.right.gradient))
        self._print(f"‖gradient of L in x_u‖ at (2), by jax.grad: {_number(size)}. Zero, but for rounding?")
        self._formula("η = ‖A x − b‖ / (‖A‖ ‖x‖ + ‖b‖)       with ‖A x − b‖ = ½ ‖gradient‖")
        self._print(
            f"The backward error η compares it with the sizes in the equation A x = b: {found.right.error:.1e}. An "
            f"exact solver stays under {found.bound:.0e}: {_verdict(found.right.error <= found.bound)}. jals.certify "
            f"asks it of all {_count(self.at.ratings.num_users, 'user')}; the worst is {found.worst_error:.1e}: "
            f"{_verdict(found.worst_error <= found.bound)}."
        )

    def inside(self, step: steps.Inside, bound: float) -> None:
        n, reg = len(self.at.value), self.at.reg
        self._heading("8  λ inside the sum over entries: another loss")
        self._formula(f"Σ over entries of  {self.w}(r_ui − x_uᵀy_i)² + λ‖x_u‖² + λ‖y_i‖²")
        self._print(
            f"has λ‖x_u‖² once for each entry of the row: λ n_u = {reg:g} · {n} = {reg * n:g} in all. Its solution has "
            "λ n_u I where (2) has λI. jals calls this loss als_wr, and (1) explicit:"
        )
        shown = _table("", *_coordinates("x", self.at.x), "η under\nexplicit", "η under\nals_wr")
        rows = _cells(step.x[:, : steps.SHOWN])
        for name, x, errors in zip(("with λI", "with λ n_u I"), rows, step.error, strict=True):
            _row(shown, name, *x, *(f"{error:.1e} {_verdict(error <= bound)}" for error in errors))
        self._print(shown)
        if n == 1:
            self._print("This row has one entry, so λ n_u is λ and the two are the same.")
        elif ((step.error <= bound) == np.eye(2, dtype=bool)).all():
            self._print("Each solution passes under its own loss, and fails under the other.")

    def shape(self, step: steps.Shape) -> None:
        self._heading("9  Why it works, and when to stop")
        self._print(f"In x_u alone L is a bowl. Its Hessian, 2 (Σ {self.w}y_i y_iᵀ + λI), by jax.hessian:")
        self._print(_matrix(step.hessian))
        self._print(
            f"Its smallest eigenvalue is {_number(step.smallest)}, never less than 2λ = {2 * self.at.reg:g} > 0: one "
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
        shown = _table("sweep", "loss", "stationarity")
        for sweep, loss, stationarity in zip(step.sweep, step.loss, step.stationarity, strict=True):
            _row(shown, str(sweep), f"{loss:#,.4g}" if loss < 1e4 else f"{loss:,.0f}", f"{stationarity:.1e}")
        self._print(shown)
        when = f"here after {_count(step.tol_sweep, 'sweep')}" if step.tol_sweep else "here later than that"
        self._print(
            f"Stop when the loss has settled (tol=1e-3: a sweep takes off less than a thousandth; {when}); or when "
            "the stationarity, the gradient of all rows relative to their systems, is as small as you want; or, to "
            "predict, when the error on held-out ratings no longer falls (validation=, patience=)."
        )

    def saved(self, picture: Any) -> None:
        self.console.print(text.Text(printable(f"saved {picture}")), soft_wrap=True)

    # ---- parts of steps ----

    def _user(self, row: int) -> str:
        return _short(steps.user_name(self.vocab, row), 16)

    def _item(self, item: int) -> str:
        return _short(steps.item_name(self.vocab, self.titles, item), 16)

    def _listed(self) -> range:
        n = len(self.at.value)
        return range(n if n <= LISTED + 2 else LISTED)

    def _whole_table(self) -> None:
        table = self.at.ratings
        shown = Table(box=None, padding=(0, 1), header_style="none")
        shown.add_column("")
        width = 54 // table.num_items - 2
        for item in range(table.num_items):
            shown.add_column(_marked(_short(steps.item_name(self.vocab, self.titles, item), width)), justify="center")
        value = {(u, i): f"{r:g}" for u, i, r in zip(table.user, table.item, table.value, strict=True)}
        for user in range(table.num_users):
            mine = user == self.at.row
            cells = [value.get((user, item), "·") for item in range(table.num_items)]
            cells = [f"[{MARK}]{cell}[/]" if mine and cell != "·" else cell for cell in cells]
            _row(shown, f"{'→' if mine else ' '} {self._user(user)}", *cells)
        self._print(shown)

    def _terms(self, step: steps.Slope) -> Table:
        """One line an entry, what the entries not listed add up to, the pull of lambda, and the sum of all."""
        at, listed, n = self.at, self._listed(), len(self.at.value)
        heads = (*["w"] * self.weighted, "r", "xᵀy", "r − xᵀy")
        shown = _table("entry", *heads, *_coordinates("term", at.x))
        rest = step.terms[len(listed) :].sum(axis=0)
        columns = _cells(np.vstack([step.terms[: len(listed)], rest, step.pull, step.gradient])[:, : steps.SHOWN])
        for k, score, residual in zip(listed, _column(step.score[listed]), _column(step.residual[listed]), strict=True):
            weight = [f"{at.weight[k]:g}"] * self.weighted
            _row(shown, self._item(at.item[k]), *weight, f"[{MARK}]{at.value[k]:g}[/]", score, residual, *columns[k])
        blank = [""] * len(heads)
        if n > len(listed):
            _row(shown, f"… and {n - len(listed):,} more", *blank, *columns[-3])
        _row(shown, "2λ x_u", *blank, *columns[-2])
        _row(shown, "sum", *blank, *columns[-1], style="bold")
        return shown

    # ---- how things are printed ----

    def _heading(self, words: str) -> None:
        self.console.print(_marked(words), style="bold")

    def _formula(self, *lines: str) -> None:
        self._print("\n".join(f"   {line}" for line in lines))

    def _rows(self, names: Iterable[str], vectors: Iterable[Any]) -> None:
        grid = Table.grid(padding=(0, 2))
        for name, row in zip(names, _cells([np.asarray(each)[: steps.SHOWN] for each in vectors]), strict=True):
            _row(grid, f"   {name}", *row)
        self._print(grid)

    def _print(self, what: Any) -> None:
        """A paragraph or a table, set in a little, and an empty line."""
        what = _marked(what) if isinstance(what, str) else what
        self.console.print(Padding(what, (0, 0, 1, 3), expand=False))


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place else "left", no_wrap=True)
    return table


def _row(table: Table, *cells: str, style: str | None = None) -> None:
    table.add_row(*map(_marked, cells), style=style)


def _marked(words: str) -> text.Text:
    """Words with rich's markup. A title with colons is no emoji, which a console of its own accord would make it."""
    return text.Text.from_markup(words, emoji=False)


def _coordinates(name: str, x: np.ndarray) -> list[str]:
    """Headings of a vector's columns: x₁, x₂, …"""
    return [f"{name}{subscript}" for _, subscript in zip(x, "₁₂₃"[: steps.SHOWN], strict=False)]


def _matrix(matrix: np.ndarray) -> str:
    return "\n".join("  ".join(row) for row in _cells(matrix[: steps.SHOWN, : steps.SHOWN]))


def _cells(vectors: Any) -> list[list[str]]:
    """The cells of several vectors, of one length or not, all with as many decimals and of one width."""
    vectors = list(vectors)
    cells = iter(_column(np.concatenate(vectors)))
    return [[next(cells) for _ in vector] for vector in vectors]


def _column(values: np.ndarray) -> list[str]:
    """Numbers of one column: the largest with four digits, all with as many decimals and of one width."""
    largest = float(np.max(np.abs(values), initial=0.0))
    if largest == 0 or 1e-3 <= largest < 1e7:
        places = 3 if largest == 0 else min(max(3 - math.floor(math.log10(largest)), 0), 6)
        cells = [f"{round(float(value), places) + 0.0:,.{places}f}" for value in values]
    else:
        cells = [f"{value:.1e}" for value in values]
    width = max(map(len, cells), default=0)
    return [cell.rjust(width) for cell in cells]


def _number(value: float) -> str:
    """One number with four digits, or as a power of ten where it is very small or large."""
    return _column(np.array([value]))[0]


def _count(number: int, what: str) -> str:
    plural = what if number == 1 else f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
    return f"{number:,} {plural}"


def _verdict(fine: bool, yes: str = "passes", no: str = "fails") -> str:
    return f"[green]{yes}[/]" if fine else f"[red]{no}[/]"


def _short(text: str, width: int) -> str:
    """A name, printable and cut to so many columns of the terminal; its brackets are no markup."""
    text = printable(text)
    if cell_len(text) > width:
        text = set_cell_size(text, width - 1).rstrip() + "…"
    return escape(text)
