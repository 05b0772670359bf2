"""What `jals plan` does: a plan in words, and as a picture."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from ...data.sources import as_path
from ...errors import ArgumentError, StorageError
from ...planning import plan as planning
from ...planning.chips import topology
from ...planning.text import seconds
from ..show.page import plots
from ..show.printing import spinner_during
from .derivation.picture import check


def show(
    console: Console, table: Path | None, sizes: tuple, picture: Path | None, rank: int, where: str, **options: Any
) -> int:
    """Plans, and says what came of it. Returns the exit code, 0, or 1 where the job does not fit.

    Args:
        options: those of `jals.plan`.

    Raises:
        JalsError: for what cannot be planned.
    """
    if (table is None) == (None in sizes) or (table is not None and any(sizes)):
        raise ArgumentError("a plan needs --users, --items and --entries, or --table alone.")
    if picture is not None:
        check(picture)
    with spinner_during(console, f"compiling for {where}"):
        made = planning.plan(table or sizes, rank, where, **options)
    for line in str(made).splitlines():
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    if picture is not None:
        drawn = plots.picture(draw, made)
        try:
            as_path(picture).write_bytes(drawn.svg if picture.suffix.lower() == ".svg" else drawn.png)
        except OSError as error:
            raise StorageError(f"cannot write the picture {picture}: {error.strerror or error}.") from error
        console.print(f"drew {picture}", soft_wrap=True)
    return 0 if made.fits else 1


def draw(made: planning.Plan) -> Figure:
    """Bytes a device by the number of devices, beside what it has; and the floors of a run on the slice asked for."""
    figure = Figure(figsize=(1.7 * plots.WIDTH, 2.9))
    left, right = figure.subplots(1, 2)
    _slices(left, made)
    _floors(right, made)
    return figure


def _slices(axes: Any, made: planning.Plan) -> None:
    devices = np.array([topology(name).devices for name in made.slices])
    needed = np.array(list(made.slices.values())) / 2**30
    axes.plot(devices, needed, marker="o", markersize=4, color=plots.SERIES[0], label="needed, by arrays")
    here = topology(made.topology).devices
    axes.plot([here], [made.needed / 2**30], "D", color=plots.SERIES[2], label="by the compiler", zorder=3)
    axes.axhline(made.limit / 2**30, color=plots.RED, linestyle="--", label="a device has")
    plots.log(axes, "y", np.append(needed, made.limit / 2**30))
    axes.set_xscale("log", base=2)
    shown = devices if len(devices) < 10 else devices[::2]
    axes.set_xticks(shown, [f"{number:,}" for number in shown])
    axes.set(xlabel="devices", ylabel="GiB a device", title=f"memory, {made.job.precision}, rank {made.job.rank}")
    axes.legend(loc="best")


def _floors(axes: Any, made: planning.Plan) -> None:
    parts = {part: least for part, least in made.floors.items() if part != "interconnect"} | made.sent
    parts = {part: least for part, least in parts.items() if least > 0 and not math.isnan(least)}
    axes.set(title=f"floors on {made.topology}; red: what binds")
    if not parts:
        axes.text(0.5, 0.5, "no floors are known", ha="center", va="center", transform=axes.transAxes)
        axes.axis("off")
        return
    places = np.arange(len(parts))[::-1]
    binding = [part == made.binds or (made.binds == "interconnect" and part in made.sent) for part in parts]
    colours = [plots.RED if each else plots.SERIES[0] for each in binding]
    axes.barh(places, list(parts.values()), color=colours, height=0.6)
    for place, least in zip(places, parts.values(), strict=True):
        axes.annotate(seconds(least), (least, place), (3, 0), textcoords="offset points", va="center")
    axes.set_yticks(places, list(parts))
    axes.set(xlim=(0, 1.25 * max(parts.values())), xlabel="seconds, by stated rates, unvalidated")
    axes.grid(axis="y", visible=False)
