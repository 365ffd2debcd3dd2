"""The shrink budget: by hand, against what training without a loss really does, and in words."""

import warnings

import numpy as np
import pytest
import torch

import gammaslim as gs
from gammaslim.errors import GammaslimWarning, OptimizerError, PenaltyError
from tests.handmade import (
    INNER,
    WIDTH,
    PlainNet,
    fill_gradients,
    plain_graph,
    residual_graph,
    residual_net,
)

GRAPH = residual_graph(WIDTH, INNER)


def plain(*scales, optimizer=torch.optim.SGD, **options):
    """One layer with these scales."""
    model, graph = PlainNet([len(scales)]), plain_graph([len(scales)])
    model.bn0.weight.data = torch.tensor(scales)
    return model, graph, optimizer(model.parameters(), **options)


def test_budget_by_hand():
    """λ Σ lr / (1 - m) = 0.01 · 10 · 0.1 / 0.1 = 0.1: one of three scales can reach zero."""
    model, graph, optimizer = plain(0.05, 0.2, 0.3, lr=0.1, momentum=0.9)
    found = gs.attach(model, graph, optimizer, gs.L1(0.01)).forecast(10)
    assert found.reach == pytest.approx(0.1)
    assert found.median == pytest.approx(0.2)
    assert found.share == pytest.approx(1 / 3)
    assert found.strength == pytest.approx(0.02)
    assert found.falls_short


@pytest.mark.parametrize(
    ("penalty", "options"),
    [
        (gs.L1(0.01), {}),
        (gs.L1(0.01), {"momentum": 0.9, "dampening": 0.5}),
        (gs.L1(0.01), {"momentum": 0.9, "nesterov": True}),
        (gs.L1(gs.schedules.Linear(0.02, 0.0, steps=150)), {}),
        (gs.GroupLasso(0.01), {}),
        (gs.GroupLasso(0.01, reduce="mean"), {}),
        (gs.Proximal(0.01, shifts=False), {"momentum": 0.9}),
    ],
    ids=repr,
)
def test_what_is_forecast_is_what_happens_without_a_loss(penalty, options):
    """The channel's distance shrinks by the budget; momentum's tail is still to come."""
    model = residual_net()
    with torch.no_grad():
        for name in GRAPH.scales:
            model.get_parameter(name).add_(torch.sign(model.get_parameter(name)) * 3)
            model.get_parameter(name)[model.get_parameter(name) == 0] = 3.0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, **options)
    handle = gs.attach(model, GRAPH, optimizer, penalty)
    before = handle.forecast(150, lr=0.1)
    for _ in range(150):
        fill_gradients(model)
        optimizer.step()
    after = handle.forecast(150, lr=0.1)
    assert before.median - after.median == pytest.approx(before.reach, rel=0.08)


def test_learning_rates_in_every_form():
    model, graph, optimizer = plain(1.0, lr=0.5)
    handle = gs.attach(model, graph, optimizer, gs.L1(1.0))
    assert handle.forecast(4).reach == pytest.approx(2.0)
    assert handle.forecast(4, 0.1).reach == pytest.approx(0.4)
    assert handle.forecast(4, [0.1, 0.2, 0.3, 0.4]).reach == pytest.approx(1.0)
    assert handle.forecast(4, lambda step: 0.1 * step).reach == pytest.approx(0.6)


@pytest.mark.parametrize("lr", [[0.1, 0.2], -0.1, float("nan"), lambda _: -1.0])
def test_learning_rates_that_make_no_sense_are_refused(lr):
    model, graph, optimizer = plain(1.0, lr=0.5)
    handle = gs.attach(model, graph, optimizer, gs.L1(1.0))
    with pytest.raises(PenaltyError, match="4 steps needs one learning rate, 4 of them"):
        handle.forecast(4, lr)


@pytest.mark.parametrize("steps", [0, 2.5, True])
def test_steps_that_make_no_sense_are_refused(steps):
    model, graph, optimizer = plain(1.0, lr=0.5)
    with pytest.raises(PenaltyError, match="integer above 0"):
        gs.attach(model, graph, optimizer, gs.L1(1.0)).forecast(steps)


