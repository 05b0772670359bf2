"""The folder of a run: what its files are called, and how they are written and read.

    config.toml     the config, as it was, or as --set made it
    result.json     what holds for the whole run: status, versions, hardware, data, programs
    fits.jsonl      every fit that has ended, one a line: history, metrics, certificate
    factors.npz     what was learnt; of several fits factors-<solver>.npz, of several folds factors-<solver>-<fold>.npz,
                    of several points or seeds factors/<solver>-<key>.npz
    unfinished/     the checkpoint of a fit that was stopped: the next run goes on from it; unfinished.json: its record
    index.html      single fits to look at closely; its figures/ as PNG and SVG
    report/         all fits compared: index.html and report.md
"""

import contextlib
import json
import math
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from ..errors import StorageError

if TYPE_CHECKING:  # who only reads a run needs no pydantic
    from .schema import Config

RESULT, FITS, CONFIG, UNFINISHED = "result.json", "fits.jsonl", "config.toml", "unfinished"
PAGE, FIGURES, FACTORS, REPORT = "index.html", "figures", "factors", "report"
_EARLIER = "earlier.jsonl"  # while a config extends another: the fits of that one
STATUSES = ("running", "interrupted", "finished")  # of a run, as its record says


def factors_name(config: "Config", solver: str, fold: int | None, key: str) -> str:
    """Of the whole run's config, the solver's label, the fold, and the key of the fit."""
    if config.grid or len(config.seeds) > 1:
        return f"{FACTORS}/{solver}-{key[:8]}.npz"
    parts = ["factors"]
    if len(config.solver) > 1 or fold is not None:
        parts.append(solver)
    if fold is not None:
        parts.append(str(fold))
    return "-".join(parts) + ".npz"


def write(path: Path, content: bytes) -> None:
    """All of it or nothing: a reader never meets half a file.

    Raises:
        StorageError: when the file cannot be written; an older one is as it was then.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise StorageError(f"{path} cannot be written: {error.strerror or error}.") from error
        raise


def opened(folder: Path) -> Path:
    """The folder, made where needed, and tried before any work is done for it."""
    trial = folder / "trial.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial.write_bytes(b"\0")
        trial.unlink()
    except OSError as error:
        raise StorageError(
            f"cannot write to the output folder {folder}: {error.strerror}. Choose another with --out or output.folder."
        ) from error
    return folder


def strangers(folder: Path) -> list[str]:
    """Files that a run would write over, in a folder that is no run's."""
    if (folder / RESULT).exists():
        return []
    return [name for name in (CONFIG, FITS, PAGE, FIGURES, FACTORS, REPORT, UNFINISHED) if (folder / name).exists()]


def record(folder: Path) -> dict:
    """What is known of a run: `result.json`, with "fits", the lines of `fits.jsonl` and the fit that is unfinished.

    Raises:
        StorageError: when there is none, or it is damaged.
    """
    at = folder / RESULT
    try:
        found = json.loads(at.read_bytes())
        if not isinstance(found["config"], dict) or found["status"] not in STATUSES:
            raise ValueError("no record of a run")
        at = folder / FITS
        fits = {fit["key"]: fit for fit in _lines(at)}
        at = folder / f"{UNFINISHED}.json"
        if at.exists():
            fit = json.loads(at.read_bytes())
            fits.setdefault(fit["key"], fit)
        for fit in fits.values():
            _ = [fit[key] for key in ("solver", "fold", "factors", "reason", "sweeps", "compile_seconds", "point")]
            _ = fit["history"]["sweep"]
    except FileNotFoundError:
        raise StorageError(f"no {at}: {folder} is not the folder of a `jals run`.") from None
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise StorageError(f"{at} cannot be read: {error!r}.") from error
    return found | {"fits": list(fits.values())}


