"""The answer before the walk: what `jals derive` and docs/derivation.md open with, in five lines, and the same five in
numbers of one row.

The words are written as the page has them, formulas in LaTeX between dollar signs; `plain` is for a terminal.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from . import steps
from .typeset import column, counted, number

NAMED = 4  # items that are named; of more, only some


class Line(NamedTuple):
    question: str
    answer: str


SETTING = (
    "u is a user, i an item, $r_{ui}$ a rating, and $x_u^T y_i$ its prediction. The squared errors are differentiated "
    "by one vector $x_u$; all else is held."
)
LINES = (
    Line(
        "Which $y_i$ are summed?",
        "Those of the items that u has rated: only their errors hold $x_u$. All other terms are constants here, with "
        "the derivative 0.",
    ),
    Line(
        "Why $y_i$ at the end, and not $x_u$?",
        "By the chain rule a term ends with the derivative of its error $r_{ui} - x_u^T y_i$ by $x_u$, and that is "
        "$-y_i$: $x_u^T y_i$ is $x_{u1} y_{i1} + x_{u2} y_{i2} + …$",
    ),
    Line(
        "What moves with one row of X?",
        "No number of Y, nor of the other rows of X. Only derivatives do: by the row itself, and by $y_i$ of the items "
        "that u has rated. So all rows of X are solved at once, then all of Y.",
    ),
    Line(
        "Rows or columns?",
        "Row u of X in the code is column u of X in most notes: both are $x_u$. So it is with Y and $y_i$. Their "
        "$X^T Y$ is $X Y^T$ in the code.",
    ),
    Line(
        "What is solved?",
        r"Derivative 0 means $(\sum y_i y_i^T + λI) x_u = \sum r_{ui} y_i$, with both sums over the items that u has "
        "rated: linear equations, as many as $x_u$ has numbers.",
    ),
)
SIGNS = (
    "Signs: Σ adds up. $x^T y$ is two vectors multiplied number by number and added up. $y y^T$ is the square table of "
    "all products of two numbers of y. $^T$ on a table makes its rows columns. $λI$ is λ on the diagonal, 0 elsewhere."
)


def plain(words: str, weighted: bool = False) -> str:
    """The words without LaTeX: x_u^T y_i as x_uᵀy_i. In a table with weights, every sum has them."""
    words = re.sub(r"\^T( (?=\w))?", "ᵀ", words.replace(r"\sum", "Σ w_ui" if weighted else "Σ"))
    return words.translate(str.maketrans("-", "−", "${}"))


def numbers(
    at: steps.Setting, slope: steps.Slope, reach: steps.Reach, found: steps.Solutions, item: Callable[[int], str]
) -> list[str]:
    """Each line in numbers of the row; `item` makes a name fit to print of an item's number."""
    n, items, users, rank = len(at.item), at.ratings.num_items, at.ratings.num_users, len(at.x)
    names = [item(each) for each in at.item[: n if n <= NAMED else NAMED - 1]]
    names += [f"{n - len(names):,} more"] * (n > len(names))
    listed = " and ".join([", ".join(names[:-1]), names[-1]] if n > 1 else names)
    which = f"item {names[0]}" if names[0].isdecimal() else names[0]
    factor = f"−2 · {at.weight[0]:g}" if (at.weight != 1).any() else "−2"
    moved = int((reach.item[:, 2] > 0).sum())
    unmoved = int((reach.user[np.arange(users) != at.row, 2] == 0).sum())
    return [
        f"{n:,} of {counted(items, 'item')}: {listed}",
        f"for {which}, y_i is {vector(at.y[0])} and the error {number(slope.residual[0])}; the term is {factor} · "
        f"{number(slope.residual[0])} y_i = {vector(slope.terms[0])}",
        f"the derivatives by {counted(moved, 'item')} move; those by {counted(items - moved, 'other item')} and "
        f"{counted(unmoved, 'other user')} do not, to the last digit",
        f"X is {users:,} × {rank} here, {rank} × {users:,} in the notes; Y {items:,} × {rank} and {rank} × {items:,}",
        f"{counted(rank, 'equation')}, {counted(n, 'term')} in each sum; x_u = {vector(found.right.x)}",
    ]


def vector(values: np.ndarray) -> str:
    shown = [cell.strip() for cell in column(values[: steps.SHOWN])]
    return f"({', '.join([*shown, *['…'] * (len(values) > steps.SHOWN)])})"
