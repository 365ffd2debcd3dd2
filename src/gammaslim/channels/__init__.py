"""The records: what a channel is, and what a set of kept ones implies; numpy only."""

from gammaslim.channels.costs import CostKind, channel_costs
from gammaslim.channels.couplings import Couplings, Link, Reason, Slice, Tie, through
from gammaslim.channels.flow import WORLD, Call, Flow, Layer, Remnant, keeps_sizes
from gammaslim.channels.graph import ChannelGraph, Cut, cut_by
from gammaslim.channels.input_selections import InputSelection, InputSelections
from gammaslim.channels.plan import Plan
from gammaslim.channels.records import (
    Cost,
    Frozen,
    Group,
    Recount,
    SizeAttribute,
    Witness,
    Work,
    scales_held,
)
from gammaslim.channels.remaining_graph import narrowed
from gammaslim.channels.sequences import (
    Arrangement,
    Balance,
    Join,
    Operation,
    Part,
    Repeat,
    Shuffle,
    Step,
    run,
)
from gammaslim.channels.tables import TEXT_WIDTH, plain_text, short_count

__all__ = [
    "TEXT_WIDTH",
    "WORLD",
    "Arrangement",
    "Balance",
    "Call",
    "ChannelGraph",
    "Cost",
    "CostKind",
    "Couplings",
    "Cut",
    "Flow",
    "Frozen",
    "Group",
    "InputSelection",
    "InputSelections",
    "Join",
    "Layer",
    "Link",
    "Operation",
    "Part",
    "Plan",
    "Reason",
    "Recount",
    "Remnant",
    "Repeat",
    "Shuffle",
    "SizeAttribute",
    "Slice",
    "Step",
    "Tie",
    "Witness",
    "Work",
    "channel_costs",
    "cut_by",
    "keeps_sizes",
    "narrowed",
    "plain_text",
    "run",
    "scales_held",
    "short_count",
    "through",
]
