"""A channel graph as tables: one row per group, one per cause of frozen channels, and the sums."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from gammaslim.channels.couplings import short_source
from gammaslim.channels.records import Cost, Frozen
from gammaslim.channels.records import Group as ChannelGroup

TEXT_WIDTH = 120
_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def short_count(number: int) -> str:
    """A count for people: ``4_089_184_256`` becomes ``"4.09 G"``, ``999`` stays ``"999"``."""
    for size, unit in _UNITS:
        # 999,995 is "1.00 M", not "1000.00 k": move up where rounding would reach the next unit.
        if number >= size * (1 - 5e-6):
            return f"{number / size:.2f} {unit}"
    return str(number)


def groups_table(groups: Iterable[ChannelGroup]) -> Table:
    """One row per group: its name, width, sites, scales, and whether and how it may be cut.

    Where "exact" says no, some operator depends on how many of the group's channels there are (a
    mean, LayerNorm statistics); "why" says which, or what froze the group and ties it to that.
    """
    table = Table(title="Channel groups", title_justify="left", header_style="bold")
    table.add_column("group", overflow="fold")
    for heading in ("width", "sites", "scales"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("may go", no_wrap=True)
    table.add_column("exact", no_wrap=True)
    table.add_column("why", overflow="fold")
    for group in groups:
        # Text, for a plain string would be read as markup: names and reasons may hold brackets.
        texts = (
            group.name,
            str(group.width),
            str(len(group.sites)),
            str(len(group.scales)),
            "yes" if group.prunable else "no",
            "yes" if group.exact else "no",
            f"{group.reason}; tied to that {group.chain}" if group.chain else group.reason,
        )
        table.add_row(*map(Text, texts), style=None if group.prunable else "dim")
    return table


def frozen_table(frozen: Iterable[Frozen]) -> Table:
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
    for one in frozen:
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


def graph_report(
    groups: Iterable[ChannelGroup], frozen: Sequence[Frozen], cost: Cost, lines: Iterable[str]
) -> RenderableType:
    """The tables of a graph, what the network costs, and further ``lines``."""
    first, *notes = lines
    size = (
        f"{short_count(cost.macs)} MACs for the example batch, "
        f"{short_count(cost.params)} parameters"
    )
    tables = [groups_table(groups), *([frozen_table(frozen)] if frozen else [])]
    return Group(*tables, Text("\n".join([first, size, *notes])))


def plain_text(renderable: RenderableType) -> str:
    """What a console would show, as plain text without colour."""
    buffer = io.StringIO()
    console = Console(file=buffer, width=TEXT_WIDTH, color_system=None, legacy_windows=False)
    console.print(renderable)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())
