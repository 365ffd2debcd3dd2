"""A target of measured time."""

import numpy as np
import pytest
import torch

import gammaslim as gs
from gammaslim.channels.plan import Plan
from gammaslim.errors import TargetError
from gammaslim.latency import Fit, _fast_enough
from tests.handmade import PlainNet, plain_graph


def fake(ratios):
    """Measurements that are known, and which places were asked."""
    asked = []

    def measured(count):
        asked.append(count)
        return Fit(Plan(), 1.0, ratios(count))

    return measured, asked


@pytest.mark.parametrize("target", [0.95, 0.5, 0.2])
def test_the_search_ends_close_below_the_target(target):
    measured, asked = fake(lambda count: 1 - 0.9 * count / 1000)
    assert target - 0.02 <= _fast_enough(measured, 1000, target).ratio <= target
    assert len(asked) <= 11


def test_between_neighbours_the_one_that_was_measured_to_meet_it_is_taken():
    measured, _ = fake(lambda count: 1.0 if count < 7 else 0.3)
    assert _fast_enough(measured, 10, 0.6).ratio == 0.3


def test_out_of_reach_says_what_was_measured():
    measured, _ = fake(lambda count: 0.9)
    with pytest.raises(TargetError, match=r"keep_latency=0\.5 asked; .* take 0\.900 of its time"):
        _fast_enough(measured, 10, 0.5)


@pytest.mark.parametrize("options", [{"keep_latency": 0.0}, {"keep_latency": 0.5, "repeats": 0}])
def test_arguments_that_make_no_sense_are_refused(options):
    with pytest.raises(TargetError, match="a share above 0 and up to 1"):
        gs.select_latency(PlainNet([4]), plain_graph([4]), np.ones(4), **options)


def test_a_real_network_is_left_alone_and_its_plan_can_be_cut():
    """In training mode before and after; limits hold in the plan."""
    torch.manual_seed(0)
    model = PlainNet([64, 64]).train()
    graph = gs.trace(model, torch.randn(4, 3, 32, 32))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    scores = np.random.default_rng(0).random(graph.num_channels)
    fit = gs.select_latency(
        model, graph, scores, keep_latency=0.7, round_to=8, repeats=3, progress=False
    )
    assert fit.ratio == fit.after / fit.before <= 0.7
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert fit.plan.kept
    assert all(len(kept) % 8 == 0 for kept in fit.plan.kept.values())
