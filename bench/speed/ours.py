"""What gammaslim does, and what its penalties add to a training step."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

import gammaslim as gs
from bench.speed.measuring import Arm, per_call
from bench.speed.nets import Idle, image, with_gradients
from bench.speed.peer import REMOVE
from gammaslim.penalties import AnyPenalty

BUDGET = gs.Budget(keep_macs=0.5, steps=100_000, start=0.1, settle=0.4, end=0.5)
BATCH = 32
MANY = 200
"""Steps in a row, where a device works on while the next step is prepared."""
NO_KERNEL = ("profiler", "split_with_sizes", "scalar_tensor")
"""What is dispatched but computes nothing: marks for profilers, views, numbers given in Python."""


@dataclass(frozen=True)
class Moment:
    """A penalty, and after how many optimizer steps it is looked at."""

    penalty: AnyPenalty
    step: int = 0


MOMENTS: Mapping[str, Moment] = MappingProxyType({
    "L1": Moment(gs.L1(1e-4)),
    "GroupLasso": Moment(gs.GroupLasso(1e-4)),
    "Polarization": Moment(gs.Polarization(1e-4)),
    "Proximal": Moment(gs.Proximal(1e-4)),
    "Budget, watching": Moment(BUDGET, 30_001),
    "Budget, choosing": Moment(BUDGET, 30_000),
    "Budget, settled": Moment(BUDGET, 60_000),
})  # fmt: skip
RARE = "Budget, choosing"
"""It happens some tens of times in a training, whatever its length."""


def our_cut(original: nn.Module, *, verify: bool) -> float:
    """Seconds for trace, scores, select and prune."""
    model = copy.deepcopy(original).eval()
    start = time.perf_counter()
    graph = gs.trace(model, image())
    plan = gs.select(graph, gs.scores(model, graph), remove_channels=REMOVE)
    gs.prune(model, graph, plan, verify=verify)
    return time.perf_counter() - start


class Stepper:
    """An idle optimizer with a penalty in it, which can be put back to its moment."""

    def __init__(self, original: nn.Module, moment: Moment, device: str = "cpu") -> None:
        """Attach to a copy that has gradients."""
        self.model = with_gradients(original).to(device)
        self.optimizer = Idle(self.model.parameters())
        graph = gs.trace(original, image())
        self.handle = gs.attach(self.model, graph, self.optimizer, moment.penalty)
        self.state = {**self.handle.state_dict(), "steps": moment.step}

    def reset(self) -> None:
        """Back to the moment."""
        self.handle.load_state_dict(self.state)

    def step(self) -> None:
        """Penalise."""
        self.optimizer.step()

    def finished_step(self) -> None:
        """Penalise, and wait until the device has done it."""
        self.optimizer.step()
        torch.cuda.synchronize()


def our_penalty(original: nn.Module, name: str, device: str = "cpu") -> Arm:
    """Seconds that a penalty of :data:`MOMENTS` adds to one step of an optimizer."""
    stepper = Stepper(original, MOMENTS[name], device)
    if device == "cpu":
        return lambda: per_call(stepper.step, stepper.reset)
    if name == RARE:
        return lambda: per_call(stepper.finished_step, stepper.reset)
    return lambda: in_a_row(stepper)


def in_a_row(stepper: Stepper) -> float:
    """Seconds per step of many, until the device has done them all."""
    stepper.reset()
    stepper.finished_step()
    start = time.perf_counter()
    for _ in range(MANY):
        stepper.step()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / MANY


def training_pass(original: nn.Module, device: str = "cpu") -> float:
    """Seconds of forward and backward of one batch; the faster of two after a warm-up of one."""
    model = copy.deepcopy(original).train().to(device)
    images, labels = image(BATCH).to(device), torch.zeros(BATCH, dtype=torch.long, device=device)
    times: list[float] = []
    for _ in range(3):
        start = time.perf_counter()
        functional.cross_entropy(model(images), labels).backward()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])


class Kernels(TorchDispatchMode):
    """Counts the operators that compute something."""

    def __init__(self) -> None:
        """None so far."""
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count and go on."""
        self.count += not any(name in str(func) for name in NO_KERNEL)
        return func(*args, **(kwargs or {}))


def kernels(original: nn.Module, name: str) -> int:
    """How many operators a penalty of :data:`MOMENTS` computes in one optimizer step."""
    stepper = Stepper(original, MOMENTS[name])
    for _ in range(2):  # the first may prepare something
        stepper.reset()
        with Kernels() as mode:
            stepper.step()
    return mode.count
