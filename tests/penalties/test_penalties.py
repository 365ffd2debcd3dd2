"""Penalties: their terms against a plain loop over channels, and the numbers they refuse."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

import gammaslim as gs
from gammaslim.arrays import FIXED
from gammaslim.errors import PenaltyError
from gammaslim.penalties import (
    L1,
    AnyPenalty,
    GroupLasso,
    Polarization,
    Proximal,
    Scales,
    Work,
)
from tests.handmade import (
    INNER,
    WIDTH,
    PlainNet,
    expected_terms,
    hand_graph,
    residual_graph,
    residual_net,
    step_gradients,
)

GRAPH = residual_graph(WIDTH, INNER)


def term(penalty, scales, channels, count):
    """The penalty's term on scales in one process, all of them penalised."""
    return penalty.gradient(Scales(scales, channels, count, penalty.strength))


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
    found = term(GroupLasso(10.0), scales, channels, 2)
    torch.testing.assert_close(found, torch.tensor([6.0, 10.0, -8.0]))


def test_group_lasso_by_the_mean_of_squares():
    """Scales 3 and -4: the mean of 9 and 16 is 12.5; a single scale is as before."""
    scales, channels = torch.tensor([3.0, 1.0, -4.0]), torch.tensor([0, 1, 0])
    found = term(GroupLasso(10.0, reduce="mean"), scales, channels, 2)
    norm = 12.5**0.5
    torch.testing.assert_close(found, torch.tensor([30 / norm, 10.0, -40 / norm]))


def test_polarization_by_hand():
    """Of 1, 2 and 6 the mean is 3: two lie below, one above, and s̄ = -1/3."""
    scales = torch.tensor([1.0, 2.0, 6.0])
    found = term(Polarization(3.0, t=2.0), scales, torch.arange(3), 3)
    torch.testing.assert_close(found, torch.tensor([8.0, 8.0, 2.0]))


def test_polarization_is_the_gradient_of_its_formula():
    """Away from the kinks, autograd says the same."""
    scales = torch.tensor([0.3, -0.2, 1.4, 0.9, -1.1], dtype=torch.float64, requires_grad=True)
    value = 1.2 * scales.abs().sum() - (scales - scales.mean()).abs().sum()
    (expected,) = torch.autograd.grad(0.5 * value, scales)
    found = term(Polarization(0.5, t=1.2), scales.detach(), torch.arange(5), 5)
    torch.testing.assert_close(found, expected)


def test_group_lasso_is_finite_at_zero():
    """A channel that is zero throughout is pulled nowhere."""
    zeros = torch.zeros(3)
    assert torch.equal(term(GroupLasso(1.0), zeros, torch.tensor([0, 0, 1]), 2), zeros)


def test_group_lasso_of_single_scales_is_l1():
    """With one scale per channel the norm is |γ|."""
    scales, channels = torch.tensor([3.0, -0.5, 0.0]), torch.arange(3)
    torch.testing.assert_close(
        term(GroupLasso(0.1), scales, channels, 3), term(L1(0.1), scales, channels, 3)
    )


def test_mean_does_not_depend_on_how_values_are_spread():
    """To the last bit of a scale, or polarization takes another course where they are sharded."""
    values = torch.rand(1001, generator=torch.Generator().manual_seed(0)) + 0.5
    whole = Scales(values, torch.arange(1001), 1001, 0.1)
    for cut in range(0, 1001, 50):
        other = values[cut:].double().sum()
        part = Scales(
            values[:cut], torch.arange(cut), cut, 0.1,
            combine=lambda sums, other=other: sums + other, total=1001,
        )  # fmt: skip
        found, expected = part.mean(part.values), whole.mean(values)
        assert torch.equal(found.to(values.dtype), expected.to(values.dtype))
        assert torch.equal(found - values, expected - values)


