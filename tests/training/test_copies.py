"""Averages, copies, pickles and checkpoints of what is attached."""

import copy
import io
import pickle

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import gammaslim as gs
from gammaslim.errors import PenaltyError, StaleGraphError
from gammaslim.training.connecting import attach
from tests.training.common import loss_of, scales_of, small_net, traced, train

GRAPH = traced(small_net())
BUDGET = gs.Budget(keep_macs=0.5, steps=20, start=0.1, settle=0.4, end=0.5)
SHRINKING = {"Proximal": gs.Proximal(1.2), "Budget": BUDGET}
AVERAGES = {
    "mean": {},
    "ema": {"multi_avg_fn": get_ema_multi_avg_fn(0.9)},
    "ema-buffers": {"multi_avg_fn": get_ema_multi_avg_fn(0.9), "use_buffers": True},
}
shrinking = pytest.mark.parametrize("penalty", SHRINKING.values(), ids=SHRINKING)


def averaged_training(penalty, options, *, told):
    """Trains with an average beside it; returns the network, the average and the handle."""
    model = small_net()
    average = AveragedModel(model, **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    handle = attach(model, GRAPH, optimizer, penalty, ema=average if told else None)
    train(model, optimizer, 20, after=lambda _: average.update_parameters(model))
    return model, average, handle


@pytest.mark.parametrize("average", AVERAGES)
@shrinking
def test_an_average_gets_the_same_exact_zeros(penalty, average):
    """No more and no fewer; what is not zero is averaged as without us."""
    model, averaged, _ = averaged_training(penalty, AVERAGES[average], told=True)
    _, untold, _ = averaged_training(penalty, AVERAGES[average], told=False)
    live, mean, plain = (scales_of(net, GRAPH) for net in (model, averaged.module, untold.module))
    assert 0 < (live == 0).sum() < len(live)
    assert torch.equal(mean == 0, live == 0)
    assert torch.equal(mean[live != 0], plain[live != 0])


@shrinking
def test_without_being_told_an_average_is_left_alone(penalty):
    """It is no part of the network; its numbers are those of averaging alone."""
    model, average, _ = averaged_training(penalty, AVERAGES["ema"], told=False)
    live = scales_of(model, GRAPH)
    assert (scales_of(average.module, GRAPH)[live == 0] != 0).all()


@pytest.mark.parametrize("wrap", ["average", "module", "average of a wrapper", "wrapper around"])
def test_an_average_is_found_in_its_wrappers(wrap):
    """AveragedModel, DataParallel inside it, or somebody's own holder of a ``module``."""

    class Holder(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.module = copy.deepcopy(inner)

    model = small_net()
    made = {
        "average": lambda: AveragedModel(model),
        "module": lambda: copy.deepcopy(model),
        "average of a wrapper": lambda: AveragedModel(torch.nn.DataParallel(model)),
        "wrapper around": lambda: Holder(AveragedModel(model)),
    }[wrap]()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    attach(model, GRAPH, optimizer, gs.Proximal(100.0), ema=made)
    optimizer.step()
    found = [value for name, value in made.named_parameters() if "bn" in name]
    assert len(found) == 10
    assert all((value == 0).all() for value in found)


def test_an_average_of_something_else_is_refused():
    """With both shapes."""
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    other = small_net()
    other.bn_mix = torch.nn.BatchNorm2d(9)
    text = r"'bn_mix\.weight' has the shape \(7,\) there and \(9,\) in it"
    with pytest.raises(StaleGraphError, match=text):
        attach(model, GRAPH, optimizer, gs.L1(0.1), ema=other)
    with pytest.raises(StaleGraphError, match="is missing in it"):
        attach(model, GRAPH, optimizer, gs.L1(0.1), ema=torch.nn.Linear(2, 2))


# Copies


def test_a_copied_optimizer_has_no_penalty_and_the_original_has_one():
    """PyTorch leaves hooks out of copies: two penalties on one network cannot come of it."""
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attach(model, GRAPH, optimizer, gs.L1(0.1))
    twin, twin_optimizer = copy.deepcopy((model, optimizer))
    assert twin_optimizer.param_groups[0]["params"][0] is next(twin.parameters())
    for net, each in ((model, optimizer), (twin, twin_optimizer)):
        for parameter in net.parameters():
            parameter.grad = torch.zeros_like(parameter)
        each.step()
    assert (twin.bn_mix.weight.grad == 0).all()
    torch.testing.assert_close(model.bn_mix.weight.grad, 0.1 * small_net().bn_mix.weight.sign())


def test_a_copy_of_optimizer_and_network_can_be_attached_by_itself():
    """It then goes the same way as the original, once."""
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    attach(model, GRAPH, optimizer, gs.GroupLasso(0.1))
    train(model, optimizer, 3)
    twin, twin_optimizer = copy.deepcopy((model, optimizer))
    attach(twin, GRAPH, twin_optimizer, gs.GroupLasso(0.1))
    train(model, optimizer, 3)
    train(twin, twin_optimizer, 3)
    assert torch.equal(scales_of(model, GRAPH), scales_of(twin, GRAPH))


def test_a_handle_is_one():
    """A copy of it, or of a network that holds it, could do nothing; a pickle neither."""
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.penalty = handle = attach(model, GRAPH, optimizer, gs.L1(0.1))
    assert copy.copy(handle) is handle
    assert copy.deepcopy(model).penalty is handle
    with pytest.raises(PenaltyError, match=r"was to be pickled; .* Save its state_dict\(\)"):
        pickle.dumps(handle)


@pytest.mark.parametrize("penalty", [gs.L1(0.1), BUDGET], ids=repr)
def test_state_can_be_saved_and_loaded_while_attached(penalty):
    """The optimizer's, its pickle and the handle's; nothing of ours is in the first two."""
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    handle = attach(model, GRAPH, optimizer, penalty)
    train(model, optimizer, 10)
    file = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "penalty": handle.state_dict()}, file)
    file.seek(0)
    back = torch.load(file, weights_only=True)
    assert set(back["optimizer"]) == {"state", "param_groups"}
    optimizer.load_state_dict(back["optimizer"])
    handle.load_state_dict(back["penalty"])
    assert handle.steps == 10
    assert not pickle.loads(pickle.dumps(optimizer))._optimizer_step_pre_hooks  # noqa: S301
    train(model, optimizer, 1)
    assert handle.steps == 11


