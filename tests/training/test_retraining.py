"""From scratch and distilled."""

import copy

import pytest
import torch
from torch import nn

import gammaslim as gs
from gammaslim.errors import GammaslimError
from gammaslim.training.retraining import distillation_loss, reset_parameters
from tests.handmade import PlainNet


def test_a_cut_network_is_drawn_anew():
    torch.manual_seed(0)
    model = PlainNet([8, 6])
    with torch.no_grad():
        model.bn0.weight.uniform_(0.1, 0.9)
    x = torch.randn(4, 3, 8, 8)
    graph = gs.trace(model, x)
    gs.prune(model, graph, gs.select(graph, gs.scores(model, graph), remove_channels=0.5))
    model(x)
    shapes = {name: p.shape for name, p in model.state_dict().items()}
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(1)
    assert reset_parameters(model) is model
    assert {name: p.shape for name, p in model.state_dict().items()} == shapes
    assert not torch.equal(before["conv0.weight"], model.conv0.weight)
    assert (model.bn0.weight == 1).all()
    assert (model.bn0.running_mean == 0).all()
    bound = (3 * 9) ** -0.5  # of a uniform draw over the fan-in of three colours
    assert model.conv0.weight.abs().max() <= bound
    again = copy.deepcopy(model)
    torch.manual_seed(1)
    reset_parameters(again)
    assert torch.equal(again.conv0.weight, model.conv0.weight)


def test_parameters_that_nobody_can_draw_are_refused():
    class Gain(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.ones(3))

    model = nn.Sequential(nn.Linear(3, 3), Gain())
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(GammaslimError, match=r"but 1 \(Gain\) holds 'gain' and has no reset_"):
        reset_parameters(model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_distillation_by_hand():
    """Two classes: KL of (0.5, 0.5) against (p, 1 - p) is log 0.5 - (log p + log(1 - p)) / 2."""
    student, teacher = torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 1.0]])
    p = torch.sigmoid(torch.tensor(1.0))
    expected = 4 * (torch.log(torch.tensor(0.5)) - (p.log() + (1 - p).log()) / 2)
    torch.testing.assert_close(distillation_loss(student, teacher, temperature=2.0), expected)


def test_distillation_is_zero_for_equals_and_averages_places():
    logits = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    assert distillation_loss(logits, logits).abs() < 1e-6
    other = logits.flip(-1)
    both = distillation_loss(logits, other)
    each = [distillation_loss(a[None], b[None]) for a, b in zip(logits, other, strict=True)]
    torch.testing.assert_close(both, sum(each) / 2)


def test_distillation_refuses_what_does_not_fit():
    with pytest.raises(GammaslimError, match=r"shapes \[2, 3\] and \[2, 4\]"):
        distillation_loss(torch.ones(2, 3), torch.ones(2, 4))
    with pytest.raises(GammaslimError, match="temperature=0"):
        distillation_loss(torch.ones(2, 3), torch.ones(2, 3), temperature=0)
