"""What a notebook shows of an object: a small table of HTML. Each class says its rows; how they look is said here."""

import functools
import re
from collections.abc import Callable, Sequence
from html import escape
from typing import Any, NamedTuple

import jax
import numpy as np

from .errors import is_traced

ROWS = 10  # of a table, at most: it is as long for a large object as for a small one
MANY = 10_000_000  # numbers, above which nothing is worked out of them for a table
# Control characters (C0, DEL, C1), what else ends a line, what turns the order of letters round, halves of characters.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# No colours: those of the notebook are right, be they light or dark.
_LEFT, _NOTE = "text-align: left", "text-align: left; font-weight: normal; opacity: 0.75"


class Table(NamedTuple):
    """What a class says of an object. Texts and numbers; they are escaped.

    Attributes:
        title: a line above.
        rows: of cells; without a `head` the first cell of each is its name.
        head: the names of the columns.
        note: a line below.
    """

    title: str
    rows: Sequence[Sequence[Any]]
    head: Sequence[str] = ()
    note: str = ""


def shown(tell: Callable[[Any], Table]) -> Callable[[Any], str]:
    """Makes a `_repr_html_` of a method that says what to show. Where a pytree holds anything but arrays whose numbers
    are at hand, as under a transformation of jax or with its placeholders, the line of `repr` is shown instead."""

    @functools.wraps(tell)
    def html(self: Any) -> str:
        leaves = jax.tree.leaves(self)
        if leaves and all(leaf is self or _at_hand(leaf) for leaf in leaves):
            return draw(tell(self))
        return f"<code>{_text(repr(self))}</code>"

    return html


def draw(table: Table) -> str:
    """The table, with `ROWS` of its rows at most."""
    head = "".join(f'<th style="{_LEFT}">{_text(name)}</th>' for name in table.head)
    across = max([len(table.head), *map(len, table.rows), 1])
    lines = [_row(f'<th colspan="{across}" style="{_LEFT}">{_text(table.title)}</th>'), _row(head) if head else ""]
    body = []
    for row in table.rows[:ROWS]:
        cells = [f'<td style="{_LEFT}">{_text(cell)}</td>' for cell in row]
        if not table.head:
            cells[0] = f'<th style="{_NOTE}">{_text(row[0])}</th>'
        body.append(_row("".join(cells)))
    more = [f"{len(table.rows) - ROWS:,} more"] if len(table.rows) > ROWS else []
    notes = "; ".join([*more, *([table.note] if table.note else [])])
    foot = _row(f'<td colspan="{across}" style="{_NOTE}">{_text(notes)}</td>') if notes else ""
    return f"<table><thead>{''.join(lines)}</thead><tbody>{''.join(body)}{foot}</tbody></table>"


def some_of(count: int) -> list[int]:
    """The places of the `ROWS` of so many rows that a table has room for: the first, the last, and between them."""
    return np.unique(np.linspace(0, count - 1, min(count, ROWS)).round().astype(int)).tolist()


def brief(number: Any, digits: int = 6) -> str:
    """12,345 or 0.123456: a number, or "" for one that is not finite."""
    if isinstance(number, int | np.integer):
        return f"{number:,}"
    return f"{number:.{digits}g}" if np.isfinite(number) else ""


def from_to(first: Any, last: Any, digits: int = 6) -> str:
    """ "3.1 to 4.5"; one of them where they read alike."""
    return " to ".join(dict.fromkeys([brief(first, digits), brief(last, digits)]))


def printable(text: Any, lines: bool = False) -> str:
    """A text in which whatever a terminal or a browser would obey rather than show is written as in Python: \\x1b. With
    `lines` its line breaks stay: those of a text of ours, not of an id or a title."""
    return _UNPRINTABLE.sub(lambda found: "\n" if lines and found[0] == "\n" else repr(found[0])[1:-1], str(text))


def _at_hand(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic) and not is_traced(leaf)


def _row(cells: str) -> str:
    return f"<tr>{cells}</tr>"


def _text(text: Any) -> str:
    return escape(printable(text))
