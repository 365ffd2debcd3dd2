"""The law on real networks, cut by 30 % and by 60 % of their channels at random."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

import gammaslim as gs
from bench import oracle
from bench.oracle import TOLERANCE, Pair, judged, settle
from bench.zoo.entries import ENTRIES, Entry, build, images
from bench.zoo.ours import RATIOS, reachable_plan


def parameter(entry: Entry) -> Any:
    """The entry as a pytest parameter, marked where it is slow."""
    return pytest.param(entry, id=entry.key, marks=[pytest.mark.slow] if entry.slow else [])


@pytest.mark.parametrize("entry", [parameter(entry) for entry in ENTRIES])
def test_network(entry: Entry, tmp_path: Path) -> None:
    """Coverage, and everything that must hold after each of two cuts; the last one is saved."""
    model, inputs, others = build(entry), images(entry, 1), images(entry, 2)
    settle(model, inputs, seed=0)
    graph = gs.trace(model, inputs)
    assert graph.coverage >= entry.coverage, [str(one) for one in graph.frozen]
    for ratio in RATIOS:
        cut = check_cut(model, graph, ratio, (inputs, others))
    gs.save(cut, tmp_path / "slim.safetensors")
    loaded = gs.load(model, tmp_path / "slim.safetensors")
    assert oracle.drift(oracle.outputs(cut, others), oracle.outputs(loaded, others)) == 0


def check_cut(
    model: nn.Module, graph: gs.ChannelGraph, ratio: float, inputs: tuple[Tensor, Tensor]
) -> nn.Module:
    """Both checks of the law, the negative control, attributes, cost, and a training step."""
    plan, _ = reachable_plan(graph, ratio, seed=int(100 * ratio))
    cut = copy.deepcopy(model)
    outcome = gs.prune(cut, graph, plan)
    assert outcome.drift <= TOLERANCE
    pair, finding = judged(Pair(oracle.masked_copy(model, plan), cut, plan, inputs[1]))
    assert finding.holds, finding
    done = pair.controls()
    assert done, "no weight was rolled"
    assert all(one.caught for one in done), done
    oracle.check_attributes(cut)
    oracle.check_cost(cut, outcome.after, inputs[0])
    assert outcome.after.macs < outcome.before.macs
    oracle.check_training(cut, inputs[0])
    return cut
