"""What bench_speed.py's seconds say, by rule: spreads, paired ratios, exponents, and which library is ahead.

A record holds seconds, repetition by repetition; all else here follows from them (`derive`), so that a record that was
made before a rule is read by it too.
"""

import math
import statistics
from typing import Any

import numpy as np

FEWEST = 5  # pairs: the lowest and the highest of so many hold the median between them with 94 % certainty
POINTS, SPAN, OFF = 3, 10.0, 0.1  # what an exponent takes: sizes, the largest over the smallest, how far off a point is
WAYS = {"exact": "exact", "cg": "conjugate gradients", "subspace": "subspace"}  # of solving rows, as they are called


def spread(values: list[float]) -> dict[str, Any]:
    """Median, lowest, highest and how many."""
    if not values:
        return {"median": None, "low": None, "high": None, "n": 0}
    return {"median": statistics.median(values), "low": min(values), "high": max(values), "n": len(values)}


def paired(of: list[float], by: list[float]) -> dict[str, Any]:
    """The spread of the ratios of two rows, repetition by repetition, and what they tell: `told` is "few" below
    `FEWEST` pairs, "alike" where lowest to highest contains 1, else "more" or "less". Rounds that one of them lacks, or
    in which a difference of fits came out below zero, are left out."""
    ratio = spread([one / other for one, other in zip(of, by, strict=False) if one > 0 and other > 0])
    if ratio["n"] < FEWEST:
        told = "few"
    elif ratio["low"] <= 1 <= ratio["high"]:
        told = "alike"
    else:
        told = "more" if ratio["low"] > 1 else "less"
    return ratio | {"told": told}


def rated(rows: list[dict[str, Any]], reference: str, floor: float | None = None) -> None:
    """Writes into rows, {"solver", "seconds", ...}, their spread, their ratio to the reference and to the floor."""
    base = next((row["seconds"] for row in rows if row["solver"] == reference), [])
    for row in rows:
        row.update(spread(row["seconds"]), ratio=paired(row["seconds"], base))
        if floor is not None:
            row["of_floor"] = row["median"] / floor


def exponent(sizes: list[float], seconds: list[float]) -> dict[str, Any]:
    """The power of the sizes with which seconds grow, by least squares in logarithms, and how far the farthest point is
    `off` that line; the power is None where `why` says that the points support none."""
    off, why = None, ""
    if len(sizes) < POINTS:
        why = f"{len(sizes)} sizes of {POINTS}"
    elif min(seconds) <= 0:
        why = "seconds below the clock's noise"
    elif max(sizes) < SPAN * min(sizes):
        why = f"sizes span {max(sizes) / min(sizes):.2g} times, not {SPAN:.0f}"
    else:
        across, up = np.log(sizes), np.log(seconds)
        power, start = np.polyfit(across, up, 1)
        off = math.expm1(float(np.abs(up - power * across - start).max()))
        if off <= OFF:
            return {"exponent": float(power), "off": off, "why": why}
        why = f"a point is {100 * off:.0f} % off the line"
    return {"exponent": None, "off": off, "why": why}


def levels(found: dict[str, Any]) -> list[dict[str, Any]]:
    """What was measured at each rank, of one table: the section ranks, and where that is of the whole table, peers."""
    peers, ranks = (found["sections"].get(name, {}) for name in ("peers", "ranks"))
    known = [peers] if peers and ranks.get("share", 1) == 1 else []
    return sorted(known + ranks.get("ranks", []), key=lambda level: level["rank"])


def ahead(found: dict[str, Any], way: str) -> list[tuple[int, dict[str, Any]]]:
    """By rank: jals' seconds over those of the fastest other library that solves rows in the same way, paired."""
    ratios = []
    for level in levels(found):
        rows = [row for row in level["rows"] if found["solvers"][row["solver"]]["way"] == way and row["median"] > 0]
        own = [row for row in rows if row["solver"].startswith("jals")]
        others = [row for row in rows if not row["solver"].startswith("jals")]
        if own and others:
            best, rival = (min(side, key=lambda row: row["median"]) for side in (own, others))
            ratio = paired(best["seconds"], rival["seconds"])
            if ratio["n"]:
                ratios.append((level["rank"], ratio))
    return ratios


