"""Cuts while training goes on: the next steps are those of the masked network."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import gammaslim as gs
from gammaslim.errors import PenaltyError, StaleGraphError, TargetError
from gammaslim.training.shrinking import loudness, shrink_every
from tests.handmade import PlainNet

IMAGES = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(64) % 2
STEPS = 40
OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.001, momentum=0.5),
}


class Residual(nn.Module):
    """A stream and two branches, in double precision so that rounding tells nothing."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.down, self.bn_down = nn.Conv2d(12, 10, 3, padding=1, bias=False), nn.BatchNorm2d(10)
        self.up, self.bn_up = nn.Conv2d(10, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.head = nn.Linear(12, 2)

    def forward(self, x):
        x = self.bn(self.stem(x)).relu()
        x = (x + self.bn_up(self.up(self.bn_down(self.down(x)).relu()))).relu()
        return self.head(x.mean((2, 3)))


def network():
    torch.manual_seed(0)
    return Residual().double()


def step(model, optimizer, turn):
    """One step on its own part of the data; the loss."""
    model.train()
    part = slice(16 * (turn % 4), 16 * (turn % 4) + 16)
    optimizer.zero_grad()
    loss = functional.cross_entropy(model(IMAGES[part].double()), LABELS[part])
    loss.backward()
    optimizer.step()
    return loss.item()


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
@pytest.mark.parametrize("penalty", ["Budget", "Proximal", "cost_weighted"])
def test_the_loss_goes_on_as_if_nothing_had_happened(optimizer_name, penalty):
    """The masked network trains on beside it: the same losses, the same scales, less work."""

    def made(graph, optimizer):
        if penalty == "Budget":
            return gs.Budget(keep_macs=0.5, steps=STEPS)
        # So strong that what is zero stays zero, whatever its gradient.
        proximal = gs.Proximal(0.045 / optimizer.param_groups[0]["lr"])
        return gs.cost_weighted(proximal, graph, "params") if penalty != "Proximal" else proximal

    losses, models = [], []
    for cuts in (False, True):
        model = network()
        graph = gs.trace(model, IMAGES[:2].double())
        optimizer = OPTIMIZERS[optimizer_name](model.parameters())
        handle = gs.attach(model, graph, optimizer, made(graph, optimizer))
        losses.append([])
        for turn in range(STEPS):
            losses[-1].append(step(model, optimizer, turn))
            if cuts and turn == 24:
                plan = gs.select(graph, loudness(model, graph), threshold=0.0)
                assert plan.kept
                gs.prune(model, graph, plan, optimizer=optimizer, handle=handle)
                assert handle.graph is not graph
                assert handle.stats().dead <= 1  # of a branch that is dead, one channel stays
        models.append(model)
    masked, cut = models
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-7, atol=1e-9)
    assert cut.bn_down.num_features < masked.bn_down.num_features
    for name in ("bn", "bn_down", "bn_up"):
        expected, found = (getattr(model, name).weight for model in models)
        torch.testing.assert_close(found[found != 0], expected[expected != 0], rtol=1e-6, atol=0)


def test_an_average_goes_on_too():
    model = network()
    graph = gs.trace(model, IMAGES[:2].double())
    optimizer = OPTIMIZERS["SGD"](model.parameters())
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    handle = gs.attach(model, graph, optimizer, gs.Budget(keep_macs=0.5, steps=STEPS), ema=ema)
    for turn in range(STEPS):
        step(model, optimizer, turn)
        ema.update_parameters(model)
        if turn == 24:
            expected = copy.deepcopy(ema).eval()(IMAGES.double())
            gs.prune(model, graph, handle.plan(), optimizer=optimizer, handle=handle, ema=ema)
            found = ema.eval()(IMAGES.double())
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert ema.module.bn_down.num_features == model.bn_down.num_features
    assert torch.isfinite(ema(IMAGES.double())).all()
    model.bn_down.weight.data[0] = 0.0
    assert handle.stats().dead == 0  # its shift is not zero


