"""Operators that act element by element: what meets is united, what is broadcast is not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tests.rules.helper import (
    FREE,
    INTO,
    OUT,
    checked,
    exact,
    flow,
    free,
    image,
    one_each,
    only_reason,
    partners,
    passes,
    reasons,
    toy,
)


class Branches(nn.Module):
    """Two producers whose maps meet in a function."""

    def __init__(self, function, outputs: int = 4):
        super().__init__()
        self.into = nn.Conv2d(3, 4, 1, bias=False)
        self.other = nn.Conv2d(3, 4, 1, bias=False)
        self.norm, self.other_norm = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.function = function
        self.out = nn.Conv2d(outputs, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.norm(self.into(x)), self.other_norm(self.other(x))
        return self.out(self.function(left, right))


class Scaled(nn.Module):
    """A parameter that meets the map."""

    def __init__(self, *shape: int, function=torch.mul):
        super().__init__()
        self.factor = nn.Parameter(torch.full(shape, 0.5))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.factor)


OTHER = ("other.weight", 0)

UNARY = {
    "relu": torch.relu,
    "relu_": torch.relu_,
    "sigmoid": torch.sigmoid,
    "exp": torch.exp,
    "gelu": F.gelu,
    "hardswish": F.hardswish,
    "hardswish_": lambda x: F.hardswish(x, inplace=True),
    "elu": F.elu,
    "hardtanh": F.hardtanh,
    "leaky_relu": F.leaky_relu,
    "softplus": F.softplus,
    "mish": F.mish,
    "clamp": lambda x: x.clamp(min=0.1),
    "threshold": lambda x: F.threshold(x, 0.1, 5.0),
    "dropout": nn.Dropout(),
    "dropout in place": nn.Dropout2d(inplace=True),
    "plus one": lambda x: x + 1,
    "one minus": lambda x: 1 - x,
    "halved": lambda x: x / 2,
    "doubled in place": lambda x: x.mul_(2),
    "power": lambda x: x**2,
    "absolute": torch.abs,
    "clone": torch.clone,
    "detach": torch.detach,
    "double": lambda x: x.double().float(),
    "contiguous": lambda x: x.contiguous(memory_format=torch.channels_last),
    "full_like": lambda x: x * torch.full_like(x, 0.5),
    "where": lambda x: torch.where(x > 0, x, 0.1 * x),
    "masked_fill": lambda x: x.masked_fill(x < 0, 0.0),
    "zeros_like": lambda x: x + torch.zeros_like(x),
    "ones_like": lambda x: x + torch.ones_like(x),
    "new_zeros": lambda x: x + x.new_zeros(x.shape),
    "zeros of its size": lambda x: x + torch.zeros(1, x.shape[1], 1, 1),
    "ones of its size": lambda x: x * torch.ones(x.size()),
    "copy_": lambda x: torch.empty_like(x).copy_(x),
}


@pytest.mark.parametrize("function", UNARY.values(), ids=UNARY.keys())
def test_functions_of_one_map_let_channels_pass(function):
    """Each channel stays itself, may go, and nothing counts them."""
    assert passes(toy(function))


def test_mish_in_place_lets_channels_pass():
    """``nn.Mish(inplace=True)`` is as elementwise as its twin."""
    assert passes(toy(nn.Mish(inplace=True)))


BINARY = {
    "add": torch.add,
    "add_": lambda a, b: a.add_(b),
    "iadd": lambda a, b: a.__iadd__(b),
    "sub": torch.sub,
    "mul": torch.mul,
    "gate": lambda a, b: a * b.sigmoid(),
    "maximum": torch.maximum,
    "max": torch.max,
    "lerp": lambda a, b: torch.lerp(a, b, 0.3),
    "addcmul": lambda a, b: torch.addcmul(a, a, b),
    "where": lambda a, b: torch.where(a > b, a, b),
    "pooled gate": lambda a, b: a * b.mean((2, 3), keepdim=True).sigmoid(),
}


@pytest.mark.parametrize("function", BINARY.values(), ids=BINARY.keys())
def test_maps_that_meet_unite_index_by_index(function):
    """Row k of both producers and column k of the consumer are one channel with two scales."""
    graph = checked(Branches(function), image())
    assert free(graph)
    assert all(exact(graph))
    assert partners(graph, INTO, OTHER) == one_each(0, 1, 2, 3)
    assert flow(graph) == one_each(0, 1, 2, 3)
    (group,) = (g for g in graph.groups if g.prunable)
    assert group.scales == ("norm.weight", "other_norm.weight")


def test_division_counts_only_what_is_there():
    """A removed channel would be 0 / 0 in the masked network; channels unite all the same."""
    graph = checked(Branches(lambda a, b: a / (b.abs() + 0.1)), image())
    assert free(graph)
    assert partners(graph, INTO, OTHER) == one_each(0, 1, 2, 3)


def test_broadcasting_over_a_dimension_of_one_couples_nothing():
    """A mask (B, 1, H, W) meets every channel and ties none."""
    graph = toy(lambda x: x * x.amax((2, 3), keepdim=True).new_ones(len(x), 1, 4, 4))
    assert passes(graph)


def test_one_channel_broadcast_over_many_is_no_part_of_them():
    """A spatial gate's single row is a dimension of size one: no site at all."""

    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return x * self.conv(x).sigmoid()

    graph = toy(Gate())
    assert passes(graph)
    assert ("function.conv.weight", 0) not in graph.sites
    assert partners(graph, ("function.conv.weight", 1), INTO) == one_each(0, 1, 2, 3)


