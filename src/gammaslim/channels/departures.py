"""Which layers leave the network when groups lose all their channels, and what goes with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from gammaslim.arrays import BoolArray, kept_mask
from gammaslim.channels.flow import Remnant, place_holders, remnants
from gammaslim.channels.records import Group

if TYPE_CHECKING:
    from gammaslim.channels.graph import ChannelGraph


@dataclass(frozen=True, eq=False)
class Departures:
    """What a keep mask makes of layers.

    ``remnants``: the layers that leave, by path, and what takes their places.  ``tensors`` are
    theirs, by name.  ``idle`` are the modules whose work is for nothing, ``lost`` the values that
    nobody needs any more.  ``shape``: the channels in ``keep``, and one of each group that has
    none, for code that needs some size.  ``stuck``: groups without which nothing is left of some
    dimension, although a layer that stays holds some of them, or the network's output would be a
    constant.
    """

    shape: BoolArray
    remnants: Mapping[str, Remnant] = field(default_factory=dict[str, Remnant])
    tensors: frozenset[str] = frozenset()
    idle: frozenset[str] = frozenset()
    lost: frozenset[int] = frozenset()
    stuck: tuple[Group, ...] = ()

    def stays(self, name: str) -> bool:
        """The opposite of :meth:`owns`."""
        return not self.owns(name)

    def owns(self, name: str) -> bool:
        """Whether a tensor, or a number of a module, belongs to a layer that leaves."""
        return owner(name) in self.remnants


def owner(name: str) -> str:
    """The path of the module that holds the tensor or attribute ``name``."""
    return name.rpartition(".")[0]


def departures(graph: ChannelGraph, keep: BoolArray) -> Departures:
    """What leaves when exactly the channels in ``keep`` stay."""
    empty = [group for group in graph.groups if _empties_a_site(graph, group, keep)]
    if not empty:
        return Departures(keep)
    flow = graph.flow
    alive = flow.alive(keep)
    leaving = (flow.usual.working - alive.working) & flow.layers.keys()
    stuck = [g for g in empty if any(owner(name) not in leaving for name, _ in g.sites)]
    if alive.sinks != flow.usual.sinks or (alive.unfit and not flow.usual.unfit):
        stuck = empty
    shape = place_holders([group.channels for group in empty], keep)
    return Departures(
        shape,
        remnants(flow, frozenset(leaving), keep, shape),
        frozenset(name for name in graph.shapes if owner(name) in leaving),
        alive.idle - flow.usual.idle,
        flow.usual.needed - alive.needed,
        tuple(stuck),
    )


def _empties_a_site(graph: ChannelGraph, group: Group, keep: BoolArray) -> bool:
    """Whether a group is gone, and nothing is left of some dimension that it was part of."""
    if keep[group.channels].any():
        return False
    return not all(kept_mask(graph.sites[site], keep).any() for site in group.sites)


def followed(graph: ChannelGraph, keep: BoolArray) -> BoolArray:
    """``keep`` with those channels of which layers that leave dispose: see :func:`disposed`."""
    leaving = departures(graph, keep)
    if not leaving.remnants or leaving.stuck:
        return keep
    inner, held = disposed(graph, leaving.remnants)
    return np.where(inner, held, keep)


def disposed(graph: ChannelGraph, remnants: Mapping[str, Remnant]) -> tuple[BoolArray, BoolArray]:
    """The channels that only these layers hold, and those that constants in their places hold.

    A cut keeps of the first exactly the second: constants keep their whole width, and what meets
    them finds the size it is used to.
    """
    inner, held = np.zeros((2, graph.num_channels), dtype=np.bool_)
    for group in graph.groups if remnants else ():
        inner[group.channels] = all(owner(name) in remnants for name, _ in group.sites)
    for path, remnant in remnants.items():
        layer = graph.flow.layers.get(path)
        if remnant.speaks and layer is not None:
            held[layer.channels[layer.channels >= 0]] = True
    return inner, held


def may_be_empty(graph: ChannelGraph) -> BoolArray:
    """Per group, whether it may lose all its channels, and layers with it, if no other does."""
    may = np.zeros(len(graph.groups), dtype=np.bool_)
    for index, group in enumerate(graph.groups):
        if group.prunable:
            keep = np.ones(graph.num_channels, dtype=np.bool_)
            keep[group.channels] = False
            found = departures(graph, keep)
            may[index] = bool(found.remnants) and not found.stuck
    return may
