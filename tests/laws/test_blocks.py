"""Dead blocks: a residual branch that has lost all its channels leaves the network as a whole."""

import contextlib
import copy

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

import gammaslim as gs
from bench import oracle
from gammaslim.channels.graph import Cut
from gammaslim.channels.remaining_graph import narrowed
from gammaslim.cutting.calibration import reestimate
from gammaslim.cutting.constants import Constant, Placeholder
from gammaslim.selecting.planning import make_plan
from tests.nets.case import noise
from tests.nets.random_nets import SIZE, Program, Step, build, programs
from tests.zoo_small import NAMES, ZOO

WIDTH = 6
IMAGE = noise(2, 3, 8, 8)()


class Block(nn.Module):
    """``relu(f(x) + x)``, added in place as torchvision does."""

    def __init__(self, kernel=3):
        super().__init__()
        self.conv1 = nn.Conv2d(WIDTH, 5, kernel, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(5)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(5, WIDTH, kernel, padding=kernel // 2, bias=False)
        self.bn2 = nn.BatchNorm2d(WIDTH)

    def forward(self, x):
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x
        return self.relu(out)


def net(kernel=3):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, WIDTH, 3, bias=False), nn.BatchNorm2d(WIDTH), Block(kernel), Block(kernel),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, 4),
    )  # fmt: skip
    oracle.randomise_batchnorms(model, 0)
    return model.eval()


LEFT = {f"2.{name}" for name in ("conv1", "bn1", "conv2", "bn2")}


def silence(norm, *, shift=True):
    with torch.no_grad():
        norm.weight.zero_()
        if shift:
            norm.bias.zero_()


def dead(model, **options):
    """Trace, and select what is exactly zero, whole blocks included."""
    graph = gs.trace(model, IMAGE)
    return graph, gs.select(graph, gs.scores(model, graph), threshold=0, min_channels=0, **options)


def test_a_dead_block_leaves():
    """Two of three convolutions' work is left: 36 places, 3x6x9, 6x5x9 and 5x6x9 weights."""
    model = net()
    silence(model[2].bn1)
    expected = oracle.outputs(model, IMAGE)
    graph, plan = dead(model)
    assert set(plan.remnants) == LEFT
    assert not plan.kept
    assert [path for path, own in plan.remnants.items() if own.told] == ["2.bn1", "2.bn2"]
    outcome = gs.prune(model, graph, plan)
    assert outcome.before.macs - outcome.after.macs == 2 * 36 * 2 * 270
    assert outcome.before.params - outcome.after.params == 2 * 270 + 2 * 5 + 2 * WIDTH
    assert "4 layers left" in str(outcome)
    assert oracle.drift(expected, oracle.outputs(model, IMAGE)) <= 1e-6
    assert not any(name.startswith("2.") for name, _ in model.named_parameters())
    oracle.check_cost(model, outcome.after, IMAGE)
    oracle.check_training(model, IMAGE)
    bigger = noise(3, 3, 20, 14)()
    assert model.eval()(bigger).shape == (3, 4)


def test_one_channel_stays_unless_zero_is_asked():
    model = net()
    silence(model[2].bn1)
    graph = gs.trace(model, IMAGE)
    plan = gs.select(graph, gs.scores(model, graph), threshold=0)
    assert not plan.remnants
    assert len(plan.kept[("2.conv1.weight", 0)]) == 1
    with pytest.raises(gs.TargetError, match="min_channels=-1 was asked; it must be an integer, 0"):
        gs.select(graph, gs.scores(model, graph), threshold=0, min_channels=-1)


@pytest.mark.parametrize("kernel", [1, 3])
def test_what_a_branch_still_gives_is_folded(kernel):
    """Scales are zero and shifts are not: exact without padding, exact inside with it."""
    model = net(kernel)
    silence(model[2].bn1, shift=False)
    original = copy.deepcopy(model)
    outcome = gs.prune(model, *dead(model))
    assert isinstance(model[2].bn2, Constant)
    expected, found = original[:3](IMAGE).detach(), model[:3](IMAGE).detach()
    inside = slice(None) if kernel == 1 else slice(1, -1)
    assert torch.allclose(expected[..., inside, inside], found[..., inside, inside], atol=1e-5)
    assert outcome.change is not None
    if kernel == 1:
        assert outcome.change.after <= 1e-5 < outcome.change.before


