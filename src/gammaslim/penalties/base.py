"""What penalties are: frozen records of what was asked for, pure functions on one flat vector."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor

from gammaslim.arrays import FloatArray, IntArray
from gammaslim.channels import ChannelGraph, Cut
from gammaslim.errors import PenaltyError
from gammaslim.penalties.scales import Scales
from gammaslim.penalties.work import AddedToGradients, MultipliedIn, Work
from gammaslim.schedules import Strength, length_of, strength_at


class AnyPenalty(ABC):
    """Everything that :func:`gammaslim.attach` attaches; subclasses are frozen dataclasses.

    The record says what was asked for, and what has to be known of it before and beside a training.
    What it does at each step is up to its working part, which :meth:`begin` makes.
    """

    @abstractmethod
    def begin(self, graph: ChannelGraph, numbers: IntArray) -> Work:
        """The working part for one training.

        Args:
            graph: the network's channels.
            numbers: ``[C]``, those of them that the flat vector's channels are; -1 for what may not
                go and is no channel.
        """

    def after(self, cut: Cut) -> Self:  # noqa: ARG002 -- most say nothing of single channels
        """The same penalty for the network that a cut leaves."""
        return self

    def strength_at(self, step: int) -> float | None:  # noqa: ARG002 -- see the subclasses
        """λ at an optimizer step, counted from 0; ``None`` where no λ decides."""
        return None

    @property
    def length(self) -> int:
        """How many optimizer steps it takes, at least; 0 where any number will do."""
        return self.zero_at or 0

    @property
    def zero_at(self) -> int | None:
        """After how many steps all that it chooses is exactly zero, for good.

        ``None`` where it does not choose by itself.  What promises this needs every scale and shift
        to be trained, can make a plan from then on, and no cut can be followed before.
        """
        return None

    @property
    def on_shifts(self) -> bool:
        """Whether the shifts of the penalised scales belong to the flat vector."""
        return False

    @property
    def on_gradients(self) -> bool:
        """Whether it acts through gradients, so that the optimizer says how far λ moves a scale."""
        return False

    @property
    def channel_weights(self) -> FloatArray | None:
        """What λ is multiplied with at each channel of the graph; ``None``: 1 everywhere."""
        return None

    def distances(self, scales: Scales) -> Tensor:
        """How far each channel is from zero, in what λ moves by λ per unit of learning rate.

        ``[num_channels]``; unless overridden the 2-norm of each channel's vector.
        """
        return scales.norms()


class ByStrength(AnyPenalty):
    """A penalty that a strength λ drives, a number or a schedule."""

    strength: Strength

    def strength_at(self, step: int) -> float:
        """λ at this step."""
        return strength_at(self.strength, step)

    @property
    def length(self) -> int:
        """That of its schedule."""
        return length_of(self.strength)


class Penalty(ByStrength):
    """A sparsity penalty R(γ); subclasses are frozen dataclasses without state.

    It sees the network as one flat vector, so that one fused computation serves all layers, and
    knows nothing of modules, optimizers or devices: see :func:`gammaslim.attach` for those.
    ``strength`` is λ, or a schedule of it; what holds at a step comes in ``scales.strengths``.
    """

    @abstractmethod
    def gradient(self, scales: Scales) -> Tensor:
        """The term ∂R/∂γ that is added to the scales' gradient before each optimizer step.

        It is proportional to the strengths.  Must not wait for the device (no ``.item()``).

        Returns:
            ``[n]``, of the dtype and device of ``scales.values``; 0 where λ is.
        """

    def distances(self, scales: Scales) -> Tensor:
        """How far each channel is from zero, in what λ moves by λ per unit of learning rate.

        ``[num_channels]``; unless overridden the largest |γ| of each channel.
        """
        far = scales.values.new_zeros(scales.num_channels)
        return far.scatter_reduce_(0, scales.channels, scales.values.abs(), "amax")

    def begin(self, graph: ChannelGraph, numbers: IntArray) -> Work:  # noqa: ARG002
        """It remembers nothing: what it does at a step is :meth:`gradient`."""
        return AddedToGradients(self.gradient)

    @property
    def on_gradients(self) -> bool:
        """It does."""
        return True


class Shrinkage(ByStrength):
    """A penalty that acts on the values after each optimizer step, not on the gradients before.

    Like :class:`Penalty` it sees one flat vector.  ``shifts``: the shifts of the penalised scales
    belong to their channels' vectors too.
    """

    shifts: bool

    @abstractmethod
    def factors(self, scales: Scales) -> Tensor:
        """By what each value is multiplied after an optimizer step.

        They depend on the products of strengths and rates alone.  Must not wait for the device (no
        ``.item()``).

        Returns:
            ``[n]``, of the dtype and device of ``scales.values``; 1 where λ is 0.
        """

    def begin(self, graph: ChannelGraph, numbers: IntArray) -> Work:  # noqa: ARG002
        """It remembers nothing: what it does at a step is :meth:`factors`."""
        return MultipliedIn(self.factors)

    @property
    def on_shifts(self) -> bool:
        """``shifts``."""
        return self.shifts


def tiny(values: Tensor) -> float:
    """The smallest normal number of a tensor's type: a norm that can be divided by."""
    return torch.finfo(values.dtype).tiny


def check_number(penalty: str, argument: str, value: float, *, positive: bool = False) -> None:
    """Refuse a penalty's number unless it is finite and at least (or above) zero.

    Raises:
        PenaltyError: it is not.
    """
    if math.isfinite(value) and (value > 0 if positive else value >= 0):
        return
    wanted = "a finite number above 0" if positive else "a finite number, 0 or above"
    raise PenaltyError(f"{penalty}({argument}={value!r}) was asked; {argument} must be {wanted}.")
