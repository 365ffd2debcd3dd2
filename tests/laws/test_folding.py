"""What removed channels still contributed is folded: constants exactly, means as well as can be."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

import gammaslim as gs
from gammaslim.cutting.calibration import reestimate
from gammaslim.errors import CalibrationError
from gammaslim.selecting.planning import make_plan
from tests.nets.classic import CLASSIC

ACTIVATIONS = {
    "relu": nn.ReLU(),
    "silu": nn.SiLU(),
    "gelu": nn.GELU(),
    "hardswish": nn.Hardswish(),
    "sigmoid": nn.Sigmoid(),
    "none": nn.Identity(),
}
X = torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Without padding: a residual sum, a concat, pooling, a grouped and a depthwise convolution."""

    def __init__(self, activation="relu", *, bias=False, padding=0):
        super().__init__()
        self.act = ACTIVATIONS[activation]
        self.stem, self.bn_stem = nn.Conv2d(3, 8, 3, bias=bias, padding=padding), nn.BatchNorm2d(8)
        self.one, self.bn_one = nn.Conv2d(8, 8, 1, bias=bias), nn.BatchNorm2d(8)
        self.left, self.bn_left = nn.Conv2d(8, 6, 3, bias=bias, padding=padding), nn.BatchNorm2d(6)
        self.right = nn.Conv2d(8, 8, 3, bias=bias, groups=2, padding=padding)
        self.bn_right = nn.BatchNorm2d(8)
        self.deep = nn.Conv2d(14, 14, 3, groups=14, bias=bias, padding=padding)
        self.bn_deep = nn.BatchNorm2d(14)
        self.last = nn.Conv2d(14, 5, 1, bias=bias)
        self.head = nn.Linear(5, 4)

    def forward(self, x):
        x = self.act(self.bn_stem(self.stem(x)))
        x = self.act(self.bn_one(self.one(x)) + x)
        x = torch.cat([self.bn_left(self.left(x)), self.bn_right(self.right(x))], 1)
        x = F.max_pool2d(self.act(x), 2)
        x = self.act(self.bn_deep(self.deep(x)))
        return self.head(F.avg_pool2d(self.last(x), 2).mean((2, 3)))


def alive(model, seed=0):
    """Scales, shifts and statistics as training leaves them."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model.eval()


def silenced(model, graph, share=0.4):
    """A plan of channels whose scales have been set to zero, and whose shifts have not."""
    scores = np.random.default_rng(0).random(graph.num_channels)
    plan = gs.select(graph, scores, remove_channels=share)
    keep = graph.keep_mask(plan)
    for name in graph.scales:
        ids = graph.sites[(name, 0)]
        gone = torch.from_numpy((ids >= 0) & ~keep[np.maximum(ids, 0)])
        model.get_parameter(name).data[gone] = 0.0
    return plan


def relative(found, expected):
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_constants_cost_nothing_without_padding(activation, bias):
    model = alive(Net(activation, bias=bias))
    graph = gs.trace(model, X)
    plan = silenced(model, graph)
    before = model(X).detach()
    plain = copy.deepcopy(model)
    gs.prune(plain, graph, plan, fold=False)
    assert relative(plain(X), before) > 1e-3  # otherwise there would be nothing to show
    outcome = gs.prune(model, graph, plan)
    assert relative(model(X), before) <= 1e-5
    assert outcome.change.after <= 1e-5 < outcome.change.before
    assert outcome.folded.inputs > 0
    assert not outcome.folded.skipped
    other = torch.randn(2, 3, 12, 12)
    assert torch.isfinite(model(other)).all()


def test_constants_are_exact_on_other_inputs_too():
    model = alive(Net("silu"))
    graph = gs.trace(model, X)
    plan = silenced(model, graph)
    other = torch.randn(4, 3, 20, 20)
    before = model(other).detach()
    gs.prune(model, graph, plan)
    assert relative(model(other), before) <= 1e-5


@pytest.mark.parametrize("activation", ["relu", "hardswish"])
def test_constants_are_exact_in_the_interior_with_padding(activation):
    """Only what the border reaches differs: less than without folding, and it is reported."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), ACTIVATIONS[activation],
        nn.Conv2d(8, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), ACTIVATIONS[activation],
        nn.Conv2d(6, 4, 3, padding=1),
    )  # fmt: skip
    model = alive(model)
    graph = gs.trace(model, X)
    plan = silenced(model, graph)
    before = model(X).detach()
    outcome = gs.prune(model, graph, plan)
    after = model(X)
    inner = (..., slice(2, -2), slice(2, -2))
    assert relative(after[inner], before[inner]) <= 1e-5
    assert relative(after, before) == pytest.approx(outcome.change.after, rel=1e-3)
    assert 1e-4 < outcome.change.after < outcome.change.before


