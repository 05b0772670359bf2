"""What a fit takes of the device's memory, as far as it is known before anything is built."""

from typing import Any

import numpy as np

from ..costs import Size
from ..protocol import traits


def table_bytes(size: Size, dtype: str, folds: int = 1) -> int:
    """Estimated memory of a problem on the device: the entries, and both sides' layouts with a sixth of padding."""
    number = np.dtype(dtype).itemsize
    return size.entries * int(8 + 2 * number + 2 * 1.17 * (8 + 2 * number * folds))


def state_bytes(solver: Any, size: Size, dtype: str) -> float:
    """Estimated memory of a fit, beside what one side's rows are solved in; NaN where the solver does not say."""
    return np.dtype(dtype).itemsize * traits(solver).numbers(size)
