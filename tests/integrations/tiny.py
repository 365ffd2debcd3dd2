"""What the trainers train: a network of three BatchNorms on sixteen images, and a plain loop."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

import gammaslim as gs
from tests.handmade import CLASSES, COLOURS, ResidualNet

PIXELS, IMAGES, BATCH = 6, 16, 4
RATE, MOMENTUM = 0.05, 0.9
EXAMPLE = torch.zeros(1, COLOURS, PIXELS, PIXELS)


def net(seed=0) -> ResidualNet:
    torch.manual_seed(seed)
    return ResidualNet(8, 6)


def images() -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(IMAGES) % CLASSES
    values = torch.randn(IMAGES, COLOURS, PIXELS, PIXELS, generator=generator)
    return TensorDataset(values + labels[:, None, None, None], labels)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)


def plain_loop(penalty, *, epochs, accumulate=1, half=False):
    """Train by hand; the network, and the handle."""
    model = net()
    optimizer = sgd(model)
    handle = gs.attach(model, gs.trace(model, EXAMPLE), optimizer, penalty)
    values, labels = images().tensors
    model.train()
    for _ in range(epochs):
        for index, start in enumerate(range(0, IMAGES, BATCH)):
            batch = slice(start, start + BATCH)
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss = functional.cross_entropy(model(values[batch]), labels[batch])
            (loss / accumulate).backward()
            if (index + 1) % accumulate == 0:
                optimizer.step()
                optimizer.zero_grad()
    handle.detach()
    return model, handle


def assert_same(model, other, names=None) -> None:
    """Bit by bit."""
    mine, others = model.state_dict(), other.state_dict()
    assert mine.keys() == others.keys()
    for name in names or mine:
        assert torch.equal(mine[name], others[name]), name
