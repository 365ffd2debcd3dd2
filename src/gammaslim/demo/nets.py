"""Two small networks for 8x8 images: a plain one and a residual one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 10
_WIDTHS = (32, 64, 128)


class _Classifier(nn.Module):
    """Features ``[n, c, h, w]``, averaged over the image, then one linear layer."""

    def __init__(self, features: dict[str, nn.Module], width: int) -> None:
        super().__init__()
        self.features = nn.Sequential(OrderedDict(features))
        self.head = nn.Linear(width, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """``[n, 1, 8, 8]`` to logits ``[n, 10]``."""
        return self.head(self.features(images).mean(dim=(2, 3)))


def small_vgg() -> nn.Module:
    """Six convolutions in three stages, halving the image between them, and a classifier."""
    layers: dict[str, nn.Module] = {}
    before = 1
    for stage, width in enumerate(_WIDTHS, start=1):
        if stage > 1:
            layers[f"pool{stage}"] = nn.MaxPool2d(2)
        for place in "ab":
            layers |= _convolution(f"{stage}{place}", before, width)
            before = width
    return _Classifier(layers, before)


class ResidualBlock(nn.Module):
    """``relu(f(x) + s(x))``: two convolutions f beside a shortcut s, which matches their shape."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        """Make the block; the shortcut is the identity where the shapes agree."""
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if before != width or stride != 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, inputs: Tensor) -> Tensor:
        """``[n, before, h, w]`` to ``[n, width, h / stride, w / stride]``."""
        hidden = functional.relu(self.bn1(self.conv1(inputs)))
        return functional.relu(self.bn2(self.conv2(hidden)) + self.shortcut(inputs))


def small_resnet() -> nn.Module:
    """A stem, three stages of two residual blocks each, and a classifier."""
    layers = _convolution("0", 1, _WIDTHS[0])
    before = _WIDTHS[0]
    for stage, width in enumerate(_WIDTHS, start=1):
        layers[f"block{stage}a"] = ResidualBlock(before, width, stride=1 if stage == 1 else 2)
        layers[f"block{stage}b"] = ResidualBlock(width, width, stride=1)
        before = width
    return _Classifier(layers, before)


NETWORKS: Mapping[str, Callable[[], nn.Module]] = MappingProxyType(
    {"vgg": small_vgg, "resnet": small_resnet}
)


def build(name: str, seed: int) -> nn.Module:
    """A network of :data:`NETWORKS`, initialised from ``seed`` without the global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NETWORKS[name]()


def _convolution(suffix: str, before: int, width: int) -> dict[str, nn.Module]:
    return {
        f"conv{suffix}": nn.Conv2d(before, width, 3, padding=1, bias=False),
        f"bn{suffix}": nn.BatchNorm2d(width),
        f"relu{suffix}": nn.ReLU(inplace=True),
    }
