"""How good predictions are: of values (`ratings`), and of what is ranked first (`ranks`)."""

from .names import RMSE, as_error, is_error, metric_parts, spelt
from .ranks import Evaluation, Ranking, ranking
from .ratings import HeldOut, held_out_error, mae, rmse

__all__ = [
    "RMSE",
    "Evaluation",
    "HeldOut",
    "Ranking",
    "as_error",
    "held_out_error",
    "is_error",
    "mae",
    "metric_parts",
    "ranking",
    "rmse",
    "spelt",
]
