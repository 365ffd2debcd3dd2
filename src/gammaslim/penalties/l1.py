"""The L1 penalty of Network Slimming."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from gammaslim.penalties.base import Penalty
from gammaslim.penalties.scales import Scales
from gammaslim.schedules import Strength, check_strength


@final
@dataclass(frozen=True)
class L1(Penalty):
    """``R(γ) = λ Σ|γ|``, i.e. before each optimizer step ``γ.grad += λ · sign(γ)``.

    Every scale is pulled towards zero by the same force, whatever it is coupled to; at zero the
    subgradient 0 is taken.

    Args:
        strength: λ, per scale: a finite number, 0 or above, or a schedule of it.

    Raises:
        PenaltyError: ``strength`` is negative, NaN or infinite.

    Example:
        >>> L1(1e-4)
        L1(strength=0.0001)

    Source: Liu et al., "Learning Efficient Convolutional Networks through Network Slimming",
    ICCV 2017, arXiv 1708.06519.
    """

    strength: Strength

    def __post_init__(self) -> None:
        """Refuse a strength that cannot be used."""
        check_strength("L1", "strength", self.strength)

    def gradient(self, scales: Scales) -> Tensor:
        """``λ · sign(γ)``, shape ``[n]``."""
        return scales.values.sign().mul_(scales.strengths)
