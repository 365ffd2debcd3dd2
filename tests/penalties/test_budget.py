"""Budget: the target is met with exact zeros, the cut changes nothing, and nothing is silent."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import gammaslim as gs
from gammaslim.channels.graph import Cut
from gammaslim.errors import OptimizerError, PenaltyError, TargetError
from gammaslim.penalties.budget_widths import uniform_ratio
from tests.handmade import PlainNet, plain_graph
from tests.nets.classic import CLASSIC

STEPS = 40
IMAGES = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(32) % 2


def training(model, optimizer, steps=STEPS):
    """Plain steps on a fixed batch."""
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        functional.cross_entropy(model(IMAGES), LABELS).backward()
        optimizer.step()


def plain(widths=(12, 16)):
    torch.manual_seed(0)
    model = PlainNet(list(widths))
    return model, gs.trace(model, IMAGES[:1])


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def cheapest_channel(graph, kind, group):
    return gs.channel_costs(graph, kind)[group.channels].max()


@pytest.mark.parametrize(
    "target", [{"keep_macs": 0.4}, {"keep_params": 0.3}, {"remove_channels": 0.6}], ids=repr
)
@pytest.mark.parametrize("optimizer_class", [torch.optim.SGD, torch.optim.AdamW])
def test_the_cut_meets_the_target_and_changes_nothing(target, optimizer_class):
    model, graph = plain()
    optimizer = optimizer_class(model.parameters(), lr=0.01)
    handle = gs.attach(model, graph, optimizer, gs.Budget(steps=STEPS, **target))
    training(model, optimizer)
    plan = handle.plan()
    keep = graph.keep_mask(plan)
    name, share = next(iter(target.items()))
    if name == "remove_channels":
        assert (~keep).sum() == round(share * graph.prunable[graph.scored].sum())
    else:
        kind = name.removeprefix("keep_")
        full, left = getattr(graph.cost(), kind), getattr(Cut(graph, keep).cost, kind)
        assert left <= share * full
        # One channel more in the group that was last would be over it.
        most = max(cheapest_channel(graph, kind, g) for g in graph.groups if g.prunable)
        assert left + most > share * full
    model.eval()
    before = model(IMAGES)
    gs.prune(model, graph, plan, optimizer=optimizer)
    assert (model(IMAGES) - before).abs().max() <= 1e-5 * before.abs().max()


@pytest.mark.parametrize("steps", [10, 11, 17, 21, 33])
def test_the_target_is_met_whatever_the_number_of_steps(steps):
    """Fractions of it are no whole numbers."""
    model, graph = plain()
    optimizer = sgd(model)
    handle = gs.attach(model, graph, optimizer, gs.Budget(keep_macs=0.4, steps=steps))
    training(model, optimizer, steps=steps)
    assert graph.cost(handle.plan()).macs <= 0.4 * graph.cost().macs


def test_select_finds_the_same_plan():
    """Zeros are the lowest scores, so that the ordinary way leads to the same cut."""
    model, graph = plain()
    optimizer = sgd(model)
    handle = gs.attach(model, graph, optimizer, gs.Budget(keep_macs=0.4, steps=STEPS))
    training(model, optimizer)
    plan = gs.select(graph, gs.scores(model, graph), threshold=0.0)
    assert plan.to_json() == handle.plan().to_json()


@pytest.mark.parametrize("case", [c for c in CLASSIC if c.zero], ids=lambda case: case.name)
def test_every_classic_network_loses_nothing(case):
    """Residual sums, concats, groups: the outputs are the same before and after the cut."""
    model = case.model()
    x = case.inputs()
    graph = gs.trace(model, x)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    budget = gs.Budget(remove_channels=0.3, steps=20)
    handle = gs.attach(model, graph, optimizer, budget)
    model.train()
    for _ in range(20):
        optimizer.zero_grad()
        sum(out.square().mean() for out in tensors_of(model(x))).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        before = tensors_of(model(x))
        gs.prune(model, graph, handle.plan())
        after = tensors_of(model(x))
    for one, two in zip(before, after, strict=True):
        assert (one - two).abs().max() <= 1e-5 * max(float(one.abs().max()), 1e-3)


def tensors_of(outputs):
    return [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)


def test_timeline():
    """Nothing before start, shrinking after it, zeros from the end on and for good."""
    model, graph = plain()
    optimizer = sgd(model)
    budget = gs.Budget(keep_macs=0.4, steps=40, start=0.25, settle=0.5, end=0.75)
    handle = gs.attach(model, graph, optimizer, budget)
    dead = []
    for step in range(40):
        training(model, optimizer, steps=1)
        dead.append(handle.stats().dead)
        if step == 29:
            chosen = handle.plan().to_json()
    assert set(dead[:29]) == {0}
    assert len(set(dead[29:])) == 1
    assert dead[29] > 0
    assert handle.plan().to_json() == chosen
    assert handle.stats().macs <= 0.4


def test_what_is_dropped_from_the_choice_stays_alive():
    """Scores that turn around before the choice is final change it."""
    model, graph = plain((8,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    budget = gs.Budget(remove_channels=0.5, steps=100, start=0.1, settle=0.5, end=0.6)
    handle = gs.attach(model, graph, optimizer, budget)
    weight = model.bn0.weight
    for step in range(100):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        strong = slice(0, 4) if step < 20 else slice(4, 8)
        weight.grad[strong] = 1.0 if step < 20 else 50.0
        optimizer.step()
        if step == 19:
            assert (weight[4:] < 1).any()
            assert (weight[:4] == 1).all()
    assert (weight[:4] == 0).all()
    assert (weight[4:] > 0).all()
    assert handle.stats().dead == 4


def test_limits_hold():
    """A floor, a cap, and widths that hardware likes."""
    model, graph = plain((12, 40))
    optimizer = sgd(model)
    budget = gs.Budget(keep_macs=0.5, steps=STEPS, max_remove=0.5, round_to=4)
    handle = gs.attach(model, graph, optimizer, budget)
    training(model, optimizer)
    gs.prune(model, graph, handle.plan())
    assert model.bn0.num_features >= 6
    assert model.bn1.num_features >= 20
    assert model.bn0.num_features % 4 == model.bn1.num_features % 4 == 0


@pytest.mark.parametrize("target", [{"keep_macs": 0.3}, {"remove_channels": 0.5}], ids=repr)
def test_widths_stay_within_the_band(target):
    """Around what narrowing all groups alike would leave, also where one layer is silent."""
    model, graph = plain((24, 24, 24))
    with torch.no_grad():
        model.bn1.weight.mul_(1e-3)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    budget = gs.Budget(steps=STEPS, band=(0.8, 1.2), **target)
    handle = gs.attach(model, graph, optimizer, budget)
    training(model, optimizer)
    uniform = uniform_ratio(graph, budget.target)
    gs.prune(model, graph, handle.plan())
    widths = np.array([model.bn0.num_features, model.bn1.num_features, model.bn2.num_features])
    assert (widths >= np.floor(0.8 * uniform * 24)).all()
    assert (widths <= np.ceil(1.2 * uniform * 24)).all()
    assert widths[1] == widths.min()


def test_without_a_band_scores_alone_decide():
    model, graph = plain((24, 24))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    budget = gs.Budget(remove_channels=0.4, steps=STEPS, band=(0.0, float("inf")))
    handle = gs.attach(model, graph, optimizer, budget)
    for _ in range(STEPS):
        model.bn0.weight.grad = torch.full_like(model.bn0.weight, 2.0)
        model.bn1.weight.grad = torch.full_like(model.bn1.weight, 1.0)
        optimizer.step()
    gs.prune(model, graph, handle.plan())
    assert (model.bn0.num_features, model.bn1.num_features) == (24, 5)


def test_a_band_that_is_too_narrow_is_widened():
    """A frozen layer leaves so much that the others have to go further down."""
    model, graph = plain((16, 16))
    graph = gs.trace(model, IMAGES[:1], ignore=["bn1"])
    optimizer = sgd(model)
    handle = gs.attach(model, graph, optimizer, gs.Budget(keep_macs=0.3, steps=STEPS))
    training(model, optimizer)
    assert graph.cost(handle.plan()).macs <= 0.3 * graph.cost().macs


def test_unreachable_budgets_name_the_lowest_that_can_be_reached():
    graph = plain_graph([4, 8], frozen_layers=[0])
    model = PlainNet([4, 8])
    with pytest.raises(TargetError, match=r"keep_macs=0\.05.*closest .* is 0\.\d+\. Ask for that"):
        gs.attach(model, graph, sgd(model), gs.Budget(keep_macs=0.05, steps=100))
    gs.attach(model, graph, sgd(model), gs.Budget(keep_macs=0.9, steps=100))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"steps": 5, "keep_macs": 0.5}, PenaltyError, "10 or more"),
        ({"steps": 1e3, "keep_macs": 0.5}, PenaltyError, "needs an integer"),
        ({"steps": 100, "keep_macs": 0.5, "start": 0.6}, PenaltyError, "0 <= start <= settle"),
        ({"steps": 100, "keep_macs": 0.5, "end": 1.2}, PenaltyError, "0 <= start <= settle"),
        ({"steps": 100, "keep_macs": 0.5, "cost_power": -1.0}, PenaltyError, "0 or above"),
        ({"steps": 100, "keep_macs": 0.5, "band": (1.2, 2.0)}, PenaltyError, "least <= 1 <= most"),
        ({"steps": 100}, TargetError, "needs one of .*found none"),
        ({"steps": 100, "keep_macs": 0.5, "keep_params": 0.5}, TargetError, "keep_params=0.5"),
        ({"steps": 100, "keep_macs": 50}, TargetError, "a share, 0 to 1"),
        ({"steps": 100, "keep_macs": float("nan")}, TargetError, "a share, 0 to 1"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(options, error, text):
    with pytest.raises(error, match=text):
        gs.Budget(**options)


def test_given_costs_say_which_channels_go_first():
    """A hundred times the cost of the other layer's: the first ends up narrower than the second."""
    model, graph = plain()
    costs = np.ones(graph.num_channels)
    costs[graph.sites[("bn0.weight", 0)]] = 100.0
    optimizer = sgd(model)
    budget = gs.Budget(steps=STEPS, remove_channels=0.4, costs=costs, cost_power=2.0, band=(0, 9))
    handle = gs.attach(model, graph, optimizer, budget)
    training(model, optimizer)
    keep = graph.keep_mask(handle.plan())
    left = [keep[graph.sites[(f"bn{i}.weight", 0)]].mean() for i in range(2)]
    assert left[0] < left[1]
    assert "costs" not in repr(budget)


