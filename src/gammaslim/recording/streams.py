"""Streams: which BatchNorm selects which channels of what it is given, and what reads the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from gammaslim.arrays import Dims, IntArray
from gammaslim.channels import InputSelection
from gammaslim.labels import LabelArray, or_fixed
from gammaslim.recording.findings import Findings

Number = Callable[[IntArray], IntArray]


class StreamNotes:
    """What one run notes of streams: who selects of which, and what is read elsewhere."""

    def __init__(self, findings: Findings, selecting: frozenset[str]) -> None:
        """``selecting``: the BatchNorms that may drop channels of their input."""
        self._findings, self.selecting = findings, selecting
        self._picked: tuple[IntArray, IntArray] | None = None
        self._selects = False

    def pick(self, stream: LabelArray, size: int, places: IntArray) -> LabelArray:
        """The running BatchNorm's own index takes ``places`` of a stream; the labels it gets."""
        self._picked = or_fixed(stream, size), places
        self._selects = True
        return None if stream is None else stream[places]

    def select(
        self, module: str, channels: LabelArray, reads: LabelArray, reason: Callable[[], int]
    ) -> bool:
        """A BatchNorm makes its channels ``reads`` of ``channels``.

        Returns:
            Whether it selects them: whether the two may go without each other.
        """
        picked, self._picked = self._picked, None
        free = module in self.selecting
        if reads is None or not (free or picked):
            return False
        stream, places = picked or (or_fixed(channels, len(reads)), np.arange(len(reads)))
        own = InputSelection(module, stream, reads, places)
        known = self._findings.selections.setdefault(module, own)
        if not np.array_equal(known.stream, stream):  # one index for several streams
            self._findings.store.unite(known.stream, stream, reason)
        self._selects = free
        return free

    def note(self, taken: Iterable[Dims], given: Iterable[Dims]) -> None:
        """The labels that an operator takes in and gives out; one that selects reads nothing."""
        selects, self._selects = self._selects, False
        if not selects:
            ways = ([d for dims in side for d in dims if d is not None] for side in (taken, given))
            self._findings.flows.append((next(ways), next(ways)))
