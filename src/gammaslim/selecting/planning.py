"""Selection: scores and a target in, the plan that meets it out."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from gammaslim.arrays import BoolArray, FloatArray
from gammaslim.channels.departures import disposed
from gammaslim.channels.graph import ChannelGraph
from gammaslim.channels.plan import AttributeValue, Plan
from gammaslim.errors import PlanError, TargetError
from gammaslim.selecting.limits import Limits
from gammaslim.selecting.ranking import Scope, rank
from gammaslim.selecting.targets import meet, one_target
from gammaslim.selecting.thresholds import gap_threshold


def select(  # noqa: PLR0913 -- the public surface: every option is keyword-only
    graph: ChannelGraph,
    scores: FloatArray,
    *,
    remove_channels: float | None = None,
    keep_macs: float | None = None,
    keep_params: float | None = None,
    threshold: float | Literal["gap"] | None = None,
    scope: Scope = "global",
    round_to: int = 1,
    min_channels: int = 1,
    max_remove: float = 1.0,
) -> Plan:
    """The plan that removes the lowest-scored channels until exactly one target is met.

    Args:
        graph: the network's channels.
        scores: one per channel, as from :func:`gammaslim.scores`; lowest go first.
        remove_channels: share 0..1 of the prunable channels that hold a scale, to remove.
        keep_macs: share 0..1 of ``graph.cost().macs`` that may remain.
        keep_params: share 0..1 of ``graph.cost().params`` that may remain.
        threshold: remove every channel whose score is at most this; ``"gap"`` finds the valley
            between the scores near zero and the rest (:func:`gammaslim.gap_threshold`).
        scope: ``"global"`` ranks raw scores over the whole network; ``"group"`` ranks each
            channel within its group, so that all groups lose about the same share.
        round_to: a group keeps its full width or a multiple of this, see below.
        min_channels: every group keeps at least this many channels.  0 lets whole residual branches
            go: where all channels of a group go without which nothing of the network's output is
            lost, the layers that served only them leave the network.
        max_remove: at most this share of a group's width may go.

    With ``round_to``, the channels between two such widths go together, as a block.  Blocks are
    ranked by their mean score, so that a group ends at the multiple above or below what the
    scores alone would give it, whichever loses less.  Blocks differ in what they save: those
    that a target can do without in the end come back, the highest-ranked first.  A threshold
    spares a block if any of its scores lies above.

    Layers that share a shuffle must keep equal shares.  They become narrower together, step by
    step: of every run (see :class:`gammaslim.channels.sequences.Balance`) the lowest-scored
    channels go.  A step is ranked by the mean of the scores of what it removes, and a threshold
    spares it if any of them lies above.  The limits then hold for each layer's width.

    Raises:
        TargetError: not exactly one target, a number out of range, no gap, or a target that
            floors, caps and frozen channels put out of reach; the text names the closest
            reachable value.
        ScoreError: the scores do not belong to this graph, or are NaN where a choice is due.
        NothingToPruneError: no prunable channel holds a scale.
    """
    if threshold == "gap":
        threshold = gap_threshold(graph, scores)
    name, value = one_target(
        {
            "remove_channels": remove_channels,
            "keep_macs": keep_macs,
            "keep_params": keep_params,
            "threshold": threshold,
        }
    )
    if scope not in get_args(Scope):
        raise TargetError(f"scope={scope!r} was asked; known are 'global' and 'group'.")
    limits = Limits(round_to, min_channels, max_remove)
    ranking = rank(graph, scores, scope, limits)
    return make_plan(graph, meet(graph, ranking, name, value))


def make_plan(graph: ChannelGraph, keep: BoolArray) -> Plan:
    """The plan that leaves exactly the channels in the boolean mask ``keep``.

    Raises:
        PlanError: the mask has another length, removes a frozen channel, or unbalances shares.
    """
    keep = np.asarray(keep, dtype=np.bool_)
    if keep.shape != (graph.num_channels,):
        raise PlanError(
            f"A plan was asked for a mask of shape {keep.shape}; this graph has "
            f"{graph.num_channels} channels. Pass one boolean per channel."
        )
    leaving = graph.departures(keep)
    inner, _ = disposed(graph, leaving.remnants)
    if (frozen := np.flatnonzero(~keep & ~graph.prunable & ~inner)).size:
        raise PlanError(
            f"The mask removes {len(frozen)} frozen channels, first channel {frozen[0]}. Keep "
            "those where graph.prunable is False; graph.frozen says why they are."
        )
    graph.check_cut(keep)
    kept = graph.kept_sites(keep)
    sizes = {site: len(graph.sites[site]) for site in kept}
    return Plan(
        kept,
        sizes,
        changed_attributes(graph, keep),
        graph.kept_orders(keep),
        graph.kept_inputs(keep),
        leaving.remnants,
    )


def changed_attributes(graph: ChannelGraph, keep: BoolArray) -> dict[str, AttributeValue]:
    """New values of the numbers that follow a size; all places of one tuple are in the graph."""
    leaving = graph.departures(keep)
    before = _attribute_values(graph, np.ones(graph.num_channels, dtype=np.bool_))
    after = _attribute_values(graph, leaving.shape)
    return {
        name: value
        for name, value in after.items()
        if value != before[name] and not leaving.owns(name)
    }


def _attribute_values(graph: ChannelGraph, keep: BoolArray) -> dict[str, AttributeValue]:
    plain: dict[str, AttributeValue] = {}
    places: dict[str, dict[int, int]] = {}
    for attribute in graph.attributes:
        if attribute.position is None:
            plain[attribute.name] = attribute.value(keep)
        else:
            places.setdefault(attribute.name, {})[attribute.position] = attribute.value(keep)
    tuples = {
        name: tuple(values[place] for place in sorted(values)) for name, values in places.items()
    }
    return {**plain, **tuples}
