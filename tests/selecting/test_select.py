"""Selection: cases worked out by hand, and the arguments it refuses."""

import math

import numpy as np
import pytest
import torch
import torchvision

import gammaslim as gs
from gammaslim.arrays import FIXED
from gammaslim.channels.dead_layers import DeadLayers
from gammaslim.channels.records import SizeAttribute
from gammaslim.errors import NothingToPruneError, PlanError, ScoreError, TargetError
from gammaslim.selecting.planning import make_plan, select
from tests.handmade import hand_graph, ids, plain_graph, residual_graph, widths_of

# Hand-worked cases


def test_dead_layer_goes_first():
    """3 x 16 channels, one layer dead, a third to go: raw γ takes the dead layer to its floor.

    16 of 48 must go; the dead layer gives 15 and its floor binds, the next lowest gives one.
    """
    graph = plain_graph([16, 16, 16])
    healthy = 0.5 + np.arange(16) / 100
    scores = np.concatenate([healthy, np.arange(16) / 1000, healthy + 0.1])
    plan = select(graph, scores, remove_channels=1 / 3)
    assert widths_of(graph, plan) == [15, 1, 16]
    assert plan.kept[("bn1.weight", 0)].tolist() == [15]
    assert plan.kept[("bn0.weight", 0)].tolist() == list(range(1, 16))


def test_ties_spread_evenly_over_groups():
    """An untrained network, whose γ are all 1, loses the same share everywhere."""
    graph = plain_graph([16, 8, 32])
    plan = select(graph, np.ones(56), remove_channels=0.5)
    assert widths_of(graph, plan) == [8, 4, 16]


@pytest.mark.parametrize("scope", ["global", "group"])
def test_ties_spread_over_many_equal_groups(scope):
    """5 of 20 channels over 4 groups of 5: no group loses more than 2."""
    graph = plain_graph([5, 5, 5, 5])
    kept = widths_of(graph, select(graph, np.ones(20), remove_channels=0.25, scope=scope))
    assert sorted(kept) == [3, 4, 4, 4]


def test_group_scope_takes_the_same_share_whatever_the_level():
    """A layer of tiny scales loses no more than one of large scales."""
    graph = plain_graph([8, 4])
    scores = np.concatenate([np.arange(8) / 1000, 10.0 - np.arange(4)])
    plan = select(graph, scores, remove_channels=0.5, scope="group")
    assert widths_of(graph, plan) == [4, 2]
    assert plan.kept[("bn0.weight", 0)].tolist() == [4, 5, 6, 7]
    assert plan.kept[("bn1.weight", 0)].tolist() == [0, 1]


def test_coupled_channels_go_from_all_their_sites():
    """One stream channel has ten sites with BatchNorm statistics and shifts."""
    graph = residual_graph(3, 4)
    scores = np.array([0.9, 0.1, 0.8, 1.0, 1.0, 1.0, 1.0])
    plan = select(graph, scores, remove_channels=1 / 7)
    assert set(plan.kept) == {site for site, channels in graph.sites.items() if 1 in channels}
    assert all(kept.tolist() == [0, 2] for kept in plan.kept.values())


def test_rounding_keeps_full_width_or_a_multiple():
    """12 channels in eights: 12 or 8, nothing between."""
    graph = plain_graph([12])
    scores = np.arange(12.0)
    assert widths_of(graph, select(graph, scores, remove_channels=1 / 12, round_to=8)) == [8]
    assert widths_of(graph, select(graph, scores, remove_channels=0, round_to=8)) == [12]
    assert widths_of(graph, select(graph, scores, threshold=2.0, round_to=8)) == [12]
    assert widths_of(graph, select(graph, scores, threshold=3.0, round_to=8)) == [8]


def test_rounding_that_puts_a_target_out_of_reach_is_loud():
    """12 channels in eights can lose a third at most, never silently nothing."""
    text = r"remove_channels=0.5 asked; the closest that floors, caps .* allow is 0\.333"
    with pytest.raises(TargetError, match=text):
        select(plain_graph([12]), np.arange(12.0), remove_channels=0.5, round_to=8)


def test_groups_narrower_than_the_divisor_stay_whole():
    """At least one divisor's worth stays."""
    graph = plain_graph([4, 32])
    plan = select(graph, np.arange(36.0), remove_channels=0.5, round_to=8)
    assert widths_of(graph, plan) == [4, 8]


def test_cap_holds_in_every_group():
    """Capped at half, no layer is left with 1 of 16."""
    graph = plain_graph([16, 16])
    scores = np.concatenate([np.arange(16) / 1000, 1.0 + np.arange(16)])
    assert widths_of(graph, select(graph, scores, threshold=0.5, max_remove=0.5)) == [8, 16]
    plan = select(graph, scores, remove_channels=0.375, max_remove=0.5)
    assert widths_of(graph, plan) == [8, 12]
    with pytest.raises(TargetError, match=r"allow is 0\.500"):
        select(graph, scores, remove_channels=0.6, max_remove=0.5)


