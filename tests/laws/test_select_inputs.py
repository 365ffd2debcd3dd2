"""Input selection: every BatchNorm drops its own channels of a stream that others read too."""

import contextlib
import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import gammaslim as gs
from bench import oracle
from gammaslim.channels.graph import Cut, cut_by
from gammaslim.channels.remaining_graph import narrowed
from gammaslim.network.input_index import select_inputs
from gammaslim.network.modules import INPUT_INDEX
from gammaslim.selecting.planning import make_plan
from tests.nets.case import noise
from tests.zoo_small import NAMES, ZOO

WIDTH = 6
IMAGE = noise(2, 3, 8, 8)()
STREAMS = ("preactivation", "dense")


class Branch(nn.Module):
    """``x + conv(relu(norm(x)))``."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(WIDTH)
        self.conv = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, x):
        return x + self.conv(functional.relu(self.norm(x)))


def net():
    """Two branches on a stream that a last norm reads for the head."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, WIDTH, 3), Branch(), Branch(), nn.BatchNorm2d(WIDTH), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, 4),
    )  # fmt: skip
    oracle.randomise_batchnorms(model, 0)
    return model.eval()


def channels(graph, norm):
    return graph.sites[(f"{norm}.weight", 0)]


def without(graph, **gone):
    """The plan that removes these places of these norms; ``one`` stands for ``1.norm``."""
    names = {"one": "1.norm", "two": "2.norm", "last": "3"}
    keep = np.ones(graph.num_channels, dtype=bool)
    for short, places in gone.items():
        keep[channels(graph, names[short])[places]] = False
    return make_plan(graph, Cut(graph, keep).settled.keep)


def test_scales_become_channels_of_their_own():
    """Without it, one channel holds a scale of each of the three norms."""
    model = net()
    together, alone = gs.trace(model, IMAGE), gs.trace(model, IMAGE, select_inputs=True)
    assert together.scored.sum() == WIDTH
    assert alone.scored.sum() == 3 * WIDTH
    assert [one.module for one in alone.selections.each] == ["1.norm", "2.norm", "3"]
    assert alone.coverage == 1
    assert "2.norm" in str(alone)


def test_each_norm_reads_what_the_plan_says():
    model = net()
    graph = gs.trace(model, IMAGE, select_inputs=True)
    plan = without(graph, one=[0, 4], last=[5])
    assert {name: list(own) for name, own in plan.inputs.items()} == {
        "1.norm": [1, 2, 3, 5], "3": [0, 1, 2, 3, 4],
    }  # fmt: skip
    masked = oracle.masked_copy(model, plan)
    gs.prune(model, graph, plan)
    oracle.check_agreement(masked, model, plan, IMAGE, 1e-6)
    assert model[1].conv.weight.shape == (WIDTH, 4, 3, 3)
    assert model[0].weight.shape[0] == WIDTH  # the stream stays


def test_a_stream_channel_that_nobody_reads_goes():
    """Channel 2 of the stream: its rows in three convolutions, and places move up behind it."""
    model = net()
    graph = gs.trace(model, IMAGE, select_inputs=True)
    plan = without(graph, one=[2, 3], two=[2], last=[2])
    assert list(plan.kept[("0.weight", 0)]) == [0, 1, 3, 4, 5]
    assert {name: list(own) for name, own in plan.inputs.items()} == {"1.norm": [0, 1, 3, 4]}
    masked = oracle.masked_copy(model, plan)
    gs.prune(model, graph, plan)
    oracle.check_agreement(masked, model, plan, IMAGE, 1e-6)
    assert INPUT_INDEX not in model[2].norm._buffers
    oracle.check_training(model, IMAGE)


def test_a_norm_alone_selects_nothing():
    """A BatchNorm behind a convolution of its own needs no index, nor does a scaled stream."""
    for name in ("vgg", "residual"):
        case = ZOO[NAMES.index(name)]
        graph = gs.trace(case.model(), case.inputs(), select_inputs=True)
        assert not graph.selections.each
        assert graph.num_channels == gs.trace(case.model(), case.inputs()).num_channels


def test_a_norm_on_the_input_drops_features():
    model = nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    oracle.randomise_batchnorms(model, 1)
    x = torch.randn(4, 5)
    graph = gs.trace(model.eval(), x, select_inputs=True)
    keep = np.ones(graph.num_channels, dtype=bool)
    keep[channels(graph, "0")[[1, 3]]] = False
    plan = make_plan(graph, keep)
    masked = oracle.masked_copy(model, plan)
    gs.prune(model, graph, plan)
    oracle.check_agreement(masked, model, plan, x, 1e-6)
    assert model[1].in_features == 3


@pytest.mark.parametrize("case", ZOO, ids=NAMES)
def test_law(case):
    with contextlib.suppress(gs.GammaslimError) if case.refusable else contextlib.nullcontext():
        oracle.check_law(
            case.model(), case.inputs(), 0.5, NAMES.index(case.name),
            spare=case.spare, counted=case.counted, select_inputs=True,
        )  # fmt: skip


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("again", [False, True])
def test_cut_twice_saved_and_loaded(name, again, tmp_path):
    """The second cut is proven too, whether it selects inputs or not; one plan does both."""
    case = ZOO[NAMES.index(name)]
    model, inputs = case.model(), case.inputs()
    oracle.randomise_batchnorms(model, 2)
    fresh = copy.deepcopy(model)
    for seed, selecting in ((0, True), (1, again)):
        graph = gs.trace(model, inputs, select_inputs=selecting)
        plan = gs.select(graph, oracle.random_scores(graph, seed), remove_channels=0.4)
        masked = oracle.masked_copy(model, plan)
        gs.prune(model, graph, plan)
        oracle.check_agreement(masked, model, plan, inputs, 1e-6)
    gs.save(model, tmp_path / "slim.safetensors")
    loaded = gs.load(fresh, tmp_path / "slim.safetensors")
    assert oracle.drift(oracle.outputs(model, inputs), oracle.outputs(loaded, inputs)) == 0
    assert set(loaded.state_dict()) == set(case.model().state_dict())


