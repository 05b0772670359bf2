"""bench_gpu.py's table, and its picture, from what its rows hold. What has not been made is not in it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .picture import style
from .table import card_floor

NAMES = {"native": "jals native", "xla": "jals XLA"}  # backends, as the picture knows them
FAST = {"native": (0.006, 0.025), "xla": (0.060, None)}  # seconds on an H100 at ranks 64 and 128, to be reached
COMPILED = {"native": 5.0, "xla": 8.0}
AT = (64, 128)
FASTER = 20  # than implicit, at the first of these ranks
FAR = 10  # times as far as the CPU's two ways are apart, predictions may be from the CPU's
LEAST = 1e-6  # of what is compared, where these two agree to the bit


class Line(NamedTuple):
    """What it is, what was measured and what is wanted; whether it is right, where it can be wrong, and whether it is
    as fast as wanted, where that is said."""

    what: str
    measured: str
    wanted: str = ""
    right: bool | None = None
    fast: bool | None = None

    @property
    def verdict(self) -> str:
        if self.right is not None:
            return "right" if self.right else "WRONG"
        return "" if self.fast is None else "yes" if self.fast else "no"


def lines(found: dict[str, Any]) -> list[Line]:
    """The table."""
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for row in found["rows"].values():
        by_kind.setdefault(row["kind"], []).append(row)
    floors = floors_of(found)
    for each in by_kind.values():
        each.sort(key=lambda row: (row.get("backend", ""), row.get("rank", 0), row.get("share", 0)))
    made = list(_twice(found))
    made += [line for kind, each in _KINDS.items() for row in by_kind.get(kind, []) for line in each(row, floors)]
    made += list(_ratios(found))
    made += [Line(name, f"left out: {why}") for name, why in found["left_out"].items()]
    return made + ([Line("no time was left for", ", ".join(found["dropped"]))] if found["dropped"] else [])


def floors_of(found: dict[str, Any]) -> dict[int, dict[str, float]]:
    """The floor of a sweep of the whole table, by rank, where its ceilings were measured."""
    rows = list(found["rows"].values())
    tf32 = next((row["tf32"] for row in rows if row["kind"] == "ceilings"), None)
    gathers = {row["rank"]: row["rows"] for row in rows if row["kind"] == "gather"}
    if tf32 is None:
        return {}
    return {rank: card_floor(found["table"], rank, tf32, rate) for rank, rate in sorted(gathers.items())}


def _time(row: dict[str, Any]) -> str:
    return "{:.4g} ms ({:.4g} to {:.4g})".format(*(1e3 * row[name] for name in ("median", "low", "high")))


def _twice(found: dict[str, Any]) -> Iterator[Line]:
    """Whether what was run twice from one start gave finite numbers, and the same."""
    twice = {name: row for name, row in found["rows"].items() if "same_bits" in row}
    faults = [f"{name} has other bits" for name, row in twice.items() if not row["same_bits"]]
    faults += [f"{name} is not finite" for name, row in twice.items() if not row["finite"]]
    if twice:
        told = ", ".join(faults) or f"{len(twice)} programs, the same bits"
        yield Line("two sweeps, made twice", told, "the same bits", not faults)


def _sweep(row: dict[str, Any], floors: dict[int, dict[str, float]]) -> Iterator[Line]:
    backend, rank = row["backend"], row["rank"]
    what = f"sweep, {NAMES[backend]}, rank {rank}, {row['entries'] / 1e6:.3g} M entries" + ", biases" * row["bias"]
    told, wanted, fast = _time(row), "", None
    if row["share"] == 1:
        if rank in floors:
            told += f", {row['median'] / floors[rank]['floor']:.3g} x floor"
        limit = FAST[backend][AT.index(rank)] if rank in AT else None
        if limit is not None:
            wanted, fast = f"<= {1e3 * limit:.3g} ms on an H100", row["median"] <= limit
    yield Line(what, f"{told}; compiled in {row['compile_seconds']:.3g} s", wanted, None, fast)


def _certificate(row: dict[str, Any], _: Any) -> Iterator[Line]:
    worst = ", ".join(f"{side} {row[side]:.1e}" for side in ("user", "item", "last_updated") if row[side] is not None)
    what = f"certificate, {NAMES[row['backend']]}, rank {row['rank']}, {row['dtype']}"
    yield Line(what, worst or "not a number", f"<= {row['bound']:.0e}", row["holds"])


def _against(row: dict[str, Any], _: Any) -> Iterator[Line]:
    bound = FAR * max(row["of_the_cpu"], LEAST if row["dtype"] == "float32" else 1e-9 * LEAST)
    right = row["apart"] is not None and row["apart"] <= bound  # None: not a number
    told = "not a number" if row["apart"] is None else f"{row['apart']:.1e}"
    told += f" (the CPU's own two ways: {row['of_the_cpu']:.1e})"
    yield Line(f"predictions against the CPU's, rank {row['rank']}, {row['dtype']}", told, f"<= {bound:.0e}", right)


def _sanitizer(row: dict[str, Any], _: Any) -> Iterator[Line]:
    yield Line(f"compute-sanitizer, {row['tool']}", row["summary"], "clean", row["clean"])


def _compile(row: dict[str, Any], _: Any) -> Iterator[Line]:
    limit, seconds = COMPILED[row["backend"]], row["compile_seconds"]
    what = f"compiling a fit in a fresh process, {NAMES[row['backend']]}, rank {row['rank']}"
    yield Line(what, f"{seconds:.3g} s", f"<= {limit:.3g} s", None, seconds <= limit)


def _whole(row: dict[str, Any], _: Any) -> Iterator[Line]:
    parts = [f"{name} {seconds:.3g}" for name, seconds in row["parts"].items()]
    parts.insert(0, f"start and end {row['wall'] - sum(row['parts'].values()):.3g}")
    what = f"whole job, {row['name']}, {row['sweeps']} sweeps at rank {row['rank']}"
    yield Line(what, f"{row['wall']:.3g} s, {row['memory'] / 1e9:.3g} GB on the host; RMSE {row['rmse']:.4f}")
    yield Line("  its parts, s", ", ".join(parts))


def _peer(row: dict[str, Any], _: Any) -> Iterator[Line]:
    yield Line(f"sweep, implicit, {row['cg_steps']} steps of CG, rank {row['rank']}", _time(row))


def _ceilings(row: dict[str, Any], _: Any) -> Iterator[Line]:
    rates = f"{row['float32'] / 1e12:.4g} T operations/s in float32, {row['tf32'] / 1e12:.4g} in TF32"
    yield Line("matrix products", f"{rates} (wrong by {row['tf32_error']:.0e})")
    yield Line("copy", f"{row['copy'] / 1e9:.4g} GB/s")


def _gather(row: dict[str, Any], floors: dict[int, dict[str, float]]) -> Iterator[Line]:
    told = f"{row['rows'] / 1e9:.4g} G rows/s, {row['bytes'] / 1e9:.4g} GB/s"
    if row["rank"] in floors:
        least = {name: 1e3 * seconds for name, seconds in floors[row["rank"]].items()}
        told += "; floor {floor:.3g} ms: Grams {gram:.3g}, gathers {gathers:.3g}".format(**least)
    yield Line(f"gather of rows of {row['rank']}", told)


def _build(row: dict[str, Any], _: Any) -> Iterator[Line]:
    for name in ("first", "again"):
        told = ", ".join(f"{part} {seconds:.3g} s" for part, seconds in row[name].items())
        yield Line(f"building a problem, {name}", told)


def _transfer(row: dict[str, Any], _: Any) -> Iterator[Line]:
    yield Line("transfer", f"{row['to'] / 1e9:.3g} GB/s to the device, {row['from'] / 1e9:.3g} from it")


def _around(row: dict[str, Any], _: Any) -> Iterator[Line]:
    of = {"loss": "loss", "predict": f"{row['pairs']:,} predictions", "evaluate": f"RMSE of {row['pairs']:,} pairs"}
    for name, what in of.items():
        yield Line(f"{what}, rank {row['rank']}", _time(row[name]))


def _gradient(row: dict[str, Any], floors: dict[int, dict[str, float]]) -> Iterator[Line]:
    told = _time(row)
    if row["rank"] in floors:
        told += f", {row['median'] / floors[row['rank']]['gathers']:.3g} x the gathers of two passes"
    yield Line(f"step of Adam with the whole gradient, rank {row['rank']}", told)


_KINDS = {
    "certificate": _certificate,
    "against the CPU": _against,
    "sanitizer": _sanitizer,
    "ceilings": _ceilings,
    "gather": _gather,
    "sweep": _sweep,
    "biased": _sweep,
    "peer": _peer,
    "compile": _compile,
    "whole job": _whole,
    "build": _build,
    "transfer": _transfer,
    "around": _around,
    "gradient": _gradient,
}


def _ratios(found: dict[str, Any]) -> Iterator[Line]:
    """implicit's sweep over the kernel's."""
    rows = found["rows"].values()
    by_kernel = [row for row in rows if row["kind"] == "sweep" and row["backend"] == "native"]
    own = {row["rank"]: row for row in by_kernel if row["share"] == 1}
    for row in rows:
        if row["kind"] == "peer" and row["rank"] in own:
            ratio = row["median"] / own[row["rank"]]["median"]
            limit = FASTER if row["rank"] == AT[0] else None
            wanted, fast = ("", None) if limit is None else (f">= {limit}", ratio >= limit)
            yield Line(f"implicit's sweep over the kernel's, rank {row['rank']}", f"{ratio:.3g}", wanted, None, fast)


def text(made: list[Line]) -> str:
    """Columns as wide as what is in them."""
    cells = [("", "measured", "wanted", ""), *((line.what, line.measured, line.wanted, line.verdict) for line in made)]
    widths = [max(len(row[at]) for row in cells) for at in range(3)]
    widths[1] = min(widths[1], 80)
    padded = [[cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)] for row in cells]
    return "\n".join("  ".join(row).rstrip() for row in padded)


def draw(found: dict[str, Any], path: Path) -> bool:
    """Sweeps against rank with the floor, and against entries; False where there is nothing to draw."""
    from matplotlib.figure import Figure

    rows = list(found["rows"].values())
    sweeps, floors = [row for row in rows if row["kind"] == "sweep"], floors_of(found)
    if not sweeps:
        return False
    figure = Figure(figsize=(12.5, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes in (left, right):
        axes.set(xscale="log", yscale="log", ylabel="seconds a sweep")
    whole = found["table"]["entries"]
    lines_of = {NAMES[backend]: [row for row in sweeps if row["backend"] == backend] for backend in NAMES}
    lines_of["implicit CG"] = [row | {"share": 1, "entries": whole} for row in rows if row["kind"] == "peer"]
    for name, made in lines_of.items():
        at_whole = sorted((row for row in made if row["share"] == 1), key=lambda row: row["rank"])
        if at_whole:
            _curve(left, [row["rank"] for row in at_whole], at_whole, label=name, **style(name))
    if floors:
        ranks, least = list(floors), [each["floor"] for each in floors.values()]
        left.plot(ranks, least, color="black", marker=".", label="floor of this card")
        for part, dashes, label in (("gram", ":", "Grams at TF32 / 3"), ("gathers", "--", "gathers")):
            left.plot(ranks, [each[part] for each in floors.values()], dashes, color="0.6", linewidth=1, label=label)
    left.set_xticks(found["ranks"], [str(rank) for rank in found["ranks"]])
    left.set_title(f"Rank: {found['machine']['device']['device']}, {whole / 1e6:.3g} M entries", loc="left")
    left.set_xlabel("rank")
    counts = sorted({row["entries"] for row in sweeps})
    main, second = found["main_rank"], min((rank for rank in found["ranks"] if rank > found["main_rank"]), default=0)
    for rank, faint in ((main, 1.0), (second, 0.5)):
        for name, made in lines_of.items():
            at_rank = sorted((row for row in made if row["rank"] == rank), key=lambda row: row["entries"])
            if len(at_rank) > 1:
                own = {"label": f"{name}, rank {rank}", "alpha": faint, **style(name)}
                _curve(right, [row["entries"] for row in at_rank], at_rank, **own)
        if rank in floors:
            least = [floors[rank]["floor"] * count / whole for count in counts]
            right.plot(counts, least, color="black", alpha=faint, label=f"floor, rank {rank}")
    right.set_xticks(counts, [f"{count / 1e6:.3g} M" for count in counts])
    right.set_title("Entries: fewer users", loc="left")
    right.set_xlabel("entries")
    for axes in (left, right):
        axes.set_xticks([], minor=True)
        axes.grid(which="major", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
    return True


def _curve(axes: Any, across: list[float], rows: list[dict[str, Any]], **how: Any) -> None:
    """Medians, with their quartiles."""
    medians = [row["median"] for row in rows]
    around = [[row["median"] - row["low"] for row in rows], [row["high"] - row["median"] for row in rows]]
    axes.errorbar(across, medians, yerr=around, capsize=2, **how)
