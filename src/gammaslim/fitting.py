"""A target of measured time: how far down the ranking a network is fast enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Unpack

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress
from torch import nn

from gammaslim.errors import TargetError
from gammaslim.graph import ChannelGraph
from gammaslim.modules import check_fresh, unwrap
from gammaslim.plan import Plan
from gammaslim.select import make_plan
from gammaslim.sweeping import LimitOptions, ranked
from gammaslim.timing import medians

FloatArray = NDArray[np.float64]

_TOLERANCE = 0.02
"""How far below the target a measured ratio may be for the search to end."""


@dataclass(frozen=True)
class Fit:
    """A plan and how long a forward pass was measured to take, in seconds, before and after it."""

    plan: Plan
    before: float
    after: float

    @property
    def ratio(self) -> float:
        """The measured share of the time that is left."""
        return self.after / self.before


def select_latency(
    model: nn.Module,
    graph: ChannelGraph,
    scores: FloatArray,
    *,
    keep_latency: float,
    repeats: int = 7,
    progress: bool = True,
    **limits: Unpack[LimitOptions],
) -> Fit:
    """The plan that removes the lowest-scored channels until a forward pass is fast enough.

    The ranking is that of :func:`gammaslim.select`, and the place in it is found by bisection: at
    each, a copy of the network is cut and timed beside the whole one, in turns, in evaluation
    mode, on the traced inputs and the network's device.  The search ends within 0.02 below the
    target, or where neighbouring places lie on either side of it.  Time is noisy, and narrower
    is not always faster; so what is returned is a plan that *was measured* to meet the target,
    not the first that could.  The network itself is left as it was.

    Args:
        model: the network that ``graph`` was traced from, on the device that matters.
        graph: its channels; its example inputs are what is timed.
        scores: one per channel, as from :func:`gammaslim.scores`; lowest go first.
        keep_latency: share, above 0 and up to 1, of the time of a forward pass that may remain; at
            1 nothing goes.
        repeats: turns per candidate; medians are taken.
        progress: show a progress bar.
        limits: ``scope``, ``round_to``, ``min_channels`` and ``max_remove``, as for ``select``.

    Raises:
        TargetError: a number out of range, or the network is too slow even when it is as narrow as
            limits allow; the text has the measured ratio.
        ScoreError: the scores do not belong to this graph, or are NaN where a choice is due.
        NothingToPruneError: no prunable channel holds a scale.
        StaleGraphError: the network no longer has the shapes that ``graph`` recorded.
    """
    if not 0 < keep_latency <= 1 or repeats < 1:
        raise TargetError(
            f"keep_latency={keep_latency!r}, repeats={repeats!r} were asked; a share above 0 and "
            "up to 1 and at least one turn are needed."
        )
    model = unwrap(model)
    check_fresh(model, graph)
    ranking = ranked(graph, scores, limits)
    with Progress(transient=True, disable=not progress) as bar:
        task = bar.add_task("timing candidates", total=len(ranking).bit_length() + 1)

        def measured(count: int) -> Fit:
            keep = ranking.after(count)
            before, after = medians(model, graph, keep, repeats)
            bar.advance(task)
            return Fit(make_plan(graph, keep), before, after)

        return _fast_enough(measured, len(ranking), keep_latency)


def _fast_enough(measured: Callable[[int], Fit], most: int, target: float) -> Fit:
    """Bisection between nothing and all that may go; ``found`` was always measured to meet it."""
    if target == 1:
        return measured(0)
    low, high = 0, most
    found = measured(most)
    if found.ratio > target:
        raise TargetError(
            f"keep_latency={target!r} asked; as narrow as floors, caps and frozen channels allow, "
            f"the network was measured to take {found.ratio:.3f} of its time. Ask for more than "
            "that, or loosen min_channels, max_remove, round_to or ignore."
        )
    while high - low > 1 and found.ratio < target - _TOLERANCE:
        middle = (low + high) // 2
        if (fit := measured(middle)).ratio <= target:
            high, found = middle, fit
        else:
            low = middle
    return found
