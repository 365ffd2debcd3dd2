"""Timing: a network beside what a cut would leave of it, in turns."""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
from torch import nn
from torch.utils.benchmark import Timer

from gammaslim.calling import call_arguments, map_tensors
from gammaslim.graph import ChannelGraph
from gammaslim.modules import training_mode
from gammaslim.records import BoolArray
from gammaslim.select import make_plan
from gammaslim.surgery import apply_plan

_TURN_SECONDS = 0.005
"""How long a turn lasts at least: short forward passes are repeated."""


def medians(
    model: nn.Module, graph: ChannelGraph, keep: BoolArray, repeats: int
) -> tuple[float, float]:
    """Median seconds of a forward pass of the network, and of it without what is not kept.

    A copy is cut for real; both run in evaluation mode on the traced inputs, on the network's
    device, alternately, so that what else the machine does meets both.
    """
    cut = copy.deepcopy(model)
    apply_plan(cut, make_plan(graph, keep))
    with torch.no_grad(), training_mode(model, training=False), training_mode(cut, training=False):
        timers = [_timer(each, graph) for each in (model, cut)]
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
