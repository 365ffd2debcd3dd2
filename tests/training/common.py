"""What the tests of training share: a small network, fixed batches, and penalties written out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import gammaslim as gs
from gammaslim.channels.graph import ChannelGraph

STREAM, INNER, ARM, MIXED = 6, 3, 4, 7
COLOURS, CLASSES, PIXELS = 3, 3, 6
CLOSE = {"rtol": 1e-9, "atol": 1e-12}
"""Double precision; the two sides sum the scales of a channel in different orders."""


class Net(nn.Module):
    """A residual sum, one BatchNorm used twice, and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(COLOURS, STREAM, 3, padding=1, bias=False)
        self.bn_stem = nn.BatchNorm2d(STREAM)
        self.down = nn.Conv2d(STREAM, INNER, 1, bias=False)
        self.bn_down = nn.BatchNorm2d(INNER)
        self.up = nn.Conv2d(INNER, STREAM, 1, bias=False)
        self.bn_up = nn.BatchNorm2d(STREAM)
        self.left = nn.Conv2d(STREAM, ARM, 1, bias=False)
        self.right = nn.Conv2d(STREAM, ARM, 1, bias=False)
        self.bn_arms = nn.BatchNorm2d(ARM)
        self.mix = nn.Conv2d(STREAM + 2 * ARM, MIXED, 1, bias=False)
        self.bn_mix = nn.BatchNorm2d(MIXED)
        self.head = nn.Linear(MIXED, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn_stem(self.stem(x)).relu()
        x = x + self.bn_up(self.up(self.bn_down(self.down(x)).relu()))
        left = self.bn_arms(self.left(x)).relu()
        right = self.bn_arms(self.right(x)).relu()
        x = self.bn_mix(self.mix(torch.cat([x, left, right], 1))).relu()
        return self.head(x.mean((2, 3)))


def small_net(dtype: torch.dtype = torch.float64) -> Net:
    """Always the same numbers; scales of both signs, none alike."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = Net()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.startswith("bn"):
                    parameter.uniform_(0.1, 1.0)
                    parameter[1] *= -1
    return model.to(dtype)


def traced(model: nn.Module) -> ChannelGraph:
    """Its channels; every one of its scale tensors takes part."""
    dtype = next(model.parameters()).dtype
    graph = gs.trace(model, torch.zeros(2, COLOURS, PIXELS, PIXELS, dtype=dtype))
    assert len(graph.scales) == 5
    assert graph.coverage == 1.0
    return graph


def batch(step: int, size: int = 8, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """The images and classes of a step."""
    generator = torch.Generator().manual_seed(100 + step)
    images = torch.randn(size, COLOURS, PIXELS, PIXELS, generator=generator, dtype=torch.float64)
    return images.to(dtype), torch.randint(0, CLASSES, (size,), generator=generator)


def loss_of(model: nn.Module, step: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """The loss of a step's batch."""
    images, classes = batch(step, dtype=dtype)
    return nn.functional.cross_entropy(model(images), classes)


def train(
    model: nn.Module,
    optimizers: Optimizer | Sequence[Optimizer],
    steps: int,
    *,
    before: Callable[[int], None] | None = None,
    after: Callable[[int], None] | None = None,
) -> None:
    """A plain loop; ``before`` and ``after`` are called around the optimizers' steps."""
    listed = [optimizers] if isinstance(optimizers, Optimizer) else optimizers
    for step in range(steps):
        model.zero_grad()
        loss_of(model, step).backward()
        if before is not None:
            before(step)
        for optimizer in listed:
            optimizer.step()
        if after is not None:
            after(step)


def scales_of(model: nn.Module, graph: ChannelGraph) -> Tensor:
    """All scales, then all shifts, as one vector."""
    names = [*graph.scales, *(graph.shifts[name] for name in graph.scales)]
    present = dict(model.named_parameters())
    return torch.cat([present[name].detach() for name in names])


# The formulas, one channel and one number at a time

Vector = list[tuple[Tensor, int]]
"""Where the numbers of one channel's vector are: tensors, and an index into each."""


def vectors(model: nn.Module, graph: ChannelGraph, *, shifts: bool = False) -> dict[int, Vector]:
    """The vector of each prunable channel."""
    found: dict[int, Vector] = {}
    present = dict(model.named_parameters())
    for scale in graph.scales:
        for name in (scale, graph.shifts[scale]) if shifts else (scale,):
            for index, channel in enumerate(graph.sites[(name, 0)].tolist()):
                if channel >= 0 and graph.prunable[channel]:
                    found.setdefault(channel, []).append((present[name], index))
    return found


def norm(vector: Vector) -> float:
    """The 2-norm of a channel's vector."""
    return math.sqrt(sum(tensor[index].item() ** 2 for tensor, index in vector))


def add_l1(model: nn.Module, graph: ChannelGraph, strength: float) -> None:
    """``γ.grad += λ sign γ``."""
    for vector in vectors(model, graph).values():
        for tensor, index in vector:
            tensor.grad[index] += strength * float(np.sign(tensor[index].item()))


def add_group_lasso(
    model: nn.Module,
    graph: ChannelGraph,
    strength: float,
    *,
    mean: bool = False,
    weights: np.ndarray | None = None,
) -> None:
    """``γ.grad += λ w γ / ‖γ_c‖``."""
    terms = []
    for channel, vector in vectors(model, graph).items():
        length = norm(vector) / (math.sqrt(len(vector)) if mean else 1.0)
        weight = 1.0 if weights is None else float(weights[channel])
        terms += [(t, i, strength * weight * t[i].item() / length) for t, i in vector]
    for tensor, index, term in terms:
        tensor.grad[index] += term


def add_polarization(model: nn.Module, graph: ChannelGraph, strength: float, t: float) -> None:
    """``γ.grad += λ (t sign γ - s + s̄)`` with ``s = sign(γ - γ̄)``."""
    places = [place for vector in vectors(model, graph).values() for place in vector]
    values = [tensor[index].item() for tensor, index in places]
    mean = sum(values) / len(values)
    away = [float(np.sign(value - mean)) for value in values]
    drift = sum(away) / len(away)
    for (tensor, index), value, side in zip(places, values, away, strict=True):
        tensor.grad[index] += strength * (t * float(np.sign(value)) - side + drift)


def shrink(
    model: nn.Module,
    graph: ChannelGraph,
    strength: float,
    rate: float | Callable[[Tensor], float],
) -> None:
    """``v ← v max(0, 1 - η λ / ‖v‖)``; ``rate`` is η, or gives that of a tensor."""
    with torch.no_grad():
        for vector in vectors(model, graph, shifts=True).values():
            length = norm(vector)
            for tensor, index in vector:
                eta = rate(tensor) if callable(rate) else rate
                tensor[index] *= max(0.0, 1.0 - eta * strength / length) if length else 1.0
