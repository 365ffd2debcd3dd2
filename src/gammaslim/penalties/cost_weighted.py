"""A penalty that pulls harder on channels that cost more."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import final

import numpy as np
from torch import Tensor

from gammaslim.arrays import FloatArray, IntArray
from gammaslim.channels import ChannelGraph, CostKind, Cut, channel_costs
from gammaslim.errors import NothingToPruneError, PenaltyError
from gammaslim.penalties.base import AnyPenalty, ByStrength
from gammaslim.penalties.scales import Scales
from gammaslim.penalties.work import Work


@final
@dataclass(frozen=True, eq=False)
class CostWeighted(AnyPenalty):
    """A penalty with a weight for each channel of a graph; made by :func:`cost_weighted`.

    In all but its weights it is what ``penalty`` is.
    """

    penalty: ByStrength
    weights: FloatArray = field(repr=False)
    cost: str

    def begin(self, graph: ChannelGraph, numbers: IntArray) -> Work:
        """The working part of what is weighted: its strengths come with the weights in them."""
        return self.penalty.begin(graph, numbers)

    def after(self, cut: Cut) -> CostWeighted:
        """With the weights of the channels that are left."""
        return replace(self, penalty=self.penalty.after(cut), weights=self.weights[cut.keep])

    def strength_at(self, step: int) -> float:
        """λ at this step, without weights."""
        return self.penalty.strength_at(step)

    @property
    def length(self) -> int:
        """That of what is weighted."""
        return self.penalty.length

    @property
    def on_shifts(self) -> bool:
        """As what is weighted."""
        return self.penalty.on_shifts

    @property
    def on_gradients(self) -> bool:
        """As what is weighted."""
        return self.penalty.on_gradients

    @property
    def channel_weights(self) -> FloatArray:
        """``weights``."""
        return self.weights

    def distances(self, scales: Scales) -> Tensor:
        """Those of what is weighted."""
        return self.penalty.distances(scales)


def cost_weighted(
    penalty: ByStrength, graph: ChannelGraph, cost: CostKind | FloatArray = "macs"
) -> CostWeighted:
    """Each channel's λ in proportion to what it would save: ``λ_c = λ · cost_c / mean cost``.

    The mean is over the prunable channels that hold a scale, so that λ keeps its meaning for the
    network as a whole.  Channels early in a network, where images are large, are pulled hardest.

    Args:
        penalty: for instance ``GroupLasso(1e-4)``.
        graph: the network's channels, those that will be given to :func:`gammaslim.attach`.
        cost: ``"macs"``, ``"params"``, or one number per channel of the graph, such as the
            latencies that :func:`gammaslim.channel_latencies` measures.

    Raises:
        PenaltyError: ``penalty`` cannot be weighted, ``cost`` is unknown, or the numbers are
            negative, not finite, all zero, or not one per channel.
        NothingToPruneError: no prunable channel holds a scale.

    Example:
        ``gs.attach(model, graph, optimizer, gs.cost_weighted(gs.GroupLasso(1e-4), graph))``

    Source: Gordon et al., "MorphNet: Fast & Simple Resource-Constrained Structure Learning of Deep
    Networks", CVPR 2018, arXiv 1711.06798.
    """
    if not isinstance(penalty, ByStrength):
        raise PenaltyError(
            f"cost_weighted was asked for {penalty!r}; it weighs penalties with a strength, such "
            "as GroupLasso(1e-4). Budget weighs costs by itself."
        )
    costs = channel_costs(graph, cost) if isinstance(cost, str) else np.asarray(cost, np.float64)
    if costs.shape != (graph.num_channels,):
        raise PenaltyError(
            f"cost of shape {costs.shape} was given; this graph has {graph.num_channels} channels, "
            "each of which needs one number."
        )
    free = graph.prunable & graph.scored
    if not free.any():
        raise NothingToPruneError(
            "cost_weighted needs prunable channels that hold a BatchNorm scale; there are none. "
            "graph.frozen says why."
        )
    if not np.isfinite(costs[free]).all() or (costs[free] < 0).any() or not costs[free].any():
        raise PenaltyError(
            "cost has numbers that are negative or not finite, or only zeros, at channels that may "
            "go; each needs a cost of 0 or above, and one of them more."
        )
    name = cost if isinstance(cost, str) else "given"
    return CostWeighted(penalty, costs / costs[free].mean(), name)
