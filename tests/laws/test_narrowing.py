"""The graph after a cut is the graph that a trace of the cut network finds."""

import numpy as np
import pytest
import torch

import gammaslim as gs
from gammaslim.channels.graph import Cut, cut_by
from gammaslim.channels.remaining_graph import narrowed
from tests.zoo_small import NAMES, ZOO

CHOSEN_ANEW = {"deconvolutions", "partial_conv", "shuffled_thirds", "shuffled_twice", "bilinear"}
"""Where a trace has a choice (which of two sides, columns or whole parts), it may choose otherwise
at the new sizes; the old choice stays right, as the second test proves."""


def partition(ids, number):
    """The same for two arrays that say alike which of their entries are equal, and which fixed."""
    return [-1 if i < 0 else number.setdefault(int(i), len(number)) for i in ids]


def described(graph, sites):
    """Which slices of which tensors are one channel, whatever it is called."""
    number = {}
    return {site: partition(graph.sites[site], number) for site in sites}


def free(graph, site):
    """Which indices of a site may go."""
    ids = graph.sites[site]
    return (ids >= 0) & graph.prunable[np.maximum(ids, 0)]


@pytest.mark.parametrize("case", ZOO, ids=NAMES)
def test_narrowed_is_traced(case):
    model, inputs = case.model(), case.inputs()
    graph = gs.trace(model, inputs)
    if not (graph.prunable & graph.scored).any():
        pytest.skip("nothing may go")
    scores = np.random.default_rng(0).random(graph.num_channels)
    try:
        plan = gs.select(graph, scores, remove_channels=0.3)
    except gs.TargetError:
        pytest.skip("as much may not go")
    found = narrowed(cut_by(graph, plan))
    gs.prune(model, graph, plan)
    expected = gs.trace(model, inputs)
    assert found.shapes == expected.shapes
    assert found.cost() == expected.cost()
    assert set(found.sites) >= set(expected.sites)
    common = sorted(expected.sites)
    if case.name in CHOSEN_ANEW:
        return
    assert described(found, common) == described(expected, common)
    for site in common:
        assert np.array_equal(free(found, site), free(expected, site))
    everything = np.ones(found.num_channels, dtype=np.bool_)
    values = {a.name: a.value(everything) for a in found.attributes if a.position is None}
    for name, value in values.items():
        owner, _, attribute = name.rpartition(".")
        assert getattr(model.get_submodule(owner), attribute) == value


@pytest.mark.parametrize("case", ZOO, ids=NAMES)
@pytest.mark.parametrize("select_inputs", [False, True])
def test_two_cuts_with_one_trace(case, select_inputs):
    """The second cut is proven like the first."""
    model, inputs = case.model(), case.inputs()
    graph = gs.trace(model, inputs, select_inputs=select_inputs)
    rng = np.random.default_rng(1)
    for _ in range(2):
        if not (graph.prunable & graph.scored).any():
            return
        try:
            plan = gs.select(graph, rng.random(graph.num_channels), remove_channels=0.25)
        except gs.TargetError:
            return
        keep = graph.keep_mask(plan)
        gs.prune(model, graph, plan)
        graph = narrowed(Cut(graph, keep))
    assert all(torch.isfinite(p).all() for p in model.parameters())
