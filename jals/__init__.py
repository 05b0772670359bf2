"""jals: differentiable matrix factorization by alternating least squares, in JAX."""

from . import baselines, datasets, errors, experiment, metrics, plot, presets, recommend, tuning
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
    OutOfMemory,
    StorageError,
)
from .files.storage import Saved, save
from .fitting.grids import fit_grid
from .fitting.many import fit_many
from .fitting.paths import regularisation_path
from .fitting.single import History, Progress, Result, fit, run
from .model import layouts
from .model.conventions import als_wr, explicit, hu_koren, ials, wals
from .model.factors import Factors, predict
from .model.objectives import Objective
from .model.problem import Problem
from .partitioned.manifest import Manifest
from .partitioned.writer import partition
from .planning.plan import Plan, plan
from .recommend.explanation import Explanation, explain
from .recommend.folding import Appended, append, fold_in
from .recommend.recommender import Recommender, load
from .recommend.top import similar, top_k
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
    "Appended",
    "ArgumentError",
    "Certificate",
    "ConfigError",
    "DataError",
    "Explanation",
    "Factors",
    "FitError",
    "ForkError",
    "Gradient",
    "History",
    "Info",
    "Interrupted",
    "JalsError",
    "LeaveOneOut",
    "Manifest",
    "NewtonCG",
    "Objective",
    "OutOfMemory",
    "Plan",
    "Problem",
    "Progress",
    "Ratings",
    "Recommender",
    "Result",
    "Saved",
    "State",
    "StorageError",
    "Tuned",
    "Vocabulary",
    "adjoint",
    "als_wr",
    "append",
    "baselines",
    "certify",
    "check_hypergradient",
    "datasets",
    "errors",
    "experiment",
    "explain",
    "explicit",
    "fit",
    "fit_grid",
    "fit_many",
    "fold_in",
    "hu_koren",
    "ials",
    "layouts",
    "leave_one_out",
    "load",
    "loss",
    "metrics",
    "native",
    "normal",
    "partition",
    "plan",
    "plot",
    "predict",
    "presets",
    "protocol",
    "read_ratings",
    "recommend",
    "regularisation_path",
    "rowsolve",
    "run",
    "save",
    "scheduled",
    "similar",
    "solution_map",
    "split",
    "top_k",
    "tune",
    "tuning",
    "view",
    "walk",
    "wals",
]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
