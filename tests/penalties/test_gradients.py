"""L1 and the group lasso, against formulas on couplings that are written down by hand here."""

import contextlib
import io
import warnings

import pytest
import torch
from torch import nn

import gammaslim as gs
from tests.handmade import fill_gradients

EPSILON = 1e-8


class Residual(nn.Module):
    """A stream of five channels that three BatchNorms hold, and a block of three inside."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn_stem = nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5)
        self.down, self.bn_down = nn.Conv2d(5, 3, 1), nn.BatchNorm2d(3)
        self.up, self.bn_up = nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5)
        self.last, self.bn_last = nn.Conv2d(5, 5, 1), nn.BatchNorm2d(5)
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        x = self.bn_stem(self.stem(x)).relu()
        x = x + self.bn_up(self.up(self.bn_down(self.down(x)).relu()))
        x = x + self.bn_last(self.last(x))
        return self.head(x.mean((2, 3)))

    def channels(self):
        stream = [[(f"bn_{at}.weight", i) for at in ("stem", "up", "last")] for i in range(5)]
        return stream + [[("bn_down.weight", i)] for i in range(3)]


class Concat(nn.Module):
    """Two branches, joined, and one BatchNorm over what was joined."""

    def __init__(self):
        super().__init__()
        self.a, self.bn_a = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.b, self.bn_b = nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)
        self.bn_both = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        joined = torch.cat([self.bn_a(self.a(x)).relu(), self.bn_b(self.b(x)).relu()], 1)
        return self.head(self.bn_both(joined).mean((2, 3)))

    def channels(self):
        first = [[("bn_a.weight", i), ("bn_both.weight", i)] for i in range(4)]
        return first + [[("bn_b.weight", i), ("bn_both.weight", 4 + i)] for i in range(2)]


class Shared(nn.Module):
    """One BatchNorm after two convolutions: it is one scale, and joins their channels."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.bn = nn.BatchNorm2d(4)
        self.three, self.bn_three = nn.Conv2d(4, 3, 1), nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        x = self.bn(self.one(x)).relu()
        x = self.bn(self.two(x)).relu()
        return self.head(self.bn_three(self.three(x)).mean((2, 3)))

    def channels(self):
        return [[("bn.weight", i)] for i in range(4)] + [[("bn_three.weight", i)] for i in range(3)]


NETS = [Residual, Concat, Shared]


def network(kind):
    """Random scales of both signs."""
    torch.manual_seed(0)
    model = kind()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
    return model


def expected(model, strength, divisor):
    """``λ γ / divisor(values of the channel)`` for each scale, one channel at a time."""
    found = {
        name: torch.zeros_like(p) for name, p in model.named_parameters() if name.startswith("bn")
    }
    for places in model.channels():
        values = [model.get_parameter(name)[index].item() for name, index in places]
        for (name, index), value in zip(places, values, strict=True):
            found[name][index] = strength * value / max(divisor(values, value), EPSILON)
    return {name: term for name, term in found.items() if name.endswith("weight")}


def gradients(model, penalty):
    graph = gs.trace(model, torch.randn(2, 3, 4, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    fill_gradients(model, 0.25)
    with gs.attach(model, graph, optimizer, penalty):
        optimizer.step()
    return {name: p.grad - 0.25 for name, p in model.named_parameters() if name.startswith("bn")}


DIVISORS = {
    gs.L1(0.1): lambda _, value: abs(value),
    gs.GroupLasso(0.1): lambda values, _: sum(v * v for v in values) ** 0.5,
    gs.GroupLasso(0.1, reduce="mean"): lambda values, _: (
        (sum(v * v for v in values) / len(values)) ** 0.5
    ),
}


@pytest.mark.parametrize("penalty", DIVISORS, ids=repr)
@pytest.mark.parametrize("kind", NETS)
def test_gradients_equal_the_formula(kind, penalty):
    model = network(kind)
    found = gradients(model, penalty)
    for name, term in expected(model, 0.1, DIVISORS[penalty]).items():
        torch.testing.assert_close(found[name], term, rtol=1e-5, atol=1e-7)
    assert all((found[name] == 0).all() for name in found if name.endswith("bias"))


@pytest.mark.parametrize("kind", [Residual, Shared])
@pytest.mark.parametrize("group_lasso", [False, True])
def test_gradients_equal_those_of_torch_pruning(kind, group_lasso):
    """Where it defines them: it fails on a BatchNorm after a concat."""
    with contextlib.redirect_stdout(io.StringIO()):
        import torch_pruning as tp

    model = network(kind)
    fill_gradients(model, 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner = tp.pruner.BNScalePruner(
            model, torch.randn(2, 3, 4, 4), importance=tp.importance.BNScaleImportance(), reg=0.1,
            group_lasso=group_lasso, ignored_layers=[model.head],
        )  # fmt: skip
        pruner.regularize(model)
    theirs = {name: p.grad.clone() for name, p in model.named_parameters() if "bn" in name}
    ours = gradients(model, gs.GroupLasso(0.1, reduce="mean") if group_lasso else gs.L1(0.1))
    for name, term in theirs.items():
        torch.testing.assert_close(ours[name], term, rtol=1e-5, atol=1e-6)
    assert max(term.abs().max() for term in theirs.values()) > 0.05
