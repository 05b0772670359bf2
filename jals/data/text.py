"""Text tables: polars reads the fields as they stand and casts them in the same pass, millions of lines a second; what
cannot be cast is null. Meanwhile the marks are counted. Where some line is no record of the right width, and for every
error message, Python's csv module reads the file again: it defines the rule, and knows line numbers."""

import concurrent.futures
import dataclasses
import functools
import io
import itertools
import math
import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .delimiters import Lines, count_marks, has_quoted_fields, regular_lines
from .dialect import Dialect, detect_dialect, parse_number
from .entries import BELOW_MICROSECOND
from .frames import SourceTable, polars, text_codes
from .vocabulary import number_ids

_INTEGER = re.compile(r"-?[1-9][0-9]*|0")  # as Python writes it: 007 and +7 are text
_DIGITS = re.compile(r"[+-]?[0-9]+")
_DATES = ("%Y-%m-%d", *(f"%Y-%m-%d{mark}%H:%M:%S%.f{zone}" for mark in "T " for zone in ("", "Z", "%:z")))
_BOM = b"\xef\xbb\xbf"
_FREE = b"\x1f\x1e\x1d\x1c\x01\x02\x03\x04"  # one that a file does not have takes the place of `::`


@dataclasses.dataclass(frozen=True)
class Text:
    """A text file, how it is written, and what is read of it. Make one with `open_text`."""

    path: Path
    content: bytes | None  # where the file was packed
    dialect: Dialect
    line: int = 1  # where the records begin, the header not among them
    first: list[str] = dataclasses.field(default_factory=list)  # the fields of the first one
    columns: dict[str, int] = dataclasses.field(default_factory=dict)  # by role, as labels and kinds
    labels: dict[str, str] = dataclasses.field(default_factory=dict)
    kinds: dict[str, str] = dataclasses.field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        """The lines, with bytes that are not UTF-8 as lone surrogates."""
        with open(self.path, "rb") if self.content is None else io.BytesIO(self.content) as file:
            for line, raw in enumerate(file, 1):
                yield raw.decode("utf-8-sig" if line == 1 else "utf-8", "surrogateescape")

    def records(self) -> Iterator[tuple[int, list[str]]]:
        """(line, fields) of every record below the header, whatever their number."""
        return itertools.islice(self.dialect.split(self.path, self.lines()), int(self.dialect.header), None)

    def place(self, entry: int) -> str:
        line, _ = next(itertools.islice(self.records(), entry, None))
        return f"line {line}"

    def pieces(self, size: int) -> Iterator["Text"]:
        """The records in texts of about `size` bytes, cut at line ends: where quotes mean something, at those before
        which they are all closed. Each is read by `text_table`, whose errors do not know the lines of the file."""
        with open(self.path, "rb") if self.content is None else io.BytesIO(self.content) as file:
            for _ in range(self.line - 1):
                file.readline()
            while content := file.read(size) + file.readline():
                if self.dialect.quoted and has_quoted_fields(content, self.dialect.delimiter):
                    lines, open_quote = [content], content.count(b'"') % 2
                    while open_quote and (line := file.readline()):
                        lines.append(line)
                        open_quote ^= line.count(b'"') % 2
                    content = b"".join(lines)
                if content.strip():
                    dialect = dataclasses.replace(self.dialect, header=False)
                    yield dataclasses.replace(self, content=content, line=1, dialect=dialect)

    def whole_records(self) -> Iterator[tuple[int, list[str]]]:
        """`records`, each with all of its fields."""
        for line, fields in self.records():
            wrong = self.dialect.wrong_width(self.path, line, fields, self.line)
            if wrong:
                raise wrong
            yield line, fields

    def refusal(self, problem: str) -> DataError:
        """The error for the first record that is wrong; the `problem` stands in where none is."""
        for line, fields in self.whole_records():
            for role, place in self.columns.items():
                if not _is_utf8(fields[place]):
                    return _not_utf8(self.path, line)
                wrong = _problem(role, self.kinds[role], fields[place], self.first[place])
                if wrong:
                    return DataError(f"{self.path}, line {line}, {self.labels[role]} {wrong}")
        return DataError(f"{self.path} cannot be read: {problem}")


