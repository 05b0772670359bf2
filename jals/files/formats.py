"""The bytes of saved factors: named arrays and a header of JSON as .npz, .safetensors or .parquet, and back.

    .npz          arrays as NumPy's own; the header is the archive's comment
    .safetensors  arrays as tensors, texts as (ids, width) code points; the header is the metadata's "jals"
                  (in both, texts of no fixed width are two arrays: "/utf8", one after the other, and "/ends", where
                  each is over, in bytes)
    .parquet      a table for DuckDB, pandas or Spark to read as it is: a row a user and a row an item, with the columns
                  side ("user" or "item"), row, id, bias, factor (a list), and reg and prior where they are by row;
                  the key-value metadata "jals" is the header, with every array that is no column

Names are those of `storage`: "factors/user", "objective/reg_item", "vocabulary/user" and so on. In each format the
header's text stands in the file as it is: `storage` writes the digest over its zeros.
"""

import base64
import io
import json
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..data.frames import polars

Arrays = dict[str, np.ndarray]
Header = dict[str, Any]

_SIDES = ("user", "item")


def _packed(arrays: Arrays) -> Arrays:
    packed = {}
    for name, array in arrays.items():
        if array.dtype != object:
            packed[name] = array
            continue
        texts = [text.encode("utf-8", "surrogatepass") for text in array.tolist()]
        packed[f"{name}/utf8"] = np.frombuffer(b"".join(texts), np.uint8)
        packed[f"{name}/ends"] = np.cumsum([len(text) for text in texts], dtype=np.int64)
    return packed


def _unpacked(arrays: Arrays) -> Arrays:
    unpacked = {}
    for name, array in arrays.items():
        if name.endswith("/utf8"):
            name, content, ends = name.removesuffix("/utf8"), array.tobytes(), arrays[f"{name[:-5]}/ends"].tolist()
            places = zip([0, *ends], ends, strict=False)
            texts = [content[start:end].decode("utf-8", "surrogatepass") for start, end in places]
            unpacked[name] = np.array(texts, object)
        elif not name.endswith("/ends"):
            unpacked[name] = array
    return unpacked


def _npz_bytes(arrays: Arrays, header: Header) -> memoryview:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.comment = json.dumps(header).encode()
        for name, array in _packed(arrays).items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    return content.getbuffer()


def _from_npz(content: Any) -> tuple[Arrays, Header]:
    arrays = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED:  # so that no archive unfolds to more than its size
                raise ValueError(f"{entry.filename} is compressed")
            with archive.open(entry) as member:
                arrays[entry.filename.removesuffix(".npy")] = np.lib.format.read_array(member, allow_pickle=False)
        return _unpacked(arrays), json.loads(archive.comment)


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError as missing:
        what = '.safetensors files need the extra "safetensors": pip install "jals[safetensors]"'
        raise ImportError(what) from missing
    return safetensors.numpy


def _safetensors_bytes(arrays: Arrays, header: Header) -> bytes:
    def tensor(array: np.ndarray) -> np.ndarray:
        return array.view(np.uint32).reshape(len(array), -1) if array.dtype.kind == "U" else array

    tensors = {name: tensor(array) for name, array in _packed(arrays).items()}
    return _safetensors().save(tensors, {"jals": json.dumps(header)})


def _from_safetensors(content: Any) -> tuple[Arrays, Header]:
    arrays = _safetensors().load(bytes(content))
    for name, array in arrays.items():
        if name.startswith("vocabulary/") and array.ndim == 2:
            arrays[name] = array.view(f"U{array.shape[1]}")[:, 0]
    # The file starts with the length of a JSON header, in which the metadata is.
    length = int.from_bytes(content[:8], "little")
    return _unpacked(arrays), json.loads(json.loads(bytes(content[8 : 8 + length]))["__metadata__"]["jals"])


# The columns of the table: which array of a side each holds, and of how many dimensions that must be to be by row.
_COLUMNS = {
    "id": ("vocabulary/{}", 1),
    "bias": ("factors/{}_bias", 1),
    "factor": ("factors/{}", 2),
    "reg": ("objective/reg_{}", 1),
    "prior": ("objective/prior_{}", 2),
}


def _parquet_bytes(arrays: Arrays, header: Header) -> memoryview:
    pl = polars(".parquet files need")
    tables: dict[str, Arrays] = {side: {"row": np.arange(len(arrays[f"factors/{side}"]))} for side in _SIDES}
    by_row = set()
    for column, (key, dimensions) in _COLUMNS.items():
        names = {side: key.format(side) for side in _SIDES if np.ndim(arrays.get(key.format(side), 0)) == dimensions}
        types = [arrays[name].dtype for name in names.values()]
        # A column has one type, and `load` gives each side its own again. Between kinds only text holds everything.
        mixed = len({type.kind for type in types}) > 1
        if not names or (mixed and column != "id"):
            continue
        common = None if mixed else np.result_type(*types)
        for side, name in names.items():
            text = str if arrays[name].dtype.kind != "O" else object  # integers beside texts are texts
            tables[side][column] = arrays[name].astype(common or text, copy=False)
        by_row.update(names.values())
    described = {}
    for name, array in arrays.items():
        described[name] = {"dtype": array.dtype.str, "shape": array.shape}
        if name not in by_row:
            described[name]["base64"] = base64.b64encode(array.tobytes()).decode()
    whole = pl.concat(
        [pl.DataFrame({"side": np.full(len(table["row"]), side)} | table) for side, table in tables.items()],
        how="diagonal",
    )
    content = io.BytesIO()
    whole.write_parquet(content, metadata={"jals": json.dumps(header | {"arrays": described})})
    return content.getbuffer()


def _from_parquet(content: Any) -> tuple[Arrays, Header]:
    pl = polars(".parquet files need")
    header = json.loads(pl.read_parquet_metadata(io.BytesIO(content))["jals"])
    table = pl.read_parquet(io.BytesIO(content))
    tables = {side: table.filter(side=side) for side in _SIDES}
    places = {key.format(side): (side, column) for column, (key, _) in _COLUMNS.items() for side in _SIDES}
    arrays = {}
    for name, described in header["arrays"].items():
        dtype = np.dtype(described["dtype"])
        if "base64" in described:
            array = np.frombuffer(bytearray(base64.b64decode(described["base64"])), dtype)
        else:
            side, column = places[name]
            array = tables[side][column].to_numpy().astype(dtype)
        arrays[name] = array.reshape(described["shape"])
    return arrays, header


class Format(NamedTuple):
    """A format: its bytes from arrays and header, in which the seal can be found as it stands, and back."""

    write: Callable[[Arrays, Header], Any]
    read: Callable[[Any], tuple[Arrays, Header]]


FORMATS = {
    ".npz": Format(_npz_bytes, _from_npz),
    ".safetensors": Format(_safetensors_bytes, _from_safetensors),
    ".parquet": Format(_parquet_bytes, _from_parquet),
}
