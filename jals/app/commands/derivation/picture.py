"""The picture of `jals derive`: the table with one row's entries lit, and the vectors that enter its equations."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ....data.sources import as_path
from ....data.vocabulary import Vocabulary
from ....errors import ArgumentError, StorageError
from ...show.console import printable
from . import steps

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

USERS, ENTERING, SKIPPED = 7, 6, 2  # rows and columns drawn of a large table
LIT, DIM, USER, ITEM = "#ffd166", "#eef0f3", "#cfe3ff", "#d3efdb"
INK, PALE, EDGE = "#1f2933", "#6b7480", "#d5dae0"
HEIGHT, GAP = 0.62, 0.5  # of a cell, in widths of one; between the table and the vectors beside it
SCALE = 0.64  # inches of a width, so small that words can be read on a phone


def check(path: str | Path) -> None:
    """Refuses, before any work, what cannot become a picture.

    Raises:
        ArgumentError: for a name that ends neither in .png nor in .svg; ImportError without matplotlib.
    """
    if Path(path).suffix.lower() not in (".png", ".svg"):
        raise ArgumentError(f"the picture is {str(path)!r}, but its name must end in .png or .svg.")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as missing:
        raise ImportError('pictures need matplotlib: pip install "jals[cli]"') from missing


def save(path: str | Path, figure: "Figure") -> None:
    """Writes a figure, the same bytes every time with the same matplotlib.

    Raises:
        StorageError: where the file cannot be written.
    """
    import matplotlib

    metadata: Any = {"Date": None} if Path(path).suffix.lower() == ".svg" else None
    try:
        with matplotlib.rc_context({"svg.hashsalt": "jals"}):
            figure.savefig(as_path(path), facecolor="white", dpi=150, metadata=metadata)
    except OSError as error:
        raise StorageError(f"cannot write the picture {path}: {error.strerror or error}.") from error


def table(at: steps.Setting, vocab: Vocabulary, titles: Any = None) -> "Figure":
    """The table with the row's entries lit and missing pairs blank; x_u beside its row, and y_i under the columns that
    enter its equations. Of a large table some rows and columns are drawn."""
    users, items = _drawn(at)
    coordinates = min(len(at.x), steps.SHOWN)
    names = [_short(steps.item_name(vocab, titles, item), 20) for item in items]
    long = max(map(len, names)) > 10
    top = 0.5 + (0.075 * max(map(len, names)) if long else 0.15)
    left, right = 1.9, len(items) + GAP + coordinates + 0.6
    bottom = len(users) * HEIGHT + GAP + coordinates * HEIGHT + 0.95
    axes = _canvas(-left, right, -top - 0.75, bottom)

    value = {(u, i): r for u, i, r in zip(at.ratings.user, at.ratings.item, at.ratings.value, strict=True)}
    for row, user in enumerate(users):
        mine = user == at.row
        name, middle = _short(str(vocab.user[user]), 16), (row + 0.5) * HEIGHT
        ink, weight = (INK, "bold") if mine else (PALE, "normal")
        axes.text(-0.15, middle, name, color=ink, weight=weight, ha="right", va="center")
        for column, item in enumerate(items):
            if (user, item) in value:
                colour, text = (LIT, INK) if mine else (DIM, PALE)
                _cell(axes, column, row * HEIGHT, colour, f"{value[user, item]:g}", text, bold=mine)
            else:
                _cell(axes, column, row * HEIGHT, None, "", PALE)

    entering = np.isin(items, at.item)
    for column, (name, enters) in enumerate(zip(names, entering, strict=True)):
        label = axes.text(column + 0.5, -0.2, name, color=INK if enters else PALE, size=9, ha="center", va="bottom")
        if long:
            label.set(x=column + 0.35, ha="left", rotation=40, rotation_mode="anchor")

    here = users.index(at.row) * HEIGHT
    beside, under = len(items) + GAP, len(users) * HEIGHT + GAP
    for place, number in enumerate(at.x[:coordinates]):
        _cell(axes, beside + place, here, USER, f"{number:.2f}", INK)
    who = _short(steps.user_name(vocab, at.row), 16)
    middle = beside + coordinates / 2
    where, side = (here - 0.15, "bottom") if here else (here + HEIGHT + 0.15, "top")
    axes.text(middle, where, f"x of {who}", color=INK, ha="center", va=side)
    middle = under + coordinates * HEIGHT / 2
    axes.text(-0.15, middle, "y of each item\nthat enters", color=INK, ha="right", va="center")
    Y = np.asarray(at.start.item)
    for column, (item, enters) in enumerate(zip(items, entering, strict=True)):
        if not enters:
            axes.text(column + 0.5, middle, "skipped", color=PALE, size=9, ha="center", va="center")
            continue
        for place, number in enumerate(Y[item][:coordinates]):
            _cell(axes, column, under + place * HEIGHT, ITEM, f"{number:.2f}", INK)

    heading = f"What enters the equation of {who}"
    axes.text(-left + 0.1, -top - 0.55, heading, color=INK, size=13, weight="bold", va="top")
    axes.text(-left + 0.1, bottom - 0.62, _counts(at, users, items), color=PALE, size=9, va="top")
    return axes.get_figure()  # type: ignore[return-value]  # a figure of its own, never a part of one


def _drawn(at: steps.Setting) -> tuple[list[int], list[int]]:
    """The users and items to draw: all of a small table, else the row, its first items, and users who share them."""
    table = at.ratings
    if table.num_users <= USERS + 1 and table.num_items <= ENTERING + SKIPPED:
        return list(range(table.num_users)), list(range(table.num_items))
    popular = np.argsort(-np.bincount(table.item, minlength=table.num_items), kind="stable")
    skipped = popular[at.others[popular]][:SKIPPED]
    items = np.concatenate([at.item[:ENTERING], skipped])
    company = np.bincount(table.user[np.isin(table.item, items)], minlength=table.num_users)
    company[at.row] = 0
    return [at.row, *np.flatnonzero(company)[: USERS - 1].tolist()], items.tolist()


def _counts(at: steps.Setting, users: list[int], items: list[int]) -> str:
    """What the colours mean, and how much of each is drawn where it is not all."""
    parts = {
        "entries of the row": (int(np.isin(items, at.item).sum()), len(at.item)),
        "users": (len(users), at.ratings.num_users),
        "coordinates": (min(len(at.x), steps.SHOWN), len(at.x)),
    }
    drawn = [f"{some} of {whole:,} {what}" for what, (some, whole) in parts.items() if some < whole]
    lines = ["Lit: entries in its sums. Grey: entries of other rows. Blank: missing, in no sum."]
    return "\n".join([*lines, *([f"Drawn: {', '.join(drawn)}."] if drawn else [])])


def _canvas(left: float, right: float, top: float, bottom: float) -> "Axes":
    """Axes without a frame in which a cell is one wide; down is positive."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(SCALE * (right - left), SCALE * (bottom - top)))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
    axes.axis("off")
    return axes


def _cell(axes: "Axes", x: float, y: float, fill: str | None, text: str, colour: str, bold: bool = False) -> None:
    from matplotlib.patches import FancyBboxPatch

    patch = FancyBboxPatch((x + 0.04, y + 0.04), 0.92, HEIGHT - 0.08, boxstyle="round,pad=0,rounding_size=0.08")
    patch.set(facecolor=fill or "white", edgecolor=EDGE if fill is None else "none", linewidth=0.8)
    axes.add_patch(patch)
    weight = "bold" if bold else "normal"
    axes.text(x + 0.5, y + HEIGHT / 2, text, color=colour, weight=weight, ha="center", va="center", size=10)


def _short(text: str, width: int) -> str:
    """A name, printable and cut to so many characters, its dollar signs no mathematics."""
    text = printable(text)
    text = text if len(text) <= width else text[: width - 1].rstrip() + "…"
    return text.replace("$", r"\$")
