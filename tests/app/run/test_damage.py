"""Folders of runs that something has damaged: no command meets one with a traceback, and none takes it for whole.

A few cases in the suite, drawn at random; all of them, and a table of what each command says, by `make faults`.
"""

import dataclasses
import itertools
import json
import os
import random
import shutil
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest

import jals
from jals.app.run import session
from jals.files.runs import folder
from tests.support.commands import SECOND_SOLVER, jals_command, write_experiment
from tests.support.records import read_run

CASES = int(os.environ.get("JALS_DAMAGE", 40))  # of each kind of folder
CHANGES = (
    ("test_fraction = 0.2", "test_fraction = 0.2\nvalidation_fraction = 0.2"),  # which says what recommend serves
    ("sweeps = 3", "sweeps = 20\n" + SECOND_SOLVER),
)
SEALED = ("result.json", "fits.jsonl", "config.toml", "factors-als.npz", "factors-gradient.npz")
COMMANDS = {
    "run": lambda config, place: ("run", config, "--out", place),
    "certify": lambda config, place: ("certify", place),
    "recommend": lambda config, place: ("recommend", place, "--user", "110"),
    "report": lambda config, place: ("report", place),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(config, folder of a run that nobody disturbed)."""
    place = tmp_path_factory.mktemp("finished")
    config = write_experiment(place, *CHANGES)
    done = jals_command("run", config, "--out", place / "run")
    assert done.exit_code == 0, done.output
    return config, place / "run"


@pytest.fixture(scope="module")
def unfinished(finished, tmp_path_factory):
    """(config, folder of the same run stopped in its second fit)."""
    config, _ = finished
    place = tmp_path_factory.mktemp("unfinished") / "run"
    whole_fit = jals.fit

    def interrupted(solver, *arguments, **options):
        if isinstance(solver, jals.ALS):
            return whole_fit(solver, *arguments, **options)
        result = whole_fit(solver, *arguments, **options | {"sweeps": 5})
        raise jals.Interrupted("interrupted", result=dataclasses.replace(result, reason="interrupted"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jals, "fit", interrupted)
        assert jals_command("run", config, "--out", place).exit_code == 130
    return config, place


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch, finished):
    """Drawing takes as long as all else."""
    monkeypatch.setattr(session.Session, "draw", lambda self: folder.write(self.place / folder.PAGE, b"drawn"))


# ---- damages ----


def _flipped(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content)) if content else 0
    return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :] if content else b"\0"


def _keys(found, path=()) -> list[tuple]:
    """The paths to every key of tables in tables."""
    if isinstance(found, dict):
        return [each for key, inner in found.items() for each in ((*path, key), *_keys(inner, (*path, key)))]
    return _keys(found[0], (*path, 0)) if isinstance(found, list) and found else []


def _changed(content: bytes, rng: random.Random, change) -> bytes:
    """A key of a JSON file, or of the first line of one of many lines, changed; other files lose their middle."""
    first, end, rest = content.partition(b"\n") if content.count(b"}\n{") else (content, b"", b"")
    try:
        found = json.loads(first)
        *outer, last = rng.choice(_keys(found))
    except (ValueError, IndexError):
        return content[: len(content) // 3] + content[2 * len(content) // 3 :]
    inner = found
    for key in outer:
        inner = inner[key]
    change(inner, last)
    return json.dumps(found).encode() + end + rest


def _other_type(table, key) -> None:
    table[key] = {"7": [None]} if not isinstance(table[key], dict) else 7


CONTENTS = {
    "cut in half": lambda content, rng: content[: len(content) // 2],
    "without its last byte": lambda content, rng: content[:-1],
    "a bit flipped": _flipped,
    "emptied": lambda content, rng: b"",
    "noise": lambda content, rng: rng.randbytes(200),
    "brackets": lambda content, rng: b"[" * 100_000,
    "a key missing": lambda content, rng: _changed(content, rng, lambda table, key: table.pop(key)),
    "a value of another type": lambda content, rng: _changed(content, rng, _other_type),
}
PLACES = ("deleted", "a folder", "a dangling link")
DAMAGES = (*CONTENTS, *PLACES)


def damage(path: Path, how: str, rng: random.Random) -> bool:
    """Damages a file; whether that changed it."""
    before = path.read_bytes()
    if how in CONTENTS:
        path.write_bytes(CONTENTS[how](before, rng))
        return path.read_bytes() != before
    path.unlink()
    if how == "a folder":
        path.mkdir()
    elif how == "a dangling link":
        path.symlink_to(path.with_name("nowhere"))
    return True


def files_of(place: Path) -> list[str]:
    """All of a folder's files, but of figures two."""
    files = sorted(path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file())
    return [name for name in files if not name.startswith(folder.FIGURES)] + [
        name for name in files if name.startswith(folder.FIGURES)
    ][:2]


def drawn(place: Path, seed: int) -> list[tuple[str, str, str]]:
    every = list(itertools.product(files_of(place), DAMAGES, COMMANDS))
    return random.Random(seed).sample(every, min(CASES, len(every)))


def outcome(config: Path, place: Path, name: str, how: str, command: str, scratch: Path) -> tuple[Path, int, str]:
    """(a copy of the folder as the command left it, its exit code, what it said)."""
    copy = scratch / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(place, copy)
    if not damage(copy / name, how, random.Random(f"{name} {how}")):
        return copy, -1, ""
    done = jals_command(*COMMANDS[command](config, copy))
    assert done.exception is None or isinstance(done.exception, SystemExit), (name, how, command, done.exc_info)
    assert "Traceback" not in done.output, (name, how, command)
    return copy, done.exit_code, " ".join(done.output.split())


def whole(undisturbed: Path, place: Path) -> bool:
    """Whether a folder holds the finished run that nobody disturbed."""
    try:
        one, other = read_run(undisturbed), read_run(place)
    except jals.StorageError:
        return False
    fits = [{fit["solver"]: fit for fit in record["fits"]} for record in (one, other)]
    if other["status"] != "finished" or fits[0].keys() != fits[1].keys():
        return False
    for solver, fit in fits[0].items():
        if any(fit[key] != fits[1][solver][key] for key in ("metrics", "certificate", "factors", "sweeps")):
            return False
        pairs = [jax.tree.leaves(jals.load(folder / fit["factors"]).factors) for folder in (undisturbed, place)]
        if not all(np.array_equal(*pair) for pair in zip(*pairs, strict=True)):
            return False
    return True


# ---- what commands make of it ----


def test_a_finished_run_that_is_damaged_is_never_taken_for_whole(finished, tmp_path):
    config, place = finished
    said: Counter = Counter()
    for name, how, command in drawn(place, 0):
        copy, code, output = outcome(config, place, name, how, command, tmp_path)
        if code < 0:
            continue
        said[name if name in SEALED else "page, figures, report", command, code] += 1
        if name in SEALED:
            assert code == 2 and name in output, (name, how, command, code, output[-300:])
            if command == "run":  # and the cure that it names helps
                assert jals_command("run", config, "--out", copy, "--overwrite").exit_code == 0, (name, how)
                assert whole(place, copy), (name, how)
        elif code == 0:
            assert whole(place, copy), (name, how, command)
        else:  # what cannot be drawn over is named
            assert code == 2 and Path(name).name.partition(".")[0] in output, (name, how, command, output[-300:])
    print(*sorted(said.items()), sep="\n")


def test_an_unfinished_run_that_is_damaged_is_mended_or_named(finished, unfinished, tmp_path):
    """By the same command: then the run is the undisturbed one. A number of a line of fits.jsonl may be changed to
    another by chance or by hand: nobody can tell, until the run is finished."""
    config, place = unfinished
    said: Counter = Counter()
    for name, how, command in drawn(place, 1):
        copy, code, output = outcome(config, place, name, how, command, tmp_path)
        if code < 0:
            continue
        kind = "checkpoint" if name.startswith("unfinished/") else name
        said[kind, command, code] += 1
        if command == "run" and code == 0:
            assert whole(finished[1], copy) or (kind, how) == ("fits.jsonl", "a bit flipped"), (name, how)
        elif command == "run" or code == 2:
            assert code == 2 and name.partition("/")[0] in output, (name, how, command, code, output[-300:])
    print(*sorted(said.items()), sep="\n")