@pytest.mark.parametrize("name", STREAMS)
def test_narrowed_graph_is_traced_graph(name):
    case = ZOO[NAMES.index(name)]
    model, inputs = case.model(), case.inputs()
    graph = gs.trace(model, inputs, select_inputs=True)
    plan = gs.select(graph, oracle.random_scores(graph, 0), remove_channels=0.4)
    found = gs.prune(model, graph, plan).graph
    assert found.shapes == narrowed(cut_by(graph, plan)).shapes
    traced = gs.trace(model, inputs, select_inputs=True)
    assert found.cost() == traced.cost()
    assert found.num_channels == traced.num_channels
    for have, want in zip(found.selections.each, traced.selections.each, strict=False):
        assert have.module == want.module
        assert np.array_equal(have.places, want.places)


@pytest.mark.parametrize("carry", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])  # noqa: S301
def test_copies_and_pickles_keep_the_index(carry):
    model = net()
    graph = gs.trace(model, IMAGE, select_inputs=True)
    gs.prune(model, graph, without(graph, two=[1, 2]))
    assert oracle.drift(oracle.outputs(model, IMAGE), oracle.outputs(carry(model), IMAGE)) == 0


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_exported_like_the_rest():
    model = net()
    graph = gs.trace(model, IMAGE, select_inputs=True)
    gs.prune(model, graph, without(graph, one=[0], two=[1, 2]))
    for tool, exported in oracle.exports(model, IMAGE).items():
        found = exported(IMAGE).detach()
        assert oracle.drift(oracle.outputs(model, IMAGE), [found]) <= 1e-6, tool


def test_plan_as_text():
    graph = gs.trace(net(), IMAGE, select_inputs=True)
    plan = without(graph, one=[0, 4])
    assert gs.Plan.from_json(plan.to_json()) == plan
    other = gs.Plan(plan.sites, plan.attributes, {"1.norm": np.arange(4)})
    assert other != plan
    with pytest.raises(gs.PlanError, match=r"'1.norm' read other indices"):
        graph.keep_mask(other)
    with pytest.raises(gs.PlanError, match="at least one index, 0 or above"):
        gs.Plan({}, {}, {"1.norm": np.array([-1])})


def test_a_read_channel_must_stay():
    graph = gs.trace(net(), IMAGE, select_inputs=True)
    keep = np.ones(graph.num_channels, dtype=bool)
    keep[graph.sites[("0.weight", 0)][0]] = False
    with pytest.raises(gs.PlanError, match=r"'1.norm' would keep a channel that it reads"):
        make_plan(graph, keep)


def test_a_failed_cut_takes_the_index_back(monkeypatch):
    """Whatever goes wrong after the cut, the network is as it was."""
    model = net()
    before = copy.deepcopy(model)
    graph = gs.trace(model, IMAGE, select_inputs=True)
    plan = without(graph, one=[0])
    monkeypatch.setattr(
        "gammaslim.cutting.surgery.select_inputs",
        lambda m, places: select_inputs(m, np.roll(places, 1)),
    )
    with pytest.raises(gs.VerificationError, match="restored"):
        gs.prune(model, graph, plan)
    assert not model[1].norm._forward_pre_hooks
    assert INPUT_INDEX not in model[1].norm._buffers
    assert oracle.drift(oracle.outputs(before, IMAGE), oracle.outputs(model, IMAGE)) == 0


def test_file_for_another_network(tmp_path):
    model = net()
    graph = gs.trace(model, IMAGE, select_inputs=True)
    gs.prune(model, graph, without(graph, two=[1]))
    gs.save(model, tmp_path / "slim.safetensors")
    with pytest.raises(gs.FileFormatError, match="another architecture"):
        gs.load(nn.Sequential(nn.Conv2d(3, WIDTH, 3)), tmp_path / "slim.safetensors")


def test_training_goes_on_as_in_the_masked_network():
    """A budget, then a cut with its optimizer and penalty: losses as if nothing had been cut."""
    losses = []
    for cuts in (False, True):
        model = net().double()
        graph = gs.trace(model, IMAGE.double(), select_inputs=True)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        budget = gs.Budget(steps=60, remove_channels=0.5)
        handle = gs.attach(model, graph, optimizer, budget)
        generator, own = torch.Generator().manual_seed(0), []
        for step in range(40):
            if cuts and step == budget.zero_at:
                outcome = gs.prune(model, graph, handle.plan(), optimizer=optimizer, handle=handle)
                assert outcome.plan.inputs
            model.train()
            images = torch.randn(8, 3, 8, 8, generator=generator, dtype=torch.float64)
            loss = model(images).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            own.append(loss.item())
        losses.append(own)
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


def test_an_instance_norm_selects_nothing():
    """It runs as a BatchNorm over all images at once, with its weight repeated."""
    torch.manual_seed(0)
    norm = nn.InstanceNorm2d(WIDTH, affine=True)
    model = nn.Sequential(nn.Conv2d(3, WIDTH, 3), norm, Branch(), nn.BatchNorm2d(WIDTH), nn.ReLU())
    model = nn.Sequential(*model, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, 4))
    graph = oracle.check_law(model, IMAGE, 0.5, 1, select_inputs=True)
    assert [one.module for one in graph.selections.each] == ["2.norm", "3"]
