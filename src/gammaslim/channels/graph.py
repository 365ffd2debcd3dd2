"""The channel graph: frozen records of which tensor slices live and die together.

A *channel* is an integer id.  ``ChannelGraph.sites`` holds, for every tensor dimension that
carries channels, the channel id of each of its indices; everything else (groups, costs, plans,
masks) is arithmetic on those arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from gammaslim.arrays import BoolArray, IntArray, Site, kept_count, kept_mask
from gammaslim.channels.departures import Departures, departures, disposed, followed
from gammaslim.channels.flow import Flow
from gammaslim.channels.input_selections import InputSelections
from gammaslim.channels.records import Cost, Frozen, Group, Recount, SizeAttribute, Witness, Work
from gammaslim.channels.sequences import Arrangement, order_of, unsorted
from gammaslim.errors import PlanError

if TYPE_CHECKING:
    from gammaslim.channels.plan import Plan


@dataclass(frozen=True, eq=False, repr=False)
class ChannelGraph:
    """All channels of a network, and everything needed to score, select, cut and verify them.

    ``shapes`` are those of every parameter and buffer when the network was traced; ``aliases``
    maps a second name of a shared tensor to its first.  Per channel, ``prunable`` says whether it
    may go and ``exact`` whether no operator depends on how many such channels there are.
    ``arrangement`` says which layers must keep equal shares, and where a channel stands after that;
    ``selections`` which BatchNorms read some channels of a stream; ``flow`` what is made of what,
    and so which layers leave when a group loses all its channels.
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
        free = sum(int(self._free(ids).sum()) for ids in owners if ids is not None)
        return free / total if total else 0.0

    @cached_property
    def scored(self) -> BoolArray:
        """Per channel: whether it holds at least one scale."""
        mask = np.zeros(self.num_channels, dtype=np.bool_)
        for name in self.scales:
            ids = self.sites[(name, 0)]
            mask[ids[ids >= 0]] = True
        return mask

    def cost(self, plan: Plan | None = None) -> Cost:
        """Cost of the network, or of what ``plan`` leaves of it; closed form, nothing runs.

        MACs count convolutions and matrix products for the example batch as it was given to
        :func:`gammaslim.trace`, one multiply-accumulate as 1.
        """
        keep = np.ones(self.num_channels, dtype=np.bool_) if plan is None else self.keep_mask(plan)
        return self.cost_of(keep)

    def cost_of(self, keep: BoolArray) -> Cost:
        """Cost when exactly the channels in the boolean mask ``keep`` survive."""
        leaving = self.departures(keep)
        macs = sum(w.macs(leaving.shape) for w in self.work if w.layer not in leaving.remnants)
        params = 0
        for name in self.parameters:
            if name in leaving.tensors:
                continue
            size = 1
            for dim, length in enumerate(self.shapes[name]):
                ids = self.sites.get((name, dim))
                size *= length if ids is None else kept_count(ids, leaving.shape)
            params += size
        return Cost(macs, params)

    def keep_mask(self, plan: Plan) -> BoolArray:
        """The channels that survive ``plan``, as a boolean mask.

        Raises:
            PlanError: the plan names a site that is not here, has other sizes, removes a frozen
                channel, removes some slices of a channel and keeps others, or unbalances shares.
        """
        inner, held = disposed(self, plan.remnants)
        keep = held | ~inner
        for site, kept in plan.kept.items():
            ids = self._site_of_plan(site, plan.sizes[site])
            gone = np.ones(len(ids), dtype=np.bool_)
            gone[kept] = False
            if (ids[gone] < 0).any() or not self.prunable[ids[gone]].all():
                raise PlanError(
                    f"The plan removes indices of dimension {site[1]} of {site[0]!r} that are "
                    "frozen in this graph. Select a plan from this graph."
                )
            keep[ids[gone]] = False
        if inner.any():
            keep = np.where(inner, self.settled(keep), keep)
        self._check_whole(plan, keep)
        self.check_cut(keep)
        self._check_orders(plan, keep)
        self._check_inputs(plan, keep)
        if self.departures(keep).remnants != dict(plan.remnants):
            raise PlanError(
                "The plan lets other layers leave than those that serve nothing in this graph "
                "without the channels that go. Select a plan from this graph."
            )
        return keep

    def departures(self, keep: BoolArray) -> Departures:
        """The layers that leave, as wholes, when exactly the channels in ``keep`` stay."""
        return departures(self, keep)

    def settled(self, keep: BoolArray) -> BoolArray:
        """``keep`` without what then serves nothing: channels that nobody reads, or makes.

        Of every group of a stream that stays one channel, read or not.
        """
        keep = followed(self, keep)
        left = self.selections.settled(keep)
        for group in self.groups if left is not keep else ():
            if keep[group.channels].any() and not left[group.channels].any():
                left[group.channels[np.argmax(keep[group.channels])]] = True
        return left

    def survivors(self, keep: BoolArray) -> Callable[[IntArray], IntArray]:
        """A function from one dimension's channel ids to its surviving indices.

        They come in the order in which the cut network has them: sorted, unless shuffled.
        """
        sequences = self.arrangement.survivors(keep) if self.arrangement.steps else {}

        def indices(ids: IntArray) -> IntArray:
            kept = np.flatnonzero(kept_mask(ids, keep)).astype(np.int64)
            sequence = sequences.get(ids.tobytes()) if sequences else None
            return kept if sequence is None else kept[order_of(ids[kept], sequence)]

        return indices

    def kept_orders(self, keep: BoolArray) -> dict[Site, IntArray]:
        """For every site whose kept slices must stand in another order than sorted: which."""
        indices, orders = self.survivors(keep), dict[Site, IntArray]()
        for site, ids in self.sites.items() if self.arrangement.steps else ():
            if (order := unsorted(indices(ids))) is not None:
                orders[site] = order
        return orders

    def kept_inputs(self, keep: BoolArray) -> dict[str, IntArray]:
        """For every BatchNorm that has to read other indices of its input than so far: which."""
        found = self.selections.indices(self.survivors(keep)) if self.selections.each else {}
        leaving = self.departures(keep).remnants if found else {}
        return {module: places for module, places in found.items() if module not in leaving}

    def check_cut(self, keep: BoolArray) -> None:
        """Refuse what layers that share a shuffle, read a stream, or stay, cannot be cut to.

        Raises:
            PlanError: one of them would keep more of some channels, another fewer, than their
                parts need to stay equal; a BatchNorm would read a channel that goes; or a group
                would lose all its channels that cannot do without.
        """
        if stuck := self.departures(keep).stuck:
            raise PlanError(
                f"The group {stuck[0].name!r} would lose all its channels, but layers that stay "
                "need one of them, or nothing would depend on the input any more. Keep one."
            )
        for selection in self.selections.each:
            if not selection.allows(keep):
                raise PlanError(
                    f"{selection.module!r} would keep a channel that it reads from a channel of "
                    "its input that goes. Keep that one too, or remove both."
                )
        for balance in self.arrangement.balances:
            if not balance.allows(keep):
                channel = balance.channels[~keep[balance.channels]][0]
                raise PlanError(
                    "Layers whose outputs are shuffled and cut into equal parts must keep equal "
                    f"shares; these do not, first removed channel {channel}. Let select choose, "
                    "or follow graph.arrangement."
                )

    def kept_sites(self, keep: BoolArray) -> dict[Site, IntArray]:
        """Sorted kept indices of every site that shrinks when only ``keep`` survives."""
        kept, leaving = {}, self.departures(keep).tensors
        for site, ids in self.sites.items():
            if site[0] in leaving:
                continue
            mask = kept_mask(ids, keep)
            if not mask.all():
                kept[site] = np.flatnonzero(mask).astype(np.int64)
        return kept

    def __str__(self) -> str:
        """One table row per group."""
        from gammaslim.report.tables import graph_text

        return graph_text(self)

    def __repr__(self) -> str:
        """A one-line summary."""
        return (
            f"ChannelGraph(groups={len(self.groups)}, channels={self.num_channels}, "
            f"coverage={self.coverage:.3f})"
        )

    def _free(self, ids: IntArray) -> BoolArray:
        return (ids >= 0) & self.prunable[np.maximum(ids, 0)]

    def _site_of_plan(self, site: Site, size: int) -> IntArray:
        ids = self.sites.get(site)
        if ids is None:
            raise PlanError(
                f"The plan cuts dimension {site[1]} of {site[0]!r}, which this graph does not "
                "have. Was the plan made for another network?"
            )
        if len(ids) != size:
            raise PlanError(
                f"The plan was made where dimension {site[1]} of {site[0]!r} has {size} indices; "
                f"this graph has {len(ids)}. Was the plan made for another network?"
            )
        return ids

    def _check_inputs(self, plan: Plan, keep: BoolArray) -> None:
        expected = self.kept_inputs(keep)
        for module in sorted({*expected, *plan.inputs}):
            if not np.array_equal(expected.get(module, ()), plan.inputs.get(module, ())):
                raise PlanError(
                    f"The plan lets {module!r} read other indices of its input than this graph "
                    "asks for. Select a plan from this graph."
                )

    def _check_orders(self, plan: Plan, keep: BoolArray) -> None:
        expected = self.kept_orders(keep)
        for site in sorted({*expected, *plan.orders}):
            found = plan.orders.get(site)
            if found is None or not np.array_equal(expected.get(site, ()), found):
                raise PlanError(
                    f"The plan puts the kept slices of dimension {site[1]} of {site[0]!r} in "
                    "another order than the shuffles of this graph ask for. Select a plan from "
                    "this graph."
                )

    def _check_whole(self, plan: Plan, keep: BoolArray) -> None:
        expected = self.kept_sites(keep)
        for site in sorted({*expected, *plan.kept}):
            found = plan.kept.get(site)
            if found is None or site not in expected or not np.array_equal(expected[site], found):
                raise PlanError(
                    f"The plan keeps some slices of a channel and removes others, first seen at "
                    f"dimension {site[1]} of {site[0]!r}. Select a plan from this graph."
                )
