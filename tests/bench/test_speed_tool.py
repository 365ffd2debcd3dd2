"""The benchmark of speed: what it counts, and what it calls a shortfall."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from bench.speed import ours
from bench.speed.ours import MOMENTS, RARE, Stepper, kernels
from bench.speed.tables import ASKED_KERNELS, Step

GOOD = Step("CPU", "L1", 1e-4, 1e-2, 10.0, 4)


@pytest.fixture
def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2),
        nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
    )  # fmt: skip


@pytest.mark.parametrize("name", [name for name in MOMENTS if name != RARE])
def test_penalties_compute_few_operators(net, name):
    """Each is a kernel on a GPU, where launching them is what a penalty costs."""
    assert kernels(net, name) < ASKED_KERNELS


def test_penalties_do_compute(net):
    """The copy that is measured has gradients to add to."""
    assert kernels(net, "L1") >= 2
    assert kernels(net, "GroupLasso") > kernels(net, "L1")


def test_operators_are_counted_views_are_not():
    values = torch.ones(4)
    with ours.Kernels() as mode:
        parts = values.mul(2).add_(1).split([1, 3])
        torch._foreach_mul_(list(parts), 2.0)
    assert mode.count == 3


def test_a_budget_is_measured_at_its_moments(net):
    """Only the rare step chooses; a settled budget no longer looks at gradients."""
    chosen = {}
    for name in ("Budget, watching", "Budget, choosing", "Budget, settled"):
        stepper = Stepper(net, MOMENTS[name])
        stepper.reset()
        stepper.step()
        state = stepper.handle.state_dict()
        assert state["steps"] == MOMENTS[name].step + 1
        chosen[name] = bool(state["settling"]["chosen"].any())
    assert chosen == {"Budget, watching": False, "Budget, choosing": True, "Budget, settled": False}


@pytest.mark.parametrize(
    "changed",
    [
        {"ours": 0.2, "theirs": 9.0},  # a training step takes 10
        {"kernels": 12},
        {"theirs": 1e-3},
        {"device": "H200", "ours": 2e-4},
        {"ours": "fails: RuntimeError"},
    ],
)
def test_shortfalls_are_found(changed):
    assert not GOOD.shortfalls
    assert len(replace(GOOD, **changed).shortfalls) == 1