def open_text(
    path: Path,
    content: bytes | None,
    start: bytes,
    delimiter: str | None,
    header: bool | None,
    quoted: bool | None,
    wanted: dict[str, Any],
    kinds: dict[str, str],
) -> Text:
    """The text file as it is written; `start` is how it starts, the other arguments are those of `read_ratings`."""
    if b"\0" in start:
        raise DataError(f"{path} is no text (it holds NUL bytes), and neither Parquet nor npz nor gzip.")
    if b"\n" not in start and len(start) > 1 << 15:
        raise DataError(f"{path} is no table: its first line does not end within {len(start):,} bytes.")
    size = path.stat().st_size if content is None else len(content)
    whole = size <= len(start)
    lines = list(Text(path, start if whole else start[: start.rindex(b"\n") + 1], Dialect("", True)).lines())
    first = next((line.strip("\r\n") for line in lines if line.strip("\r\n")), "")
    if "\r" in first:
        raise DataError(f"{path}, line 1 has carriage returns inside: convert its line ends to \\n.")
    sample = detect_dialect(path, lines, whole, delimiter, header, quoted, wanted)
    dialect, names = sample.dialect, sample.names
    if names and len(sample.records) < 2:
        raise DataError(f"{path} has a header, but no line below it: there is no entry to learn from.")
    for name in names or ():
        if not _is_utf8(name):
            raise _not_utf8(path, sample.records[0][0])
    begin, example = sample.records[int(dialect.header)]
    return Text(
        path,
        content,
        dialect,
        begin,
        example,
        sample.columns,
        {role: f"column {names[at]!r}" if names else f"column {at}" for role, at in sample.columns.items()},
        {role: _kind(role, kinds.get(role), example, at) for role, at in sample.columns.items()},
    )


def text_table(text: Text) -> SourceTable:
    """The table in it."""
    frame, arrays = _frame(text), {}
    for role, label in text.labels.items():
        series = frame.drop_in_place(role)  # one by one: a long table is never in memory twice
        if role not in ("user", "item"):
            arrays[role] = series.to_numpy()
        elif series.dtype.is_integer():
            arrays[role] = number_ids(f"the ids in {label}", series.to_numpy())
        else:
            arrays[role] = text_codes(series, f"{text.path}: the ids in {label}")
    return SourceTable(str(text.path), text.labels, arrays, text.place)


def _is_utf8(field: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in field)


def _not_utf8(path: Path, line: int) -> DataError:
    return DataError(
        f"{path}, line {line} is not UTF-8 text. Where it is Latin-1, convert the file with `iconv -f latin1 -t utf-8`."
    )


def _kind(role: str, ids: str | None, example: list[str], place: int) -> str:
    """What a column is taken for, by its first field."""
    field = example[place] if place < len(example) else ""
    if ids == "auto":
        return "integer ids" if _INTEGER.fullmatch(field) else "padded ids" if _DIGITS.fullmatch(field) else "text ids"
    if ids is not None:
        return {"int": "any integers", "str": "any text"}[ids]
    if role != "time":
        return "numbers"
    return "integers" if _DIGITS.fullmatch(field) else "numbers" if parse_number(field) is not None else "dates"


def _problem(role: str, kind: str, field: str, first: str) -> str | None:
    """What is wrong with a field, or None."""
    if not field:
        without = f" Or leave the column out: {role}=False." if role in ("time", "weight") else ""
        return f"is empty. Leave such lines out of the file.{without}"
    as_text = 'ids=("str", "auto")' if role == "user" else 'ids=("auto", "str")'
    if kind in ("integer ids", "any integers"):
        if not _DIGITS.fullmatch(field):
            return f"is {field!r}, no integer{_unlike(field, first)}, or read the whole column as text: {as_text}."
        if not -(2**63) <= int(field) < 2**63:
            return f"is {field}, beyond int64. Read the column as text: {as_text}."
    elif kind == "text ids" and _INTEGER.fullmatch(field):
        return f"is {field!r}, an integer{_unlike(field, first)}, or read the whole column as text: {as_text}."
    elif kind == "numbers":
        value = parse_number(field)
        if value is None:
            blanks = " (blanks around it)" if parse_number(field.strip()) is not None else ""
            hint = " (decimals take a point)" if "," in field else blanks
            return f"is {field!r}, which is no number{hint}. Correct the line, or leave it out."
        if not math.isfinite(value):
            return f"is {field}. Leave missing entries out of the file."
    return None


def _unlike(field: str, first: str) -> str:
    return (f", unlike the first, {first!r}" if field != first else "") + ". Correct the line"


def _frame(text: Text) -> Any:
    """The columns by role, without an empty field."""
    pl = polars()
    frame = _scanned(pl, text)
    if frame is None:
        frame = _by_hand(pl, text)

    def again(role: str, kind: str) -> Any:  # the first field was not enough to tell the kind
        return _frame(dataclasses.replace(text, kinds=text.kinds | {role: kind}))

    roles = list(text.columns)
    if any(frame.select(pl.col(roles).null_count()).row(0)):
        if text.kinds.get("time") == "integers" and frame["time"].null_count():
            return again("time", "numbers")
        raise text.refusal("some fields are empty.")
    for role in ("user", "item"):
        kind = text.kinds[role]
        if kind == "integer ids" and frame[f"{role} padded"].any():
            return again(role, "padded ids")
        if frame[role].dtype == pl.String:
            ids = frame[role].unique()
            digits = ids.str.contains(f"^{_DIGITS.pattern}$")
            if kind == "padded ids" and not digits.all():
                return again(role, "text ids")
            if (ids == "").any() or (kind == "text ids" and ids.str.contains(f"^({_INTEGER.pattern})$").any()):
                raise text.refusal("some ids are empty, or mixed.")
            if kind == "padded ids":
                _refuse_twins(pl, text, role, ids)
    if "value" in text.columns and frame["whole"].all():
        frame = frame.with_columns(pl.col("value").cast(pl.Float32))  # as integers in an array become float32
    # What digits below a microsecond mean, the check of times says.
    if text.kinds.get("time") == "dates" and not frame["time"].str.contains(BELOW_MICROSECOND.pattern).any():
        for form in _DATES:
            dates = frame["time"].str.to_datetime(form, time_unit="us", strict=False)
            if not dates.null_count():
                return frame.with_columns(dates)
    return frame


