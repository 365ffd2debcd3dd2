"""Streams that several BatchNorms read: which those are, and which of their channels may go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from gammaslim.arrays import BoolArray, IntArray
from gammaslim.channels import InputSelections, Reason
from gammaslim.labels import Classes
from gammaslim.recording import Findings, TensorLabels

Number = Callable[[IntArray], IntArray]


def stream_readers(findings: Findings) -> frozenset[str]:
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
    for module, one in findings.selections.items():
        why = partial(findings.reason, Reason("the stream that it reads holds a scale", "", module))
        sources = one.stream[one.places]
        known = sources >= 0
        known[known] = scaled[classes.find(sources[known])]
        findings.store.couple(sources[known], one.reads[known], why)


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
