"""Text tables: polars reads the fields as they stand and casts them in the same pass, millions of lines a second; what
cannot be cast is null. Only then, on the way to an error, Python's csv module reads the file again: it knows lines."""

import csv
import dataclasses
import io
import itertools
import math
import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import DataError
from .frames import Table, chosen_columns, first_line, is_usual, polars, text_codes
from .vocabulary import numbered

DELIMITERS = ("\t", ",", ";", "|", "::", " ")  # in this order where a line splits alike
_INTEGER = re.compile(r"[+-]?[0-9]+")
_FREE = "\x1f"  # the delimiter that ASCII has for the purpose and no text uses
_DATES = ("%Y-%m-%d", *(f"%Y-%m-%d{mark}%H:%M:%S%.f{zone}" for mark in "T " for zone in ("", "Z", "%:z")))


@dataclasses.dataclass(frozen=True)
class _Text:
    """A text file, how its lines split, and what is read of it."""

    path: Path
    content: bytes | None  # where the file was gzipped
    delimiter: str
    header: bool = False
    width: int = 0
    line: int = 1  # where the records begin, the header not among them
    columns: dict[str, int] = dataclasses.field(default_factory=dict)  # by role, as labels and kinds
    labels: dict[str, str] = dataclasses.field(default_factory=dict)
    kinds: dict[str, str] = dataclasses.field(default_factory=dict)

    def records(self) -> Iterator[tuple[int, list[str]]]:
        """(line, fields) of every record below the header. Blank lines are no records."""
        return itertools.islice(self._split(), int(self.header), None)

    def place(self, entry: int) -> str:
        line, _ = next(itertools.islice(self.records(), entry, None))
        return f"line {line}"

    def blank_lines(self) -> int:
        """How many lines hold nothing at all from the first record on."""
        with open(self.path, "rb") as file:
            raw = self.content or mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            begin = 0
            for _ in range(self.line - 1):
                begin = raw.find(b"\n", begin) + 1
            return sum(1 for _ in re.compile(rb"\n(?=\r?\n)").finditer(raw, begin))

    def refusal(self, problem: str) -> DataError:
        """The error for the first record that is wrong; the `problem` stands in where none is."""
        first = None
        for line, fields in self.records():
            if len(fields) != self.width:
                rule = "header" if self.header else "first line"
                return DataError(
                    f"{self.path}, line {line} has {len(fields)} fields, but the {rule} has {self.width}. Correct the "
                    "line, or leave it out."
                )
            first = first or fields
            for role, place in self.columns.items():
                wrong = _problem(role, self.kinds[role], fields[place], first[place])
                if wrong:
                    return DataError(f"{self.path}, line {line}, {self.labels[role]} {wrong}")
        return DataError(f"{self.path} cannot be read: {problem}")

    def _split(self) -> Iterator[tuple[int, list[str]]]:
        if self.delimiter == "::":
            for line, text in enumerate(self.lines(), 1):
                if text.strip("\r\n"):
                    yield line, text.strip("\r\n").split("::")
            return
        reader = csv.reader(self.lines(), delimiter=self.delimiter, strict=True)
        last = 0
        try:
            for fields in reader:
                if fields:
                    yield last + 1, fields
                last = reader.line_num
        except csv.Error as error:
            problem = "a quote is opened and never closed" if "end of data" in str(error) else str(error)
            raise DataError(
                f"{self.path}, line {last + 1}: {problem}. A field with a delimiter, quote or line break in it is "
                'written "in quotes", with each quote inside doubled.'
            ) from None

    def lines(self) -> Iterator[str]:
        with open(self.path, "rb") if self.content is None else io.BytesIO(self.content) as file:
            for line, raw in enumerate(file, 1):
                try:
                    yield raw.decode("utf-8-sig" if line == 1 else "utf-8")
                except UnicodeDecodeError:
                    raise DataError(
                        f"{self.path}, line {line} is not UTF-8 text. Where it is Latin-1, convert the file with "
                        "`iconv -f latin1 -t utf-8`."
                    ) from None


