"""Which lambda is which: objectives that minimise what other libraries minimise, by those libraries' own arguments."""

from .calls import LIBRARIES, like, translate
from .translation import Translation

__all__ = ["LIBRARIES", "Translation", "like", "translate"]
