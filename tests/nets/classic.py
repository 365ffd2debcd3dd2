"""The blocks that everyday convolutional networks are made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.nets.case import CLASSES, Case, Head, around, cbr, image


def vgg(*, bias: bool = False) -> nn.Module:
    """Plain convolutions, pooling, flatten into a linear layer."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 16), (16, 24)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias), nn.BatchNorm2d(outputs)]
        layers += [nn.ReLU(inplace=True), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(24 * 4, CLASSES))


class Basic(nn.Module):
    """A residual block; with ``stride`` 2 its shortcut is a convolution."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        """Two convolutions and a shortcut."""
        super().__init__()
        self.first = cbr(inputs, outputs, stride=stride)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = cbr(inputs, outputs, 1, stride=stride)[:2]

    def forward(self, x: Tensor) -> Tensor:
        """Add the two paths."""
        return nn.functional.relu(self.norm(self.second(self.first(x))) + self.shortcut(x))


class PreActivation(nn.Module):
    """A residual block that normalises before it convolves."""

    def __init__(self, width: int) -> None:
        """Two pre-activated convolutions."""
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(12)
        self.conv1 = nn.Conv2d(width, 12, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(12, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Add the branch to the untouched stream."""
        return x + self.conv2(
            nn.functional.relu(self.norm2(self.conv1(nn.functional.relu(self.norm1(x)))))
        )


def preactivation() -> nn.Module:
    """Two pre-activation blocks and a last norm, as ResNet v2 has them."""
    stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
    tail = (nn.BatchNorm2d(16), nn.ReLU(), Head(16))
    return nn.Sequential(stem, PreActivation(16), PreActivation(16), *tail)


