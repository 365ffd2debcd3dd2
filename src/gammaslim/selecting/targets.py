"""Targets: how far down the ranking a selection has to go; each is one entry of one table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from gammaslim.channels import Cut
from gammaslim.errors import TargetError, UnreachableError
from gammaslim.selecting.limits import check_share
from gammaslim.selecting.ranking import Ranking

Met = Callable[[Cut], bool]


@dataclass(frozen=True)
class Target:
    """What :func:`gammaslim.select` can be asked for by name.

    ``check`` takes the name and the value and refuses what makes no sense; ``meet`` gives the cut
    that meets the value with the fewest blocks, or refuses with the closest value that can be met.
    """

    check: Callable[[str, float], None]
    meet: Callable[[Ranking, float], Cut]


def one_target(given: Mapping[str, float | None]) -> tuple[str, float]:
    """The one target that was given, by name.

    Raises:
        TargetError: none or several were, one is unknown, or its value is out of range.
    """
    asked = {name: value for name, value in given.items() if value is not None}
    if len(asked) != 1 or not asked.keys() <= TARGETS.keys():
        found = ", ".join(f"{name}={value!r}" for name, value in asked.items()) or "none"
        raise TargetError(f"Exactly one of {', '.join(TARGETS)} is needed; found {found}.")
    name, value = next(iter(asked.items()))
    TARGETS[name].check(name, value)
    return name, value


def remove_channels(ranking: Ranking, share: float) -> Cut:
    """What removes ``share`` of the prunable channels that hold a scale."""
    graph = ranking.graph
    total = int(np.count_nonzero(graph.prunable & graph.scored))
    wanted = round(share * total)

    def removed(cut: Cut) -> int:
        return int(np.count_nonzero(~cut.keep & graph.scored))

    most = ranking.after(len(ranking))
    if removed(most) < wanted:
        # Rounded so that asking for the number in the text works.
        _unreachable("remove_channels", share, math.floor(1000 * removed(most) / total) / 1000)
    return _fewest(ranking, most, lambda cut: removed(cut) >= wanted)


def keep_cost(kind: Literal["macs", "params"], ranking: Ranking, share: float) -> Cut:
    """What leaves ``share`` of the MACs, or of the parameters."""

    def cost(cut: Cut) -> int:
        return getattr(cut.cost, kind)

    # A network without any work costs 0 of 0. Dividing rounds 344 of 1000 to what 0.344 reads as,
    # so that a share equal to the target meets it; multiplying would not.
    whole, most = ranking.after(0), ranking.after(len(ranking))
    total = max(cost(whole), 1)
    least = cost(most) / total
    if least > share:
        _unreachable(f"keep_{kind}", share, math.ceil(1000 * least) / 1000)
    return _fewest(ranking, most, lambda cut: cost(cut) / total <= share)


def below(ranking: Ranking, value: float) -> Cut:
    """What removes every block of which no score lies above ``value``."""
    return ranking.without(ranking.wanted(ranking.asked[ranking.thresholds <= value]))


def check_threshold(name: str, value: object) -> None:
    """Refuse what scores cannot be compared with.

    Raises:
        TargetError: ``value`` is no number.
    """
    if not isinstance(value, int | float | np.number) or math.isnan(value):
        raise TargetError(
            f"{name}={value!r} was asked; it must be a number to compare scores with, or 'gap'."
        )


TARGETS: dict[str, Target] = {
    "remove_channels": Target(check_share, remove_channels),
    "keep_macs": Target(check_share, partial(keep_cost, "macs")),
    "keep_params": Target(check_share, partial(keep_cost, "params")),
    "threshold": Target(check_threshold, below),
}
"""Every target by the name of its argument of :func:`gammaslim.select`."""


# With round_to=8 a target that 0.50 of the MACs may remain is met after, say, blocks A, B, C, D
# with 0.46. Without D, 0.52: it is needed. Without C, 0.49 would do: C comes back. Blocks differ in
# what they save, so the last one may have made others superfluous.
def _fewest(ranking: Ranking, most: Cut, met: Met) -> Cut:
    """The cut after the fewest blocks that meet the target; ``most``, that after all, does.

    Bisection: no group gets wider from ``count`` to ``count + 1``, so a target once met stays met.
    Where blocks are of several channels, those that the target can do without come back, the
    highest first.  A group whose last block is needed is done: what others get back only makes it
    more needed.
    """
    low, count, found = 0, len(ranking), most
    while low < count:
        middle = (low + count) // 2
        cut = ranking.after(middle)
        if met(cut):
            count, found = middle, cut
        else:
            low = middle + 1
    if ranking.largest_block == 1:
        return found
    wanted, done = ranking.wanted(ranking.asked[:count]), set[int]()
    for group in ranking.asked[:count][::-1].tolist():
        if group in done:
            continue
        wanted[group] -= 1
        cut = ranking.without(wanted)
        if met(cut):
            found = cut
        else:
            wanted[group] += 1
            done.add(group)
    return found


def _unreachable(name: str, asked: float, closest: float) -> None:
    raise UnreachableError(
        f"{name}={asked!r} asked; the closest that floors, caps and frozen channels allow is "
        f"{closest:.3f}. Ask for that, or loosen min_channels, max_remove, round_to or ignore."
    )
