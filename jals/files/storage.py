"""Factors on disk: .npz, .safetensors or .parquet. Loading executes no code, and every changed byte is found.

What is saved is the same in each format: named arrays and a header, which `formats` turns into bytes and back. The
header carries a seal, the format version and the SHA-256 of the whole file, taken with zeros in the digest's place.
`load` checks it before any library reads the file.
"""

import dataclasses
import hashlib
import pathlib
import re
from typing import Any, NamedTuple

import numpy as np

from ..data.ratings import Ratings
from ..data.sources import as_path
from ..data.vocabulary import Vocabulary, text_array
from ..errors import ArgumentError, ForkError, StorageError, did_you_mean, is_traced
from ..model.counts import POWERS, WEIGHTS
from ..model.factors import Factors
from ..model.objectives import Objective
from . import atomic
from .formats import FORMATS, Arrays, Format

FORMAT_VERSION = 4
# What the jals of an earlier version reads too, and rightly, is written as of that version: what holds no seen entries,
# and what holds some but no objective that weighs rows.
_WITHOUT_SEEN, _WITHOUT_WEIGHTS = 2, 3

_FACTORS = [field.name for field in dataclasses.fields(Factors) if field.name != "places"]
_STATIC = ("feedback", "bias", "center", "count")
_NUMBERS = [field.name for field in dataclasses.fields(Objective) if field.name not in (*_STATIC, "by_place")]
_SIDES = ("user", "item")
_SEEN = ("item", "value", "weight")  # of the seen entries, one user's after the other's
_SEAL = re.compile(rb"jals factors (?P<version>\d+) sha256 (?P<digest>[0-9a-f]{64})")
_UNSEALED = b"0" * 64


class Saved(NamedTuple):
    """What a file holds: NumPy arrays in `factors` and `objective`; None for what was not saved. The seen entries are
    sorted by user and item, and without times."""

    factors: Factors
    vocab: Vocabulary | None
    objective: Objective | None
    data_hash: str | None
    seen: Ratings | None = None


def save(
    path: Any,
    factors: Factors,
    vocab: Vocabulary | None = None,
    objective: Objective | None = None,
    data_hash: str | None = None,
    seen: Ratings | None = None,
) -> None:
    """Writes a file that `load` reads back to the bit. The file appears whole or not at all.

    Args:
        path: the file (`~` is the home folder). Its suffix says the format: .npz, .safetensors (extra `safetensors`)
            or .parquet (extra `tables`). Its mode is the one that the umask leaves; where it is a symbolic link, the
            file that this points to is written.
        factors: as fitted, float32 or float64.
        vocab: the outside ids of rows, or None.
        objective: what was minimised, or None.
        data_hash: `Ratings.data_hash()` of the training data, or None.
        seen: the entries that recommendations are to leave out (most often the training data), or None.

    The file is made in memory first.

    Raises:
        ArgumentError: when the parts do not fit one another, or hold what no array of numbers or strings can.
        StorageError: for another suffix, and when the file cannot be written (the reason is in the message).
        ImportError: without the extra that the format needs.
    """
    path, form = _form(path)
    for name, value, kind in (
        ("factors", factors, Factors),
        ("vocab", vocab, Vocabulary | None),
        ("objective", objective, Objective | None),
        ("data_hash", data_hash, str | None),
        ("seen", seen, Ratings | None),
    ):
        if not isinstance(value, kind):
            raise ArgumentError(f"{name} is of type {type(value).__name__}, which is not what jals.save takes there.")
    if data_hash is not None and len(data_hash) > 1000:
        raise ArgumentError(f"data_hash has {len(data_hash):,} characters: give what Ratings.data_hash() returns.")
    factors = factors.gathered()
    parts = {f"factors/{name}": getattr(factors, name) for name in _FACTORS}
    version = _WITHOUT_SEEN if seen is None else _WITHOUT_WEIGHTS
    if any(getattr(objective, name, None) is not None for name in (*WEIGHTS, *POWERS)):
        version = FORMAT_VERSION
    header: dict[str, Any] = {"seal": f"jals factors {version} sha256 {_UNSEALED.decode()}"}
    header["data_hash"] = data_hash
    if objective is not None:
        header["objective"] = {name: getattr(objective, name) for name in _STATIC}
        parts |= {f"objective/{name}": getattr(objective, name) for name in _NUMBERS}
    if vocab is not None:
        parts |= {f"vocabulary/{side}": getattr(vocab, side) for side in _SIDES}
    arrays = {name: _array(name, part) for name, part in parts.items() if part is not None}
    misfit = _misfit(arrays)
    if misfit is not None:
        raise ArgumentError(f"{misfit}.")
    if seen is not None:
        for side in _SIDES:
            rows, have = len(getattr(factors, side)), getattr(seen, f"num_{side}s")
            if rows != have:
                raise ArgumentError(f"seen has {have:,} {side}s, but factors.{side} has {rows:,} rows.")
        ordered = seen.sorted()
        arrays["seen/until"] = np.cumsum(np.bincount(ordered.user, minlength=seen.num_users))
        columns = {f"seen/{name}": getattr(ordered, name) for name in _SEEN}
        arrays |= {name: column for name, column in columns.items() if column is not None}
    try:
        content = form.write(arrays, header)
    except UnicodeError as error:
        raise ArgumentError(f"an id is no Unicode text, which {path.suffix} needs: {error}.") from error
    seals = list(_SEAL.finditer(content))
    if len(seals) != 1:
        raise ArgumentError("data_hash, or an id, reads like the seal of a file of jals: rename it.")
    start, end = seals[0].span("digest")
    atomic.write(path, content[:start], _digest(content, start, end), content[end:])