def test_parameter_groups_have_their_own_rates():
    """A channel is as slow as its slowest scale."""
    model = residual_net()
    groups = [
        {"params": [model.bn_stem.weight], "lr": 0.1},
        {"params": [model.bn_up.weight], "lr": 0.01},
        {"params": [model.bn_down.weight], "lr": 1.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    handle = gs.attach(model, GRAPH, optimizer, gs.L1(0.1))
    # Four channels of the stream reach 0.1 · 10 · 0.01, three of the block 0.1 · 10 · 1.
    assert handle.forecast(10).reach == pytest.approx(0.01)


def test_a_forecast_without_an_optimizer_is_refused():
    model = residual_net()
    handle = gs.attach(model, GRAPH, torch.optim.SGD(model.parameters()), gs.L1(0.1))
    with pytest.raises(OptimizerError, match="its optimizer is gone"):
        handle.forecast(10)


def test_cost_weights_count():
    model, graph, optimizer = plain(1.0, 1.0, lr=0.1)
    weighted = gs.cost_weighted(gs.L1(1.0), graph, np.array([1.0, 4.0]))
    found = gs.attach(model, graph, optimizer, weighted).forecast(10)
    assert found.reach == pytest.approx(1.0)  # 0.4 and 1.6
    assert found.share == 0.5


def test_adam_goes_as_far_as_its_learning_rates():
    """λ cancels; once there is a second moment, it bounds the pace."""
    model, graph, optimizer = plain(1.0, 1.0, optimizer=torch.optim.Adam, lr=0.01)
    handle = gs.attach(model, graph, optimizer, gs.L1(1e-4))
    assert handle.forecast(10).reach == pytest.approx(0.1)
    assert handle.forecast(10).strength is None
    assert "λ hardly matters" in handle.forecast(10).note
    fill_gradients(model, 1.0)
    optimizer.step()
    slow = handle.forecast(10).reach
    assert slow < 0.1 * 1e-4 / 0.01


def test_unknown_optimizers_are_not_guessed_at():
    model, graph, optimizer = plain(1.0, optimizer=torch.optim.Adadelta, lr=0.01)
    found = gs.attach(model, graph, optimizer, gs.L1(1e-4), total_steps=10).forecast(10)
    assert np.isnan(found.reach)
    assert not found.falls_short
    assert "What Adadelta makes of λ is not known." in str(found)


def test_attaching_warns_when_the_budget_falls_short():
    model, graph, optimizer = plain(0.05, 0.2, 0.3, lr=0.1, momentum=0.9)
    text = r"at most 0\.1 in 10 steps; the median channel is 0\.2 .* strength of 0\.02 or more"
    with pytest.warns(GammaslimWarning, match=text):
        gs.attach(model, graph, optimizer, gs.L1(0.01), total_steps=10)


def test_attaching_is_silent_when_it_suffices():
    model, graph, optimizer = plain(0.05, 0.2, 0.3, lr=0.1, momentum=0.9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        handle = gs.attach(model, graph, optimizer, gs.L1(0.021), total_steps=10)
        handle.detach()
        gs.attach(model, graph, optimizer, gs.Budget(remove_channels=0.3, steps=20), total_steps=20)


def test_suggestion_is_what_the_forecast_asks_for():
    model, graph, optimizer = plain(0.05, 0.2, 0.3, lr=0.1, momentum=0.9)
    found = gs.suggest_strength(model, graph, optimizer, total_steps=10, margin=1.0)
    assert found == pytest.approx(0.02)
    assert gs.suggest_strength(model, graph, optimizer, total_steps=10) == pytest.approx(0.04)
    for penalty in (gs.L1, gs.GroupLasso, gs.Proximal, gs.Polarization):
        strength = gs.suggest_strength(
            model, graph, optimizer, total_steps=10, lr=0.05, penalty=penalty, margin=1.001
        )
        with gs.attach(model, graph, optimizer, penalty(strength)) as handle:
            assert not handle.forecast(10, lr=0.05).falls_short
        with gs.attach(model, graph, optimizer, penalty(0.9 * strength)) as handle:
            assert handle.forecast(10, lr=0.05).falls_short


def test_no_suggestion_where_strength_makes_no_difference():
    model, graph, optimizer = plain(1.0, optimizer=torch.optim.AdamW, lr=0.01)
    with pytest.raises(PenaltyError, match=r"AdamW divides gradients .* Proximal or Budget"):
        gs.suggest_strength(model, graph, optimizer, total_steps=10)
    strength = gs.suggest_strength(model, graph, optimizer, total_steps=10, penalty=gs.Proximal)
    assert strength == pytest.approx(2 * 1.0 / 0.1)
    with pytest.raises(PenaltyError, match=r"margin=0 was asked"):
        gs.suggest_strength(model, graph, optimizer, total_steps=10, margin=0)
    still = torch.optim.SGD(model.parameters(), lr=0.0)
    with pytest.raises(PenaltyError, match="their learning rate is 0"):
        gs.suggest_strength(model, graph, still, total_steps=10)


# Parameter groups


def test_scales_and_shifts_are_apart_and_not_decayed():
    model = residual_net()
    graph = gs.trace(model, torch.randn(1, 3, 4, 4))
    groups = {g["name"]: g for g in gs.param_groups(model, graph, weight_decay=0.1)}
    assert {name: group["weight_decay"] for name, group in groups.items()} == {
        "weights": 0.1,
        "biases": 0.0,
        "scales": 0.0,
        "shifts": 0.0,
    }
    ids = {id(p): name for name, p in model.named_parameters()}
    named = {name: {ids[id(p)] for p in group["params"]} for name, group in groups.items()}
    assert named["scales"] == {"bn_stem.weight", "bn_down.weight", "bn_up.weight"}
    assert named["shifts"] == {"bn_stem.bias", "bn_down.bias", "bn_up.bias"}
    assert named["biases"] == {"head.bias"}
    assert set.union(*named.values()) == set(ids.values())
    torch.optim.SGD(list(groups.values()), lr=0.1).step()


def test_torch_s_style_decays_biases_and_frozen_parameters_stay_out():
    model = residual_net()
    graph = gs.trace(model, torch.randn(1, 3, 4, 4))
    for parameter in (model.bn_stem.weight, model.bn_down.weight, model.bn_up.weight):
        parameter.requires_grad_(requires_grad=False)
    groups = gs.param_groups(model, graph, weight_decay=0.1, scale_decay=0.2, style="torch")
    decays = {group["name"]: group["weight_decay"] for group in groups}
    assert decays == {"weights": 0.1, "biases": 0.1, "shifts": 0.2}


def test_groups_refuse_what_makes_no_sense():
    model = residual_net()
    with pytest.raises(OptimizerError, match=r"style='keras' was asked; known are"):
        gs.param_groups(model, GRAPH, style="keras")
    with pytest.raises(OptimizerError, match=r"weight_decay=-1 was asked"):
        gs.param_groups(model, GRAPH, weight_decay=-1)
    with pytest.raises(OptimizerError, match=r"scale_decay=nan was asked"):
        gs.param_groups(model, GRAPH, scale_decay=float("nan"))
