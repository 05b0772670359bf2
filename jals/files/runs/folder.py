"""The folder of a run: what its files are called, and how they are written and read.

config.toml     the config, as it was, or as --set made it
result.json     what holds for the whole run: status, versions, hardware, data, programs; once it is finished its
                seal: how many fits there are, and the SHA-256 of the files above and below up to factors
fits.jsonl      every fit that has ended, one a line: history, metrics, certificate
factors.npz     what was learnt; of several fits factors-<solver>.npz, of several folds factors-<solver>-<fold>.npz,
                of several points or seeds factors/<solver>-<key>.npz
unfinished/     the checkpoint of a fit that was stopped: the next run goes on from it; unfinished.json: its record
index.html      single fits to look at closely; its figures/ as PNG and SVG
report/         all fits compared: index.html and report.md
"""

import contextlib
import dataclasses
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from ...errors import StorageError
from ..atomic import leftovers, write
from ..storage import load as load_factors
from . import record
from .record import FitRecord, RunRecord, Unfinished

RESULT, FITS, CONFIG, UNFINISHED = "result.json", "fits.jsonl", "config.toml", "unfinished"
PAGE, FIGURES, FACTORS, REPORT = "index.html", "figures", "factors", "report"
NOTE = f"{UNFINISHED}.json"
_EARLIER = "earlier.jsonl"  # while a config extends another: the fits of that one
_OWN_DIGEST = re.compile(rb'(?<="result.json": ")[0-9a-f]{64}(?=")')
_BLANK = b"0" * 64
_BACK = "Put the run's own file back, or make the run again with --overwrite."


@dataclasses.dataclass(frozen=True)
class StoredRun:
    """What is known of a run.

    Attributes:
        run: its result.json.
        fits: the lines of its fits.jsonl: what has ended.
        unfinished: the fit that was under way when the run was stopped, as far as it had come.
    """

    run: RunRecord
    fits: list[FitRecord]
    unfinished: Unfinished | None

    @property
    def all(self) -> list[FitRecord]:
        return self.fits + ([] if self.unfinished is None else [self.unfinished])


def prepare(folder: Path) -> Path:
    """The folder, made where needed, and tried before any work is done for it."""
    trial = folder / "trial.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial.write_bytes(b"\0")
        trial.unlink(missing_ok=True)  # another run may be trying too
    except OSError as error:
        raise StorageError(
            f"cannot write to the output folder {folder}: {error.strerror}. Choose another with --out or output.folder."
        ) from error
    return folder


def unrelated_files(folder: Path) -> list[str]:
    """Files that a run would write over, in a folder that is no run's."""
    if (folder / RESULT).exists():
        return []
    return [name for name in (CONFIG, FITS, PAGE, FIGURES, FACTORS, REPORT, UNFINISHED) if (folder / name).exists()]


def read(folder: Path, factors: bool = True, under_way: bool = True) -> StoredRun:
    """What is known of a run. Of one that is finished everything is held against its seal.

    Args:
        factors: whether the files of factors must be there too.
        under_way: whether to look for a fit that is unfinished.

    Raises:
        StorageError: when there is none, or a file of it is missing or damaged: the message names it.
    """
    at = folder / RESULT
    if not at.exists():
        raise StorageError(f"no {at}: {folder} is not the folder of a `jals run`.")
    content = _content(at)
    with _naming_file(at):
        run = record.run(content)
    sealed = run.seal if run.status == "finished" else None
    if sealed is not None:
        _check_seal(folder, sealed, content, factors)
    fits = {fit.key: fit for fit in _lines(folder / FITS)}
    unfinished = unfinished_fit(folder) if under_way and sealed is None else None
    return StoredRun(run, list(fits.values()), None if unfinished is None or unfinished.key in fits else unfinished)


def unfinished_fit(folder: Path) -> Unfinished | None:
    """What is known of the fit that was under way when a run was stopped.

    Raises:
        StorageError: when its note is damaged.
    """
    at = folder / NOTE
    if not at.exists():
        return None
    with _naming_file(at):
        return record.unfinished(_content(at))


def _check_seal(folder: Path, seal: record.Seal, result: bytes, factors: bool) -> None:
    for name, digest in {RESULT: "", FITS: "", CONFIG: "", **seal.sha256}.items():
        if name == RESULT:
            found = _digest(_OWN_DIGEST.sub(_BLANK, result, count=1))
        elif factors or name in (FITS, CONFIG):
            found = _digest_of(folder / name)
        else:
            continue
        if digest != found:
            raise StorageError(
                f"{folder / name} was changed or damaged since the run was finished: it is not the file that {RESULT} "
                f"was sealed with. {_BACK}"
            )


