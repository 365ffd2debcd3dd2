"""A network of two convolutions around the operator in question, and questions to its graph."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import gammaslim as gs
from bench import oracle
from gammaslim.arrays import FIXED, IntArray, Site

INTO: Site = ("into.weight", 0)
"""The producer's rows: ``Toy`` makes its channels here."""

OUT: Site = ("out.weight", 1)
"""The consumer's columns."""

FREE = ""
"""What :func:`reasons` says of an index that may go."""

NO_CHANNEL = "no channel"
"""What :func:`reasons` says of an index that is no channel at all."""

BATCH, COLOURS, SIDE, RESULTS = 2, 3, 4, 2


class Toy(nn.Module):
    """``into`` (1 × 1, 3 -> width), BatchNorm, the operator, ``out`` (1 × 1, -> 2)."""

    def __init__(self, function: Callable[[Tensor], Tensor], width: int = 4, outputs: int = 0):
        """``outputs`` is the number of channels that ``function`` returns, by default all."""
        super().__init__()
        self.into = nn.Conv2d(COLOURS, width, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.function = function
        self.out = nn.Conv2d(outputs or width, RESULTS, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Produce, operate, consume."""
        return self.out(self.function(self.norm(self.into(x))))


def image() -> Tensor:
    """Two 4 × 4 pictures of three colours."""
    generator = torch.Generator().manual_seed(3)
    return torch.randn(BATCH, COLOURS, SIDE, SIDE, generator=generator)


def toy(function: Callable[[Tensor], Tensor], width: int = 4, outputs: int = 0) -> gs.ChannelGraph:
    """The graph of a ``Toy``; the law is checked on the way, by cutting a copy."""
    torch.manual_seed(0)
    return checked(Toy(function, width, outputs), image())


def checked(model: nn.Module, inputs: Any, *, counted: bool = True) -> gs.ChannelGraph:
    """The graph; a copy loses about half of what may go, which ``prune`` itself verifies.

    ``counted``: what the graph says the cut network costs is what its own trace says.
    """
    oracle.randomise_batchnorms(model, 0)
    graph = oracle.traced(model, inputs)
    if (graph.prunable & graph.scored).any():
        cut = copy.deepcopy(model)
        plan = gs.select(graph, oracle.random_scores(graph, 1), threshold=0.55)
        gs.prune(cut, graph, plan)
        assert graph.cost(plan).params == sum(p.numel() for p in cut.parameters())
        assert not counted or gs.trace(cut, inputs).cost() == graph.cost(plan)
    return graph


def channels(graph: gs.ChannelGraph, site: Site) -> IntArray:
    """Channel id of each index of a site."""
    length = graph.shapes[site[0]][site[1]]
    return graph.sites.get(site, np.full(length, FIXED))


def partners(graph: gs.ChannelGraph, site: Site, other: Site) -> list[tuple[int, ...]]:
    """For each index of ``site``, the indices of ``other`` in the same channel."""
    theirs = channels(graph, other)
    return [
        tuple(np.flatnonzero(theirs == channel).tolist()) if channel >= 0 else ()
        for channel in channels(graph, site)
    ]


def flow(graph: gs.ChannelGraph) -> list[tuple[int, ...]]:
    """For each column of the consumer, the rows of the producer that it lives and dies with."""
    return partners(graph, OUT, INTO)


def one_each(*indices: int) -> list[tuple[int, ...]]:
    """The answer where each index has exactly one partner."""
    return [(index,) for index in indices]


def reasons(graph: gs.ChannelGraph, site: Site) -> list[str]:
    """For each index of a site, why it may not go."""
    words = np.full(graph.num_channels + 1, NO_CHANNEL, dtype=object)
    for group in graph.groups:
        words[group.channels] = group.reason
        assert graph.prunable[group.channels].all() == group.prunable
    return words[channels(graph, site)].tolist()


def exact(graph: gs.ChannelGraph, site: Site = INTO) -> list[bool]:
    """For each index of a site, whether no operator depends on how many of these there are."""
    return graph.exact[channels(graph, site)].tolist()


def free(graph: gs.ChannelGraph, site: Site = INTO) -> bool:
    """Whether every index of a site may go."""
    return reasons(graph, site) == [FREE] * len(channels(graph, site))


def passes(graph: gs.ChannelGraph) -> bool:
    """Whether the operator did nothing to the channels: each free, exact, and by itself."""
    width = len(channels(graph, INTO))
    return free(graph) and all(exact(graph)) and flow(graph) == one_each(*range(width))


def only_reason(graph: gs.ChannelGraph, site: Site = INTO) -> str:
    """The one reason for which every index of a site is frozen."""
    (reason,) = set(reasons(graph, site))
    return reason
