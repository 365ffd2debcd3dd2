"""gammaslim makes convolutional networks narrower: BatchNorm scales go to zero, channels go.

The pipeline is ``trace → train with a penalty → scores → select → prune → save``; each stage
makes a frozen record for the next.
"""

from gammaslim import schedules
from gammaslim.channels import ChannelGraph, Cost, Frozen, Group, Plan, channel_costs
from gammaslim.cutting import Change, Folded, Outcome, prune
from gammaslim.errors import (
    CalibrationError,
    FileFormatError,
    GammaslimError,
    GammaslimWarning,
    MissingExtraError,
    NothingToPruneError,
    OptimizerError,
    PenaltyError,
    PlanError,
    RuleError,
    ScoreError,
    SiteError,
    StaleGraphError,
    TargetError,
    TraceError,
    VerificationError,
)
from gammaslim.files import load, save
from gammaslim.latency import Fit, channel_latencies, select_latency
from gammaslim.penalties import (
    L1,
    Budget,
    CostWeighted,
    GroupLasso,
    Penalty,
    Polarization,
    Proximal,
    Scales,
    Shrinkage,
    cost_weighted,
)
from gammaslim.recording import OperatorCall
from gammaslim.rules import rule
from gammaslim.selecting import Sweep, SweepRow, gap_threshold, scores, select, sweep
from gammaslim.tracing import trace
from gammaslim.training import (
    Attachment,
    Forecast,
    Shrinker,
    Stats,
    attach,
    distillation_loss,
    param_groups,
    reset_parameters,
    shrink_every,
    suggest_strength,
)

__version__ = "0.1.0"

__all__ = [
    "L1",
    "Attachment",
    "Budget",
    "CalibrationError",
    "Change",
    "ChannelGraph",
    "Cost",
    "CostWeighted",
    "FileFormatError",
    "Fit",
    "Folded",
    "Forecast",
    "Frozen",
    "GammaslimError",
    "GammaslimWarning",
    "Group",
    "GroupLasso",
    "MissingExtraError",
    "NothingToPruneError",
    "OperatorCall",
    "OptimizerError",
    "Outcome",
    "Penalty",
    "PenaltyError",
    "Plan",
    "PlanError",
    "Polarization",
    "Proximal",
    "RuleError",
    "Scales",
    "ScoreError",
    "Shrinkage",
    "Shrinker",
    "SiteError",
    "StaleGraphError",
    "Stats",
    "Sweep",
    "SweepRow",
    "TargetError",
    "TraceError",
    "VerificationError",
    "attach",
    "channel_costs",
    "channel_latencies",
    "cost_weighted",
    "distillation_loss",
    "gap_threshold",
    "load",
    "param_groups",
    "prune",
    "reset_parameters",
    "rule",
    "save",
    "schedules",
    "scores",
    "select",
    "select_latency",
    "shrink_every",
    "suggest_strength",
    "sweep",
    "trace",
]
