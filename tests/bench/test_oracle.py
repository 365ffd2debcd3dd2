"""The oracle itself: a broken network is caught, a right one is not, rounding is neither."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import gammaslim as gs
from bench import oracle


class Normed(nn.Module):
    """A BatchNorm whose channels two other norms count."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.layer, self.group = nn.LayerNorm(8), nn.GroupNorm(1, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x)).relu().mean((2, 3))
        return self.head(self.group(self.layer(x)))


def cut_in_half(model: nn.Module, inputs: Tensor) -> tuple[nn.Module, gs.Plan]:
    """A cut copy and its plan; channels are removed at random."""
    oracle.settle(model, inputs, seed=0)
    graph = gs.trace(model, inputs)
    plan = gs.select(graph, oracle.random_scores(graph, 0), remove_channels=0.5)
    cut = copy.deepcopy(model)
    gs.prune(cut, graph, plan, verify=False)
    return cut, plan


@pytest.fixture
def inputs() -> Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_masked_norms_count_what_is_kept(inputs: Tensor) -> None:
    """Without that, the masked network is no reference for LayerNorm and GroupNorm."""
    model = Normed()
    cut, plan = cut_in_half(model, inputs)
    masked = oracle.masked_copy(model, plan)
    assert oracle.Pair(masked, cut, plan, inputs).compared().holds
    assert oracle.drift(oracle.outputs(masked, inputs), oracle.outputs(cut, inputs)) > 1e-2


def test_rolled_weights_are_caught_and_put_back(inputs: Tensor) -> None:
    model = Normed()
    cut, plan = cut_in_half(model, inputs)
    before = copy.deepcopy(cut.state_dict())
    found = oracle.Pair(oracle.masked_copy(model, plan), cut, plan, inputs).controls()
    assert found
    assert all(one.caught for one in found)
    assert all(torch.equal(before[name], tensor) for name, tensor in cut.state_dict().items())


def test_a_layer_that_is_not_called_any_more_is_a_drift(inputs: Tensor) -> None:
    model = Normed()
    cut, plan = cut_in_half(model, inputs)
    cut.norm = nn.Identity()
    finding = oracle.Pair(oracle.masked_copy(model, plan), cut, plan, inputs).compared()
    assert finding.drift == float("inf")
    assert finding.first == "norm"


def test_magnified_rounding_is_judged_in_double_precision(inputs: Tensor) -> None:
    """Large numbers that cancel leave a drift of mere rounding; a rolled weight still shows."""
    model = Normed()
    cut, plan = cut_in_half(model, inputs)
    masked = oracle.masked_copy(model, plan)
    for network in (masked, cut):
        network.conv.bias.data += 1e4  # in steps of 0.001
        network.norm.running_mean += 1e4
    cut.conv.weight.data *= 1 + 1e-5
    pair = oracle.Pair(masked, cut, plan, inputs)
    assert not pair.compared().holds
    precise, finding = oracle.judged(pair)
    assert finding.holds
    assert all(one.caught for one in precise.controls())
