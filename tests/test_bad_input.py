"""Every bad input has an error of its own, says what to do, and changes nothing."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gammaslim as gs
from bench import oracle
from gammaslim.cutting import proving, surgery
from tests.nets.case import Head, cbr, image


def build(width: int = 8) -> nn.Module:
    """Two blocks and a head, with reproducible weights."""
    torch.manual_seed(0)
    model = nn.Sequential(cbr(3, width, stride=2), cbr(width, 6, stride=2), Head(6))
    oracle.randomise_batchnorms(model, 0)
    return model


def trained(model: nn.Module) -> torch.optim.Optimizer:
    """An optimizer with state, and gradients."""
    optimizer = torch.optim.Adam(model.parameters())
    model(image()).square().mean().backward()
    optimizer.step()
    return optimizer


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> Any:
    """Everything that an error must leave alone, in comparable form."""
    record = oracle.snapshot(model)
    if optimizer is not None:
        for name, parameter in model.named_parameters():
            for key, value in optimizer.state[parameter].items():
                record[f"state {name} {key}"] = value.tolist()
    return record


def check_raises(error: type[gs.GammaslimError], call: Any, *words: str) -> None:
    """Exactly this class, each of these words, and more than a few of them."""
    with pytest.raises(gs.GammaslimError) as caught:
        call()
    assert type(caught.value) is error
    text = str(caught.value)
    for word in words:
        assert word in text
    assert len(text) > 35


def check_trace_refuses(
    error: type[gs.GammaslimError], model: nn.Module, inputs: Any, *words: str, **options: Any
) -> None:
    """Tracing raises and leaves the network as it was."""
    before = state_of(model)
    check_raises(error, lambda: gs.trace(model, inputs, **options), *words)
    assert state_of(model) == before


# Tracing


def test_network_without_batch_norm():
    """What is needed is named."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    check_trace_refuses(gs.NothingToPruneError, model, image(), "Sequential", "affine=True")


def test_network_whose_batch_norms_have_no_weight():
    """They hold no scale."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False), nn.Conv2d(4, 2, 1))
    check_trace_refuses(gs.NothingToPruneError, model, image(), "no BatchNorm with a weight")


def test_batch_norm_that_forward_never_reaches():
    """It does not count."""

    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x)

    check_trace_refuses(gs.NothingToPruneError, Idle(), image(), "that its forward reaches")


@pytest.mark.parametrize("value", [None, 3, "resnet50", torch.zeros(2), nn.Linear])
def test_no_module(value):
    """A network is needed."""
    check_raises(gs.TraceError, lambda: gs.trace(value, image()), "torch.nn.Module", "found")


def test_script_module():
    """TorchScript cannot be followed."""
    model = build()
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        scripted = torch.jit.trace(model.eval(), image())
    check_raises(gs.TraceError, lambda: gs.trace(scripted, image()), "TorchScript", "Prune the")


def test_wrapped_submodule():
    """A wrapper inside the network cannot be taken off; it is named."""
    model = build()
    model[1] = nn.DataParallel(model[1])
    check_trace_refuses(gs.TraceError, model, image(), "'1'", "DataParallel", "before wrapping")


BAD_INPUTS = {
    "channels": (torch.zeros(2, 4, 16, 16), "tensor[2, 4, 16, 16] of float32", "3 channels"),
    "too many": ((torch.zeros(2, 3, 16, 16), torch.zeros(1)), "tensor[1]", "TypeError"),
    "nothing": ((), "()", "TypeError"),
    "no tensor": (None, "NoneType", "TypeError"),
    "other keys": ({"picture": torch.zeros(2, 3, 16, 16)}, "'picture'", "TypeError"),
}


@pytest.mark.parametrize(("inputs", "shown", "own"), BAD_INPUTS.values(), ids=BAD_INPUTS.keys())
def test_inputs_that_the_network_rejects(inputs, shown, own):
    """The network's own error is shown together with what was passed."""
    check_trace_refuses(
        gs.TraceError, build(), inputs, "could not be run in evaluation mode", shown, own
    )


