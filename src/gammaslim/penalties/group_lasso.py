"""The group lasso over coupled scales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

from torch import Tensor

from gammaslim.errors import PenaltyError
from gammaslim.penalties.base import Penalty, check_number
from gammaslim.penalties.scales import Scales
from gammaslim.schedules import Strength, check_strength


@final
@dataclass(frozen=True)
class GroupLasso(Penalty):
    """``R(γ) = λ Σ_c ‖γ_c‖₂``, i.e. ``γ.grad += λ · γ / max(‖γ_c‖₂, ε)``.

    γ_c is the vector of all scales of channel c across all its BatchNorms, so that they shrink
    together.  For a channel with one scale this is L1.

    Args:
        strength: λ, per channel: a finite number, 0 or above, or a schedule of it.
        epsilon: keeps the term finite where a whole channel is zero; above 0.
        reduce: ``"sum"`` is the formula, ``‖γ_c‖₂ = √(Σ γ²)``.  ``"mean"`` divides by
            ``√(mean γ²)`` instead, as Torch-Pruning does: a channel of m scales is pulled √m times
            as hard, so that each of its scales moves about as fast as a single one.

    Raises:
        PenaltyError: ``strength`` is negative, NaN or infinite, ``epsilon`` is not above 0, or
            ``reduce`` is neither of the two.

    Example:
        >>> GroupLasso(1e-4)
        GroupLasso(strength=0.0001, epsilon=1e-08, reduce='sum')

    Source: Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023,
    arXiv 2301.12900 (there over weights; here over scales).
    """

    strength: Strength
    epsilon: float = 1e-8
    reduce: Literal["sum", "mean"] = "sum"

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be used."""
        check_strength("GroupLasso", "strength", self.strength)
        check_number("GroupLasso", "epsilon", self.epsilon, positive=True)
        if self.reduce not in ("sum", "mean"):
            raise PenaltyError(
                f"GroupLasso(reduce={self.reduce!r}) was asked; known are 'sum' and 'mean'."
            )

    def gradient(self, scales: Scales) -> Tensor:
        """``λ · γ / max(‖γ_c‖₂, ε)``, or with ``√(mean γ²)`` in place of the norm; ``[n]``."""
        norms = self.distances(scales).clamp_(min=self.epsilon)
        return (scales.values / scales.spread(norms)).mul_(scales.strengths)

    def distances(self, scales: Scales) -> Tensor:
        """``‖γ_c‖₂``, or ``√(mean γ²)``: this is what shrinks by λ per unit of learning rate."""
        if self.reduce == "mean":
            return scales.means(scales.values.square()).sqrt_()
        return scales.norms()
