"""Choosing channels for a budget: by score, within a band around uniform widths."""

from __future__ import annotations

import math

import numpy as np

from gammaslim.arrays import BoolArray, FloatArray
from gammaslim.channels.graph import ChannelGraph, Cut
from gammaslim.errors import TargetError
from gammaslim.penalties.budget import Budget
from gammaslim.selecting.limits import Limits
from gammaslim.selecting.ranking import rank
from gammaslim.selecting.targets import TARGETS

_FIRST = 1e-30
"""What scores are multiplied with that lie above the band: they go before all others."""


def banded(budget: Budget, graph: ChannelGraph, scores: FloatArray, share: float) -> BoolArray:
    """The channels to keep so that ``share`` of the budget's cost is left.

    Raises:
        TargetError: it cannot be met, with what can be; even without the band's lower end.
    """
    name, _ = budget.target
    ratio = uniform_ratio(budget, graph, share)
    scores = _capped(graph, scores, budget.band[1] * ratio)
    least = min(budget.band[0] * ratio, 1.0)
    for floor in (least, least / 2, 0.0):
        try:
            return _selected(budget, graph, scores, (name, share), floor)
        except TargetError as error:
            refusal = error
    raise TargetError(f"{budget!r} cannot be met: {refusal}") from refusal


def uniform_ratio(budget: Budget, graph: ChannelGraph, share: float) -> float:
    """The ratio to which all prunable groups would be narrowed alike to leave ``share``."""
    name, _ = budget.target
    if name == "remove_channels":
        return share
    kind = name.removeprefix("keep_")
    full = max(getattr(graph.cost(), kind), 1)
    low, high = 0.0, 1.0
    for _ in range(12):  # to a quarter of a thousandth
        middle = (low + high) / 2
        if getattr(Cut(graph, _narrowed(graph, middle)).cost, kind) > share * full:
            high = middle
        else:
            low = middle
    return high


def _narrowed(graph: ChannelGraph, ratio: float) -> BoolArray:
    keep = np.ones(graph.num_channels, dtype=np.bool_)
    for group in graph.groups:
        if group.prunable:
            keep[group.channels[math.ceil(ratio * group.width) :]] = False
    return keep


def _capped(graph: ChannelGraph, scores: FloatArray, ratio: float) -> FloatArray:
    """Scores of which each group's lowest, beyond ``ratio`` of its width, go first."""
    scores = scores.copy()
    for group in graph.groups:
        surplus = group.width - math.ceil(min(1.0, ratio) * group.width)
        if group.prunable and surplus > 0:
            order = np.argsort(scores[group.channels], kind="stable")
            scores[group.channels[order[:surplus]]] *= _FIRST
    return scores


def _selected(
    budget: Budget,
    graph: ChannelGraph,
    scores: FloatArray,
    target: tuple[str, float],
    floor: float,
) -> BoolArray:
    name, share = target
    least = min(budget.max_remove, 1 - floor)
    limits = Limits(budget.round_to, budget.min_channels, least)
    ranking = rank(graph, scores, "global", limits)
    return TARGETS[name].meet(ranking, 1 - share if name == "remove_channels" else share).keep
