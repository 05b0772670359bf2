"""jals: differentiable matrix factorization by alternating least squares, in JAX."""

from . import datasets, experiment, metrics, normal, rowsolve, split
from .als import ALS
from .certificate import Certificate, certify
from .errors import (
    ArgumentError,
    ConfigError,
    DataError,
    FitError,
    Interrupted,
    JalsError,
    StorageError,
)
from .factors import Factors, predict
from .fitting import History, Progress, Result, fit, run
from .gradient import Gradient
from .io import read_ratings
from .many import fit_many
from .objectives import Objective, als_wr, explicit, hu_koren, ials, loss
from .problem import Problem
from .protocol import Info, State
from .ratings import Ratings
from .schedules import scheduled
from .storage import Saved, load, save
from .vocabulary import Vocabulary

__version__ = "0.1.0"
