"""The pictures and networks on which accuracies are compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
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


def test_pictures_have_the_promised_shapes_and_scale(drawn: glyphs.Glyphs) -> None:
    assert drawn.train_images.shape == (124, 1, 32, 32)
    assert drawn.test_images.shape == (100, 1, 32, 32)
    assert drawn.train_images.dtype == torch.float32
    assert drawn.train_labels.dtype == torch.int64
    assert drawn.train_images.mean().item() == pytest.approx(0, abs=1e-4)
    assert drawn.train_images.std().item() == pytest.approx(1, abs=1e-4)
    assert drawn.test_images.std().item() == pytest.approx(1, abs=0.1)


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


def test_clean_print_is_the_template_in_black_or_white() -> None:
    """Difficulty 0: neither neighbours nor noise, nothing turned: ink or paper, and the rim."""
    clean = glyphs.draw(glyphs.Recipe(train=62, test=1, difficulty=0)).train_images
    for picture in clean:
        paper = picture[0, 0, 0]
        assert (picture == paper).double().mean().item() > 0.5
        assert (picture != paper).any()


def test_harder_pictures_are_noisier() -> None:
    """The rim's corner pixels hold no character, only background, neighbours and noise."""
    spread = [
        glyphs.draw(glyphs.Recipe(train=124, test=1, difficulty=hard)).train_images[:, 0, 0, :3]
        for hard in (0.2, 1.0)
    ]
    assert spread[0].std(dim=1).mean() < 0.5 * spread[1].std(dim=1).mean()


def test_fonts_of_symbols_are_left_out() -> None:
    names = {path.stem for path in glyphs.fonts()}
    assert {"DejaVuSans", "STIXGeneral", "cmr10"} <= names
    assert not {"cmsy10", "cmex10", "cmmi10", "LastResortHE-Regular", "STIXNonUni"} & names


def test_every_template_holds_ink_and_touches_no_edge() -> None:
    shapes = glyphs.templates()
    assert shapes.shape == (62, len(glyphs.fonts()), 64, 64)
    assert (shapes.amax(dim=(2, 3)) > 0.5).all()
    edges = torch.cat([shapes[..., 0, :], shapes[..., -1, :], shapes[..., 0], shapes[..., -1]], -1)
    assert not edges.any()


def test_a_second_load_reads_what_the_first_has_drawn(tmp_path: Path) -> None:
    first = glyphs.load(SMALL, cache=tmp_path)
    (stored,) = tmp_path.iterdir()
    assert equal(first, glyphs.load(SMALL, cache=tmp_path))
    with np.load(stored) as held:
        changed = {name: held[name] for name in held.files}
    changed["test_labels"][:] = 7
    np.savez(stored, **changed)
    assert (glyphs.load(SMALL, cache=tmp_path).test_labels == 7).all()
    assert equal(first, glyphs.load(SMALL, cache=None))


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


@pytest.mark.parametrize("name", nets.NETWORKS)
def test_networks_give_logits_and_train(name: str, drawn: glyphs.Glyphs) -> None:
    model = nets.build(name, seed=0)
    logits = model(drawn.train_images[:8])
    assert logits.shape == (8, 62)
    nn.functional.cross_entropy(logits, drawn.train_labels[:8]).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", nets.NETWORKS)
def test_the_seed_alone_decides_the_start(name: str) -> None:
    def start(seed: int) -> torch.Tensor:
        return torch.cat([p.flatten() for p in nets.build(name, seed=seed).parameters()])

    before = torch.get_rng_state()
    assert torch.equal(start(3), start(3))
    assert not torch.equal(start(3), start(4))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("make", nets.NETWORKS.values(), ids=list(nets.NETWORKS))
def test_networks_run_when_cut(make: Callable[[float], nn.Module]) -> None:
    model, inputs = make(1.0), torch.randn(4, 1, 32, 32)
    graph = gs.trace(model, inputs[:1])
    plan = gs.select(graph, gs.scores(model, graph), keep_macs=0.3, scope="group")
    outcome = gs.prune(model, graph, plan)
    assert outcome.after.macs <= 0.3 * outcome.before.macs
    assert model(inputs).shape == (4, 62)
