"""A sweep: what each of several targets would leave, before one is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict, Unpack, cast

import numpy as np
from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from gammaslim.arrays import BoolArray, FloatArray
from gammaslim.channels import ChannelGraph, Cost, Cut, Group, plain_text, short_count
from gammaslim.errors import TargetError, UnreachableError
from gammaslim.selecting.limits import Limits
from gammaslim.selecting.ranking import Ranking, Scope, checked_scores, rank
from gammaslim.selecting.targets import TARGETS

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


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

    by: str
    full: Cost
    rows: tuple[SweepRow, ...]
    unreachable: tuple[float, ...]
    safe_threshold: float
    first_to_die: str

    def __rich__(self) -> RenderableType:
        """One row per target: what is left of the cost, and of the group left with least."""
        title = f"What each {self.by} would leave"
        table = Table(title=title, title_justify="left", header_style="bold")
        for heading in (self.by, "MACs", "left", "parameters", "left"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("thinnest group", overflow="fold")
        table.add_column("width", justify="right", no_wrap=True)
        table.add_column("at floor", justify="right", no_wrap=True)
        for row in self.rows:
            texts = (
                f"{row.target:g}",
                short_count(row.cost.macs),
                f"{row.cost.macs / max(self.full.macs, 1):.1%}",
                short_count(row.cost.params),
                f"{row.cost.params / max(self.full.params, 1):.1%}",
                row.thinnest,
                f"{row.left} of {row.width}",
                str(row.at_floor),
            )
            table.add_row(*map(Text, texts))
        safe = f"No group loses all its channels up to a threshold of {self.safe_threshold:.4g}; "
        lines = [safe + f"{self.first_to_die} would be the first."]
        if self.unreachable:
            beyond = ", ".join(f"{target:g}" for target in self.unreachable)
            lines.append(f"Out of reach of the limits: {beyond}.")
        return Lines(table, Text("\n".join(lines)))

    def __str__(self) -> str:
        """The table as plain text, and below which threshold no group dies."""
        return plain_text(self)


def sweep(
    graph: ChannelGraph,
    scores: FloatArray,
    *,
    by: str = "remove_channels",
    targets: Sequence[float] = SHARES,
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
    if by not in TARGETS:
        raise TargetError(f"by={by!r} was asked; known are {', '.join(map(repr, TARGETS))}.")
    for target in targets:
        TARGETS[by].check(by, target)
    values, free, groups = checked_scores(graph, scores), *_ranked_groups(graph)
    tops = [float(values[group.channels[free[group.channels]]].max()) for group in groups]
    first = int(np.argmin(tops))
    safe = float(np.nextafter(tops[first], -np.inf))  # just below the lowest of the highest scores
    ranking = ranked(graph, scores, limits)
    rows: list[SweepRow] = []
    unreachable: list[float] = []
    for target in targets:
        try:
            cut = TARGETS[by].meet(ranking, target)
        except UnreachableError:
            unreachable.append(target)
        else:
            rows.append(_row(ranking, target, cut))
    return Sweep(by, graph.cost(), tuple(rows), tuple(unreachable), safe, groups[first].name)


def ranked(graph: ChannelGraph, scores: FloatArray, limits: LimitOptions) -> Ranking:
    """The ranking that :func:`gammaslim.select` would go down with these limits."""
    options = dict(limits)
    scope = cast("Scope", options.pop("scope", "global"))
    return rank(graph, scores, scope, Limits(**options))  # pyright: ignore[reportArgumentType]


def _row(ranking: Ranking, target: float, cut: Cut) -> SweepRow:
    (_, groups), least = _ranked_groups(ranking.graph), ranking.after(len(ranking))
    left = [int(np.count_nonzero(cut.keep[group.channels])) for group in groups]
    floors = [int(np.count_nonzero(least.keep[group.channels])) for group in groups]
    at_floor = sum(
        kept == floor < group.width for group, kept, floor in zip(groups, left, floors, strict=True)
    )
    thin = min(range(len(groups)), key=lambda i: left[i] / groups[i].width)
    name, width = groups[thin].name, groups[thin].width
    return SweepRow(target, cut.cost, name, left[thin], width, at_floor)


def _ranked_groups(graph: ChannelGraph) -> tuple[BoolArray, list[Group]]:
    """The channels that are prunable and hold a scale, and the groups that have some."""
    free = graph.prunable & graph.scored
    return free, [group for group in graph.groups if free[group.channels].any()]
