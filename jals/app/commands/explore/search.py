"""Finding rows by what is typed, in titles and ids: on the server, so that no list of all of them goes to a browser."""

import unicodedata
from collections.abc import Iterable
from typing import Any

import numpy as np

LONG = 120  # bytes of a title that are searched


class Finder:
    """The rows of one side by their names.

    Args:
        ids: outside ids `(rows,)`.
        titles: what else a row is called, by row; None where nothing is known.
        entries: how many entries each row has: of equally good matches those with more come first.
    """

    def __init__(self, ids: Any, titles: Iterable | None, entries: np.ndarray):
        self.ids = [str(one) for one in np.asarray(ids).tolist()]
        self.titles = None if titles is None else [str(title) for title in titles]
        self._known = _column(self.ids)
        self._named = self._known if self.titles is None else _column(self.titles)
        self._entries = entries

    def __len__(self) -> int:
        return len(self.ids)

    def name(self, row: int) -> str:
        """The title, or where there is none the id."""
        return (self.titles[row] if self.titles is not None else "") or self.ids[row]

    def find(self, text: str | None, most: int = 30) -> list[int]:
        """Rows that match, the best first: the id itself; titles that begin so; titles or ids that hold every word,
        in any order. Case and accents do not count. Nothing typed: those with most entries."""
        asked = _folded(text or "").strip()
        words = asked.split()
        if not words:
            return self._largest(np.arange(len(self)), most)
        itself = self._known == asked.encode()
        held = np.logical_and.reduce([np.strings.find(self._named, word.encode()) >= 0 for word in words])
        if len(words) == 1:
            held |= np.strings.startswith(self._known, asked.encode())
        first = held & np.strings.startswith(self._named, asked.encode())
        found = (itself, first & ~itself, held & ~first & ~itself)
        return [row for rows in found for row in self._largest(np.flatnonzero(rows), most)][:most]

    def _largest(self, rows: np.ndarray, most: int) -> list[int]:
        entries = self._entries[rows]
        if len(rows) > most:
            part = np.argpartition(-entries, most - 1)[:most]
            rows, entries = rows[part], entries[part]
        return rows[np.lexsort((rows, -entries))].tolist()


def _column(texts: Iterable[str]) -> np.ndarray:
    """As bytes `(n,)` to search in, of long ones the beginning."""
    return np.array([_folded(text).encode()[:LONG] for text in texts], bytes)


def _folded(text: str) -> str:
    """Without case, accents and commas, for comparison."""
    if not text.isascii():
        parts = unicodedata.normalize("NFKD", text)
        text = "".join(part for part in parts if not unicodedata.combining(part))
    return text.casefold().replace(",", "")
