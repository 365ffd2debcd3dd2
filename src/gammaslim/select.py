"""Selection: scores and a target in, the plan that meets it out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from gammaslim.chains import Chain, chain_of
from gammaslim.errors import NothingToPruneError, PlanError, ScoreError, TargetError
from gammaslim.graph import BoolArray, ChannelGraph, IntArray
from gammaslim.plan import AttributeValue, Plan

FloatArray = NDArray[np.float64]
Scope = Literal["global", "group"]


def select(  # noqa: PLR0913 -- the public surface: every option is keyword-only
    graph: ChannelGraph,
    scores: FloatArray,
    *,
    remove_channels: float | None = None,
    keep_macs: float | None = None,
    keep_params: float | None = None,
    threshold: float | None = None,
    scope: Scope = "global",
    round_to: int = 1,
    min_channels: int = 1,
    max_remove: float = 1.0,
) -> Plan:
    """The plan that removes the lowest-scored channels until exactly one target is met.

    Args:
        graph: the network's channels.
        scores: one per channel, as from :func:`gammaslim.scores`; lowest go first.
        remove_channels: share 0..1 of the prunable channels that hold a scale, to remove.
        keep_macs: share 0..1 of ``graph.cost().macs`` that may remain.
        keep_params: share 0..1 of ``graph.cost().params`` that may remain.
        threshold: remove every channel whose score is at most this.
        scope: ``"global"`` ranks raw scores over the whole network; ``"group"`` ranks each
            channel within its group, so that all groups lose about the same share.
        round_to: a group keeps its full width or a multiple of this.
        min_channels: every group keeps at least this many channels.
        max_remove: at most this share of a group's width may go.

    Layers that share a shuffle must keep equal shares.  They become narrower together, step by
    step: of every run (see :class:`gammaslim.sequences.Balance`) the lowest-scored channels go. A
    step is ranked by the mean of the scores of what it removes, and a threshold spares it if any
    of them lies above.  The limits then hold for each layer's width.

    Raises:
        TargetError: not exactly one target, a number out of range, or a target that floors, caps
            and frozen channels put out of reach; the text names the closest reachable value.
        ScoreError: the scores do not belong to this graph, or are NaN where a choice is due.
        NothingToPruneError: no prunable channel holds a scale.
    """
    targets = {
        "remove_channels": remove_channels,
        "keep_macs": keep_macs,
        "keep_params": keep_params,
        "threshold": threshold,
    }
    name, value = _one_target(targets)
    if scope not in get_args(Scope):
        raise TargetError(f"scope={scope!r} was asked; known are 'global' and 'group'.")
    limits = _Limits(round_to, min_channels, max_remove)
    ranking = _rank(graph, scores, scope, limits)
    keep = _MEET[name](graph, ranking, value)
    return make_plan(graph, keep)


def make_plan(graph: ChannelGraph, keep: BoolArray) -> Plan:
    """The plan that leaves exactly the channels in the boolean mask ``keep``.

    Raises:
        PlanError: the mask has another length, removes a frozen channel, or unbalances shares.
    """
    keep = np.asarray(keep, dtype=np.bool_)
    if keep.shape != (graph.num_channels,):
        raise PlanError(
            f"A plan was asked for a mask of shape {keep.shape}; this graph has "
            f"{graph.num_channels} channels. Pass one boolean per channel."
        )
    if (frozen := np.flatnonzero(~keep & ~graph.prunable)).size:
        raise PlanError(
            f"The mask removes {len(frozen)} frozen channels, first channel {frozen[0]}. Keep "
            "those where graph.prunable is False; graph.frozen says why they are."
        )
    graph.check_balance(keep)
    kept = graph.kept_sites(keep)
    sizes = {site: len(graph.sites[site]) for site in kept}
    return Plan(kept, sizes, changed_attributes(graph, keep), graph.kept_orders(keep))


@dataclass(frozen=True)
class _Limits:
    """What every group must keep, whatever its scores."""

    round_to: int
    min_channels: int
    max_remove: float

    def __post_init__(self) -> None:
        """Refuse limits that make no sense."""
        for name in ("round_to", "min_channels"):
            value: Any = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise TargetError(f"{name}={value!r} was asked; it must be an integer, 1 or more.")
        _check_share("max_remove", self.max_remove)

    def removable(self, wanted: IntArray, widths: IntArray, candidates: IntArray) -> IntArray:
        """How many of each group's ``wanted`` channels may go; all arrays are per group."""
        # 0.29 * 100 is 28.999…, which must not cost a channel.
        cap = np.floor(widths * self.max_remove + 1e-9).astype(np.int64)
        floor = np.maximum(self.min_channels, widths - np.minimum(cap, candidates))
        kept = np.maximum(widths - wanted, floor)
        rounded = -(-kept // self.round_to) * self.round_to
        return widths - np.minimum(rounded, widths)

    def allowed(self, chain: Chain) -> BoolArray:
        """After how many steps of a chain every layer in it has a width that is allowed."""
        full = chain.widths[0]
        cap = np.floor(full * self.max_remove + 1e-9).astype(np.int64)
        floor = np.maximum(self.min_channels, full - cap)
        good = (chain.widths >= floor) & (chain.widths % self.round_to == 0)
        return (good | (chain.widths == full)).all(axis=1)


@dataclass(frozen=True, eq=False)
class _Ranking:
    """All that may go, and in which order.

    Per channel that goes by itself: its ``channels`` id, its ``groups`` index, and its place within
    that group, of which 0 goes first.  Per group: ``widths``, and how many are ``candidates``.
    ``chains`` count as further groups and their steps as places; ``reached`` holds the steps to
    take if so many are asked.  Per place, of all groups together in the order in which they go:
    the group ``asked``, and in ``scores`` what a threshold must reach.
    """

    channels: IntArray
    groups: IntArray
    places: IntArray
    asked: IntArray
    scores: FloatArray
    widths: IntArray
    candidates: IntArray
    chains: tuple[Chain, ...]
    reached: tuple[IntArray, ...]
    limits: _Limits
    num_channels: int

    def after(self, count: int) -> BoolArray:
        """The keep mask once the first ``count`` places are asked to go."""
        return self.without(self.asked[:count])

    def without(self, asked: IntArray) -> BoolArray:
        """The keep mask if each group loses as many as it occurs in ``asked``, limits allowing."""
        plain = len(self.widths)
        wanted = np.bincount(asked, minlength=plain + len(self.reached))
        going = self.limits.removable(wanted[:plain], self.widths, self.candidates)
        keep = np.ones(self.num_channels, dtype=np.bool_)
        keep[self.channels[self.places < going[self.groups]]] = False
        for chain, reached, steps in zip(self.chains, self.reached, wanted[plain:], strict=True):
            keep[chain.removed(int(reached[steps]))] = False
        return keep


def _rank(graph: ChannelGraph, scores: FloatArray, scope: Scope, limits: _Limits) -> _Ranking:
    values = _checked_scores(graph, scores)
    chains = _chains(graph, values)
    channels, groups = _candidates(graph)
    widths = np.array([group.width for group in graph.groups], dtype=np.int64)
    counts = np.bincount(groups, minlength=len(widths))
    # Places within each group: sort by (group, score, id), count from each group's start.
    inner = np.lexsort((channels, values[channels], groups))
    places = np.empty(len(channels), dtype=np.int64)
    places[inner] = np.arange(len(channels)) - np.repeat(np.cumsum(counts) - counts, counts)
    # The middle of each place, as in Sainte-Laguë's method, shares ties out in proportion.
    share = np.concatenate([(places + 0.5) / counts[groups], *(c.shares for c in chains)])
    means = np.concatenate([values[channels], *(c.means for c in chains)])
    largest = np.concatenate([values[channels], *(c.largest for c in chains)])
    numbers = [np.full(len(c.means), len(widths) + i) for i, c in enumerate(chains)]
    asked = np.concatenate([groups, *numbers]).astype(np.int64)
    order = np.lexsort((asked, share, means) if scope == "global" else (asked, means, share))
    return _Ranking(
        channels=channels,
        groups=groups,
        places=places,
        asked=asked[order],
        scores=largest[order],
        widths=widths,
        candidates=counts.astype(np.int64),
        chains=tuple(chains),
        reached=tuple(_reached(limits.allowed(chain)) for chain in chains),
        limits=limits,
        num_channels=graph.num_channels,
    )


def _reached(allowed: BoolArray) -> IntArray:
    """For each number of steps the largest that is not more and is allowed."""
    return np.maximum.accumulate(np.where(allowed, np.arange(len(allowed)), 0))


def _chains(graph: ChannelGraph, scores: FloatArray) -> list[Chain]:
    """The chains of all balances that may change and hold a scale."""
    free = graph.prunable & graph.scored
    balances = [b for b in graph.arrangement.balances if free[b.channels].any()]
    return [chain_of(balance, scores, graph.scored) for balance in balances]


def _candidates(graph: ChannelGraph) -> tuple[IntArray, IntArray]:
    """Channels that may go one by one and have a score, and the index of each one's group."""
    group_of = np.full(graph.num_channels, -1, dtype=np.int64)
    for index, group in enumerate(graph.groups):
        if group.prunable:
            group_of[group.channels] = index
    for balance in graph.arrangement.balances:
        group_of[balance.channels] = -1
    channels = np.flatnonzero(graph.prunable & graph.scored & (group_of >= 0)).astype(np.int64)
    return channels, group_of[channels]


def _checked_scores(graph: ChannelGraph, scores: FloatArray) -> FloatArray:
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


def _one_target(targets: dict[str, float | None]) -> tuple[str, float]:
    given = {name: value for name, value in targets.items() if value is not None}
    if len(given) != 1:
        found = ", ".join(f"{name}={value!r}" for name, value in given.items()) or "none"
        raise TargetError(f"Exactly one of {', '.join(targets)} is needed; found {found}.")
    name, value = next(iter(given.items()))
    if name != "threshold":
        _check_share(name, value)
    elif math.isnan(value):
        raise TargetError("threshold=nan was asked; it must be a number to compare scores with.")
    return name, value


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise TargetError(f"{name}={value!r} was asked; it is a share, from 0 to 1.")


def _remove_channels(graph: ChannelGraph, ranking: _Ranking, ratio: float) -> BoolArray:
    total = int(np.count_nonzero(graph.prunable & graph.scored))
    wanted = round(ratio * total)

    def removed(keep: BoolArray) -> int:
        return int(np.count_nonzero(~keep & graph.scored))

    most = removed(ranking.after(len(ranking.asked)))
    if most < wanted:
        # Rounded so that asking for the number in the text works.
        _unreachable("remove_channels", ratio, math.floor(1000 * most / total) / 1000)
    return _first(ranking, lambda keep: removed(keep) >= wanted)


def _keep_macs(graph: ChannelGraph, ranking: _Ranking, ratio: float) -> BoolArray:
    return _keep_cost(ranking, "keep_macs", ratio, lambda keep: graph.cost_of(keep).macs)


def _keep_params(graph: ChannelGraph, ranking: _Ranking, ratio: float) -> BoolArray:
    return _keep_cost(ranking, "keep_params", ratio, lambda keep: graph.cost_of(keep).params)


def _keep_cost(
    ranking: _Ranking, name: str, ratio: float, cost: Callable[[BoolArray], int]
) -> BoolArray:
    # A network without any work costs 0 of 0. Dividing rounds 344 of 1000 to what 0.344 reads as,
    # so that a share equal to the target meets it; multiplying would not.
    total = max(cost(ranking.after(0)), 1)
    least = cost(ranking.after(len(ranking.asked)))
    if least / total > ratio:
        _unreachable(name, ratio, math.ceil(1000 * least / total) / 1000)
    return _first(ranking, lambda keep: cost(keep) / total <= ratio)


def _threshold(graph: ChannelGraph, ranking: _Ranking, value: float) -> BoolArray:  # noqa: ARG001
    return ranking.without(ranking.asked[ranking.scores <= value])


_MEET: dict[str, Callable[[ChannelGraph, _Ranking, float], BoolArray]] = {
    "remove_channels": _remove_channels,
    "keep_macs": _keep_macs,
    "keep_params": _keep_params,
    "threshold": _threshold,
}


def _first(ranking: _Ranking, met: Callable[[BoolArray], bool]) -> BoolArray:
    """The keep mask after the fewest places that meet the target; all of them do.

    Bisection: no group gets wider from ``count`` to ``count + 1``, so a target once met stays met.
    """
    low, high = 0, len(ranking.asked)
    while low < high:
        middle = (low + high) // 2
        if met(ranking.after(middle)):
            high = middle
        else:
            low = middle + 1
    return ranking.after(low)


def _unreachable(name: str, asked: float, closest: float) -> None:
    raise TargetError(
        f"{name}={asked!r} asked; the closest that floors, caps and frozen channels allow is "
        f"{closest:.3f}. Ask for that, or loosen min_channels, max_remove, round_to or ignore."
    )


def changed_attributes(graph: ChannelGraph, keep: BoolArray) -> dict[str, AttributeValue]:
    """New values of the numbers that follow a size; all places of one tuple are in the graph."""
    everything = np.ones(graph.num_channels, dtype=np.bool_)
    before = _attribute_values(graph, everything)
    after = _attribute_values(graph, keep)
    return {name: value for name, value in after.items() if value != before[name]}


def _attribute_values(graph: ChannelGraph, keep: BoolArray) -> dict[str, AttributeValue]:
    plain: dict[str, AttributeValue] = {}
    places: dict[str, dict[int, int]] = {}
    for attribute in graph.attributes:
        if attribute.position is None:
            plain[attribute.name] = attribute.value(keep)
        else:
            places.setdefault(attribute.name, {})[attribute.position] = attribute.value(keep)
    tuples = {
        name: tuple(values[place] for place in sorted(values)) for name, values in places.items()
    }
    return {**plain, **tuples}
