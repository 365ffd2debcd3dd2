"""Scores and a target in, a plan out."""

from gammaslim.selecting.limits import Limits
from gammaslim.selecting.planning import select
from gammaslim.selecting.ranking import rank
from gammaslim.selecting.scoring import scale_parameters, scores
from gammaslim.selecting.sweeping import LimitOptions, Sweep, SweepRow, ranked, sweep
from gammaslim.selecting.targets import TARGETS
from gammaslim.selecting.thresholds import gap_threshold

__all__ = [
    "TARGETS",
    "LimitOptions",
    "Limits",
    "Sweep",
    "SweepRow",
    "gap_threshold",
    "rank",
    "ranked",
    "scale_parameters",
    "scores",
    "select",
    "sweep",
]
