"""Attaching: the penalty acts inside step, under every trainer, or says why it cannot."""

import copy
import gc
import warnings
import weakref

import pytest
import torch
from torch import nn

from gammaslim.errors import (
    GammaslimWarning,
    NothingToPruneError,
    OptimizerError,
    PenaltyError,
    StaleGraphError,
)
from gammaslim.penalties import L1, GroupLasso
from gammaslim.training.connecting import attach
from tests.handmade import (
    INNER,
    SCALES,
    WIDTH,
    PlainNet,
    expected_terms,
    fill_gradients,
    plain_graph,
    residual_graph,
    residual_net,
    step_gradients,
)

GRAPH = residual_graph(WIDTH, INNER)

# Acting inside step


def test_step_moves_each_scale_towards_zero():
    """Plain SGD without a loss: γ becomes γ - lr · λ · sign γ, and nothing else moves."""
    model = residual_net()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    attach(model, GRAPH, optimizer, L1(0.1))
    fill_gradients(model)
    optimizer.step()
    for name, value in model.state_dict().items():
        moved = 0.05 * before[name].sign() if name in SCALES else 0
        torch.testing.assert_close(value, before[name] - moved)


def test_parameters_without_gradient_get_no_penalty():
    """They are part of their channels' norm all the same."""
    model = residual_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    attach(model, GRAPH, optimizer, GroupLasso(0.1))
    fill_gradients(model)
    model.bn_up.weight.grad = None
    optimizer.step()
    assert model.bn_up.weight.grad is None
    expected = expected_terms(model, GRAPH, GroupLasso(0.1))
    torch.testing.assert_close(model.bn_stem.weight.grad, expected["bn_stem.weight"])


def test_step_without_any_gradient_does_nothing():
    """As optimizers themselves do."""
    model = residual_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    attach(model, GRAPH, optimizer, L1(0.1))
    optimizer.step()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_scaled_gradients_get_a_scaled_term():
    """Fused optimizers unscale inside step, after the hook."""

    class Still(torch.optim.SGD):
        """Leaves everything as the hook made it."""

        def step(self, closure=None):
            """Nothing, after the hooks."""
            del closure

    model = residual_net()
    optimizer = Still(model.parameters())
    attach(model, GRAPH, optimizer, L1(0.5))
    for grad_scale, term in ((None, 0.5), (torch.tensor(64.0), 32.0)):
        optimizer.grad_scale = grad_scale
        fill_gradients(model)
        optimizer.step()
        assert (model.bn_down.weight.grad.abs() == term).all()


@pytest.mark.parametrize("fused", [False, True])
def test_gradient_scaling_leaves_training_as_it_was(fused):
    """A loss scale of 65536 must not weaken the penalty."""
    results = []
    for scaling in (False, True):
        model = residual_net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
        attach(model, GRAPH, optimizer, GroupLasso(0.1))
        scaler = torch.amp.GradScaler("cpu", enabled=scaling)
        for seed in range(3):
            x = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
            optimizer.zero_grad()
            scaler.scale(model(x).square().sum()).backward()
            scaler.step(optimizer)
            scaler.update()
        results.append(model.bn_stem.weight.detach())
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("keyword", [False, True])
def test_closures_get_the_term_after_they_have_made_gradients(keyword):
    """A closure that zeroes gradients inside step (Lightning) must not swallow the term."""
    model = residual_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    attach(model, GRAPH, optimizer, L1(0.1))

    def closure() -> float:
        fill_gradients(model, 1.0)
        return 42.0

    loss = optimizer.step(closure=closure) if keyword else optimizer.step(closure)
    assert loss == 42.0
    torch.testing.assert_close(
        model.bn_stem.weight.grad, 1.0 + 0.1 * model.bn_stem.weight.detach().sign()
    )