def _lines(path: Path) -> Iterator[dict]:
    """The lines of a file that only grows. What follows the last line's end was being written when a run was killed."""
    if path.exists():
        whole = path.read_bytes().rpartition(b"\n")[0]
        yield from map(json.loads, whole.splitlines())


def write_record(folder: Path, record: dict) -> None:
    """`result.json`: all of a record but its fits."""
    rest = {key: value for key, value in record.items() if key != "fits"}
    write(folder / RESULT, json.dumps(_plain(rest), indent=1, allow_nan=False).encode())


def append(folder: Path, fits: list[dict]) -> None:
    """Adds fits to `fits.jsonl`: each is there whole, or not at all, whenever the machine stops.

    Raises:
        StorageError: when the file cannot be written; it then holds what it held.
    """
    lines = b"".join(json.dumps(_plain(fit), allow_nan=False).encode() + b"\n" for fit in fits)
    path = folder / FITS
    try:
        with path.open("ab") as file:
            start = _end_of_lines(path)
            file.truncate(start)  # half a line of a run that was killed
            try:
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
            except BaseException:
                file.truncate(start)
                raise
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror or error}.") from error


def _end_of_lines(path: Path) -> int:
    """Where the last whole line of a file ends."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(end - 65536, 0)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
    return 0


def set_aside(folder: Path) -> None:
    """Makes room for the fits of another config, which may take over some of those that are there. A run that was
    finished is so no more: killed at any moment, its own config would find its fits again."""
    kept = [*earlier(folder).values(), *_lines(folder / FITS)]
    write(folder / _EARLIER, b"".join(json.dumps(fit).encode() + b"\n" for fit in kept))
    write_record(folder, record(folder) | {"status": "running"})
    (folder / PAGE).unlink(missing_ok=True)
    (folder / FITS).unlink(missing_ok=True)
    clear_unfinished(folder)


def earlier(folder: Path) -> dict[str, dict]:
    """The fits set aside, by key."""
    return {fit["key"]: fit for fit in _lines(folder / _EARLIER)}


def forget_earlier(folder: Path) -> None:
    """Removes what was set aside and not taken over, with its factors."""
    names = {fit["factors"] for fit in earlier(folder).values()} - {fit["factors"] for fit in record(folder)["fits"]}
    for name in names - {None}:
        _remove_factors(folder, name)
    (folder / _EARLIER).unlink(missing_ok=True)


def _remove_factors(folder: Path, name: str) -> None:
    path = folder / name
    if path.parent in (folder, folder / FACTORS):  # whatever the record says
        path.unlink(missing_ok=True)


def write_unfinished(folder: Path, fit: dict) -> None:
    write(folder / f"{UNFINISHED}.json", json.dumps(_plain(fit), allow_nan=False).encode())


def clear_unfinished(folder: Path) -> None:
    (folder / f"{UNFINISHED}.json").unlink(missing_ok=True)
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)


def emptied(folder: Path) -> None:
    """Takes a run's files out of the folder, and no others: no folder holds factors of one run beside the result of
    another. The record goes first."""
    try:
        factors = [fit["factors"] for fit in record(folder)["fits"] if fit["factors"]]
    except StorageError:
        factors = []
    (folder / RESULT).unlink(missing_ok=True)
    for name in factors:
        _remove_factors(folder, name)
    for name in (FITS, _EARLIER, CONFIG, PAGE):
        (folder / name).unlink(missing_ok=True)
    clear_unfinished(folder)
    for name in (FIGURES, REPORT):
        shutil.rmtree(folder / name, ignore_errors=True)
    with contextlib.suppress(OSError):
        (folder / FACTORS).rmdir()


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Ctrl-C waits until files that belong together are written."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread is interrupted
        yield
        return
    waiting = []
    before = signal.signal(signal.SIGINT, lambda *_: waiting.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if waiting:
        raise KeyboardInterrupt


def _plain(value: Any) -> Any:
    """JSON's own types; a number that is not finite becomes null."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return _plain(np.asarray(value).tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