class Counted(list):
    """Data that knows how often it was read."""

    passes = 0

    def __iter__(self):
        self.passes += 1
        return super().__iter__()


class Onto(nn.Module):
    """A branch that is added to the network's input, or gives one number per image."""

    def __init__(self, *, mean):
        super().__init__()
        self.body = Block(1)
        self.body.conv1, self.body.conv2 = nn.Conv2d(3, 5, 1), nn.Conv2d(5, 3, 1)
        self.body.bn2 = nn.BatchNorm2d(3)
        self.mean, self.head = mean, nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 4))

    def forward(self, x):
        body = self.body
        out = body.bn2(body.conv2(body.bn1(body.conv1(x)).relu()))
        if self.mean:
            out = out.mean((1, 2, 3), keepdim=True)
        return self.head((x + out).mean((2, 3)))


@pytest.mark.parametrize("mean", [False, True])
def test_a_constant_keeps_its_whole_width(mean, tmp_path):
    """Nothing that stays holds its channels, and all are read."""
    torch.manual_seed(0)
    model = Onto(mean=mean)
    oracle.randomise_batchnorms(model, 0)
    silence(model.eval().body.bn1, shift=False)
    original, fresh = copy.deepcopy(model), copy.deepcopy(model)
    outcome = gs.prune(model, *dead(model))
    assert model.body.bn2.value.shape == (3,)
    assert oracle.drift(oracle.outputs(original, IMAGE), oracle.outputs(model, IMAGE)) <= 1e-5
    assert outcome.change.after <= 1e-5 < outcome.change.before
    assert outcome.graph.cost() == gs.trace(model, IMAGE).cost()
    gs.save(model, tmp_path / "slim.safetensors")
    loaded = gs.load(fresh, tmp_path / "slim.safetensors")
    assert oracle.drift(oracle.outputs(model, IMAGE), oracle.outputs(loaded, IMAGE)) == 0


def test_a_branch_that_was_not_dead_leaves_its_mean():
    model = net()
    graph = gs.trace(model, IMAGE)
    keep = np.ones(graph.num_channels, dtype=bool)
    keep[graph.sites[("2.bn1.weight", 0)]] = False
    keep[graph.sites[("3.bn1.weight", 0)][0]] = False
    images = Counted(torch.randn(16, 3, 8, 8) for _ in range(4))
    reestimate(model, images)
    with torch.no_grad():
        mean = torch.cat([model[2].conv2(model[2].relu(model[2].bn1(model[2].conv1(model[:2](x)))))
                          for x in images])  # fmt: skip
        mean = model[2].bn2(mean).mean((0, 2, 3))
    images.passes = 0
    outcome = gs.prune(model, graph, make_plan(graph, keep), calibration=images)
    assert images.passes == 2  # before the cut all that is to be known, after it statistics
    assert torch.allclose(model[2].bn2.value, mean, atol=1e-4)
    assert outcome.change.after < outcome.change.before


def test_without_folding_the_masked_network_is_what_is_left():
    model = net()
    silence(model[2].bn1, shift=False)
    graph, plan = dead(model)
    masked = copy.deepcopy(model)
    silence(masked[2].bn1)
    gs.prune(model, graph, plan, fold=False)
    assert oracle.drift(oracle.outputs(masked, IMAGE), oracle.outputs(model, IMAGE)) <= 1e-6


def test_a_layer_that_all_depends_on_keeps_a_channel():
    """A plain network; and of two branches without a shortcut the better one stays."""
    case = ZOO[NAMES.index("vgg")]
    model, inputs = case.model(), case.inputs()
    graph = gs.trace(model, inputs)
    scores = np.zeros(graph.num_channels)
    plan = gs.select(graph, scores, threshold=0, min_channels=0)
    assert not plan.remnants
    keep = np.ones(graph.num_channels, dtype=bool)
    keep[graph.groups[0].channels] = False
    with pytest.raises(gs.PlanError, match="would lose all its channels, but layers that stay"):
        make_plan(graph, keep)


class Pair(nn.Module):
    """``a(x) + b(x)``."""

    def __init__(self):
        super().__init__()
        self.a, self.b = (
            nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 1))
            for _ in range(2)
        )

    def forward(self, x):
        return (self.a(x) + self.b(x)).mean((2, 3))


