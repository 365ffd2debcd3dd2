"""Networks whose own modules hold the sizes that their code cuts, views and checks with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.nets.case import Case, around, cbr, image


class Heads(nn.Module):
    """Attention over pixels, with the numbers of heads and features held by the module."""

    def __init__(self, *, fused: bool = False) -> None:
        """Two heads of six features, values of eight."""
        super().__init__()
        self.fused, self.heads, self.key_dim, self.value_dim = fused, 2, 6, 8
        self.sizes = [self.key_dim, self.key_dim, self.value_dim]
        self.total = self.heads * self.value_dim
        self.scale = self.key_dim**-0.5
        self.qkv = cbr(16, self.heads * sum(self.sizes), 1)[:2]
        self.proj = cbr(self.total, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Softmax of the scores, times the values, heads joined again."""
        batch, _, height, width = x.shape
        joint = self.qkv(x).view(batch, self.heads, -1, height * width)
        query, key, value = joint.split(self.sizes, dim=2)
        scores = query.transpose(-2, -1) @ key * self.scale
        mixed = value @ scores.softmax(-1).transpose(-2, -1)
        if self.fused:
            return self.proj(mixed.reshape(batch, self.heads * self.value_dim, height, width))
        return self.proj(mixed.reshape(batch, self.total, height, width))


class Parts(nn.Module):
    """A view into parts whose number and width are both held, joined by a softmax over parts."""

    def __init__(self) -> None:
        """Two parts of sixteen."""
        super().__init__()
        self.parts, self.width = 2, 16
        self.enter = cbr(16, self.parts * self.width, 1)
        self.weigh = nn.Linear(self.width, self.parts * self.width)

    def forward(self, x: Tensor) -> Tensor:
        """Σ over the parts of softmax(weights) · part."""
        batch, _, height, width = x.shape
        parts = self.enter(x).view(batch, self.parts, self.width, height, width)
        weights = self.weigh(parts.sum(1).mean((2, 3)))
        weights = weights.view(batch, self.parts, self.width, 1, 1).softmax(1)
        return (parts * weights).sum(1)


class Checking(nn.Module):
    """Code that compares what it gets with what it was built for."""

    def __init__(self) -> None:
        """Sixteen in, sixteen out."""
        super().__init__()
        self.inputs, self.outputs = 16, 16
        self.conv = cbr(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        """A residual sum only where the widths agree."""
        if x.shape[1] != self.inputs:
            raise ValueError(f"{self.inputs} channels, please")
        out = self.conv(x)
        return x + out if self.inputs == self.outputs else out


class OwnNorm(nn.Module):
    """A layer norm over channels written by hand, with its shape held as a tuple."""

    def __init__(self) -> None:
        """Sixteen features."""
        super().__init__()
        self.normalized_shape = (16,)
        self.weight, self.bias = nn.Parameter(torch.rand(16) + 0.5), nn.Parameter(torch.rand(16))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        x = x.permute(0, 2, 3, 1)
        x = nn.functional.layer_norm(x, self.normalized_shape, self.weight, self.bias)
        return x.permute(0, 3, 1, 2)


class OwnDepthwise(nn.Module):
    """A depthwise filter as a plain call, with the number of groups held by the module."""

    def __init__(self, width: int = 16, groups: int = 16) -> None:
        """One 3 x 3 filter per channel."""
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.randn(width, width // groups, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Filter each group by itself."""
        return nn.functional.conv2d(x, self.weight, padding=1, groups=self.groups)


class Arithmetic(nn.Module):
    """Sizes computed from held ones: twice, half, the rest."""

    def __init__(self) -> None:
        """Half of sixteen, twice over."""
        super().__init__()
        self.half = 8
        self.enter, self.inner = cbr(16, 24, 1), cbr(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Sixteen of twenty-four pass; of the rest a filtered copy is added to each half."""
        passed, rest = self.enter(x).split([2 * self.half, self.half], 1)
        rest = self.inner(rest).repeat(1, 2, 1, 1)
        return passed + rest.narrow(1, 0, self.half * 2)


class Scaled(nn.Module):
    """A held width that also enters arithmetic: it cannot change."""

    def __init__(self) -> None:
        """Two parts of eight."""
        super().__init__()
        self.width = 8
        self.enter = cbr(16, 24, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The first part is scaled by the square root of its width."""
        first, rest = self.enter(x).split([self.width, 16], 1)
        return torch.cat([first * self.width**-0.5, rest[:, :8]], 1)


class Filled(nn.Module):
    """A new tensor and an expanded parameter of held widths."""

    def __init__(self) -> None:
        """Sixteen channels, of which eight are one number each."""
        super().__init__()
        self.width, self.extra = 16, 8
        self.token = nn.Parameter(torch.randn(1, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Channels of ones and of a learnt number are joined to the input's."""
        ones = torch.ones(len(x), self.width, *x.shape[2:])
        return torch.cat([x * ones, self.token.expand(len(x), self.extra, *x.shape[2:])], 1)


ATTRIBUTES: tuple[Case, ...] = (
    Case("held_heads", lambda: around(Heads()), image, 1.0, "attention, joint width held"),
    Case("held_heads_product", lambda: around(Heads(fused=True)), image, 1.0, "heads x features"),
    Case("held_parts", lambda: around(Parts()), image, 1.0, "view(b, self.parts, self.width)"),
    Case("held_check", lambda: around(Checking()), image, 1.0, "compares with a held width"),
    Case("held_shape", lambda: around(OwnNorm()), image, 1.0, "layer norm, shape held as a tuple"),
    Case("held_groups", lambda: around(OwnDepthwise()), image, 1.0, "depthwise, groups held"),
    Case("held_few_groups", lambda: around(OwnDepthwise(16, 8)), image, 1.0, "groups of two"),
    Case("held_arithmetic", lambda: around(Arithmetic()), image, 1.0, "2 · self.half"),
    Case("held_and_scaled", lambda: around(Scaled()), image, 0.5, "a width that is also a factor"),
    Case("held_new_tensors", lambda: around(Filled(), 16, 24), image, 1.0, "ones and expand"),
)  # fmt: skip
