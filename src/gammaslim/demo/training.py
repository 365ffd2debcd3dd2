"""An ordinary training loop, and what is measured around it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from gammaslim.demo.data import Digits

BATCH = 64
_WARMUP = 3


@dataclass(frozen=True)
class Phase:
    """One stretch of training: how long, and how high the one-cycle learning rate rises."""

    epochs: int
    peak: float


def make_optimizer(model: nn.Module) -> Optimizer:
    """SGD with momentum; weight decay on the weights, but not on scales, shifts and biases.

    Decay would pull on the scales as the penalty does, and blur what the penalty achieves.
    """
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    return SGD(
        [{"params": weights, "weight_decay": 5e-4}, {"params": others, "weight_decay": 0.0}],
        lr=0.01,
        momentum=0.9,
    )


def train(
    model: nn.Module,
    optimizer: Optimizer,
    digits: Digits,
    phase: Phase,
    *,
    seed: int,
    tick: Callable[[], object] = lambda: None,
) -> None:
    """Train for one phase.  Nothing here knows of pruning: a penalty acts inside the optimizer.

    ``tick`` is called after each epoch.
    """
    generator = torch.Generator().manual_seed(seed)
    total = phase.epochs * digits.steps(BATCH)
    schedule = OneCycleLR(optimizer, phase.peak, total, cycle_momentum=False)
    model.train()
    for _ in range(phase.epochs):
        for images, labels in digits.batches(BATCH, generator):
            optimizer.zero_grad()
            functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
            schedule.step()
        tick()


@torch.inference_mode()
def predict(model: nn.Module, images: Tensor) -> Tensor:
    """Logits ``[n, 10]`` in evaluation mode."""
    model.eval()
    return model(images)


def accuracy(model: nn.Module, digits: Digits) -> float:
    """Share of the held-out images that are classified correctly, 0 to 1."""
    right = predict(model, digits.test_images).argmax(dim=1) == digits.test_labels
    return right.double().mean().item()


def latencies(models: tuple[nn.Module, ...], images: Tensor, *, rounds: int = 25) -> list[float]:
    """Median milliseconds of one forward pass of each model.

    The models take turns, so that whatever else the machine does slows them all alike.
    """
    times: list[list[float]] = [[] for _ in models]
    for turn in range(rounds + _WARMUP):
        for model, mine in zip(models, times, strict=True):
            start = time.perf_counter()
            predict(model, images)
            elapsed = time.perf_counter() - start
            if turn >= _WARMUP:  # the first turns warm caches up
                mine.append(1e3 * elapsed)
    return [statistics.median(mine) for mine in times]
