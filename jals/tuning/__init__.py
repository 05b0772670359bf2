"""Tuning by descent: the derivative of a held-out error, or of a ranking, moves the objective's numbers."""

from .descent import Step, StepProgress, Steps, Tuned, tune
from .rules import ByDegree, Groups, One, PerRow
from .scores import SmoothNDCG, Softmax, SquaredError
from .step import Learned

__all__ = [
    "ByDegree",
    "Groups",
    "Learned",
    "One",
    "PerRow",
    "SmoothNDCG",
    "Softmax",
    "SquaredError",
    "Step",
    "StepProgress",
    "Steps",
    "Tuned",
    "tune",
]
