"""Selection: scores and a target in, the plan that meets it out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

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
        PlanError: the mask has another length, removes a frozen channel, or empties a site.
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
    kept = graph.kept_sites(keep)
    sizes = {site: len(graph.sites[site]) for site in kept}
    return Plan(kept, sizes, changed_attributes(graph, keep))


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


@dataclass(frozen=True, eq=False)
class _Ranking:
    """All candidates in the order in which they go.

    Per candidate: its ``channels`` id, its ``groups`` index, its ``places`` within that group
    (0 goes first) and its ``scores``.  Per group: ``widths``, and how many are ``candidates``.
    """

    channels: IntArray
    groups: IntArray
    places: IntArray
    scores: FloatArray
    widths: IntArray
    candidates: IntArray
    limits: _Limits
    num_channels: int

    def after(self, count: int) -> BoolArray:
        """The keep mask once the first ``count`` candidates are asked to go."""
        return self.without(self.groups[:count])

    def without(self, asked: IntArray) -> BoolArray:
        """The keep mask if each group loses as many as it occurs in ``asked``, limits allowing."""
        wanted = np.bincount(asked, minlength=len(self.widths))
        going = self.limits.removable(wanted, self.widths, self.candidates)
        keep = np.ones(self.num_channels, dtype=np.bool_)
        keep[self.channels[self.places < going[self.groups]]] = False
        return keep


def _rank(graph: ChannelGraph, scores: FloatArray, scope: Scope, limits: _Limits) -> _Ranking:
    channels, groups = _candidates(graph)
    values = _checked_scores(graph, scores, channels)
    widths = np.array([group.width for group in graph.groups], dtype=np.int64)
    counts = np.bincount(groups, minlength=len(widths))
    # Places within each group: sort by (group, score, id), count from each group's start.
    inner = np.lexsort((channels, values, groups))
    places = np.empty(len(channels), dtype=np.int64)
    places[inner] = np.arange(len(channels)) - np.repeat(np.cumsum(counts) - counts, counts)
    # The middle of each place, as in Sainte-Laguë's method, shares ties out in proportion.
    share = (places + 0.5) / counts[groups]
    keys = (groups, share, values) if scope == "global" else (groups, values, share)
    order = np.lexsort(keys)
    return _Ranking(
        channels=channels[order],
        groups=groups[order],
        places=places[order],
        scores=values[order],
        widths=widths,
        candidates=counts.astype(np.int64),
        limits=limits,
        num_channels=graph.num_channels,
    )


def _candidates(graph: ChannelGraph) -> tuple[IntArray, IntArray]:
    """Ids of the channels that may go and have a score, and the index of each one's group."""
    group_of = np.full(graph.num_channels, -1, dtype=np.int64)
    for index, group in enumerate(graph.groups):
        if group.prunable:
            group_of[group.channels] = index
    channels = np.flatnonzero(graph.prunable & graph.scored & (group_of >= 0)).astype(np.int64)
    if not len(channels):
        raise NothingToPruneError(
            f"Channels were to be selected, but of this graph's {graph.num_channels} none is both "
            "prunable and the owner of a BatchNorm scale. graph.frozen says why."
        )
    return channels, group_of[channels]


def _checked_scores(graph: ChannelGraph, scores: FloatArray, channels: IntArray) -> FloatArray:
    values = np.asarray(scores, dtype=np.float64)
    if values.shape != (graph.num_channels,):
        raise ScoreError(
            f"Scores of shape {values.shape} were given; this graph has {graph.num_channels} "
            "channels. Score the network with this graph."
        )
    chosen = values[channels]
    if (bad := np.flatnonzero(np.isnan(chosen))).size:
        raise ScoreError(
            f"{len(bad)} of {len(channels)} prunable channels that hold a scale have the score "
            f"NaN, first channel {channels[bad[0]]}. Give each of them a number."
        )
    return chosen


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


def _remove_channels(graph: ChannelGraph, ranking: _Ranking, ratio: float) -> BoolArray:  # noqa: ARG001
    total = len(ranking.channels)
    wanted = round(ratio * total)

    def removed(keep: BoolArray) -> int:
        return int(np.count_nonzero(~keep))

    most = removed(ranking.after(total))
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
    least = cost(ranking.after(len(ranking.channels)))
    if least / total > ratio:
        _unreachable(name, ratio, math.ceil(1000 * least / total) / 1000)
    return _first(ranking, lambda keep: cost(keep) / total <= ratio)


def _threshold(graph: ChannelGraph, ranking: _Ranking, value: float) -> BoolArray:  # noqa: ARG001
    return ranking.without(ranking.groups[ranking.scores <= value])


_MEET: dict[str, Callable[[ChannelGraph, _Ranking, float], BoolArray]] = {
    "remove_channels": _remove_channels,
    "keep_macs": _keep_macs,
    "keep_params": _keep_params,
    "threshold": _threshold,
}


def _first(ranking: _Ranking, met: Callable[[BoolArray], bool]) -> BoolArray:
    """The keep mask after the fewest candidates that meet the target; all of them do.

    Bisection: what goes at ``count`` also goes at ``count + 1``, so a target once met stays met.
    """
    low, high = 0, len(ranking.channels)
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
