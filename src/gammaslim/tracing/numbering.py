"""Channels are numbered: what all labels come to, and which channels may not go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np

from gammaslim.arrays import FIXED, BoolArray, IntArray, Site
from gammaslim.channels import Arrangement, Couplings, Frozen, Link, Reason, scales_held, through
from gammaslim.labels import Terms, Variable, resolve
from gammaslim.recording import Findings, TensorLabels

INEXACT = Reason("some operator depends on how many of these channels there are")
LAST = Reason("removing it would leave nothing of a dimension")


@dataclass(frozen=True)
class Channels:
    """The resolved labels, with channels numbered from 0.

    ``table`` holds each label's channel id, and ``FIXED`` once more at its end, which is where a
    fixed index looks; ``reasons`` holds, per channel, the number of the reason for which it is
    frozen, or -1; ``variables`` the modules' own numbers that follow; ``couplings`` what united
    labels.
    """

    table: IntArray
    reasons: IntArray
    inexact: BoolArray
    variables: Mapping[Variable, Terms]
    arrangement: Arrangement
    couplings: IntArray
    known: dict[int, tuple[IntArray, IntArray]] = field(default_factory=dict[int, Any])

    def of(self, labels: IntArray) -> IntArray:
        """Channel id of every label, ``FIXED`` where an index is no channel.

        One array for equal questions, which are many: layers pass labels on as they are.
        """
        found = self.known.get(id(labels))
        if found is None:
            found = self.known[id(labels)] = labels, self.table[np.maximum(labels, -1)]
        return found[1]

    def where(self, labels: IntArray) -> IntArray | None:
        """Channel ids of a dimension; ``None`` where none of its indices is a channel."""
        ids = self.of(labels)
        return None if (ids < 0).all() else ids

    def sites(self, labels: Mapping[str, TensorLabels]) -> dict[Site, IntArray]:
        """The dimensions of named tensors in which channels lie."""
        found: dict[Site, IntArray] = {}
        for name, own in labels.items():
            for dim, label in enumerate(own.dims):
                if label is not None and (ids := self.where(label)) is not None:
                    found[(name, dim)] = ids
        return found

    def coupled(self, labels: Mapping[str, TensorLabels], reasons: tuple[Reason, ...]) -> Couplings:
        """What united the labels, and which of them named tensors have."""
        spans = {
            (name, dim): range(
                start := int(label[0]), start + len(label)
            )  # fresh: they count on by one
            for name, own in labels.items()
            for dim, label in enumerate(own.dims)
            if label is not None
        }
        return Couplings(self.couplings, spans, reasons)

    def chains(
        self, couplings: Couplings, frozen: Sequence[tuple[IntArray, int]]
    ) -> Callable[[Sequence[tuple[Site, int]]], str]:
        """What ties the slices of a frozen channel to what was frozen for the channel's reason.

        ``frozen``: labels that were frozen themselves, and for which reason.
        """
        stays = np.append(self.reasons, -1)  # the last is asked by what is no channel
        labels = np.concatenate([np.empty(0, np.int64), *(own for own, _ in frozen)])
        numbers = np.repeat([number for _, number in frozen], [len(own) for own, _ in frozen])
        sources = labels[stays[self.table[labels]] == numbers]

        @cache
        def ways() -> Callable[[int], Sequence[Link]]:
            starts, _, lengths, _ = self.couplings.T
            count = np.cumsum(np.append(0, stays[self.table] >= 0))
            return couplings.ways(sources, count[starts + lengths] > count[starts])

        def chain(slices: Sequence[tuple[Site, int]]) -> str:
            own = [couplings.label((*site, index)) for site, index in slices]
            return "" if np.isin(own, sources).any() else through(ways()(own[0]))

        return chain

    def frozen(self, reasons: Sequence[Reason], weights: Iterable[IntArray]) -> list[Frozen]:
        """One record per reason, the costliest first; ``weights``: ids of all BatchNorms' own."""
        held = scales_held(weights, len(self.reasons))
        found: list[Frozen] = []
        for number in np.unique(self.reasons[self.reasons >= 0]):
            ids, why = np.flatnonzero(self.reasons == number).astype(np.int64), reasons[number]
            one = Frozen(why.text, why.operator, why.module, why.source)
            found.append(one.holding(ids, held))
        return sorted(found, key=lambda one: (-one.scales, -one.channels))


# A convolution's weight [8, 3, 3, 3] has 17 labels.  Those of its kernel belong to no channel; its
# 8 rows are one class each with what a BatchNorm has of them, its 3 columns are network input.  So
# the classes of the 11 get numbers, those of what is only computed on the way, and of no tensor
# that has a name, do not.  But where a kernel's size meets channels, it is theirs: frozen.
def numbered(findings: Findings, labels: Mapping[str, TensorLabels], *, exact: bool) -> Channels:
    """Number the classes that hold a slice of a named tensor which is more than a kernel's size.

    A channel that fills a whole dimension by itself can never go.

    Args:
        findings: all that the runs have said.
        labels: of every named tensor.
        exact: freeze the channels that some operator counts.
    """
    for counted in findings.store.inexact if exact else ():
        findings.store.freeze(counted, findings.reason(INEXACT))
    dims = [dim for own in labels.values() for dim in own.dims if dim is not None]
    shown = [witness.dims for witness in findings.witnesses]  # and by verification put in order
    for recount in findings.recounts:
        shown += [*filter(None, recount.inputs), *recount.outputs]
    seen = {id(dim): dim for own in shown for dim in own if dim is not None}
    resolved = resolve(findings.store, dims, list(seen.values()))
    slices = np.zeros(findings.store.count, dtype=np.bool_)
    for own in dims:
        slices[own] = True
    for own in findings.kernels:
        slices[own[own >= 0]] = False
    chosen = np.zeros(len(resolved.reasons), dtype=np.bool_)
    chosen[resolved.classes[slices]] = True
    number = np.where(chosen, np.cumsum(chosen) - 1, FIXED)
    table = np.append(number[resolved.classes], FIXED)
    reasons, inexact = resolved.reasons[chosen], resolved.inexact[chosen]
    channels = Channels(
        table, reasons, inexact, resolved.variables, resolved.arrangement, resolved.couplings
    )
    last = findings.reason(LAST)
    for dim in dims:
        ids = channels.of(dim)
        if ids[0] == ids[-1] >= 0 and reasons[ids[0]] < 0 and (ids == ids[0]).all():
            reasons[ids[0]] = last
    return replace(channels, arrangement=resolved.arrangement.mapped(channels.of))
