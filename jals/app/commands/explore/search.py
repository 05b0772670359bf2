"""Finding a row by what is typed: in titles and ids, on the server, so that no list of all of them reaches a browser."""

import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np


class Finder:
    """The rows of one side by their names.

    Args:
        ids: outside ids, by row.
        titles: what else a row is called, by row; None where nothing is known.
        entries: how many entries each row has: of equally good matches those with more come first.
    """

    def __init__(self, ids: Sequence, titles: Iterable | None, entries: np.ndarray):
        self.ids = [str(one) for one in np.asarray(ids).tolist()]
        self.titles = None if titles is None else [str(title) for title in titles]
        self._folded_ids = [_folded(one) for one in self.ids]
        self._folded = self._folded_ids if self.titles is None else [_folded(title) for title in self.titles]
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
        found = [[], [], []]
        for row, (title, known) in enumerate(zip(self._folded, self._folded_ids, strict=True)):
            if known == asked:
                found[0].append(row)
            elif all(word in title for word in words):
                found[1 if title.startswith(asked) else 2].append(row)
            elif len(words) == 1 and known.startswith(asked):
                found[2].append(row)
        return [row for rows in found for row in self._largest(np.array(rows, int), most)][:most]

    def _largest(self, rows: np.ndarray, most: int) -> list[int]:
        entries = self._entries[rows]
        if len(rows) > most:
            part = np.argpartition(-entries, most - 1)[:most]
            rows, entries = rows[part], entries[part]
        return rows[np.lexsort((rows, -entries))].tolist()


def _folded(text: str) -> str:
    """Without case, accents and commas, for comparison."""
    if not text.isascii():
        parts = unicodedata.normalize("NFKD", text)
        text = "".join(part for part in parts if not unicodedata.combining(part))
    return text.casefold().replace(",", "")
