"""The polarization regulariser: some scales to zero, the others left where they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from gammaslim.penalties.base import Penalty, check_number
from gammaslim.penalties.scales import Scales
from gammaslim.schedules import Strength, check_strength


@final
@dataclass(frozen=True)
class Polarization(Penalty):
    """``R(γ) = λ (t Σ|γ| − Σ|γ − γ̄|)``, with γ̄ the mean of all penalised scales.

    L1 pulls every scale towards zero and leaves them in one cluster.  The second term pushes each
    away from their mean, so that two clusters form, one at zero, with a gap in which to cut.  With
    ``s = sign(γ − γ̄)`` and s̄ its mean, ``γ.grad += λ (t · sign(γ) − s + s̄)``.

    Args:
        strength: λ, per scale: a finite number, 0 or above, or a schedule of it.
        t: weight of the L1 term against the other; finite, 0 or above.

    Raises:
        PenaltyError: one of them is negative, NaN or infinite.

    Example:
        >>> Polarization(1e-4)
        Polarization(strength=0.0001, t=1.0)

    Source: Zhuang et al., "Neuron-level Structured Pruning using Polarization Regularizer",
    NeurIPS 2020.
    """

    strength: Strength
    t: float = 1.0

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be used."""
        check_strength("Polarization", "strength", self.strength)
        check_number("Polarization", "t", self.t)

    def gradient(self, scales: Scales) -> Tensor:
        """``λ (t · sign(γ) − s) + mean(λ s)``, shape ``[n]``: λ may differ from scale to scale."""
        values, strengths = scales.values, scales.strengths
        inwards = (scales.mean(values) - values).sign_().mul_(strengths)
        drift = scales.mean(inwards)
        if scales.penalised is not None:
            drift = drift * scales.penalised
        inwards.sub_(drift)
        return inwards.add_(values.sign().mul_(strengths), alpha=self.t)

    def distances(self, scales: Scales) -> Tensor:
        """``max |γ| / (t + 1)``: below the mean both terms pull towards zero."""
        return super().distances(scales) / (self.t + 1)
