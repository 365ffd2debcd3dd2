"""Compiled networks and compiled steps: the same scales, and nothing is compiled twice."""

import pytest
import torch
from torch import nn

import gammaslim as gs
from gammaslim.cutting.stale import remember
from gammaslim.training.connecting import attach
from tests.training.common import CLOSE, loss_of, scales_of, small_net, traced

STEPS = 8
GRAPH = traced(small_net())
PENALTIES = {
    "L1": gs.L1(0.02),
    "scheduled": gs.GroupLasso(gs.schedules.Cosine(0.05, 0.0, steps=STEPS)),
    "Polarization": gs.Polarization(0.02),
    "Proximal": gs.Proximal(gs.schedules.Warmup(1.0, steps=4)),
    "Budget": gs.Budget(keep_macs=0.5, steps=10, start=0.1, settle=0.4, end=0.5),
}
OPTIMIZERS = {
    "SGD": lambda model: torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
    "AdamW": lambda model: torch.optim.AdamW(
        model.parameters(), lr=torch.tensor(0.01), capturable=False
    ),
}
every = pytest.mark.parametrize("penalty", PENALTIES.values(), ids=PENALTIES)
OFTEN = [
    pytest.param(penalty, id=name, marks=() if name in {"L1", "Budget"} else pytest.mark.slow)
    for name, penalty in PENALTIES.items()
]
"""One that acts before the step and one after it; the others only under ``make slow``."""


class Counter:
    """A backend that compiles nothing and counts what it is asked to compile."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, module, inputs):
        """Run the graph as it is."""
        del inputs
        self.graphs += 1
        return module.forward


@pytest.fixture(autouse=True)
def _fresh():
    """Each test compiles for itself."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def trained(penalty, *, optimizer="SGD", network=None, step=None):
    """Scales after a training; ``network`` and ``step`` compile what they are given."""
    model = small_net()
    stepper = OPTIMIZERS[optimizer](model)
    attach(model, GRAPH, stepper, penalty)
    forward = network(model) if network else model
    move = step(stepper) if step else stepper.step
    graphs = []
    for number in range(STEPS):
        model.zero_grad()
        loss_of(forward, number).backward()
        move()
        graphs.append(counter.graphs if (counter := getattr(step, "counter", None)) else 0)
    return scales_of(model, GRAPH), graphs


def compiled_method():
    """``torch.compile(optimizer.step)``."""

    def compile_step(optimizer):
        return torch.compile(optimizer.step, backend=compile_step.counter)

    compile_step.counter = Counter()
    return compile_step


def compiled_function():
    """A compiled function of the user's that steps."""

    def compile_step(optimizer):
        def move():
            optimizer.step()

        return torch.compile(move, backend=compile_step.counter)

    compile_step.counter = Counter()
    return compile_step


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@every
def test_a_compiled_network_trains_the_same(penalty, backend):
    """Attached to the network that was traced, before it is compiled."""
    found, _ = trained(penalty, network=lambda model: torch.compile(model, backend=backend))
    torch.testing.assert_close(found, trained(penalty)[0], **CLOSE)


def test_a_compiled_network_can_be_attached():
    """Its parameters are those of the network inside."""
    counter = Counter()
    model = small_net()
    compiled = torch.compile(model, backend=counter)
    optimizer = torch.optim.SGD(compiled.parameters(), lr=0.05, momentum=0.9)
    attach(compiled, GRAPH, optimizer, gs.L1(0.02))
    for step in range(STEPS):
        model.zero_grad()
        loss_of(compiled, step).backward()
        optimizer.step()
    torch.testing.assert_close(scales_of(model, GRAPH), trained(gs.L1(0.02))[0], **CLOSE)
    assert counter.graphs == 1


@pytest.mark.parametrize("form", [compiled_method, compiled_function])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("penalty", OFTEN)
def test_a_compiled_step_does_the_same_and_is_compiled_once(penalty, optimizer, form):
    """Step counts and schedules change from step to step; nothing is compiled anew for them."""
    step = form()
    found, graphs = trained(penalty, optimizer=optimizer, step=step)
    # Compiled, AdamW computes its bias correction in single precision; see the test below.
    close = CLOSE if optimizer == "SGD" else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(found, trained(penalty, optimizer=optimizer)[0], **close)
    assert graphs[0] >= 1
    assert graphs[1] == graphs[-1]


def test_compiling_adamw_alone_already_makes_a_difference():
    """Why the test above is less strict there: without any penalty it differs more."""
    none = gs.L1(0.0)
    found, _ = trained(none, optimizer="AdamW", step=compiled_method())
    difference = (found - trained(none, optimizer="AdamW")[0]).abs().max()
    assert difference > 1e-7


def test_a_compiled_step_is_compiled_once_after_a_cut_too():
    """A cut adds a hook to all optimizers, which must not be followed either."""
    remember({})
    step = compiled_function()
    _, graphs = trained(gs.L1(0.02), step=step)
    assert graphs[1] == graphs[-1] >= 1


def test_hooks_break_a_graph_that_must_be_whole():
    """PyTorch refuses ``fullgraph=True`` and names us; nothing is left out silently."""
    model = small_net()
    optimizer = OPTIMIZERS["SGD"](model)
    attach(model, GRAPH, optimizer, gs.L1(0.02))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def move():
        optimizer.step()

    with pytest.raises(torch._dynamo.exc.Unsupported, match="a hook of gammaslim's"):
        torch.compile(move, backend="eager", fullgraph=True)()


def test_conversion_to_synchronised_batchnorms_keeps_the_penalty():
    """Without a process group they compute as BatchNorms do, in training mode too."""
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    attach(model, GRAPH, optimizer, gs.GroupLasso(0.02))
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for step in range(STEPS):
        converted.zero_grad()
        loss_of(converted, step).backward()
        optimizer.step()
    torch.testing.assert_close(
        scales_of(converted, GRAPH), trained(gs.GroupLasso(0.02))[0], **CLOSE
    )
