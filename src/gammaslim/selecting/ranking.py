"""The ranking: all that may go, block by block, in the order in which it goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from gammaslim.arrays import FloatArray, IntArray
from gammaslim.channels import ChannelGraph, Cut
from gammaslim.errors import NothingToPruneError, ScoreError, TargetError
from gammaslim.selecting.chains import Chain, chain_of
from gammaslim.selecting.limits import Limits

Scope = Literal["global", "group"]


@dataclass(frozen=True, eq=False)
class Ranking:
    """All that limits let go, and in which order.

    What goes at once is a *block*: one channel, or with ``round_to`` as many as lie between two
    widths that are allowed.  Per channel that may go without others: its ``channels`` id, its
    ``groups`` index, and in which of the group's ``blocks`` it is, of which 0 goes first.
    ``chains`` count as further groups, numbered from ``plain`` on, and the steps between two of
    their ``stops`` as blocks, which may be of up to ``largest_block`` channels (``round_to``).  Per
    block, of all groups together in the order in which they go: the group ``asked``, and in
    ``thresholds`` what a threshold must reach.  ``scores`` are those of all channels of ``graph``.
    """

    graph: ChannelGraph
    scores: FloatArray
    channels: IntArray
    groups: IntArray
    blocks: IntArray
    plain: int
    chains: tuple[Chain, ...]
    stops: tuple[IntArray, ...]
    asked: IntArray
    thresholds: FloatArray
    largest_block: int

    def __len__(self) -> int:
        """How many blocks may go in all."""
        return len(self.asked)

    def after(self, count: int) -> Cut:
        """The cut once the first ``count`` blocks are gone."""
        return self.without(self.wanted(self.asked[:count]))

    def wanted(self, asked: IntArray) -> IntArray:
        """How many blocks each group loses if it loses one for each time it is ``asked``."""
        return np.bincount(asked, minlength=self.plain + len(self.chains)).astype(np.int64)

    def without(self, wanted: IntArray) -> Cut:
        """The cut if each group has lost its first ``wanted`` blocks, and what serves nothing then.

        Two branches of which one may go do not both go: the one with the higher score comes back.
        """
        graph, values = self.graph, self.scores
        keep = np.ones(graph.num_channels, dtype=np.bool_)
        keep[self.channels[self.blocks < wanted[self.groups]]] = False
        for chain, stops, blocks in zip(self.chains, self.stops, wanted[self.plain :], strict=True):
            keep[chain.removed(int(stops[blocks]))] = False
        while True:
            whole = Cut(graph, keep).settled
            stuck = [g for g in whole.leaving.stuck if graph.scored[g.channels].any()]
            if not stuck:
                return whole
            known = [g.channels[graph.scored[g.channels]] for g in stuck]
            best = max(known, key=lambda ids: float(values[ids].max()))
            keep[best[np.argsort(values[best], kind="stable")[-self.largest_block :]]] = True


def rank(graph: ChannelGraph, scores: FloatArray, scope: Scope, limits: Limits) -> Ranking:
    """The ranking of a graph's channels by block: the lowest mean score goes first.

    In ``"group"`` scope the lowest share of its group goes first.

    Raises:
        TargetError: the scope is unknown.
        ScoreError: the scores do not belong to this graph, or are NaN where a choice is due.
        NothingToPruneError: no prunable channel holds a scale.
    """
    if scope not in get_args(Scope):
        raise TargetError(f"scope={scope!r} was asked; known are 'global' and 'group'.")
    values = checked_scores(graph, scores)
    free = graph.prunable & graph.scored
    balances = [b for b in graph.arrangement.balances if free[b.channels].any()]
    chains = tuple(chain_of(balance, values, graph.scored) for balance in balances)
    stops = tuple(limits.stops(chain) for chain in chains)
    channels, groups, blocks, owners, *entries = _single(graph, values, limits)
    plain = len(graph.groups)
    further = [chain.blocks(own) for chain, own in zip(chains, stops, strict=True)]
    numbers = [np.full(len(each[0]), plain + i) for i, each in enumerate(further)]
    asked = np.concatenate([owners, *numbers]).astype(np.int64)
    shares, means, largest = (
        np.concatenate(parts) for parts in zip(entries, *further, strict=True)
    )
    order = np.lexsort((asked, shares, means) if scope == "global" else (asked, means, shares))
    return Ranking(
        graph=graph,
        scores=values,
        channels=channels,
        groups=groups,
        blocks=blocks,
        plain=plain,
        chains=chains,
        stops=stops,
        asked=asked[order],
        thresholds=largest[order],
        largest_block=limits.round_to,
    )


# A group of twelve channels in eights (round_to=8) has the blocks 4 and 8 wide: its four lowest
# scores are block 0, with their mean; the other eight are block 1, which limits keep here.  Of a
# group of three without rounding every channel is a block.  All blocks of all groups are then
# sorted by their means, so the four go before the lowest of the three if their mean is lower.
def _single(
    graph: ChannelGraph, values: FloatArray, limits: Limits
) -> tuple[IntArray, IntArray, IntArray, IntArray, FloatArray, FloatArray, FloatArray]:
    """Channels that may go one by one: their ids, groups and blocks.

    Then, per block: its group, how much of that is gone half-way through it, mean and largest
    score.
    """
    group_of = np.full(graph.num_channels, -1, dtype=np.int64)
    for index, group in enumerate(graph.groups):
        group_of[group.channels] = index if group.prunable else -1
    for balance in graph.arrangement.balances:
        group_of[balance.channels] = -1
    channels = np.flatnonzero(graph.prunable & graph.scored & (group_of >= 0)).astype(np.int64)
    groups = group_of[channels]
    widths = np.array([group.width for group in graph.groups], dtype=np.int64)
    empty = np.zeros(len(widths), dtype=np.bool_)
    if limits.min_channels == 0:
        empty = graph.dead_layers.may_be_empty()
    counts = np.bincount(groups, minlength=len(widths)).astype(np.int64)
    # Places within each group: sort by (group, score, id), count from each group's start.
    inner = np.lexsort((channels, values[channels], groups))
    channels, groups = channels[inner], groups[inner]
    places = np.arange(len(channels)) - np.repeat(np.cumsum(counts) - counts, counts)
    may = places < limits.most(widths, counts, empty)[groups]
    channels, groups, places = channels[may], groups[may], places[may]
    blocks = limits.block(places, widths[groups])
    new = np.ones(len(channels), dtype=np.bool_)
    new[1:] = (groups[1:] != groups[:-1]) | (blocks[1:] != blocks[:-1])
    starts = np.flatnonzero(new)
    ends = np.append(starts[1:], len(channels))[: len(starts)]
    owners = groups[starts]
    # The middle of each block, as in Sainte-Laguë's method, shares ties out in proportion.
    shares = (2 * places[starts] + ends - starts) / (2 * counts[owners])
    means, largest = _means(values[channels], starts, ends)
    return channels, groups, blocks, owners, shares, means, largest


def _means(values: FloatArray, starts: IntArray, ends: IntArray) -> tuple[FloatArray, FloatArray]:
    """Mean and largest of each stretch of ascending values."""
    least, largest = values[starts], values[ends - 1]
    # Relative to the least, so that blocks of equal scores have exactly equal means, whatever
    # their sizes; infinite scores have no differences.
    finite = np.isfinite(least) & np.isfinite(largest)
    sizes = ends - starts
    bases = np.repeat(np.where(finite, least, 0.0), sizes)
    above = np.where(np.repeat(finite, sizes), values, 0.0) - bases
    sums = np.add.reduceat(above, starts) if len(starts) else np.zeros(0)
    extreme = np.where(np.isfinite(largest), least, largest)
    return np.where(finite, least + sums / sizes, extreme), largest


def checked_scores(graph: ChannelGraph, scores: FloatArray) -> FloatArray:
    """The scores as float64, one per channel, each that counts a number.

    Raises:
        ScoreError: they do not belong to this graph, or are NaN where a choice is due.
        NothingToPruneError: no prunable channel holds a scale.
    """
    channels = np.flatnonzero(graph.prunable & graph.scored)
    if not len(channels):
        raise NothingToPruneError(
            f"Channels were to be selected, but of this graph's {graph.num_channels} none is both "
            "prunable and the owner of a BatchNorm scale. graph.frozen says why."
        )
    values = np.asarray(scores, dtype=np.float64)
    if values.shape != (graph.num_channels,):
        raise ScoreError(
            f"Scores of shape {values.shape} were given; this graph has {graph.num_channels} "
            "channels. Score the network with this graph."
        )
    if (bad := channels[np.isnan(values[channels])]).size:
        raise ScoreError(
            f"{len(bad)} of {len(channels)} prunable channels that hold a scale have the score "
            f"NaN, first channel {bad[0]}. Give each of them a number."
        )
    return values
