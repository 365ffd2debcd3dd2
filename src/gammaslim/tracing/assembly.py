"""From labels to records: numbers the channels and writes the frozen :class:`ChannelGraph`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor, nn

from gammaslim.arrays import FIXED, BoolArray, IntArray, Site, owner
from gammaslim.channels.flow import Flow
from gammaslim.channels.graph import ChannelGraph
from gammaslim.channels.input_selections import InputSelections
from gammaslim.channels.records import (
    Frozen,
    Group,
    SizeAttribute,
    scales_held,
)
from gammaslim.channels.sequences import Arrangement
from gammaslim.labels.equations import Terms, Variable
from gammaslim.labels.resolver import resolve
from gammaslim.network.layers import window_of
from gammaslim.network.modules import BATCH_NORM, every_path, first_paths
from gammaslim.recording.findings import Findings, Reason, TensorLabels
from gammaslim.recording.streams import couple_scaled, input_selections
from gammaslim.tracing.attributes import held_sizes
from gammaslim.tracing.module_sizes import module_attributes

UNREACHED = Reason("no forward pass reaches it")
IGNORED = Reason("ignored by the user")
INEXACT = Reason("some operator depends on how many of these channels there are")
STREAM = Reason("a BatchNorm that selects its inputs reads it")
LAST = Reason("removing it would leave nothing of a dimension")


@dataclass(frozen=True)
class Channels:
    """The resolved labels, with channels numbered from 0.

    ``table`` holds each label's channel id, and ``FIXED`` once more at its end, which is where a
    fixed index looks; ``reasons`` holds, per channel, the number of the reason for which it is
    frozen, or -1; ``texts`` are the reasons; ``variables`` the modules' own numbers that follow.
    """

    table: IntArray
    reasons: IntArray
    inexact: BoolArray
    texts: tuple[Reason, ...]
    variables: Mapping[Variable, Terms]
    arrangement: Arrangement
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
    labels = _with_every_scale(findings, labels, subject)
    _freeze_by_name(findings, labels, aliases, subject.ignored)
    couple_scaled(findings, labels)
    channels = _number(findings, labels, exact=subject.exact)
    sites = _sites(channels, labels)
    scales = tuple(name for name in findings.scales if (name, 0) in sites)
    selections = _selections(findings, channels, sites, scales)
    flow = _flow(findings, channels, sites, subject)
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
        groups=tuple(_groups(channels, sites, scales)),
        frozen=tuple(_frozen(channels, (sites[(name, 0)] for name in scales))),
        work=tuple(
            replace(w.mapped(channels.of), layer=flow.around(w.module)) for w in findings.work
        ),
        attributes=tuple(_attributes(findings, channels, model, sites)),
        witnesses=tuple(each.mapped(channels.where) for each in findings.witnesses),
        recounts=tuple(each.mapped(channels.where) for each in findings.recounts),
        arrangement=channels.arrangement,
        selections=selections,
        flow=flow,
        notes=subject.notes,
        traced_in_training=subject.traced_in_training,
        example_inputs=subject.example_inputs,
    )


def _with_every_scale(
    findings: Findings, labels: Mapping[str, TensorLabels], subject: Subject
) -> dict[str, TensorLabels]:
    """Labels in which every BatchNorm's scales have some, for coverage counts them all.

    Those count too that no run has met, and one that is alone in its tensor: a dimension of size 1
    carries no labels while the network runs, for nothing of it can be removed.
    """
    for module, path in first_paths(subject.model).items():
        name = f"{path}.weight" if path else "weight"
        if isinstance(module, BATCH_NORM) and (name := subject.aliases.get(name, name)) in labels:
            shift = f"{path}.bias" if path else "bias"
            shift = subject.aliases.get(shift, shift)
            findings.scales.setdefault(name, shift if shift in labels else None)
    alone = [name for name in findings.scales if subject.tensors[name].numel() == 1]
    return {**labels, **{n: TensorLabels((findings.store.fresh(1),)) for n in alone}}


def _balanced(channels: Channels, sites: Mapping[Site, IntArray]) -> Iterator[Site]:
    """The sites of channels of which equal shares must stay."""
    own = [balance.channels for balance in channels.arrangement.balances]
    balanced = np.concatenate(own) if own else np.empty(0, dtype=np.int64)
    return (site for site, ids in sites.items() if len(own) and np.isin(ids, balanced).any())


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
    bound |= {owner(name) for name, _ in _balanced(channels, sites)}
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
    """Number the classes that hold a slice of a named tensor which is more than a kernel's size."""
    for counted in findings.store.inexact if exact else ():
        findings.store.freeze(counted, findings.reason(INEXACT))
    dims = _labelled(labels)
    resolved = resolve(findings.store, dims, _seen(findings))
    last, _ = findings.reason(LAST), findings.reason(STREAM)
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
    texts = tuple(findings.reasons)
    channels = Channels(table, reasons, inexact, texts, resolved.variables, resolved.arrangement)
    arrangement = resolved.arrangement.mapped(channels.of)
    _keep_last(channels, dims, last)
    return replace(channels, arrangement=arrangement)


