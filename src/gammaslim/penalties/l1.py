"""The L1 penalty of Network Slimming."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from gammaslim.penalties.base import Penalty, check_number


@final
@dataclass(frozen=True)
class L1(Penalty):
    """``R(γ) = λ Σ|γ|``, i.e. before each optimizer step ``γ.grad += λ · sign(γ)``.

    Every scale is pulled towards zero by the same force, whatever it is coupled to; at zero the
    subgradient 0 is taken.

    Args:
        strength: λ, per scale; finite, 0 or above.

    Raises:
        PenaltyError: ``strength`` is negative, NaN or infinite.

    Example:
        >>> L1(1e-4)
        L1(strength=0.0001)

    Source: Liu et al., "Learning Efficient Convolutional Networks through Network Slimming",
    ICCV 2017, arXiv 1708.06519.
    """

    strength: float

    def __post_init__(self) -> None:
        """Refuse a strength that cannot be used."""
        check_number("L1", "strength", self.strength)

    def gradient(
        self,
        scales: Tensor,
        channels: Tensor,  # noqa: ARG002 -- coupling plays no part in L1
        num_channels: int,  # noqa: ARG002
    ) -> Tensor:
        """``λ · sign(γ)``, shape ``[n]``."""
        return scales.sign().mul_(self.strength)
