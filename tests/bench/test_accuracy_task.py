"""The pictures and networks on which accuracies are compared."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import gammaslim as gs
from bench.accuracy import glyphs, nets

SMALL = glyphs.Recipe(train=124, test=100)


def equal(left: glyphs.Glyphs, right: glyphs.Glyphs) -> bool:
    pairs = zip(vars(left).values(), vars(right).values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.fixture(scope="module")
def drawn() -> glyphs.Glyphs:
    return glyphs.draw(SMALL)


def test_classes_are_balanced_and_in_no_order(drawn: glyphs.Glyphs) -> None:
    assert drawn.train_labels.bincount(minlength=62).tolist() == [2] * 62
    assert set(drawn.test_labels.bincount(minlength=62).tolist()) == {1, 2}
    assert not torch.equal(drawn.train_labels, drawn.train_labels.sort().values)


def test_one_seed_draws_the_same_again_and_another_does_not(drawn: glyphs.Glyphs) -> None:
    before = torch.get_rng_state()
    assert equal(drawn, glyphs.draw(SMALL))
    assert not equal(drawn, glyphs.draw(glyphs.Recipe(train=124, test=100, seed=1)))
    assert torch.equal(before, torch.get_rng_state())


def test_no_test_picture_is_a_training_picture(drawn: glyphs.Glyphs) -> None:
    distances = torch.cdist(drawn.test_images.flatten(1), drawn.train_images.flatten(1))
    assert distances.min().item() > 1


# Multiply-accumulates worked out by hand, layer by layer: output pixels · kernel · in · out.
BY_HAND = {
    "vgg": 1024 * 9 * 16
    + 256 * 9 * (16 * 32 + 32 * 32)
    + 64 * 9 * (32 * 64 + 64 * 64)
    + 16 * 9 * (64 * 128 + 128 * 128)
    + 128 * 62,
    "resnet20": 256 * 9 * (16 + 6 * 16 * 16)
    + 64 * (9 * (16 * 32 + 5 * 32 * 32) + 16 * 32)
    + 16 * (9 * (32 * 64 + 5 * 64 * 64) + 32 * 64)
    + 64 * 62,
    "mobilenet": 256 * 9 * 16
    + 256 * (16 * 64 + 9 * 64 + 64 * 16)
    + (256 * 16 * 64 + 64 * (9 * 64 + 64 * 24))
    + 2 * 64 * (24 * 96 + 9 * 96 + 96 * 24)
    + (64 * 24 * 96 + 16 * (9 * 96 + 96 * 48))
    + 2 * 16 * (48 * 192 + 9 * 192 + 192 * 48)
    + 16 * 48 * 128
    + 128 * 62,
}


@pytest.mark.parametrize("name", nets.NETWORKS)
def test_networks_cost_what_was_worked_out(name: str) -> None:
    graph = gs.trace(nets.build(name, seed=0), torch.zeros(1, 1, 32, 32))
    assert graph.cost().macs == BY_HAND[name]


@pytest.mark.parametrize("width", [0.3, 1.0, 1.5])
@pytest.mark.parametrize("name", nets.NETWORKS)
def test_networks_trace_fully_at_every_width(name: str, width: float) -> None:
    graph = gs.trace(nets.build(name, seed=0, width=width), torch.zeros(1, 1, 32, 32))
    assert graph.coverage > 0.9
    assert not graph.notes


@pytest.mark.parametrize("make", nets.NETWORKS.values(), ids=list(nets.NETWORKS))
def test_networks_run_when_cut(make: Callable[[float], nn.Module]) -> None:
    model, inputs = make(1.0), torch.randn(4, 1, 32, 32)
    graph = gs.trace(model, inputs[:1])
    plan = gs.select(graph, gs.scores(model, graph), keep_macs=0.3, scope="group")
    outcome = gs.prune(model, graph, plan)
    assert outcome.after.macs <= 0.3 * outcome.before.macs
    assert model(inputs).shape == (4, 62)
