"""The picture of bench_speed.py's figures."""

from pathlib import Path
from typing import Any

# Paul Tol's bright and vibrant colours: told apart by colour-blind readers too, and by dashes and markers besides.
COLOURS = {
    "jals native": "#cc3311",
    "jals XLA": "#ee7733",
    "irspack": "#0077bb",
    "cmfrec": "#009988",
    "implicit": "#aa3377",
    "lenskit": "#777777",
}
DASHES = {"Cholesky": "-", "CG": "--", "iALS++": ":"}
MARKERS = {"Cholesky": "o", "CG": "s", "iALS++": "^"}


def style(name: str) -> dict[str, Any]:
    """A colour for each library, dashes and markers for each way of solving."""
    library, _, way = name.partition(" ")
    ours = library == "jals"
    way = "Cholesky" if ours or not way else way
    return {
        "color": COLOURS[name if ours else library],
        "linestyle": DASHES[way],
        "marker": MARKERS[way],
        "markerfacecolor": "white" if way == "CG" else None,
        "markersize": 5,
        "linewidth": 2.4 if name == "jals native" else 1.4,
        "zorder": 4 if ours else 3,
    }


def by_rank(found: dict[str, Any]) -> tuple[dict[str, list[tuple[int, float]]], list[tuple[int, float]]]:
    """(every solver's seconds by rank, the floor's), from the sections peers and ranks."""
    sections = found["sections"]
    levels = [sections["peers"]] if "peers" in sections else []
    levels = sorted(levels + sections.get("ranks", {}).get("ranks", []), key=lambda level: level["rank"])
    curves: dict[str, list[tuple[int, float]]] = {}
    for level in levels:
        for row in level["rows"]:
            if row["median"] and row["median"] > 0:
                curves.setdefault(row["solver"], []).append((level["rank"], row["median"]))
    return curves, [(level["rank"], level["floor"]["floor"]) for level in levels]


def draw(found: dict[str, Any], path: Path) -> None:
    """Seconds a sweep against rank, with the floor, and against entries; what has not been measured is left out."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.5, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.35, 1))
    table = found["table"]
    curves, floor = by_rank(found)
    for axes in (left, right):
        axes.set(xscale="log", yscale="log")
    left.set_title(f"Rank: {table['entries'] / 1e6:.3g} M entries, {found['threads']} threads", loc="left")
    for name in sorted(curves, key=lambda name: -_height(curves[name])):
        left.plot(*zip(*curves[name], strict=True), label=name, **style(name))
    if floor:
        across, least = zip(*floor, strict=True)
        low, high = left.get_ylim() if curves else (min(least) / 2, max(least))
        bottom = min(low, min(least)) / 2
        left.plot(across, least, color="black", linewidth=1.2, label="floor of this machine", zorder=2)
        left.fill_between(across, least, bottom, color="0.88", zorder=1, linewidth=0)
        left.set_ylim(bottom, max(high, max(least)) * 1.3)
        left.set_xticks(across, [str(rank) for rank in across])
        left.set_xticks([], minor=True)
    left.set(xlabel="rank", ylabel="seconds a sweep")
    if floor or curves:
        left.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)

    section = found["sections"].get("entries", {"curves": {}, "rank": found["rank"]})
    right.set_title(f"Entries: rank {section['rank']}, fewer users", loc="left")
    for name, curve in sorted(section["curves"].items(), key=lambda item: -item[1]["seconds"][-1]):
        grown = "" if curve["exponent"] is None else f", exponent {curve['exponent']:.2f}"
        right.plot(curve["entries"], curve["seconds"], label=name + grown, **style(name))
    if section["curves"]:
        counts = next(iter(section["curves"].values()))["entries"]
        right.set_xticks(counts, [f"{count / 1e6:.3g} M" for count in counts])
        right.set_xticks([], minor=True)
        low, high = right.get_ylim()
        right.set_ylim(low, high * (high / low) ** 0.25)  # room for the legend
        right.legend(loc="upper left", frameon=False)
    right.set(xlabel="entries", ylabel="seconds a sweep")
    for axes in (left, right):
        axes.grid(which="major", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    figure.savefig(path, dpi=120)


def _height(curve: list[tuple[int, float]]) -> float:
    """Seconds over rank, so that the legend has the order of the lines, where they end at other ranks too."""
    rank, seconds = curve[len(curve) // 2]
    return seconds / rank
