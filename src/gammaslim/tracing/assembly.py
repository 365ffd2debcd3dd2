"""From labels to records: numbers the channels and writes the frozen :class:`ChannelGraph`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from gammaslim.arrays import IntArray, Site, owner
from gammaslim.channels import ChannelGraph, Flow, InputSelections, Reason
from gammaslim.network import BATCH_NORM, every_path, first_paths, window_of
from gammaslim.recording import Findings, TensorLabels
from gammaslim.tracing.grouping import groups
from gammaslim.tracing.module_sizes import held_sizes, module_attributes
from gammaslim.tracing.numbering import Channels, numbered
from gammaslim.tracing.shared_streams import couple_scaled, input_selections

UNREACHED = Reason("no forward pass reaches it")
IGNORED = Reason("ignored by the user")
STREAM = Reason("a BatchNorm that selects its inputs reads it")


@dataclass(frozen=True)
class Subject:
    """What was traced, and what the user asked to keep."""

    model: nn.Module
    tensors: Mapping[str, Tensor]
    aliases: Mapping[str, str]
    ignored: set[Site]
    exact: bool
    notes: tuple[str, ...]
    traced_in_training: bool
    example_inputs: Any


def assemble(
    findings: Findings, labels: Mapping[str, TensorLabels], subject: Subject
) -> ChannelGraph:
    """Resolve all labels and write the graph."""
    model, tensors, aliases = subject.model, subject.tensors, subject.aliases
    labels = _known_by_name(findings, labels, subject)
    couple_scaled(findings, labels)
    channels = numbered(findings, labels, exact=subject.exact)
    sites, of = channels.sites(labels), channels.of
    scales = tuple(name for name in findings.scales if (name, 0) in sites)
    selections = _selections(findings, channels, sites, scales)
    flow = _flow(findings, channels, sites, subject)
    reasons = tuple(findings.reasons)
    attributes = list(module_attributes(model, sites, findings, of))
    couplings = channels.coupled(labels, reasons)
    told = {attribute.name for attribute in attributes}
    held = held_sizes(model, channels.variables, of)
    return ChannelGraph(
        shapes={name: tuple(tensor.shape) for name, tensor in tensors.items()},
        parameters=tuple(
            n for n, p in tensors.items() if isinstance(p, nn.Parameter) and n not in aliases
        ),
        aliases=dict(aliases),
        sites=sites,
        scales=scales,
        shifts={n: s for n in scales if (s := findings.scales[n]) is not None},
        prunable=channels.reasons < 0,
        exact=~channels.inexact,
        groups=tuple(groups(channels, sites, scales, couplings, findings.store.frozen)),
        frozen=tuple(channels.frozen(reasons, (sites[(name, 0)] for name in scales))),
        work=tuple(replace(w.mapped(of), layer=flow.around(w.module)) for w in findings.work),
        attributes=(*attributes, *(each for each in held if each.name not in told)),
        witnesses=tuple(each.mapped(channels.where) for each in findings.witnesses),
        recounts=tuple(each.mapped(channels.where) for each in findings.recounts),
        arrangement=channels.arrangement,
        selections=selections,
        flow=flow,
        couplings=couplings,
        notes=subject.notes,
        traced_in_training=subject.traced_in_training,
        example_inputs=subject.example_inputs,
    )


# BatchNorm2d(1) behind a mask of one channel, and BatchNorm2d(7) in a head that the forward never
# calls: no operator tells of the eight scales that they hold.  They are counted all the same, each
# as a frozen channel: a share of what the operators tell would call such a network wholly prunable.
def _known_by_name(
    findings: Findings, labels: Mapping[str, TensorLabels], subject: Subject
) -> dict[str, TensorLabels]:
    """Note what names tell: all BatchNorms' scales, what no run reached, what the user ignores.

    Returns:
        The labels, also for scales alone in their tensor: a dimension of size 1 carries none while
        the network runs, for nothing of it can be removed.
    """
    first, store = subject.aliases, findings.store
    for module, path in first_paths(subject.model).items():
        names = (f"{path}.{own}" if path else own for own in ("weight", "bias"))
        scale, shift = (first.get(name, name) for name in names)
        if isinstance(module, BATCH_NORM) and scale in labels:
            findings.scales.setdefault(scale, shift if shift in labels else None)
    alone = [name for name in findings.scales if subject.tensors[name].numel() == 1]
    known = {**labels, **{name: TensorLabels((store.fresh(1),)) for name in alone}}
    for name in (name for name in known if name not in findings.reached):
        for dim in known[name].dims:
            store.freeze(dim, findings.reason(UNREACHED))
    for name, dim in subject.ignored:
        store.freeze(known[first.get(name, name)].dims[dim], findings.reason(IGNORED))
    return known


def _flow(
    findings: Findings, channels: Channels, sites: Mapping[Site, IntArray], subject: Subject
) -> Flow:
    """What is made of what.

    Layers that the user keeps, that share a tensor or that must keep equal shares do not leave.
    """
    if not findings.followed:
        return Flow()
    shared = [name for pair in subject.aliases.items() for name in pair]
    bound = {owner(name) for name in (*shared, *(name for name, _ in subject.ignored))}
    if balances := channels.arrangement.balances:
        balanced = np.concatenate([balance.channels for balance in balances])
        bound |= {owner(name) for (name, _), ids in sites.items() if np.isin(ids, balanced).any()}
    modules = {path: module for module, path in first_paths(subject.model).items()}
    once = Counter(map(id, (module for _, module in every_path(subject.model))))
    layers = {
        path: replace(layer.mapped(channels.of), window=window_of(modules[path]))
        for path, layer in findings.layers.items()
        if once[id(modules[path])] == 1 and path not in bound
    }
    distinct = {id(own): own for dims in findings.values for own in dims}
    ids = {key: channels.of(own) for key, own in distinct.items()}
    solid = {key: own for key, own in ids.items() if len(own) and own.min() >= 0}
    flow = Flow(
        values=tuple(
            tuple(solid[id(own)] for own in dims if id(own) in solid) for dims in findings.values
        ),
        sinks=frozenset(findings.sinks),
        layers=layers,
    )
    around = {module: flow.around(module) for module in {call.module for call in findings.calls}}
    calls = tuple(call._replace(layer=around[call.module]) for call in findings.calls)
    return replace(flow, calls=calls)


def _selections(
    findings: Findings, channels: Channels, sites: Mapping[Site, IntArray], scales: tuple[str, ...]
) -> InputSelections:
    """Which BatchNorms read what; of two that read one channel, neither may take it away."""
    if not findings.selections:
        return InputSelections()
    scored = np.zeros(len(channels.reasons), dtype=np.bool_)
    for name in scales:
        ids = sites[(name, 0)]
        scored[ids[ids >= 0]] = True
    selections = input_selections(findings, channels.of, scored)
    for one in selections.each:
        sources = one.sources[one.sources != one.reads]
        stuck = sources[(sources >= 0) & scored[sources]]
        channels.reasons[stuck[channels.reasons[stuck] < 0]] = findings.reason(STREAM)
    may = selections.idle[
        (channels.reasons[selections.idle] < 0) & ~channels.inexact[selections.idle]
    ]
    return replace(selections, idle=may)