def test_sums_per_channel_by_hand():
    """Channels 1 and 3 of 4 have no value here; sorted beforehand or not, it is the same."""
    values, channels = torch.tensor([1.0, 20.0, 3.0, 400.0]), torch.tensor([2, 0, 2, 0])
    expected = torch.tensor([420.0, 0.0, 4.0, 0.0])
    sorting = torch.tensor([1, 3, 0, 2]), torch.tensor([0, 2, 2, 4, 4])
    for given in (None, sorting):
        assert torch.equal(
            Scales(values, channels, 4, 1.0, sorting=given).per_channel(values), expected
        )
    nothing = values[:0], channels[:0]
    none = Scales(*nothing, 4, 1.0, sorting=(channels[:0], torch.zeros(5, dtype=torch.int64)))
    assert torch.equal(none.per_channel(values[:0]), torch.zeros(4))


@pytest.mark.parametrize(
    "penalty",
    [L1(0.1), GroupLasso(0.1), GroupLasso(0.1, reduce="mean"), Polarization(0.1)],
    ids=["L1", "GroupLasso", "GroupLasso-mean", "Polarization"],
)
def test_penalties_do_not_change_their_arguments(penalty):
    """They are pure functions."""
    scales, channels = torch.tensor([3.0, -4.0]), torch.tensor([0, 0])
    term(penalty, scales, channels, 1)
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


def net_of_two() -> tuple[nn.Module, object]:
    """Two channels in one BatchNorm, and nothing else."""
    model = nn.Sequential(nn.BatchNorm1d(2))
    graph = hand_graph(
        shapes={"0.weight": (2,), "0.bias": (2,)},
        sites={("0.weight", 0): np.array([0, 1]), ("0.bias", 0): np.array([0, 1])},
        scales=["0.weight"],
    )
    return model, replace(graph, shifts={"0.weight": "0.bias"})


def shrunk(penalty, *, lr=0.1, groups=None) -> list[list[float]]:
    """Scales (3, 0.1) and shifts (4, 0) after one step without gradients to speak of."""
    model, graph = net_of_two()
    model[0].weight.data = torch.tensor([3.0, 0.1])
    model[0].bias.data = torch.tensor([4.0, 0.0])
    optimizer = torch.optim.SGD(groups(model) if groups else model.parameters(), lr=lr)
    gs.attach(model, graph, optimizer, penalty)
    optimizer.step()
    return [model[0].weight.tolist(), model[0].bias.tolist()]


def test_proximal_step_by_hand():
    """‖(3, 4)‖ = 5 and ηλ = 0.5: times 0.9; 0.1 is less than 0.5: exactly zero."""
    scales, shifts = shrunk(Proximal(5.0))
    assert scales == pytest.approx([2.7, 0.0])
    assert shifts == pytest.approx([3.6, 0.0])
    assert scales[1] == 0.0


def test_proximal_step_may_leave_shifts_alone():
    """Then the vector is the scale alone: 3 − 0.5."""
    scales, shifts = shrunk(Proximal(5.0, shifts=False))
    assert scales == pytest.approx([2.5, 0.0])
    assert shifts == [4.0, 0.0]


def test_proximal_step_takes_each_group_s_learning_rate():
    """Shifts learn ten times slower, so they shrink ten times less."""

    def groups(model):
        return [{"params": [model[0].weight]}, {"params": [model[0].bias], "lr": 0.01}]

    scales, shifts = shrunk(Proximal(5.0), groups=groups)
    assert scales == pytest.approx([2.7, 0.0])
    assert shifts == pytest.approx([4.0 * 0.99, 0.0])


def test_proximal_zeros_stay_zero_under_adam():
    """The step lands on zero, whatever the preconditioner makes of small gradients."""
    model, graph = net_of_two()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    gs.attach(model, graph, optimizer, Proximal(3.0))
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        optimizer.zero_grad()
        out = model(torch.randn(16, 2, generator=generator))
        (out[:, 0] - 1).square().mean().backward()
        optimizer.step()
    assert model[0].weight[1] == 0
    assert model[0].bias[1] == 0


def test_proximal_step_leaves_frozen_channels_alone():
    """Those that may not go keep their values."""
    model, graph = residual_net(), residual_graph(WIDTH, INNER, frozen=(0, 5))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    gs.attach(model, graph, optimizer, Proximal(1e6))
    optimizer.step()
    for name in graph.scales:
        free = graph.prunable[graph.sites[name, 0]]
        after = dict(model.named_parameters())[name].detach()
        assert torch.equal(after[~free], before[name][~free])
        assert (after[free] == 0).all()


