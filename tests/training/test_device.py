"""What a step asks of the device: few kernels, however many layers, and never an answer.

Kernels are dispatched operators other than views; an operator on a list of tensors counts once.
The device is a fake CUDA device: operators that wait for a real one, or that copy between it and
the host, are seen by name.
"""

import contextlib

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import gammaslim as gs
from gammaslim.training.connecting import attach
from tests.handmade import PlainNet, plain_graph
from tests.training.common import small_net, traced

MOST = 11
BUDGET = gs.Budget(keep_macs=0.5, steps=1000, start=0.1, settle=0.4, end=0.5)
"""Looks at gradients until step 400; from step 100 on it chooses anew at every tenth."""

GRAPH = traced(small_net(torch.float32))
PENALTIES = {
    "L1": gs.L1(0.1),
    "GroupLasso": gs.GroupLasso(0.1),
    "GroupLasso-mean": gs.GroupLasso(0.1, reduce="mean"),
    "Polarization": gs.Polarization(0.1),
    "Proximal": gs.Proximal(0.1),
    "cost_weighted": gs.cost_weighted(gs.GroupLasso(0.1), GRAPH),
    "scheduled": gs.GroupLasso(gs.schedules.Cosine(0.1, 0.0, steps=10)),
    "cost_weighted-Proximal": gs.cost_weighted(gs.Proximal(0.1), GRAPH),
}
KERNELS = {
    "L1": 4,
    "GroupLasso": 10,
    "GroupLasso-mean": 11,
    "Polarization": 11,
    "Proximal": 11,
    "cost_weighted": 10,
    "scheduled": 10,
    "cost_weighted-Proximal": 11,
}


class Idle(torch.optim.Optimizer):
    """Moves nothing, so that all that is dispatched in its step comes from the hooks."""

    def __init__(self, parameters, lr=0.1):
        super().__init__(parameters, {"lr": lr})

    def step(self, closure=None):
        """Nothing, between the hooks."""
        del closure


class Watch(TorchDispatchMode):
    """Notes every operator that is no view, and whether it moves data between devices."""

    def __init__(self):
        super().__init__()
        self.kernels = []
        self.waits = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().removeprefix("aten::")
        if name in ("_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal"):
            self.waits.append(name)
        result = func(*args, **(kwargs or {}))
        devices = {
            leaf.device.type
            for leaf in tree_leaves((args, kwargs, result))
            if isinstance(leaf, torch.Tensor) and leaf.numel()
        }
        if func.namespace == "aten" and not func.is_view and "split" not in name:
            self.kernels.append(name)
        if len(devices) > 1 and ("copy" in name or "to" in name.split(".")):
            self.waits.append(name)
        return result


def kernels_of(model, graph, penalty, *, at=1, groups=None, ema=None):
    """What the hooks dispatch in one step."""
    optimizer = Idle(groups or model.parameters())
    with attach(model, graph, optimizer, penalty, ema=ema):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        for _ in range(at):
            optimizer.step()
        with Watch() as watch:
            optimizer.step()
    return watch.kernels


@pytest.mark.parametrize("name", PENALTIES)
def test_a_step_costs_few_kernels(name):
    """The number is part of the promise: a change of it is to be noticed."""
    kernels = kernels_of(small_net(torch.float32), GRAPH, PENALTIES[name])
    assert len(kernels) == KERNELS[name] <= MOST, kernels


UNORDERED = (
    "scatter_add",
    "scatter_reduce",
    "index_add",
    "index_put",
    "put_",
    "bincount",
    "cumsum",
)
"""Operators that add in any order on a GPU, so that their results differ in the last bits."""


@pytest.mark.parametrize("penalty", [*PENALTIES.values(), BUDGET], ids=[*PENALTIES, "Budget"])
def test_a_step_has_the_same_result_every_time(penalty):
    """Or processes that hold the same scales (DDP) would drift apart."""
    kernels = kernels_of(small_net(torch.float32), GRAPH, penalty)
    assert not [kernel for kernel in kernels if kernel.startswith(UNORDERED)]


