"""Three small networks for 32x32 grey pictures, each with a width multiplier.

A plain one, a residual one and one of inverted residuals with depthwise convolutions: the three
ways in which channels are coupled in the networks that people ship.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.accuracy.glyphs import CLASSES


class Classifier(nn.Module):
    """Features ``[n, c, h, w]``, averaged over the picture, then one linear layer."""

    def __init__(self, features: list[nn.Module], width: int) -> None:
        """Join them; ``width`` is the number of channels that the features end with."""
        super().__init__()
        self.features = nn.Sequential(*features)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """``[n, 1, 32, 32]`` to logits ``[n, 62]``."""
        return self.head(self.features(images).mean(dim=(2, 3)))


def vgg(width: float = 1.0) -> nn.Module:
    """Seven 3x3 convolutions on 32, 16, 8 and 4 pixels; after Simonyan and Zisserman, 2015."""
    layers, before = [], 1
    for stage, (channels, depth) in enumerate([(16, 1), (32, 2), (64, 2), (128, 2)]):
        layers += [nn.MaxPool2d(2)] if stage else []
        for _ in range(depth):
            layers.append(Unit(before, scaled(channels, width)))
            before = scaled(channels, width)
    return Classifier(layers, before)


def resnet20(width: float = 1.0) -> nn.Module:
    """Three stages of three residual blocks, on 16, 8 and 4 pixels; He et al., 2016, section 4.2.

    Its widths, 16, 32 and 64, are the original ones; but the stem halves the picture.
    """
    before = scaled(16, width)
    layers: list[nn.Module] = [Unit(1, before, stride=2)]
    for stage, channels in enumerate((16, 32, 64)):
        for block in range(3):
            stride = 2 if stage and not block else 1
            layers.append(ResidualBlock(before, scaled(channels, width), stride))
            before = scaled(channels, width)
    return Classifier(layers, before)


def mobilenet(width: float = 1.0) -> nn.Module:
    """Seven inverted residuals, on 16, 8 and 4 pixels; after Sandler et al., 2018."""
    before = scaled(16, width)
    layers: list[nn.Module] = [Unit(1, before, stride=2)]
    for channels, depth, stride in ((16, 1, 1), (24, 3, 2), (48, 3, 2)):
        for block in range(depth):
            after = scaled(channels, width)
            layers.append(InvertedResidual(before, after, stride if not block else 1))
            before = after
    last = scaled(128, width)
    return Classifier([*layers, Unit(before, last, kernel=1)], last)


NETWORKS: Mapping[str, Callable[[float], nn.Module]] = MappingProxyType(
    {"vgg": vgg, "resnet20": resnet20, "mobilenet": mobilenet}
)


def build(name: str, *, seed: int, width: float = 1.0) -> nn.Module:
    """A network of :data:`NETWORKS`, initialised from ``seed`` without the global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NETWORKS[name](width)


def scaled(channels: int, width: float) -> int:
    """A layer's number of channels at this width multiplier, at least one."""
    return max(1, round(channels * width))


class Unit(nn.Sequential):
    """Convolution, BatchNorm and, unless ``linear``, ReLU."""

    def __init__(
        self,
        before: int,
        after: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        groups: int = 1,
        linear: bool = False,
    ) -> None:
        """Make the layers, with the padding that keeps the picture's size at stride 1."""
        super().__init__(
            nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(after),
            *([] if linear else [nn.ReLU(inplace=True)]),
        )


class ResidualBlock(nn.Module):
    """``relu(f(x) + s(x))``: two 3x3 convolutions f beside a shortcut s that matches their shape.

    The shortcut is a 1x1 convolution where the shapes differ (option B of He et al.): padding with
    zeros (option A) would tie the channels of one stage to those of the next.
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        """Make the block; the shortcut is the identity where the shapes agree."""
        super().__init__()
        self.body = nn.Sequential(
            Unit(before, after, stride=stride), Unit(after, after, linear=True)
        )
        same = before == after and stride == 1
        self.shortcut: nn.Module = (
            nn.Identity() if same else Unit(before, after, kernel=1, stride=stride, linear=True)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """``[n, before, h, w]`` to ``[n, after, h / stride, w / stride]``."""
        return functional.relu(self.body(inputs) + self.shortcut(inputs))


class InvertedResidual(nn.Module):
    """Widen four times, 3x3 depthwise, narrow again; added to its input where the shapes agree."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        """Make the block."""
        super().__init__()
        inner = 4 * before
        self.body = nn.Sequential(
            Unit(before, inner, kernel=1),
            Unit(inner, inner, stride=stride, groups=inner),
            Unit(inner, after, kernel=1, linear=True),
        )
        self.residual = before == after and stride == 1

    def forward(self, inputs: Tensor) -> Tensor:
        """``[n, before, h, w]`` to ``[n, after, h / stride, w / stride]``."""
        outputs = self.body(inputs)
        return inputs + outputs if self.residual else outputs
