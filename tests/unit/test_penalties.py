"""Penalties: their terms against a plain loop over channels, and the numbers they refuse."""

import numpy as np
import pytest
import torch
from torch import nn

from gammaslim.errors import PenaltyError
from gammaslim.graph import FIXED
from gammaslim.penalties import L1, GroupLasso, Polarization
from tests.unit.handmade import (
    INNER,
    WIDTH,
    expected_terms,
    hand_graph,
    residual_graph,
    residual_net,
    step_gradients,
)

GRAPH = residual_graph(WIDTH, INNER)


@pytest.mark.parametrize("penalty", [L1(0.1), GroupLasso(0.1)], ids=["L1", "GroupLasso"])
@pytest.mark.parametrize("frozen", [(), (0, 5), (4, 5, 6)], ids=["free", "mixed", "block"])
def test_terms_equal_the_formula_per_channel(penalty, frozen):
    """Frozen scales get none, whether alone in their tensor or beside others."""
    model, graph = residual_net(), residual_graph(WIDTH, INNER, frozen=frozen)
    found = step_gradients(model, graph, penalty, value=2.0)
    expected = expected_terms(model, graph, penalty)
    for name, gradient in found.items():
        term = expected.get(name, torch.zeros_like(gradient))
        torch.testing.assert_close(gradient, 2.0 + term)


def test_group_lasso_by_hand():
    """Scales 3 and -4 of one channel form a vector of length 5."""
    scales, channels = torch.tensor([3.0, 1.0, -4.0]), torch.tensor([0, 1, 0])
    found = GroupLasso(10.0).gradient(scales, channels, 2)
    torch.testing.assert_close(found, torch.tensor([6.0, 10.0, -8.0]))


def test_group_lasso_by_the_mean_of_squares():
    """Scales 3 and -4: the mean of 9 and 16 is 12.5; a single scale is as before."""
    scales, channels = torch.tensor([3.0, 1.0, -4.0]), torch.tensor([0, 1, 0])
    found = GroupLasso(10.0, reduce="mean").gradient(scales, channels, 2)
    norm = 12.5**0.5
    torch.testing.assert_close(found, torch.tensor([30 / norm, 10.0, -40 / norm]))


def test_polarization_by_hand():
    """Of 1, 2 and 6 the mean is 3: two lie below, one above, and s̄ = -1/3."""
    scales = torch.tensor([1.0, 2.0, 6.0])
    found = Polarization(3.0, t=2.0).gradient(scales, torch.arange(3), 3)
    torch.testing.assert_close(found, torch.tensor([8.0, 8.0, 2.0]))


def test_polarization_is_the_gradient_of_its_formula():
    """Away from the kinks, autograd says the same."""
    scales = torch.tensor([0.3, -0.2, 1.4, 0.9, -1.1], dtype=torch.float64, requires_grad=True)
    value = 1.2 * scales.abs().sum() - (scales - scales.mean()).abs().sum()
    (expected,) = torch.autograd.grad(0.5 * value, scales)
    found = Polarization(0.5, t=1.2).gradient(scales.detach(), torch.arange(5), 5)
    torch.testing.assert_close(found, expected)


def test_group_lasso_is_finite_at_zero():
    """A channel that is zero throughout is pulled nowhere."""
    zeros = torch.zeros(3)
    assert torch.equal(GroupLasso(1.0).gradient(zeros, torch.tensor([0, 0, 1]), 2), zeros)


def test_group_lasso_of_single_scales_is_l1():
    """With one scale per channel the norm is |γ|."""
    scales, channels = torch.tensor([3.0, -0.5, 0.0]), torch.arange(3)
    torch.testing.assert_close(
        GroupLasso(0.1).gradient(scales, channels, 3), L1(0.1).gradient(scales, channels, 3)
    )


@pytest.mark.parametrize(
    "penalty",
    [L1(0.1), GroupLasso(0.1), GroupLasso(0.1, reduce="mean"), Polarization(0.1)],
    ids=["L1", "GroupLasso", "GroupLasso-mean", "Polarization"],
)
def test_penalties_do_not_change_their_arguments(penalty):
    """They are pure functions."""
    scales, channels = torch.tensor([3.0, -4.0]), torch.tensor([0, 0])
    penalty.gradient(scales, channels, 1)
    assert scales.tolist() == [3.0, -4.0]
    assert channels.tolist() == [0, 0]


@pytest.mark.parametrize("strength", [-1e-4, float("nan"), float("inf")])
@pytest.mark.parametrize("penalty", [L1, GroupLasso, Polarization])
def test_strengths_that_make_no_sense_are_refused(penalty, strength):
    """What was asked, and what may be."""
    with pytest.raises(PenaltyError, match=rf"{penalty.__name__}\(strength=.*0 or above"):
        penalty(strength)


def test_group_lasso_needs_an_epsilon_above_zero():
    """Zero would divide by zero at a dead channel."""
    with pytest.raises(PenaltyError, match=r"GroupLasso\(epsilon=0\.0\) was asked.*above 0"):
        GroupLasso(1e-4, epsilon=0.0)


def test_group_lasso_knows_two_ways_to_reduce():
    """And names both where a third is asked for."""
    with pytest.raises(PenaltyError, match=r"reduce='max'\) was asked; known are 'sum' and 'mean'"):
        GroupLasso(1e-4, reduce="max")


def test_zero_strength_is_no_penalty():
    """So that a sweep may include it."""
    found = step_gradients(residual_net(), GRAPH, L1(0.0), value=1.0)
    assert all((gradient == 1.0).all() for gradient in found.values())


def test_fixed_indices_get_no_penalty():
    """An index without a channel can never go."""
    model = nn.Sequential(nn.BatchNorm1d(3))
    graph = hand_graph(
        shapes={"0.weight": (3,)},
        sites={("0.weight", 0): np.array([0, FIXED, 1])},
        scales=["0.weight"],
    )
    found = step_gradients(model, graph, GroupLasso(0.5))["0.weight"]
    assert found.tolist() == [0.5, 0.0, 0.5]