def test_parameter_per_channel_is_cut_along():
    """A layer scale of shape (4, 1, 1)."""
    graph = toy(Scaled(4, 1, 1))
    assert passes(graph)
    assert partners(graph, ("function.factor", 0), INTO) == one_each(0, 1, 2, 3)


def test_parameter_per_pixel_stays():
    """A position embedding (4, 4) has nothing to do with channels."""
    graph = toy(Scaled(4, 4, function=torch.add))
    assert passes(graph)
    assert FREE not in reasons(graph, ("function.factor", 0))


def test_prelu_with_one_slope_per_channel():
    """Its slopes belong to the channels, and so does its number of parameters."""
    graph = toy(nn.PReLU(4))
    assert passes(graph)
    assert partners(graph, ("function.weight", 0), INTO) == one_each(0, 1, 2, 3)


def test_prelu_with_one_slope_for_all():
    """A dimension of size one is broadcast."""
    graph = toy(nn.PReLU())
    assert passes(graph)
    assert ("function.weight", 0) not in graph.sites


def test_constant_of_full_width_freezes():
    """Four numbers that somebody wrote down meet four channels."""
    graph = toy(lambda x: x + torch.arange(4.0).view(1, 4, 1, 1))
    assert FREE not in reasons(graph, INTO)


def test_constant_of_full_width_is_the_reason():
    """The picture has nothing to do with it."""
    graph = toy(lambda x: x + torch.arange(4.0).view(1, 4, 1, 1))
    assert only_reason(graph) == "meets a fixed size"


def test_network_input_of_full_width_freezes():
    """The picture itself has three channels, and so have those added to it."""

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.into = nn.Conv2d(3, 3, 1, bias=False)
            self.norm = nn.BatchNorm2d(3)
            self.hidden = nn.Conv2d(3, 5, 1)
            self.hidden_norm = nn.BatchNorm2d(5)
            self.out = nn.Conv2d(5, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.norm(self.into(x))
            return self.out(self.hidden_norm(self.hidden(x)))

    graph = checked(Residual(), image())
    assert only_reason(graph) == "network input"
    assert free(graph, OUT)


def test_channels_that_meet_pixels_freeze():
    """A channel dimension in the place of another's rows of pixels has nothing to follow."""
    graph = toy(lambda x: x + x.mean((2, 3)).view(-1, 1, 1, 4))
    assert FREE not in reasons(graph, INTO)


def test_two_channel_dimensions_that_meet_unite():
    """X + xᵀ over (C, C): row k and column k of the sum are channel k."""

    def symmetric(x: Tensor) -> Tensor:
        gram = x.flatten(2) @ x.flatten(2).mT
        return ((gram + gram.mT) / 2 @ x.flatten(2)).view_as(x)

    graph = toy(symmetric)
    assert passes(graph)
