"""What half of the MACs takes of the time, by what is allowed to go: ``python -m bench.latency``.

The three networks of ``bench.accuracy``, untrained: only widths matter.  Each is cut three ways
to half of its MACs with widths that are multiples of 8, and timed beside the whole one, in turns,
in one process.  Writes the table of ``docs/latency.md``.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

import gammaslim as gs
from bench.accuracy import nets
from bench.accuracy.one import machine
from bench.pages import write_between
from gammaslim.channels.graph import cut_by
from gammaslim.latency import medians

PAGE = Path(__file__).resolve().parent.parent / "docs" / "latency.md"
KEEP, ROUND_TO, SIZE = 0.5, 8, 32
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}

Scores = NDArray[np.float64]
Way = Callable[[gs.ChannelGraph, Scores], gs.Plan]


def alike(graph: gs.ChannelGraph, latencies: Scores) -> gs.Plan:  # noqa: ARG001 -- one way of three
    """All groups lose about the same share of their width."""
    scores = np.random.default_rng(0).uniform(0.5, 1, graph.num_channels)
    return gs.select(graph, scores, keep_macs=KEEP, round_to=ROUND_TO, scope="group")


def slowest(graph: gs.ChannelGraph, latencies: Scores) -> gs.Plan:
    """Of equally good channels those go first that take the most time; a layer keeps a tenth."""
    scores = np.random.default_rng(0).uniform(0.5, 1, graph.num_channels) / known(latencies)
    return gs.select(graph, scores, keep_macs=KEEP, round_to=ROUND_TO, max_remove=0.9)


def blocks(graph: gs.ChannelGraph, latencies: Scores) -> gs.Plan:
    """Whole groups go, the slowest first, and with them the branches that they are in."""
    scores = 1 / known(latencies)
    for group in graph.groups:
        scores[group.channels] = scores[group.channels].mean()
    return gs.select(graph, scores, keep_macs=KEEP, round_to=ROUND_TO, min_channels=0)


WAYS: Mapping[str, Way] = {"alike": alike, "slowest first": slowest, "whole blocks": blocks}


def known(latencies: Scores) -> Scores:
    """The latencies, those that were too small to measure raised to the least that was not."""
    return np.maximum(latencies, latencies[latencies > 0].min())


def ratios(net: str, batch: int, layout: torch.memory_format, turns: int) -> list[tuple[str, str]]:
    """Per way, the share of the time that is left, with what went."""
    model = nets.build(net, seed=0).eval().to(memory_format=layout)
    graph = gs.trace(model, torch.randn(batch, 1, SIZE, SIZE).to(memory_format=layout))
    latencies = gs.channel_latencies(model, graph, progress=False)
    found: list[tuple[str, str]] = []
    for way in WAYS.values():
        plan = way(graph, latencies)
        before, after = medians(copy.deepcopy(model), cut_by(graph, plan), turns)
        macs = graph.cost(plan).macs / graph.cost().macs
        left = f", {len(plan.remnants)} layers left" if plan.remnants else ""
        found.append((f"{after / before:.2f}", f"{macs:.1%}{left}"))
    return found


def table(nets_: Sequence[str], batches: Sequence[int], turns: int) -> str:
    """All of it, as markdown."""
    head = "".join(f" {name} | |" for name in WAYS)
    lines = [f"| network | batch | memory |{head}", "| --- | ---: | --- |" + " ---: | --- |" * 3]
    cases = [(n, b, f) for n in nets_ for b in batches for f in FORMATS]
    for net, batch, layout in track(cases, "timing"):
        cells = ratios(net, batch, FORMATS[layout], turns)
        lines.append(f"| {net} | {batch} | {layout} | " + " | ".join(
            f"{ratio} | {what}" for ratio, what in cells) + " |")  # fmt: skip
    on = machine()
    where = f"{on['cpu']}, 1 thread, torch {on['torch']}"
    return "\n".join([*lines, "", f"Medians of {turns} turns; {where}.", ""])


def main(argv: list[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(prog="python -m bench.latency", description=__doc__)
    parser.add_argument("--net", nargs="+", default=list(nets.NETWORKS))
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 64])
    parser.add_argument("--turns", type=int, default=15)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    write_between(PAGE, "bench:latency", table(options.net, options.batch, options.turns))
    print(f"{PAGE} is written.")


if __name__ == "__main__":
    main()
