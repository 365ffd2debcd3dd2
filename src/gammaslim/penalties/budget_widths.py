"""How a budget chooses: by score, and no group much narrower or wider than the others."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from gammaslim.arrays import BoolArray, FloatArray
from gammaslim.channels import ChannelGraph, Cut
from gammaslim.errors import TargetError
from gammaslim.selecting import TARGETS, Limits, rank

_FIRST = 1e-30
"""What scores are multiplied with that lie above the band: they go before all others."""


# Two groups of 24 channels are to leave half of all. Narrowed alike they would have 12 each, so
# that a band of (0.75, 1.33) lets each have 9 to 16. If one has all the high scores, its lowest 8
# still go first, and of the other at most 15 may go: 16 and 8 would be too uneven, and 15 and 9
# stay. Where frozen layers cost so much that 9 and 9 are still too many, the lower end of the band
# is halved, and then dropped.
def banded(
    graph: ChannelGraph,
    scores: FloatArray,
    target: tuple[str, float],
    band: tuple[float, float],
    limits: Limits,
) -> BoolArray:
    """The channels to keep so that a share of the cost is left, by name of what costs.

    Raises:
        TargetError: it cannot be met, with what can be; even without the band's lower end.
    """
    name, share = target
    ratio = uniform_ratio(graph, target)
    most = min(1.0, band[1] * ratio)
    scores = scores.copy()
    for group in graph.groups:
        surplus = group.width - math.ceil(most * group.width)
        if group.prunable and surplus > 0:
            order = np.argsort(scores[group.channels], kind="stable")
            scores[group.channels[order[:surplus]]] *= _FIRST
    asked = 1 - share if name == "remove_channels" else share
    least = min(band[0] * ratio, 1.0)
    for floor in (least, least / 2, 0.0):
        within = replace(limits, max_remove=min(limits.max_remove, 1 - floor))
        try:
            return TARGETS[name].meet(rank(graph, scores, "global", within), asked).keep
        except TargetError as error:
            refusal = error
    raise refusal


def uniform_ratio(graph: ChannelGraph, target: tuple[str, float]) -> float:
    """The ratio to which all prunable groups would be narrowed alike to leave a share."""
    name, share = target
    if name == "remove_channels":
        return share
    kind = name.removeprefix("keep_")
    full = max(getattr(graph.cost(), kind), 1)
    low, high = 0.0, 1.0
    for _ in range(12):  # to a quarter of a thousandth
        middle = (low + high) / 2
        keep = np.ones(graph.num_channels, dtype=np.bool_)
        for group in graph.groups:
            if group.prunable:
                keep[group.channels[math.ceil(middle * group.width) :]] = False
        if getattr(Cut(graph, keep).cost, kind) > share * full:
            high = middle
        else:
            low = middle
    return high
