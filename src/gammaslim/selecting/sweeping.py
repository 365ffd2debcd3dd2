"""A sweep: what each of several targets would leave, before one is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict, Unpack, cast, get_args

import numpy as np

from gammaslim.arrays import BoolArray, FloatArray
from gammaslim.channels.graph import ChannelGraph
from gammaslim.channels.records import Cost, Group
from gammaslim.errors import TargetError, UnreachableError
from gammaslim.selecting.limits import Limits
from gammaslim.selecting.planning import select
from gammaslim.selecting.ranking import Ranking, Scope, checked_scores, rank

Target = Literal["remove_channels", "keep_macs", "keep_params", "threshold"]

TARGETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


class LimitOptions(TypedDict, total=False):
    """The limits of :func:`gammaslim.select`."""

    scope: Scope
    round_to: int
    min_channels: int
    max_remove: float


@dataclass(frozen=True)
class SweepRow:
    """What one target leaves.

    ``cost`` is what remains.  ``thinnest`` is the group that keeps the smallest share of its width:
    ``left`` of ``width`` channels.  ``at_floor`` counts groups that the limits let lose no more.
    """

    target: float
    cost: Cost
    thinnest: str
    left: int
    width: int
    at_floor: int


@dataclass(frozen=True)
class Sweep:
    """What each target would leave: one row per target that can be met.

    ``by`` is the target's name, ``full`` the cost of the whole network, ``unreachable`` the targets
    that limits put out of reach.  ``safe_threshold`` is the highest threshold at which no group
    loses all of its candidates, and ``first_to_die`` the group that would be the first.
    """

    by: Target
    full: Cost
    rows: tuple[SweepRow, ...]
    unreachable: tuple[float, ...]
    safe_threshold: float
    first_to_die: str

    def __str__(self) -> str:
        """One table row per target."""
        from gammaslim.report.tables import sweep_text

        return sweep_text(self)


def sweep(
    graph: ChannelGraph,
    scores: FloatArray,
    *,
    by: Target = "remove_channels",
    targets: Sequence[float] = TARGETS,
    **limits: Unpack[LimitOptions],
) -> Sweep:
    """What :func:`gammaslim.select` would leave for each of several targets; nothing is cut.

    Args:
        graph: the network's channels.
        scores: one per channel, as from :func:`gammaslim.scores`.
        by: the target that is varied: ``"remove_channels"``, ``"keep_macs"``, ``"keep_params"`` or
            ``"threshold"``.
        targets: its values.
        limits: ``scope``, ``round_to``, ``min_channels`` and ``max_remove``, as for ``select``.

    Raises:
        TargetError: an unknown target, or a number out of range.  Targets that limits put out of
            reach are no error: they are listed.
        ScoreError: the scores do not belong to this graph, or are NaN where a choice is due.
        NothingToPruneError: no prunable channel holds a scale.
    """
    if by not in get_args(Target):
        known = ", ".join(map(repr, get_args(Target)))
        raise TargetError(f"by={by!r} was asked; known are {known}.")
    safe, first = _safe_threshold(graph, checked_scores(graph, scores))
    least = _narrowest(graph, scores, limits)
    full = graph.cost()
    rows: list[SweepRow] = []
    unreachable: list[float] = []
    for target in targets:
        try:
            plan = select(graph, scores, **{by: target}, **limits)  # pyright: ignore[reportArgumentType]
        except UnreachableError:
            unreachable.append(target)
        else:
            rows.append(_row(graph, target, graph.keep_mask(plan), least))
    return Sweep(by, full, tuple(rows), tuple(unreachable), safe, first)


def _narrowest(graph: ChannelGraph, scores: FloatArray, limits: LimitOptions) -> BoolArray:
    """The keep mask with every group as narrow as limits allow."""
    ranking = ranked(graph, scores, limits)
    return ranking.after(len(ranking))


def ranked(graph: ChannelGraph, scores: FloatArray, limits: LimitOptions) -> Ranking:
    """The ranking that :func:`gammaslim.select` would go down with these limits."""
    options = dict(limits)
    scope = cast("Scope", options.pop("scope", "global"))
    return rank(graph, scores, scope, Limits(**options))  # pyright: ignore[reportArgumentType]


def _row(graph: ChannelGraph, target: float, keep: BoolArray, least: BoolArray) -> SweepRow:
    groups = _ranked_groups(graph)
    left = [int(np.count_nonzero(keep[group.channels])) for group in groups]
    floors = [int(np.count_nonzero(least[group.channels])) for group in groups]
    at_floor = sum(
        kept == floor < group.width for group, kept, floor in zip(groups, left, floors, strict=True)
    )
    thin = min(range(len(groups)), key=lambda i: left[i] / groups[i].width)
    name, width = groups[thin].name, groups[thin].width
    return SweepRow(target, graph.cost_of(keep), name, left[thin], width, at_floor)


def _ranked_groups(graph: ChannelGraph) -> list[Group]:
    """The groups with channels that are prunable and hold a scale."""
    free = graph.prunable & graph.scored
    return [group for group in graph.groups if free[group.channels].any()]


def _safe_threshold(graph: ChannelGraph, values: FloatArray) -> tuple[float, str]:
    """Just below the lowest of the groups' highest scores, and whose that is."""
    free = graph.prunable & graph.scored
    groups = _ranked_groups(graph)
    tops = [float(values[group.channels[free[group.channels]]].max()) for group in groups]
    first = int(np.argmin(tops))
    return float(np.nextafter(tops[first], -np.inf)), groups[first].name
