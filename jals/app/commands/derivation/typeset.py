"""How numbers, names and tables are set in the terminal: rich markup, aligned columns, four digits."""

import math
from typing import Any

import numpy as np
from rich import box, text
from rich.cells import cell_len, set_cell_size
from rich.markup import escape
from rich.table import Table

from ...show.console import printable
from . import steps


def ruled(*headings: str) -> Table:
    """A table of numbers under these headings, names in its first column."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place else "left", no_wrap=True)
    return table


def add_row(table: Table, *cells: str, style: str | None = None) -> None:
    table.add_row(*map(marked, cells), style=style)


def marked(words: str) -> text.Text:
    """Words with rich's markup. A title with colons is no emoji, which a console of its own accord would make it."""
    return text.Text.from_markup(words, emoji=False)


def coordinates(name: str, x: np.ndarray) -> list[str]:
    """Headings of a vector's columns: x₁, x₂, …"""
    return [f"{name}{subscript}" for _, subscript in zip(x, "₁₂₃"[: steps.SHOWN], strict=False)]


def matrix(values: np.ndarray) -> str:
    return "\n".join("  ".join(row) for row in aligned(values[: steps.SHOWN, : steps.SHOWN]))


def aligned(vectors: Any) -> list[list[str]]:
    """The cells of several vectors, of one length or not, all with as many decimals and of one width."""
    vectors = list(vectors)
    cells = iter(column(np.concatenate(vectors)))
    return [[next(cells) for _ in vector] for vector in vectors]


def column(values: np.ndarray) -> list[str]:
    """Numbers of one column: the largest with four digits, all with as many decimals and of one width."""
    largest = float(np.max(np.abs(values), initial=0.0))
    if largest == 0 or 1e-3 <= largest < 1e7:
        places = 3 if largest == 0 else min(max(3 - math.floor(math.log10(largest)), 0), 6)
        cells = [f"{round(float(value), places) + 0.0:,.{places}f}" for value in values]
    else:
        cells = [f"{value:.1e}" for value in values]
    width = max(map(len, cells), default=0)
    return [cell.rjust(width) for cell in cells]


def number(value: float) -> str:
    """One number with four digits, or as a power of ten where it is very small or large."""
    return column(np.array([value]))[0]


def counted(many: int, what: str) -> str:
    plural = what if many == 1 else f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
    return f"{many:,} {plural}"


def verdict(fine: bool, yes: str = "passes", no: str = "fails") -> str:
    return f"[green]{yes}[/]" if fine else f"[red]{no}[/]"


def short(text: str, width: int) -> str:
    """A name, printable and cut to so many columns of the terminal; its brackets are no markup."""
    text = printable(text)
    if cell_len(text) > width:
        text = set_cell_size(text, width - 1).rstrip() + "…"
    return escape(text)
