"""How good predictions are: of values (`ratings`), and of what is ranked first (`ranks`),
also by losses that can be descended (`smooth`)."""

from .names import RMSE, as_error, is_error, metric_parts, spelt
from .ranks import Evaluation, Ranking, ranking
from .ratings import HeldOut, held_out_error, mae, rmse
from .smooth import HeldOutRanking, smooth_ndcg_loss, softmax_loss

__all__ = [
    "RMSE",
    "Evaluation",
    "HeldOut",
    "HeldOutRanking",
    "Ranking",
    "as_error",
    "held_out_error",
    "is_error",
    "mae",
    "metric_parts",
    "ranking",
    "rmse",
    "smooth_ndcg_loss",
    "softmax_loss",
    "spelt",
]