def headline(found: dict[str, Any], way: str) -> str:
    """Of a way of solving, what `ahead` says; empty where there is nothing to compare."""
    ratios = ahead(found, way)
    if not ratios:
        return ""
    low, high = (f"{pick(ratio['median'] for _, ratio in ratios):.2g}" for pick in (min, max))
    times = low if low == high else f"{low} to {high}"
    at = f"ranks {ratios[0][0]} to {ratios[-1][0]}" if len(ratios) > 1 else f"rank {ratios[0][0]}"
    alike = [str(rank) for rank, ratio in ratios if ratio["told"] == "alike"]
    kind = {"exact": "exact sweep", "cg": "sweep by conjugate gradients", "subspace": "sweep by blocks"}[way]
    said = f"jals' {kind} takes {times} of the fastest other library's time at {at}"
    return said + (f" (at {', '.join(alike)} no difference can be told from noise)" if alike else "")


def derive(found: dict[str, Any], reference: str) -> None:
    """Writes into a record all that follows from its seconds."""
    sections = found["sections"]
    peers = [sections["peers"]] if "peers" in sections else []
    for level in peers + sections.get("ranks", {}).get("ranks", []):
        rated(level["rows"], reference, level["floor"]["floor"])
    if "entries" in sections:
        section = sections["entries"]
        for share in section["shares"]:
            rated(share["rows"], reference)
        section["curves"] = _curves(section["shares"])
    if "threads" in sections:
        section = sections["threads"]
        rated(section["rows"], reference)
        seconds = {row["solver"]: row["seconds"] for row in section["rows"]}
        for name, each in section["compared"].items():
            one, more = (seconds[threads_label(name, count)] for count in section["counts"])
            each["speedup"] = paired(one, more)
    if "parts" in sections:
        section = sections["parts"]
        rated(section["variants"]["rows"], "plain")
        plain = next((row["median"] for row in section["variants"]["rows"] if row["solver"] == "plain"), None)
        section["sweeps"] = {name: plain and each / plain for name, each in section["steps"]["seconds"].items()}
    if "xla" in sections:
        rated(sections["xla"]["rows"], "jals XLA")
    for row in sections.get("whole", {}).get("rows", []):
        row.setdefault("objective", found["solvers"][row["solver"]]["objective"])
        beyond = [peak - first for peak, first in zip(row["memory"], row.get("imported", []), strict=False)]
        row |= {"walls": spread(row["wall"]), "peaks": _gigabytes(row["memory"]), "beyond": _gigabytes(beyond)}
    found["headlines"] = {way: headline(found, way) for way in WAYS}
    found["headline_pairs"] = {way: spread([ratio["n"] for _, ratio in ahead(found, way)]) for way in WAYS}


def threads_label(name: str, count: int) -> str:
    return f"{name}, {count} thread{'s' if count > 1 else ''}"


def _gigabytes(counts: list[int]) -> dict[str, Any]:
    return spread([count / 1e9 for count in counts])


def _curves(shares: list[dict[str, Any]]) -> dict[str, Any]:
    """By solver: entries, the spread of its seconds there, and the exponent."""
    curves: dict[str, Any] = {}
    for share in shares:
        for row in share["rows"]:
            curve = curves.setdefault(row["solver"], {"entries": [], "seconds": []})
            curve["entries"].append(share["entries"])
            curve["seconds"].append({key: row[key] for key in ("median", "low", "high", "n")})
    for curve in curves.values():
        curve |= exponent(curve["entries"], [each["median"] for each in curve["seconds"]])
    return curves
