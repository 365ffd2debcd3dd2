"""Coverage counts every BatchNorm scale of the network, and each that may not go has a reason."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import gammaslim as gs
from gammaslim.channels.graph import cut_by
from gammaslim.channels.remaining_graph import narrowed
from tests.nets.case import Case, Head, cbr, image
from tests.zoo_small import NAMES, ZOO


def check_adds_up(graph: gs.ChannelGraph, model: nn.Module) -> None:
    """What is frozen and what may go are all scales of all BatchNorm modules, each once."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.weight is not None]
    total = sum(weight.numel() for weight in {norm.weight for norm in norms})
    lost = sum(one.scales for one in graph.frozen)
    assert sum(one.channels for one in graph.frozen) == np.count_nonzero(~graph.prunable)
    assert graph.coverage == pytest.approx((total - lost) / total)
    assert all(one.reason for one in graph.frozen)


@pytest.mark.parametrize("case", ZOO, ids=NAMES)
def test_frozen_and_free_scales_are_all_scales(case: Case) -> None:
    """On every network of the small zoo, before a cut and after."""
    model, inputs = case.model(), case.inputs()
    try:
        graph = gs.trace(model, inputs)
        check_adds_up(graph, model)
        plan = gs.select(graph, np.arange(graph.num_channels, dtype=float), remove_channels=0.2)
        cut = cut_by(graph, plan)
        gs.prune(model, graph, plan)
    except gs.TargetError:
        return
    except gs.GammaslimError:
        assert case.refusable
        return
    check_adds_up(narrowed(cut), model)


class Neighbours(nn.Module):
    """ECA: a convolution slides over the pooled channels, and its sigmoid gates them."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after, self.head = cbr(3, 10), cbr(10, 6), Head(6)
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        gate = torch.sigmoid(self.conv(x.mean((2, 3))[:, None])).transpose(1, 2)
        return self.head(self.after(x * gate[..., None]))


def test_a_convolution_over_channels_is_told() -> None:
    """The ten channels that it slides over are frozen, and where that happens is said."""
    graph = gs.trace(Neighbours(), image())
    assert graph.coverage == 6 / 16
    stuck = [one for one in graph.frozen if one.scales]
    (said,) = ((one.reason, one.operator, one.module, one.scales) for one in stuck)
    assert said == ("a convolution runs along it", "aten.convolution", "conv", 10)


class Lonely(nn.Module):
    """A stream, a branch that ends in a map of one normalised channel, and a norm nobody calls."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = cbr(3, 16), Head(16)
        self.down, self.mask, self.up = cbr(16, 4), cbr(4, 1), nn.Conv2d(1, 16, 1)
        self.never = nn.BatchNorm2d(7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.up(self.mask(self.down(x))))


def test_scales_that_no_run_meets_or_that_stand_alone_are_counted() -> None:
    """One of a dimension of size 1, seven of a layer that never runs."""
    model = Lonely()
    graph = gs.trace(model, image())
    check_adds_up(graph, model)
    assert graph.coverage == 20 / 28
    reasons = {one.reason: one.scales for one in graph.frozen if one.scales}
    assert reasons == {
        "no forward pass reaches it": 7,
        "removing it would leave nothing of a dimension": 1,
    }


def test_frozen_scales_leave_with_their_layers() -> None:
    """Without the branch the scale that stood alone is gone, and so is its reason."""
    model = Lonely()
    graph = gs.trace(model, image())
    scores = np.ones(graph.num_channels)
    scores[graph.sites["down.0.weight", 0]] = 0
    plan = gs.select(graph, scores, threshold=0.5, min_channels=0)
    left = narrowed(cut_by(graph, plan))
    gs.prune(model, graph, plan)
    check_adds_up(left, model)
    assert left.coverage == 16 / 23
