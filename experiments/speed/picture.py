"""The picture of bench_speed.py's figures."""

import textwrap
from pathlib import Path
from typing import Any

from .rules import WAYS, levels

# Paul Tol's bright and vibrant colours: told apart by colour-blind readers too, and by markers besides.
COLOURS = {
    "jals native": "#cc3311",
    "irspack": "#0077bb",
    "cmfrec": "#009988",
    "implicit": "#aa3377",
    "lenskit": "#777777",
}
MARKERS = {"jals": "o", "irspack": "s", "cmfrec": "^", "implicit": "D", "lenskit": "v"}
WIDE = ("jals XLA, two devices",)  # left out: it is in the section xla


def style(name: str) -> dict[str, Any]:
    """A colour and a marker for each library; hollow and dashed is jals without its kernel."""
    library = name.partition(" ")[0]
    ours, kernel = library == "jals", name != "jals XLA"
    return {
        "color": COLOURS["jals native" if ours else library],
        "linestyle": "-" if kernel else "--",
        "marker": MARKERS[library],
        "markerfacecolor": None if kernel else "white",
        "markersize": 5,
        "linewidth": 2.2 if ours and kernel else 1.3,
        "zorder": 4 if ours else 3,
    }


def by_rank(found: dict[str, Any], way: str) -> dict[str, list[tuple[int, dict[str, Any]]]]:
    """Every solver's rows by rank that solves so, from the sections peers and ranks."""
    curves: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for level in levels(found):
        for row in level["rows"]:
            name = row["solver"]
            if found["solvers"][name]["way"] == way and name not in WIDE and row["median"] > 0:
                curves.setdefault(name, []).append((level["rank"], row))
    return curves


def draw(found: dict[str, Any], path: Path) -> None:
    """Seconds a sweep against rank, a panel for each way of solving, and the exact sweep's floor; what has not been
    measured is left out. Small enough a page that a telephone shows its letters."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 6.6), layout="constrained")
    grid = figure.subplots(2, 2, sharex=True, sharey=True)
    *panels, key = grid.flat
    key.axis("off")
    known: dict[str, Any] = {}
    for axes, (way, words) in zip(panels, WAYS.items(), strict=True):
        axes.set(xscale="log", yscale="log")
        axes.set_title(words[0].upper() + words[1:], loc="left", fontsize=11)
        for name, curve in by_rank(found, way).items():
            line = _curve(axes, curve, **style(name))
            known.setdefault(name if name == "jals XLA" else name.partition(" ")[0], line)
        floor = [(level["rank"], level["floor"]["floor"]) for level in levels(found)]
        if way == "exact" and floor:
            (line,) = axes.plot(*zip(*floor, strict=True), color="0.6", linewidth=2.2, zorder=2)
            known["least this machine can take\n(exact sweeps)"] = line
        axes.grid(which="major", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelbottom=True, labelleft=True)
        axes.set(xlabel="rank", ylabel="seconds a sweep")
    ranks = [level["rank"] for level in levels(found)]
    panels[0].set_xticks(ranks, [str(rank) for rank in ranks])
    panels[0].set_xticks([], minor=True)
    panels[0].yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    names = sorted(known, key=lambda name: (not name.startswith("jals"), name.startswith("least"), name))
    shown = {"jals": "jals", "jals XLA": "jals without its kernel"}
    labels = [shown.get(name, name) for name in names]
    if names:
        entries = found["sections"].get("ranks", {}).get("entries", found["table"]["entries"])
        about = f"{entries / 1e6:.3g} M entries, {found['threads']} threads"
        how = "medians; bars: lowest to highest"
        key.legend([known[name] for name in names], labels, loc="center left", frameon=False, title=f"{about}\n{how}")
        key.get_legend()._legend_box.align = "left"
    title = found["headlines"]["exact"] or "Seconds a sweep against rank"
    figure.suptitle(textwrap.fill(title, 62), x=0.01, ha="left", fontsize=12, fontweight="bold")
    figure.savefig(path, dpi=200)


def _curve(axes: Any, curve: list[tuple[int, dict[str, Any]]], **how: Any) -> Any:
    """Medians, with the lowest and the highest as bars."""
    ranks, rows = zip(*curve, strict=True)
    medians = [row["median"] for row in rows]
    # A difference of fits can come out below zero, which a logarithmic axis has no place for.
    below = [row["median"] - max(row["low"], row["median"] / 10) for row in rows]
    around = [below, [row["high"] - row["median"] for row in rows]]
    return axes.errorbar(ranks, medians, yerr=around, capsize=2, **how)
