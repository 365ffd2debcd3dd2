"""What training loops do around a step: scaling, clipping, accumulation, groups, closures."""

import pytest
import torch
from torch import nn

import gammaslim as gs
from gammaslim.training.connecting import attach
from tests.training.common import (
    CLOSE,
    add_group_lasso,
    batch,
    loss_of,
    scales_of,
    shrink,
    small_net,
    traced,
    train,
)

GRAPH = traced(small_net())
SINGLE = traced(small_net(torch.float32))
FUSED = pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
PENALTIES = {
    "L1": gs.L1(0.02),
    "GroupLasso": gs.GroupLasso(0.02),
    "Polarization": gs.Polarization(0.02),
    "Proximal": gs.Proximal(0.5),
    "Budget": gs.Budget(keep_macs=0.5, steps=16, start=0.1, settle=0.4, end=0.5),
}
EVERY = pytest.mark.parametrize("penalty", PENALTIES.values(), ids=PENALTIES)

# Gradient scaling and autocast


def scaled_training(penalty, *, fused, overflow=(), steps=16, scale=2.0**10):
    """Trains in single precision under a GradScaler; at some steps all gradients are infinite."""
    model = small_net(torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, fused=fused)
    handle = attach(model, SINGLE, optimizer, penalty)
    # The scale stays, so that both trainings see the same one.
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=100, backoff_factor=0.99)
    for step in range(steps):
        optimizer.zero_grad()
        before = scales_of(model, SINGLE)
        scaler.scale(loss_of(model, step % 4, torch.float32)).backward()
        if step in overflow:
            model.bn_stem.weight.grad[0] = float("inf")
            model.head.bias.grad[0] = float("nan")
        scaler.step(optimizer)
        scaler.update()
        if step in overflow:
            assert torch.equal(scales_of(model, SINGLE), before)
    return model, handle


@FUSED
@EVERY
def test_gradient_scaling_changes_nothing(penalty, fused):
    """A power of two as the scale: only rounding of the loss itself differs."""
    scaled, _ = scaled_training(penalty, fused=fused)
    plain, _ = scaled_training(penalty, fused=fused, scale=1.0)
    torch.testing.assert_close(
        scales_of(scaled, SINGLE), scales_of(plain, SINGLE), rtol=1e-4, atol=1e-5
    )


@FUSED
@EVERY
def test_steps_that_overflow_leave_scales_alone_and_poison_nothing(penalty, fused):
    """The helper compares scales around those steps; here, all that is left behind is finite.

    Not the very first step: PyTorch's fused SGD begins with momentum buffers that are not filled,
    and where the first step is skipped they stay so (``_fused_sgd`` in PyTorch 2.13).
    """
    model, handle = scaled_training(penalty, fused=fused, overflow=(1, 3, 4), steps=20)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    if isinstance(penalty, gs.Budget):
        assert handle.state_dict()["settling"]["scores"].isfinite().all()
        assert handle.stats().dead == removed_by(handle.plan()) > 0


@FUSED
def test_a_budget_reaches_zero_though_its_last_step_overflows(fused):
    """A fused optimizer counts that step; what was chosen is zero all the same."""
    budget = gs.Budget(keep_macs=0.5, steps=16, start=0.1, settle=0.4, end=0.5)
    model = small_net(torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, fused=fused)
    handle = attach(model, SINGLE, optimizer, budget)
    scaler = torch.amp.GradScaler("cpu")
    for step in range(16):
        optimizer.zero_grad()
        scaler.scale(loss_of(model, step % 4, torch.float32)).backward()
        if step == budget.zero_at - 1:
            model.head.bias.grad[0] = float("inf")
        scaler.step(optimizer)
        scaler.update()
        if handle.steps >= budget.zero_at:
            assert handle.stats().dead == removed_by(handle.plan()) > 0
    assert handle.steps == (16 if fused else 15)


def removed_by(plan) -> int:
    """How many channels a plan removes."""
    return int((~SINGLE.keep_mask(plan)).sum())


