"""The picture: accuracy over kept MACs, one panel per network, one line per method."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.accuracy.grid import DENSE, METHODS, OURS, SHARES, UNCUT
from bench.accuracy.nets import NETWORKS
from bench.accuracy.results import Record

ROWS = {"final": "after fine-tuning", "after_cut": "right after the cut"}


def points(records: Sequence[Record], method: str, net: str, value: str) -> list[list[float]]:
    """``[kept MACs, accuracy]`` of one line: the mean over the seeds of every share."""
    mine = [r for r in records if r["method"] == method and r["net"] == net and value in r]
    shares = sorted({r["share"] for r in mine})
    return [
        [
            statistics.mean(r[name] for r in mine if r["share"] == share)
            for name in ("macs", value)
        ]
        for share in shares
    ]  # fmt: skip


def plot(records: Sequence[Record], file: Path) -> None:
    """Draw it; what was not run is not there."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    with mpl.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = plt.subplots(
            len(ROWS), len(NETWORKS), figsize=(11, 6.9), sharex=True, squeeze=False
        )
        for row, (value, title) in zip(axes, ROWS.items(), strict=True):
            for panel, net in zip(row, NETWORKS, strict=True):
                _panel(panel, records, net, value)
                panel.set_title(f"{net}, {title}", fontsize=10)
        for panel in axes[-1]:
            panel.set_xlabel("kept MACs")
        for row in axes:
            row[0].set_ylabel("test accuracy, %")
        seen: dict[str, Any] = {}
        for panel in axes.flat:
            handles, labels = panel.get_legend_handles_labels()
            seen |= dict(zip(labels, handles, strict=True))
        figure.tight_layout(rect=(0, 0.16, 1, 1))
        if seen:
            figure.legend(
                seen.values(), seen.keys(), loc="lower center", ncols=3, frameon=False, fontsize=9
            )
        figure.savefig(file, dpi=110, metadata={"Software": None})
        plt.close(figure)


def _panel(panel: Any, records: Sequence[Record], net: str, value: str) -> None:
    import matplotlib as mpl

    # Without the grey of the line for the whole network; none twice.
    colors = [color for n, color in enumerate(mpl.colormaps["tab10"].colors) if n != 7]
    colors.append("navy")
    for place, (method, label) in enumerate(METHODS.items()):
        found = points(records, method, net, value)
        if not found:
            continue
        if method == DENSE:
            panel.axhline(100 * found[0][1], color="0.6", linewidth=1, label=label)
            continue
        style = "-" if method in OURS else "--"
        style = {"narrow": ":", "scratch": "-."}.get(method, style)
        color = "black" if method in UNCUT else colors[place - 1]
        panel.plot(
            [x for x, _ in found], [100 * y for _, y in found], style, color=color, marker="o",
            markersize=3.5, linewidth=2.2 if method == "budget" else 1.3, label=label,
        )  # fmt: skip
    low = [100 * y for m in METHODS for _, y in points(records, m, net, value)]
    bottom = max(min(low, default=0) - 2, 0) if value == "final" else 0
    panel.set_ylim(bottom=bottom, top=None if value == "final" and low else 100)
    panel.set_xlim(0, 0.55)
    panel.set_xticks(sorted(SHARES))
