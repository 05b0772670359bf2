"""What comes after a fit: the best items of a user, what is like an item, rows of newcomers, why a score is high."""

from .correction import corrected as corrected
from .vectors import IndexVectors as IndexVectors
from .vectors import index_vectors as index_vectors
