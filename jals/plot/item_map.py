"""The items as points of a plane: the two directions in which their factors spread most."""

import numpy as np

MOST = 5_000  # points that a browser draws and moves with ease


class ItemMap:
    """Principal components of the items' directions, y / |y|: what is near by cosine has directions that are near.

    The components are those of the items with most entries, at most `most` of them, and these are drawn.

    Args:
        item: factors `(n, rank)`.
        entries: how many each item has.

    Attributes:
        drawn: the rows drawn, those with most entries first.
        share: of the variance of the directions, what each of the two axes shows.
    """

    def __init__(self, item: np.ndarray, entries: np.ndarray, most: int = MOST):
        known = np.flatnonzero(item.any(axis=1) & (entries > 0))
        order = np.lexsort((known, -entries[known]))
        self.drawn = known[order[:most]]
        self._item = item
        directions = self._directions(self.drawn)
        self._center = directions.mean(axis=0) if len(directions) else np.zeros(item.shape[1])
        spread = directions - self._center
        variance, axes = np.linalg.eigh(spread.T @ spread)
        most_first = np.argsort(-variance)[:2]
        total = variance.sum()
        share = variance[most_first] / total if total > 0 else np.zeros(len(most_first))
        axes = axes[:, most_first]
        axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])] < 0, -1, 1)
        self._axes = np.pad(axes, ((0, 0), (0, 2 - axes.shape[1])))  # a model of rank 1 has one
        self.share = np.pad(share, (0, 2 - len(share)))

    def place(self, rows: np.ndarray) -> np.ndarray:
        """Coordinates `(len(rows), 2)`, of rows that are not drawn too."""
        return (self._directions(np.asarray(rows, int)) - self._center) @ self._axes

    def _directions(self, rows: np.ndarray) -> np.ndarray:
        item = self._item[rows].astype(np.float64)
        length = np.linalg.norm(item, axis=1, keepdims=True)
        return np.divide(item, length, out=np.zeros_like(item), where=length > 0)
