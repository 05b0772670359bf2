"""Tuning by descent: the held-out error's derivative moves the objective's numbers."""

from .descent import Step, StepProgress, Steps, Tuned, tune
from .rules import ByDegree, Groups, One, PerRow
from .step import Learned

__all__ = ["ByDegree", "Groups", "Learned", "One", "PerRow", "Step", "StepProgress", "Steps", "Tuned", "tune"]
