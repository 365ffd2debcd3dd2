"""The proximal step of the group lasso: exact zeros, whatever the optimizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from gammaslim.penalties.base import Shrinkage, tiny
from gammaslim.penalties.scales import Scales
from gammaslim.schedules import Strength, check_strength


@final
@dataclass(frozen=True)
class Proximal(Shrinkage):
    """After each step, ``v ← v · max(0, 1 − η λ / ‖v‖₂)`` for the vector v of each channel.

    v holds all scales of a channel across all its BatchNorms, and their shifts; η is the learning
    rate.  This is the proximal operator of ``η λ ‖v‖₂``: a subgradient step swings around zero,
    this one lands on it and stays.  It does not touch gradients, so that neither an optimizer's
    preconditioner nor gradient scaling or clipping changes what λ means.

    Args:
        strength: λ, per channel: a finite number, 0 or above, or a schedule of it.
        shifts: also shrink the shifts; a channel of which both are zero is zero, and its removal
            changes nothing.

    Raises:
        PenaltyError: ``strength`` is negative, NaN or infinite.

    Example:
        >>> Proximal(1e-3)
        Proximal(strength=0.001, shifts=True)

    Source: Parikh and Boyd, "Proximal Algorithms", Foundations and Trends in Optimization 2014,
    section 6.5.4 (block soft thresholding); on scaling factors of networks: Huang and Wang,
    "Data-Driven Sparse Structure Selection for Deep Neural Networks", ECCV 2018, arXiv 1707.01213.
    """

    strength: Strength
    shifts: bool = True

    def __post_init__(self) -> None:
        """Refuse a strength that cannot be used."""
        check_strength("Proximal", "strength", self.strength)

    def factors(self, scales: Scales) -> Tensor:
        """``max(0, 1 − η λ / ‖v‖₂)``, shape ``[n]``."""
        values, amount = scales.values, scales.rates
        squares = scales.per_channel(values * values).clamp_(min=tiny(values))
        shrunk = scales.spread(squares.rsqrt_()).mul_(scales.strengths)
        if isinstance(amount, Tensor):
            shrunk, amount = shrunk.mul_(amount), 1.0
        return torch.rsub(shrunk, 1.0, alpha=amount).clamp_(min=0)
