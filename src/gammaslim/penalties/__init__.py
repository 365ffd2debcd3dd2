"""Penalties that push scales towards zero while training."""

from gammaslim.penalties.base import Penalty, Shrinkage
from gammaslim.penalties.group_lasso import GroupLasso
from gammaslim.penalties.l1 import L1
from gammaslim.penalties.polarization import Polarization
from gammaslim.penalties.proximal import Proximal

__all__ = ["L1", "GroupLasso", "Penalty", "Polarization", "Proximal", "Shrinkage"]
