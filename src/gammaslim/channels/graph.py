"""The channel graph: frozen records of which tensor slices live and die together; and a cut of it.

A *channel* is an integer id.  ``ChannelGraph.sites`` holds, for every tensor dimension that
carries channels, the channel id of each of its indices; everything else (groups, costs, plans,
masks) is arithmetic on those arrays.  A :class:`Cut` is a graph and the channels that stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from rich.console import RenderableType

from gammaslim.arrays import BoolArray, IntArray, Site, kept_count, kept_mask
from gammaslim.channels.couplings import Couplings, Slice, Tie, asked
from gammaslim.channels.dead_layers import DeadLayers, Departures
from gammaslim.channels.flow import Flow
from gammaslim.channels.input_selections import InputSelections, SelectedStreams
from gammaslim.channels.plan import AttributeValue, Kept, Plan
from gammaslim.channels.records import Cost, Frozen, Group, Recount, SizeAttribute, Witness, Work
from gammaslim.channels.renumbering import Renumbering
from gammaslim.channels.sequences import Arrangement, order_of
from gammaslim.channels.tables import graph_report, plain_text
from gammaslim.errors import PlanError


class Constraining(Protocol):
    """A record from which a constraint is made: it goes on with what a cut leaves."""

    def after(self, now: Renumbering) -> Constraining:
        """The record of the cut network."""
        ...


class Constraint(Protocol):
    """What cuts of a graph must heed, besides that frozen channels stay."""

    def objection(self, keep: BoolArray) -> str:
        """Why exactly the channels in ``keep`` cannot stay, and what to do; ``""`` if they can."""
        ...

    def settled(self, keep: BoolArray) -> BoolArray:
        """``keep`` without what then serves nothing, and with what then has to stay."""
        ...


@dataclass(frozen=True, eq=False, repr=False)
class ChannelGraph:
    """All channels of a network, and everything needed to score, select, cut and verify them.

    ``shapes`` are those of every parameter and buffer when the network was traced; ``aliases``
    maps a second name of a shared tensor to its first.  Per channel, ``prunable`` says whether it
    may go and ``exact`` whether no operator depends on how many such channels there are.
    ``arrangement`` says which layers must keep equal shares, and where a channel stands after that;
    ``selections`` which BatchNorms read some channels of a stream; ``flow`` what is made of what,
    and so which layers leave when a group loses all its channels; ``couplings`` what ties channels.
    ``traced_in_training``: training mode was traced by itself, because the network's own code asks
    for the mode and it could be run there.
    """

    shapes: Mapping[str, tuple[int, ...]]
    parameters: tuple[str, ...]
    aliases: Mapping[str, str]
    sites: Mapping[Site, IntArray]
    scales: tuple[str, ...]
    shifts: Mapping[str, str]
    prunable: BoolArray
    exact: BoolArray
    groups: tuple[Group, ...]
    frozen: tuple[Frozen, ...]
    work: tuple[Work, ...]
    attributes: tuple[SizeAttribute, ...]
    witnesses: tuple[Witness, ...] = ()
    recounts: tuple[Recount, ...] = ()
    arrangement: Arrangement = field(default_factory=Arrangement)
    selections: InputSelections = field(default_factory=InputSelections)
    flow: Flow = field(default_factory=Flow)
    couplings: Couplings = field(default_factory=Couplings, repr=False)
    notes: tuple[str, ...] = ()
    traced_in_training: bool = True
    example_inputs: Any = field(default=None, repr=False)

    @property
    def num_channels(self) -> int:
        """Number of channels, frozen ones included."""
        return len(self.prunable)

    @property
    def coverage(self) -> float:
        """Share of BatchNorm channels (scale elements) that may be pruned, 0 to 1."""
        owners = [self.sites.get((name, 0)) for name in self.scales]
        total = sum(self.shapes[name][0] for name in self.scales)
        may = np.append(self.prunable, [False])  # the last one stands for a fixed index
        free = sum(int(may[ids].sum()) for ids in owners if ids is not None)
        return free / total if total else 0.0

    @cached_property
    def scored(self) -> BoolArray:
        """Per channel: whether it holds at least one scale."""
        mask = np.zeros(self.num_channels, dtype=np.bool_)
        for name in self.scales:
            ids = self.sites[(name, 0)]
            mask[ids[ids >= 0]] = True
        return mask

    @cached_property
    def dead_layers(self) -> DeadLayers:
        """Which layers leave when groups lose all their channels."""
        tensors = frozenset(self.shapes)
        return DeadLayers(self.num_channels, self.flow, self.groups, self.sites, tensors)

    @property
    def constraining(self) -> dict[str, Constraining]:
        """The records that constraints are made from, by the names of their fields."""
        return {
            "flow": self.flow,
            "selections": self.selections,
            "arrangement": self.arrangement,
        }

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """What every cut must heed."""
        streams = SelectedStreams(self.selections, tuple(g.channels for g in self.groups))
        return self.dead_layers, streams, self.arrangement

    def cost(self, plan: Plan | None = None) -> Cost:
        """Cost of the network, or of what ``plan`` leaves of it; closed form, nothing runs.

        MACs count convolutions and matrix products for the example batch as it was given to
        :func:`gammaslim.trace`, one multiply-accumulate as 1.
        """
        everything = Cut(self, np.ones(self.num_channels, dtype=np.bool_))
        return (everything if plan is None else cut_by(self, plan)).cost

    def keep_mask(self, plan: Plan) -> BoolArray:
        """The channels that survive ``plan``, as a boolean mask.

        Raises:
            PlanError: the plan is not what this graph makes of any set of channels.
        """
        return cut_by(self, plan).keep

    def why(self, first: Site | Slice, second: Site | Slice) -> Tie:
        """The shortest chain of operators that ties two slices: one channel, or what makes it one.

        Args:
            first: a tensor's name, a dimension, and an index; without an index the whole dimension,
                of which the first slice is taken that is tied to one of ``second``.
            second: likewise.

        Raises:
            SiteError: there is no such slice, or nothing is known of it.
        """
        one, other = (asked(self.shapes, self.sites, self.aliases, own) for own in (first, second))
        return self.couplings.tie(one, other)

    def __rich__(self) -> RenderableType:
        """The tables of groups and of what is frozen, for a rich console."""
        free = int(self.prunable.sum())
        channels = (
            f"{self.num_channels} channels in {len(self.groups)} groups, {free} of them may go; "
            f"coverage {self.coverage:.1%} of the BatchNorm scales"
        )
        return graph_report(self.groups, self.frozen, self.cost(), (channels, *self.notes))

    def __str__(self) -> str:
        """One table row per group."""
        return plain_text(self)

    def __repr__(self) -> str:
        """A one-line summary."""
        return (
            f"ChannelGraph(groups={len(self.groups)}, channels={self.num_channels}, "
            f"coverage={self.coverage:.3f})"
        )


@dataclass(frozen=True, eq=False)
class Cut:
    """A graph and the channels that stay: all that follows from the two, each worked out once.

    Of eight channels of a stage of which ``keep`` has five, ``sites`` lists the indices that stay
    of every tensor dimension in which they occur, ``attributes`` the numbers of modules that become
    five, ``leaving`` the layers that go as wholes because nothing is left for them, and ``plan``
    is all this as the user's record.  Nothing is checked before :meth:`check`.
    """

    graph: ChannelGraph
    keep: BoolArray

    @cached_property
    def leaving(self) -> Departures:
        """The layers that leave, as wholes."""
        return self.graph.dead_layers.leaving(self.keep)

    @cached_property
    def settled(self) -> Cut:
        """The cut without what serves nothing any more: channels that nobody reads, or makes."""
        keep, _ = self.keep, self.leaving  # what leaves is known from here on
        for constraint in self.graph.constraints:
            keep = constraint.settled(keep)
        return self if keep is self.keep else Cut(self.graph, keep)

    @cached_property
    def _sequences(self) -> dict[bytes, IntArray]:
        arrangement = self.graph.arrangement
        return arrangement.survivors(self.keep) if arrangement.steps else {}

    def survivors(self, ids: IntArray) -> IntArray:
        """From one dimension's channel ids to its surviving indices.

        They come in the order in which the cut network has them: sorted, unless shuffled.
        """
        kept = np.flatnonzero(kept_mask(ids, self.keep)).astype(np.int64)
        sequence = self._sequences.get(ids.tobytes()) if self._sequences else None
        return kept if sequence is None else kept[order_of(ids[kept], sequence)]

    @cached_property
    def sites(self) -> Mapping[Site, Kept]:
        """What stays of every site that shrinks."""
        stays = {s: i for s, i in self.graph.sites.items() if s[0] not in self.leaving.tensors}
        kept = {site: Kept(self.survivors(ids), len(ids)) for site, ids in stays.items()}
        return {site: own for site, own in kept.items() if len(own.indices) < own.size}

    @cached_property
    def cost(self) -> Cost:
        """What the cut network costs."""
        graph, leaving = self.graph, self.leaving
        macs = sum(w.macs(leaving.shape) for w in graph.work if w.layer not in leaving.remnants)
        params = 0
        for name in filter(leaving.stays, graph.parameters):
            size = 1
            for dim, length in enumerate(graph.shapes[name]):
                ids = graph.sites.get((name, dim))
                size *= length if ids is None else kept_count(ids, leaving.shape)
            params += size
        return Cost(macs, params)

    @cached_property
    def attributes(self) -> dict[str, AttributeValue]:
        """The numbers of modules that follow a size and change, with all places of a tuple."""
        values: dict[str, dict[int | None, tuple[int, int]]] = {}
        everything = np.ones_like(self.keep)
        for one in self.graph.attributes:
            if self.leaving.stays(one.name):
                pair = one.value(everything), one.value(self.leaving.shape)
                values.setdefault(one.name, {})[one.position] = pair
        changed: dict[str, AttributeValue] = {}
        for name, places in values.items():
            if any(before != after for before, after in places.values()):
                after = tuple(places[at][1] for at in sorted(places, key=lambda at: at or 0))
                changed[name] = after[0] if None in places else after
        return dict(sorted(changed.items(), key=lambda entry: isinstance(entry[1], tuple)))

    @cached_property
    def inputs(self) -> dict[str, IntArray]:
        """For every BatchNorm that has to read other indices of its input than so far: which."""
        selections = self.graph.selections
        found = selections.indices(self.survivors) if selections.each else {}
        remnants = self.leaving.remnants if found else {}
        return {module: places for module, places in found.items() if module not in remnants}

    @cached_property
    def plan(self) -> Plan:
        """The record of this cut for users, files and surgery."""
        return Plan(self.sites, self.attributes, self.inputs, self.leaving.remnants)

    def check(self) -> None:
        """Refuse a cut that no network can be given.

        Raises:
            PlanError: it removes a frozen channel, or what a constraint objects to: it would keep
                more of some channels, another fewer, than their parts need to stay equal; a
                BatchNorm would read a channel that goes; or a group would lose all its channels
                that cannot do without.
        """
        graph = self.graph
        inner, _ = graph.dead_layers.disposed(self.leaving.remnants)
        if (frozen := np.flatnonzero(~self.keep & ~graph.prunable & ~inner)).size:
            raise PlanError(
                f"The mask removes {len(frozen)} frozen channels, first channel {frozen[0]}. Keep "
                "those where graph.prunable is False; graph.frozen says why they are."
            )
        for constraint in graph.constraints:
            if objection := constraint.objection(self.keep):
                raise PlanError(objection)


def cut_by(graph: ChannelGraph, plan: Plan) -> Cut:
    """The cut that a plan makes of a graph: what it removes, and what then serves nothing.

    Whether the plan fits is then one comparison, with the plan that the graph itself makes of it.

    Raises:
        PlanError: the plan names a site that is not here, has other sizes, removes a frozen
            channel, removes some slices of a channel and keeps others, or is not what this graph
            makes of the channels that it keeps in any other way.
    """
    inner, held = graph.dead_layers.disposed(plan.remnants)
    keep = held | ~inner
    for site, kept in plan.sites.items():
        ids = graph.sites.get(site)
        if ids is None:
            raise PlanError(
                f"The plan cuts dimension {site[1]} of {site[0]!r}, which this graph does not "
                "have. Was the plan made for another network?"
            )
        if len(ids) != kept.size:
            raise PlanError(
                f"The plan was made where dimension {site[1]} of {site[0]!r} has "
                f"{kept.size} indices; this graph has {len(ids)}. Was the plan made for "
                "another network?"
            )
        gone = np.delete(ids, kept.indices)
        if (gone < 0).any() or not graph.prunable[gone].all():
            raise PlanError(
                f"The plan removes indices of dimension {site[1]} of {site[0]!r} that are "
                "frozen in this graph. Select a plan from this graph."
            )
        keep[gone] = False
    if inner.any():
        keep = np.where(inner, Cut(graph, keep).settled.keep, keep)
    cut = Cut(graph, keep)
    cut.check()
    if difference := plan.difference(cut.plan):
        raise PlanError(
            f"The plan is not what this graph makes of the channels that it removes: {difference}. "
            "A channel goes from every tensor that it runs through, or from none. Select a plan "
            "from this graph."
        )
    return cut
