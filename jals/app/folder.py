"""The folder of a run: what its files are called, and how they are written and read.

    config.toml     the config, as it was, or as --set made it
    result.json     the setting, versions, history, metrics, certificates, seconds
    factors.npz     what was learnt; of several fits factors-<solver>.npz, of several folds factors-<solver>-<fold>.npz
    unfinished/     the checkpoint of a fit that was stopped: the next run goes on from it
    index.html      all of it to look at; its figures/ as PNG and SVG
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
from typing import Any

import jax
import numpy as np

from ..errors import StorageError
from .schema import AnySolver, Config

RESULT, CONFIG, UNFINISHED, PAGE, FIGURES = "result.json", "config.toml", "unfinished", "index.html", "figures"
STATUSES = ("running", "interrupted", "failed", "finished")  # of a run, as its record says


def factors_name(config: Config, solver: AnySolver, fold: int | None) -> str:
    parts = ["factors"]
    if len(config.solver) > 1 or fold is not None:
        parts.append(solver.label)
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
    return [name for name in (CONFIG, PAGE, FIGURES, UNFINISHED) if (folder / name).exists()]


def record(folder: Path) -> dict:
    """What `result.json` says.

    Raises:
        StorageError: when there is none, or it is damaged.
    """
    try:
        found = json.loads((folder / RESULT).read_bytes())
        if not isinstance(found["config"], dict) or found["status"] not in STATUSES:
            raise ValueError("no record of a run")
        for fit in found["fits"]:
            _ = [fit[key] for key in ("solver", "fold", "factors", "reason", "sweeps", "compile_seconds")]
            _ = fit["history"]["sweep"][-1], fit["history"]["seconds"][-1]
    except FileNotFoundError:
        raise StorageError(f"no {folder / RESULT}: {folder} is not the folder of a `jals run`.") from None
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise StorageError(f"{folder / RESULT} cannot be read: {error!r}.") from error
    return found


def write_record(folder: Path, record: dict) -> None:
    write(folder / RESULT, json.dumps(_plain(record), indent=1, allow_nan=False).encode())


def emptied(folder: Path) -> None:
    """Takes a run's files out of the folder, and no others: no folder holds factors of one run beside the result of
    another. The record goes first."""
    try:
        factors = [Path(fit["factors"]).name for fit in record(folder)["fits"]]
    except StorageError:
        factors = []
    for name in (RESULT, CONFIG, PAGE, *factors):
        (folder / name).unlink(missing_ok=True)
    for name in (UNFINISHED, FIGURES):
        shutil.rmtree(folder / name, ignore_errors=True)


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
