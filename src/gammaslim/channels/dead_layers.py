"""Which layers leave the network when groups lose all their channels, and what goes with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from gammaslim.arrays import BoolArray, IntArray, Site, kept_mask, owner
from gammaslim.channels.flow import Flow, Remnant, place_holders, remnants
from gammaslim.channels.records import Group


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

    def owns(self, name: str) -> bool:
        """Whether a tensor, or a number of a module, belongs to a layer that leaves."""
        return owner(name) in self.remnants

    def stays(self, name: str) -> bool:
        """The opposite of :meth:`owns`."""
        return not self.owns(name)


@dataclass(frozen=True, eq=False)
class DeadLayers:
    """The constraint that what a cut leaves still works: layers without channels leave as wholes.

    ``flow`` tells what is made of what; ``groups`` and ``sites`` which tensors hold which channels,
    ``tensors`` are the names of them all.
    """

    num_channels: int
    flow: Flow
    groups: tuple[Group, ...]
    sites: Mapping[Site, IntArray]
    tensors: frozenset[str]
    _known: WeakValueDictionary[bytes, Departures] = field(
        default_factory=WeakValueDictionary[bytes, Departures], repr=False
    )
    """Answers by mask, each for as long as the cut that asked: it asks several times."""

    def __reduce__(self) -> tuple[type[DeadLayers], tuple[Any, ...]]:
        """Copied and pickled without what it remembers."""
        record = (self.num_channels, self.flow, self.groups, self.sites, self.tensors)
        return DeadLayers, record

    # A residual block x + bn2(conv2(relu(bn1(conv1(x))))) whose bn1 keeps none of its channels:
    # conv1 and bn1 have nothing to give, and conv2 has nothing to read.  Without the group of bn1,
    # `alive` finds that only constants reach conv2, so conv1, bn1, conv2 and bn2 do no work that
    # depends on the input: they leave, and the addition reads a constant (`Remnant`) instead.
    # Were x itself to lose all its channels, the network's output would be a constant: such a
    # group is stuck, and so is one that a layer still needs which stays for another reason.
    def leaving(self, keep: BoolArray) -> Departures:
        """The layers that leave, as wholes, when exactly the channels in ``keep`` stay."""
        mask = keep.tobytes()
        answer = self._known.get(mask)
        if answer is None:
            answer = self._known[mask] = self._leaving(keep)
        return answer

    def _leaving(self, keep: BoolArray) -> Departures:
        empty = [
            group
            for group in self.groups
            if not keep[group.channels].any()
            and not all(kept_mask(self.sites[site], keep).any() for site in group.sites)
        ]
        if not empty:
            return Departures(keep)
        flow = self.flow
        alive = flow.alive(keep)
        leaving = (flow.usual.working - alive.working) & flow.layers.keys()
        stuck = [g for g in empty if any(owner(name) not in leaving for name, _ in g.sites)]
        if alive.sinks != flow.usual.sinks or (alive.unfit and not flow.usual.unfit):
            stuck = empty
        shape = place_holders([group.channels for group in empty], keep)
        return Departures(
            shape,
            remnants(flow, frozenset(leaving), keep, shape),
            frozenset(name for name in self.tensors if owner(name) in leaving),
            alive.idle - flow.usual.idle,
            flow.usual.needed - alive.needed,
            tuple(stuck),
        )

    def objection(self, keep: BoolArray) -> str:
        """Which group may not lose all its channels, but would."""
        stuck = self.leaving(keep).stuck
        if not stuck:
            return ""
        return (
            f"The group {stuck[0].name!r} would lose all its channels, but layers that stay "
            "need one of them, or nothing would depend on the input any more. Keep one."
        )

    def settled(self, keep: BoolArray) -> BoolArray:
        """``keep`` with those channels of which layers that leave dispose: see :meth:`disposed`."""
        leaving = self.leaving(keep)
        if not leaving.remnants or leaving.stuck:
            return keep
        inner, held = self.disposed(leaving.remnants)
        return np.where(inner, held, keep)

    def disposed(self, remnants: Mapping[str, Remnant]) -> tuple[BoolArray, BoolArray]:
        """The channels that only these layers hold, and those that constants in their places hold.

        A cut keeps of the first exactly the second: constants keep their whole width, and what
        meets them finds the size it is used to.
        """
        inner, held = np.zeros((2, self.num_channels), dtype=np.bool_)
        for group in self.groups if remnants else ():
            inner[group.channels] = all(owner(name) in remnants for name, _ in group.sites)
        for path, remnant in remnants.items():
            layer = self.flow.layers.get(path)
            if remnant.speaks and layer is not None:
                held[layer.channels[layer.channels >= 0]] = True
        return inner, held

    def may_be_empty(self) -> BoolArray:
        """Per group, whether it may lose all its channels, and layers with it, if no other does."""
        may = np.zeros(len(self.groups), dtype=np.bool_)
        for index, group in enumerate(self.groups):
            if group.prunable:
                keep = np.ones(self.num_channels, dtype=np.bool_)
                keep[group.channels] = False
                found = self.leaving(keep)
                may[index] = bool(found.remnants) and not found.stuck
        return may