def _refuse_twins(pl: Any, text: Text, role: str, ids: Any) -> None:
    """Refuses a column in which 7 and 007 are both found: whether they are one id is not for us to say."""
    plain = pl.col(role).str.replace(r"^\+?(-?)0*([0-9])", "$1$2").alias("plain")
    frame = ids.rename(role).to_frame().with_columns(plain)
    twins = frame.filter(pl.col("plain").is_duplicated()).sort("plain", role)[role]
    if len(twins):
        raise DataError(
            f"{text.path}, {text.labels[role]}: {twins[0]!r} and {twins[1]!r} are the same integer. If they are one "
            f'{role}, pass ids="int"; if they are two, "str".'
        )


def _scanned(pl: Any, text: Text) -> Any:
    """Every field that is asked for, cast, or null where it cannot be, as polars reads them; None where the lines are
    not regular, or not what polars has read."""
    mark = text.dialect.delimiter
    source: Any = text.path
    if mark == "::":  # a delimiter of polars is one byte
        whole = text.path.read_bytes() if text.content is None else text.content
        free = [byte for byte in _FREE if whole.find(byte) < 0]
        if not free:
            return None
        mark, content = chr(free[0]), whole.replace(b"::", bytes(free[:1]))
        source = io.BytesIO(content)
    elif text.content is not None:
        content, source = text.content, io.BytesIO(text.content)
    else:
        with open(text.path, "rb") as file:
            content: Any = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    begin = 3 if content[:3] == _BOM else 0
    for _ in range(text.line - 1):
        begin = content.find(b"\n", begin) + 1
    width, quoted = text.dialect.width, text.dialect.quoted and has_quoted_fields(content, mark)
    plain = not quoted and content.find(b"\r", begin) < 0
    look = functools.partial(regular_lines, content, begin, mark, width, quoted)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        looking: Any = pool.submit(count_marks, content, begin, mark) if plain else pool.submit(look)
        try:
            frame = pl.scan_csv(
                source,
                has_header=False,
                skip_lines=text.line - 1,
                schema={str(place): pl.String for place in range(width)},
                separator=mark,
                quote_char='"' if quoted else None,
                glob=False,
            )
            ends = pl.col(str(width - 1)).is_null().alias("short")
            frame = frame.select(*_casts(pl, text), ends).collect(engine="streaming")
        except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException):
            return None
        found = looking.result()
    if plain:  # where no record is too short, and all together have as many delimiters as they should, none is too long
        if found == (len(frame), len(frame) * (width - 1)) and not frame["short"].any():
            return frame
        found = look()
    if found is None or len(frame) != found.records + len(found.blank):
        return None
    return _without(pl, frame, found) if found.blank else frame


def _without(pl: Any, frame: Any, lines: Lines) -> Any:
    """The frame without its blank lines."""
    kept = np.ones(len(frame), bool)
    kept[lines.blank] = False
    return frame.filter(pl.Series(kept))


def _by_hand(pl: Any, text: Text) -> Any:
    """The same, read by Python."""
    columns = {str(place): [] for place in text.columns.values()}
    try:
        for _, fields in text.whole_records():
            for place, column in columns.items():
                column.append(fields[int(place)] or None)
        frame = pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))
    except (DataError, UnicodeEncodeError):  # of a line that breaks a rule; an earlier one may have another fault
        raise text.refusal("it is not UTF-8 text.") from None
    return frame.select(_casts(pl, text))


def _casts(pl: Any, text: Text) -> list[Any]:
    """What becomes of the fields, by role."""
    return [
        cast for role, place in text.columns.items() for cast in _cast(pl, role, text.kinds[role], pl.col(str(place)))
    ]


def _cast(pl: Any, role: str, kind: str, column: Any) -> Iterator[Any]:
    if kind in ("integer ids", "any integers"):
        yield column.cast(pl.Int64, strict=False).alias(role)
        if kind == "integer ids":
            begins = pl.any_horizontal(column.str.starts_with(sign) for sign in ("0", "+", "-0"))
            yield (begins & (column.str.len_bytes() > 1)).alias(f"{role} padded")
    elif kind == "integers":
        yield column.cast(pl.Int64, strict=False).alias(role)
    elif kind == "numbers":
        yield column.cast(pl.Float64, strict=False).alias(role)
        if role == "value":
            yield column.cast(pl.Int64, strict=False).is_not_null().alias("whole")
    else:
        yield column.alias(role)
