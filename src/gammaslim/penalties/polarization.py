"""The polarization regulariser: some scales to zero, the others left where they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from gammaslim.penalties.base import Penalty, check_number


@final
@dataclass(frozen=True)
class Polarization(Penalty):
    """``R(γ) = λ (t Σ|γ| − Σ|γ − γ̄|)``, with γ̄ the mean of all n scales of the layers.

    L1 pulls every scale towards zero and leaves them in one cluster.  The second term pushes each
    away from their mean, so that two clusters form, one at zero, with a gap in which to cut.  With
    ``s = sign(γ − γ̄)`` and s̄ its mean, ``γ.grad += λ (t · sign(γ) − s + s̄)``.

    Args:
        strength: λ, per scale; finite, 0 or above.
        t: weight of the L1 term against the other; finite, 0 or above.

    Raises:
        PenaltyError: one of them is negative, NaN or infinite.

    Example:
        >>> Polarization(1e-4)
        Polarization(strength=0.0001, t=1.0)

    Source: Zhuang et al., "Neuron-level Structured Pruning using Polarization Regularizer",
    NeurIPS 2020.
    """

    strength: float
    t: float = 1.0

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be used."""
        check_number("Polarization", "strength", self.strength)
        check_number("Polarization", "t", self.t)

    def gradient(
        self,
        scales: Tensor,
        channels: Tensor,  # noqa: ARG002 -- the mean is over scales, whatever they are coupled to
        num_channels: int,  # noqa: ARG002
    ) -> Tensor:
        """``λ (t · sign(γ) − s + s̄)``, shape ``[n]``."""
        away = (scales - scales.mean()).sign_()
        return (scales.sign().mul_(self.t) - away).add_(away.mean()).mul_(self.strength)