def seal(folder: Path, run: RunRecord) -> None:
    """Writes the result.json of a run that is finished, sealed with what the other files hold.

    Raises:
        StorageError: when one of them is missing, or it cannot be written.
    """
    fits = list(_lines(folder / FITS))
    names = [CONFIG, FITS, *sorted({fit.factors for fit in fits if fit.factors})]
    held = {RESULT: _BLANK.decode()} | {name: _digest_of(folder / name) for name in names}
    run.status, run.seal = "finished", record.Seal(fits=len({fit.key for fit in fits}), sha256=held)
    content = record.to_json(run, indent=1)
    write(folder / RESULT, content.replace(_BLANK, _digest(content).encode(), 1))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _digest_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise StorageError(f"no {path}: {_BACK}") from None
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror or error}.") from error


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror or error}.") from error


@contextlib.contextmanager
def _naming_file(path: Path, line: int | None = None) -> Iterator[None]:
    """Adds the file, and the line, to an error in a record."""
    try:
        yield
    except ValueError as error:
        if isinstance(error, StorageError):
            raise
        where = f"{path}, line {line}," if line else f"{path}"
        how = " Take the line out, and the same command makes that fit again." if line else ""
        raise StorageError(f"{where} is damaged: {error}.{how}") from error


def _lines(path: Path) -> Iterator[FitRecord]:
    """The lines of a file that only grows. What follows the last line's end was being written when a run was killed."""
    if path.exists():
        for number, line in enumerate(_content(path).rpartition(b"\n")[0].splitlines(), start=1):
            with _naming_file(path, number):
                yield record.line(line)


def ended_fits(folder: Path) -> Iterator[FitRecord]:
    """The fits whose lines are written: only these have ended.

    Raises:
        StorageError: when a line is damaged.
    """
    return _lines(folder / FITS)


def split_intact(folder: Path, fits: Iterable[FitRecord]) -> tuple[list[FitRecord], list[FitRecord]]:
    """(those fits of a run whose factors are whole, or not kept; the others)."""
    kept: tuple[list[FitRecord], list[FitRecord]] = [], []
    for fit in fits:
        whole = True
        if fit.factors is not None:
            try:
                load_factors(folder / fit.factors)
            except StorageError:
                whole = False
        kept[0 if whole else 1].append(fit)
    return kept


def write_run(folder: Path, run: RunRecord) -> None:
    """The result.json of a run that is not finished."""
    run.seal = None
    write(folder / RESULT, record.to_json(run, indent=1))


def append(folder: Path, fits: list[FitRecord]) -> None:
    """Adds fits to `fits.jsonl`: each is there whole, or not at all, whenever the machine stops.

    Raises:
        StorageError: when the file cannot be written; it then holds what it held.
    """
    lines = b"".join(record.to_json(fit) + b"\n" for fit in fits)
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
    kept = [*earlier_fits(folder).values(), *_lines(folder / FITS)]
    write(folder / _EARLIER, b"".join(record.to_json(fit) + b"\n" for fit in kept))
    found = read(folder).run
    found.status = "running"
    write_run(folder, found)
    (folder / PAGE).unlink(missing_ok=True)
    (folder / FITS).unlink(missing_ok=True)
    clear_unfinished(folder)


def earlier_fits(folder: Path) -> dict[str, FitRecord]:
    """The fits set aside, by key."""
    return {fit.key: fit for fit in _lines(folder / _EARLIER)}


def forget_earlier(folder: Path) -> None:
    """Removes what was set aside and not taken over, with its factors."""
    names = {fit.factors for fit in earlier_fits(folder).values() if fit.factors}
    for name in names - {fit.factors for fit in _lines(folder / FITS)}:
        _remove_factors(folder, name)
    (folder / _EARLIER).unlink(missing_ok=True)


def _remove_factors(folder: Path, name: str) -> None:
    path = folder / name
    if path.parent in (folder, folder / FACTORS):  # whatever the record says
        with contextlib.suppress(OSError):  # a folder that holds something stays
            path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)


def write_unfinished(folder: Path, fit: Unfinished) -> None:
    write(folder / NOTE, record.to_json(fit))


def clear_unfinished(folder: Path) -> None:
    _remove(folder / NOTE)
    _remove(folder / UNFINISHED)


def remove_run(folder: Path) -> None:
    """Removes a run's files from the folder, and no others, so that no folder holds factors of one run beside the
    result of another. The record goes first."""
    names = []
    for content in _every_line(folder / FITS, folder / _EARLIER, folder / NOTE):
        with contextlib.suppress(ValueError):
            names.append(record.any_fit(content).factors)
    _remove(folder / RESULT)
    for name in filter(None, names):
        _remove_factors(folder, name)
    for name in (FITS, _EARLIER, CONFIG, PAGE, FIGURES, REPORT):
        _remove(folder / name)
    clear_unfinished(folder)
    with contextlib.suppress(OSError):
        (folder / FACTORS).rmdir()


def _every_line(*paths: Path) -> Iterator[bytes]:
    for path in paths:
        with contextlib.suppress(OSError):
            yield from path.read_bytes().splitlines()


def _remove(path: Path) -> None:
    """Whatever stands there goes: a file, a link, or a folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Removes what was half written when a run before was killed."""
    for place in (folder, folder / FACTORS, folder / FIGURES, folder / REPORT):
        for path in leftovers(place):
            _remove(path)
