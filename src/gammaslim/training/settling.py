"""A budget at work: scores that run along, the channels chosen so far, and how they shrink."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from gammaslim.arrays import BoolArray, FloatArray, IntArray
from gammaslim.channels.costs import CostKind, channel_costs
from gammaslim.channels.graph import ChannelGraph, Cut
from gammaslim.channels.plan import Plan
from gammaslim.errors import PenaltyError
from gammaslim.penalties.base import Scales
from gammaslim.penalties.budget import Budget
from gammaslim.selecting.planning import make_plan
from gammaslim.training.banding import banded

EVERY = 0.01
"""Fraction of the steps after which the choice is made anew.

Each choice reads the scores back from their device once; no other step waits for it.
"""

LOOKS_BACK = 0.05
"""Fraction of the steps over which the running mean of the scores looks back."""


class Settling:
    """What a :class:`Budget` knows while training; one per attachment.

    ``scores`` ``[C]``: the running mean per channel of the flat vector.  ``chosen`` ``[C]``: 1 for
    those that shrink at present, else 0.  Everything else follows from the step.
    """

    def __init__(self, budget: Budget, graph: ChannelGraph, numbers: IntArray) -> None:
        """Begin before the first step; ``numbers`` are the graph's channels of the flat vector.

        Raises:
            TargetError: the target cannot be reached; the text names what can.
            NothingToPruneError: no prunable channel holds a scale.
        """
        self._budget = budget
        self._graph = graph
        self._numbers = numbers
        self._real = numbers >= 0
        self._weights = _weights(budget, graph)
        self._first, self._last = budget.starts_at, budget.settles_at
        self._every = max(round(EVERY * budget.steps), 1)
        self._fresh = min(1.0, 1 / (LOOKS_BACK * budget.steps))
        self.scores = torch.zeros(len(numbers), dtype=torch.float32)
        self.chosen = torch.zeros(len(numbers), dtype=torch.float32)
        self._effect: Tensor | None = None
        banded(budget, graph, np.zeros(graph.num_channels), budget.target[1])

    @property
    def zero_at(self) -> int:
        """After how many steps all that has been chosen is zero."""
        return self._budget.zero_at

    def follow(self, graph: ChannelGraph, numbers: IntArray, keep: BoolArray) -> None:
        """Go on with what a cut has left; ``numbers`` are the cut graph's channels."""
        old = np.where(numbers < 0, numbers, np.flatnonzero(keep)[np.maximum(numbers, 0)])
        places = torch.from_numpy(np.searchsorted(self._numbers, old)).to(self.scores.device)
        self.scores = self.scores[places]
        self.chosen = self.chosen.to(places.device)[places]
        self._graph, self._numbers, self._real = graph, numbers, numbers >= 0
        self._weights, self._effect = self._weights[keep], None

    def watches(self, step: int) -> bool:
        """Whether gradients are still of interest at this step."""
        return step <= self._last

    def observe(self, scales: Scales, gradients: Tensor) -> None:
        """Look at the gradients ``[n]`` of a step, or of one optimizer's part of it."""
        effect = scales.per_channel(scales.values * gradients)
        self._effect = effect if self._effect is None else self._effect + effect

    def advance(self, step: int) -> None:
        """This step is over: take in what was observed, and choose anew if it is time to."""
        if step > self._last:
            return
        if self._effect is not None:
            # Gradients that overflowed say nothing; the optimizer skips such a step as well.
            seen = self._effect.square_().nan_to_num_(0.0, 0.0, 0.0).to(self.scores.dtype)
            self.scores = self.scores.to(seen.device).lerp_(seen, self._fresh)
            self._effect = None
        if step == self._last or (step >= self._first and step % self._every == 0):
            self._choose(step)

    def _choose(self, step: int) -> None:
        scores = np.zeros(self._graph.num_channels)
        scores[self._numbers[self._real]] = self.scores.double().cpu().numpy()[self._real]
        share = self._budget.kept_after(step)
        keep = banded(self._budget, self._graph, scores / self._weights, share)
        chosen = torch.from_numpy(self._real & ~keep[self._numbers])
        self.chosen = chosen.float().to(self.scores.device)

    def factors(self, channels: Tensor, step: int) -> Tensor | None:
        """By what values of these channels ``[n]`` are multiplied after a step; ``None``: by 1."""
        if step < self._first:
            return None
        left = max(self._budget.zero_at - 1 - step, 0)
        self.chosen = self.chosen.to(channels.device)
        return torch.rsub(self.chosen.index_select(0, channels), 1.0, alpha=1 / (left + 1))

    def done(self, step: int) -> bool:
        """Whether the factors of this step are 0 for all that has been chosen."""
        return step >= self._budget.zero_at - 1

    def plan(self, step: int) -> Plan:
        """The plan that removes what has been chosen.

        Raises:
            PenaltyError: not all of it is zero after so many steps.
        """
        if step < self._budget.zero_at:
            raise PenaltyError(
                f"The plan of {self._budget!r} was asked after {step} optimizer steps, but "
                f"channels are exactly zero only after {self._budget.zero_at}. Train on, or give "
                "the budget as many steps as the training has."
            )
        keep = np.ones(self._graph.num_channels, dtype=np.bool_)
        keep[self._numbers[self.chosen.bool().cpu().numpy()]] = False
        return make_plan(self._graph, Cut(self._graph, keep).settled.keep)

    def state_dict(self) -> dict[str, Any]:
        """Copies of what it has learnt."""
        return {"scores": self.scores.cpu().clone(), "chosen": self.chosen.bool().cpu()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there.

        Raises:
            PenaltyError: the state is not one of this network's channels.
        """
        for name in ("scores", "chosen"):
            value: Any = state.get(name)
            if not isinstance(value, Tensor) or value.shape != self.scores.shape:
                found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise PenaltyError(
                    f"The state of a budget for {len(self._numbers)} channels was expected; its "
                    f"{name!r} is {found}. Load the state saved with this network and graph."
                )
        self.scores = state["scores"].to(self.scores.dtype).clone()
        self.chosen = state["chosen"].float().clone()


def _weights(budget: Budget, graph: ChannelGraph) -> FloatArray:
    """``cost^p`` of each channel, of the cost that the target is about."""
    if budget.costs is not None:
        return _given_costs(budget.costs, graph) ** budget.cost_power
    if budget.remove_channels is not None:
        return np.ones(graph.num_channels)
    kind: CostKind = "params" if budget.keep_params is not None else "macs"
    costs = channel_costs(graph, kind)
    return np.maximum(costs / max(costs.max(), 1.0), 1e-12) ** budget.cost_power


def _given_costs(costs: FloatArray, graph: ChannelGraph) -> FloatArray:
    """Costs as shares of the largest; what was too short to be measured takes the least time."""
    values = np.asarray(costs, dtype=np.float64)
    if values.shape != (graph.num_channels,) or not (values >= 0).all():  # NaN as well
        raise PenaltyError(
            f"Budget(costs=...) was given an array of shape {values.shape}; one number of 0 or "
            f"above is needed for each of this graph's {graph.num_channels} channels, as from "
            "gs.channel_latencies(model, graph)."
        )
    known = values[values > 0]
    return np.maximum(values, known.min()) / known.max() if len(known) else np.ones(len(values))
