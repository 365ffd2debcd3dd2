"""What channels cost, against removing them one by one; and penalties weighted by it."""

import numpy as np
import pytest
import torch

import gammaslim as gs
from gammaslim.channels.graph import Cut
from gammaslim.errors import NothingToPruneError, PenaltyError, TargetError
from tests.handmade import (
    PlainNet,
    expected_terms,
    fill_gradients,
    plain_graph,
    residual_graph,
    residual_net,
    step_gradients,
)
from tests.nets import classic

GRAPH = residual_graph(4, 3)


def saved_one_by_one(graph, kind):
    """The cost without each channel, one at a time."""
    full = getattr(graph.cost(), kind)
    saved = np.zeros(graph.num_channels)
    for channel in range(graph.num_channels):
        keep = np.ones(graph.num_channels, dtype=np.bool_)
        keep[channel] = False
        saved[channel] = full - getattr(Cut(graph, keep).cost, kind)
    return saved


@pytest.mark.parametrize("kind", ["macs", "params"])
@pytest.mark.parametrize("case", classic.CLASSIC, ids=lambda case: case.name)
def test_costs_are_what_one_channel_saves(case, kind):
    torch.manual_seed(0)
    graph = gs.trace(case.build(), case.inputs())
    assert np.array_equal(gs.channel_costs(graph, kind), saved_one_by_one(graph, kind))


def test_unknown_costs_are_refused():
    with pytest.raises(PenaltyError, match=r"cost='time' was asked; known are 'macs' and 'params'"):
        gs.channel_costs(GRAPH, "time")


@pytest.mark.parametrize("penalty", [gs.L1(0.1), gs.GroupLasso(0.1)], ids=["L1", "GroupLasso"])
def test_terms_are_multiplied_by_each_channel_s_cost(penalty):
    """Cost over its mean, so that λ keeps its meaning; frozen scales get none."""
    graph = residual_graph(4, 3, frozen=(1, 5))
    costs = np.arange(1.0, 8.0)
    weighted = gs.cost_weighted(penalty, graph, costs)
    free = [0, 2, 3, 4, 6]
    found = step_gradients(residual_net(), graph, weighted)
    plain = expected_terms(residual_net(), graph, penalty)
    for name in graph.scales:
        factor = torch.from_numpy(costs[graph.sites[(name, 0)]] / costs[free].mean())
        torch.testing.assert_close(found[name], plain[name] * factor.float())


def test_proximal_steps_are_weighted_too():
    """A channel that costs three times as much loses three times as much: 0.1 and 0.3 of 1."""
    model, graph = PlainNet([2]), plain_graph([2])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    weighted = gs.cost_weighted(gs.Proximal(2.0, shifts=False), graph, np.array([1.0, 3.0]))
    gs.attach(model, graph, optimizer, weighted)
    optimizer.step()
    assert model.bn0.weight.tolist() == pytest.approx([0.9, 0.7])


def test_polarization_weighted_is_the_gradient_of_its_formula():
    """``Σ λ_i (t |γ_i| - |γ_i - γ̄|)``, by autograd."""
    model, graph = PlainNet([3, 2]), plain_graph([3, 2])
    start = torch.tensor([0.3, -0.2, 1.4, 0.9, -1.1])
    model.bn0.weight.data, model.bn1.weight.data = start[:3].clone(), start[3:].clone()
    weights = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    penalty = gs.cost_weighted(gs.Polarization(0.5, t=1.2), graph, weights)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    fill_gradients(model)
    gs.attach(model, graph, optimizer, penalty)
    optimizer.step()
    leaf = start.double().requires_grad_()
    strengths = 0.5 * torch.from_numpy(weights / weights.mean())
    (strengths * (1.2 * leaf.abs() - (leaf - leaf.mean()).abs())).sum().backward()
    found = torch.cat([model.bn0.weight.grad, model.bn1.weight.grad])
    torch.testing.assert_close(found, leaf.grad.float())


def test_what_cannot_be_weighted_is_refused():
    budget = gs.Budget(keep_macs=0.5, steps=100)
    with pytest.raises(PenaltyError, match="Budget weighs costs by itself"):
        gs.cost_weighted(budget, GRAPH)
    with pytest.raises(PenaltyError, match=r"shape \(3,\).* has 7 channels"):
        gs.cost_weighted(gs.L1(0.1), GRAPH, np.ones(3))
    for bad in (np.full(7, -1.0), np.full(7, np.nan), np.zeros(7)):
        with pytest.raises(PenaltyError, match="needs a cost of 0 or above"):
            gs.cost_weighted(gs.L1(0.1), GRAPH, bad)
    with pytest.raises(NothingToPruneError, match="there are none"):
        gs.cost_weighted(gs.L1(0.1), residual_graph(4, 3, frozen=range(7)), np.ones(7))


def test_repr_names_the_cost():
    found = repr(gs.cost_weighted(gs.L1(0.1), plain_graph([4, 3]), "params"))
    assert found == "CostWeighted(penalty=L1(strength=0.1), cost='params')"


# Latency


def test_latencies_are_seconds_of_what_may_go():
    """A wide early layer takes time; channels that stay have none; the network is left alone."""
    torch.manual_seed(0)
    model = PlainNet([64, 8])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    graph = gs.trace(model, torch.randn(8, 3, 32, 32))
    found = gs.channel_latencies(model, graph, repeats=7, progress=False)
    assert found.shape == (graph.num_channels,)
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    assert (found[~graph.prunable] == 0).all()
    wide = graph.sites[("bn0.weight", 0)]
    assert found[wide].max() > 0
    assert len(set(found[wide].tolist())) == 1
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert gs.cost_weighted(gs.L1(0.1), graph, found).cost == "given"


@pytest.mark.parametrize("options", [{"share": 0.0}, {"share": 1.0}, {"repeats": 0}])
def test_latencies_need_a_share_and_a_turn(options):
    with pytest.raises(TargetError, match="above 0 and below 1"):
        gs.channel_latencies(PlainNet([4]), plain_graph([4]), **options)
