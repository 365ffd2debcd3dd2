"""Measured time: how long channels take, and which plan is fast enough."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Unpack

import numpy as np
import torch
from rich.progress import Progress, track
from torch import nn
from torch.utils.benchmark import Timer

from gammaslim.arrays import FloatArray
from gammaslim.channels import ChannelGraph, Cut, Plan, channel_costs
from gammaslim.cutting import apply_plan
from gammaslim.errors import TargetError
from gammaslim.network import call_arguments, check_fresh, map_tensors, training_mode, unwrap
from gammaslim.selecting import LimitOptions, ranked

_TURN_SECONDS = 0.005
"""How long a turn lasts at least: short forward passes are repeated."""


def medians(model: nn.Module, cut: Cut, repeats: int) -> tuple[float, float]:
    """Median seconds of a forward pass of the network, and of what the cut leaves of it.

    A copy is cut for real; both run in evaluation mode on the traced inputs, on the network's
    device, alternately, so that what else the machine does meets both.
    """
    graph, slim = cut.graph, copy.deepcopy(model)
    apply_plan(slim, cut.plan)
    with torch.no_grad(), training_mode(model, training=False), training_mode(slim, training=False):
        timers = [_timer(each, graph) for each in (model, slim)]
        first = [timer.timeit(1).median for timer in timers]  # warms up: thrown away
        first = [timer.timeit(1).median for timer in timers]
        number = max(math.ceil(_TURN_SECONDS / max(min(first), 1e-9)), 1)
        times = [[timer.timeit(number).median for timer in timers] for _ in range(repeats)]
    whole, left = np.median(np.array(times), axis=0).tolist()
    return whole, left


def _timer(model: nn.Module, graph: ChannelGraph) -> Timer:
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    example = map_tensors(graph.example_inputs, lambda tensor: tensor.to(device))
    args, kwargs = call_arguments(model, example)
    return Timer(
        "model(*args, **kwargs)",
        globals={"model": model, "args": args, "kwargs": kwargs},
        num_threads=torch.get_num_threads(),
    )


def channel_latencies(
    model: nn.Module,
    graph: ChannelGraph,
    *,
    share: float = 0.5,
    repeats: int = 5,
    progress: bool = True,
) -> FloatArray:
    """What each channel adds to the time of one forward pass on the traced inputs.

    For each group that may go, a copy of the network without ``share`` of it is timed beside the
    whole one, in turns; its channels share the difference: ``(t_full - t_cut) / removed``, at least
    0.  Layers that must keep equal shares cannot be cut alone: their channels share the time of a
    forward pass in proportion to their MACs.

    Args:
        model: the network that ``graph`` was traced from, on the device that matters.
        graph: its channels; its example inputs are what is timed.
        share: of each group, to remove for its measurement; above 0, below 1.
        repeats: turns per group; medians are taken.
        progress: show a progress bar.

    Returns:
        Float64 array of length ``graph.num_channels``, in seconds; 0 for channels that stay.

    Raises:
        TargetError: ``share`` or ``repeats`` makes no sense.
        StaleGraphError: the network no longer has the shapes that ``graph`` recorded.
    """
    if not 0 < share < 1 or repeats < 1:
        raise TargetError(
            f"share={share!r}, repeats={repeats!r} were asked; a share above 0 and below 1 and at "
            "least one turn are needed."
        )
    model = unwrap(model)
    check_fresh(model, graph.shapes)
    bound = np.zeros(graph.num_channels, dtype=np.bool_)  # can only go with others
    for balance in graph.arrangement.balances:
        bound[balance.channels] = True
    bound &= graph.prunable
    alone = [g for g in graph.groups if g.prunable and not bound[g.channels].any()]
    latencies = np.zeros(graph.num_channels)
    groups = track(alone, "timing groups", transient=True, disable=not progress)
    full = 0.0
    for group in groups:
        going = group.channels[: max(round(share * group.width), 1)]
        keep = np.ones(graph.num_channels, dtype=np.bool_)
        keep[going] = False
        full, left = medians(model, Cut(graph, keep), repeats)
        latencies[group.channels] = max(full - left, 0.0) / len(going)
    if bound.any():
        everything = np.ones(graph.num_channels, dtype=np.bool_)
        full = full or medians(model, Cut(graph, everything), repeats)[0]
        latencies[bound] = channel_costs(graph)[bound] * full / max(graph.cost().macs, 1)
    return latencies


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
    check_fresh(model, graph.shapes)
    ranking = ranked(graph, scores, limits)
    with Progress(transient=True, disable=not progress) as bar:
        task = bar.add_task("timing candidates", total=len(ranking).bit_length() + 1)

        def measured(count: int) -> Fit:
            cut = ranking.after(count)
            cut.check()
            before, after = medians(model, cut, repeats)
            bar.advance(task)
            return Fit(cut.plan, before, after)

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