@pytest.mark.parametrize("case", CLASSIC, ids=lambda case: case.name)
def test_classic_networks_lose_less_with_folding(case):
    model = alive(case.model())
    x = case.inputs()
    graph = gs.trace(model, x)
    plan = silenced(model, graph, share=0.3)
    outcome = gs.prune(model, graph, plan)
    assert outcome.drift < 1e-4
    if outcome.change is not None:
        assert outcome.change.after <= outcome.change.before * 1.001 + 1e-6


def test_nothing_is_folded_where_channels_are_silent():
    """Zero scales and zero shifts contribute nothing, and nothing extra is run."""
    model = alive(Net())
    graph = gs.trace(model, X)
    plan = silenced(model, graph)
    with torch.no_grad():
        for name in graph.scales:
            weight, shift = model.get_parameter(name), model.get_parameter(graph.shifts[name])
            shift[weight == 0] = 0.0
    before = model(X).detach()
    outcome = gs.prune(model, graph, plan)
    assert outcome.change is None
    assert outcome.folded.inputs == 0
    assert relative(model(X), before) <= 1e-5


def test_a_bias_is_added_only_where_nothing_else_can_take_the_constant():
    """`last` feeds no BatchNorm; all others have one that alone reads them."""
    model = alive(Net())
    graph = gs.trace(model, X)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    outcome = gs.prune(model, graph, silenced(model, graph), optimizer=optimizer)
    assert outcome.folded.added == ("last",)
    assert "a bias added to last" in str(outcome)
    assert any(p is model.last.bias for group in optimizer.param_groups for p in group["params"])
    assert model.stem.bias is None


def test_added_biases_are_saved_and_loaded(tmp_path):
    model = alive(Net())
    graph = gs.trace(model, X)
    gs.prune(model, graph, silenced(model, graph))
    gs.save(model, tmp_path / "slim.safetensors")
    fresh = gs.load(Net(), tmp_path / "slim.safetensors").eval()
    assert torch.equal(fresh(X), model(X))
    gs.save(fresh, tmp_path / "again.safetensors")
    again = gs.load(Net(), tmp_path / "again.safetensors").eval()
    assert torch.equal(again(X), model(X))
    with pytest.raises(gs.FileFormatError, match="a bias was added to 'last', which has a bias of"):
        gs.load(Net(bias=True), tmp_path / "slim.safetensors")


def test_a_layer_that_two_readers_share_gets_a_bias():
    """Its output goes to a BatchNorm and past it, so the running mean would not do."""

    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.bn_a = nn.Conv2d(3, 6, 1, bias=False), nn.BatchNorm2d(6)
            self.b, self.bn_b = nn.Conv2d(6, 6, 1, bias=False), nn.BatchNorm2d(6)

        def forward(self, x):
            x = self.b(self.bn_a(self.a(x)).relu())
            return self.bn_b(x) + x.sigmoid()

    model = alive(Fork())
    graph = gs.trace(model, X)
    plan = silenced(model, graph)
    before = model(X).detach()
    outcome = gs.prune(model, graph, plan)
    assert outcome.folded.added == ("b",)
    assert relative(model(X), before) <= 1e-5


class Scaled(nn.Conv2d):
    """Computes with another weight than the one that it holds."""

    def forward(self, x):
        return F.conv2d(x, 2 * self.weight, self.bias)


def patched():
    """The same, of one instance only."""
    conv = nn.Conv2d(6, 4, 1)
    conv.forward = lambda x: F.conv2d(x, 2 * conv.weight, conv.bias)
    return conv


@pytest.mark.parametrize("last", [lambda: Scaled(6, 4, 1), patched])
def test_layers_of_another_kind_are_left_and_reported(last):
    model = alive(nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.ReLU(), last()))
    graph = gs.trace(model, X)
    outcome = gs.prune(model, graph, silenced(model, graph))
    assert outcome.folded.skipped == ("3",)
    assert outcome.change is None or outcome.change.after == outcome.change.before


# Means


def small(seed=0):
    """With the statistics of its data, as after training."""
    torch.manual_seed(seed)
    model = alive(
        nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Flatten(), nn.Linear(16 * 144, 4),
        ),
        seed,
    )  # fmt: skip
    reestimate(model, batches())
    return model


def batches(count=4, *, labels=False):
    generator = torch.Generator().manual_seed(3)
    made = [torch.randn(16, 3, 12, 12, generator=generator) for _ in range(count)]
    return [(x, torch.zeros(16)) for x in made] if labels else made


def keeping_half(graph):
    keep = np.ones(graph.num_channels, dtype=np.bool_)
    scored = np.flatnonzero(graph.prunable & graph.scored)
    keep[scored[::2]] = False
    return make_plan(graph, keep)


@pytest.mark.parametrize("labels", [False, True])
def test_calibration_brings_outputs_back(labels):
    """Half of all channels go although they matter: folded means undo most of it."""
    model = small()
    graph = gs.trace(model, X)
    before = model(X).detach()
    outcome = gs.prune(model, graph, keeping_half(graph), calibration=batches(labels=labels))
    assert outcome.change.after < 0.6 * outcome.change.before
    assert relative(model(X), before) == pytest.approx(outcome.change.after, rel=1e-3)
    assert not model.training


