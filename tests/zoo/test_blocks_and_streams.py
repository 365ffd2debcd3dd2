"""Branches that leave, and streams of which every reader takes its own, in real networks."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import gammaslim as gs
from bench import oracle

IMAGE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
SLOW = pytest.mark.slow


def named(name: str) -> nn.Module:
    """A network of torchvision or timm, with fresh weights."""
    library, _, own = name.partition(":")
    if library == "torchvision":
        import torchvision

        return torchvision.models.get_model(own, num_classes=10)
    import timm

    return timm.create_model(own, num_classes=10)


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("torchvision:resnet18", 8),
        ("torchvision:mobilenet_v2", 10),
        ("timm:regnety_002", 16),
        pytest.param("torchvision:resnet50", 32, marks=SLOW),
        pytest.param("torchvision:densenet121", 58, marks=SLOW),
        pytest.param("timm:efficientnet_b0", 25, marks=SLOW),
        pytest.param("timm:res2net50_26w_4s", 16, marks=SLOW),
        pytest.param("timm:dla34", 12, marks=SLOW),
        pytest.param("timm:hrnet_w18_small", 35, marks=SLOW),
        pytest.param("timm:xception71", 22, marks=SLOW),
        pytest.param("timm:tresnet_m", 50, marks=SLOW),
        pytest.param("timm:dpn68", 37, marks=SLOW),
    ],
)
def test_branches_leave(name: str, least: int, tmp_path: object) -> None:
    """``least`` groups may be emptied; three of them are, then a third of what is left is cut."""
    torch.manual_seed(0)
    model = named(name)
    oracle.randomise_batchnorms(model, 1)
    graph = gs.trace(model.eval(), IMAGE)
    may = np.flatnonzero(graph.dead_layers.may_be_empty())
    assert len(may) >= least
    rng = np.random.default_rng(0)
    scores = rng.uniform(0.1, 1, graph.num_channels)
    for index in rng.choice(may, 3, replace=False):
        scores[graph.groups[index].channels] = 0
    plan = gs.select(graph, scores, threshold=0.05, min_channels=0)
    assert plan.remnants
    before = oracle.masked_by(model, graph, graph.keep_mask(plan))
    cut = copy.deepcopy(model)
    outcome = gs.prune(cut, graph, plan, fold=False)
    assert oracle.drift(oracle.outputs(before, IMAGE), oracle.outputs(cut, IMAGE)) <= 1e-4
    oracle.check_cost(cut, outcome.after, IMAGE)
    again = gs.trace(cut, IMAGE)
    assert again.cost() == outcome.after == outcome.graph.cost()
    later = gs.select(outcome.graph, oracle.random_scores(outcome.graph, 1), remove_channels=0.3)
    gs.prune(cut, outcome.graph, later)
    gs.save(cut, f"{tmp_path}/slim.safetensors")
    loaded = gs.load(copy.deepcopy(model), f"{tmp_path}/slim.safetensors")
    assert oracle.drift(oracle.outputs(cut, IMAGE), oracle.outputs(loaded, IMAGE)) == 0
    oracle.check_training(cut, IMAGE)


@pytest.mark.parametrize(
    ("name", "scales"),
    [
        ("timm:resnetv2_50", 22720),
        pytest.param("torchvision:densenet121", 41376, marks=SLOW),
    ],
)
def test_readers_take_their_own(name: str, scales: int) -> None:
    """As many channels with a scale as that, and the law for half of them."""
    torch.manual_seed(0)
    graph = oracle.check_law(named(name), IMAGE, 0.5, 0, select_inputs=True)
    assert graph.coverage == 1
    assert graph.scored.sum() == scales