class Inception(nn.Module):
    """Three branches of different widths, joined."""

    def __init__(self) -> None:
        """Widths 8, 4 and 4."""
        super().__init__()
        self.one, self.three = cbr(16, 8, 1), nn.Sequential(cbr(16, 6, 1), cbr(6, 4))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), cbr(16, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate the branches."""
        return torch.cat((self.one(x), self.three(x), self.pool(x)), 1)


class DenseBlock(nn.Module):
    """Every layer reads all earlier ones through a norm of its own."""

    def __init__(self, inputs: int = 8, growth: int = 6, depth: int = 3) -> None:
        """``depth`` layers that each add ``growth`` channels."""
        super().__init__()
        widths = [inputs + growth * i for i in range(depth)]
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        self.convs = nn.ModuleList(
            nn.Conv2d(width, growth, 3, padding=1, bias=False) for width in widths
        )

    def forward(self, x: Tensor) -> Tensor:
        """Append each layer's output to what it read."""
        features = [x]
        for norm, conv in zip(self.norms, self.convs, strict=True):
            features.append(conv(nn.functional.relu(norm(torch.cat(features, 1)))))
        return torch.cat(features, 1)


def densenet() -> nn.Module:
    """A dense block with a transition to the head."""
    stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
    tail = (nn.BatchNorm2d(26), nn.ReLU(), nn.Conv2d(26, 12, 1, bias=False), nn.AvgPool2d(2))
    return nn.Sequential(stem, DenseBlock(), *tail, nn.BatchNorm2d(12), nn.ReLU(), Head(12))


class ResNeXt(nn.Module):
    """A bottleneck whose middle convolution has four groups."""

    def __init__(self) -> None:
        """Reduce, convolve by groups, expand."""
        super().__init__()
        self.body = nn.Sequential(cbr(16, 24, 1), cbr(24, 24, groups=4), cbr(24, 16, 1)[:2])

    def forward(self, x: Tensor) -> Tensor:
        """Add the bottleneck to its input."""
        return nn.functional.relu(x + self.body(x))


class Inverted(nn.Module):
    """MobileNetV2's block: expand, depthwise, project, add."""

    def __init__(self, width: int = 16) -> None:
        """Expansion by a factor of one and a half."""
        super().__init__()
        inner = width * 3 // 2
        self.body = nn.Sequential(
            cbr(width, inner, 1), cbr(inner, inner, groups=inner), cbr(inner, width, 1)[:2]
        )

    def forward(self, x: Tensor) -> Tensor:
        """No activation after the addition."""
        return x + self.body(x)


class SqueezeExcite(nn.Module):
    """A gate per channel computed from the channel means."""

    def __init__(self, width: int = 16) -> None:
        """A hidden layer a quarter as wide."""
        super().__init__()
        self.conv = cbr(width, width)
        self.reduce = nn.Linear(width, width // 4)
        self.expand = nn.Linear(width // 4, width)

    def forward(self, x: Tensor) -> Tensor:
        """Scale each channel by its gate."""
        x = self.conv(x)
        gate = torch.sigmoid(self.expand(nn.functional.relu(self.reduce(x.mean((2, 3))))))
        return x * gate[:, :, None, None]


class OptionA(nn.Module):
    """ResNet's parameter-free shortcut: stride by slicing, widen by padding with zeros."""

    def __init__(self) -> None:
        """From 16 to 24 channels."""
        super().__init__()
        self.body = nn.Sequential(cbr(16, 24, stride=2), cbr(24, 24)[:2])

    def forward(self, x: Tensor) -> Tensor:
        """Pad four channels on either side."""
        return nn.functional.relu(
            self.body(x) + nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        )


class RepVGG(nn.Module):
    """Three parallel linear branches, one of them a lone BatchNorm."""

    def __init__(self, width: int = 16) -> None:
        """3x3, 1x1 and identity."""
        super().__init__()
        self.dense, self.point = cbr(width, width)[:2], cbr(width, width, 1)[:2]
        self.identity = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Sum the branches."""
        return nn.functional.relu(self.dense(x) + self.point(x) + self.identity(x))


class UNet(nn.Module):
    """One level down, one up with a transposed convolution, and a skip by concatenation."""

    def __init__(self) -> None:
        """A segmentation network for ``CLASSES`` classes."""
        super().__init__()
        self.enter, self.down = cbr(3, 12), cbr(12, 20, stride=2)
        self.up = nn.ConvTranspose2d(20, 10, 2, 2)
        self.norm = nn.BatchNorm2d(10)
        self.leave, self.head = cbr(22, 12), nn.Conv2d(12, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        """A class score per pixel."""
        skip = self.enter(x)
        up = nn.functional.relu(self.norm(self.up(self.down(skip))))
        return self.head(self.leave(torch.cat((up, skip), 1)))


class Pyramid(nn.Module):
    """A small feature pyramid: lateral 1x1 convolutions, upsampling, addition, two outputs."""

    def __init__(self) -> None:
        """Two levels."""
        super().__init__()
        self.low, self.high = cbr(3, 12), cbr(12, 20, stride=2)
        self.lateral1, self.lateral2 = cbr(12, 10, 1), cbr(20, 10, 1)
        self.smooth, self.out = cbr(10, 8), nn.Conv2d(8, CLASSES, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        """One map per level."""
        low = self.low(x)
        high = self.lateral2(self.high(low))
        joined = self.lateral1(low) + nn.functional.interpolate(
            high, scale_factor=2, mode="nearest"
        )
        return [self.out(self.smooth(level)) for level in (joined, high)]


def deconvolutions() -> nn.Module:
    """Transposed convolutions, plain, depthwise and in groups."""
    return nn.Sequential(
        cbr(3, 16, stride=2),
        nn.ConvTranspose2d(16, 12, 2, 2, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
        nn.ConvTranspose2d(12, 12, 3, 1, 1, groups=12, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
        nn.ConvTranspose2d(12, 16, 1, groups=4, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        Head(16),
    )  # fmt: skip


CLASSIC: tuple[Case, ...] = (
    Case("vgg", vgg, image, 1.0, "flatten multiplies each channel by four columns"),
    Case("vgg_bias", lambda: vgg(bias=True), image, 1.0, "a convolution bias before the norm"),
    Case("residual", lambda: around(nn.Sequential(Basic(16, 16), Basic(16, 16))), image, 1.0,
         "a residual stream holds several scales"),
    Case("residual_stride", lambda: around(Basic(16, 20, 2), 16, 20), image, 1.0,
         "shortcut by convolution"),
    Case("preactivation", preactivation, image, 1.0, "the stream is only read through norms"),
    Case("inception", lambda: around(Inception()), image, 1.0, "concatenated branches"),
    Case("dense", densenet, image, 1.0, "one channel read by several norms"),
    Case("resnext", lambda: around(ResNeXt()), image, 1.0, "grouped convolution"),
    Case("inverted", lambda: around(Inverted()), image, 1.0, "depthwise and residual"),
    Case("squeeze_excite", lambda: around(SqueezeExcite()), image, 1.0, "gate by sigmoid"),
    Case("option_a", lambda: around(OptionA(), 16, 24), image, 68 / 76,
         "eight of the 24 channels meet constant padding"),
    Case("repvgg", lambda: around(RepVGG()), image, 1.0, "three branches, one a lone norm"),
    Case("unet", UNet, image, 1.0, "transposed convolution and skip"),
    Case("pyramid", Pyramid, image, 1.0, "interpolation, list of outputs, shared head"),
    Case("deconvolutions", deconvolutions, image, 1.0, "depthwise and grouped transposed"),
)  # fmt: skip