def test_of_two_branches_the_better_one_comes_back():
    model = Pair().eval()
    graph = gs.trace(model, IMAGE)
    assert graph.dead_layers.may_be_empty().sum() == 2
    scores = np.where(graph.scored, 0.1, np.nan)
    scores[graph.sites[("b.1.weight", 0)]] = 0.2
    plan = gs.select(graph, scores, threshold=1, min_channels=0)
    assert set(plan.remnants) == {"a.0", "a.1", "a.3"}
    assert len(plan.kept[("b.0.weight", 0)]) == 1
    gs.prune(model, graph, plan)


def test_saved_loaded_cut_again(tmp_path):
    model, fresh = net(), net()
    silence(model[2].bn1)
    graph, plan = dead(model)
    assert gs.Plan.from_json(plan.to_json()) == plan
    outcome = gs.prune(model, graph, plan)
    again = gs.trace(model, IMAGE)
    assert again.cost() == outcome.after == outcome.graph.cost()
    assert again.shapes == outcome.graph.shapes
    assert again.coverage == outcome.graph.coverage == 1
    for graph in (outcome.graph, gs.trace(copy.deepcopy(model), IMAGE)):
        other = copy.deepcopy(model)
        scores = oracle.random_scores(graph, 1)
        gs.prune(other, graph, gs.select(graph, scores, remove_channels=0.4))
        gs.save(other, tmp_path / "slim.safetensors")
        loaded = gs.load(net(), tmp_path / "slim.safetensors")
        assert oracle.drift(oracle.outputs(other, IMAGE), oracle.outputs(loaded, IMAGE)) == 0
    fresh[2].conv1 = nn.Identity()
    with pytest.raises(gs.FileFormatError, match="another architecture"):
        gs.load(fresh[:2], tmp_path / "slim.safetensors")


def test_a_cut_block_may_leave_later(tmp_path):
    """First it gets narrower, then it goes: one plan does both."""
    model = net()
    graph = gs.trace(model, IMAGE)
    gs.prune(model, graph, gs.select(graph, oracle.random_scores(graph, 2), remove_channels=0.3))
    silence(model[2].bn1)
    gs.prune(model, *dead(model))
    gs.save(model, tmp_path / "slim.safetensors")
    loaded = gs.load(net(), tmp_path / "slim.safetensors")
    assert oracle.drift(oracle.outputs(model, IMAGE), oracle.outputs(loaded, IMAGE)) == 0
    assert not any(name.startswith("2.") for name, _ in loaded.named_parameters())


def test_optimizer_average_and_penalty_follow():
    """The optimizer forgets what left; training goes on as in a network without the branch."""
    model = net()
    average = copy.deepcopy(model)
    for each in (model, average):
        silence(each[2].bn1)
    graph = gs.trace(model, IMAGE)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    handle = gs.attach(model, graph, optimizer, gs.Proximal(1e-3))
    shrink = gs.shrink_every(1, model, handle, optimizer, ema=average, min_channels=0)
    for step in range(3):
        optimizer.zero_grad()
        model.train()(noise(8, 3, 8, 8)()).square().mean().backward()
        optimizer.step()
        outcome = shrink()
        assert (outcome is not None) == (step == 0)
    owned = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in owned} == {id(p) for p in model.parameters()}
    assert {id(p) for p in optimizer.state} <= {id(p) for p in owned}
    assert isinstance(average[2].conv1, Placeholder)
    assert "2.bn2.weight" not in handle.graph.scales


