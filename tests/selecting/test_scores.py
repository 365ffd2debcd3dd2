"""Scores: one number per channel, worked out by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from gammaslim.arrays import FIXED
from gammaslim.errors import NothingToPruneError, ScoreError, StaleGraphError
from gammaslim.selecting.scoring import scores
from tests.handmade import (
    PlainNet,
    ResidualNet,
    hand_graph,
    ids,
    plain_graph,
    residual_graph,
)


def residual_net() -> ResidualNet:
    """Stream scales (3, -1, 0) and (-4, 1, 0); block scales (-2, 5)."""
    model = ResidualNet(3, 2)
    with torch.no_grad():
        model.bn_stem.weight.copy_(torch.tensor([3.0, -1.0, 0.0]))
        model.bn_up.weight.copy_(torch.tensor([-4.0, 1.0, 0.0]))
        model.bn_down.weight.copy_(torch.tensor([-2.0, 5.0]))
    return model


@pytest.mark.parametrize(
    ("reduce", "expected"),
    [
        ("mean", [3.5, 1.0, 0.0, 2.0, 5.0]),
        ("max", [4.0, 1.0, 0.0, 2.0, 5.0]),
        ("l2", [5.0, np.sqrt(2.0), 0.0, 2.0, 5.0]),
    ],
)
def test_coupled_scales_are_reduced_per_channel(reduce, expected):
    """Stream channels hold two scales each, block channels one; signs do not matter."""
    found = scores(residual_net(), residual_graph(3, 2), reduce=reduce)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-15)


def test_mean_is_the_default():
    """As the signature says."""
    graph = residual_graph(3, 2)
    np.testing.assert_array_equal(
        scores(residual_net(), graph), scores(residual_net(), graph, reduce="mean")
    )


@pytest.mark.parametrize("reduce", ["mean", "max", "l2"])
def test_channels_without_a_scale_score_nan(reduce):
    """Also where a scale holds fixed indices, and beyond the last scored channel."""
    graph = hand_graph(
        shapes={"1.weight": (3,), "0.weight": (2, 9)},
        sites={("1.weight", 0): np.array([0, FIXED, 2]), ("0.weight", 0): np.array([1, 3])},
        scales=["1.weight"],
    )
    model = nn.Sequential(nn.Linear(9, 2), nn.BatchNorm1d(3))
    np.testing.assert_array_equal(scores(model, graph, reduce=reduce), [1.0, np.nan, 1.0, np.nan])


def test_half_precision_scales_are_scored_in_double():
    """The squares of small half-precision numbers must not underflow."""
    model = residual_net().half()
    with torch.no_grad():
        model.bn_down.weight.fill_(2.0**-14)
    found = scores(model, residual_graph(3, 2), reduce="l2")
    np.testing.assert_array_equal(found[3:], [2.0**-14, 2.0**-14])


def test_wrapped_networks_score_like_the_network_itself():
    """DataParallel puts ``module.`` before every name."""
    model, graph = residual_net(), residual_graph(3, 2)
    np.testing.assert_array_equal(scores(nn.DataParallel(model), graph), scores(model, graph))


def test_scale_under_its_second_name_is_found():
    """A BatchNorm registered twice lists its weight once unless asked for both names."""
    norm = nn.BatchNorm1d(2)
    model = nn.Sequential(norm, nn.Linear(2, 2), norm)
    graph = hand_graph(
        shapes={"2.weight": (2,)}, sites={("2.weight", 0): ids(0, 2)}, scales=["2.weight"]
    )
    np.testing.assert_array_equal(scores(model, graph), [1.0, 1.0])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_scales_that_are_no_numbers_are_named(bad):
    """Tensor, count and first index."""
    model = residual_net()
    with torch.no_grad():
        model.bn_up.weight[1] = bad
    with pytest.raises(ScoreError, match=r"'bn_up\.weight' holds 1 that are not, first at index 1"):
        scores(model, residual_graph(3, 2))


def test_unknown_reduction_is_refused():
    """With what was asked and what is known."""
    with pytest.raises(ScoreError, match=r"reduce='median' was asked; known are 'mean', 'max', 'l"):
        scores(residual_net(), residual_graph(3, 2), reduce="median")


def test_cut_network_is_refused():
    """With both shapes."""
    text = r"traced when 'bn1\.weight' had shape \(4,\); now it has \(3,\)"
    with pytest.raises(StaleGraphError, match=text):
        scores(PlainNet([4, 3]), plain_graph([4, 4]))


def test_network_without_the_scale_is_refused():
    """A graph of a deeper network."""
    with pytest.raises(StaleGraphError, match=r"a scale 'bn2\.weight', which the network does not"):
        scores(PlainNet([4, 3]), plain_graph([4, 3, 2]))


def test_network_without_any_scale_is_refused():
    """The text says what is missing."""
    graph = hand_graph(shapes={"weight": (2, 9)}, sites={("weight", 0): ids(0, 2)}, scales=[])
    with pytest.raises(NothingToPruneError, match="has no BatchNorm scale"):
        scores(nn.Linear(9, 2), graph)


def test_scoring_leaves_the_model_alone():
    """No gradient, no change of mode, no change of value."""
    model = residual_net().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    scores(model, residual_graph(3, 2))
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