@EVERY
def test_autocast_trains_scales_as_the_formula_says(penalty):
    """Parameters stay in single precision; the term is that of single precision, exactly."""
    results = []
    for attached in (True, False):
        model = small_net(torch.float32)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        handle = attach(model, SINGLE, optimizer, penalty)
        if not attached:
            handle.detach()
        for step in range(4):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss_of(model, step, torch.float32)
            loss.backward()
            if not attached and isinstance(penalty, gs.GroupLasso):
                add_group_lasso(model, SINGLE, 0.02)
            optimizer.step()
            if not attached and isinstance(penalty, gs.Proximal):
                shrink(model, SINGLE, 0.5, 0.05)
        results.append(scales_of(model, SINGLE))
    assert results[0].dtype == torch.float32
    assert results[0].isfinite().all()
    if isinstance(penalty, gs.GroupLasso | gs.Proximal):
        torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)
    elif not isinstance(penalty, gs.Budget):
        assert not torch.allclose(results[0], results[1], atol=1e-3)


# Accumulation and clipping


@EVERY
def test_accumulated_gradients_are_those_of_the_whole_batch(penalty):
    """The term is added once per step, not once per backward pass."""
    results = []
    for pieces in (1, 4):
        model = small_net().eval()  # statistics of the whole batch are not those of its parts
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        attach(model, GRAPH, optimizer, penalty)
        for step in range(16):
            optimizer.zero_grad()
            images, classes = batch(step % 4)
            for x, y in zip(images.chunk(pieces), classes.chunk(pieces), strict=True):
                (nn.functional.cross_entropy(model(x), y) / pieces).backward()
            optimizer.step()
        results.append(scales_of(model, GRAPH))
    torch.testing.assert_close(results[0], results[1], **CLOSE)


def test_the_term_is_added_after_clipping():
    """Gradients are clipped to almost nothing; the term is not."""
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attach(model, GRAPH, optimizer, gs.GroupLasso(0.02))
    expected = small_net()
    stock = torch.optim.SGD(expected.parameters(), lr=0.1)

    def clip(net: nn.Module) -> None:
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1e-3)

    def clip_and_add(_: int) -> None:
        clip(expected)
        add_group_lasso(expected, GRAPH, 0.02)

    train(model, optimizer, 4, before=lambda _: clip(model))
    train(expected, stock, 4, before=clip_and_add)
    torch.testing.assert_close(scales_of(model, GRAPH), scales_of(expected, GRAPH), **CLOSE)


# Several optimizers, parameter groups


def halves(model: nn.Module) -> list[list[nn.Parameter]]:
    """The stream's two BatchNorms are coupled, and end up in different halves."""
    first = ("stem", "bn_stem", "mix", "bn_mix")
    named = list(model.named_parameters())
    return [[p for n, p in named if (n.split(".")[0] in first) is side] for side in (True, False)]


@pytest.mark.parametrize("order", [1, -1], ids=["as-listed", "reversed"])
@EVERY
def test_a_list_of_optimizers_does_as_one(penalty, order):
    """In whatever order they step: the penalty sees the scales as the round found them."""
    one, two = small_net(), small_net()
    single = torch.optim.SGD(one.parameters(), lr=0.05, momentum=0.9)
    several = [torch.optim.SGD(half, lr=0.05, momentum=0.9) for half in halves(two)]
    alone = attach(one, GRAPH, single, penalty)
    handle = attach(two, GRAPH, several, penalty)
    train(one, single, 16)
    train(two, several[::order], 16)
    torch.testing.assert_close(scales_of(two, GRAPH), scales_of(one, GRAPH), **CLOSE)
    assert handle.steps == alone.steps == 16


def test_an_optimizer_that_steps_more_often_sets_the_clock():
    """Each of its steps begins a round; what the other has not moved is not shrunk."""
    model = small_net()
    often, seldom = (torch.optim.SGD(half, lr=0.1) for half in halves(model))
    handle = attach(model, GRAPH, [often, seldom], gs.Proximal(0.3))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    still = model.bn_up.weight.detach().clone()
    before = model.bn_mix.weight.detach().clone()
    for _ in range(3):
        often.step()
    assert handle.steps == 2
    assert torch.equal(model.bn_up.weight, still)
    assert (model.bn_mix.weight.abs() < before.abs()).all()
    seldom.step()
    assert handle.steps == 3
    assert (model.bn_up.weight.abs() < still.abs()).all()