def test_a_failed_cut_puts_layers_back(monkeypatch):
    model = net()
    silence(model[2].bn1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    before, groups = copy.deepcopy(model), [list(g["params"]) for g in optimizer.param_groups]
    graph, plan = dead(model)
    monkeypatch.setattr("gammaslim.cutting.proving.set_value", lambda *_: None)
    with pytest.raises(gs.VerificationError, match=r"'2\.bn2'"):
        gs.prune(model, graph, plan, optimizer=optimizer)
    assert oracle.drift(oracle.outputs(before, IMAGE), oracle.outputs(model, IMAGE)) == 0
    assert isinstance(model[2].conv1, nn.Conv2d)
    found = [list(map(id, g["params"])) for g in optimizer.param_groups]
    assert found == [list(map(id, own)) for own in groups]


@pytest.mark.parametrize("where", ["proving", "contributions"])
def test_a_constant_that_cannot_be_set_puts_layers_back(monkeypatch, where):
    def fail(*_):
        raise RuntimeError("no memory left")

    model = net()
    silence(model[2].bn1, shift=False)
    with torch.no_grad():
        model[3].bn1.weight[0], model[3].bn1.bias[0] = 0, 1
    before = copy.deepcopy(model)
    graph, plan = dead(model)
    monkeypatch.setattr(f"gammaslim.cutting.{where}.set_value", fail)
    with pytest.raises(RuntimeError, match="no memory left"):
        gs.prune(model, graph, plan)
    assert oracle.drift(oracle.outputs(before, IMAGE), oracle.outputs(model, IMAGE)) == 0
    assert model.state_dict().keys() == before.state_dict().keys()
    assert isinstance(model[2].conv1, nn.Conv2d)


def test_a_network_that_only_lost_a_block_has_been_cut(tmp_path):
    model = net()
    silence(model[2].bn1)
    _, plan = dead(model)
    assert plan.remnants
    assert not plan.kept
    gs.prune(model, *dead(model))
    gs.save(model, tmp_path / "slim.safetensors")
    with pytest.raises(gs.FileFormatError, match="has already been cut"):
        gs.load(model, tmp_path / "slim.safetensors")


def test_a_network_drawn_anew_starts_without_old_constants():
    model = net()
    silence(model[2].bn1)
    gs.prune(model, *dead(model))
    assert model[2].bn2.value.any()
    gs.reset_parameters(model)
    assert not model[2].bn2.value.any()


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("even", [False, True])
def test_exported_like_the_rest(even):
    """Convolutions that change sizes, too: so must what takes their places."""
    model = net()
    if even:
        model[2].conv1 = nn.Conv2d(WIDTH, 5, 4, padding=2, bias=False)
        model[2].conv2 = nn.Conv2d(5, WIDTH, 4, padding=1, bias=False)
    silence(model[2].bn1, shift=False)
    gs.prune(model, *dead(model))
    assert isinstance(model[2].conv1, Placeholder)
    for tool, exported in oracle.exports(model, IMAGE).items():
        found = exported(IMAGE).detach()
        assert oracle.drift(oracle.outputs(model, IMAGE), [found]) <= 1e-6, tool


def test_what_the_user_keeps_does_not_leave():
    model = net()
    silence(model[2].bn1)
    graph = gs.trace(model, IMAGE, ignore=["2.conv2"])
    plan = gs.select(graph, gs.scores(model, graph), threshold=0, min_channels=0)
    assert not plan.remnants


HOOKS = (
    "register_forward_hook",
    "register_forward_pre_hook",
    "register_full_backward_hook",
    "register_full_backward_pre_hook",
)


@pytest.mark.parametrize("register", HOOKS)
def test_a_layer_with_hooks_stays(register):
    """Somebody may be collecting what it gives."""
    model = net()
    silence(model[2].bn1)
    getattr(model[2].conv2, register)(lambda *_: None)
    graph, plan = dead(model)
    assert not plan.remnants
    gs.prune(model, graph, plan)
    assert model[2].conv2.in_channels == 1


def test_a_layer_with_a_forward_of_its_own_stays():
    model = net()
    silence(model[2].bn1)
    conv = model[2].conv2
    conv.forward = lambda x: nn.Conv2d.forward(conv, 2 * x)
    assert not dead(model)[1].remnants


def test_a_plan_does_not_take_hooks_away():
    model = net()
    silence(model[2].bn1)
    graph, plan = dead(model)
    heard = []
    hook = model[2].conv2.register_forward_hook(lambda *_: heard.append(1))
    with pytest.raises(gs.PlanError, match=r"'2\.conv2' is to leave .* hooks"):
        gs.prune(model, graph, plan)
    hook.remove()
    gs.prune(model, graph, plan)
    assert isinstance(model[2].conv2, Placeholder)


def test_another_plan_is_refused():
    model = net()
    silence(model[2].bn1)
    graph, plan = dead(model)
    other = gs.Plan(plan.sites, remnants={**plan.remnants, "3.bn2": plan.remnants["2.bn2"]})
    with pytest.raises(gs.PlanError, match="lets other layers leave"):
        graph.keep_mask(other)


class Seen(nn.Module):
    """A branch whose data leaves PyTorch: nobody can tell what depends on it."""

    def __init__(self):
        super().__init__()
        self.block, self.head = Block(), nn.Linear(WIDTH, 2)
        self.stem = nn.Sequential(nn.Conv2d(3, WIDTH, 3), nn.BatchNorm2d(WIDTH))

    def forward(self, x):
        x = self.block(self.stem(x))
        if x.sum().item() > 1e9:
            x = x * 2
        return self.head(x.mean((2, 3)))


def test_numbers_that_python_reads_hold_everything_back():
    model = Seen().eval()
    graph = gs.trace(model, IMAGE)
    assert not graph.flow.layers


MULTIPLIES = "einsum"
"""Where one channel is left, einsum multiplies instead of contracting: torch does not count it."""


def random_emptied(graph, seed):
    """Scores by which many groups lose everything if they can, and some channels of the others."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0.1, 1.0, graph.num_channels)
    for group, may in zip(graph.groups, graph.dead_layers.may_be_empty(), strict=True):
        if rng.random() < (0.7 if may else 0.2):
            scores[group.channels] = 0
    scores[rng.random(graph.num_channels) < 0.1] = 0
    return scores


def check_emptied(model, inputs, seed, tolerance=1e-4, *, counted=True, spare=(), **options):
    """Empty random groups, and check all that must hold; whether any layer left."""
    oracle.randomise_batchnorms(model, seed)
    graph = oracle.traced(model.eval(), inputs, **options)
    plan = gs.select(graph, random_emptied(graph, seed), threshold=0.05, min_channels=0)
    keep = graph.keep_mask(plan)
    assert np.array_equal(Cut(graph, keep).settled.keep, keep)
    masked = oracle.masked_by(model, graph, keep, spare)
    outcome = gs.prune(model, graph, plan, fold=False)
    if graph.exact[~keep].all():
        found = oracle.drift(oracle.outputs(masked, inputs), oracle.outputs(model, inputs))
        assert found <= tolerance, f"outputs drift by {found:.3g}"
    oracle.check_cost(model, outcome.after, inputs, counted=counted)
    oracle.check_attributes(model)
    oracle.check_training(model, inputs)
    again = narrowed(Cut(graph, keep))
    if (again.prunable & again.scored).any():
        later = gs.select(again, random_emptied(again, seed + 1), threshold=0.05, min_channels=0)
        gs.prune(model, again, later, fold=False)
    return bool(plan.remnants)


@pytest.mark.parametrize("case", ZOO, ids=NAMES)
def test_law(case):
    """Whatever is emptied, what is left computes what the masked network computes."""
    try:
        for seed in range(2):
            check_emptied(
                case.model(),
                case.inputs(),
                seed,
                counted=case.counted and case.name != MULTIPLIES,
                spare=case.spare,
                select_inputs=bool(seed),
            )
    except gs.VerificationError:
        raise
    except gs.GammaslimError as error:
        if not (case.refusable or isinstance(error, gs.NothingToPruneError)):
            raise


BRANCH = Step("residual", 2, 51, 79, (
    (Step("preactivated", 83, 108, 119, ()), Step("conv", 92, 90, 69, ())), ()
))  # fmt: skip


# Of the three channels of the sum, one is always there.
PARTLY_FIXED = (
    Step("sliced", 1, 0, 0, ((), (Step("depthwise", 0, 0, 0),))),
    Step("residual", 0, 0, 0, ((Step("conv", 0, 0, 1),), ())),
)


# Both branches may leave, one after the other, and their operators are counted.
TWO_BRANCHES = (
    *(
        Step("residual", 0, 0, 0, (
            (Step("channels_last", norm, 0, 0, ()), Step("conv", width, 0, 1, ())), ()
        ))
        for norm, width in ((1, 104), (0, 103))
    ),
    Step("conv", 0, 0, 0, ()),
    Step("conv", 0, 0, 0, ()),
)  # fmt: skip


def test_law_on_made_up_networks():
    """The same on networks that Hypothesis makes up; in those given, layers leave."""
    left = [0]

    @example(program=Program(4, (BRANCH,), "pool"), seed=1, select_inputs=False)
    @example(program=Program(3, PARTLY_FIXED, "pool"), seed=0, select_inputs=False)
    @example(program=Program(11, TWO_BRANCHES, "pool"), seed=0, select_inputs=False)
    @given(programs(), st.integers(0, 9), st.booleans())
    def law(program: Program, seed: int, select_inputs: bool) -> None:  # noqa: FBT001
        model, image = build(program, seed), noise(2, 3, SIZE, SIZE)().double()
        with contextlib.suppress(gs.NothingToPruneError):
            left[0] += check_emptied(model, image, seed, 1e-6, select_inputs=select_inputs)

    law()
    assert left[0]
