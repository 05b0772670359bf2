"""How good predictions are: of values (`ratings`), and of what is ranked first (`ranks`)."""

from .ranks import Ranking, ranking
from .ratings import HeldOut, held_out_error, mae, rmse

__all__ = ["HeldOut", "Ranking", "held_out_error", "mae", "ranking", "rmse"]