def _labelled(labels: Mapping[str, TensorLabels]) -> list[IntArray]:
    """The label arrays of all named tensors."""
    return [dim for own in labels.values() for dim in own.dims if dim is not None]


def _seen(findings: Findings) -> list[IntArray]:
    """Label arrays by which verification gathers what the kept channels hold."""
    several = [w.dims for w in findings.witnesses]
    for recount in findings.recounts:
        several += [*filter(None, recount.inputs), *recount.outputs]
    distinct = {id(dim): dim for dims in several for dim in dims if dim is not None}
    return list(distinct.values())


def _keep_last(channels: Channels, dims: Sequence[IntArray], last: int) -> None:
    """A channel that fills a whole dimension by itself can never go."""
    for dim in dims:
        ids = channels.of(dim)
        if ids[0] == ids[-1] >= 0 and channels.reasons[ids[0]] < 0 and (ids == ids[0]).all():
            channels.reasons[ids[0]] = last


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
    names, number = list(sites), len(channels.reasons)
    key = _group_keys(channels, sites)
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    members_of = _members(inverse, len(first))
    sites_of = _sites_of(names, sites, [int(f) for f in first], number)
    known = set(scales)
    for index in np.argsort(first, kind="stable"):
        ids = members_of[index]
        own = sites_of[int(first[index])]
        own_scales = tuple(name for name, dim in own if name in known and dim == 0)
        reason = int(channels.reasons[ids[0]])
        name = own_scales[0].rpartition(".")[0] if own_scales else own[0][0]
        yield Group(
            name or own_scales[0],
            ids,
            own,
            own_scales,
            reason < 0,
            not bool(channels.inexact[ids[0]]),
            "" if reason < 0 else channels.texts[reason].text,
        )


def _group_keys(channels: Channels, sites: Mapping[Site, IntArray]) -> IntArray:
    """Per channel a number that is equal for channels of one group.

    A set of sites is known by the sum of one random 64-bit number per site: two of a million sets
    are taken for one with a probability of 3e-8.
    """
    random = np.random.default_rng(0).integers(-(2**63), 2**63, size=len(sites) + 2, endpoint=False)
    key = channels.reasons * random[0] + channels.inexact * random[1]
    for ids, one in zip(sites.values(), random[2:], strict=True):
        key[ids[ids >= 0]] += one  # a repeated index is added once, as a set wants it
    return key


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
        for leader in set(ids[leading[ids]].tolist()):
            found[leader].append(site)
    return {leader: tuple(own) for leader, own in found.items()}


def _frozen(channels: Channels, weights: Iterable[IntArray]) -> list[Frozen]:
    """One record per reason, the costliest first; ``weights``: ids of all BatchNorms' elements."""
    held = scales_held(weights, len(channels.reasons))
    found: list[Frozen] = []
    for number in np.unique(channels.reasons[channels.reasons >= 0]):
        why = channels.texts[number]
        ids = np.flatnonzero(channels.reasons == number).astype(np.int64)
        found.append(Frozen(why.text, why.operator, why.module, why.source).holding(ids, held))
    return sorted(found, key=lambda one: (-one.scales, -one.channels))


def _attributes(
    findings: Findings, channels: Channels, model: nn.Module, sites: Mapping[Site, IntArray]
) -> Iterator[SizeAttribute]:
    """The numbers of PyTorch's modules, then those of the user's own that the code uses."""
    known: set[str] = set()
    for module, path in first_paths(model).items():
        for attribute in module_attributes(path, module, sites, findings, channels.of):
            known.add(attribute.name)
            yield attribute
    held = held_sizes(model, channels.variables, channels.of)
    yield from (attribute for attribute in held if attribute.name not in known)
