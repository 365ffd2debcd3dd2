"""What penalties are: pure functions on the flat vector of all penalised scales."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from torch import Tensor

from gammaslim.errors import PenaltyError


class Penalty(ABC):
    """A sparsity penalty R(γ); subclasses are frozen dataclasses without state.

    It sees the network as one flat vector, so that one fused computation serves all layers, and
    knows nothing of modules, optimizers or devices: see :func:`gammaslim.attach` for those.
    """

    @abstractmethod
    def gradient(self, scales: Tensor, channels: Tensor, num_channels: int) -> Tensor:
        """The term ∂R/∂γ that is added to the scales' gradient before each optimizer step.

        Must neither change ``scales`` nor wait for the device (no ``.item()``).

        Args:
            scales: ``[n]`` floating, all scales of all penalised layers one after the other.
            channels: ``[n]`` int64 in ``0..num_channels-1``, the channel of each scale.
            num_channels: how many channels those are.

        Returns:
            ``[n]``, of the dtype and device of ``scales``.
        """


class Shrinkage(ABC):
    """A penalty that acts on the values after each optimizer step, not on the gradients before.

    Like :class:`Penalty` it sees one flat vector.  ``shifts``: the shifts of the penalised scales
    belong to their channels' vectors too.
    """

    shifts: bool

    @abstractmethod
    def factors(
        self, values: Tensor, channels: Tensor, num_channels: int, rates: Tensor | float
    ) -> Tensor:
        """By what each value is multiplied after an optimizer step.

        Must neither change ``values`` nor wait for the device (no ``.item()``).

        Args:
            values: ``[n]`` floating, all scales, and shifts, one after the other.
            channels: ``[n]`` int64 in ``0..num_channels-1``, the channel of each.
            num_channels: how many channels those are.
            rates: the learning rate, or ``[n]`` that of each value where they differ.

        Returns:
            ``[n]``, of the dtype and device of ``values``.
        """


def check_number(penalty: str, argument: str, value: float, *, positive: bool = False) -> None:
    """Refuse a penalty's number unless it is finite and at least (or above) zero.

    Raises:
        PenaltyError: it is not.
    """
    if math.isfinite(value) and (value > 0 if positive else value >= 0):
        return
    wanted = "a finite number above 0" if positive else "a finite number, 0 or above"
    raise PenaltyError(f"{penalty}({argument}={value!r}) was asked; {argument} must be {wanted}.")
