"""How good predictions are: of values (`ratings`), and of what is ranked first (`ranks`)."""

from .ranks import Evaluation, Ranking, metric_parts, ranking
from .ratings import HeldOut, held_out_error, mae, rmse

__all__ = ["Evaluation", "HeldOut", "Ranking", "held_out_error", "mae", "metric_parts", "ranking", "rmse"]