@pytest.mark.parametrize("costs", [np.ones(3), np.array([-1.0]), np.full(400, np.nan)])
def test_costs_that_make_no_sense_are_refused(costs):
    model, graph = plain()
    budget = gs.Budget(steps=STEPS, keep_macs=0.5, costs=costs)
    with pytest.raises(PenaltyError, match=r"costs=.* one number of 0 or above is needed for each"):
        gs.attach(model, graph, sgd(model), budget)


def test_a_training_shorter_than_the_budget_is_refused():
    model, graph = plain()
    with pytest.raises(PenaltyError, match="takes 50 optimizer steps, but the training has 30"):
        gs.attach(
            model, graph, sgd(model), gs.Budget(keep_macs=0.5, steps=100, end=0.5), total_steps=30
        )


def test_a_plan_before_its_time_is_refused():
    model, graph = plain()
    optimizer = sgd(model)
    handle = gs.attach(model, graph, optimizer, gs.Budget(keep_macs=0.5, steps=40, end=0.75))
    training(model, optimizer, steps=7)
    with pytest.raises(PenaltyError, match=r"after 7 optimizer steps, .* only after 30"):
        handle.plan()


def test_only_a_budget_has_a_plan():
    model, graph = plain()
    with pytest.raises(PenaltyError, match=r"only a Budget decides .* Use gs\.select"):
        gs.attach(model, graph, sgd(model), gs.L1(0.1)).plan()