def test_optimizers_that_call_the_closure_often_get_the_term_each_time():
    """LBFGS sees the penalty's gradient at every evaluation, once each."""
    model = residual_net()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
    attach(model, GRAPH, optimizer, L1(0.1))
    calls = []

    def closure() -> torch.Tensor:
        calls.append(1)
        fill_gradients(model)
        return torch.zeros(())

    before = model.bn_down.weight.detach().clone()
    optimizer.step(closure)
    assert len(calls) > 1
    assert (model.bn_down.weight.abs() < before.abs()).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_precisions_train_too(dtype):
    """The term is computed at least in single precision and keeps the gradient's type."""
    model = residual_net().to(dtype)
    with torch.no_grad():
        model.bn_down.weight.fill_(2.0**-14)  # whose square is no half-precision number
    found = step_gradients(model, GRAPH, GroupLasso(0.5))["bn_down.weight"]
    assert found.dtype == dtype
    torch.testing.assert_close(found, torch.full((INNER,), 0.5, dtype=dtype))


def test_network_converted_after_attaching_still_trains():
    """``model.to`` swaps the data of the same parameters."""
    model = residual_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    attach(model, GRAPH, optimizer, L1(0.5))
    model.double()
    fill_gradients(model)
    optimizer.step()
    torch.testing.assert_close(
        model.bn_down.weight.grad, 0.5 * model.bn_down.weight.detach().sign()
    )


def test_wrapped_network_can_be_attached():
    """The parameters are the same ones."""
    model = residual_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    attach(nn.DataParallel(model), GRAPH, optimizer, L1(0.5))
    fill_gradients(model)
    optimizer.step()
    assert (model.bn_down.weight.grad.abs() == 0.5).all()


def test_wrapped_optimizer_is_unwrapped():
    """Accelerate's and Lightning's wrappers keep the torch optimizer in ``optimizer``."""
    model = residual_net()
    inner = torch.optim.SGD(model.parameters(), lr=0.0)

    class Wrapper:
        optimizer = inner

    attach(model, GRAPH, Wrapper(), L1(0.5))
    fill_gradients(model)
    inner.step()
    assert (model.bn_down.weight.grad.abs() == 0.5).all()


# The handle


def test_detach_ends_it_and_may_be_repeated():
    """The second call does nothing."""
    model = residual_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    handle = attach(model, GRAPH, optimizer, L1(0.1))
    assert handle.active
    handle.detach()
    handle.detach()
    assert not handle.active
    fill_gradients(model)
    optimizer.step()
    assert (model.bn_stem.weight.grad == 0).all()


def test_handle_is_a_context_manager():
    """Leaving it detaches."""
    model = residual_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with attach(model, GRAPH, optimizer, L1(0.1)) as handle:
        assert handle.penalty == L1(0.1)
    assert not handle.active


def test_repr_says_what_acts_where():
    """Penalty, tensors, scales, optimizer, state."""
    model = residual_net()
    handle = attach(model, GRAPH, torch.optim.SGD(model.parameters()), L1(0.1))
    text = "L1(strength=0.1) on 3 of 3 scale tensors (11 elements) in SGD"
    assert repr(handle) == f"Attachment({text})"
    handle.detach()
    assert repr(handle) == f"Attachment({text}, detached)"


def test_model_is_not_modified():
    """No hooks, no new attributes, no other values."""
    model = residual_net()
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    values = copy.deepcopy(model.state_dict())
    attach(model, GRAPH, torch.optim.SGD(model.parameters()), L1(0.1))
    assert {name: set(vars(module)) for name, module in model.named_modules()} == before
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(values[name], value) for name, value in model.state_dict().items())


def test_forgotten_optimizers_are_freed():
    """The record of active attachments holds nothing alive."""
    model = residual_net()
    optimizer = torch.optim.SGD(model.parameters())
    attach(model, GRAPH, optimizer, L1(0.1))
    alive = weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert alive() is None


# Errors


def test_second_attachment_is_refused_until_the_first_is_detached():
    """Two penalties on one scale would add up silently."""
    model = residual_net()
    optimizer = torch.optim.SGD(model.parameters())
    first = attach(model, GRAPH, optimizer, L1(0.1))
    with pytest.raises(OptimizerError, match=r"already penalises .*L1\(strength=0\.1\).* Detach"):
        attach(model, GRAPH, optimizer, GroupLasso(0.1))
    first.detach()
    assert attach(model, GRAPH, optimizer, GroupLasso(0.1)).active


