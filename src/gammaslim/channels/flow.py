"""How values flow from layer to layer: what no longer depends on the input once channels are gone.

While the network is traced, each tensor that is not written to again is a *value*, known by its
number.  Where a group loses all its channels, what is computed of them is a constant; layers that
only make constants, or what only constants are made of, may leave the network as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import index
from typing import Any, NamedTuple

import numpy as np

from gammaslim.arrays import BoolArray, Dims, IntArray, Windows, kept_count
from gammaslim.channels.renumbering import Renumbering

WORLD = 0
"""The value that stands for the network's inputs and all else that nobody could follow."""


@dataclass(frozen=True)
class Remnant:
    """What takes the place of a layer that leaves: a constant of ``width`` channels.

    ``told``: whether anything that stays reads it, so that its values matter and not only its
    shape; ``written``: whether that writes to it as well; ``void``: whether none of its channels is
    left, so that it only holds places.  ``dim`` holds the channels; the other dimensions are those
    of the input, or what ``window`` makes of them.
    """

    width: int
    told: bool
    dim: int
    window: Windows | None = None
    written: bool = False
    void: bool = False

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Remnant:
        """Read what ``dataclasses.asdict`` made, out of JSON."""
        window = record["window"]
        if window is not None:
            window = tuple((index(e), index(s), index(p)) for e, s, p in window)
        marks = {name: bool(record[name]) for name in ("told", "written", "void")}
        return cls(index(record["width"]), dim=index(record["dim"]), window=window, **marks)

    @property
    def speaks(self) -> bool:
        """Whether it has values that matter."""
        return self.told and not self.void


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer that may leave: the ``channels`` it gives along ``dim``, what it makes of sizes."""

    channels: IntArray
    ndim: int
    dim: int
    window: Windows | None = None

    def mapped(self, number: Callable[[IntArray], IntArray]) -> Layer:
        """The same with its channels passed through ``number``."""
        return replace(self, channels=number(self.channels))

    @property
    def pads(self) -> bool:
        """Whether it pads its input."""
        return any(padding for _, _, padding in self.window or ())

    @property
    def dims(self) -> Dims:
        """Per dimension of what it gives, the channel ids."""
        place = self.dim % self.ndim
        return tuple(self.channels if i == place else None for i in range(self.ndim))


class Call(NamedTuple):
    """One operator: the values that go in and come out.

    ``module``: the path of the module that runs it; ``layer``: of the layer that it is part of,
    ``""`` if of none that may leave.
    ``written``: the inputs whose memory the outputs take over.  ``random``: it draws numbers, so
    that what comes out is no constant.
    """

    module: str
    operator: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    written: tuple[int, ...] = ()
    random: bool = False
    layer: str = ""


@dataclass(frozen=True, eq=False)
class Flow:
    """All calls of all traced runs in their order; ``sinks`` are the values that are returned.

    ``values`` holds, per value, the channel ids of each of its dimensions that consists of
    channels alone: without one of them there is nothing in it.  ``layers`` are those that may
    leave, by path.
    """

    calls: tuple[Call, ...] = ()
    values: tuple[tuple[IntArray, ...], ...] = ((),)
    sinks: frozenset[int] = frozenset()
    layers: Mapping[str, Layer] = field(default_factory=dict[str, Layer])

    def around(self, module: str) -> str:
        """The layer that a module is, or is part of; ``""`` if there is none."""
        while module and module not in self.layers:
            module = module.rpartition(".")[0]
        return module if module in self.layers else ""

    @cached_property
    def usual(self) -> Alive:
        """What matters while all channels are there."""
        return self._alive(lambda _: False)

    def alive(self, keep: BoolArray) -> Alive:
        """What matters when only the channels in ``keep`` are there."""
        return self._alive(lambda value: any(not keep[ids].any() for ids in self.values[value]))

    def _alive(self, is_void: Callable[[int], bool]) -> Alive:
        live, void, ragged = {WORLD}, set[int](), set[str]()
        for call in self.calls:
            void.update(filter(is_void, call.outputs))
            if call.random or not live.isdisjoint(call.inputs):
                live.update(value for value in call.outputs if value not in void)
            elif call.layer and self.layers[call.layer].pads and not void.issuperset(call.inputs):
                ragged.add(call.layer)
        needed = set(self.sinks)
        working: set[str] = set()
        busy = {
            m for c in self.calls if not live.isdisjoint(c.outputs) for m in (c.layer, c.module)
        }
        for call in reversed(self.calls):
            if any(value in live and value in needed for value in call.outputs):
                needed.update(call.inputs)
                working.update((call.layer, call.module))
        idle = frozenset(busy - working)
        unfit = bool(needed & void) or bool(ragged)
        return Alive(frozenset(working), idle, frozenset(needed), self.sinks & live, unfit)

    def read_outside(self, leaving: frozenset[str]) -> tuple[frozenset[str], frozenset[str]]:
        """Which of these layers give values to what stays, and to which of these it writes."""
        makers = {v: c.layer for c in self.calls if c.layer in leaving for v in c.outputs}
        outside = [call for call in self.calls if call.layer not in leaving]
        read = {value for call in outside for value in call.inputs} | self.sinks
        written = {value for call in outside for value in call.written}

        def of(values: set[int]) -> frozenset[str]:
            return frozenset(makers[value] for value in makers.keys() & values)

        return of(read), of(written)

    def after(self, now: Renumbering) -> Flow:
        """The flow of a cut network, without what layers did that have left."""
        calls = tuple(call for call in self.calls if call.layer not in now.gone)
        left = {path: layer for path, layer in self.layers.items() if path not in now.gone}
        return replace(self, calls=calls, layers=left).mapped(now.left)

    def mapped(self, number: Callable[[IntArray], IntArray]) -> Flow:
        """The same with every array of channels passed through ``number``."""
        values = tuple(tuple(map(number, dims)) for dims in self.values)
        layers = {path: layer.mapped(number) for path, layer in self.layers.items()}
        return replace(self, values=values, layers=layers)


@dataclass(frozen=True)
class Alive:
    """What of a network's work depends on its input and is used.

    The modules that do such work (``working``), those that work for nothing (``idle``), the values
    that it takes in (``needed``), and the results (``sinks``) that come of it.  ``unfit``: it takes
    in values in which nothing is left, or zeros padded to a constant make another one at a border.
    """

    working: frozenset[str]
    idle: frozenset[str]
    needed: frozenset[int]
    sinks: frozenset[int]
    unfit: bool


def remnants(
    flow: Flow, leaving: frozenset[str], keep: BoolArray, shape: BoolArray
) -> dict[str, Remnant]:
    """What takes the places of layers; ``shape`` says which channels have a place."""
    told, written = flow.read_outside(leaving)
    found: dict[str, Remnant] = {}
    for path in sorted(leaving):
        layer = flow.layers[path]
        found[path] = Remnant(
            kept_count(layer.channels, shape),
            path in told,
            layer.dim,
            layer.window,
            path in written,
            void=not kept_count(layer.channels, keep),
        )
    return found


def keeps_sizes(remnant: Remnant) -> bool:
    """Whether the spatial sizes are those of the input."""
    return all(stride == 1 and pad == extent - 1 for extent, stride, pad in remnant.window or ())


def place_holders(groups: list[IntArray], keep: BoolArray) -> BoolArray:
    """``keep`` with one channel of each group that has none: code that stays needs some size."""
    shape = keep.copy()
    shape[np.array([ids[0] for ids in groups], dtype=np.int64)] = True
    return shape
