"""gammaslim makes convolutional networks narrower: BatchNorm scales go to zero, channels go.

The pipeline is ``trace → train with a penalty → scores → select → prune → save``; each stage
makes a frozen record for the next.
"""

from gammaslim.attach import Attachment, attach
from gammaslim.errors import (
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
from gammaslim.graph import ChannelGraph, Cost, Frozen, Group
from gammaslim.penalties import L1, GroupLasso, Polarization, Proximal
from gammaslim.plan import Plan
from gammaslim.pruning import Outcome, prune
from gammaslim.rules.user import OperatorCall, rule
from gammaslim.scores import scores
from gammaslim.select import select
from gammaslim.tracing import trace

__version__ = "0.1.0"

__all__ = [
    "L1",
    "Attachment",
    "ChannelGraph",
    "Cost",
    "FileFormatError",
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
    "PenaltyError",
    "Plan",
    "PlanError",
    "Polarization",
    "Proximal",
    "RuleError",
    "ScoreError",
    "StaleGraphError",
    "TargetError",
    "TraceError",
    "VerificationError",
    "attach",
    "load",
    "prune",
    "rule",
    "save",
    "scores",
    "select",
    "trace",
]
