"""Streams: which BatchNorms read channels that others read as well, and what becomes of those."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from gammaslim.arrays import BoolArray, Dims, IntArray
from gammaslim.channels.input_selections import InputSelection, InputSelections
from gammaslim.labels.store import LabelArray, or_fixed
from gammaslim.labels.union import Classes
from gammaslim.recording.findings import Findings, TensorLabels

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

    def select(self, module: str, channels: LabelArray, reads: LabelArray) -> bool:
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
            self._findings.store.unite(known.stream, stream)
        self._selects = free
        return free

    def note(self, taken: Iterable[Dims], given: Iterable[Dims]) -> None:
        """The labels that an operator takes in and gives out; one that selects reads nothing."""
        selects, self._selects = self._selects, False
        if not selects:
            ways = ([d for dims in side for d in dims if d is not None] for side in (taken, given))
            self._findings.flows.append((next(ways), next(ways)))


def shared_streams(findings: Findings) -> frozenset[str]:
    """The BatchNorms that read a stream: what they are given is read elsewhere too, or is fixed.

    ``findings`` are those of a run in which every BatchNorm was taken to select its inputs.
    """
    classes = Classes(findings.store)

    def found(labels: IntArray) -> IntArray:
        return classes.find(labels[labels >= 0])

    readers = _read_elsewhere(findings, found, classes.count).astype(np.int64)
    readers[classes.reasons >= 0] += 1
    for one in findings.selections.values():
        readers[np.unique(found(one.stream))] += 1
    return frozenset(
        name
        for name, one in findings.selections.items()
        if (one.stream < 0).any() or (readers[found(one.stream)] > 1).any()
    )


def couple_scaled(findings: Findings, labels: Mapping[str, TensorLabels]) -> None:
    """Where a stream's channel holds a scale itself, whoever reads it goes with it, as ever.

    ``labels``: of every named tensor.
    """
    if not findings.selections:
        return
    weights = [labels[name].dims[0] for name in findings.scales]
    classes = Classes(findings.store)
    scaled = np.zeros(classes.count, dtype=np.bool_)
    for own in weights:
        if own is not None:
            scaled[classes.find(own)] = True
    for one in findings.selections.values():
        sources = one.stream[one.places]
        known = sources >= 0
        known[known] = scaled[classes.find(sources[known])]
        findings.store.couple(sources[known], one.reads[known])


def input_selections(findings: Findings, of: Number, scored: BoolArray) -> InputSelections:
    """The record of all selections; ``of`` gives labels their channels."""
    each = tuple(one.mapped(of) for one in findings.selections.values())
    if not each:
        return InputSelections()

    def found(labels: IntArray) -> IntArray:
        ids = of(labels)
        return ids[ids >= 0]

    idle = ~_read_elsewhere(findings, found, len(scored)) & ~scored
    streams = np.unique(np.concatenate([one.stream[one.stream >= 0] for one in each]))
    return InputSelections(each, streams[idle[streams]])


def _read_elsewhere(findings: Findings, number: Number, count: int) -> BoolArray:
    """Per number: whether some operator takes it in and does not give it out again."""
    read = np.zeros(count, dtype=np.bool_)
    for taken, given in findings.flows:
        passed = np.zeros(count, dtype=np.bool_)
        for labels in given:
            passed[number(labels)] = True
        for labels in taken:
            own = number(labels)
            read[own[~passed[own]]] = True
    return read
