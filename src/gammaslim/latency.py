"""How long channels take: measured on the network itself, cut group by group."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from torch import nn

from gammaslim.costs import channel_costs
from gammaslim.errors import TargetError
from gammaslim.graph import ChannelGraph
from gammaslim.modules import check_fresh, unwrap
from gammaslim.records import BoolArray, Group
from gammaslim.timing import medians

FloatArray = NDArray[np.float64]


def channel_latencies(
    model: nn.Module,
    graph: ChannelGraph,
    *,
    share: float = 0.5,
    repeats: int = 5,
    progress: bool = True,
) -> FloatArray:
    """What each channel adds to the time of one forward pass on the traced inputs.

    For each group that may go, a copy of the network without ``share`` of it is timed beside the
    whole one, in turns; its channels share the difference: ``(t_full - t_cut) / removed``, at least
    0.  Layers that must keep equal shares cannot be cut alone: their channels share the time of a
    forward pass in proportion to their MACs.

    Args:
        model: the network that ``graph`` was traced from, on the device that matters.
        graph: its channels; its example inputs are what is timed.
        share: of each group, to remove for its measurement; above 0, below 1.
        repeats: turns per group; medians are taken.
        progress: show a progress bar.

    Returns:
        Float64 array of length ``graph.num_channels``, in seconds; 0 for channels that stay.

    Raises:
        TargetError: ``share`` or ``repeats`` makes no sense.
        StaleGraphError: the network no longer has the shapes that ``graph`` recorded.
    """
    if not 0 < share < 1 or repeats < 1:
        raise TargetError(
            f"share={share!r}, repeats={repeats!r} were asked; a share above 0 and below 1 and at "
            "least one turn are needed."
        )
    model = unwrap(model)
    check_fresh(model, graph)
    alone, bound = _by_itself(graph)
    latencies = np.zeros(graph.num_channels)
    groups = track(alone, "timing groups", transient=True, disable=not progress)
    full = 0.0
    for group in groups:
        going = group.channels[: max(round(share * group.width), 1)]
        keep = np.ones(graph.num_channels, dtype=np.bool_)
        keep[going] = False
        full, left = medians(model, graph, keep, repeats)
        latencies[group.channels] = max(full - left, 0.0) / len(going)
    if bound.any():
        everything = np.ones(graph.num_channels, dtype=np.bool_)
        full = full or medians(model, graph, everything, repeats)[0]
        latencies[bound] = channel_costs(graph)[bound] * full / max(graph.cost().macs, 1)
    return latencies


def _by_itself(graph: ChannelGraph) -> tuple[Sequence[Group], BoolArray]:
    """The groups that can be cut alone, and the channels that can only go with others."""
    bound = np.zeros(graph.num_channels, dtype=np.bool_)
    for balance in graph.arrangement.balances:
        bound[balance.channels] = True
    bound &= graph.prunable
    groups = [g for g in graph.groups if g.prunable and not bound[g.channels].any()]
    return groups, bound
