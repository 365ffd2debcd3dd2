"""Norms, contractions, and operators that no rule can be expected to know."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from tests.nets.case import CLASSES, Case, Head, around, between, cbr, image

TAIL = 12 / 28


class Cube(torch.autograd.Function):
    """An operator with a backward of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """The cube of the input."""
        ctx.save_for_backward(x)
        return x * x * x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """Three times the square."""
        (x,) = ctx.saved_tensors
        return 3 * x * x * grads[0]


class StandardisedConv(nn.Conv2d):
    """A convolution whose weight is standardised in every forward."""

    def forward(self, x: Tensor) -> Tensor:
        """Standardise over all but the output dimension, then convolve."""
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        std = self.weight.std((1, 2, 3), keepdim=True)
        weight = (self.weight - mean) / (std + 1e-5)
        return nn.functional.conv2d(x, weight, None, self.stride, self.padding)


def standardised() -> nn.Module:
    """Two standardised convolutions in a row."""
    first, second = (StandardisedConv(16, 16, 3, padding=1, bias=False) for _ in range(2))
    norms = nn.BatchNorm2d(16), nn.BatchNorm2d(16)
    return around(nn.Sequential(first, norms[0], nn.ReLU(), second, norms[1], nn.ReLU()))


def normed_weights() -> nn.Module:
    """torch's weight_norm parametrization on two convolutions."""
    first, second = (weight_norm(nn.Conv2d(16, 16, 3, padding=1)) for _ in range(2))
    norms = nn.BatchNorm2d(16), nn.BatchNorm2d(16)
    return around(nn.Sequential(first, norms[0], nn.ReLU(), second, norms[1], nn.ReLU()))


class ConvNeXt(nn.Module):
    """Depthwise, LayerNorm over the last dimension, two linears, layer scale, residual."""

    def __init__(self, width: int = 16) -> None:
        """Expansion by two."""
        super().__init__()
        self.conv = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        """Work in channels-last, add in channels-first."""
        y = self.norm(self.conv(x).permute(0, 2, 3, 1))
        y = self.gamma * self.down(nn.functional.gelu(self.up(y)))
        return x + y.permute(0, 3, 1, 2)


class FrozenNorm(nn.Module):
    """A BatchNorm made of four buffers, as detectors use it."""

    def __init__(self, width: int) -> None:
        """Statistics and affine numbers as buffers."""
        super().__init__()
        for name, fill in (("weight", 1.0), ("bias", 0.0), ("mean", 0.0), ("var", 1.0)):
            self.register_buffer(name, torch.full((width,), fill))

    def forward(self, x: Tensor) -> Tensor:
        """One multiplication and one addition."""
        scale = self.get_buffer("weight") * (self.get_buffer("var") + 1e-5).rsqrt()
        shift = self.get_buffer("bias") - self.get_buffer("mean") * scale
        return x * scale[None, :, None, None] + shift.reshape(1, -1, 1, 1)


