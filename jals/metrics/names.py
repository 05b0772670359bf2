"""What a metric of a fit is called: "rmse" or "mae", the lower the better; "ndcg@10", "auc" and the like, the higher
the better."""

import re
from typing import Any

from ..errors import ArgumentError, check_choice
from .formulas import METRICS

RMSE = "rmse"  # the metric of a fit unless another is asked for
_ERRORS = {RMSE: "RMSE", "mae": "MAE"}


def metric_parts(metric: Any) -> tuple[str, int | None]:
    """("ndcg", 10) of "ndcg@10", ("auc", None) of "auc"; raises ArgumentError for what is no ranking metric."""
    need = 'a ranking metric such as "ndcg@10" or "auc"'
    if not isinstance(metric, str):
        raise ArgumentError(f"metric is {metric!r}, but must be {need}.")
    name, at, number = metric.partition("@")
    check_choice("metric", name, METRICS)
    if (name == "auc") != (not at) or (at and not re.fullmatch("[1-9][0-9]*", number)):
        raise ArgumentError(f"metric is {metric!r}, but must be {need}.")
    return name, int(number) if at else None


def is_error(metric: str) -> bool:
    """Whether the lower is the better."""
    return metric in _ERRORS


def as_error(metric: str, value: Any) -> Any:
    """The value, negative where the higher is the better: so the lower is the better of all metrics alike."""
    return value if is_error(metric) else -value


def spelt(metric: str) -> str:
    """As tables and pictures have it: RMSE, ndcg@10."""
    return _ERRORS.get(metric, metric)