def read_text(
    path: Path,
    content: bytes | None,
    start: bytes,
    delimiter: str | None,
    header: bool | None,
    wanted: dict[str, Any],
    kinds: dict[str, str],
) -> Table:
    """The table in a text file; `start` is how it starts, the other arguments are those of `read_ratings`."""
    if b"\0" in start:
        raise DataError(f"{path} is no text (it holds NUL bytes), and neither Parquet nor npz nor gzip.")
    if b"\n" not in start and len(start) > 1 << 15:
        raise DataError(f"{path} is no table: its first line does not end within {len(start):,} bytes.")
    lines = (line.strip("\r\n") for line in _Text(path, content, "").lines())
    line = next(filter(None, lines), "")
    if "\r" in line:
        raise DataError(f"{path}, line 1 has carriage returns inside: convert its line ends to \\n.")
    found = delimiter or max(DELIMITERS, key=lambda each: _fields(line, each) if each != " " else 1.5)
    if _fields(line, found) < 2:
        tried = repr(delimiter) if delimiter else ", ".join(map(repr, DELIMITERS))
        raise DataError(f"{path}: the first line, {line[:80]!r}, is one column. Tried {tried}: pass delimiter=.")
    text = _Text(path, content, found)
    records = list(itertools.islice(text.records(), 2))
    first = records[0][1]
    if header is None:
        header = _is_header(first, records[1][1] if len(records) > 1 else [], wanted)
    if header and len(records) < 2:
        raise DataError(f"{path} has a header, but no line below it: there is no entry to learn from.")
    names = [name.strip() for name in first] if header else None
    columns = chosen_columns(path, wanted, names, len(first))
    begin, example = records[int(header)]
    text = dataclasses.replace(
        text,
        header=header,
        width=len(first),
        line=begin,
        columns=columns,
        labels={role: f"column {names[at]!r}" if names else f"column {at}" for role, at in columns.items()},
        kinds={role: _kind(role, kinds.get(role), example, at) for role, at in columns.items()},
    )
    frame, arrays = _frame(text), {}
    for role, label in text.labels.items():
        series = frame.drop_in_place(role)  # one by one: a long table is never in memory twice
        if role not in kinds:
            arrays[role] = series.to_numpy()
        elif series.dtype.is_integer():
            arrays[role] = numbered(f"the ids in {label}", series.to_numpy())
        else:
            arrays[role] = text_codes(series, f"{path}: the ids in {label}")
    return Table(str(path), text.labels, arrays, text.place)


def _fields(line: str, delimiter: str) -> int:
    if delimiter == "::":
        return line.count("::") + 1
    try:
        return len(next(csv.reader([line], delimiter=delimiter)))
    except csv.Error:
        return 1


def _is_header(first: list[str], second: list[str], wanted: dict[str, Any]) -> bool:
    """A line of names: columns are asked for by name, a usual name is there, or numbers begin in the second line."""
    named = any(isinstance(column, str) for column in wanted.values()) or any(map(is_usual, first))
    return named or (any(_number(field) is not None for field in second) and all(_number(f) is None for f in first))


def _number(field: str) -> float | None:
    if not field.isascii() or "_" in field or field != field.strip():
        return None
    try:
        return float(field)
    except ValueError:
        return None


def _kind(role: str, ids: str | None, example: list[str], place: int) -> str:
    """What a column is taken for, by its first field."""
    field = example[place] if place < len(example) else ""
    if ids is not None:
        auto = "integer ids" if _INTEGER.fullmatch(field) else "text ids"
        return {"auto": auto, "int": "any integers", "str": "any text"}[ids]
    if role != "time":
        return "numbers"
    whole = field.lstrip("+-").isdecimal() and field.isascii()
    return "integers" if whole else "numbers" if _number(field) is not None else "dates"


def _problem(role: str, kind: str, field: str, first: str) -> str | None:
    """What is wrong with a field, or None."""
    if not field:
        return "is empty. Leave such lines out of the file."
    as_text = 'ids=("str", "auto")' if role == "user" else 'ids=("auto", "str")'
    if kind in ("integer ids", "any integers", "text ids"):
        integer, needed = bool(_INTEGER.fullmatch(field)), kind != "text ids"
        if integer and needed and not -(2**63) <= int(field) < 2**63:
            return f"is {field}, beyond int64. Read the column as text: {as_text}."
        if integer != needed:
            what = "an integer" if integer else "no integer"
            unlike = f", unlike the first, {first!r}" if field != first else ""
            return f"is {field!r}, {what}{unlike}. Correct the line, or read the whole column as text: {as_text}."
    if kind == "numbers":
        number = _number(field)
        if number is None:
            comma = " (decimals take a point)" if "," in field else ""
            return f"is {field!r}, which is no number{comma}. Correct the line, or leave it out."
        if not math.isfinite(number):
            return f"is {field}. Leave missing entries out of the file."
    return None


