"""Networks that are narrow from the first step on: what cutting has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch import nn

import gammaslim as gs
from bench.accuracy.nets import build
from bench.accuracy.training import EXAMPLE
from gammaslim.selecting.planning import make_plan


def macs(model: nn.Module) -> int:
    """Multiply-accumulates for one picture."""
    return gs.trace(model, EXAMPLE).cost().macs


@cache
def uniform_width(net: str, share: float) -> float:
    """The width multiplier at which ``net`` has nearest to ``share`` of its MACs, by bisection."""
    full = macs(build(net, seed=0))

    def kept(width: float) -> float:
        return macs(build(net, seed=0, width=width)) / full

    low, high = 0.02, 1.0
    for _ in range(9):
        middle = (low + high) / 2
        low, high = (low, middle) if kept(middle) > share else (middle, high)
    return min((low, high), key=lambda width: abs(kept(width) - share))


def narrow(net: str, share: float, seed: int) -> nn.Module:
    """A fresh network of which all layers are narrower alike."""
    return build(net, seed=seed, width=uniform_width(net, share))


def widths(graph: gs.ChannelGraph) -> list[int]:
    """The width of every prunable group, in the order of the graph."""
    return [group.width for group in graph.groups if group.prunable]


def scratch(net: str, kept: Sequence[int], seed: int) -> nn.Module:
    """A fresh network with these widths, initialised as a network of these shapes would be.

    Raises:
        ValueError: there are not as many widths as prunable groups.
    """
    model = build(net, seed=seed)
    graph = gs.trace(model, EXAMPLE)
    keep = np.ones(graph.num_channels, dtype=np.bool_)
    groups = [group for group in graph.groups if group.prunable]
    for group, width in zip(groups, kept, strict=True):
        keep[group.channels[width:]] = False
    gs.prune(model, graph, make_plan(graph, keep), verify=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
                module.reset_parameters()
    return model