def test_scales_that_nobody_trains_are_refused():
    """The budget could not be met, and nobody would know."""
    model, graph = plain()
    model.bn1.weight.requires_grad_(requires_grad=False)
    with pytest.raises(OptimizerError, match=r"1 of the 4 .* first 'bn1\.weight'.* ignore="):
        gs.attach(model, graph, sgd(model), gs.Budget(keep_macs=0.5, steps=100))


def test_repr_says_what_was_asked():
    assert repr(gs.Budget(keep_macs=0.5, steps=100)) == "Budget(steps=100, keep_macs=0.5)"


# State


@pytest.mark.parametrize("pause", [3, 9, 15, 25])
def test_resuming_is_going_on(pause):
    """Bit for bit, before, within and after the window in which channels are chosen."""
    budget = gs.Budget(keep_macs=0.4, steps=STEPS, start=0.2, settle=0.5, end=0.6)
    whole, graph = plain()
    optimizer = sgd(whole)
    gs.attach(whole, graph, optimizer, budget)
    training(whole, optimizer)

    first, graph = plain()
    optimizer = sgd(first)
    handle = gs.attach(first, graph, optimizer, budget)
    training(first, optimizer, steps=pause)
    saved = [first.state_dict(), optimizer.state_dict(), handle.state_dict()]

    second, graph = plain()
    optimizer = sgd(second)
    handle = gs.attach(second, graph, optimizer, budget)
    for each, state in zip((second, optimizer, handle), saved, strict=True):
        each.load_state_dict(state)
    training(second, optimizer, steps=STEPS - pause)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_state_goes_through_a_checkpoint_file(tmp_path):
    """Only tensors and plain values, so that ``weights_only`` loads it."""
    model, graph = plain()
    optimizer = sgd(model)
    handle = gs.attach(model, graph, optimizer, gs.Budget(keep_macs=0.4, steps=STEPS))
    training(model, optimizer, steps=10)
    torch.save(handle.state_dict(), tmp_path / "handle.pt")
    handle.load_state_dict(torch.load(tmp_path / "handle.pt", weights_only=True))
    assert handle.steps == 10


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda state: {**state, "penalty": "L1(strength=0.1)"}, r"found that of L1\(strength"),
        (lambda _: {}, "found that of something else"),
        (lambda state: {**state, "settling": None}, "its 'scores' is NoneType"),
        (
            lambda state: {**state, "settling": {**state["settling"], "chosen": torch.ones(2)}},
            r"its 'chosen' is \(2,\)",
        ),
    ],
)
def test_state_of_something_else_is_refused(spoil, text):
    model, graph = plain()
    handle = gs.attach(model, graph, sgd(model), gs.Budget(keep_macs=0.4, steps=STEPS))
    state = {**handle.state_dict(), "steps": 7}
    with pytest.raises(PenaltyError, match=text):
        handle.load_state_dict(spoil(state))
    assert handle.steps == 0
    handle.load_state_dict(state)
    assert handle.steps == 7


