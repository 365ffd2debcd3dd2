"""The channel graph of a network after a cut, without tracing it again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from gammaslim.arrays import FIXED, BoolArray, IntArray, Site, kept_count, kept_mask
from gammaslim.channels.dead_layers import Departures
from gammaslim.channels.flow import Flow
from gammaslim.channels.graph import ChannelGraph, Cut
from gammaslim.channels.records import Group, Recount, SizeAttribute, Witness, Work, scales_held
from gammaslim.channels.sequences import Arrangement, Balance

Map = Callable[[IntArray], IntArray]
Dims = tuple[IntArray | None, ...]


def narrowed(cut: Cut) -> ChannelGraph:
    """The graph of what a cut leaves: its channels, numbered anew in their old order.

    All that the trace found stays true: a cut changes how many channels there are, not what is done
    to them.
    """
    graph, keep, leaving, now = cut.graph, cut.keep, cut.leaving, _Now(cut)
    sites = {s: now.left(ids) for s, ids in graph.sites.items() if s[0] not in leaving.tensors}
    sites |= _values(graph, leaving, now.left)
    stays = leaving.stays
    scales = tuple(filter(stays, graph.scales))
    held = scales_held((sites[(name, 0)] for name in scales), int(np.count_nonzero(keep)))
    frozen = (one.holding(now.some(one.ids), held) for one in graph.frozen)
    return replace(
        graph,
        shapes=_shapes(graph, sites, leaving),
        parameters=tuple(filter(stays, graph.parameters)),
        sites=sites,
        scales=scales,
        shifts={scale: shift for scale, shift in graph.shifts.items() if stays(scale)},
        prunable=graph.prunable[keep],
        exact=graph.exact[keep],
        groups=tuple(_groups(graph, now.some, sites)),
        frozen=tuple(one for one in frozen if one.channels),
        work=tuple(_work(graph, leaving, now.some)),
        attributes=tuple(
            _attribute(each, keep, leaving.shape, now.some)
            for each in graph.attributes
            if stays(each.name)
        ),
        witnesses=tuple(replace(w, dims=now.every(w.dims)) for w in _witnesses(graph, leaving)),
        recounts=tuple(_recounts(graph, leaving, now.every)),
        arrangement=_arranged(graph.arrangement, keep, now.some),
        selections=graph.selections.without(leaving.remnants).left(now.survivors, now.renumbered),
        flow=graph.flow.left(frozenset(leaving.remnants), now.left),
    )


class _Now:
    """What becomes of arrays of channel ids."""

    def __init__(self, cut: Cut) -> None:
        """When only the channels of the cut are left."""
        self._keep, self._number = cut.keep, np.cumsum(cut.keep, dtype=np.int64) - 1
        self.survivors = cut.survivors

    def renumbered(self, ids: IntArray) -> IntArray:
        """The new ids of channels that are all left."""
        return np.where(ids < 0, ids, self._number[ids])

    def left(self, ids: IntArray) -> IntArray:
        """What is left of a dimension, in the order of the cut network."""
        return self.renumbered(ids[self.survivors(ids)])

    def some(self, ids: IntArray) -> IntArray:
        """What is left, where the order does not matter."""
        return self.renumbered(ids[kept_mask(ids, self._keep)])

    def every(self, dims: Dims) -> Dims:
        """Of a dimension that is empty, one place may be left, which is nobody's."""
        found = (None if ids is None else self.left(ids) for ids in dims)
        return tuple(None if ids is None or not len(ids) else ids for ids in found)


def _work(graph: ChannelGraph, leaving: Departures, some: Map) -> Iterator[Work]:
    """The work of layers that stay; an axis of which nothing is left still has its places."""

    def axis(ids: IntArray) -> IntArray:
        found = some(ids)
        if len(found) or not len(ids):
            return found
        return np.full(kept_count(ids, leaving.shape), FIXED, dtype=np.int64)

    for work in graph.work:
        if work.layer not in leaving.remnants:
            yield replace(work, axes=tuple(map(axis, work.axes)))


def _witnesses(graph: ChannelGraph, leaving: Departures) -> Iterator[Witness]:
    """Those of what stays and is needed, and one for each constant that somebody reads."""
    for witness in graph.witnesses:
        leaves = graph.flow.around(witness.module) in leaving.remnants
        if not leaves and witness.value not in leaving.lost:
            yield witness
    for path, remnant in leaving.remnants.items():
        if remnant.told:
            yield Witness(path, 0, graph.flow.layers[path].dims)


def _values(graph: ChannelGraph, leaving: Departures, left: Map) -> dict[Site, IntArray]:
    """The channels of the constants that take the places of layers."""
    told = {path: remnant for path, remnant in leaving.remnants.items() if remnant.told}
    values = {(f"{path}.value", 0): left(graph.flow.layers[path].channels) for path in told}
    return {site: ids for site, ids in values.items() if len(ids) and (ids >= 0).any()}


def _shapes(
    graph: ChannelGraph, sites: Mapping[Site, IntArray], leaving: Departures
) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor; a second name of a shared one has the sites of the first."""

    def size(name: str, dim: int, before: int) -> int:
        ids = sites.get((graph.aliases.get(name, name), dim))
        return before if ids is None else len(ids)

    shapes = {
        name: tuple(size(name, dim, before) for dim, before in enumerate(shape))
        for name, shape in graph.shapes.items()
        if name not in leaving.tensors
    }
    remnants = leaving.remnants.items()
    return shapes | {f"{path}.value": (own.width,) for path, own in remnants if own.told}


def _attribute(
    attribute: SizeAttribute, keep: BoolArray, shape: BoolArray, some: Map
) -> SizeAttribute:
    """The number of the cut network, which counts one place where no channel is left."""
    spare = attribute.value(shape) - attribute.value(keep) if shape is not keep else 0
    terms = tuple((some(ids), share) for ids, share in attribute.terms)
    return replace(attribute, terms=terms, constant=attribute.constant + spare)


def _recounts(
    graph: ChannelGraph, leaving: Departures, every: Callable[[Dims], Dims]
) -> Iterator[Recount]:
    """Those of what stays; layers that leave do not call their operators any more."""
    for recount in graph.recounts:
        gone = _calls_gone(graph.flow, leaving, recount.operator) if leaving.remnants else []
        if recount.call in gone:
            continue
        yield replace(
            recount,
            call=recount.call - sum(call < recount.call for call in gone),
            inputs=tuple(None if dims is None else every(dims) for dims in recount.inputs),
            outputs=tuple(map(every, recount.outputs)),
        )


def _calls_gone(flow: Flow, leaving: Departures, operator: str) -> list[int]:
    """Which of all calls of an operator are made by layers that leave."""
    layers = [call.layer for call in flow.calls if call.operator == operator]
    return [place for place, layer in enumerate(layers) if layer in leaving.remnants]


def _groups(graph: ChannelGraph, some: Map, sites: Mapping[Site, IntArray]) -> list[Group]:
    groups = (replace(group, channels=some(group.channels)) for group in graph.groups)
    left = [group for group in groups if group.width]
    return left if sites.keys() == graph.sites.keys() else [_housed(g, sites) for g in left]


def _housed(group: Group, sites: Mapping[Site, IntArray]) -> Group:
    """A group some of whose tensors have left: what is left of its sites."""
    own = tuple(site for site, ids in sites.items() if group.channels[0] in ids)
    names = {name for name, _ in own}
    return replace(group, sites=own, scales=tuple(n for n in group.scales if n in names))


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
