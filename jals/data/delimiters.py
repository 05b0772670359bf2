"""The marks of a text table (delimiters, line ends, quotes), counted byte by byte: how many records there are, and
whether each has the right number of fields, with quotes only where the rule allows them. The result of a faster reader
is compared with that."""

from typing import Any, NamedTuple

import numpy as np

_CHUNK = 1 << 18  # bytes looked at together: they stay in the processor's cache
_NEWLINE, _RETURN, _QUOTE = b'\n\r"'


class Lines(NamedTuple):
    """What a regular table consists of: how many records, and which of all lines (from 0, records in quotes that run
    over several lines counting as one) are blank and no records."""

    records: int
    blank: list[int]


def has_quoted_fields(content: Any, delimiter: str) -> bool:
    """Whether a quote begins any field. Otherwise quotes are characters like others."""
    if content.find(b'"') < 0:  # as fast as memory is read; the other searches are not
        return False
    starts = (b'"', b'\xef\xbb\xbf"')  # the file's first field, after a byte order mark or not
    before = (delimiter.encode(), b"\n")
    return content[:4].startswith(starts) or any(content.find(mark + b'"') >= 0 for mark in before)


def count_marks(content: Any, begin: int, delimiter: str) -> tuple[int, int]:
    """(lines, delimiters) from the byte `begin` on."""
    data = np.frombuffer(content, np.uint8)
    mark, lines, delimiters = ord(delimiter), int(data[-1] != _NEWLINE), 0
    for start in range(begin, len(data), _CHUNK):
        chunk = data[start : start + _CHUNK]
        lines += int(np.count_nonzero(chunk == _NEWLINE))
        delimiters += int(np.count_nonzero(chunk == mark))
    return lines, delimiters


def regular_lines(content: Any, begin: int, delimiter: str, width: int, quoted: bool) -> Lines | None:
    """The lines from the byte `begin` on; None unless every line is blank or a record of `width` fields, carriage
    returns stand before line ends only, and (where `quoted`) each quote begins or ends a field or is doubled within
    one.

    Args:
        content: bytes, or a file mapped into memory.
        delimiter: one ASCII character.
        width: at least 2.
        quoted: whether quotes have a meaning.
    """
    data, mark = np.frombuffer(content, np.uint8), ord(delimiter)
    returns = content.find(b"\r", begin) >= 0
    records, blank = 0, []
    fields, inside = 1, False  # of the record that has begun; whether a quote is open in it
    for start in range(begin, len(data), _CHUNK):
        chunk = data[start : start + _CHUNK]
        newline = chunk == _NEWLINE
        if returns and not _ends_lines(data, start, newline):
            return None
        if quoted:
            marks = np.flatnonzero((chunk == mark) | newline | (chunk == _QUOTE))
            outside = _outside(data, start + marks, begin, mark, inside)
            if outside is None:
                return None
            marks, inside = marks[outside[0]], outside[1]
            count = np.count_nonzero(newline[marks])
        else:
            marks = np.flatnonzero((chunk == mark) | newline)
            count = np.count_nonzero(newline)
        due = marks[width - fields :: width]  # where records end if each has its fields
        if len(due) == count and newline[due].all():
            records += count
            fields = 1 + (fields - 1 + len(marks)) % width
            continue
        ends = np.flatnonzero(newline[marks])
        widths = np.diff(ends, prepend=-fields)
        wrong = np.flatnonzero(widths != width)
        empty = _empty(data, start + marks[ends[wrong]], begin)
        if (widths[wrong] != 1).any() or not empty.all():
            return None
        blank += (records + len(blank) + wrong).tolist()
        records += len(ends) - len(wrong)
        fields = len(marks) - (ends[-1] if len(ends) else -fields)
        if fields > width:
            return None
    if inside or (data[-1] != _NEWLINE and fields != width):
        return None
    return Lines(int(records) + int(data[-1] != _NEWLINE), blank)


def _ends_lines(data: np.ndarray, start: int, newline: np.ndarray) -> bool:
    """Whether each carriage return of a chunk has a line end, or the end of the file, after it."""
    places = start + np.flatnonzero(data[start : start + len(newline)] == _RETURN)
    after = places + 1
    return bool((data[after[after < len(data)]] == _NEWLINE).all())


def _empty(data: np.ndarray, ends: np.ndarray, begin: int) -> np.ndarray:
    """Whether there is nothing in the lines that end at these places."""
    last = ends - (data[ends - 1] == _RETURN)
    last[ends == begin] = begin
    return (last == begin) | (data[last - 1] == _NEWLINE)


def _outside(
    data: np.ndarray, places: np.ndarray, begin: int, mark: int, inside: bool
) -> tuple[np.ndarray, bool] | None:
    """(which of these marks stand outside of quotes, whether a quote is open after them); None where a quote stands
    inside a field that it does not begin or end."""
    quote = data[places] == _QUOTE
    within = np.logical_xor.accumulate(np.r_[inside, quote])[1:]
    opening, closing = places[quote & within], places[quote & ~within]
    before, after = data[opening - 1], closing + 1
    opens = (opening == begin) | (before == mark) | (before == _NEWLINE) | (before == _QUOTE)
    behind = data[np.minimum(after, len(data) - 1)]
    closes = (after == len(data)) | (behind == mark) | (behind == _NEWLINE) | (behind == _QUOTE) | (behind == _RETURN)
    if not (opens.all() and closes.all()):
        return None
    return ~quote & ~within, bool(within[-1]) if len(within) else inside
