"""How a text table is written: its delimiter, quotes, header and width. Found once, from many lines, and required of
every line.

The rule is that of Python's csv module: a quote at the start of a field opens it, and it goes on, over delimiters and
line ends, to the quote that closes it; a quote inside is doubled; anywhere else a quote is a character like others.
MovieLens' `::` files have no quotes.
"""

import collections
import csv
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from ..errors import DataError
from .frames import chosen_columns, is_usual

DELIMITERS = ("\t", ",", ";", "|", "::", " ")
_SAMPLE = 200  # records from which a dialect is found
_COLONS = "\ud800"  # one character for `::`, which is in no text: half of a surrogate pair
_NOTHING = {"", "?", "-", "na", "n/a", "nan", "null", "none", "nil", "missing"}  # what a column is never called


@dataclasses.dataclass(frozen=True)
class Dialect:
    """How lines become fields.

    Attributes:
        delimiter: one ASCII character, or "::".
        quoted: whether a quote at the start of a field means anything.
        header: whether the first record names the columns.
        width: how many fields every record has.
    """

    delimiter: str
    quoted: bool
    header: bool = False
    width: int = 0

    def split(self, path: Any, lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
        """(line, fields) of every record, the header among them. Blank lines are no records.

        Raises:
            DataError: naming the line where quotes or carriage returns break the rule.
        """
        reader, last = _reader(lines, self.delimiter, self.quoted, strict=True), 0
        try:
            for fields in reader:
                if fields:
                    yield last + 1, fields
                last = reader.line_num
        except csv.Error as error:
            raise DataError(f"{path}, line {last + 1}: {_csv_problem(str(error))}") from None

    def wrong_width(self, path: Any, line: int, fields: list[str], first: int) -> DataError | None:
        """The error for a record with fields too many or too few, the `first` of the file standing in that line."""
        if len(fields) == self.width:
            return None
        rule = "the header has" if self.header else "the first line has" if line != first else "the others have"
        cure = "Correct the line, or leave it out."
        if self.delimiter == " ":
            cure = "Each blank ends a field: make several in a row one, and take those at line ends away."
        elif len(fields) > self.width and self.delimiter != "::":
            cure = f'A field with {self.delimiter!r} in it is written "in quotes". {cure}'
        count = f"{len(fields)} field{'s' * (len(fields) != 1)}"
        return DataError(f"{path}, line {line} has {count}, but {rule} {self.width}. {cure}")


def _reader(lines: Iterable[str], delimiter: str, quoted: bool, strict: bool) -> Any:
    if delimiter == "::":
        lines, delimiter, quoted = (line.replace("::", _COLONS) for line in lines), _COLONS, False
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    return csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=strict)


def _csv_problem(problem: str) -> str:
    """What csv complains of, in words that say what to do."""
    quotes = (
        'A field with a delimiter, quote or line break in it is written "in quotes", with each quote inside doubled. '
        "Where quotes are characters like others, pass quoted=False."
    )
    if "end of data" in problem or "field limit" in problem:
        return f"a quote is opened and never closed. {quotes}"
    if "new-line" in problem:
        return "a carriage return stands inside the line. Line ends are \\n or \\r\\n: convert the file."
    return f"{problem}. {quotes}"


class Sample(NamedTuple):
    """The start of a file, read in one way.

    Attributes:
        dialect: that way.
        records: (line, fields) of the first records, the header among them.
        columns: the place of each role's column.
        refusal: why it cannot be this way; None where it can.
    """

    dialect: Dialect
    records: list[tuple[int, list[str]]]
    columns: dict[str, int]
    refusal: DataError | None

    @property
    def names(self) -> list[str] | None:
        return [name.strip() for name in self.records[0][1]] if self.dialect.header else None

    def entries(self) -> list[list[str]]:
        """The fields of records below the header, those of the usual width."""
        below = self.records[int(self.dialect.header) :]
        return [fields for _, fields in below if len(fields) == self.dialect.width]


def detect_dialect(
    path: Any,
    lines: list[str],
    whole: bool,
    delimiter: str | None,
    header: bool | None,
    quoted: bool | None,
    wanted: dict[str, Any],
) -> Sample:
    """The start of a file in the way that it is written.

    Where several delimiters split the lines alike, it is the one whose users, items and values are free of the others
    and whose values are numbers: marks inside one field decide nothing.

    Args:
        lines: the first lines; `whole` where they are all.
        delimiter, header, quoted: what is known of the dialect, or None.
        wanted: the columns asked for, by role.

    Raises:
        DataError: where there are no two columns, where nothing tells which delimiter it is or whether there is a
            header, and for columns that are not there.
    """
    tried = [delimiter] if delimiter else DELIMITERS
    ways = [_sample_with(path, lines, whole, each, header, quoted is not False, wanted) for each in tried]
    fitting = [way for way in ways if way is not None]
    if not fitting:
        if delimiter:  # a quote may have been opened, and never closed
            collections.deque(Dialect(delimiter, quoted is not False).split(path, lines), maxlen=0)
        first = next((line for line in map(_without_end, lines) if line), "")
        names = ", ".join(map(repr, tried))
        raise DataError(f"{path}: the first line, {first[:80]!r}, is one column. Tried {names}: pass delimiter=.")
    best = _likeliest(path, fitting)
    if best.refusal:
        raise best.refusal
    return best