def test_two_networks_may_share_an_optimizer():
    """Each has its own scales."""
    one, two = residual_net(), residual_net()
    optimizer = torch.optim.SGD([*one.parameters(), *two.parameters()])
    attach(one, GRAPH, optimizer, L1(0.1))
    assert attach(two, GRAPH, optimizer, L1(0.1)).active


def test_optimizer_of_another_network_is_refused():
    """It would train something else, and γ would not move."""
    optimizer = torch.optim.SGD(residual_net().parameters())
    text = r"SGD, which holds 11 parameters, but those scales are not among them: first 'bn_stem\."
    with pytest.raises(OptimizerError, match=text):
        attach(residual_net(), GRAPH, optimizer, L1(0.1))


def test_frozen_scales_are_refused():
    """Nothing could ever move."""
    model = residual_net()
    optimizer = torch.optim.SGD(model.parameters())
    for name in SCALES:
        model.get_parameter(name).requires_grad_(requires_grad=False)
    with pytest.raises(OptimizerError, match=r"are all frozen \(requires_grad=False\)"):
        attach(model, GRAPH, optimizer, L1(0.1))


def test_scales_the_optimizer_does_not_own_are_warned_about():
    """How many, which first; the others are penalised."""
    model = residual_net()
    optimizer = torch.optim.SGD(
        [p for name, p in model.named_parameters() if name != "bn_stem.weight"], lr=0.0
    )
    with pytest.warns(GammaslimWarning, match=r"own 1 of the 3 .* first 'bn_stem\.weight'"):
        handle = attach(model, GRAPH, optimizer, GroupLasso(0.1))
    assert "2 of 3 scale tensors" in repr(handle)
    fill_gradients(model)
    optimizer.step()
    expected = expected_terms(model, GRAPH, GroupLasso(0.1))
    assert (model.bn_stem.weight.grad == 0).all()
    torch.testing.assert_close(model.bn_up.weight.grad, expected["bn_up.weight"])
    torch.testing.assert_close(model.bn_down.weight.grad, expected["bn_down.weight"])


def test_frozen_scales_outside_the_optimizer_are_no_cause_for_a_warning():
    """Someone who froze a layer knows."""
    model = residual_net()
    model.bn_stem.weight.requires_grad_(requires_grad=False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attach(model, GRAPH, optimizer, L1(0.1))


@pytest.mark.parametrize("thing", ["SGD", None, residual_net().parameters()])
def test_something_that_is_no_optimizer_is_refused(thing):
    """With what was found."""
    with pytest.raises(OptimizerError, match=r"torch\.optim\.Optimizer is needed; found"):
        attach(residual_net(), GRAPH, thing, L1(0.1))


@pytest.mark.parametrize("thing", [1e-4, L1])
def test_something_that_is_no_penalty_is_refused(thing):
    """A bare strength, or the class itself."""
    model = residual_net()
    with pytest.raises(PenaltyError, match=r"such as L1\(1e-4\) is needed; found"):
        attach(model, GRAPH, torch.optim.SGD(model.parameters()), thing)


def test_nothing_to_penalise_is_refused():
    """All channels frozen."""
    model = PlainNet([4])
    graph = plain_graph([4], frozen_layers=[0])
    with pytest.raises(NothingToPruneError, match="1 scale tensors none has any"):
        attach(model, graph, torch.optim.SGD(model.parameters()), L1(0.1))


def test_stale_graph_is_refused_at_once():
    """The network was cut before."""
    model = PlainNet([4, 3])
    with pytest.raises(StaleGraphError, match=r"'bn1\.weight' had shape \(5,\)"):
        attach(model, plain_graph([4, 5]), torch.optim.SGD(model.parameters()), L1(0.1))


def test_network_cut_while_attached_stops_the_next_step():
    """The text says how to go on."""
    model = PlainNet([4, 3])
    optimizer = torch.optim.SGD(model.parameters())
    attach(model, plain_graph([4, 3]), optimizer, L1(0.1))
    model.bn1.weight.data = model.bn1.weight.data[:2].clone()
    fill_gradients(model)
    text = r"'bn1\.weight' had 3 scales; now it has 2: .* or detach, trace the network again"
    with pytest.raises(StaleGraphError, match=text):
        optimizer.step()
