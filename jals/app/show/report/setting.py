"""What was compared, in a sentence, and how it was run."""

import shlex
from collections.abc import Iterator
from typing import Any

import tomli_w

from ....files.runs.record import DataRecord
from ...config.trials import is_signed
from ..console import printable
from . import fairness
from .competitors import MOST, ComparedRun, Comparison, as_text, short, words
from .words import Cell, Code, Folded, Section, Text, brief, capital, counted, joined, make_table, number


def questions(comparison: Comparison) -> list[str]:
    asked = dict.fromkeys(run.config.get("question") for run in comparison.runs)
    return [" ".join(question.split()) for question in asked if question]


def title(comparison: Comparison) -> str:
    """Of a report whose runs ask no question, or several."""
    fits = len(comparison.fits)
    return f"Comparison of {counted(fits, 'fit')}" if fits > 1 else "Report on one fit" if fits else "No fit yet"


def sentence(comparison: Comparison) -> str:
    """Under which conditions: who was fitted to what, how often, by what budget, and what was tuned."""
    fits = comparison.fits or comparison.trials or comparison.unfinished
    tables = {
        (table.name, table.entries): f"{table.name} ({_shape(table)})"
        for run in comparison.runs
        for table in run.record.data
    }
    names = joined(comparison.names) if len(comparison.names) <= MOST else "below"
    parts = [f"{counted(len(comparison.names), 'solver')} ({names}) on {joined(list(tables.values()))}"]
    for name in ("objective", "split"):
        stated = dict.fromkeys(words(run.config[name]) for run in comparison.runs)
        parts.append(f"{name} {joined(list(stated))}")
    axes = list(dict.fromkeys(axis for fit in fits for axis in fit.values))
    if not any(short(axis) == "rank" for axis in axes):
        ranks = dict.fromkeys(str(fit.record.rank) for fit in fits)
        parts += [f"rank {joined(list(ranks))}"] if ranks else []
    for axis in axes:
        values = dict.fromkeys(as_text(fit.values[axis]) for fit in fits if axis in fit.values)
        parts.append(f"{short(axis)} {joined(list(values))}" if len(values) <= 8 else f"{len(values)} {short(axis)}s")
    parts.append(f"budget {joined(list(dict.fromkeys(_budget(run.config['fit']) for run in comparison.runs)))} a fit")
    parts += [counted(len(comparison.folds), "fold")] if comparison.folds else []
    parts.append(counted(len({fit.seed for fit in fits}), "seed"))
    done = counted(len(comparison.fits), "fit")
    if comparison.trials:
        descents = sum(fit.record.descent is not None for fit in comparison.trials)
        made = {"tuning trial": len(comparison.trials) - descents, "descent": descents}
        done += "".join(f" and {counted(count, noun)}" for noun, count in made.items() if count)
    return f"{'; '.join(parts)}: {done}. {capital(fairness.sentence(comparison))}."


def _budget(settings: dict[str, Any]) -> str:
    """What ends a fit: 12 sweeps or tol 1e-05."""
    nouns = {"sweeps": "sweep", "passes": "pass", "seconds": "second"}
    given = {key: settings.get(key) for key in (*nouns, "tol", "patience")}
    limits = [
        f"{as_text(value)} {key if value != 1 else nouns[key]}" if key in nouns else f"{key} {as_text(value)}"
        for key, value in given.items()
        if value is not None
    ]
    return " or ".join(limits) or "the default"


def state(comparison: Comparison) -> list[str]:
    """What a reader must know of runs that did not end well, or not yet."""
    told = {"interrupted": "was interrupted", "running": "has not ended"}
    found = []
    for place, run in enumerate(comparison.runs):
        if run.record.status != "finished":
            why = f": {run.record.error}" if run.record.error else ""
            done = sum(fit.run == place for fit in comparison.fits + comparison.trials)
            found.append(
                f"The run {run.name} {told[run.record.status]}{why.rstrip('.')}. Below is what there was by then: "
                f"{done:,} fits and trials."
            )
    return found


