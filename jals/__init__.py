"""jals: differentiable matrix factorization by alternating least squares, in JAX."""

from . import (
    adjoint,
    datasets,
    errors,
    experiment,
    layouts,
    metrics,
    native,
    normal,
    protocol,
    rowsolve,
    split,
    tuning,
    view,
    walk,
)
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

# What docs/api.md tells of.
__all__ = [
    "ALS",
    "AdjointError",
    "AndersonALS",
    "ArgumentError",
    "Certificate",
    "ConfigError",
    "DataError",
    "Factors",
    "FitError",
    "ForkError",
    "Gradient",
    "History",
    "Info",
    "Interrupted",
    "JalsError",
    "LeaveOneOut",
    "NewtonCG",
    "Objective",
    "Problem",
    "Progress",
    "Ratings",
    "Result",
    "Saved",
    "State",
    "StorageError",
    "Tuned",
    "Vocabulary",
    "adjoint",
    "als_wr",
    "certify",
    "check_hypergradient",
    "datasets",
    "errors",
    "experiment",
    "explicit",
    "fit",
    "fit_grid",
    "fit_many",
    "hu_koren",
    "ials",
    "layouts",
    "leave_one_out",
    "load",
    "loss",
    "metrics",
    "native",
    "normal",
    "predict",
    "protocol",
    "read_ratings",
    "regularisation_path",
    "rowsolve",
    "run",
    "save",
    "scheduled",
    "solution_map",
    "split",
    "tune",
    "tuning",
    "view",
    "walk",
]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