def load(path: Any) -> Saved:
    """Reads what `save` wrote, by the path's suffix.

    Raises:
        StorageError: for a file that is missing, damaged, not from jals, or of another format version; for another
            suffix.
        ImportError: without the extra that the format needs.
    """
    path, form = _form(path)
    no_file = f"{path} is damaged, or no file of jals"
    try:
        content = memoryview(path.read_bytes())
    except FileNotFoundError as error:
        raise StorageError(f"{path} does not exist.") from error
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror or error}.") from error
    seal = _SEAL.search(content)
    if seal is None:
        raise StorageError(f"{no_file} (nothing in it says format version {FORMAT_VERSION}).")
    version = int(seal["version"])
    if not _WITHOUT_SEEN <= version <= FORMAT_VERSION:
        cure = "A newer jals reads it." if version > FORMAT_VERSION else "Read it with the jals that wrote it."
        reads = f"{_WITHOUT_SEEN} to {FORMAT_VERSION}"
        raise StorageError(f"{path} has format version {version}; this jals reads {reads}. {cure}")
    if _digest(content, *seal.span("digest")) != seal["digest"]:
        raise StorageError(f"{no_file}: its SHA-256 is not the one it was saved with. Copy or save it again.")
    try:
        arrays, header = form.read(content)
        misfit = _misfit(arrays)
        if misfit is None:
            return Saved(
                Factors(*(arrays.get(f"factors/{name}") for name in _FACTORS)),  # pyright: ignore[reportArgumentType]
                Vocabulary(*(arrays[f"vocabulary/{side}"] for side in _SIDES)) if _has_ids(arrays) else None,
                _objective(arrays, header["objective"]) if "objective" in header else None,
                header["data_hash"],
                _seen(arrays),
            )
    except (ImportError, ForkError):
        raise
    except Exception as error:  # a right digest, but not what `save` makes: each library has its own errors
        raise StorageError(f"{no_file} ({error!r}).") from error
    raise StorageError(f"{no_file}: {misfit}.")


def _objective(arrays: Arrays, static: dict[str, Any]) -> Objective:
    return Objective(**{name: arrays.get(f"objective/{name}") for name in _NUMBERS}, **static)


def _seen(arrays: Arrays) -> Ratings | None:
    if "seen/until" not in arrays:
        return None
    until, users = arrays["seen/until"], len(arrays["factors/user"])
    user = np.repeat(np.arange(users, dtype=np.int32), np.diff(until, prepend=0))
    item, value, weight = (arrays.get(f"seen/{name}") for name in _SEEN)
    return Ratings.from_arrays(user, item, value, users, len(arrays["factors/item"]), weight)


