"""Penalties that push scales towards zero while training."""

from gammaslim.penalties.base import AnyPenalty, ByStrength, Penalty, Shrinkage
from gammaslim.penalties.budget import Budget
from gammaslim.penalties.cost_weighted import CostWeighted, cost_weighted
from gammaslim.penalties.group_lasso import GroupLasso
from gammaslim.penalties.l1 import L1
from gammaslim.penalties.polarization import Polarization
from gammaslim.penalties.proximal import Proximal
from gammaslim.penalties.scales import Scales
from gammaslim.penalties.work import Moment, Work

__all__ = [
    "L1",
    "AnyPenalty",
    "Budget",
    "ByStrength",
    "CostWeighted",
    "GroupLasso",
    "Moment",
    "Penalty",
    "Polarization",
    "Proximal",
    "Scales",
    "Shrinkage",
    "Work",
    "cost_weighted",
]
