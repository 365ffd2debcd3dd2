"""A channel graph as tables: one row per group, one per cause of frozen channels, and the sums."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from gammaslim.channels.graph import ChannelGraph
from gammaslim.channels.records import Frozen
from gammaslim.channels.records import Group as ChannelGroup
from gammaslim.selecting.sweeping import Sweep

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


def frozen_table(graph: ChannelGraph) -> Table:
    """One row per cause, the costliest first: what stands in the way, and in which line.

    One line of code that several modules run is one row, with the first module and the number of
    others; ``graph.frozen`` holds each by itself.
    """
    table = Table(title="Frozen channels", title_justify="left", header_style="bold")
    table.add_column("scales", justify="right", no_wrap=True)
    table.add_column("channels", justify="right", no_wrap=True)
    table.add_column("why", overflow="fold", ratio=8)
    table.add_column("operator", overflow="fold", ratio=7)
    table.add_column("module", overflow="fold", ratio=8)
    table.add_column("line", overflow="fold", ratio=10)
    causes: dict[tuple[str, ...], list[Frozen]] = {}
    for one in graph.frozen:
        causes.setdefault((one.reason, one.operator, one.source), []).append(one)
    for members in sorted(causes.values(), key=_cost, reverse=True):
        first = max(members, key=lambda one: _cost([one]))
        module = first.module + (f" and {len(members) - 1} more" if len(members) > 1 else "")
        texts = (
            *map(str, _cost(members)),
            first.reason,
            first.operator,
            module,
            short_source(first.source),
        )
        table.add_row(*map(Text, texts))
    return table


def _cost(members: list[Frozen]) -> tuple[int, int]:
    """Scales and channels that these reasons cost together."""
    return sum(one.scales for one in members), sum(one.channels for one in members)


def short_source(source: str) -> str:
    """``file:line`` as Python's search path or the working directory sees it."""
    roots = [place for place in (*sys.path, str(Path.cwd())) if place]
    return min((_below(root, source) for root in roots), key=len, default=source)


def _below(root: str, source: str) -> str:
    prefix = root.rstrip(os.sep) + os.sep
    return source.removeprefix(prefix)


def graph_footer(graph: ChannelGraph) -> Text:
    """What the groups add up to: channels, coverage and cost; and what the trace has to say."""
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
    return Text("\n".join([channels, size, *graph.notes]))


def graph_report(graph: ChannelGraph) -> RenderableType:
    """The tables and the footer, ready for a rich console."""
    frozen = [frozen_table(graph)] if graph.frozen else []
    return Group(graph_table(graph), *frozen, graph_footer(graph))


def graph_text(graph: ChannelGraph) -> str:
    """The tables and the footer as plain text, without colour."""
    return _plain(graph_report(graph))


def sweep_table(sweep: Sweep) -> Table:
    """One row per target: what is left of the cost, and of the group that is left with least."""
    title = f"What each {sweep.by} would leave"
    table = Table(title=title, title_justify="left", header_style="bold")
    for heading in (sweep.by, "MACs", "left", "parameters", "left"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("thinnest group", overflow="fold")
    table.add_column("width", justify="right", no_wrap=True)
    table.add_column("at floor", justify="right", no_wrap=True)
    for row in sweep.rows:
        texts = (
            f"{row.target:g}",
            short_count(row.cost.macs),
            f"{row.cost.macs / max(sweep.full.macs, 1):.1%}",
            short_count(row.cost.params),
            f"{row.cost.params / max(sweep.full.params, 1):.1%}",
            row.thinnest,
            f"{row.left} of {row.width}",
            str(row.at_floor),
        )
        table.add_row(*map(Text, texts))
    return table


def sweep_text(sweep: Sweep) -> str:
    """The table as plain text, and below which threshold no group dies."""
    safe = f"No group loses all its channels up to a threshold of {sweep.safe_threshold:.4g}; "
    lines = [safe + f"{sweep.first_to_die} would be the first."]
    if sweep.unreachable:
        beyond = ", ".join(f"{target:g}" for target in sweep.unreachable)
        lines.append(f"Out of reach of the limits: {beyond}.")
    return _plain(Group(sweep_table(sweep), Text("\n".join(lines))))


def _plain(renderable: RenderableType) -> str:
    buffer = io.StringIO()
    console = Console(file=buffer, width=TEXT_WIDTH, color_system=None, legacy_windows=False)
    console.print(renderable)
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
