"""The channel graph of a network after a cut, without tracing it again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from gammaslim.graph import ChannelGraph
from gammaslim.records import BoolArray, Group, IntArray, Recount, Site
from gammaslim.sequences import Arrangement, Balance

Map = Callable[[IntArray], IntArray]
Dims = tuple[IntArray | None, ...]


def narrowed(graph: ChannelGraph, keep: BoolArray) -> ChannelGraph:
    """The graph of what a cut leaves: the channels in ``keep``, numbered anew in their old order.

    All that the trace found stays true: a cut changes how many channels there are, not what is done
    to them.

    Args:
        graph: of the network before the cut.
        keep: one boolean per channel, as from :meth:`ChannelGraph.keep_mask`.
    """
    number = np.cumsum(keep, dtype=np.int64) - 1
    survivors = graph.survivors(keep)

    def renumbered(ids: IntArray) -> IntArray:
        return np.where(ids < 0, ids, number[ids])

    def left(ids: IntArray) -> IntArray:
        return renumbered(ids[survivors(ids)])

    def some(ids: IntArray) -> IntArray:
        return renumbered(ids[(ids < 0) | keep[ids]])

    def every(dims: Dims) -> Dims:
        return tuple(None if ids is None else left(ids) for ids in dims)

    sites = {site: left(ids) for site, ids in graph.sites.items()}
    return replace(
        graph,
        shapes=_shapes(graph, sites),
        sites=sites,
        prunable=graph.prunable[keep],
        exact=graph.exact[keep],
        groups=tuple(_groups(graph, some)),
        work=tuple(replace(work, axes=tuple(map(some, work.axes))) for work in graph.work),
        attributes=tuple(
            replace(each, terms=tuple((some(ids), share) for ids, share in each.terms))
            for each in graph.attributes
        ),
        witnesses=tuple(replace(each, dims=every(each.dims)) for each in graph.witnesses),
        recounts=tuple(_recount(each, every) for each in graph.recounts),
        arrangement=_arranged(graph.arrangement, keep, some),
        selections=graph.selections.left(survivors, renumbered),
    )


def _shapes(graph: ChannelGraph, sites: Mapping[Site, IntArray]) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor; a second name of a shared one has the sites of the first."""

    def size(name: str, dim: int, before: int) -> int:
        ids = sites.get((graph.aliases.get(name, name), dim))
        return before if ids is None else len(ids)

    return {
        name: tuple(size(name, dim, before) for dim, before in enumerate(shape))
        for name, shape in graph.shapes.items()
    }


def _recount(recount: Recount, every: Callable[[Dims], Dims]) -> Recount:
    inputs = tuple(None if dims is None else every(dims) for dims in recount.inputs)
    return replace(recount, inputs=inputs, outputs=tuple(map(every, recount.outputs)))


def _groups(graph: ChannelGraph, some: Map) -> list[Group]:
    groups = (replace(group, channels=some(group.channels)) for group in graph.groups)
    return [group for group in groups if group.width]


def _arranged(arrangement: Arrangement, keep: BoolArray, some: Map) -> Arrangement:
    return Arrangement(
        leaves=tuple(map(some, arrangement.leaves)),
        steps=arrangement.steps,
        balances=tuple(_balanced(balance, keep, some) for balance in arrangement.balances),
    )


def _balanced(balance: Balance, keep: BoolArray, some: Map) -> Balance:
    """Only those cuts remain for which there are still channels enough in every run."""
    counts = np.array([np.count_nonzero(keep[run]) for run in balance.runs])
    possible = (balance.quotas <= counts).all(axis=1)
    return Balance(
        runs=tuple(map(some, balance.runs)),
        quotas=balance.quotas[possible],
        widths=balance.widths[possible],
    )
