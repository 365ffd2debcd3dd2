"""From labels to records: numbers the channels and writes the frozen :class:`ChannelGraph`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from torch import nn

from gammaslim.findings import Dims, Findings, Reason, TensorLabels
from gammaslim.graph import (
    FIXED,
    BoolArray,
    ChannelGraph,
    Frozen,
    Group,
    IntArray,
    Recount,
    Site,
    SizeAttribute,
    Witness,
    Work,
)
from gammaslim.labels import Resolved
from gammaslim.module_sizes import module_attributes
from gammaslim.modules import tensor_shapes

UNREACHED = Reason("no forward pass reaches it")
IGNORED = Reason("ignored by the user")
INEXACT = Reason("some operator depends on how many of these channels there are")
LAST = Reason("removing it would leave nothing of a dimension")
KERNEL = "kernel or spatial dimension of a convolution"


@dataclass(frozen=True)
class Channels:
    """The resolved labels, with channels numbered from 0."""

    resolved: Resolved
    number: IntArray
    reasons: list[Reason | None]
    inexact: BoolArray

    def of(self, labels: IntArray) -> IntArray:
        """Channel id of every label, ``FIXED`` where an index is no channel."""
        classes = self.resolved.of(labels)
        if len(self.number) == 0:
            return classes
        return np.where(classes >= 0, self.number[np.maximum(classes, 0)], FIXED)

    def dims(self, dims: Dims) -> tuple[IntArray | None, ...]:
        """Channel ids per dimension; ``None`` where nothing may go."""
        ids = (None if labels is None else self.of(labels) for labels in dims)
        return tuple(None if i is None or (i < 0).all() else i for i in ids)


@dataclass(frozen=True)
class Subject:
    """What was traced, and what the user asked to keep."""

    model: nn.Module
    aliases: Mapping[str, str]
    ignored: set[Site]
    exact: bool
    notes: tuple[str, ...]
    example_inputs: Any


def assemble(
    findings: Findings, labels: Mapping[str, TensorLabels], subject: Subject
) -> ChannelGraph:
    """Resolve all labels and write the graph."""
    model, aliases = subject.model, subject.aliases
    _freeze_by_name(findings, labels, aliases, subject.ignored)
    channels = _number(findings, labels, exact=subject.exact)
    sites = _sites(channels, labels)
    scales = tuple(name for name in findings.scales if (name, 0) in sites)
    prunable = np.array([reason is None for reason in channels.reasons], dtype=np.bool_)
    return ChannelGraph(
        shapes=tensor_shapes(model),
        parameters=tuple(n for n, _ in model.named_parameters() if n not in aliases),
        aliases=dict(aliases),
        sites=sites,
        scales=scales,
        shifts={n: s for n, s in findings.scales.items() if s is not None and n in scales},
        prunable=prunable,
        exact=~channels.inexact,
        groups=tuple(_groups(channels, sites, scales)),
        frozen=tuple(_frozen(channels)),
        work=tuple(
            Work(w.operator, w.coefficient, tuple(channels.of(a) for a in w.axes))
            for w in findings.work
        ),
        attributes=_attributes(findings, channels, model, sites),
        witnesses=tuple(
            Witness(w.module, w.call, channels.dims(w.dims)) for w in findings.witnesses
        ),
        recounts=tuple(
            Recount(
                r.operator,
                r.call,
                tuple(None if d is None else channels.dims(d) for d in r.inputs),
                tuple(channels.dims(d) for d in r.outputs),
            )
            for r in findings.recounts
        ),
        notes=subject.notes,
        example_inputs=subject.example_inputs,
    )


def _freeze_by_name(
    findings: Findings,
    labels: Mapping[str, TensorLabels],
    aliases: Mapping[str, str],
    ignored: set[Site],
) -> None:
    for name, own in labels.items():
        if name not in findings.reached:
            for dim in own.dims:
                findings.store.freeze(dim, findings.reason(UNREACHED))
    for name, dim in ignored:
        dims = labels[aliases.get(name, name)].dims
        findings.store.freeze(dims[dim], findings.reason(IGNORED))


def _number(findings: Findings, labels: Mapping[str, TensorLabels], *, exact: bool) -> Channels:
    """Number the classes that hold a slice of a named tensor, leaving out kernel sizes."""
    resolved = findings.store.resolve()
    texts = list(findings.reasons)
    reasons = [texts[r] if r >= 0 else None for r in resolved.reasons]
    if exact:
        reasons = [
            r or (INEXACT if i else None) for r, i in zip(reasons, resolved.inexact, strict=True)
        ]
    real = np.array([r is None or r.text != KERNEL for r in reasons], dtype=np.bool_)
    named = np.zeros(len(reasons), dtype=np.bool_)
    for own in labels.values():
        for dim in own.dims:
            if dim is not None:
                named[resolved.of(dim)] = True
    chosen = named & real
    number = np.where(chosen, np.cumsum(chosen) - 1, FIXED)
    kept = [reason for reason, take in zip(reasons, chosen, strict=True) if take]
    channels = Channels(resolved, number, kept, resolved.inexact[chosen])
    _keep_last(channels, labels)
    return channels


def _keep_last(channels: Channels, labels: Mapping[str, TensorLabels]) -> None:
    """A channel that fills a whole dimension by itself can never go."""
    for own in labels.values():
        for dim in own.dims:
            if dim is not None and len(ids := np.unique(channels.of(dim))) == 1 and ids[0] >= 0:
                channels.reasons[ids[0]] = channels.reasons[ids[0]] or LAST


def _sites(channels: Channels, labels: Mapping[str, TensorLabels]) -> dict[Site, IntArray]:
    sites: dict[Site, IntArray] = {}
    for name, own in labels.items():
        for dim, label in enumerate(own.dims):
            if label is not None and ((ids := channels.of(label)) >= 0).any():
                sites[(name, dim)] = ids
    return sites


def _groups(
    channels: Channels, sites: Mapping[Site, IntArray], scales: tuple[str, ...]
) -> Iterator[Group]:
    """Channels with the same sites, the same reason and the same exactness, in order."""
    names = list(sites)
    number = len(channels.reasons)
    signature = np.zeros((number, 2), dtype=np.uint64)
    random = np.random.default_rng(0).integers(0, 2**63, size=(len(names), 2)).astype(np.uint64)
    for index, site in enumerate(names):
        members = np.unique(sites[site])
        signature[members[members >= 0]] += random[index]
    reasons = {reason: i for i, reason in enumerate(dict.fromkeys(channels.reasons))}
    key = (
        np.stack(
            [
                signature[:, 0],
                signature[:, 1],
                np.array([reasons[r] for r in channels.reasons], dtype=np.uint64),
                channels.inexact.astype(np.uint64),
            ],
            axis=1,
        )
        if number
        else np.zeros((0, 4), dtype=np.uint64)
    )
    _, first, inverse = np.unique(key, axis=0, return_index=True, return_inverse=True)
    members_of = _members(inverse.ravel(), len(first))
    sites_of = _sites_of(names, sites, [int(f) for f in first], number)
    for index in np.argsort(first, kind="stable"):
        ids = members_of[index]
        own = sites_of[int(first[index])]
        own_scales = tuple(name for name, dim in own if name in set(scales) and dim == 0)
        reason = channels.reasons[ids[0]]
        name = own_scales[0].rpartition(".")[0] if own_scales else own[0][0]
        yield Group(
            name or own_scales[0],
            ids,
            own,
            own_scales,
            reason is None,
            not bool(channels.inexact[ids[0]]),
            "" if reason is None else reason.text,
        )


def _members(inverse: IntArray, number: int) -> list[IntArray]:
    order = np.argsort(inverse, kind="stable")
    bounds = np.searchsorted(inverse[order], np.arange(number + 1))
    return [order[a:b].astype(np.int64) for a, b in pairwise(bounds)]


def _sites_of(
    names: list[Site], sites: Mapping[Site, IntArray], leaders: list[int], number: int
) -> dict[int, tuple[Site, ...]]:
    """The sites of one representative channel per group."""
    leading = np.zeros(number + 1, dtype=np.bool_)
    leading[leaders] = True
    found: dict[int, list[Site]] = {leader: [] for leader in leaders}
    for site in names:
        ids = sites[site]
        for leader in np.unique(ids[leading[ids]]):
            found[int(leader)].append(site)
    return {leader: tuple(own) for leader, own in found.items()}


def _frozen(channels: Channels) -> Iterator[Frozen]:
    """One record per reason, the costliest first."""
    counts: dict[Reason, int] = {}
    for reason in channels.reasons:
        if reason is not None:
            counts[reason] = counts.get(reason, 0) + 1
    for reason, count in sorted(counts.items(), key=lambda item: -item[1]):
        yield Frozen(reason.text, reason.operator, reason.module, reason.source, count)


def _attributes(
    findings: Findings,
    channels: Channels,
    model: nn.Module,
    sites: Mapping[Site, IntArray],
) -> tuple[SizeAttribute, ...]:
    return tuple(
        attribute
        for path, module in model.named_modules()
        for attribute in module_attributes(path, module, sites, findings, channels.of)
    )
