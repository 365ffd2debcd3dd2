"""gammaslim makes convolutional networks narrower: BatchNorm scales go to zero, channels go.

The pipeline is ``trace → train with a penalty → scores → select → prune → save``; each stage
makes a frozen record for the next.
"""

from gammaslim import schedules
from gammaslim.attach import attach
from gammaslim.attachment import Attachment
from gammaslim.costs import channel_costs
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
    StaleGraphError,
    TargetError,
    TraceError,
    VerificationError,
)
from gammaslim.files import load, save
from gammaslim.fitting import Fit, select_latency
from gammaslim.folding import Folded
from gammaslim.forecasting import Forecast
from gammaslim.graph import ChannelGraph
from gammaslim.latency import channel_latencies
from gammaslim.param_groups import param_groups
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
from gammaslim.plan import Plan
from gammaslim.pruning import Change, Outcome, prune
from gammaslim.records import Cost, Frozen, Group
from gammaslim.rules.user import OperatorCall, rule
from gammaslim.scores import scores
from gammaslim.scratch import distillation_loss, reset_parameters
from gammaslim.select import select
from gammaslim.shrinking import Shrinker, shrink_every
from gammaslim.suggesting import suggest_strength
from gammaslim.sweeping import Sweep, SweepRow, sweep
from gammaslim.thresholds import gap_threshold
from gammaslim.tracing import trace
from gammaslim.watching import Stats

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
