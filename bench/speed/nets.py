"""The networks that are measured, and an optimizer that costs nothing."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer


class Idle(Optimizer):
    """An optimizer that does nothing, so that a step costs what its hooks cost."""

    def __init__(self, parameters: Any) -> None:
        """Take the parameters."""
        super().__init__(parameters, {"lr": 0.1})

    def step(self, closure: Any = None) -> None:
        """Do nothing."""


def build(name: str) -> nn.Module:
    """A torchvision network with distinct random scales."""
    from torchvision import models

    torch.manual_seed(0)
    model = getattr(models, name)(weights=None)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.weight.uniform_(0.1, 1.0)
    return model


def image(batch: int = 1, size: int = 224) -> torch.Tensor:
    """Noise in the shape of images."""
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def with_gradients(original: nn.Module) -> nn.Module:
    """A copy that has gone through one backward pass."""
    model = copy.deepcopy(original).train()
    model(image(2, 96)).square().mean().backward()
    return model
