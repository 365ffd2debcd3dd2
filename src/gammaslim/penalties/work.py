"""A penalty's working part: what it does at each optimizer step, and what it remembers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gammaslim.arrays import IntArray
from gammaslim.channels import ChannelGraph, Plan
from gammaslim.penalties.scales import Scales


@dataclass(frozen=True, eq=False)
class Moment:
    """An optimizer step as a working part sees it: a tensor is made only when it is asked for.

    ``step``: counted from 0.  ``channels``: ``[n]``, that of each value of the flat vector.
    ``scales``: the vector itself, as it is now; after a step its ``rates`` are η λ.
    """

    step: int
    channels: Callable[[], Tensor]
    scales: Callable[[], Scales]


class Work:
    """The working part of one penalty in one training; this one does nothing.

    What is called at each step, in this order: :meth:`gradient` and :meth:`observe` before the
    optimizer moves anything, :meth:`advance` and :meth:`factors` after it.  None of them may wait
    for the device, except that ``advance`` may now and then.
    """

    def gradient(self, moment: Moment) -> Tensor | None:
        """What is added to the gradients: ``[n]``, or nothing.

        Proportional to ``scales.strengths``, which hold λ and are 0 at values that may not go.
        """

    def observe(self, moment: Moment, gradients: Callable[[], Tensor]) -> None:
        """Look at the gradients, ``[n]``: of one optimizer's part of the vector, 0 elsewhere."""

    def advance(self, step: int) -> None:
        """A step is over, and all of it has been observed."""

    def factors(self, moment: Moment) -> Tensor | None:
        """What the values are multiplied with: ``[n]``, or nothing.

        1 where ``scales.strengths`` are 0, as they are at values that may not go.
        """

    def plan(self) -> Plan | None:
        """What removes all that it has chosen; ``None`` unless it chooses."""

    def follow(self, graph: ChannelGraph, numbers: IntArray, places: IntArray) -> None:
        """Go on with what a cut has left.

        ``graph`` and ``numbers`` are of the cut network, as for :meth:`AnyPenalty.begin`;
        ``places`` are those that the channels left had among the ``numbers`` of before.
        """

    def state_dict(self) -> dict[str, Any] | None:
        """Copies of what it remembers: tensors and plain values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there.

        Raises:
            PenaltyError: the state is not one of this network's channels; nothing changes.
        """


class AddedToGradients(Work):
    """A function of the flat vector that gives a term of the gradients."""

    def __init__(self, term: Callable[[Scales], Tensor]) -> None:
        """It remembers nothing else."""
        self._term = term

    def gradient(self, moment: Moment) -> Tensor:
        """The function's value."""
        return self._term(moment.scales())


class MultipliedIn(Work):
    """A function of the flat vector that gives factors for it."""

    def __init__(self, factors: Callable[[Scales], Tensor]) -> None:
        """It remembers nothing else."""
        self._factors = factors

    def factors(self, moment: Moment) -> Tensor:
        """The function's value."""
        return self._factors(moment.scales())