def _array(name: str, part: Any) -> np.ndarray:
    """A part as a plain array in this machine's byte order, row after row."""
    if is_traced(part):
        raise ArgumentError(f"{name} is traced: save outside of jit, vmap and grad.")
    try:
        array = np.asarray(part, order="C")
    except (ValueError, TypeError) as error:
        raise ArgumentError(f"{name} is no array ({error}).") from error
    if name.startswith("vocabulary/") and array.dtype.kind in "OT" and all(isinstance(id, str) for id in array.flat):
        return text_array(array.ravel().tolist()).reshape(array.shape)
    kinds = "iuU" if name.startswith("vocabulary/") else "f" if name.startswith("factors/") else "biuf"
    if array.dtype.kind not in kinds or (array.dtype.kind == "f" and array.itemsize not in (4, 8)):
        allowed = {"iuU": "integers or strings", "f": "float32 or float64"}.get(kinds, "numbers")
        raise ArgumentError(f"{name} holds {array.dtype}, but must hold {allowed}.")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _has_ids(arrays: Arrays) -> bool:
    return "vocabulary/user" in arrays or "vocabulary/item" in arrays


def _misfit(arrays: Arrays) -> str | None:
    """What is wrong with the shapes of these arrays, taken together; None when nothing is."""
    shapes = {name: array.shape for name, array in arrays.items()}
    for side in _SIDES:
        shape = shapes.get(f"factors/{side}", ())
        if len(shape) != 2 or 0 in shape:
            return f"factors.{side} has shape {shape}, but must have (rows, rank), each at least 1"
    (users, rank), (items, item_rank) = shapes["factors/user"], shapes["factors/item"]
    if rank != item_rank:
        return f"factors.user has rank {rank}, factors.item {item_rank}"
    if ("factors/user_bias" in shapes) != ("factors/item_bias" in shapes):
        return "one of factors.user_bias and factors.item_bias is there, the other is not"
    expected: dict[str, list[tuple[int, ...]]] = {name: [()] for name in shapes}
    for side, rows in (("user", users), ("item", items)):
        if _has_ids(arrays) and shapes.get(f"vocabulary/{side}") != (rows,):
            ids = np.size(arrays.get(f"vocabulary/{side}", ()))
            return f"the vocabulary has {ids:,} {side} ids, but the factors have {rows:,} {side}s"
        expected |= {f"factors/{side}": [(rows, rank)], f"vocabulary/{side}": [(rows,)]}
        expected |= {f"factors/{side}_bias": [(rows,)], f"objective/reg_{side}": [(), (rows,)]}
        expected |= {f"objective/prior_{side}": [(rank,), (rows, rank)]}
        expected |= {f"objective/reg_bias_{side}": [(), (rows,)], f"objective/unobserved_{side}": [(rows,)]}
        expected[f"objective/weight_{side}"] = [(rows,)]
    if "seen/until" in shapes:
        entries = (int(arrays["seen/until"][-1]),) if shapes["seen/until"] == (users,) else ()
        expected |= {"seen/until": [(users,)]} | {f"seen/{name}": [entries] for name in _SEEN}
    for name, shape in shapes.items():
        if shape not in expected[name]:
            fit = " or ".join(map(str, expected[name]))
            return f"{name.replace('/', '.')} has shape {shape}, but beside these factors it must have {fit}"
    return None


def _digest(content: Any, start: int, end: int) -> bytes:
    digest = hashlib.sha256(memoryview(content)[:start])
    digest.update(_UNSEALED)
    digest.update(memoryview(content)[end:])
    return digest.hexdigest().encode()


def _form(path: Any) -> tuple[pathlib.Path, Format]:
    path = as_path(path)
    form = FORMATS.get(path.suffix.lower())
    if form is None:
        raise StorageError(
            f"{path} ends in {path.suffix or 'no suffix'!r}, but the suffix says the format and must be one of "
            f"{', '.join(FORMATS)}.{did_you_mean(path.suffix, FORMATS)}"
        )
    return path, form