@pytest.mark.parametrize(("at", "count"), [(50, 8), (106, 11), (450, 3)])
def test_a_step_of_a_budget_costs_few_kernels(at, count):
    """While it only looks; while it looks and shrinks; and once the choice is final."""
    kernels = kernels_of(small_net(torch.float32), GRAPH, BUDGET, at=at)
    assert len(kernels) == count <= MOST, kernels


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("penalty", [gs.GroupLasso(0.1), gs.Proximal(0.1)], ids=repr)
def test_the_number_of_layers_makes_no_difference(penalty, dtype):
    """Neither in half precision, where vectors are converted whole."""
    few, many = (
        kernels_of(PlainNet(widths).to(dtype), plain_graph(widths), penalty)
        for widths in ([4, 4], [4] * 30)
    )
    assert few == many
    assert len(few) <= MOST + (2 if dtype == torch.bfloat16 else 0)


def test_what_more_is_asked_costs_a_few_more():
    """Rates that differ between groups, and an average that gets the same zeros."""
    model = small_net(torch.float32)
    parameters = list(model.parameters())
    groups = [{"params": parameters[:9], "lr": 0.1}, {"params": parameters[9:], "lr": 0.2}]
    alone = len(kernels_of(model, GRAPH, gs.Proximal(0.1)))
    assert len(kernels_of(model, GRAPH, gs.Proximal(0.1), groups=groups)) <= alone + 6
    ema = torch.optim.swa_utils.AveragedModel(model)
    assert len(kernels_of(model, GRAPH, gs.Proximal(0.1), ema=ema)) <= alone + 4


# Nothing waits


def on_fake_device(model: nn.Module) -> nn.Module:
    """The network's parameters replaced by ones without memory on a CUDA device; inside a mode."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            fake = torch.empty(parameter.shape, dtype=parameter.dtype, device="cuda")
            setattr(module, name, nn.Parameter(fake))
    for parameter in model.parameters():
        parameter.grad = torch.empty_like(parameter)
    return model


def waits_of(penalty, *, at=1, prepare=lambda optimizer: None, several=False):
    """What in one step would wait for a device, or copy from or to it."""
    model = small_net(torch.float32)
    with FakeTensorMode(allow_non_fake_inputs=True):
        on_fake_device(model)
        half = list(model.parameters())[:9], list(model.parameters())[9:]
        groups = [{"params": part, "lr": lr} for part, lr in zip(half, (0.1, 0.2), strict=True)]
        optimizer = Idle(groups if several else model.parameters())
        handle = attach(model, GRAPH, optimizer, penalty)
        prepare(optimizer)
        handle._steps = at
        optimizer.step()
        with Watch() as watch:
            optimizer.step()
    return watch


def loss_scale(optimizer):
    """What a fused optimizer finds inside a step under a GradScaler."""
    optimizer.grad_scale = torch.full((), 1024.0, device="cuda")
    optimizer.found_inf = torch.zeros((), device="cuda")


@pytest.mark.parametrize("several", [False, True], ids=["one-rate", "two-rates"])
@pytest.mark.parametrize("prepare", [lambda _: None, loss_scale], ids=["plain", "scaled"])
@pytest.mark.parametrize("penalty", PENALTIES.values(), ids=PENALTIES)
def test_penalties_never_wait_for_the_device(penalty, prepare, several):
    """No number is read back, none is copied there."""
    watch = waits_of(penalty, prepare=prepare, several=several)
    assert watch.kernels
    assert watch.waits == []


@pytest.mark.parametrize("prepare", [lambda _: None, loss_scale], ids=["plain", "scaled"])
@pytest.mark.parametrize("at", [50, 106, 450])
def test_a_budget_waits_only_where_it_chooses(at, prepare):
    """Before its window, inside it between two choices, and after it."""
    watch = waits_of(BUDGET, at=at, prepare=prepare)
    assert watch.kernels
    assert watch.waits == []


def test_waiting_would_be_seen():
    """The watch itself is no stub."""
    with FakeTensorMode():
        there = torch.ones(3, device="cuda")
        for wait in (
            lambda: there.to("cpu"),
            there.nonzero,
            there.sum().item,
            lambda: torch.as_tensor(0.5, device="cuda"),
            lambda: torch.ones(3).to("cuda"),
        ):
            # A fake tensor cannot tell what it is asked, nor a CPU build copy to another device.
            unknown = (DataDependentOutputException, DynamicOutputShapeException, RuntimeError)
            with Watch() as watch, contextlib.suppress(*unknown):
                wait()
                assert watch.waits, wait