# Stats


def test_stats_of_scales_set_by_hand():
    model, graph = PlainNet([4, 2]), plain_graph([4, 2])
    model.bn0.weight.data = torch.tensor([0.0, -1.0, 2.0, 0.0])
    model.bn1.weight.data = torch.tensor([4.0, 0.0])
    handle = gs.attach(model, graph, sgd(model), gs.L1(gs.schedules.Linear(0.4, 0.0, steps=4)))
    stats = handle.stats()
    assert (stats.zeros, stats.scales, stats.dead, stats.channels) == (3, 6, 3, 6)
    assert stats.quantiles[0.5] == 0.5
    assert stats.quantiles[1.0] == 4.0
    keep = np.array([False, True, True, False, True, False])
    assert stats.macs == Cut(graph, keep).cost.macs / graph.cost().macs
    assert stats.params == Cut(graph, keep).cost.params / graph.cost().params
    assert stats.strength == 0.4
    flat = stats.as_dict()
    assert flat["zeros"] == 0.5
    assert flat["scale_q50"] == 0.5
    assert all(isinstance(value, float) for value in flat.values())
    assert "3/6 scales exactly zero, 3/6 channels dead" in str(stats)


def test_stats_count_a_channel_dead_only_with_its_shift():
    """Where the penalty acts on shifts."""
    model, graph = plain((4,))
    handle = gs.attach(model, graph, sgd(model), gs.Proximal(0.1))
    model.bn0.weight.data[:2] = 0
    model.bn0.bias.data[0] = 1.0
    assert handle.stats().zeros == 2
    assert handle.stats().dead == 1
    assert "strength" in handle.stats().as_dict()


def test_stats_of_a_budget_have_no_strength():
    model, graph = plain()
    handle = gs.attach(model, graph, sgd(model), gs.Budget(keep_macs=0.5, steps=100))
    assert handle.stats().strength is None
    assert "strength" not in handle.stats().as_dict()


# Optimizers that were not told


def cut(model, graph, **options):
    return gs.prune(
        model, graph, gs.select(graph, gs.scores(model, graph), keep_macs=0.5), **options
    )


def test_an_optimizer_that_was_not_told_says_so_at_its_next_step():
    model, graph = plain()
    optimizer = sgd(model)
    training(model, optimizer, steps=1)
    cut(model, graph)
    text = r"SGD has a state 'momentum_buffer' .* never told of the cut\. Use gs\.prune"
    with pytest.raises(OptimizerError, match=text):
        training(model, optimizer, steps=1)


def test_the_loss_of_the_last_step_may_still_be_alive():
    """Its graph remembers the old shapes; the next backward pass must not."""
    model, graph = plain()
    optimizer = sgd(model)
    loss = functional.cross_entropy(model(IMAGES), LABELS)
    loss.backward()
    optimizer.step()
    cut(model, graph, optimizer=optimizer)
    training(model, optimizer, steps=2)
    assert torch.isfinite(loss)


def test_told_fresh_and_stateless_optimizers_go_on():
    model, graph = plain()
    told, stateless = sgd(model), torch.optim.SGD(model.parameters(), lr=0.1)
    training(model, told, steps=1)
    training(model, stateless, steps=1)
    cut(model, graph, optimizer=told)
    for optimizer in (told, stateless, torch.optim.Adam(model.parameters())):
        training(model, optimizer, steps=2)


def test_optimizers_of_other_networks_are_left_in_peace():
    other = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(other.parameters())
    model, graph = plain()
    cut(model, graph)
    other(torch.ones(1, 3)).sum().backward()
    optimizer.step()
