"""Penalties that push scales towards zero while training."""

from gammaslim.penalties.base import Penalty, Scales, Shrinkage
from gammaslim.penalties.budget import Budget
from gammaslim.penalties.cost_weighted import CostWeighted, cost_weighted
from gammaslim.penalties.group_lasso import GroupLasso
from gammaslim.penalties.l1 import L1
from gammaslim.penalties.polarization import Polarization
from gammaslim.penalties.proximal import Proximal

AnyPenalty = Penalty | Shrinkage | CostWeighted | Budget
"""Everything that :func:`gammaslim.attach` attaches."""

__all__ = [
    "L1",
    "AnyPenalty",
    "Budget",
    "CostWeighted",
    "GroupLasso",
    "Penalty",
    "Polarization",
    "Proximal",
    "Scales",
    "Shrinkage",
    "cost_weighted",
]
