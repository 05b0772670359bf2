"""jals: differentiable matrix factorization by alternating least squares, in JAX."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import baselines, datasets, errors, experiment, metrics, plot, presets, recommend, tuning
    from .caching import enable_cache
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

# Where each name lies, as above. A module is imported when something of it is first asked for: whoever fits by ALS
# does not wait for what descends gradients, and `import jals` takes no longer than `import jax`.
_MODULES = {
    "adjoint": "derivatives.adjoint",
    "baselines": "baselines",
    "datasets": "datasets",
    "errors": "errors",
    "experiment": "experiment",
    "layouts": "model.layouts",
    "metrics": "metrics",
    "native": "rows.native",
    "normal": "rows.normal",
    "plot": "plot",
    "presets": "presets",
    "protocol": "solvers.protocol",
    "recommend": "recommend",
    "rowsolve": "rows.rowsolve",
    "split": "data.split",
    "tuning": "tuning",
    "view": "rows.view",
    "walk": "rows.walk",
}
_HOMES = {
    "caching": ("enable_cache",),
    "data.ratings": ("Ratings",),
    "data.readers": ("read_ratings",),
    "data.vocabulary": ("Vocabulary",),
    "derivatives.crosscheck": ("check_hypergradient",),
    "derivatives.solution": ("solution_map",),
    "diagnostics.certificate": ("Certificate", "certify"),
    "diagnostics.leverage": ("LeaveOneOut", "leave_one_out"),
    "errors": (
        "AdjointError", "ArgumentError", "ConfigError", "DataError", "FitError", "ForkError", "Interrupted",
        "JalsError", "OutOfMemory", "StorageError",
    ),
    "files.storage": ("Saved", "save"),
    "fitting.grids": ("fit_grid",),
    "fitting.many": ("fit_many",),
    "fitting.paths": ("regularisation_path",),
    "fitting.single": ("History", "Progress", "Result", "fit", "run"),
    "model.conventions": ("als_wr", "explicit", "hu_koren", "ials", "wals"),
    "model.factors": ("Factors", "predict"),
    "model.objectives": ("Objective",),
    "model.problem": ("Problem",),
    "partitioned.manifest": ("Manifest",),
    "partitioned.writer": ("partition",),
    "planning.plan": ("Plan", "plan"),
    "recommend.explanation": ("Explanation", "explain"),
    "recommend.folding": ("Appended", "append", "fold_in"),
    "recommend.recommender": ("Recommender", "load"),
    "recommend.top": ("similar", "top_k"),
    "solvers.als": ("ALS",),
    "solvers.anderson": ("AndersonALS",),
    "solvers.gradient": ("Gradient",),
    "solvers.newton": ("NewtonCG",),
    "solvers.protocol": ("Info", "State", "loss"),
    "solvers.schedules": ("scheduled",),
    "tuning": ("Tuned", "tune"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__version__ = "0.2.0"

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
    "enable_cache",
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


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        found = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    elif name in _HOME_OF:
        found = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found  # so it is asked for once
    return found


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
