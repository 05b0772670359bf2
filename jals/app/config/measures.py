"""Metrics as a config names them."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from ...errors import ArgumentError
from ...metrics import is_error, metric_parts
from .presets import OverPairs


def _known(metric: str) -> str:
    try:
        if not is_error(metric):
            metric_parts(metric)
    except ArgumentError as error:
        said = str(error).removeprefix("metric ")
        raise PydanticCustomError("metric", "{said}", {"said": said}) from None
    return metric


def _of_a_fit(metric: str) -> str:
    if metric == "mae":
        raise PydanticCustomError("metric", 'is "mae", which is measured at the end only: choose "rmse" or a ranking.')
    return _known(metric)


Metric = Annotated[str, AfterValidator(_known)]  # "rmse", "mae", or a key of `jals.metrics.ranking`: "ndcg@10"
FitMetric = Annotated[str, AfterValidator(_of_a_fit)]  # the same without "mae"


# What a descent follows, where it follows a ranking.
TuneScore = Literal["softmax", "smooth_ndcg"]


USUAL = ("ndcg@10", "recall@20")


def asked(config: Any) -> list[str]:
    """The ranking metrics that a config names, that of its fits first."""
    named = dict.fromkeys([config.fit.metric, *(config.output.metrics or ())])
    return [metric for metric in named if not is_error(metric)]


def ranked(config: Any) -> list[str]:
    """The ranking metrics that are measured: those named. Where nothing is said of them, implicit feedback is ranked
    all the same, as its held-out errors know nothing of missing pairs: by what is usual, where the table allows it."""
    unasked = config.fit.metric == "rmse" and config.output.metrics is None
    able = config.processes.count == 1 and config.problem.missing == "skipped"
    return list(USUAL) if unasked and able and isinstance(config.objective, OverPairs) else asked(config)
