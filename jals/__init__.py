"""jals: differentiable matrix factorization by alternating least squares, in JAX."""

from . import datasets, errors, experiment, metrics, tuning
from .data import split
from .data.ratings import Ratings
from .data.readers import read_ratings
from .data.vocabulary import Vocabulary
from .derivatives import adjoint
from .derivatives.crosscheck import check_hypergradient
from .derivatives.solution import solution_map
from .diagnostics.certificate import Certificate, certify
from .diagnostics.leverage import LeaveOneOut, leave_one_out
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
from .files.storage import Saved, load, save
from .fitting.grids import fit_grid
from .fitting.many import fit_many
from .fitting.paths import regularisation_path
from .fitting.single import History, Progress, Result, fit, run
from .model import layouts
from .model.factors import Factors, predict
from .model.objectives import Objective, als_wr, explicit, hu_koren, ials, wals
from .model.problem import Problem
from .rows import native, normal, rowsolve, view, walk
from .solvers import protocol
from .solvers.als import ALS
from .solvers.anderson import AndersonALS
from .solvers.gradient import Gradient
from .solvers.newton import NewtonCG
from .solvers.protocol import Info, State, loss
from .solvers.schedules import scheduled
from .tuning import Tuned, tune

__version__ = "0.1.0"

# What docs/api.md documents.
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
    "wals",
]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
