"""The plain records that a channel graph is made of.

Their arrays hold channel ids.  While a network is traced nobody knows these yet, and the same
records hold labels; ``mapped`` turns the one into the other, and ids into those after a cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np

from gammaslim.arrays import BoolArray, Dims, IntArray, Site, kept_count
from gammaslim.channels.renumbering import Renumbering

Map = Callable[[IntArray], IntArray]
"""What becomes of an array of labels or channel ids, index by index or with some left out."""

MapOrNone = Callable[[IntArray], IntArray | None]
"""The same for a dimension; ``None`` where nothing of it may go."""


def mapped_dims(dims: Dims, number: MapOrNone) -> Dims:
    """Every dimension passed through ``number``."""
    return tuple(None if ids is None else number(ids) for ids in dims)


@dataclass(frozen=True)
class Cost:
    """Multiply-accumulates (for the example batch) and parameters of a network."""

    macs: int
    params: int


@dataclass(frozen=True)
class Work:
    """One convolution or matrix product: ``macs = coefficient · Π_a kept(axes[a])``.

    ``module`` is the path of the module that runs it; ``layer`` that of the layer it is part of, if
    that may leave the network.
    """

    operator: str
    coefficient: int
    axes: tuple[IntArray, ...]
    module: str = ""
    layer: str = ""

    def mapped(self, number: Map) -> Work:
        """The same with every axis passed through ``number``."""
        return replace(self, axes=tuple(map(number, self.axes)))

    def macs(self, keep: BoolArray) -> int:
        """Multiply-accumulates when only the channels in ``keep`` survive."""
        total = self.coefficient
        for axis in self.axes:
            total *= kept_count(axis, keep)
        return total


@dataclass(frozen=True)
class SizeAttribute:
    """A Python number on a module that follows a size: ``value = Σ share · kept(ids) + constant``.

    ``name`` is the dotted path from the root module; ``position`` is the place within a tuple or
    list (``normalized_shape``) or ``None`` for a plain integer.  ``terms`` holds ``(ids, share)``.
    """

    name: str
    terms: tuple[tuple[IntArray, Fraction], ...]
    constant: Fraction = Fraction(0)
    position: int | None = None

    @classmethod
    def counting(cls, name: str, ids: IntArray, position: int | None = None) -> SizeAttribute:
        """The number that simply counts the channels ``ids``."""
        return cls(name, ((ids, Fraction(1)),), position=position)

    def mapped(self, number: Map) -> SizeAttribute:
        """The same with what it counts passed through ``number``."""
        return replace(self, terms=tuple((number(ids), share) for ids, share in self.terms))

    def after(self, now: Renumbering) -> SizeAttribute:
        """The number of a cut network, which counts one place where no channel is left."""
        spare = 0 if now.shape is now.keep else self.value(now.shape) - self.value(now.keep)
        return replace(self.mapped(now.some), constant=self.constant + spare)

    def value(self, keep: BoolArray) -> int:
        """The number when only the channels in ``keep`` survive."""
        return int(sum((s * kept_count(ids, keep) for ids, s in self.terms), self.constant))


@dataclass(frozen=True)
class Frozen:
    """Why some channels may not go: the reason, where it arose, and what it costs.

    ``channels`` of which none may go, and how many ``scales``, elements of BatchNorm weights, they
    hold: many slices that were coupled are one channel.  ``ids`` are these channels.
    """

    reason: str
    operator: str
    module: str
    source: str
    channels: int = 0
    scales: int = 0
    ids: IntArray = field(default_factory=lambda: np.empty(0, np.int64), repr=False, compare=False)

    def holding(self, ids: IntArray, held: IntArray) -> Frozen:
        """The same reason for these channels; ``held``: how many scales each channel holds."""
        return replace(self, channels=len(ids), scales=int(held[ids].sum()), ids=ids)

    def __str__(self) -> str:
        """One line for a report."""
        place = ", ".join(part for part in (self.operator, self.module, self.source) if part)
        return f"{self.reason} ({place})" if place else self.reason


def scales_held(weights: Iterable[IntArray], count: int) -> IntArray:
    """How many scales each of ``count`` channels holds; ``weights`` are ids of BatchNorms' own."""
    held = np.zeros(count, dtype=np.int64)
    for ids in weights:
        np.add.at(held, ids[ids >= 0], 1)
    return held


@dataclass(frozen=True, eq=False)
class Group:
    """The channels that have the same sites; one row of a report.

    ``chain``: by which operators its first channel is tied to what was frozen for ``reason``, in
    one line, unless it was that itself.
    """

    name: str
    channels: IntArray
    sites: tuple[Site, ...]
    scales: tuple[str, ...]
    prunable: bool
    exact: bool
    reason: str = ""
    chain: str = ""

    @property
    def width(self) -> int:
        """Number of channels in the group."""
        return len(self.channels)


@dataclass(frozen=True)
class Witness:
    """An output that both networks must agree on: the ``call``-th output of a leaf module.

    ``dims`` holds, per dimension, the channel ids of its indices, or ``None``; ``value`` is its
    number in the flow, ``None`` if nobody could follow it.
    """

    module: str
    call: int
    dims: Dims
    value: int | None = None

    def mapped(self, number: MapOrNone) -> Witness:
        """The same with every dimension passed through ``number``."""
        return replace(self, dims=mapped_dims(self.dims, number))


@dataclass(frozen=True)
class Recount:
    """An operator that depends on how many channels there are (a mean, LayerNorm statistics).

    The ``call``-th call of ``operator`` in evaluation mode.  The masked reference runs it over
    the kept channels only.  ``inputs`` and ``outputs`` hold one entry per tensor, each with the
    channel ids per dimension.
    """

    operator: str
    call: int
    inputs: tuple[Dims | None, ...]
    outputs: tuple[Dims, ...]

    def mapped(self, number: MapOrNone) -> Recount:
        """The same with every dimension passed through ``number``."""
        inputs = (None if dims is None else mapped_dims(dims, number) for dims in self.inputs)
        outputs = tuple(mapped_dims(dims, number) for dims in self.outputs)
        return replace(self, inputs=tuple(inputs), outputs=outputs)
