"""The law and its corollaries on every network of the small zoo."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import SGD, Adam, Optimizer

import gammaslim as gs
from bench import oracle
from tests.nets.case import Case
from tests.zoo_small import NAMES, ZOO

every = pytest.mark.parametrize("case", ZOO, ids=NAMES)
SOLID = tuple(case for case in ZOO if not case.refusable)
solid = pytest.mark.parametrize("case", SOLID, ids=[case.name for case in SOLID])


def index(name: str) -> int:
    """A seed of its own for each case."""
    return NAMES.index(name)


def cut(model: nn.Module, inputs: Any, remove: float, seed: int) -> tuple[gs.ChannelGraph, gs.Plan]:
    """Trace, select by random scores, prune."""
    graph = gs.trace(model, inputs)
    plan = gs.select(graph, oracle.random_scores(graph, seed), remove_channels=remove)
    gs.prune(model, graph, plan)
    return graph, plan


def check_refusal(case: Case, error: gs.GammaslimError) -> None:
    """A refusal is only right where the case allows it, and it carries a reason."""
    assert case.refusable, f"refused: {error}"
    assert len(str(error)) > 40, "a refusal says what was asked, what was found, what to do"


@every
@pytest.mark.parametrize("remove", [0.3, 0.6])
def test_cut_network_computes_what_the_masked_one_does(case: Case, remove: float) -> None:
    """``pruned(x) == masked(x)``; where a cut cannot be right, a refusal leaves all as it was."""
    model, inputs = case.model(), case.inputs()
    before = copy.deepcopy(model)
    try:
        graph = oracle.check_law(
            model, inputs, remove, index(case.name), spare=case.spare, counted=case.counted
        )
    except gs.GammaslimError as error:
        check_refusal(case, error)
        oracle.randomise_batchnorms(before, index(case.name))
        assert oracle.drift(oracle.outputs(before, inputs), oracle.outputs(model, inputs)) == 0
    else:
        assert graph.coverage >= case.expect - 1e-9, [str(one) for one in graph.frozen]


@solid
def test_two_cuts_in_a_row_are_one_plan(case: Case) -> None:
    """``plan1.then(plan2)`` on a fresh copy gives the same tensors as one cut after the other."""
    if not case.composes:
        pytest.skip(case.note)
    model, inputs = case.model(), case.inputs()
    oracle.randomise_batchnorms(model, index(case.name))
    fresh = copy.deepcopy(model)
    graph, first = cut(model, inputs, 0.3, 1)
    _, second = cut(model, inputs, 0.3, 2)
    gs.prune(fresh, graph, first.then(second))
    stepwise, at_once = oracle.named_tensors(model), oracle.named_tensors(fresh)
    assert stepwise.keys() == at_once.keys()
    for name, tensor in stepwise.items():
        assert torch.equal(tensor, at_once[name]), name
    assert oracle.drift(oracle.outputs(model, inputs), oracle.outputs(fresh, inputs)) == 0


@solid
def test_removing_exact_zeros_changes_nothing(case: Case) -> None:
    """Where every scale and shift of the removed channels is zero, ``pruned(x) == original(x)``."""
    if not case.zero:
        pytest.skip("a zero scale does not make this network's channels zero")
    model, inputs = case.model(), case.inputs()
    oracle.randomise_batchnorms(model, index(case.name))
    graph = gs.trace(model, inputs)
    scores = oracle.random_scores(graph, 3)
    plan = gs.select(graph, np.where(graph.exact, scores, scores + 9), remove_channels=0.2)
    if not graph.exact[oracle.removed(graph, plan)].all():
        pytest.skip("too few channels that no operator counts")
    silence(model, plan)
    expected = oracle.outputs(model, inputs)
    gs.prune(model, graph, plan)
    assert oracle.drift(expected, oracle.outputs(model, inputs)) <= 1e-5


def silence(model: nn.Module, plan: gs.Plan) -> None:
    """Set the scales and shifts that the plan removes to zero."""
    for name, module in model.named_modules():
        kept = plan.kept.get((f"{name}.weight", 0))
        if isinstance(module, _BatchNorm) and kept is not None:
            keep = torch.zeros(len(module.weight), dtype=torch.bool)
            keep[torch.from_numpy(kept)] = True
            with torch.no_grad():
                module.weight[~keep] = 0
                module.bias[~keep] = 0


def train_step(model: nn.Module, inputs: Any, optimizer: Optimizer) -> None:
    """One step of training on the squares of all outputs."""
    model.train()
    optimizer.zero_grad()
    results = oracle.tensors(oracle.call(model, copy.deepcopy(inputs)))
    torch.stack([result.square().mean() for result in results]).sum().backward()
    optimizer.step()


def momentum(parameters: Any) -> Optimizer:
    """SGD with momentum."""
    return SGD(parameters, lr=1e-3, momentum=0.9)


def adam(parameters: Any) -> Optimizer:
    """Adam, with two states per parameter and a scalar step."""
    return Adam(parameters, lr=1e-4)


@solid
@pytest.mark.parametrize("make", [momentum, adam])
def test_optimizer_is_carried_over(case: Case, make: Callable[[Any], Optimizer]) -> None:
    """State is cut like its parameter, parameters keep their identity, training goes on."""
    model, inputs = case.model(), case.inputs()
    optimizer = make(model.parameters())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        train_step(model, inputs, optimizer)
    named = dict(model.named_parameters())
    states = {
        name: {key: value.clone() for key, value in optimizer.state.get(parameter, {}).items()
               if isinstance(value, torch.Tensor) and value.shape == parameter.shape}
        for name, parameter in named.items()
    }  # fmt: skip
    graph = gs.trace(model, inputs)
    plan = gs.select(graph, oracle.random_scores(graph, 4), remove_channels=0.3)
    gs.prune(model, graph, plan, optimizer=optimizer)
    assert {name: id(one) for name, one in model.named_parameters()} == {
        name: id(one) for name, one in named.items()
    }
    for name, state in states.items():
        for key, value in state.items():
            expected = value
            for dim in range(value.ndim):
                if (name, dim) in plan.kept:
                    expected = expected.index_select(dim, oracle.kept_slices(plan, (name, dim)))
            assert torch.equal(optimizer.state[named[name]][key], expected), f"{name} {key}"
    train_step(model, inputs, optimizer)


@every
def test_exact_trace_keeps_counted_channels(case: Case) -> None:
    """With ``exact=True`` no channel that an operator counts may go, and all others still may."""
    model, inputs = case.model(), case.inputs()
    try:
        loose, strict = gs.trace(model, inputs), gs.trace(model, inputs, exact=True)
    except gs.GammaslimError as error:
        check_refusal(case, error)
        return
    assert strict.exact[strict.prunable].all()
    still = loose.prunable & loose.exact
    for balance in loose.arrangement.balances:  # one that must stay holds all others back
        still[balance.channels] &= loose.exact[balance.channels].all()
    assert int(strict.prunable.sum()) >= int(still.sum())


@pytest.mark.parametrize("name", ["vgg", "residual", "dense", "shufflenet_v2", "attention_written"])
@pytest.mark.parametrize("tensor", ["conv", "norm"])
def test_oracle_notices_a_broken_cut(name: str, tensor: str) -> None:
    """Negative control: one cut tensor rolled by one index breaks the law, as it must."""
    case = ZOO[index(name)]
    model, inputs = case.model(), case.inputs()
    oracle.randomise_batchnorms(model, 0)
    graph = gs.trace(model, inputs)
    plan = gs.select(graph, oracle.random_scores(graph, 0), remove_channels=0.3)
    masked = oracle.masked_copy(model, plan)
    gs.prune(model, graph, plan)
    oracle.check_agreement(masked, model, plan, inputs)
    wanted = _BatchNorm if tensor == "norm" else nn.modules.conv._ConvNd
    broken = [
        module.weight for path, module in model.named_modules()
        if isinstance(module, wanted) and (f"{path}.weight", 0) in plan.kept
    ]  # fmt: skip
    with torch.no_grad():
        broken[-1].copy_(broken[-1].roll(1, 0))
    with pytest.raises(AssertionError, match="drift"):
        oracle.check_agreement(masked, model, plan, inputs)