def test_statistics_are_the_mean_over_batches():
    model = small()
    graph = gs.trace(model, X)
    gs.prune(model, graph, keeping_half(graph), calibration=batches())
    with torch.no_grad():
        seen = torch.stack([model[0](x).mean((0, 2, 3)) for x in batches()]).mean(0)
    torch.testing.assert_close(model[1].running_mean, seen)
    assert model[1].momentum == 0.1


def test_calibration_takes_what_the_trace_took():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn, self.head = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Linear(8, 2)

        def forward(self, image, gain):
            return self.head(self.bn(self.conv(image)).relu().mean((2, 3)) * gain)

    gain = torch.ones(3, 1)
    for example in ((X, gain), {"image": X, "gain": gain}):
        model = alive(Two())
        graph = gs.trace(model, example)
        data = [{**example, "label": 1}] if isinstance(example, dict) else [(*example, "label")]
        assert gs.prune(model, graph, keeping_half(graph), calibration=data).change is not None


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (iter(batches()), "can be read only once"),
        ([], "gave no batch"),
        ([["no", "tensor"]], "found str"),
        ([torch.ones(2, 7, 12, 12)], "fails on the calibration data|expected input"),
    ],
)
def test_data_that_cannot_be_used_is_refused_and_nothing_changes(data, text):
    model = small()
    graph = gs.trace(model, X)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CalibrationError, match=text):
        gs.prune(model, graph, keeping_half(graph), calibration=data)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [m.momentum for m in model if isinstance(m, nn.BatchNorm2d)] == [0.1, 0.1]


def test_a_failure_while_estimating_puts_all_back():
    """The second pass over the data, after the cut, meets what the first did not."""

    class Treacherous(list):
        passes = 0

        def __iter__(self):
            self.passes += 1
            yield from super().__iter__()
            if self.passes == 2:
                yield torch.ones(2, 7, 12, 12)

    model = small()
    graph = gs.trace(model, X)
    before = copy.deepcopy(model.state_dict())
    out = model(X).detach()
    with pytest.raises(CalibrationError, match="fails on the calibration data"):
        gs.prune(model, graph, keeping_half(graph), calibration=Treacherous(batches()))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(model(X), out)
    assert model[0].out_channels == 16


class Interrupted(list):
    """Data that is read once, and then somebody presses Ctrl-C."""

    passes = 0

    def __iter__(self):
        self.passes += 1
        yield next(super().__iter__())
        if self.passes == 2:
            raise KeyboardInterrupt
        yield from super().__iter__()


def test_an_interruption_while_estimating_puts_all_back():
    """Also the statistics of a BatchNorm that lost no channel."""
    model = small()
    graph = gs.trace(model, X, ignore=["4"])
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(KeyboardInterrupt):
        gs.prune(model, graph, keeping_half(graph), calibration=Interrupted(batches()))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [m.momentum for m in model if isinstance(m, nn.BatchNorm2d)] == [0.1, 0.1]


# Averages, and going on


def test_an_average_is_cut_and_folded_alike():
    model = alive(Net())
    graph = gs.trace(model, X)
    ema = torch.optim.swa_utils.AveragedModel(model)
    alive(ema.module, seed=1)
    plan = silenced(model, graph)
    silenced(ema.module, graph)
    before = ema(X).detach()
    gs.prune(model, graph, plan, ema=ema)
    assert {n: p.shape for n, p in ema.module.named_parameters()} == {
        n: p.shape for n, p in model.named_parameters()
    }
    assert relative(ema(X), before) <= 1e-5
    ema.update_parameters(model)


def test_an_average_that_fails_leaves_the_optimizer_as_it_was():
    """The network was cut, folded into a new bias and given to the optimizer; all that goes."""

    class Fussy(Net):
        def forward(self, x):
            if self.fussy and self.stem.weight.shape[0] < 8:
                raise RuntimeError("too narrow for me")
            return super().forward(x)

    model = alive(Fussy())
    model.fussy = False
    graph = gs.trace(model, X)
    plan = silenced(model, graph)
    ema = copy.deepcopy(model)
    ema.fussy = True
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    names, groups = set(model.state_dict()), [list(g["params"]) for g in optimizer.param_groups]
    cut = copy.deepcopy(model)
    assert gs.prune(cut, graph, plan).folded.added
    with pytest.raises(gs.VerificationError, match="too narrow for me"):
        gs.prune(model, graph, plan, optimizer=optimizer, ema=ema)
    assert set(model.state_dict()) == names
    found = [list(map(id, g["params"])) for g in optimizer.param_groups]
    assert found == [list(map(id, own)) for own in groups]


def test_outcome_s_graph_serves_the_next_cut():
    model = alive(Net())
    graph = gs.trace(model, X)
    for share in (0.3, 0.3):
        plan = gs.select(graph, gs.scores(model, graph), remove_channels=share)
        outcome = gs.prune(model, graph, plan)
        assert outcome.drift < 1e-5
        graph = outcome.graph
    assert graph.cost() == gs.trace(model, X).cost()
