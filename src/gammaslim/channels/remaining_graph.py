"""The channel graph of a network after a cut, without tracing it again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from gammaslim.arrays import IntArray, Site
from gammaslim.channels.dead_layers import Departures
from gammaslim.channels.graph import ChannelGraph, Cut
from gammaslim.channels.records import Group, Recount, Witness, scales_held
from gammaslim.channels.renumbering import Renumbering


def narrowed(cut: Cut) -> ChannelGraph:
    """The graph of what a cut leaves: its channels, numbered anew in their old order.

    All that the trace found stays true: a cut changes how many channels there are, not what is done
    to them.
    """
    graph, keep, leaving = cut.graph, cut.keep, cut.leaving
    stays, gone = leaving.stays, leaving.remnants
    now = Renumbering(keep, leaving.shape, cut.survivors, gone)
    sites = {s: now.left(ids) for s, ids in graph.sites.items() if s[0] not in leaving.tensors}
    for path in (path for path, remnant in gone.items() if remnant.told):
        value = now.left(graph.flow.layers[path].channels)
        if (value >= 0).any():
            sites[(f"{path}.value", 0)] = value
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
        groups=tuple(_groups(graph, now, sites)),
        frozen=tuple(one for one in frozen if one.channels),
        work=tuple(each.mapped(now.places) for each in graph.work if each.layer not in gone),
        attributes=tuple(each.after(now) for each in graph.attributes if stays(each.name)),
        witnesses=tuple(each.mapped(now.any_left) for each in _witnesses(graph, leaving)),
        recounts=tuple(each.mapped(now.any_left) for each in _recounts(graph, leaving)),
        **{name: record.after(now) for name, record in graph.constraining.items()},
        couplings=graph.couplings.left({site: kept.indices for site, kept in cut.sites.items()}),
    )


def _witnesses(graph: ChannelGraph, leaving: Departures) -> Iterator[Witness]:
    """Those of what stays and is needed, and one for each constant that somebody reads."""
    for witness in graph.witnesses:
        leaves = graph.flow.around(witness.module) in leaving.remnants
        if not leaves and witness.value not in leaving.lost:
            yield witness
    for path, remnant in leaving.remnants.items():
        if remnant.told:
            yield Witness(path, 0, graph.flow.layers[path].dims)


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


def _recounts(graph: ChannelGraph, leaving: Departures) -> Iterator[Recount]:
    """Those of what stays; layers that leave do not call their operators any more."""
    for recount in graph.recounts:
        operator, remnants = recount.operator, leaving.remnants
        layers = [c.layer for c in graph.flow.calls if c.operator == operator] if remnants else []
        gone = [call for call, layer in enumerate(layers) if layer in remnants]
        if recount.call not in gone:
            yield replace(recount, call=recount.call - sum(call < recount.call for call in gone))


def _groups(
    graph: ChannelGraph, now: Renumbering, sites: Mapping[Site, IntArray]
) -> Iterator[Group]:
    """Those of which something is left; where tensors have left, what is left of their sites."""
    for before in graph.groups:
        group = replace(before, channels=now.some(before.channels))
        if group.width and sites.keys() != graph.sites.keys():
            own = tuple(site for site, ids in sites.items() if group.channels[0] in ids)
            names = {name for name, _ in own}
            group = replace(group, sites=own, scales=tuple(n for n in group.scales if n in names))
        if group.width:
            yield group
