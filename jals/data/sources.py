"""Opening table files: paths with ~, compressed files, and files that are no tables.

What the standard library can unpack is unpacked; any other kind is refused by its name, with what to do.
"""

import io
import os
import re
import stat
import zipfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, DataError

_SAMPLE = 1 << 16
_DEPTH = 3  # a zip in a gzip in a gzip is a slip; more is a trap
_PARQUET, _ZIP, _MARK = b"PAR1", b"PK\3\4", b"\xef\xbb\xbf"  # how such files begin, and UTF-8 text of Windows
_LATER = "compression.zstd"  # since Python 3.14

# How a packed file begins, what it is called, the suffix that promises it, and the module that unpacks it. Magic of
# letters alone is looked for with a byte that no text has: an id may begin like that too.
_PACKED = (
    (rb"\x1f\x8b", "gzipped", ".gz", "gzip"),
    (rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", "compressed by bzip2", ".bz2", "bz2"),
    (rb"\xfd7zXZ\0", "compressed by xz", ".xz", "lzma"),
    (rb"\x28\xb5\x2f\xfd", "compressed by Zstandard", ".zst", _LATER),
    (re.escape(_ZIP), "a zip archive", ".zip", "zipfile"),
)
_EXPORT = "Save the table in it as csv or Parquet."
_UNPACK = "Unpack it, and give the file in it that holds the ratings."
_FRAME = "Read it into a data frame, and use Ratings.from_dataframe."
# What begins like this is no table that jals reads.
_OTHERS = (
    (rb"(?s)PARE.{,200}?[\x00-\x08]", "an encrypted Parquet file", "Write it without encryption."),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (rb"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (rb"(?s).{257}ustar", "a tar archive", _UNPACK),
    (rb"PK\x05\x06|PK\x07\x08", "a zip archive that is empty, or a part of one", _UNPACK),
    (rb"\x28\xb5\x2f\xfd", "compressed by Zstandard, which Python reads from 3.14 on", "Unpack it with `unzstd`."),
    (rb"\xd0\xcf\x11\xe0", "an old Excel or Office file", _EXPORT),
    (rb"\x89HDF\r\n\x1a\n", "an HDF5 file", _EXPORT),
    (rb"SQLite format 3\0", "an SQLite database", _FRAME),
    (rb"(?s)ARROW1\0\0|FEA1.{,20}?\0|\xff\xff\xff\xff.{3}\0", "an Arrow (Feather) file", _FRAME),
    (rb"(?s)ORC.{,200}?[\x00-\x08]", "an ORC file", _FRAME),
    (rb"Obj\x01", "an Avro file", _EXPORT),
    (rb"\x93NUMPY", "one array of NumPy", "Write users, items and values into one file with numpy.savez."),
    (rb"\x80[\x02-\x05]", "a pickle, which runs code when it is read", _EXPORT),
    (rb"%PDF-", "a PDF", _EXPORT),
    (rb"RD[AX]\d\n|X\n\0\0\0", "a file of R", _EXPORT),
    (rb"version https://git-lfs", "a pointer of Git LFS, not the file itself", "Fetch that with `git lfs pull`."),
    (rb"(?i)\s*<(!doctype|html|head|body|\?xml)", "a page of HTML or XML", "Download the table itself."),
    (rb'\s*\[?\s*\{\s*"[^"]*"\s*:|\s*\[\s*\[', "JSON", _FRAME),
)
_UNICODE = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")


def as_path(path: Any) -> Path:
    """The path as one of pathlib, with ~ and ~name replaced by the home folder they mean.

    Raises:
        ArgumentError: for what is no path, or where there is no such home.
    """
    try:
        path = Path(path)
    except TypeError:
        raise ArgumentError(f"expected the path of a file, got {type(path).__name__}.") from None
    try:
        return path.expanduser()
    except RuntimeError:
        home = path.parts[0]
        raise ArgumentError(f"{path}: {home} is no home folder. Write ./{home} for a file of that name.") from None


def open_file(path: Path) -> tuple[str, bytes | None, bytes]:
    """("text", "Parquet" or "npz"; the content, where it cannot be read from the path as it is; how it starts).

    Raises:
        DataError: for a file that cannot be read, is empty or damaged, or holds none of these.
    """
    content, start = _read(path)
    layers = 0
    while content is not None and (inner := _unpacked(path, content, start)) is not None:
        content, start, layers = inner, inner[:_SAMPLE], layers + 1
        if layers > _DEPTH:
            raise DataError(f"{path} is packed more than {_DEPTH} times over. Unpack it first.")
    if not start.strip():
        raise DataError(f"{path} is empty.")
    for begins, what, cure in _OTHERS:
        if re.match(begins, start.removeprefix(_MARK)):
            raise DataError(f"{path} is {what}. {cure}")
    _check_encoding(path, start)
    kind = "npz" if start.startswith(_ZIP) else "text"
    if start.startswith(_PARQUET) and (b"\n" not in start or re.search(rb"[\x00-\x08]", start)):
        kind = "Parquet"
    suffix = path.suffix.lower()
    begun = f"it begins with {start[:8]!r}"
    for _, name, promise, _ in _PACKED:
        if suffix == promise and not layers and kind != "npz":
            raise DataError(f"{path} is not {name}: {begun}. Take the {promise} off its name.")
    suffixes = {each.lower() for each in path.suffixes[-_DEPTH:]}
    for promise, name in ((".npz", "npz"), (".parquet", "Parquet")):
        if promise in suffixes and kind != name:
            article = "an" if name == "npz" else "a"
            raise DataError(f"{path} is not {article} {name} file: {begun}. Name it after what it holds.")
    if kind == "npz" and not layers and path.is_file():
        content = None  # NumPy reads array by array from the path, and no byte is in memory twice
    return kind, content, start


def _read(path: Path) -> tuple[bytes | None, bytes]:
    if os.path.isdir(path):
        raise DataError(f"{path} is a folder. Give the file in it that holds the ratings.")
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
                raise DataError(f"{path} is a device, not a file.")
            start = file.read(_SAMPLE)
            pipe = stat.S_ISFIFO(mode)  # which can be read once
            content = start + file.read() if pipe or (_is_packed(start) and not _is_npz(path)) else None
            return content, start
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"no file {path}" + (f" in {Path.cwd()}." if not path.is_absolute() else ".")) from None
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL character
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error


def _is_npz(path: Path) -> bool:
    """Whether it is a zip archive of NumPy's arrays, which are read one by one."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".npy") for name in archive.namelist())
    except Exception:  # no zip archive, or a damaged one: whoever unpacks it has the words
        return False


def _is_packed(start: bytes) -> bool:
    return any(re.match(begins, start) for begins, *_ in _PACKED)


def _unpacked(path: Path, content: bytes, start: bytes) -> bytes | None:
    """The content unpacked once; None where it is not packed."""
    if start.startswith(_ZIP):
        return _member(path, content)
    for begins, _, _, module in _PACKED:
        if re.match(begins, start) and (module != _LATER or find_spec("compression")):
            unpack = import_module(module).decompress
            try:
                return unpack(content)
            except Exception as error:  # each of these modules has its own
                raise DataError(f"{path} is cut short or damaged: {str(error).rstrip('.')}. Fetch it again.") from error
    return None


def _member(path: Path, content: bytes) -> bytes | None:
    """The one file in a zip archive; None for an npz."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            hidden = re.compile(r"(.*/)?(__MACOSX/.*|\.[^/]*)|.*/")  # what file managers put in, and folders
            members = [member for member in archive.infolist() if not hidden.fullmatch(member.filename)]
            names = [member.filename for member in members]
            if any(name.endswith(".npy") for name in names):
                return None
            if not {"[Content_Types].xml", "mimetype"}.isdisjoint(names):
                raise DataError(f"{path} is a spreadsheet, or another document of an office. {_EXPORT}")
            if len(names) != 1:
                listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
                raise DataError(f"{path} is a zip archive of {len(names)} files ({listed}). {_UNPACK}")
            if members[0].flag_bits & 1:
                raise DataError(f"{path} is an encrypted zip archive. Unpack it with its password.")
            return archive.read(members[0])
    except DataError:
        raise
    except NotImplementedError as error:
        raise DataError(f"{path} is a zip archive that Python cannot unpack ({error}). {_UNPACK}") from error
    except Exception as error:  # zipfile, zlib, struct and others meet the bytes of a damaged one, each in its way
        raise DataError(f"{path} is an npz or a zip archive, cut short or damaged: {error}. Fetch it again.") from error


def _check_encoding(path: Path, start: bytes) -> None:
    """Refuses UTF-16 and UTF-32: with the mark they may begin with, or as what makes sense when read so."""
    if b"\0" not in start[:1000]:
        return
    for name in _UNICODE:
        text = start[:1000].decode(name, "replace")
        sense = all(letter.isprintable() or letter in "\t\r\n" for letter in text[:-1].replace("\ufffd", "\0"))
        if text[:1] == "\ufeff" or (sense and "\n" in text):
            name = name[:6] if text[:1] == "\ufeff" else name[:6] + name[7:]
            raise DataError(f"{path} is text in {name.upper()}: convert it to UTF-8 with `iconv -f {name} -t utf-8`.")