# Checkpoints

RESUMED = {
    "L1": gs.L1(gs.schedules.Cosine(0.05, 0.0, steps=20)),
    "GroupLasso": gs.GroupLasso(0.02),
    "Polarization": gs.Polarization(gs.schedules.Warmup(0.05, steps=15)),
    "Proximal": gs.Proximal(gs.schedules.After(0.4, 0.5, steps=20)),
    "cost_weighted": gs.cost_weighted(gs.GroupLasso(0.02), GRAPH),
    "Budget": gs.Budget(keep_macs=0.5, steps=20, start=0.2, settle=0.6, end=0.8),
}


def noisy_steps(model, optimizer, first, last):
    """Steps whose loss also depends on the random state, as dropout would."""
    for step in range(first, last):
        optimizer.zero_grad()
        noise = torch.randn(3, dtype=torch.float64)
        (loss_of(model, step) + (model.head.bias * noise).sum()).backward()
        optimizer.step()


@pytest.mark.parametrize("stop", [2, 4, 7, 11, 12, 14, 16, 18])
@pytest.mark.parametrize("penalty", RESUMED.values(), ids=RESUMED)
def test_a_resumed_training_is_bit_for_bit_an_uninterrupted_one(penalty, stop):
    """Before, inside and after a budget's window (steps 4 to 12, zero at 16)."""
    torch.manual_seed(3)
    model = small_net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    handle = attach(model, GRAPH, optimizer, penalty)
    noisy_steps(model, optimizer, 0, stop)
    file = io.BytesIO()
    torch.save(
        {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "penalty": handle.state_dict(),
            "random": torch.get_rng_state(),
        },
        file,
    )
    noisy_steps(model, optimizer, stop, 20)

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    again = small_net()
    again.load_state_dict(saved["model"])
    other = torch.optim.AdamW(again.parameters(), lr=0.01)
    other.load_state_dict(saved["optimizer"])
    resumed = attach(again, GRAPH, other, penalty)
    resumed.load_state_dict(saved["penalty"])
    torch.set_rng_state(saved["random"])
    noisy_steps(again, other, stop, 20)

    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert resumed.steps == handle.steps == 20
    assert str(resumed.stats()) == str(handle.stats())
    if isinstance(penalty, gs.Budget):
        assert resumed.plan().to_json() == handle.plan().to_json()