class Mask(nn.Module):
    """A one-channel map multiplies all channels."""

    def __init__(self, *, deep: bool = False) -> None:
        """The map is made by a one-channel convolution, ``deep`` by one more of one channel."""
        super().__init__()
        self.conv: nn.Module = nn.Conv2d(16, 1, 1)
        if deep:
            self.conv = nn.Sequential(self.conv, nn.ReLU(), nn.Conv2d(1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """``mask[B, 1, H, W] * x``."""
        return torch.sigmoid(self.conv(x)) * x


class OneChannel(nn.Module):
    """A bottleneck of a single normalised channel, squeezed away and brought back."""

    def __init__(self) -> None:
        """One channel in, the stream's width out."""
        super().__init__()
        self.narrow, self.wide = cbr(16, 1, 1), nn.Conv2d(1, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Residual through one channel."""
        return x + self.wide(self.narrow(x).squeeze(1).unsqueeze(1))


class EfficientChannelAttention(nn.Module):
    """A one-dimensional convolution that slides over the channels."""

    def __init__(self) -> None:
        """Kernel size three."""
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Gate each channel by its neighbours."""
        gate = self.conv(x.mean((2, 3))[:, None])
        return x * torch.sigmoid(gate).transpose(1, 2)[..., None]


class SpatialAttention(nn.Module):
    """CBAM's mask from the mean and maximum over channels."""

    def __init__(self) -> None:
        """Two maps in, one out."""
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply by the mask."""
        both = torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), 1)
        return x * torch.sigmoid(self.conv(both))


class Bilinear(nn.Module):
    """Outer product of two feature maps, pooled, into a classifier."""

    def __init__(self) -> None:
        """Widths eight and six."""
        super().__init__()
        self.left, self.right = cbr(16, 8), cbr(16, 6)
        self.fc = nn.Linear(48, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """``left @ right.T`` flattened."""
        left, right = self.left(x).flatten(2), self.right(x).flatten(2)
        return self.fc(torch.matmul(left, right.transpose(1, 2)).flatten(1) / left.shape[2])


class Einsum(nn.Module):
    """A channel-mixing matrix applied with einsum."""

    def __init__(self) -> None:
        """From 16 to 10 channels."""
        super().__init__()
        self.mix = nn.Parameter(torch.randn(10, 16) / 4)
        self.norm = nn.BatchNorm2d(10)

    def forward(self, x: Tensor) -> Tensor:
        """Mix, then normalise."""
        return nn.functional.relu(self.norm(torch.einsum("bchw,oc->bohw", x, self.mix)))


class Branching(nn.Module):
    """Python that looks at a number of the data."""

    def forward(self, x: Tensor) -> Tensor:
        """Divide by a Python float taken from the tensor."""
        return x / (1 + abs(x.detach().abs().mean().item()))


def weighted_by_width(x: Tensor) -> Tensor:
    """A factor computed from the number of channels: no cut leaves it as it was."""
    return x / math.sqrt(x.shape[1])


def norm_over_channels(x: Tensor) -> Tensor:
    """Unit length over channels; channels of zeros change nothing."""
    return nn.functional.normalize(x, dim=1, eps=1e-3)


def vanishing(*, affine: bool) -> nn.Module:
    """InstanceNorm before global pooling: the pooled map is nothing but rounding errors."""
    return nn.Sequential(cbr(3, 16), cbr(16, 12), nn.InstanceNorm2d(12, affine=affine), Head(12))


class SubclassedNorm(nn.BatchNorm2d):
    """A BatchNorm with an activation inside."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise and activate."""
        return nn.functional.silu(super().forward(x))


def with_norm(norm: nn.Module, width: int = 16) -> nn.Module:
    """``norm`` between two convolutions, the second with a BatchNorm."""
    conv = nn.Conv2d(16, width, 3, padding=1)
    return around(nn.Sequential(conv, norm, nn.ReLU(), cbr(width, 16)))


OPERATORS: tuple[Case, ...] = (
    Case("sort", lambda: between(lambda x: x.sort(1).values), image, TAIL, "sorted channels"),
    Case("flip", lambda: between(lambda x: x.flip(1)), image, 1.0, "channels reversed"),
    Case("cumsum", lambda: between(lambda x: x.cumsum(1)), image, TAIL, "running sum"),
    Case("topk", lambda: between(lambda x: x.topk(4, 1).values, 4), image, TAIL, "largest four"),
    Case("autograd_function", lambda: between(Cube.apply), image, 1.0, "custom backward"),
    Case("standardised", standardised, image, 1.0, "weight standardisation", zero=False),
    Case("weight_norm", normed_weights, image, 1.0, "parametrized weight",
         spare=(("weight.original1", 0),), zero=False),
    Case("convnext", lambda: around(ConvNeXt()), image, 1.0, "LayerNorm statistics", zero=False),
    Case("group_norm", lambda: with_norm(nn.GroupNorm(4, 16)), image, 1.0, "GroupNorm",
         zero=False),
    Case("instance_norm", lambda: with_norm(nn.InstanceNorm2d(16, affine=True)), image, 1.0,
         "InstanceNorm is per channel"),
    Case("no_affine", lambda: with_norm(nn.BatchNorm2d(16, affine=False)), image, 1.0,
         "BatchNorm without scales"),
    Case("frozen_norm", lambda: with_norm(FrozenNorm(16)), image, 1.0, "norm made of buffers"),
    Case("subclassed_norm", lambda: with_norm(SubclassedNorm(16)), image, 1.0, "subclass"),
    Case("sync_norm", lambda: with_norm(nn.SyncBatchNorm(16)), image, 1.0, "SyncBatchNorm"),
    Case("no_running_stats", lambda: with_norm(nn.BatchNorm2d(16, track_running_stats=False)),
         image, 1.0, "batch statistics in evaluation too"),
    Case("mask", lambda: around(Mask()), image, 1.0, "one channel broadcast"),
    Case("mask_deep", lambda: around(Mask(deep=True)), image, 1.0, "a convolution from 1 to 1"),
    Case("vanishing", lambda: vanishing(affine=True), image, 1.0, "zero but for rounding"),
    Case("vanishing_plain", lambda: vanishing(affine=False), image, 1.0,
         "InstanceNorm that holds a width and no tensors"),
    Case("one_channel", lambda: around(OneChannel()), image, 28 / 29, "size-one dimension",
         zero=False),
    Case("eca", lambda: around(EfficientChannelAttention()), image, 12 / 28,
         "convolution over channels"),
    Case("spatial_attention", lambda: around(SpatialAttention()), image, 1.0,
         "mean and maximum over channels"),
    Case("channel_softmax", lambda: between(lambda x: x * x.softmax(1)), image, 1.0,
         "softmax over channels", zero=False),
    Case("unit_length", lambda: between(norm_over_channels), image, 1.0, "norm over channels"),
    Case("bilinear", lambda: nn.Sequential(cbr(3, 16), Bilinear()), image, 0.8,
         "product of two feature maps"),
    Case("gram", lambda: between(lambda x: (x.flatten(2) @ x.flatten(2).mT).mean(2)[..., None, None]
                                 * x), image, 1.0, "channels against themselves"),
    Case("einsum", lambda: around(Einsum(), 16, 10), image, 1.0, "einsum"),
    Case("prelu", lambda: around(nn.Sequential(cbr(16, 16)[:2], nn.PReLU(16))), image, 1.0,
         "a slope per channel"),
    Case("where", lambda: between(lambda x: torch.where(x > 0.5, x, x.clamp(max=0.1))), image,
         1.0, "comparison and where"),
    Case("item", lambda: around(Branching()), image, 1.0, "data-dependent Python",
         refusable=True),
    Case("sqrt_width", lambda: between(weighted_by_width), image, TAIL,
         "a factor computed from the width", refusable=True),
    Case("sigmoid_stream", lambda: between(torch.sigmoid), image, 1.0, "f(0) is not zero",
         zero=False),
    Case("plain_branch", lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), cbr(8, 8), Head(8)),
         image, 1.0, "a convolution without a norm"),
)  # fmt: skip
