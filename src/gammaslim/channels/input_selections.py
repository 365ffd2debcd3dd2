"""Input selections: BatchNorms that read some channels of a stream which others read as well.

In a pre-activation or densely connected network many BatchNorms read the same stream.  With an
index in front of each, every one of them drops the channels that it does not need, and the stream
stays.  Source: the channel selection layer of Liu et al., ICCV 2017, arXiv 1708.06519, section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from gammaslim.arrays import BoolArray, IntArray, kept_mask
from gammaslim.channels.renumbering import Renumbering

Survivors = Callable[[IntArray], IntArray]


@dataclass(frozen=True, eq=False)
class InputSelection:
    """One BatchNorm: its channel ``reads[i]`` is made of index ``places[i]`` of what it is given.

    ``stream`` holds the channel id of every index of that, and ``module`` is the BatchNorm's path.
    """

    module: str
    stream: IntArray
    reads: IntArray
    places: IntArray

    def left(self, survivors: Survivors) -> InputSelection:
        """The same after a cut, in the old ids: who reads which of what is left of the stream."""
        stream, reads = survivors(self.stream), survivors(self.reads)
        moved = np.full(len(self.stream), -1, dtype=np.int64)
        moved[stream] = np.arange(len(stream))
        places = moved[self.places[reads]]
        return InputSelection(self.module, self.stream[stream], self.reads[reads], places)

    def mapped(self, number: Callable[[IntArray], IntArray]) -> InputSelection:
        """The same with its channels passed through ``number``."""
        return replace(self, stream=number(self.stream), reads=number(self.reads))

    @property
    def takes_all(self) -> bool:
        """Whether everything is read, in its order: no index is needed."""
        return np.array_equal(self.places, np.arange(len(self.stream)))

    @property
    def sources(self) -> IntArray:
        """Per channel that is read, the channel of the stream."""
        return self.stream[self.places]

    def allows(self, keep: BoolArray) -> bool:
        """Whether all that is still read is still there."""
        return bool(kept_mask(self.sources, keep)[kept_mask(self.reads, keep)].all())


@dataclass(frozen=True, eq=False)
class InputSelections:
    """All input selections of a network, one for each BatchNorm that has or may get an index.

    ``idle``: channels of streams that nothing else reads, and that no scale judges: they go as
    soon as no selection reads them any more.
    """

    each: tuple[InputSelection, ...] = ()
    idle: IntArray = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def after(self, now: Renumbering) -> InputSelections:
        """The selections of a cut network, without those of BatchNorms that have left."""
        stays = replace(self, each=tuple(s for s in self.each if s.module not in now.gone))
        return stays.left(now.survivors).mapped(now.renumbered)

    def indices(self, survivors: Survivors) -> dict[str, IntArray]:
        """For every BatchNorm whose index a cut changes: the indices it then reads."""
        found: dict[str, IntArray] = {}
        for before, after in zip(self.each, self.left(survivors).each, strict=True):
            needless = before.takes_all and after.takes_all
            if not needless and not np.array_equal(before.places, after.places):
                found[before.module] = after.places
        return found

    def left(self, survivors: Survivors) -> InputSelections:
        """The selections of the cut network, in the old ids."""
        each = tuple(one.left(survivors) for one in self.each)
        return InputSelections(each, self.idle[survivors(self.idle)])

    def mapped(self, number: Callable[[IntArray], IntArray]) -> InputSelections:
        """The same with every array of channels passed through ``number``."""
        return InputSelections(tuple(one.mapped(number) for one in self.each), number(self.idle))


@dataclass(frozen=True, eq=False)
class SelectedStreams:
    """The constraint that what is read is there, and what nobody reads is not.

    ``groups``: the channels of each group of the network.
    """

    selections: InputSelections
    groups: tuple[IntArray, ...]

    def objection(self, keep: BoolArray) -> str:
        """Which BatchNorm would read what is not there any more."""
        for one in self.selections.each:
            if not one.allows(keep):
                return (
                    f"{one.module!r} would keep a channel that it reads from a channel of "
                    "its input that goes. Keep that one too, or remove both."
                )
        return ""

    # Two BatchNorms read a stream of four channels, each by its own index: one drops 0 and 1, the
    # other 1 and 2.  Channel 1 is read by nobody then and goes; the others stay for one reader or
    # for both.  If they drop all four, channel 0 stays: no tensor can be without channels.
    def settled(self, keep: BoolArray) -> BoolArray:
        """``keep`` without the idle channels of which no reader is left.

        Of every group of a stream that stays one channel, read or not.
        """
        idle = self.selections.idle
        if not len(idle):
            return keep
        read = np.zeros(len(keep), dtype=np.bool_)
        for one in self.selections.each:
            sources = one.sources[kept_mask(one.reads, keep)]
            read[sources[sources >= 0]] = True
        left = keep.copy()
        left[idle[~read[idle]]] = False
        for ids in self.groups:
            if keep[ids].any() and not left[ids].any():
                left[ids[np.argmax(keep[ids])]] = True
        return left