@pytest.mark.parametrize("tensor", [False, True], ids=["number", "tensor"])
def test_each_parameter_group_shrinks_at_its_own_learning_rate(tensor):
    """η is that of the group, whether a number or a tensor, also after a scheduler changed it."""
    model, expected = small_net(), small_net()

    def make(net: nn.Module, *, tensors: bool) -> torch.optim.Optimizer:
        rates = [torch.tensor(r, dtype=torch.float64) if tensors else r for r in (0.05, 0.01)]
        pairs = zip(halves(net), rates, strict=True)
        return torch.optim.SGD([{"params": half, "lr": rate} for half, rate in pairs])

    ours, stock = make(model, tensors=tensor), make(expected, tensors=False)
    attach(model, GRAPH, ours, gs.Proximal(0.5))
    decay = [torch.optim.lr_scheduler.ExponentialLR(each, 0.5) for each in (ours, stock)]

    def reference(_: int) -> None:
        rates = {id(p): g["lr"] for g in stock.param_groups for p in g["params"]}
        shrink(expected, GRAPH, 0.5, lambda p: rates[id(p)])
        decay[1].step()

    train(model, ours, 4, after=lambda _: decay[0].step())
    train(expected, stock, 4, after=reference)
    torch.testing.assert_close(scales_of(model, GRAPH), scales_of(expected, GRAPH), **CLOSE)


# Frozen parameters, closures


@pytest.mark.parametrize("penalty", [gs.GroupLasso(0.02), gs.Proximal(0.5)], ids=repr)
def test_frozen_scales_count_in_their_channels_norm_and_do_not_move(penalty):
    """``requires_grad=False`` though the optimizer holds them."""
    model, expected = small_net(), small_net()
    for net in (model, expected):
        net.bn_up.requires_grad_(requires_grad=False)
    still = model.bn_up.weight.clone()
    ours = torch.optim.SGD(model.parameters(), lr=0.05)
    stock = torch.optim.SGD(expected.parameters(), lr=0.05)
    attach(model, GRAPH, ours, penalty)

    def add(_: int) -> None:
        expected.bn_up.weight.grad = torch.zeros(6, dtype=torch.float64)  # to be written to
        if isinstance(penalty, gs.GroupLasso):
            add_group_lasso(expected, GRAPH, 0.02)
        expected.bn_up.weight.grad = None

    def after(_: int) -> None:
        if isinstance(penalty, gs.Proximal):
            frozen = {id(expected.bn_up.weight), id(expected.bn_up.bias)}
            shrink(expected, GRAPH, 0.5, lambda p: 0.0 if id(p) in frozen else 0.05)

    train(model, ours, 4)
    train(expected, stock, 4, before=add, after=after)
    torch.testing.assert_close(scales_of(model, GRAPH), scales_of(expected, GRAPH), **CLOSE)
    assert torch.equal(model.bn_up.weight, still)


@EVERY
def test_closures_do_as_plain_loops(penalty):
    """Gradients are zeroed and made inside ``step``."""
    plain, closed = small_net(), small_net()
    ours = [torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9) for net in (plain, closed)]
    for net, optimizer in zip((plain, closed), ours, strict=True):
        attach(net, GRAPH, optimizer, penalty)
    train(plain, ours[0], 16)
    for step in range(16):

        def closure(step: int = step) -> torch.Tensor:
            closed.zero_grad()
            loss = loss_of(closed, step)
            loss.backward()
            return loss

        ours[1].step(closure)
    assert torch.equal(scales_of(plain, GRAPH), scales_of(closed, GRAPH))


def test_a_step_that_fails_leaves_no_term_behind():
    """An exception between the hooks; the next step computes anew."""
    model, expected = small_net(), small_net()
    ours = torch.optim.SGD(model.parameters(), lr=0.1)
    attach(model, GRAPH, ours, gs.GroupLasso(0.02))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    ours.param_groups[0]["lr"] = "fast"
    with pytest.raises(TypeError):
        ours.step()
    ours.param_groups[0]["lr"] = 0.1
    with torch.no_grad():
        for net in (model, expected):
            net.bn_stem.weight.mul_(3)
    train(model, ours, 2)
    stock = torch.optim.SGD(expected.parameters(), lr=0.1)
    train(expected, stock, 2, before=lambda _: add_group_lasso(expected, GRAPH, 0.02))
    torch.testing.assert_close(scales_of(model, GRAPH), scales_of(expected, GRAPH), **CLOSE)
