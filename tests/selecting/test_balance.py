"""Balanced layers: what select does with them, and which plans a graph refuses."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import gammaslim as gs
from bench import oracle
from gammaslim.channels.graph import cut_by
from gammaslim.channels.plan import Kept
from gammaslim.channels.sequences import Arrangement, Balance, Join, Part, Shuffle, Step
from gammaslim.errors import PlanError, TargetError
from gammaslim.selecting.planning import make_plan, select
from tests.handmade import ids, plain_graph, widths_of
from tests.nets.case import Case, image
from tests.nets.shuffling import SHUFFLING

STEPS = (
    Step(Join(), (0, 1)),
    Step(Shuffle(2), (2,)),
    Step(Part(0, 1, 2), (3,)),
    Step(Part(1, 2, 2), (3,)),
)
RUNS = (ids(0, 2), ids(2, 2), ids(4, 2), ids(6, 2))
QUOTAS = np.array([[2, 2, 2, 2], [2, 1, 1, 2], [1, 1, 1, 1], [1, 0, 0, 1]])
WIDTHS = np.array([[4, 4], [3, 3], [2, 2], [1, 1]])
SCORES = np.array([5, 1, 2, 4, 3, 6, 8, 7, 2.6, 9], dtype=np.float64)
"""The steps then remove {2, 4}, {1, 7}, {3, 5}: means 2.5, 4, 5; 8 and 9 go by themselves."""


def graph() -> gs.ChannelGraph:
    """Layers of 4, 4 and 2; the first two share a shuffle."""
    arrangement = Arrangement((ids(0, 4), ids(4, 4)), STEPS, (Balance(RUNS, QUOTAS, WIDTHS),))
    return replace(plain_graph([4, 4, 2]), arrangement=arrangement)


def removed(plan: gs.Plan) -> list[int]:
    """The channels that a plan removes."""
    return np.flatnonzero(~graph().keep_mask(plan)).tolist()


@pytest.mark.parametrize(
    ("share", "gone"),
    [
        (0.0, []),
        (0.1, [2, 4]),
        (0.2, [2, 4]),
        (0.3, [2, 4, 8]),
        (0.4, [1, 2, 4, 7, 8]),
        (0.7, [1, 2, 3, 4, 5, 7, 8]),
    ],
)
def test_a_step_goes_as_one(share, gone):
    """Steps and single channels in the order of their scores, until enough is gone."""
    assert removed(select(graph(), SCORES, remove_channels=share)) == gone


def test_what_the_steps_cannot_reach_is_refused():
    with pytest.raises(TargetError, match=r"caps and frozen channels allow is 0\.700"):
        select(graph(), SCORES, remove_channels=0.8)


@pytest.mark.parametrize(
    ("threshold", "gone"),
    [(2.5, []), (2.9, [8]), (3, [2, 4, 8]), (6.9, [2, 4, 8]), (7, [1, 2, 3, 4, 5, 7, 8])],
)
def test_threshold_spares_a_step_with_anything_above_it(threshold, gone):
    assert removed(select(graph(), SCORES, threshold=threshold)) == gone


@pytest.mark.parametrize(
    ("limits", "widths"),
    [
        ({"min_channels": 2}, [2, 2, 2]),
        ({"round_to": 2}, [2, 2, 2]),
        ({"round_to": 3}, [3, 3, 2]),
        ({"max_remove": 0.5}, [2, 2, 1]),
        ({"max_remove": 0.2}, [4, 4, 2]),
    ],
)
def test_limits_hold_for_the_width_of_each_layer(limits, widths):
    plan = select(graph(), SCORES, threshold=7, **limits)
    assert widths_of(graph(), plan) == widths


def test_within_groups_the_share_decides():
    """Half-way through its first step a layer has lost an eighth; channel 8 is a quarter."""
    plan = select(graph(), SCORES, remove_channels=0.2, scope="group")
    assert removed(plan) == [2, 4]
    plan = select(graph(), SCORES, remove_channels=0.3, scope="group")
    assert removed(plan) == [2, 4, 8]


def test_cost_targets_count_what_steps_remove():
    full = graph().cost().params
    plan = select(graph(), SCORES, keep_params=0.6)
    assert graph().cost(plan).params <= 0.6 * full
    assert len(removed(plan)) in (3, 5)


def test_unbalanced_masks_are_refused():
    keep = np.ones(10, dtype=np.bool_)
    keep[0] = False
    with pytest.raises(PlanError, match=r"must keep equal shares; these do not, .* channel 0"):
        make_plan(graph(), keep)


# On a traced network


def case(name: str) -> Case:
    return next(case for case in SHUFFLING if case.name == name)


def cut(name: str, seed: int = 0) -> tuple[nn.Module, gs.ChannelGraph, gs.Plan]:
    """A network, its graph, and a plan that removes a third."""
    model = case(name).model()
    found = gs.trace(model, image())
    return model, found, select(found, oracle.random_scores(found, seed), remove_channels=0.3)


def test_orders_are_listed_where_slices_are_not_sorted():
    _, found, plan = cut("shuffled_stage")
    assert plan.orders
    for site, order in plan.orders.items():
        assert sorted(order.tolist()) == list(range(len(plan.kept[site])))
        assert (np.diff(order) < 0).any()
    assert plan.orders.keys() == cut_by(found, plan).plan.orders.keys()


def in_order(plan):
    """Its sites with all slices sorted."""
    return {site: Kept(own.sorted, own.size) for site, own in plan.sites.items()}


def test_plans_without_their_orders_are_refused():
    model, found, plan = cut("shuffled_stage")
    sorted_plan = gs.Plan(in_order(plan), plan.attributes)
    with pytest.raises(PlanError, match=r"puts the kept slices .* in another order"):
        gs.prune(model, found, sorted_plan)
    site = next(iter(plan.orders))
    kept = plan.sites[site]
    turned = {**plan.sites, site: Kept(kept.indices[::-1], kept.size)}
    with pytest.raises(PlanError, match=f"dimension {site[1]} of '{site[0]}'"):
        gs.prune(model, found, gs.Plan(turned, plan.attributes))


def test_a_wrong_order_breaks_the_law():
    """Negative control: verification sees a shuffle that was not followed."""
    model, found, plan = cut("shuffled_stage")
    oracle.randomise_batchnorms(model, 0)
    blind = replace(found, arrangement=Arrangement())
    with pytest.raises(gs.GammaslimError, match="does not compute what the masked one computes"):
        gs.prune(model, blind, gs.Plan(in_order(plan), plan.attributes))


@pytest.mark.parametrize("name", ["shuffled_stage", "shuffled_gate", "shuffled_flat"])
def test_save_and_load(name, tmp_path):
    """Two cuts, one file, bit for bit in a fresh network."""
    fresh = case(name).model()
    model, found, plan = cut(name)
    gs.prune(model, found, plan)
    again = gs.trace(model, image())
    gs.prune(model, again, select(again, oracle.random_scores(again, 1), remove_channels=0.3))
    gs.save(model, tmp_path / "slim.safetensors")
    gs.load(fresh, tmp_path / "slim.safetensors")
    assert oracle.drift(oracle.outputs(model, image()), oracle.outputs(fresh, image())) == 0


def test_undo_restores_the_order(monkeypatch):
    """A cut that fails its proof leaves the network bit for bit as it was."""
    model, found, plan = cut("shuffled_stage")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    monkeypatch.setattr("gammaslim.cutting.verification.drift_between", lambda *_: float("inf"))
    with pytest.raises(gs.GammaslimError, match="has been restored"):
        gs.prune(model, found, plan)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_ignoring_one_layer_of_a_balance_keeps_them_all():
    """One layer of full width leaves no other width to any."""
    model = case("shuffled_stage").model()
    loose = gs.trace(model, image())
    strict = gs.trace(model, image(), ignore=["1.0.branches.0.1.1"])
    assert len(loose.arrangement.balances) == 1
    assert not strict.arrangement.balances
    assert strict.coverage < loose.coverage
