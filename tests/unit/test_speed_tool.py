"""The benchmark of speed: what it counts, what it calls a shortfall, and its tables."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from bench.speed import ours
from bench.speed.ours import MOMENTS, RARE, Stepper, kernels
from bench.speed.tables import ASKED_KERNELS, Row, Step, markdown

GOOD = Step("CPU", "L1", 1e-4, 1e-2, 10.0, 4)
SETTING = {"repetitions": 5, "machine": "m", "threads": 1, "torch": "t", "steps_net": "resnet50"}


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


def test_training_pass_takes_time(net, monkeypatch):
    monkeypatch.setattr(ours, "BATCH", 2)
    before = [parameter.clone() for parameter in net.parameters()]
    assert ours.training_pass(net) > 0
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"ours": 0.2, "theirs": 9.0}, "takes 1 % of a training step or more"),
        ({"kernels": 12}, "computes 12 operators"),
        ({"theirs": 1e-3}, "is 10.0 times faster than the peer"),
        ({"device": "H200", "ours": 2e-4}, "takes 0.20 ms"),
        ({"ours": "fails: RuntimeError"}, "fails: RuntimeError"),
    ],
)
def test_shortfalls_are_said(changed, said):
    assert GOOD.shortfalls == []
    assert any(said in line for line in replace(GOOD, **changed).shortfalls)


def test_tables_are_for_readers():
    rows = [Row("resnet50", "L1, per step", 1e-4, "fails: TypeError")]
    text = markdown(rows, [GOOD, replace(GOOD, device="H200")], SETTING)
    assert "| resnet50 | L1, per step | 0.10 ms | fails: TypeError |  |" in text
    assert text.count("| L1 | 0.10 ms | 0.0010% | 4 | 100.0x |") == 2
    assert "take 10.00 s on the H200" in text
