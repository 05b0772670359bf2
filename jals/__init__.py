"""jals: differentiable matrix factorization by alternating least squares, in JAX."""

from . import adjoint, datasets, experiment, metrics, normal, rowsolve, split, tuning
from .als import ALS
from .anderson import AndersonALS
from .certificate import Certificate, certify
from .crosscheck import check_hypergradient
from .errors import (
    AdjointError,
    ArgumentError,
    ConfigError,
    DataError,
    FitError,
    ForkError,
    Interrupted,
    JalsError,
    StorageError,
)
from .factors import Factors, predict
from .fitting import History, Progress, Result, fit, run
from .gradient import Gradient
from .grids import fit_grid
from .io import read_ratings
from .leverage import LeaveOneOut, leave_one_out
from .many import fit_many
from .newton import NewtonCG
from .objectives import Objective, als_wr, explicit, hu_koren, ials
from .paths import regularisation_path
from .problem import Problem
from .protocol import Info, State, loss
from .ratings import Ratings
from .schedules import scheduled
from .solution import solution_map
from .storage import Saved, load, save
from .tuning import Tuned, tune
from .vocabulary import Vocabulary

__version__ = "0.1.0"
