"""Every optimizer, in every form it has, against the formula added by hand before a stock one."""

import pytest
import torch
from torch import nn

import gammaslim as gs
from gammaslim.training.connecting import attach
from tests.training.common import (
    CLOSE,
    add_group_lasso,
    add_l1,
    add_polarization,
    scales_of,
    shrink,
    small_net,
    traced,
    train,
)

STEPS = 8
GRAPH = traced(small_net())
WEIGHTED = gs.cost_weighted(gs.GroupLasso(0.02), GRAPH)

TERMS = {
    "L1": (gs.L1(0.02), lambda model: add_l1(model, GRAPH, 0.02)),
    "GroupLasso": (gs.GroupLasso(0.02), lambda model: add_group_lasso(model, GRAPH, 0.02)),
    "GroupLasso-mean": (
        gs.GroupLasso(0.02, reduce="mean"),
        lambda model: add_group_lasso(model, GRAPH, 0.02, mean=True),
    ),
    "Polarization": (
        gs.Polarization(0.02, t=1.2),
        lambda model: add_polarization(model, GRAPH, 0.02, 1.2),
    ),
    "cost_weighted": (
        WEIGHTED,
        lambda model: add_group_lasso(model, GRAPH, 0.02, weights=WEIGHTED.weights),
    ),
}

OPTIMIZERS = {
    "SGD": (torch.optim.SGD, {"lr": 0.1}),
    "SGD-nesterov": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "Adam": (torch.optim.Adam, {"lr": 0.02}),
    "AdamW": (torch.optim.AdamW, {"lr": 0.02, "weight_decay": 0.1}),
    "RMSprop": (torch.optim.RMSprop, {"lr": 0.005, "momentum": 0.5}),
}
FORMS = {
    "loop": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}
CASES = [
    (optimizer, form)
    for optimizer in OPTIMIZERS
    for form in FORMS
    if (optimizer, form) != ("RMSprop", "fused")  # which PyTorch does not have
]


def make(optimizer: str, form: str, model: nn.Module):
    kind, options = OPTIMIZERS[optimizer]
    return kind(model.parameters(), **options, **FORMS[form])


def plain(optimizer: str, **hooks) -> nn.Module:
    """The same training with a stock optimizer and the hooks given."""
    model = small_net()
    stock = make(optimizer, "loop", model)
    train(model, stock, STEPS, **{name: lambda _, f=f: f(model) for name, f in hooks.items()})
    return model


@pytest.fixture(scope="module")
def reference():
    """Scales after a plain training, each computed once."""
    known: dict[tuple[str, str], torch.Tensor] = {}

    def get(optimizer: str, penalty: str) -> torch.Tensor:
        key = (optimizer, penalty)
        if key not in known:
            model = plain(optimizer, before=TERMS[penalty][1])
            known[key] = scales_of(model, GRAPH)
        return known[key]

    return get


@pytest.mark.parametrize("penalty", TERMS)
@pytest.mark.parametrize(("optimizer", "form"), CASES)
def test_gradient_penalties_equal_the_formula_before_a_stock_step(
    optimizer, form, penalty, reference
):
    """After several steps, so that momentum and second moments have seen the terms too."""
    model = small_net()
    ours = make(optimizer, form, model)
    attach(model, GRAPH, ours, TERMS[penalty][0])
    train(model, ours, STEPS)
    torch.testing.assert_close(scales_of(model, GRAPH), reference(optimizer, penalty), **CLOSE)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_references_differ_from_a_training_without_penalty(optimizer, reference):
    """Else the tests above could not fail."""
    without = scales_of(plain(optimizer), GRAPH)
    for penalty in TERMS:
        assert (reference(optimizer, penalty) - without).abs().max() > 1e-3


@pytest.mark.parametrize(("optimizer", "form"), CASES)
def test_proximal_equals_the_formula_after_a_stock_step(optimizer, form):
    """With some channels at exactly zero by then, in both."""
    rate = OPTIMIZERS[optimizer][1]["lr"]
    strength = 0.9 / (rate * STEPS)
    expected = plain(optimizer, after=lambda model: shrink(model, GRAPH, strength, rate))
    model = small_net()
    ours = make(optimizer, form, model)
    attach(model, GRAPH, ours, gs.Proximal(strength))
    train(model, ours, STEPS)
    found, wanted = scales_of(model, GRAPH), scales_of(expected, GRAPH)
    torch.testing.assert_close(found, wanted, **CLOSE)
    assert torch.equal(found == 0, wanted == 0)
    assert 0 < (found == 0).sum() < len(found)
