"""Factors on disk: one .npz file of plain arrays. Loading executes no code."""

import dataclasses
import json
import os
import pathlib
import tempfile
import zipfile
import zlib
from typing import Any, NamedTuple

import numpy as np

from .errors import StorageError
from .factors import Factors
from .objectives import Objective
from .vocabulary import Vocabulary

FORMAT_VERSION = 1

_FACTORS = [field.name for field in dataclasses.fields(Factors)]
_STATIC = ("feedback", "bias", "center")


class Saved(NamedTuple):
    """What `load` returns: NumPy arrays in `factors` and `objective`; None for what was not saved."""

    factors: Factors
    vocab: Vocabulary | None
    objective: Objective | None
    data_hash: str | None


def save(
    path: Any,
    factors: Factors,
    vocab: Vocabulary | None = None,
    objective: Objective | None = None,
    data_hash: str | None = None,
) -> None:
    """Writes a file that `load` reads back to the bit. The file appears whole or not at all.

    Args:
        path: the file, by convention `factors.npz`.
        factors: as fitted.
        vocab: the outside ids of rows, or None.
        objective: what was minimised, or None.
        data_hash: `Ratings.data_hash()` of the training data, or None.

    Raises:
        StorageError: when the file cannot be written (the reason is in the message).
    """
    arrays: dict[str, Any] = {f"factors/{name}": getattr(factors, name) for name in _FACTORS}
    header: dict[str, Any] = {"format": "jals factors", "version": FORMAT_VERSION, "data_hash": data_hash}
    if objective is not None:
        header["objective"] = {name: getattr(objective, name) for name in _STATIC}
        for field in dataclasses.fields(objective):
            if field.name not in _STATIC:
                arrays[f"objective/{field.name}"] = getattr(objective, field.name)
    if vocab is not None:
        arrays |= {"vocabulary/user": vocab.user, "vocabulary/item": vocab.item}
    arrays = {name: np.asarray(array) for name, array in arrays.items() if array is not None}
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise StorageError(f"{name} holds Python objects, which are not saved: convert it to numbers or strings.")
    arrays["header"] = np.array(json.dumps(header))
    path = pathlib.Path(path)
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, suffix=".part", delete=False) as file:
            temporary = file.name
            np.savez(file, **arrays)
            os.fchmod(file.fileno(), 0o644)  # a temporary file is its owner's only
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            pathlib.Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise StorageError(f"{path} cannot be written: {error.strerror or error}.") from error
        raise


def load(path: Any) -> Saved:
    """Reads what `save` wrote.

    Raises:
        StorageError: for a file that is missing, damaged, not from jals, or of another format version.
    """
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        header = json.loads(str(arrays["header"]))
        known = isinstance(header, dict) and header.get("format") == "jals factors"
        version = header["version"] if known else None
    except FileNotFoundError as error:
        raise StorageError(f"{path} does not exist.") from error
    except _DAMAGE as error:
        raise StorageError(f"{path} is damaged, or no file of jals ({error}).") from error
    if not known:
        raise StorageError(f"{path} holds no jals factors.")
    if version != FORMAT_VERSION:
        raise StorageError(
            f"{path} has format version {version}; this jals reads {FORMAT_VERSION}. Save it again with "
            "the version of jals that reads it."
        )
    try:
        return Saved(
            Factors(*(arrays[f"factors/{name}"] for name in ("user", "item")), *_optional(arrays, _FACTORS[2:])),
            Vocabulary(arrays["vocabulary/user"], arrays["vocabulary/item"]) if "vocabulary/user" in arrays else None,
            _objective(arrays, header["objective"]) if "objective" in header else None,
            header["data_hash"],
        )
    except _DAMAGE as error:
        raise StorageError(f"{path} is damaged, or no file of jals ({error}).") from error


# What reading a file that is not ours, or no longer whole, may raise: json, zipfile, zlib and NumPy differ.
_DAMAGE = (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


def _optional(arrays: dict[str, Any], names: list[str]) -> list[Any]:
    return [arrays.get(f"factors/{name}") for name in names]


def _objective(arrays: dict[str, Any], static: dict[str, Any]) -> Objective:
    numbers = [field.name for field in dataclasses.fields(Objective) if field.name not in _STATIC]
    return Objective(**{name: arrays.get(f"objective/{name}") for name in numbers}, **static)