def _frame(text: _Text) -> Any:
    """The columns by role, without an empty field."""
    pl = polars()
    frame = _scanned(pl, text)
    roles = list(text.columns)
    nulls = frame.select(pl.col(roles).null_count()).row(0)
    if any(nulls):
        nothing = frame.select(pl.all_horizontal(pl.col(roles).is_null())).to_series()
        if nothing.any() and nothing.sum() == text.blank_lines():
            frame = frame.filter(~nothing)
        if text.kinds.get("time") == "integers" and frame["time"].null_count():  # the first told too little
            return _frame(dataclasses.replace(text, kinds=text.kinds | {"time": "numbers"}))
        if any(frame.select(pl.col(roles).null_count()).row(0)):
            raise text.refusal("some fields are empty.")
    for role in ("user", "item"):
        if text.kinds[role] == "integer ids":
            if frame[f"{role} padded"].any():
                _check_padded(pl, text, role)
        elif frame[role].dtype == pl.String:
            ids = frame[role].unique()
            if (ids == "").any() or (
                text.kinds[role] == "text ids" and ids.str.contains(f"^{_INTEGER.pattern}$").any()
            ):
                raise text.refusal("some ids are empty, or mixed.")
    if "value" in text.columns and frame["whole"].all():
        frame = frame.with_columns(pl.col("value").cast(pl.Float32))  # as integers in an array become float32
    if text.kinds.get("time") == "dates":
        for form in _DATES:
            dates = frame["time"].str.to_datetime(form, time_unit="us", strict=False)
            if not dates.null_count():
                return frame.with_columns(dates)
    return frame


def _check_padded(pl: Any, text: _Text, role: str) -> None:
    """Refuses a column in which 7 and 007 are both found: whether they are one id is not for us to say."""
    column = dataclasses.replace(text, columns={role: text.columns[role]}, kinds={role: "any text"})
    ids = _scanned(pl, column)[role].drop_nulls().unique().sort().to_frame()
    twins = ids.filter(pl.col(role).cast(pl.Int64).is_duplicated()).sort(pl.col(role).cast(pl.Int64))[role]
    if len(twins):
        raise DataError(
            f"{text.path}, {text.labels[role]}: {twins[0]!r} and {twins[1]!r} are the same integer. If they are one "
            f'{role}, pass ids="int"; if they are two, "str".'
        )


def _scanned(pl: Any, text: _Text) -> Any:
    """Every field that is asked for, cast, or null where it cannot be."""
    ways = [(text.delimiter, 1)]
    if text.delimiter == "::":  # a delimiter of polars is one byte: read every other column, or else exchange it
        ways = [(":", 2), (_FREE, 1)]
    problem = ""
    for delimiter, step in ways:
        source: Any = text.path if text.content is None else io.BytesIO(text.content)
        if delimiter == _FREE:
            content = text.path.read_bytes() if text.content is None else text.content
            source = io.BytesIO(content.replace(b"::", _FREE.encode()))
        wanted = [
            cast
            for role, place in text.columns.items()
            for cast in _cast(pl, role, text.kinds[role], pl.col(str(step * place)))
        ]
        between = [pl.col(str(place)).is_not_null() for place in range(1, 2 * text.width - 1, 2)]
        if step == 2:
            wanted.append(pl.any_horizontal(between).alias("torn"))
        try:
            frame = pl.scan_csv(
                source,
                has_header=False,
                skip_lines=text.line - 1,
                schema={str(place): pl.String for place in range(step * (text.width - 1) + 1)},
                separator=delimiter,
                quote_char=None if text.delimiter == "::" else '"',
                glob=False,
            )
            frame = frame.select(wanted).collect(engine="streaming")
        except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            problem = first_line(error)
            continue
        if step == 1 or not frame["torn"].any():
            return frame
    raise text.refusal(problem)


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
