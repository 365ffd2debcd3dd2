"""What a zoo entry is, and the few building blocks that most entries share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

CLASSES = 5


@dataclass(frozen=True)
class Case:
    """One network of the zoo and what the laws may expect of it.

    ``expect`` is the least coverage; ``zero`` says that a channel whose scales and shifts are zero
    is zero wherever it is read; ``counted`` that torch's flop counter knows all its work;
    ``composes`` that two cuts in a row are one cut of the first graph; ``refusable`` that a
    refusal with a reason is an acceptable answer.  ``spare`` names sites (end of the tensor name,
    dimension) that the masked model leaves alone, because zero there would mean 0 / 0.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Any]
    expect: float
    note: str
    zero: bool = True
    counted: bool = True
    composes: bool = True
    refusable: bool = False
    spare: tuple[tuple[str, int], ...] = ()

    def model(self, seed: int = 0) -> nn.Module:
        """The network with reproducible weights; the global random state is left alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.build()


def noise(*shape: int) -> Callable[[], Tensor]:
    """A maker of one fixed tensor of standard normal noise."""

    def make() -> Tensor:
        """Draw the tensor from a generator of its own."""
        return torch.randn(shape, generator=torch.Generator().manual_seed(7))

    return make


image = noise(2, 3, 16, 16)


def cbr(
    inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution without bias, BatchNorm, ReLU; keeps the spatial size at stride 1."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class Head(nn.Module):
    """Global average pooling and a classifier."""

    def __init__(self, inputs: int) -> None:
        """A head for feature maps of ``inputs`` channels."""
        super().__init__()
        self.fc = nn.Linear(inputs, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Pool and classify."""
        return self.fc(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


class Apply(nn.Module):
    """A function of one tensor as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        """Remember the function."""
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Call it."""
        return self.function(x)


def around(middle: nn.Module, inputs: int = 16, outputs: int = 16) -> nn.Sequential:
    """Stem, the awkward ``middle``, one more convolution, head."""
    return nn.Sequential(cbr(3, inputs), middle, cbr(outputs, 12, stride=2), Head(12))


def between(function: Callable[[Tensor], Tensor], outputs: int = 16) -> nn.Sequential:
    """The same with a plain function of the 16-channel feature map in the middle."""
    return around(Apply(function), 16, outputs)
