"""Reductions, pooling and resampling; operators along channels; operators without a rule."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tests.rules.helper import exact, flow, free, one_each, only_reason, passes, toy


def gated(reduce):
    """The map times something reduced over its channels to one."""
    return lambda x: x * reduce(x).sigmoid()


COUNTING = {
    "mean": lambda x: x.mean(1, keepdim=True),
    "amax": lambda x: x.amax(1, keepdim=True),
    "amin": lambda x: x.amin(1, keepdim=True),
    "max": lambda x: x.max(1, keepdim=True).values,
    "min": lambda x: x.min(1, keepdim=True)[0],
    "var": lambda x: x.var(1, keepdim=True),
    "std": lambda x: x.std(1, keepdim=True),
    "logsumexp": lambda x: x.logsumexp(1, keepdim=True),
    "prod": lambda x: x.prod(1, keepdim=True),
    "mean of everything": lambda x: x.mean(),
    "sum of what is not zero": lambda x: x.sigmoid().sum(1, keepdim=True),
    "norm of what is not zero": lambda x: (x + 1).norm(dim=1, keepdim=True),
}


@pytest.mark.parametrize("reduce", COUNTING.values(), ids=COUNTING.keys())
def test_reductions_that_depend_on_the_number_of_channels(reduce):
    """Channels may go, but are marked inexact."""
    graph = toy(gated(reduce))
    assert free(graph)
    assert exact(graph) == [False] * 4
    assert flow(graph) == one_each(0, 1, 2, 3)


EXACT = {
    "sum": lambda x: x.sum(1, keepdim=True),
    "sum of relu": lambda x: x.relu().sum(1, keepdim=True),
    "sum of product": lambda x: (x * x.sigmoid()).sum(1, keepdim=True),
    "norm": lambda x: x.norm(dim=1, keepdim=True),
    "sum of everything": lambda x: x.sum(),
    "squares": lambda x: x.square().sum(1, keepdim=True),
}


@pytest.mark.parametrize("reduce", EXACT.values(), ids=EXACT.keys())
def test_sums_of_masked_zeros_are_exact(reduce):
    """A removed channel is zero after its BatchNorm and adds nothing."""
    assert passes(toy(gated(reduce)))


SPATIAL = {
    "mean": lambda x: x.mean((2, 3), keepdim=True),
    "mean without keepdim": lambda x: x.mean((2, 3))[:, :, None, None],
    "amax": lambda x: x.amax((-1, -2), keepdim=True),
    "sum": lambda x: x.sum(-1, keepdim=True),
    "std": lambda x: x.std((2, 3), keepdim=True),
    "max pool": lambda x: F.max_pool2d(x, 2),
    "max pool with indices": lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
    "average pool": lambda x: F.avg_pool2d(x, 2),
    "adaptive average pool": lambda x: F.adaptive_avg_pool2d(x, 2),
    "adaptive max pool": lambda x: F.adaptive_max_pool2d(x, 1),
    "pool of two sizes": lambda x: F.adaptive_avg_pool2d(x, (3, 2)),
    "pool 1d": lambda x: F.avg_pool1d(x.flatten(2), 4).unsqueeze(-1),
    "nearest": lambda x: F.interpolate(x, scale_factor=2),
    "bilinear": lambda x: F.interpolate(x, (6, 5), mode="bilinear"),
    "bicubic": lambda x: F.interpolate(x, (6, 5), mode="bicubic"),
    "reflect": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "replicate": lambda x: F.pad(x, (1, 1, 1, 1), mode="replicate"),
    "zero padding": lambda x: F.pad(x, (1, 1, 1, 1)),
    "cumulative sum": lambda x: x.cumsum(-1),
    "sort": lambda x: x.sort(dim=2).values,
    "topk": lambda x: x.topk(2, dim=-1).values,
    "softmin": lambda x: F.softmin(x, dim=-1),
}


@pytest.mark.parametrize("function", SPATIAL.values(), ids=SPATIAL.keys())
def test_what_runs_over_pixels_lets_channels_pass(function):
    """The channel is a bystander, and stays so."""
    assert passes(toy(function))


def test_circular_padding_lets_channels_pass():
    """As in ``nn.Conv2d(..., padding_mode="circular")``."""
    assert passes(toy(lambda x: F.pad(x, (1, 1, 1, 1), mode="circular")))


def test_pooling_over_channels_freezes():
    """Channels as the length of a 1-D pooling."""

    def pooled(x: Tensor) -> Tensor:
        return F.max_pool1d(x.permute(0, 2, 3, 1).flatten(1, 2), 2).mT.unflatten(2, (4, 4))

    graph = toy(pooled, outputs=2)
    assert only_reason(graph) == "channels run along a spatial dimension"


ALONG = {
    "cumsum": lambda x: x.cumsum(1),
    "cumprod": lambda x: x.cumprod(1),
    "sort": lambda x: x.sort(dim=1).values,
    "topk": lambda x: x.topk(4, dim=1).values,
    "cummax": lambda x: x.cummax(1).values,
    "logcumsumexp": lambda x: x.logcumsumexp(1),
}


@pytest.mark.parametrize(("name", "function"), ALONG.items(), ids=ALONG.keys())
def test_what_runs_along_channels_keeps_them(name, function):
    """The order of the channels matters."""
    assert only_reason(toy(function)) == f"aten.{name} runs along the channels"


class Named(nn.Module):
    """An operator without a rule, in a module with a name."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


UNKNOWN = {
    "aten.renorm": lambda x: torch.renorm(x, 2, 1, 1.0),
    "aten._linalg_det": lambda x: x * torch.linalg.det(x)[:, :, None, None],
}


@pytest.mark.parametrize(("name", "function"), UNKNOWN.items(), ids=UNKNOWN.keys())
def test_unknown_operator_freezes_and_is_named(name, function):
    """Never taken for elementwise; the report says which one, where, and what it costs."""
    graph = toy(Named(function))
    words = [group.reason for group in graph.groups for _ in group.channels]
    assert only_reason(graph) == f"unknown operator {name}"
    (record,) = (f for f in graph.frozen if f.reason.startswith("unknown operator"))
    assert record.operator == name
    assert record.module == "function"
    assert record.channels == words.count(record.reason) >= 4
    assert "test_reductions.py:" in record.source


def test_what_an_unknown_operator_returns_is_fixed_for_the_same_reason():
    """The consumer's columns are kept as well, with the same words."""
    graph = toy(Named(UNKNOWN["aten.renorm"]))
    assert only_reason(graph, ("out.weight", 1)) == "unknown operator aten.renorm"
