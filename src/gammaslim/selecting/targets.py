"""Targets: how far down the ranking a selection has to go."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from gammaslim.arrays import BoolArray
from gammaslim.channels.graph import ChannelGraph
from gammaslim.errors import TargetError, UnreachableError
from gammaslim.selecting.limits import check_share
from gammaslim.selecting.ranking import Ranking

Met = Callable[[BoolArray], bool]


def one_target(targets: dict[str, float | None]) -> tuple[str, float]:
    """The one target that was given, by name.

    Raises:
        TargetError: none or several were, or its value is out of range.
    """
    given = {name: value for name, value in targets.items() if value is not None}
    if len(given) != 1:
        found = ", ".join(f"{name}={value!r}" for name, value in given.items()) or "none"
        raise TargetError(f"Exactly one of {', '.join(targets)} is needed; found {found}.")
    name, value = next(iter(given.items()))
    if name != "threshold":
        check_share(name, value)
    elif not isinstance(value, int | float | np.number) or math.isnan(value):
        raise TargetError(
            f"threshold={value!r} was asked; it must be a number to compare scores with, or 'gap'."
        )
    return name, value


def meet(graph: ChannelGraph, ranking: Ranking, name: str, value: float) -> BoolArray:
    """The keep mask that meets a target with the fewest blocks, less those it can do without.

    Raises:
        TargetError: floors, caps and frozen channels put it out of reach; the text names the
            closest reachable value.
    """
    return _MEET[name](graph, ranking, value)


def _remove_channels(graph: ChannelGraph, ranking: Ranking, ratio: float) -> BoolArray:
    total = int(np.count_nonzero(graph.prunable & graph.scored))
    wanted = round(ratio * total)

    def removed(keep: BoolArray) -> int:
        return int(np.count_nonzero(~keep & graph.scored))

    most = removed(ranking.after(len(ranking)))
    if most < wanted:
        # Rounded so that asking for the number in the text works.
        _unreachable("remove_channels", ratio, math.floor(1000 * most / total) / 1000)
    return _fewest(ranking, lambda keep: removed(keep) >= wanted)


def _keep_macs(graph: ChannelGraph, ranking: Ranking, ratio: float) -> BoolArray:
    return _keep_cost(ranking, "keep_macs", ratio, lambda keep: graph.cost_of(keep).macs)


def _keep_params(graph: ChannelGraph, ranking: Ranking, ratio: float) -> BoolArray:
    return _keep_cost(ranking, "keep_params", ratio, lambda keep: graph.cost_of(keep).params)


def _keep_cost(
    ranking: Ranking, name: str, ratio: float, cost: Callable[[BoolArray], int]
) -> BoolArray:
    # A network without any work costs 0 of 0. Dividing rounds 344 of 1000 to what 0.344 reads as,
    # so that a share equal to the target meets it; multiplying would not.
    total = max(cost(ranking.after(0)), 1)
    least = cost(ranking.after(len(ranking)))
    if least / total > ratio:
        _unreachable(name, ratio, math.ceil(1000 * least / total) / 1000)
    return _fewest(ranking, lambda keep: cost(keep) / total <= ratio)


def _threshold(graph: ChannelGraph, ranking: Ranking, value: float) -> BoolArray:  # noqa: ARG001
    return ranking.without(ranking.wanted(ranking.asked[ranking.scores <= value]))


_MEET: dict[str, Callable[[ChannelGraph, Ranking, float], BoolArray]] = {
    "remove_channels": _remove_channels,
    "keep_macs": _keep_macs,
    "keep_params": _keep_params,
    "threshold": _threshold,
}


def _fewest(ranking: Ranking, met: Met) -> BoolArray:
    """The keep mask after the fewest blocks that meet the target; all of them do.

    Bisection: no group gets wider from ``count`` to ``count + 1``, so a target once met stays met.
    """
    low, high = 0, len(ranking)
    while low < high:
        middle = (low + high) // 2
        if met(ranking.after(middle)):
            high = middle
        else:
            low = middle + 1
    return _given_back(ranking, low, met) if ranking.coarse else ranking.after(low)


def _given_back(ranking: Ranking, count: int, met: Met) -> BoolArray:
    """The first ``count`` blocks less those that the target can do without, the highest first.

    Blocks differ in what they save, so the last one may have made others superfluous.  A group
    whose last block is needed is done: what others get back only makes it more needed.
    """
    wanted = ranking.wanted(ranking.asked[:count])
    done: set[int] = set()
    for group in ranking.asked[:count][::-1].tolist():
        if group in done:
            continue
        wanted[group] -= 1
        if not met(ranking.without(wanted)):
            wanted[group] += 1
            done.add(group)
    return ranking.without(wanted)


def _unreachable(name: str, asked: float, closest: float) -> None:
    raise UnreachableError(
        f"{name}={asked!r} asked; the closest that floors, caps and frozen channels allow is "
        f"{closest:.3f}. Ask for that, or loosen min_channels, max_remove, round_to or ignore."
    )
