"""A channel graph as a table: one row per group, then what it adds up to."""

from __future__ import annotations

import io

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from gammaslim.graph import ChannelGraph
from gammaslim.graph import Group as ChannelGroup

TEXT_WIDTH = 120
_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def short_count(number: int) -> str:
    """A count for people: ``4_089_184_256`` becomes ``"4.09 G"``, ``999`` stays ``"999"``."""
    for size, unit in _UNITS:
        # 999,995 is "1.00 M", not "1000.00 k": move up where rounding would reach the next unit.
        if number >= size * (1 - 5e-6):
            return f"{number / size:.2f} {unit}"
    return str(number)


def graph_table(graph: ChannelGraph) -> Table:
    """One row per group: its name, width, sites, scales, and whether and how it may be cut.

    Where "exact" says no, some operator depends on how many of the group's channels there are (a
    mean, LayerNorm statistics); "why" says which, or what froze the group.
    """
    table = Table(title="Channel groups", title_justify="left", header_style="bold")
    table.add_column("group", overflow="fold")
    for heading in ("width", "sites", "scales"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("may go", no_wrap=True)
    table.add_column("exact", no_wrap=True)
    table.add_column("why", overflow="fold")
    for group in graph.groups:
        # Text, for a plain string would be read as markup: names and reasons may hold brackets.
        table.add_row(*map(Text, _row(group)), style=None if group.prunable else "dim")
    return table


def graph_footer(graph: ChannelGraph) -> Text:
    """What the groups add up to: channels, coverage, cost, and what is frozen for which reason."""
    cost = graph.cost()
    free = int(graph.prunable.sum())
    channels = (
        f"{graph.num_channels} channels in {len(graph.groups)} groups, {free} of them may go; "
        f"coverage {graph.coverage:.1%} of the BatchNorm scales"
    )
    size = (
        f"{short_count(cost.macs)} MACs for the example batch, "
        f"{short_count(cost.params)} parameters"
    )
    return Text("\n".join([channels, size, *_frozen_lines(graph), *graph.notes]))


def graph_report(graph: ChannelGraph) -> RenderableType:
    """The table and its footer, ready for a rich console."""
    return Group(graph_table(graph), graph_footer(graph))


def graph_text(graph: ChannelGraph) -> str:
    """The table and its footer as plain text, without colour."""
    buffer = io.StringIO()
    console = Console(file=buffer, width=TEXT_WIDTH, color_system=None, legacy_windows=False)
    console.print(graph_report(graph))
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


def _row(group: ChannelGroup) -> tuple[str, ...]:
    return (
        group.name,
        str(group.width),
        str(len(group.sites)),
        str(len(group.scales)),
        "yes" if group.prunable else "no",
        "yes" if group.exact else "no",
        group.reason,
    )


def _frozen_lines(graph: ChannelGraph) -> list[str]:
    if not graph.frozen:
        return []
    worst_first = sorted(graph.frozen, key=lambda frozen: -frozen.channels)
    return [
        "frozen:",
        *(f"  {frozen.channels:>6} channels: {frozen}" for frozen in worst_first),
    ]