def test_cap_is_not_lost_to_rounding():
    """0.29 x 100 is 28.999... in floating point, and means 29."""
    graph = plain_graph([100])
    assert widths_of(graph, select(graph, np.zeros(100), threshold=0, max_remove=0.29)) == [71]


def test_floor_holds_in_every_group():
    """A group narrower than the floor stays whole."""
    graph = plain_graph([16, 3])
    assert widths_of(graph, select(graph, np.zeros(19), threshold=0, min_channels=4)) == [4, 3]


def test_threshold_takes_scores_up_to_and_including_it():
    """Zero removes the exact zeros; the floor binds without an error."""
    graph = plain_graph([4, 3])
    scores = np.array([0.0, 1e-12, 0.0, 1.0, 0.0, 0.0, 0.0])
    plan = select(graph, scores, threshold=0)
    assert plan.kept[("bn0.weight", 0)].tolist() == [1, 3]
    assert plan.kept[("bn1.weight", 0)].tolist() == [2]


def test_threshold_means_the_score_in_group_scope_too():
    """Ranks within a group have no part in it."""
    graph = plain_graph([4, 3])
    scores = np.array([0.0, 5.0, 0.0, 1.0, 7.0, 8.0, 9.0])
    assert widths_of(graph, select(graph, scores, threshold=1.0, scope="group")) == [1, 3]


def test_keep_macs_takes_the_fewest_channels_that_suffice():
    """Of 870 = 108a + 36ab + 2b at (4, 3); lowest scores first in layer 1.

    (4, 2) costs 724, share 0.832; (4, 1) costs 578, share 0.664; (3, 1) costs 434.
    """
    graph = plain_graph([4, 3])
    scores = np.array([1.0, 2.0, 3.0, 4.0, 0.1, 0.2, 0.3])
    assert widths_of(graph, select(graph, scores, keep_macs=0.84)) == [4, 2]
    assert widths_of(graph, select(graph, scores, keep_macs=0.83)) == [4, 1]
    assert widths_of(graph, select(graph, scores, keep_macs=0.6)) == [3, 1]
    assert widths_of(graph, select(graph, scores, keep_macs=1.0)) == [4, 3]


def test_keep_params_counts_parameters():
    """Of 238 = 29a + 9ab + 4b + 2 at (4, 3); (4, 2) leaves 198, share 0.8319."""
    graph = plain_graph([4, 3])
    scores = np.array([1.0, 2.0, 3.0, 4.0, 0.1, 0.2, 0.3])
    plan = select(graph, scores, keep_params=198 / 238)
    assert widths_of(graph, plan) == [4, 2]
    assert graph.cost(plan).params == 198


def test_unreachable_cost_names_a_share_that_works():
    """(1, 1) leaves 146 of 870 multiply-accumulates, 0.1678; asking for 0.168 succeeds."""
    graph = plain_graph([4, 3])
    with pytest.raises(TargetError, match=r"keep_macs=0\.05 asked; .* allow is 0\.168"):
        select(graph, np.arange(7.0), keep_macs=0.05)
    assert widths_of(graph, select(graph, np.arange(7.0), keep_macs=0.168)) == [1, 1]


def test_share_equal_to_the_target_meets_it():
    """430 of 1250 parameters is 0.344, although 0.344 * 1250 is less than 430 in floating point."""
    graph = plain_graph([10, 6, 7])
    with pytest.raises(TargetError, match=r"allow is 0\.344\."):
        select(graph, np.zeros(23), keep_params=0.0, min_channels=4)
    plan = select(graph, np.zeros(23), keep_params=0.344, min_channels=4)
    assert graph.cost(plan).params == 430
    assert graph.cost().params == 1250


def test_frozen_groups_take_no_part():
    """Neither in what goes nor in what the share is of; their scores may be anything."""
    graph = plain_graph([8, 4], frozen_layers=[1])
    scores = np.concatenate([np.arange(8.0), np.full(4, np.nan)])
    assert widths_of(graph, select(graph, scores, remove_channels=0.5)) == [4, 4]


def test_channels_without_a_score_stay():
    """They count in their group's width, but never go."""
    graph = hand_graph(
        shapes={"bn": (4,), "fc": (6,)},
        sites={("bn", 0): ids(0, 4), ("fc", 0): ids(4, 6)},
        scales=["bn"],
    )
    scores = np.concatenate([np.arange(4.0), np.full(6, np.nan)])
    assert widths_of(graph, select(graph, scores, remove_channels=0.5)) == [2, 6]


def test_removing_nothing_is_an_empty_plan():
    """Not an error."""
    plan = select(plain_graph([4]), np.ones(4), remove_channels=0)
    assert dict(plan.kept) == {}
    assert dict(plan.attributes) == {}


def test_infinite_score_protects_a_channel():
    """It goes last."""
    graph = plain_graph([4])
    plan = select(graph, np.array([np.inf, 3.0, 2.0, 1.0]), remove_channels=0.75)
    assert plan.kept[("bn0.weight", 0)].tolist() == [0]


# Arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"Exactly one of remove_channels, keep_macs, .* is needed; found none"),
        ({"keep_macs": 0.5, "threshold": 0.0}, r"found keep_macs=0\.5, threshold=0\.0"),
        ({"remove_channels": 1.5}, r"remove_channels=1\.5 was asked; it is a share, from 0 to 1"),
        ({"keep_macs": -0.1}, r"keep_macs=-0\.1 was asked"),
        ({"keep_params": math.nan}, r"keep_params=nan was asked"),
        ({"threshold": math.nan}, r"threshold=nan was asked; it must be a number"),
        ({"threshold": 0, "scope": "layer"}, r"scope='layer' was asked; known are"),
        ({"threshold": 0, "round_to": 0}, r"round_to=0 was asked; it must be an integer, 1 or"),
        ({"threshold": 0, "round_to": 8.0}, r"round_to=8\.0 was asked"),
        (
            {"threshold": 0, "min_channels": -1},
            r"min_channels=-1 was asked; it must be an integer, 0 or",
        ),
        ({"threshold": 0, "min_channels": True}, r"min_channels=True was asked"),
        ({"threshold": 0, "max_remove": 1.1}, r"max_remove=1\.1 was asked"),
        ({"threshold": 0, "max_remove": math.nan}, r"max_remove=nan was asked"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options, message):
    """What was asked, and what may be."""
    with pytest.raises(TargetError, match=message):
        select(plain_graph([4]), np.ones(4), **options)


def test_scores_of_another_length_are_refused():
    """Both lengths are named."""
    with pytest.raises(ScoreError, match=r"shape \(5,\) were given; this graph has 4 channels"):
        select(plain_graph([4]), np.ones(5), threshold=0)


def test_nan_scores_are_refused_where_a_choice_is_due():
    """NaN cannot be ranked."""
    scores = np.array([1.0, np.nan, 1.0, np.nan])
    with pytest.raises(ScoreError, match=r"2 of 4 prunable channels .* NaN, first channel 1"):
        select(plain_graph([4]), scores, threshold=0)


def test_nothing_prunable_is_an_error():
    """Frozen throughout, or without any scale."""
    with pytest.raises(NothingToPruneError, match=r"none is both prunable and the owner"):
        select(plain_graph([4], frozen_layers=[0]), np.ones(4), threshold=0)


# make_plan


def test_plan_carries_sizes_and_attributes_that_change():
    """Numbers that keep their value stay out."""
    graph = plain_graph([4, 3])
    plan = make_plan(graph, np.array([1, 0, 1, 1, 1, 1, 1], dtype=np.bool_))
    assert plan.sizes[("conv1.weight", 1)] == 4
    assert plan.attributes == {
        "conv0.out_channels": 3,
        "conv1.in_channels": 3,
        "bn0.num_features": 3,
    }


def test_places_of_a_tuple_attribute_are_joined():
    """The whole tuple is written, also the places that do not change."""
    constant = np.array([FIXED] * 5)
    graph = hand_graph(
        shapes={"w": (4,)},
        sites={("w", 0): ids(0, 4)},
        scales=["w"],
        attributes=[
            SizeAttribute.counting("norm.shape", constant, position=1),
            SizeAttribute.counting("norm.shape", ids(0, 4), position=0),
            SizeAttribute.counting("other.shape", constant, position=0),
        ],
    )
    plan = make_plan(graph, np.array([1, 1, 1, 0], dtype=np.bool_))
    assert plan.attributes == {"norm.shape": (3, 5)}


def test_mask_of_another_length_is_refused():
    """Both lengths are named."""
    with pytest.raises(PlanError, match=r"shape \(3,\); this graph has 4 channels"):
        make_plan(plain_graph([4]), np.ones(3, dtype=np.bool_))


def test_mask_that_removes_a_frozen_channel_is_refused():
    """The first such channel is named."""
    with pytest.raises(PlanError, match="removes 4 frozen channels, first channel 0"):
        make_plan(plain_graph([4], frozen_layers=[0]), np.zeros(4, dtype=np.bool_))


def test_mask_that_empties_a_site_is_refused():
    """No layer may lose all its channels."""
    with pytest.raises(PlanError, match=r"'conv0\.weight' would lose all its channels"):
        make_plan(plain_graph([4]), np.zeros(4, dtype=np.bool_))


def test_what_leaves_is_worked_out_once_for_each_mask(monkeypatch):
    """Bisection, cost, and the plan's own checks ask the same cut again and again."""
    asked = []
    work = DeadLayers._leaving

    def counted(self, keep):
        asked.append(keep.tobytes())
        return work(self, keep)

    graph = gs.trace(torchvision.models.resnet18(), torch.zeros(1, 3, 64, 64))
    scores = np.random.default_rng(0).random(graph.num_channels)
    monkeypatch.setattr(DeadLayers, "_leaving", counted)
    plan = select(graph, scores, keep_macs=0.5)
    assert not plan.empty
    assert len(asked) == len(set(asked))
