"""Factors on disk: one .npz file of plain arrays. Loading executes no code."""

import dataclasses
import json
import os
import pathlib
import tempfile
import zipfile
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
    arrays = {f"factors/{name}": getattr(factors, name) for name in _FACTORS}
    header: dict[str, Any] = {"format": "jals factors", "version": FORMAT_VERSION, "data_hash": data_hash}
    if objective is not None:
        header["objective"] = {name: getattr(objective, name) for name in _STATIC}
        for field in dataclasses.fields(objective):
            if field.name not in _STATIC:
                arrays[f"objective/{field.name}"] = getattr(objective, field.name)
    if vocab is not None:
        arrays |= {"vocabulary/user": vocab.user, "vocabulary/item": vocab.item}
    arrays = {name: np.asarray(array) for name, array in arrays.items() if array is not None}
    arrays["header"] = np.array(json.dumps(header))
    path = pathlib.Path(path)
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, suffix=".part", delete=False) as file:
            temporary = file.name
            np.savez(file, allow_pickle=False, **arrays)
            os.fchmod(file.fileno(), 0o644)  # a temporary file is its owner's only
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            pathlib.Path(temporary).unlink(missing_ok=True)
        raise StorageError(f"{path} cannot be written: {error.strerror or error}.") from error


def load(path: Any) -> Saved:
    """Reads what `save` wrote.

    Raises:
        StorageError: for a file that is missing, damaged, not from jals, or of another format version.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        header = json.loads(str(arrays["header"]))
    except FileNotFoundError as error:
        raise StorageError(f"{path} does not exist.") from error
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise StorageError(f"{path} is damaged, or no file of jals ({error}).") from error
    if not isinstance(header, dict) or header.get("format") != "jals factors":
        raise StorageError(f"{path} holds no jals factors.")
    if header["version"] != FORMAT_VERSION:
        raise StorageError(
            f"{path} has format version {header['version']}; this jals reads {FORMAT_VERSION}. Save it again with "
            "the version of jals that reads it."
        )
    objective = vocab = None
    if "objective" in header:
        numbers = [field.name for field in dataclasses.fields(Objective) if field.name not in _STATIC]
        objective = Objective(**{name: arrays.get(f"objective/{name}") for name in numbers}, **header["objective"])
    if "vocabulary/user" in arrays:
        vocab = Vocabulary(arrays["vocabulary/user"], arrays["vocabulary/item"])
    factors = Factors(**{name: arrays.get(f"factors/{name}") for name in _FACTORS})
    if factors.user is None or factors.item is None:
        raise StorageError(f"{path} is damaged: the factors are missing.")
    return Saved(factors, vocab, objective, header["data_hash"])
