"""gammaslim makes convolutional networks narrower: BatchNorm scales go to zero, channels go.

The pipeline is ``trace → train with a penalty → scores → select → prune → save``; each stage
makes a frozen record for the next.
"""

from gammaslim import schedules
from gammaslim.channels.costs import channel_costs
from gammaslim.channels.graph import ChannelGraph
from gammaslim.channels.plan import Plan
from gammaslim.channels.records import Cost, Frozen, Group
from gammaslim.cutting.folding import Folded
from gammaslim.cutting.pruning import Change, Outcome, prune
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
from gammaslim.recording.operator_call import OperatorCall
from gammaslim.rules.user import rule
from gammaslim.selecting.planning import select
from gammaslim.selecting.scoring import scores
from gammaslim.selecting.sweeping import Sweep, SweepRow, sweep
from gammaslim.selecting.thresholds import gap_threshold
from gammaslim.tracing.tracer import trace
from gammaslim.training.attachment import Attachment
from gammaslim.training.connecting import attach
from gammaslim.training.decay_groups import param_groups
from gammaslim.training.forecasting import Forecast, suggest_strength
from gammaslim.training.retraining import distillation_loss, reset_parameters
from gammaslim.training.shrinking import Shrinker, shrink_every
from gammaslim.training.stats import Stats

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