def test_shrink_every_cuts_what_has_become_zero():
    model = network()
    graph = gs.trace(model, IMAGES[:2].double())
    optimizer = OPTIMIZERS["SGD"](model.parameters())
    handle = gs.attach(model, graph, optimizer, gs.Proximal(0.9))
    shrink = shrink_every(10, model, handle, optimizer)
    cuts = {}
    for turn in range(STEPS):
        step(model, optimizer, turn)
        outcome = shrink()
        if outcome is not None:
            cuts[turn + 1] = outcome.after.macs
    assert set(cuts) <= {10, 20, 30, 40}
    assert cuts
    assert list(cuts.values()) == sorted(cuts.values(), reverse=True)
    assert [each.after.macs for each in shrink.outcomes] == list(cuts.values())
    assert (loudness(model, handle.graph)[handle.graph.prunable & handle.graph.scored] > 0).any()


def test_shrink_every_waits_for_a_budget():
    model = network()
    graph = gs.trace(model, IMAGES[:2].double())
    optimizer = OPTIMIZERS["AdamW"](model.parameters())
    handle = gs.attach(model, graph, optimizer, gs.Budget(keep_macs=0.5, steps=STEPS))
    shrink = shrink_every(4, model, handle, optimizer)
    turns = [turn for turn in range(STEPS) if [step(model, optimizer, turn), shrink()][1]]
    assert turns == [15]
    assert shrink.outcomes[0].after.macs <= 0.5 * shrink.outcomes[0].before.macs
    assert handle.plan().kept == {}


def test_resuming_after_a_cut_is_going_on(tmp_path):
    """Weights from the file, and the states of optimizer and handle: bit for bit the same."""

    def begun(model):
        graph = gs.trace(model, IMAGES[:2].double())
        optimizer = OPTIMIZERS["SGD"](model.parameters())
        handle = gs.attach(model, graph, optimizer, gs.Budget(keep_macs=0.5, steps=STEPS))
        return optimizer, handle

    first = network()
    optimizer, handle = begun(first)
    for turn in range(25):
        step(first, optimizer, turn)
    gs.prune(first, handle.graph, handle.plan(), optimizer=optimizer, handle=handle)
    gs.save(first, tmp_path / "slim.safetensors")
    states = copy.deepcopy([optimizer.state_dict(), handle.state_dict()])
    second = gs.load(Residual().double(), tmp_path / "slim.safetensors")
    other, again = begun(second)
    other.load_state_dict(states[0])
    again.load_state_dict(states[1])
    for turn in range(25, STEPS):
        assert step(first, optimizer, turn) == step(second, other, turn)


# Refusals


def test_cuts_that_a_handle_cannot_follow_are_refused():
    model = network()
    graph = gs.trace(model, IMAGES[:2].double())
    optimizer = OPTIMIZERS["SGD"](model.parameters())
    handle = gs.attach(model, graph, optimizer, gs.Budget(keep_macs=0.5, steps=STEPS))
    plan = gs.select(graph, gs.scores(model, graph), remove_channels=0.5)
    with pytest.raises(PenaltyError, match=r"after 0 steps .* shrinks until step 16"):
        gs.prune(model, graph, plan, optimizer=optimizer, handle=handle)
    assert model.bn.num_features == 12
    handle.detach()
    other = gs.trace(model, IMAGES[:2].double())
    handle = gs.attach(model, other, optimizer, gs.Proximal(1.0))
    with pytest.raises(StaleGraphError, match=r"Select from handle\.graph"):
        gs.prune(model, graph, plan, optimizer=optimizer, handle=handle)
    assert model.bn.num_features == 12


@pytest.mark.parametrize("n_steps", [0, -1, 2.5, True])
def test_shrinking_needs_a_number_of_steps(n_steps):
    with pytest.raises(TargetError, match="an integer above 0 is needed"):
        shrink_every(n_steps, None, None, None)


def test_loudness_looks_at_scales_and_shifts():
    """A zero scale with a shift is not silent."""
    torch.manual_seed(0)
    model = PlainNet([8, 6])
    graph = gs.trace(model, IMAGES[:2])
    with torch.no_grad():
        model.bn0.weight[:3] = 0.0
        model.bn0.bias[:3] = 0.0
        model.bn1.weight[0] = 0.0
        model.bn1.bias[0] = 0.5
    found = loudness(model, graph)
    assert (found[graph.sites[("bn0.weight", 0)]][:3] == 0).all()
    assert found[graph.sites[("bn1.weight", 0)]][0] == 0.5
