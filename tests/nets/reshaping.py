"""Networks that cut, move and re-join channels with views, splits, slices and writes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.nets.case import Case, Head, around, between, cbr, image


def shuffled(x: Tensor, groups: int = 2) -> Tensor:
    """ShuffleNet's channel shuffle with views."""
    batch, width, height, length = x.shape
    x = x.view(batch, groups, width // groups, height, length).transpose(1, 2).contiguous()
    return x.view(batch, -1, height, length)


class ShuffleV2(nn.Module):
    """ShuffleNetV2's unit: half passes by, half is convolved, then all is shuffled."""

    def __init__(self) -> None:
        """Halves of eight."""
        super().__init__()
        self.branch = nn.Sequential(cbr(8, 8, 1), cbr(8, 8, groups=8)[:2], cbr(8, 8, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Chunk, convolve, join, shuffle."""
        left, right = x.chunk(2, dim=1)
        return shuffled(torch.cat((left, self.branch(right)), 1))


class Res2Net(nn.Module):
    """A hierarchy over equal parts whose width is a number of the module."""

    def __init__(self) -> None:
        """Four parts of six."""
        super().__init__()
        self.width, self.scale = 6, 4
        self.enter, self.leave = cbr(16, 24, 1), cbr(24, 16, 1)[:2]
        self.convs = nn.ModuleList(cbr(6, 6) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """Each part is added to the next before it is convolved."""
        parts = torch.split(self.enter(x), self.width, 1)
        out, carry = [], parts[0]
        for i, conv in enumerate(self.convs):
            carry = conv(carry if i == 0 else carry + parts[i])
            out.append(carry)
        return nn.functional.relu(x + self.leave(torch.cat([*out, parts[3]], 1)))


class C2f(nn.Module):
    """YOLOv8's block: split in two by a number, append bottlenecks, join everything."""

    def __init__(self) -> None:
        """Hidden width six."""
        super().__init__()
        self.c = 6
        self.enter, self.leave = cbr(16, 2 * self.c, 1), cbr(4 * self.c, 16, 1)
        self.body = nn.ModuleList(nn.Sequential(cbr(6, 6), cbr(6, 6)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Each bottleneck adds to the one before it."""
        parts = list(self.enter(x).split((self.c, self.c), 1))
        for block in self.body:
            parts.append(parts[-1] + block(parts[-1]))
        return self.leave(torch.cat(parts, 1))


class PartialConv(nn.Module):
    """FasterNet: convolve the first quarter, written with a stored width and a slice."""

    def __init__(self) -> None:
        """A quarter of sixteen."""
        super().__init__()
        self.dim = 4
        self.conv = cbr(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Leave the rest as it is."""
        return torch.cat((self.conv(x[:, : self.dim]), x[:, self.dim :]), 1)


class UnevenSplit(nn.Module):
    """A split into parts of different stored sizes."""

    def __init__(self) -> None:
        """Ten and six."""
        super().__init__()
        self.big, self.small = 10, 6
        self.left, self.right = cbr(10, 8), cbr(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve both parts and add."""
        left, right = torch.split(x, [self.big, self.small], dim=1)
        return self.left(left) + self.right(right)


class PixelShuffle(nn.Module):
    """Four channels become one of twice the size."""

    def __init__(self) -> None:
        """From 32 to 8 channels."""
        super().__init__()
        self.widen, self.back = cbr(16, 32), cbr(8, 16, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Up and down again."""
        return self.back(nn.functional.pixel_shuffle(self.widen(x), 2))


class SelectiveKernel(nn.Module):
    """Two kernels, stacked; a softmax over the stack decides between them, channel by channel."""

    def __init__(self) -> None:
        """A 3x3 and a 5x5 convolution."""
        super().__init__()
        self.small, self.large = cbr(16, 16), cbr(16, 16, 5)
        self.reduce, self.expand = cbr(16, 8, 1), nn.Conv2d(8, 32, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Weighted sum of the two."""
        both = torch.stack((self.small(x), self.large(x)), 1)
        gate = self.expand(self.reduce(both.sum(1).mean((2, 3), keepdim=True)))
        batch, _, width, _, _ = both.shape
        gate = gate.view(batch, 2, width, 1, 1).softmax(1)
        return (both * gate).sum(1)


class InPlace(nn.Module):
    """In-place addition and activation."""

    def __init__(self) -> None:
        """One convolution beside the stream."""
        super().__init__()
        self.conv = cbr(16, 16)[:2]

    def forward(self, x: Tensor) -> Tensor:
        """Overwrite as much as autograd allows."""
        out = self.conv(x)
        out += x
        out.mul_(0.5)
        return out.relu_()


def written_half(x: Tensor) -> Tensor:
    """Fill a fresh tensor slice by slice, with a width taken from the shape."""
    half = x.shape[1] // 2
    out = torch.zeros_like(x)
    out[:, :half] = x[:, half:]
    out[:, half:] = 2 * x[:, :half]
    return out


def written_literal(x: Tensor) -> Tensor:
    """Fill only channels 0 to 3, a number that stands in the code."""
    out = torch.zeros_like(x)
    out[:, :4] = x[:, :4]
    return out + x


def strided_write(x: Tensor) -> Tensor:
    """Scale every second channel in place."""
    x = x.clone()
    x[:, ::2] *= 0.5
    return x


def by_shape(x: Tensor) -> Tensor:
    """Split into halves with a size taken from the shape, then cross them."""
    left, right = x.split(x.shape[1] // 2, 1)
    return torch.cat((right * left, left), 1)


def maxout(x: Tensor) -> Tensor:
    """The larger of channel i and channel i + C/2."""
    batch, width, height, length = x.shape
    return x.view(batch, 2, width // 2, height, length).max(1).values


def folded(x: Tensor) -> Tensor:
    """Halves as a batch of twice the size, and back."""
    batch, width, height, length = x.shape
    x = x.reshape(batch * 2, width // 2, height, length)
    return nn.functional.avg_pool2d(x, 3, 1, 1).reshape(batch, width, height, length)


def repeated(x: Tensor) -> Tensor:
    """Each channel twice, once by repeat, with an expanded bias on top."""
    return x.repeat(1, 2, 1, 1) + x.mean((2, 3), keepdim=True).expand_as(x).repeat(1, 2, 1, 1)


def interleaved(x: Tensor) -> Tensor:
    """Each channel twice, side by side."""
    return x.repeat_interleave(2, 1)


def channels_last(x: Tensor) -> Tensor:
    """To batch, height, width, channel and back through a flattened middle."""
    batch, width, height, length = x.shape
    flat = x.permute(0, 2, 3, 1).reshape(batch, height * length, width)
    return nn.functional.silu(flat).transpose(1, 2).unflatten(2, (height, length))


def square_matrix(x: Tensor) -> Tensor:
    """Channels laid out four by four; rows summed against columns."""
    grid = x.reshape(x.shape[0], 4, 4, *x.shape[2:])
    return (grid + grid.transpose(1, 2)).flatten(1, 2)


def native_shuffle(x: Tensor) -> Tensor:
    """torch's own channel shuffle."""
    return nn.functional.channel_shuffle(x, 4)


def padded(x: Tensor) -> Tensor:
    """Two channels of zeros on both sides."""
    return nn.functional.pad(x, (0, 0, 0, 0, 2, 2))


def reflected(x: Tensor) -> Tensor:
    """Spatial padding by reflection."""
    return nn.functional.pad(x, (1, 1, 1, 1), "reflect")


def free(name: str, function: Callable[[Tensor], Tensor], outputs: int, expect: float,
         note: str) -> Case:  # fmt: skip
    """A case with a plain function in the middle."""
    return Case(name, lambda: between(function, outputs), image, expect, note)


def unshuffled() -> nn.Module:
    """Pixel unshuffle: each channel becomes four."""
    return nn.Sequential(cbr(3, 6), nn.PixelUnshuffle(2), cbr(24, 8), Head(8))


# In `between` nets 16 of the 28 scales belong to the stem: coverage 12/28 when it is frozen.
TAIL = 12 / 28

RESHAPING: tuple[Case, ...] = (
    Case("shufflenet_v2", lambda: around(nn.Sequential(ShuffleV2(), ShuffleV2())), image, 1.0,
         "chunk and shuffle twice"),
    free("shuffle_views", shuffled, 16, 1.0, "shuffle by view and transpose"),
    free("shuffle_native", native_shuffle, 16, 1.0, "native channel shuffle"),
    Case("res2net", lambda: around(Res2Net()), image, 1.0, "equal parts by a held width"),
    Case("c2f", lambda: around(C2f()), image, 1.0, "two halves by a held width"),
    Case("partial_conv", lambda: around(PartialConv()), image, 1.0, "a slice up to a held width"),
    Case("uneven_split", lambda: around(UnevenSplit(), 16, 8), image, 1.0, "parts by held widths"),
    Case("pixel_shuffle", lambda: around(PixelShuffle()), image, 1.0, "four channels to one"),
    Case("pixel_unshuffle", unshuffled, image, 1.0, "one channel to four"),
    Case("selective_kernel", lambda: around(SelectiveKernel()), image, 1.0, "stack and sum"),
    Case("in_place", lambda: around(InPlace()), image, 1.0, "iadd, relu_, mul_"),
    free("written_half", written_half, 16, 1.0, "writes into slices sized by the shape"),
    free("written_literal", written_literal, 16, 0.85, "writes into four literal channels"),
    free("strided_write", strided_write, 16, TAIL, "writes into every second channel"),
    free("split_by_shape", by_shape, 16, 1.0, "halves multiplied"),
    free("glu", lambda x: nn.functional.glu(x, 1), 8, 1.0, "gated linear unit"),
    free("maxout", maxout, 8, 1.0, "view and max over parts"),
    free("folded_batch", folded, 16, 1.0, "channels folded into the batch"),
    free("repeated", repeated, 32, 1.0, "repeat and expand"),
    free("interleaved", interleaved, 32, 1.0, "repeat_interleave"),
    free("channels_last", channels_last, 16, 1.0, "permute, flatten, transpose, unflatten"),
    free("square_matrix", square_matrix, 16, TAIL, "literal 4 x 4 view, transposed and added"),
    free("literal_slice", lambda x: x[:, :8] + x[:, 8:], 8, TAIL, "a width written in code"),
    free("literal_index", lambda x: x[:, [3, 0, 2, 1]], 4, TAIL, "fancy index written in code"),
    free("narrow", lambda x: x.narrow(1, 4, 8), 8, 0.57, "narrow by literals"),
    free("roll", lambda x: x.roll(1, 1), 16, TAIL, "channels rolled by one"),
    free("unbind", lambda x: torch.stack(x.unbind(1)[::-1], 1), 16, TAIL, "unbind and stack"),
    free("pad_channels", padded, 20, 1.0, "zeros on both sides"),
    free("reflect_spatial", reflected, 16, 1.0, "reflection"),
)  # fmt: skip
