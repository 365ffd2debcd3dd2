"""Penalties that push scales towards zero while training."""

from gammaslim.penalties.base import Penalty
from gammaslim.penalties.group_lasso import GroupLasso
from gammaslim.penalties.l1 import L1

__all__ = ["L1", "GroupLasso", "Penalty"]
