"""What `jals datasets` shows: the tables that a config can name, and what is in one."""

from typing import Any, get_args

import numpy as np
from rich import box
from rich.console import Console

from ... import datasets
from ...errors import DataError, check_choice
from ..show.console import Table
from ..show.printing import spinner_during


def show(console: Console, name: str | None) -> int:
    """Lists the named data sets, or describes one. Returns the exit code, 0.

    Raises:
        JalsError: for a name that is none, or a data set that is not at hand.
    """
    if name is None:
        _list(console)
        return 0
    check_choice("the data set", name, get_args(datasets.Name))
    with spinner_during(console, "reading the data"):
        data = datasets.load(name)  # pyright: ignore[reportArgumentType]
    grid = Table.grid(padding=(0, 2))
    for heading, text in describe_dataset(data):
        grid.add_row(heading, text)
    console.print(grid)
    console.print()
    console.print(f'In a config: [data] source = "{name}"')
    return 0


def describe_dataset(data: datasets.Dataset) -> list[tuple[str, str]]:
    """(heading, text) for each line of a description."""
    ratings = data.ratings
    lines = [("table", repr(ratings))]
    for side in ("user", "item"):
        degree = np.bincount(getattr(ratings, side), minlength=getattr(ratings, f"num_{side}s"))
        low, middle, high = np.quantile(degree, [0, 0.5, 1])
        lines.append((f"entries by {side}", f"{low:.0f} to {high:,.0f}, median {middle:,.0f}"))
    values, counts = np.unique(ratings.value, return_counts=True)
    if len(values) <= 12:
        shares = zip(values, counts / len(ratings), strict=True)
        lines.append(("values", ", ".join(f"{value:g} ({share:.0%})" for value, share in shares)))
    else:
        lines.append(("values", f"{values[0]:g} to {values[-1]:g}, {len(values):,} different ones"))
    lines.append(("mean value", f"{ratings.value.mean(dtype=np.float64):.4f}"))
    if ratings.time is not None:
        lines.append(("time", " to ".join(_day(moment) for moment in (ratings.time.min(), ratings.time.max()))))
    ids = {side: getattr(data.vocab, side) for side in ("user", "item")}
    lines += [(f"{side} ids", f"{known[0]} to {known[-1]}") for side, known in ids.items()]
    if data.titles is not None:
        known = data.titles[data.titles != ""]
        lines.append(("titles", f"{len(known):,}, such as {known[0]}"))
    return lines


def _day(moment: Any) -> str:
    """Times are seconds since 1970 in every data set of this list."""
    return str(np.datetime64(int(moment), "s")).replace("T", " ")


def _list(console: Console) -> None:
    table = Table("name", "what", "at hand", box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
    for name in get_args(datasets.Name):
        try:
            ratings = datasets.load(name).ratings
            what = f"{ratings.num_users:,} x {ratings.num_items:,}, {len(ratings):,} entries"
            table.add_row(name, what, "yes")
        except ImportError as missing:
            table.add_row(name, "", f"no: {missing}")
        except DataError:
            table.add_row(name, "", "no: not in the folder that JALS_DATA names")
    console.print(table)
    console.print(
        'jals datasets NAME describes one. A file of your own, or an unpacked folder of GroupLens: [data] path = "..."',
        soft_wrap=True,
    )
