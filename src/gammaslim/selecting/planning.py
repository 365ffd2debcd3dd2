"""Selection: scores and a target in, the plan that meets it out."""

from __future__ import annotations

from typing import Literal

import numpy as np

from gammaslim.arrays import BoolArray, FloatArray
from gammaslim.channels import ChannelGraph, Cut, Plan
from gammaslim.errors import PlanError
from gammaslim.selecting.limits import Limits
from gammaslim.selecting.ranking import Scope, rank
from gammaslim.selecting.targets import TARGETS, one_target
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
    ranking = rank(graph, scores, scope, Limits(round_to, min_channels, max_remove))
    cut = TARGETS[name].meet(ranking, value)
    cut.check()
    return cut.plan


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
    cut = Cut(graph, keep)
    cut.check()
    return cut.plan
