"""Normalisations and softmax: what they tie, and where numbers of channels matter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import gammaslim as gs
from tests.rules.helper import (
    INTO,
    OUT,
    Toy,
    checked,
    exact,
    flow,
    free,
    image,
    one_each,
    only_reason,
    partners,
    passes,
    toy,
)


def channels_last(module: nn.Module) -> nn.Module:
    """A module over the last dimension, applied to channels."""

    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = module

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x.movedim(1, -1)).movedim(-1, 1)

    return Last()


# BatchNorm


def test_batch_norm_holds_one_scale_per_channel():
    """A second BatchNorm in a row gives every channel a second scale."""
    graph = toy(nn.BatchNorm2d(4))
    assert passes(graph)
    assert graph.scales == ("norm.weight", "function.weight")
    (group,) = (g for g in graph.groups if g.prunable)
    assert group.scales == ("norm.weight", "function.weight")
    assert (group.name, group.width) == ("norm", 4)


def test_batch_norm_without_weights_holds_no_scale():
    """Its statistics are cut along all the same."""
    graph = toy(nn.BatchNorm2d(4, affine=False))
    assert passes(graph)
    assert graph.scales == ("norm.weight",)
    assert partners(graph, ("function.running_mean", 0), INTO) == one_each(0, 1, 2, 3)


def test_batch_norm_without_statistics():
    """Normalises by each batch in both modes; has nothing but scale and shift."""
    graph = toy(nn.BatchNorm2d(4, track_running_stats=False))
    assert passes(graph)
    assert "function.running_mean" not in graph.shapes


def test_counter_of_batches_is_no_site():
    """A tensor without dimensions has no channels."""
    graph = toy(nn.Identity())
    assert graph.shapes["norm.num_batches_tracked"] == ()
    assert not [site for site in graph.sites if site[0] == "norm.num_batches_tracked"]


def test_subclass_of_batch_norm():
    """Only the operator counts, not the type."""

    class Activated(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).relu()

    graph = toy(Activated(4))
    assert passes(graph)
    assert "function.weight" in graph.scales


def test_instance_norm_treats_each_channel_by_itself():
    """It is a BatchNorm over batch times channels."""
    graph = toy(nn.InstanceNorm2d(4, affine=True))
    assert passes(graph)
    assert partners(graph, ("function.weight", 0), INTO) == one_each(0, 1, 2, 3)


# LayerNorm and GroupNorm


def test_layer_norm_over_channels_counts_them():
    """Its weight and bias belong to the channels, which may go inexactly."""
    graph = toy(channels_last(nn.LayerNorm(4)))
    assert free(graph)
    assert exact(graph) == [False] * 4
    for name in ("function.inner.weight", "function.inner.bias"):
        assert partners(graph, (name, 0), INTO) == one_each(0, 1, 2, 3)
    assert flow(graph) == one_each(0, 1, 2, 3)


def test_layer_norm_s_shape_follows():
    """The module's ``normalized_shape`` is a tuple and is rewritten as one."""
    torch.manual_seed(0)
    model = Toy(channels_last(nn.LayerNorm(4)))
    with torch.no_grad():
        model.norm.weight[1] = 0.1
    graph = gs.trace(model, image())
    gs.prune(model, graph, gs.select(graph, gs.scores(model, graph), threshold=0.5))
    assert model.function.inner.normalized_shape == (3,)


def test_layer_norm_over_pixels_lets_channels_pass():
    """Each channel has its own statistics."""
    graph = toy(nn.LayerNorm([4, 4]))
    assert passes(graph)


def test_layer_norm_over_channels_and_pixels():
    """A weight of shape (4, 4, 4): its first dimension is the channels'."""
    graph = toy(nn.LayerNorm([4, 4, 4]))
    assert free(graph)
    assert exact(graph) == [False] * 4
    assert partners(graph, ("function.weight", 0), INTO) == one_each(0, 1, 2, 3)
    assert only_reason(graph, ("function.weight", 1)) != ""


def test_layer_norm_without_weight():
    """Nothing to cut, but the count still matters."""
    graph = toy(channels_last(nn.LayerNorm(4, elementwise_affine=False)))
    assert exact(graph) == [False] * 4


def test_rms_norm_over_channels_counts_them():
    """A root of a mean over channels."""
    graph = toy(channels_last(nn.RMSNorm(4)))
    assert free(graph)
    assert exact(graph) == [False] * 4
    assert partners(graph, ("function.inner.weight", 0), INTO) == one_each(0, 1, 2, 3)