def test_inputs_of_another_type():
    """Fake tensors do not compare types, so it is the cut that shows the network's own error."""
    model = build()
    graph = gs.trace(model, image().double())
    before = state_of(model)
    with pytest.raises(gs.TraceError, match=r"of float64 before any cut.*RuntimeError"):
        gs.prune(model, graph, plan_for(model, graph))
    assert state_of(model) == before


def test_the_network_s_own_error_is_the_cause():
    """With its traceback."""

    class Strict(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = build()

        def forward(self, x: Tensor) -> Tensor:
            if x.shape[-1] != 32:
                raise ValueError("pictures must be 32 pixels wide")
            return self.body(x)

    with pytest.raises(gs.TraceError, match="32 pixels wide") as caught:
        gs.trace(Strict(), image())
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize(
    ("entry", "shown"),
    [
        ("stem", "'stem'"),
        ("*.head", "'*.head'"),
        (("0.0.weight", 7), "('0.0.weight', 7)"),
        (nn.Conv2d(3, 3, 1), "Conv2d"),
        (4, "4"),
    ],
)
def test_ignore_that_names_nothing(entry, shown):
    """A misspelt name must not be silently without effect."""
    check_trace_refuses(gs.TraceError, build(), image(), "ignore names", shown, ignore=[entry])


# Selecting


def traced() -> tuple[nn.Module, gs.ChannelGraph]:
    """A network and its graph."""
    model = build()
    return model, gs.trace(model, image())


@pytest.mark.parametrize("ignore", ["*", ("0", "1")])
def test_nothing_prunable(ignore):
    """Everything is ignored: nothing to select, nothing to penalise."""
    model = build()
    graph = gs.trace(model, image(), ignore=ignore)
    assert graph.coverage == 0
    before = state_of(model)
    scores = gs.scores(model, graph)
    call = lambda: gs.select(graph, scores, remove_channels=0.5)  # noqa: E731
    check_raises(gs.NothingToPruneError, call, "graph.frozen")
    optimizer = torch.optim.SGD(model.parameters())
    check_raises(
        gs.NothingToPruneError, lambda: gs.attach(model, graph, optimizer, gs.L1(1e-4)), "penal"
    )
    assert state_of(model) == before


@pytest.mark.parametrize(
    "targets", [{}, {"remove_channels": 0.5, "keep_macs": 0.5}, {"threshold": 1, "keep_params": 1}]
)
def test_two_targets_or_none(targets):
    """Exactly one; those found are listed."""
    model, graph = traced()
    call = lambda: gs.select(graph, gs.scores(model, graph), **targets)  # noqa: E731
    found = [f"{name}={value!r}" for name, value in targets.items()] or ["none"]
    check_raises(gs.TargetError, call, "Exactly one of", *found)


@pytest.mark.parametrize("name", ["remove_channels", "keep_macs", "keep_params"])
@pytest.mark.parametrize("value", [-0.1, 1.1, 70, float("nan"), float("inf")])
def test_share_out_of_range(name, value):
    """A share runs from 0 to 1; 70 is no percentage."""
    model, graph = traced()
    call = lambda: gs.select(graph, gs.scores(model, graph), **{name: value})  # noqa: E731
    check_raises(gs.TargetError, call, f"{name}={value!r}", "from 0 to 1")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scales_that_are_not_finite(value):
    """Training has diverged; where it did is said."""
    model, graph = traced()
    with torch.no_grad():
        model[1][1].weight[2] = value
    before = str(state_of(model))
    check_raises(gs.ScoreError, lambda: gs.scores(model, graph), "'1.1.weight'", "at index 2")
    assert str(state_of(model)) == before


def test_scores_of_another_graph():
    """Their number gives them away."""
    _, graph = traced()
    check_raises(gs.ScoreError, lambda: gs.select(graph, np.ones(3), remove_channels=0.5), "(3,)")


# Pruning


def plan_for(model: nn.Module, graph: gs.ChannelGraph, share: float = 0.4) -> gs.Plan:
    """A plan of random scores."""
    del model
    return gs.select(graph, oracle.random_scores(graph, 0), remove_channels=share)


def check_prune_refuses(
    error: type[gs.GammaslimError],
    model: nn.Module,
    graph: gs.ChannelGraph,
    plan: gs.Plan,
    *words: str,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Pruning raises and leaves network and optimizer as they were."""
    before = state_of(model)
    check_raises(error, lambda: gs.prune(model, graph, plan, optimizer=optimizer), *words)
    assert state_of(model) == before


def test_plan_for_a_wider_network():
    """Sizes differ: named."""
    model, graph = traced()
    wider = build(10)
    plan = plan_for(wider, gs.trace(wider, image()))
    check_prune_refuses(gs.PlanError, model, graph, plan, "another network", "10")


def test_plan_for_another_architecture():
    """Names differ: named."""
    model, graph = traced()
    other = nn.Sequential(nn.Sequential(build()))
    plan = plan_for(other, gs.trace(other, image()))
    check_prune_refuses(gs.PlanError, model, graph, plan, "this graph does not have")


def test_plan_that_removes_what_is_frozen():
    """The same network traced with more ignored."""
    model, graph = traced()
    plan = plan_for(model, graph)
    kept = gs.trace(model, image(), ignore=["0"])
    check_prune_refuses(gs.PlanError, model, kept, plan, "frozen in this graph")


def test_plan_with_half_a_channel():
    """One site of a channel forgotten."""
    model, graph = traced()
    plan = plan_for(model, graph)
    site = ("0.1.weight", 0)
    torn = gs.Plan(
        {k: v for k, v in plan.sites.items() if k != site},
        plan.attributes,
    )
    check_prune_refuses(gs.PlanError, model, graph, torn, "keeps other slices of", "0.1.weight")


def test_plan_with_other_attributes():
    """Numbers that do not go with the indices."""
    model, graph = traced()
    plan = plan_for(model, graph)
    odd = gs.Plan(plan.sites, {**plan.attributes, "0.0.groups": 3})
    check_prune_refuses(gs.PlanError, model, graph, odd, "the size attribute '0.0.groups' to 3")


def test_graph_is_stale_after_a_cut():
    """Every use of it says so."""
    model, graph = traced()
    plan = plan_for(model, graph)
    gs.prune(model, graph, plan)
    check_prune_refuses(gs.StaleGraphError, model, graph, plan, "Trace the network again")
    before = state_of(model)
    check_raises(gs.StaleGraphError, lambda: gs.scores(model, graph), "Trace the network again")
    optimizer = torch.optim.SGD(model.parameters())
    check_raises(
        gs.StaleGraphError,
        lambda: gs.attach(model, graph, optimizer, gs.L1(1e-4)),
        "Trace the network again",
    )
    assert state_of(model) == before


def test_graph_of_another_network():
    """It is not this network's graph."""
    _, graph = traced()
    wider = build(10)
    check_prune_refuses(gs.StaleGraphError, wider, graph, plan_for(wider, graph), "had shape")


def test_optimizer_of_another_network():
    """It owns none of these parameters."""
    model, graph = traced()
    optimizer = torch.optim.SGD(build().parameters())
    check_prune_refuses(
        gs.OptimizerError, model, graph, plan_for(model, graph), "owns none", optimizer=optimizer
    )
    check_raises(
        gs.OptimizerError,
        lambda: gs.attach(model, graph, optimizer, gs.L1(1e-4)),
        "SGD",
    )


def test_optimizer_state_of_unknown_shape():
    """Factored moments, say: how to cut them is unknown."""
    model, graph = traced()
    optimizer = trained(model)
    optimizer.state[model[0][0].weight]["row"] = torch.zeros(8, 3)
    check_prune_refuses(
        gs.OptimizerError,
        model,
        graph,
        plan_for(model, graph),
        "'row'",
        "[8, 3]",
        optimizer=optimizer,
    )


# When the law does not hold


def rolled(tensor: Tensor, cuts: Any) -> Tensor:
    """A cut that puts the rows of the first head's columns in the wrong order."""
    result = surgery_sliced(tensor, cuts)
    return result.roll(1, 1) if tensor.ndim == 4 and 1 in cuts else result


surgery_sliced = surgery.sliced


def test_broken_cut_is_found_named_and_taken_back(monkeypatch):
    """Values, gradients, optimizer state, numbers of modules and identities are all restored."""
    model, graph = traced()
    optimizer = trained(model)
    plan = plan_for(model, graph)
    before = copy.deepcopy(state_of(model, optimizer))
    grads = {name: p.grad for name, p in model.named_parameters()}
    monkeypatch.setattr(surgery, "sliced", rolled)
    check_raises(
        gs.VerificationError,
        lambda: gs.prune(model, graph, plan, optimizer=optimizer),
        "the output of '1.0'",
        "has been restored",
        "ignore=",
    )
    assert unversioned(state_of(model, optimizer)) == unversioned(before)
    for name, parameter in model.named_parameters():
        assert parameter.grad is grads[name]
    monkeypatch.undo()
    gs.prune(model, graph, plan, optimizer=optimizer)


def unversioned(record: dict[str, Any]) -> dict[str, Any]:
    """Without the counters of in-place writes, which a cut and its undoing may move."""
    return {
        key: (value[0], *value[2:]) if key.startswith("tensor ") else value
        for key, value in record.items()
    }


@pytest.mark.parametrize("where", ["apply", "reference", "compare", "training"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, RuntimeError])
def test_interruption_restores(monkeypatch, where, error):
    """Wherever it comes, the network is as it was; what is no failure of the cut passes on."""
    model, graph = traced()
    graph = dataclasses.replace(graph, traced_in_training=True)  # so that training is tried
    optimizer = trained(model)
    plan = plan_for(model, graph)
    before = unversioned(copy.deepcopy(state_of(model, optimizer)))
    names = {"reference": "reference", "compare": "compare", "training": "training_failure"}
    owner, name = (surgery, "_remember") if where == "apply" else (proving, names[where])

    def fail(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(owner, name, fail)
    with pytest.raises((error, gs.VerificationError, gs.TraceError)):
        gs.prune(model, graph, plan, optimizer=optimizer)
    assert unversioned(state_of(model, optimizer)) == before


def test_a_cut_that_cannot_run_is_a_verification_error():
    """A size that the trace did not see: a check in the code, on the width."""

    class Checked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[1] < 8:
                raise ValueError("eight, please")
            return x

    torch.manual_seed(0)
    model = nn.Sequential(cbr(3, 8, stride=2), Checked(), cbr(8, 6), Head(6))
    graph = gs.trace(model, image())
    plan = plan_for(model, graph)
    check_prune_refuses(
        gs.VerificationError, model, graph, plan, "its forward fails with ValueError: eight, please"
    )


def test_errors_survive_pickling():
    """As they must between processes."""
    error = gs.PlanError("what was asked, what was found")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(again) is gs.PlanError
    assert str(again) == str(error)


def test_one_tree():
    """All errors are GammaslimError, and none is another's parent."""
    names = [n for n in gs.__all__ if n.endswith("Error") and n != "GammaslimError"]
    for name in names:
        assert getattr(gs, name).__bases__ == (gs.GammaslimError,)


def test_a_failed_try_logs_nothing(caplog):
    """The error is in the exception; torch's own log of every fake operator that failed is not."""
    model = nn.Sequential(cbr(3, 8), nn.AvgPool2d(99), Head(8))
    with pytest.raises(gs.TraceError):
        gs.trace(model, image())
    assert not caplog.records