def _without_end(line: str) -> str:
    return line.rstrip("\r\n")


def _sample_with(path, lines, whole, delimiter, header, quoted, wanted) -> Sample | None:
    """The sample with this delimiter, or None where it makes no columns of it."""
    records = _records(lines, delimiter, quoted)
    if not whole and len(records) <= _SAMPLE:
        del records[-1:]  # which may go on beyond the sample
    fields = [fields for _, fields in records[:_SAMPLE]]
    if not fields:
        return None
    refusal = None
    if header is None:
        header = _has_header(fields, wanted)
        if header is None:
            refusal = DataError(
                f"{path}, line {records[0][0]}, {delimiter.join(fields[0])[:80]!r}, may name the columns or be the "
                "first entry: pass header=True or header=False."
            )
    widths = collections.Counter(map(len, fields))
    width = len(fields[0]) if header else max(widths, key=lambda width: widths[width])
    if min(width, len(fields[0])) < 2:
        return None
    dialect = Dialect(delimiter, quoted and delimiter != "::", bool(header), width)
    sample = Sample(dialect, records[:_SAMPLE], {}, refusal)
    try:
        return sample._replace(columns=chosen_columns(path, wanted, sample.names, width))
    except DataError as error:
        return sample._replace(refusal=error)


def _records(lines: list[str], delimiter: str, quoted: bool) -> list[tuple[int, list[str]]]:
    """The first records, as many as can be read."""
    reader, records, last = _reader(lines, delimiter, quoted, strict=False), [], 0
    try:
        for fields in reader:
            if fields:
                records.append((last + 1, fields))
            if len(records) > _SAMPLE:
                break
            last = reader.line_num
    except csv.Error:
        pass
    return records


def _has_header(fields: list[list[str]], wanted: dict[str, Any]) -> bool | None:
    """Whether the first record names columns; None where it may or may not. No name begins with a digit or comes again
    below it, and there has to be evidence: usual names, or columns where numbers begin below."""
    first, below = fields[0], fields[1:]
    if any(isinstance(column, str) for column in wanted.values()):
        return True
    if any(field[:1].isdigit() or parse_number(field) is not None for field in first):
        return False
    usual = sum(map(is_usual, first))
    turned = 0
    for place, name in enumerate(first):
        column = [record[place] for record in below if place < len(record)]
        if name and name in column:
            return False
        if column and all(parse_number(field) is not None for field in column):
            if name.strip().lower() in _NOTHING and not usual:
                return False  # an entry without its number
            turned += 1
    return True if usual + turned > 1 else None


def _likeliest(path: Any, ways: list[Sample]) -> Sample:
    ways = [way for way in ways if way.columns] or ways
    marks = {way.dialect.delimiter for way in ways if _agreeing(way)} - {" "}
    blank = next((way for way in ways if way.dialect.delimiter == " "), None)
    if blank is not None and len(ways) > 1:  # many texts have blanks
        if _evidence(blank, marks) == (True, len(_used(blank))):
            marks.add(" ")
        else:
            ways = [way for way in ways if way is not blank]
    found = {way.dialect.delimiter: _evidence(way, marks - {way.dialect.delimiter}) for way in ways}
    best = max(ways, key=lambda way: found[way.dialect.delimiter])
    if best.refusal is None:
        alone = len(best.entries()) < 2  # one line tells too little
        alike = [mark for mark in found if found[mark] == found[best.dialect.delimiter] or (alone and found[mark][0])]
        if len(alike) > 1:
            names = " and ".join(map(repr, alike))
            raise DataError(f"{path}: {names} split its lines alike, and nothing tells which it is: pass delimiter=.")
    return best


def _agreeing(way: Sample) -> bool:
    return 2 * len(way.entries()) >= len(way.records) - way.dialect.header


def _used(way: Sample) -> dict[str, int]:
    return {role: place for role, place in way.columns.items() if role in ("user", "item", "value")}


def _evidence(way: Sample, others: set[str]) -> tuple[bool, float]:
    """(whether this way makes sense of the entries, how many of user, item and value are free of other delimiters and,
    if values, numbers: the mean over entries)."""
    entries, used = way.entries(), _used(way)
    if not (used and entries):
        return False, -1.0

    def clean(role: str, field: str) -> bool:
        if role == "value":
            return parse_number(field) is not None
        stray = way.dialect.quoted and '"' in field
        return not stray and not any(mark in field for mark in others)

    count = {role: sum(clean(role, fields[place]) for fields in entries) / len(entries) for role, place in used.items()}
    total = sum(count.values())
    return 2 * count["value"] > 1 if "value" in count else total == len(used), total


def parse_number(field: str) -> float | None:
    """What a field of text says, where it is a number as tables write them."""
    if not field.isascii() or "_" in field or field != field.strip():
        return None
    try:
        return float(field)
    except ValueError:
        return None
