"""Attention over flattened feature maps, in the ways people write it."""

from __future__ import annotations

from torch import Tensor, nn

from tests.nets.case import Case, around, cbr, image


class HandWritten(nn.Module):
    """qkv in one linear layer, heads by reshape, softmax written out."""

    def __init__(self, width: int = 16, heads: int = 4) -> None:
        """The scale is a number of the module."""
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Residual attention over positions."""
        batch, width, height, length = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        qkv = self.qkv(tokens).reshape(batch, height * length, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        weights = (query @ key.transpose(-2, -1) * self.scale).softmax(-1)
        mixed = (weights @ value).transpose(1, 2).reshape(batch, height * length, -1)
        return x + self.out(mixed).transpose(1, 2).reshape(batch, width, height, length)


class Fused(nn.Module):
    """Separate projections and torch's fused attention with an explicit scale."""

    def __init__(self, width: int = 16, heads: int = 2) -> None:
        """The head size is a number of the module."""
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)

    def split(self, x: Tensor) -> Tensor:
        """Batch, heads, positions, size."""
        return x.view(x.shape[0], x.shape[1], self.heads, self.size).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Residual attention over positions."""
        tokens = x.flatten(2).mT
        query, key = self.split(self.query(tokens)), self.split(self.key(tokens))
        value = self.split(self.value(tokens))
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, scale=0.35)
        mixed = mixed.transpose(1, 2).reshape(x.shape[0], -1, self.heads * self.size)
        return x + self.out(mixed).mT.reshape(x.shape)


class Convolved(nn.Module):
    """qkv from a normalised 1x1 convolution, as hybrid networks have it."""

    def __init__(self, width: int = 16, heads: int = 2, key: int = 4) -> None:
        """Keys are narrower than values."""
        super().__init__()
        self.heads, self.key, self.value = heads, key, 2 * key
        total = heads * 4 * key
        self.qkv = nn.Sequential(nn.Conv2d(width, total, 1, bias=False), nn.BatchNorm2d(total))
        self.out = cbr(heads * 2 * key, width, 1)[:2]

    def forward(self, x: Tensor) -> Tensor:
        """Residual attention, channels first throughout."""
        batch, _, height, length = x.shape
        parts = self.qkv(x).view(batch, self.heads, -1, height * length)
        query, key, value = parts.split([self.key, self.key, self.value], dim=2)
        weights = (query.transpose(-2, -1) @ key * 0.5).softmax(-1)
        mixed = (value @ weights.transpose(-2, -1)).view(batch, -1, height, length)
        return x + self.out(nn.functional.relu(mixed))


class Library(nn.Module):
    """torch's own multi-head attention module."""

    def __init__(self, width: int = 16) -> None:
        """Two heads."""
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Residual attention over positions."""
        tokens = x.flatten(2).mT
        return x + self.attention(tokens, tokens, tokens, need_weights=False)[0].mT.view_as(x)


class Linear(nn.Module):
    """Linear attention: keys against values first, a relu kernel, explicit normalisation."""

    def __init__(self, width: int = 16, *, by_shape: bool = False) -> None:
        """One head; ``by_shape`` demands as many values as the stream has channels."""
        super().__init__()
        self.by_shape = by_shape
        self.qkv, self.out = cbr(width, 3 * width, 1), cbr(width, width, 1)[:2]

    def forward(self, x: Tensor) -> Tensor:
        """Residual attention with cost linear in the positions."""
        query, key, value = self.qkv(x).flatten(2).chunk(3, 1)
        context = value @ key.mT
        mixed = (context @ query) / (key.sum(2, keepdim=True).mT @ query + 1e-2)
        shape = x.shape if self.by_shape else (x.shape[0], -1, *x.shape[2:])
        return x + self.out(mixed.reshape(shape))


class DefaultScale(nn.Module):
    """Fused attention that divides by the root of its feature size: only whole heads can go."""

    def __init__(self, width: int = 16, heads: int = 4) -> None:
        """Four heads of four."""
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Attend over pixels; the output is as wide as the input, by the input's shape."""
        tokens = x.flatten(2).transpose(1, 2)
        batch, length, width = tokens.shape
        parts = [
            layer(tokens).reshape(batch, length, self.heads, self.size).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        ]
        mixed = nn.functional.scaled_dot_product_attention(*parts)
        mixed = self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + mixed.transpose(1, 2).reshape(x.shape)


ATTENTION: tuple[Case, ...] = (
    Case("attention_written", lambda: around(HandWritten()), image, 1.0, "softmax written out",
         zero=False),
    Case("attention_fused", lambda: around(Fused()), image, 1.0, "torch counts nothing",
         zero=False, counted=False),
    Case("attention_convolved", lambda: around(Convolved()), image, 1.0, "normalised qkv"),
    Case("attention_library", lambda: around(Library()), image, 12 / 28, "nn.MultiheadAttention",
         counted=False, zero=False),
    Case("attention_linear", lambda: around(Linear()), image, 1.0, "linear attention"),
    Case("attention_shape", lambda: around(Linear(by_shape=True)), image, 1.0,
         "values must stay as many as the stream has channels"),
    Case("attention_default_scale", lambda: around(DefaultScale()), image, 1.0,
         "whole heads and what the residual sum ties to them", zero=False, counted=False),
)  # fmt: skip
