"""The law on torchvision's classifiers, each cut by 30 % of its channels at random."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

import gammaslim as gs
from tests import oracle

models = pytest.importorskip("torchvision.models")


@dataclass(frozen=True)
class Entry:
    """A constructor by name, the image size to run it at, and its further arguments."""

    name: str
    size: int = 64
    arguments: tuple[tuple[str, Any], ...] = ()
    slow: bool = False
    coverage: float = 0.95


PLAIN = (("init_weights", False),)
ENTRIES = (
    Entry("resnet18"),
    Entry("resnet50"),
    Entry("vgg16_bn"),
    Entry("densenet121"),
    Entry("mobilenet_v2"),
    Entry("mobilenet_v3_small"),
    Entry("mobilenet_v3_large"),
    Entry("efficientnet_b0"),
    Entry("regnet_y_400mf"),
    Entry("resnext50_32x4d"),
    Entry("googlenet", 96, (*PLAIN, ("aux_logits", True))),
    Entry("inception_v3", 299, PLAIN),
    Entry("mnasnet1_0"),
    Entry("shufflenet_v2_x0_5"),
    Entry("shufflenet_v2_x1_0"),
)


def parameter(entry: Entry) -> Any:
    """The entry as a pytest parameter, marked where it is slow."""
    return pytest.param(entry, id=entry.name, marks=[pytest.mark.slow] if entry.slow else [])


def build(entry: Entry) -> nn.Module:
    """The network with reproducible random weights."""
    make: Callable[..., nn.Module] = getattr(models, entry.name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make(weights=None, num_classes=10, **dict(entry.arguments))


def inputs_of(entry: Entry) -> torch.Tensor:
    """Two images of noise."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, entry.size, entry.size, generator=generator)


def tame_batchnorms(model: nn.Module, inputs: torch.Tensor, seed: int) -> None:
    """Lively scales and shifts, and running statistics that fit them.

    Random statistics would let a hundred layers blow up or die out; a few batches in training mode
    with all randomness seeded keep every layer at a scale of one.
    """
    oracle.randomise_batchnorms(model, seed)
    model.train()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for _ in range(3):
            oracle.call(model, inputs + 0.3 * torch.randn_like(inputs))


@pytest.mark.parametrize("entry", [parameter(entry) for entry in ENTRIES])
def test_cut_classifier(entry: Entry) -> None:
    """Drift, coverage, numbers of modules, cost, and training of the cut network."""
    model, inputs = build(entry), inputs_of(entry)
    tame_batchnorms(model, inputs, 0)
    graph = gs.trace(model, inputs)
    assert graph.coverage >= entry.coverage, [str(one) for one in graph.frozen]
    plan = gs.select(graph, oracle.random_scores(graph, 0), remove_channels=0.3)
    masked = oracle.masked_copy(model, plan)
    outcome = gs.prune(model, graph, plan)
    assert outcome.drift <= 1e-4
    if graph.exact[oracle.removed(graph, plan)].all():
        oracle.check_agreement(masked, model, plan, inputs)
    oracle.check_attributes(model)
    oracle.check_cost(model, outcome.after, inputs)
    assert outcome.after.macs < 0.9 * outcome.before.macs
    oracle.check_training(model, copy.deepcopy(inputs))