# Penalties of one's own


@dataclass(frozen=True)
class L2(gs.Penalty):
    """Half the sum of squares."""

    strength: float

    def gradient(self, scales):
        return scales.strengths * scales.values


@dataclass(frozen=True)
class Decay(gs.Shrinkage):
    """Decoupled decay of scales and shifts."""

    strength: float
    shifts: bool

    def factors(self, scales):
        return torch.ones_like(scales.values) - scales.rates * scales.strengths


def test_a_gradient_of_one_s_own():
    """``γ.grad += λ γ``, under a weight of 1.5 and 0.5 as well."""
    model, graph = net_of_two()
    model[0].weight.data = torch.tensor([3.0, 0.5])
    assert step_gradients(model, graph, L2(0.1))["0.weight"].tolist() == pytest.approx([0.3, 0.05])
    weighted = gs.cost_weighted(L2(0.1), graph, np.array([3.0, 1.0]))
    found = step_gradients(model, graph, weighted)["0.weight"].tolist()
    assert found == pytest.approx([0.45, 0.025])


@pytest.mark.parametrize(("shifts", "left"), [(True, 2.0), (False, 4.0)])
def test_a_shrinkage_of_one_s_own(shifts, left):
    """Times ``1 - η λ``; its forecast is that of what shrinks by λ per unit of learning rate."""
    assert shrunk(Decay(5.0, shifts))[1] == [left, 0.0]
    model, graph = net_of_two()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = gs.attach(model, graph, optimizer, Decay(5.0, shifts))
    assert handle.forecast(3).reach == pytest.approx(1.5)


@dataclass(frozen=True)
class Halving(AnyPenalty):
    """Halves, after each step, the channels on which gradients have pulled least so far."""

    count: int

    def begin(self, graph, numbers):
        del graph
        return Halved(self.count, torch.zeros(len(numbers)))


class Halved(Work):
    """How much has been pulled at each channel."""

    def __init__(self, count, pulls):
        self.count, self.pulls = count, pulls

    def observe(self, moment, gradients):
        self.pulls = self.pulls + moment.scales().per_channel(gradients().abs())

    def factors(self, moment):
        least = torch.ones_like(self.pulls)
        least[self.pulls.argsort(stable=True)[: self.count]] = 0.5
        return least[moment.channels()]

    def follow(self, graph, numbers, places):
        del graph, numbers
        self.pulls = self.pulls[places]

    def state_dict(self):
        return {"pulls": self.pulls.clone()}

    def load_state_dict(self, state):
        self.pulls = state["pulls"].clone()


def test_a_penalty_of_one_s_own_that_remembers():
    """It observes, shrinks, follows a cut, and goes on from its state."""
    model = PlainNet([3])
    graph = gs.trace(model, torch.randn(1, 3, 8, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    handle = gs.attach(model, graph, optimizer, Halving(1))

    def step(*pulls):
        model.bn0.weight.grad = torch.tensor(pulls)
        optimizer.step()
        return model.bn0.weight.tolist()

    model.bn0.weight.data.fill_(1.0)
    assert step(3.0, 1.0, 2.0) == [1.0, 0.5, 1.0]
    state = handle.state_dict()
    assert step(0.0, 4.0, 0.0) == [1.0, 0.5, 0.5]
    handle.load_state_dict(state)
    assert step(0.0, 0.0, 0.0) == [1.0, 0.25, 0.5]
    plan = gs.select(graph, gs.scores(model, graph), remove_channels=0.3)
    gs.prune(model, graph, plan, optimizer=optimizer, handle=handle, verify=False, fold=False)
    assert step(0.0, 0.5) == [1.0, 0.25]
    assert handle.stats().strength is None
    assert str(handle.forecast(3)) == "How far Halving(count=1) moves scales is not known."
    with pytest.raises(PenaltyError, match="only a Budget decides by itself"):
        handle.plan()