def how(comparison: Comparison) -> Iterator[Section]:
    blocks: list[Any] = []
    for number_, run in enumerate(comparison.runs):
        if len(comparison.runs) > 1:
            blocks.append(Text(f"Run {run.name}", 3))
        blocks += [make_table(["what:", "value:"], list(_facts(comparison, run, number_)), "Facts"), Text("Again:")]
        place = shlex.quote(run.place.as_posix())
        again = f"jals run {place}/config.toml --out {place}-again"
        blocks.append(Code("\n".join(printable(each) for each in (run.record.command, again) if each)))
        if programs := run.record.programs:
            cells = [
                [
                    *map(Cell, (each.solver, str(each.fits), each.loop, ", ".join(map(str, each.chunks or [])))),
                    *map(Cell, (number(each.compile_seconds, 3), number(each.seconds, 3), each.why)),
                ]
                for each in programs
            ]
            columns = ["solver:", "fits", "loop:", "chunks", "compiling, s", "running, s", "why:"]
            blocks += [Text("Programs: which fits ran together."), make_table(columns, cells, "Programs")]
        blocks.append(Folded("The config, defaults written out", [Code(tomli_w.dumps(run.config).strip())]))
    yield Section("how", "How it was run", blocks)


def _facts(comparison: Comparison, run: ComparedRun, place: int) -> Iterator[list[Cell]]:
    record, config = run.record, run.config
    fits = [fit for fit in comparison.fits + comparison.trials if fit.run == place]
    open_ = [fit for fit in comparison.unfinished if fit.run == place]
    trials = sum(fit.record.trial is not None for fit in fits)
    facts = {
        "fits": _ended(len(fits) - trials, trials, len(open_)),
        "seeds": ", ".join(map(str, sorted({fit.seed for fit in fits}))),
        "folds": ", ".join(map(str, sorted({fit.fold for fit in fits if fit.fold is not None}))),
        "fit": ", ".join(
            f"{key} {as_text(value)}" for key, value in config["fit"].items() if key not in ("seed", "seeds")
        ),
        "tuning": _tuning(config.get("tune")),
        **{
            f"data {name}": "; ".join(dict.fromkeys(_data(each) for each in record.data if each.name == name))
            for name in dict.fromkeys(each.name for each in record.data)
        },
        "versions": ", ".join(f"{name} {version}" for name, version in record.versions.items()),
        "hardware": ", ".join(
            f"{name.replace('_gib', ' in GiB')} {as_text(value)}" for name, value in record.hardware.items()
        ),
        "started": record.started.replace("T", " "),
        "wall time": f"{number(record.wall_seconds)} s",
        "status": record.status,
    }
    return ([Cell(name), Cell(text)] for name, text in facts.items() if text)


def _ended(fits: int, trials: int, unfinished: int) -> str:
    ended = [counted(fits, "fit")] + ([counted(trials, "tuning trial")] if trials else [])
    return f"{joined(ended)} ended" + (f", {unfinished:,} unfinished" if unfinished else "")


def _tuning(tune: dict | None) -> str:
    if not tune:
        return ""
    ranges = [f"{key} from {brief(low)} to {brief(high)}" for key, (low, high) in tune.get("range", {}).items()]
    rest = [f"{key} {as_text(value)}" for key, value in tune.items() if not isinstance(value, dict)]
    drawn = {"random": ", drawn log-uniform", "grid": ", log-spaced"}.get(tune.get("method", "random"), "")
    if drawn and any(map(is_signed, tune.get("range", {}))):
        drawn += ", powers evenly"
    return "; ".join([", ".join(rest), *ranges]) + (drawn if ranges else "")


def _data(each: DataRecord) -> str:
    parts = {"train": each.train, "validation": each.validation, "test": each.test}
    counts = [f"{name} {count:,}" for name, count in parts.items() if count]
    told = f" ({', '.join(counts)})" if counts else ""
    return f"{_shape(each)}{told}; hash {each.hash}"


def _shape(each: DataRecord) -> str:
    return f"{each.users:,} users × {each.items:,} items, {each.entries:,} entries"