def test_group_norm_keeps_its_groups_equal():
    """Two groups of three: the k-th of both goes, and statistics count."""
    graph = toy(nn.GroupNorm(2, 6), width=6)
    assert free(graph)
    assert exact(graph) == [False] * 6
    assert flow(graph) == [(k % 3, k % 3 + 3) for k in range(6)]
    assert partners(graph, ("function.weight", 0), INTO) == flow(graph)


def test_group_norm_of_one_group_ties_nothing():
    """All channels share one mean."""
    graph = toy(nn.GroupNorm(1, 4))
    assert free(graph)
    assert exact(graph) == [False] * 4
    assert flow(graph) == one_each(0, 1, 2, 3)


def test_exact_trace_keeps_what_counts():
    """``exact=True`` freezes such channels, with its own words."""
    model = Toy(nn.GroupNorm(1, 4))
    with_words = gs.trace(model, image(), exact=True)
    assert only_reason(with_words) == (
        "some operator depends on how many of these channels there are"
    )
    assert with_words.coverage == 0


# Softmax and attention


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_over_channels_counts_them(name):
    """Every channel is in the denominator."""
    function = getattr(F, name)
    graph = toy(lambda x: function(x, dim=1))
    assert free(graph)
    assert exact(graph) == [False] * 4
    assert flow(graph) == one_each(0, 1, 2, 3)


def test_softmax_over_pixels_lets_channels_pass():
    """The channel is a bystander."""
    graph = toy(lambda x: x.flatten(2).softmax(-1).view_as(x))
    assert passes(graph)


class Attention(nn.Module):
    """One head over pixels, with separate matrices for query, key and value."""

    def __init__(self, *, heads: bool = True, **options):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(3, 4, bias=False) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm1d(4) for _ in range(3))
        self.out = nn.Linear(4, 2)
        self.heads, self.options = heads, options

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2)
        layers = zip((self.query, self.key, self.value), self.norms, strict=True)
        query, key, value = (norm(layer(x.mT).mT).mT for layer, norm in layers)
        if self.heads:
            query, key, value = (one.unsqueeze(1) for one in (query, key, value))
        attended = F.scaled_dot_product_attention(query, key, value, **self.options)
        return self.out(attended.squeeze(1) if self.heads else attended)


WORDS = "the default attention scale depends on the feature size"


def check_default_scale(graph: gs.ChannelGraph) -> None:
    """Query and key keep their features; the value's may go."""
    assert only_reason(graph, ("query.weight", 0)) == WORDS
    assert only_reason(graph, ("key.weight", 0)) == WORDS
    assert free(graph, ("value.weight", 0))
    assert partners(graph, OUT, ("value.weight", 0)) == one_each(0, 1, 2, 3)


def test_default_attention_scale_depends_on_the_feature_size():
    """1 / √d changes with d."""
    # With fewer features in the value, torch takes another kernel, whose products are counted.
    check_default_scale(checked(Attention(heads=True), image(), counted=False))


@pytest.mark.parametrize(
    "options",
    [
        {"heads": False},
        {"heads": True, "is_causal": True, "enable_gqa": True},
        {"heads": True, "attn_mask": torch.ones(16, 16, dtype=torch.bool)},
    ],
    ids=["without heads", "grouped queries", "mask"],
)
def test_default_attention_scale_on_other_paths(options):
    """Whatever kernel torch takes, 1 / √d changes with d."""
    check_default_scale(checked(Attention(**options), image()))


@pytest.mark.parametrize("heads", [True, False])
def test_given_attention_scale_sets_the_features_free(heads):
    """The k-th feature of query and key go together; zeros add nothing to their product."""
    graph = checked(Attention(heads=heads, scale=0.5), image())
    query, key, value = (("query.weight", 0), ("key.weight", 0), ("value.weight", 0))
    assert free(graph, query)
    assert free(graph, value)
    assert partners(graph, query, key) == one_each(0, 1, 2, 3)
    assert partners(graph, query, value) == [()] * 4
    assert all(exact(graph, query))


def test_cost_of_attention():
    """q kᵀ over 16 × 16 pixels and 4 features, and as much again for the values."""
    graph = gs.trace(Attention(heads=True, scale=0.5), image())
    assert graph.cost().macs == 2 * 16 * (3 * 3 * 4 + 4 * 2) + 2 * (2 * 16 * 16 * 4)
