"""What labelled runs of a network say, still in labels: plain records, filled by the recorder."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gammaslim.arrays import Dims, IntArray
from gammaslim.channels import Call, InputSelection, Layer, Reason, Recount, Witness, Work
from gammaslim.labels import LabelStore, Partition


@dataclass(frozen=True)
class Grid:
    """A labelled dimension ``whole`` that was split in two, and where the two now are.

    Dimension ``parts`` runs over equal parts, dimension ``inner`` within each.  ``strided``: the
    inner one was the first, so that neighbours lie in different parts.
    """

    whole: IntArray
    parts: int
    inner: int
    strided: bool

    def moved(self, dims: Sequence[int]) -> Grid:
        """The grid after ``permute(dims)``."""
        return replace(self, parts=list(dims).index(self.parts), inner=list(dims).index(self.inner))

    def at(self, dims: Sequence[int]) -> Grid:
        """The grid among others: its dimensions 0, 1, ... are these of the tensor."""
        return replace(self, parts=dims[self.parts], inner=dims[self.inner])


@dataclass(frozen=True)
class TensorLabels:
    """Labels of one tensor: one entry per dimension.

    ``zero``: where the masked network has a removed channel, this tensor holds exactly zero.
    ``reason``: number of the reason for which its unlabelled dimensions are fixed.
    ``layout``: shape and strides when the labels were given; an in-place change shows in them.
    ``grid``: two of its dimensions are one that was split, and so far only moved about.
    """

    dims: Dims
    zero: bool = False
    reason: int = 0
    layout: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    grid: Grid | None = None

    @property
    def labelled(self) -> bool:
        """Whether any dimension carries labels."""
        return any(d is not None for d in self.dims)


@dataclass(frozen=True)
class ConvSizes:
    """Labels behind a convolution module's ``in_channels``, ``out_channels`` and ``groups``."""

    inputs: IntArray
    outputs: IntArray
    partition: Partition | None


@dataclass
class Findings:
    """What the runs of one network, in evaluation and in training mode, have said so far.

    The records are those of the graph, with labels in the places of channels.
    """

    store: LabelStore = field(default_factory=LabelStore)
    reasons: dict[Reason, int] = field(default_factory=lambda: {Reason("has a fixed size"): 0})
    work: list[Work] = field(default_factory=list[Work])
    recounts: list[Recount] = field(default_factory=list[Recount])
    witnesses: list[Witness] = field(default_factory=list[Witness])
    scales: dict[str, str | None] = field(default_factory=dict[str, str | None])
    kernels: list[IntArray] = field(default_factory=list[IntArray])
    """Dimensions of weights that are sizes of kernels: an index that is only that is no channel."""
    convolutions: dict[str, ConvSizes] = field(default_factory=dict[str, ConvSizes])
    norms: dict[str, IntArray] = field(default_factory=dict[str, IntArray])
    normalized: dict[str, Dims] = field(default_factory=dict[str, Dims])
    selections: dict[str, InputSelection] = field(default_factory=dict[str, InputSelection])
    flows: list[tuple[list[IntArray], list[IntArray]]] = field(
        default_factory=list[tuple[list[IntArray], list[IntArray]]]
    )
    """Where inputs are to be selected: what each operator takes in, and what it gives out."""
    calls: list[Call] = field(default_factory=list[Call])
    values: list[list[IntArray]] = field(default_factory=lambda: [[]])
    sinks: set[int] = field(default_factory=set[int])
    layers: dict[str, Layer] = field(default_factory=dict[str, Layer])
    followed: bool = True
    """Whether all data stayed in sight: else no layer's work is known to be for nothing."""
    reached: set[str] = field(default_factory=set[str])
    notes: list[str] = field(default_factory=list[str])

    def reason(self, reason: Reason) -> int:
        """Number of a reason; equal reasons share one number."""
        return self.reasons.setdefault(reason, len(self.reasons))

    def snapshot(self) -> Snapshot:
        """Everything said so far, to go back to when a run fails half-way."""
        own = {name: copy.copy(value) for name, value in vars(self).items() if name != "store"}
        return Snapshot(own, {name: copy.copy(value) for name, value in vars(self.store).items()})

    def restore(self, snapshot: Snapshot) -> None:
        """Forget everything said since ``snapshot``, which stays good for another time."""
        for owner, values in ((self, snapshot.own), (self.store, snapshot.store)):
            vars(owner).update({name: copy.copy(value) for name, value in values.items()})


@dataclass(frozen=True)
class Snapshot:
    """Shallow copies of what :class:`Findings` and its store held."""

    own: dict[str, Any]
    store: dict[str, Any]
