"""Convolutions, matrix products and lookups: what contracts with what, and what it costs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import gammaslim as gs
from gammaslim.channels.graph import Cut
from tests.rules.helper import (
    FREE,
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
    reasons,
    toy,
)

LAST = "removing it would leave nothing of a dimension"


class Weighted(nn.Module):
    """A function of the feature map and one parameter of its own."""

    def __init__(self, function, *shape: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.weight)


class Flat(nn.Module):
    """The same two-layer net on vectors."""

    def __init__(self, function, width: int = 4, outputs: int = 0):
        super().__init__()
        self.into = nn.Linear(3, width, bias=False)
        self.norm = nn.BatchNorm1d(width)
        self.function = function
        self.out = nn.Linear(outputs or width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.function(self.norm(self.into(x))))


# Convolutions


def test_two_convolutions_share_the_channels_between_them():
    """Rows of one, all BatchNorm tensors and columns of the other; the ends are fixed."""
    graph = toy(nn.Identity())
    assert passes(graph)
    for name in ("weight", "bias", "running_mean", "running_var"):
        assert partners(graph, (f"norm.{name}", 0), INTO) == one_each(0, 1, 2, 3)
    assert reasons(graph, ("into.weight", 1)) == ["network input"] * 3
    assert reasons(graph, ("out.weight", 0)) == ["network output"] * 2
    assert graph.scales == ("norm.weight",)
    assert graph.shifts == {"norm.weight": "norm.bias"}
    assert graph.coverage == 1


def test_cost_of_two_convolutions():
    """Rows × columns × kernel × batch × pixels; the cut halves both."""
    graph = toy(nn.Identity())
    assert graph.cost() == gs.Cost(macs=4 * 3 * 32 + 2 * 4 * 32, params=4 * 3 + 2 * 4 + 2 * 4 + 2)
    keep = graph.prunable.copy()
    keep[:] = True
    keep[graph.sites[INTO][:2]] = False
    assert Cut(graph, keep).cost == gs.Cost(macs=2 * 3 * 32 + 2 * 2 * 32, params=6 + 4 + 4 + 2)


def test_a_bias_lives_with_its_row():
    """y[o] = Σ w[o, i] x[i] + b[o]."""
    graph = toy(nn.Conv2d(4, 3, 1), outputs=3)
    assert partners(graph, ("function.bias", 0), ("function.weight", 0)) == one_each(0, 1, 2)
    assert partners(graph, OUT, ("function.weight", 0)) == one_each(0, 1, 2)
    assert partners(graph, ("function.weight", 1), INTO) == one_each(0, 1, 2, 3)


def test_kernel_and_stride_enter_the_cost_and_carry_no_channel():
    """A 3 × 3 kernel at stride 2 turns 4 × 4 into 2 × 2 pixels."""
    graph = toy(nn.Conv2d(4, 5, 3, stride=2, padding=1, bias=False), outputs=5)
    assert ("function.weight", 2) not in graph.sites
    assert ("function.weight", 3) not in graph.sites
    assert graph.cost().macs == 4 * 3 * 32 + 5 * 4 * 9 * 8 + 2 * 5 * 8


def test_no_kernel_size_is_a_channel():
    """Three colours, two layers of 4 and 5 channels, two results; nothing of the 3 × 3 kernels."""
    layers = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5))
    graph = gs.trace(nn.Sequential(*layers, nn.Conv2d(5, 2, 3)), torch.zeros(1, 3, 9, 9))
    assert graph.num_channels == 3 + 4 + 5 + 2
    assert {str(one) for one in graph.frozen} == {"network output", "network input"}


def test_channels_along_which_a_convolution_runs_are_frozen_and_counted():
    """ECA gates each channel by its neighbours: these stay, and coverage says so."""

    def gate(x: Tensor, kernel: Tensor) -> Tensor:
        weights = F.conv1d(x.mean((2, 3))[:, None], kernel, padding=1)
        return x * torch.sigmoid(weights).transpose(1, 2)[..., None]

    layers = Toy(Weighted(gate, 1, 1, 3)), nn.Conv2d(2, 6, 1), nn.BatchNorm2d(6), nn.Conv2d(6, 2, 1)
    graph = checked(nn.Sequential(*layers), image())
    assert graph.coverage == 6 / (4 + 6)
    assert only_reason(graph, ("0.norm.weight", 0)) == "a convolution runs along it"
    stuck = next(one for one in graph.frozen if one.scales)
    assert (stuck.channels, stuck.scales, stuck.operator) == (4, 4, "aten.convolution")
    assert ("0.function.weight", 2) not in graph.sites


@pytest.mark.parametrize(
    ("convolution", "norm", "shape"),
    [(nn.Conv1d, nn.BatchNorm1d, (2, 3, 6)), (nn.Conv3d, nn.BatchNorm3d, (2, 3, 2, 2, 2))],
    ids=["1d", "3d"],
)
def test_other_dimensions(convolution, norm, shape):
    """One rule for one, two and three spatial dimensions."""
    model = nn.Sequential(convolution(3, 4, 1), norm(4), convolution(4, 2, 1))
    graph = checked(model, torch.randn(shape))
    assert free(graph, ("0.weight", 0))
    assert partners(graph, ("2.weight", 1), ("0.weight", 0)) == one_each(0, 1, 2, 3)
    places = torch.Size(shape).numel() // 3
    assert graph.cost().macs == places * (3 * 4 + 4 * 2)


def test_transposed_convolution_has_its_columns_first():
    """The weight is (inputs, outputs, ...), and each input pixel is multiplied once."""
    graph = toy(nn.ConvTranspose2d(4, 3, 2, stride=2), outputs=3)
    assert partners(graph, ("function.weight", 0), INTO) == one_each(0, 1, 2, 3)
    assert partners(graph, OUT, ("function.weight", 1)) == one_each(0, 1, 2)
    assert partners(graph, ("function.bias", 0), ("function.weight", 1)) == one_each(0, 1, 2)
    assert graph.cost().macs == 4 * 3 * 32 + 4 * 3 * 4 * 32 + 2 * 3 * 2 * 64


# Grouped convolutions


def test_depthwise_unites_input_and_output():
    """Group k is channel k."""
    graph = toy(nn.Conv2d(4, 4, 3, padding=1, groups=4))
    assert passes(graph)
    assert partners(graph, ("function.weight", 0), INTO) == one_each(0, 1, 2, 3)
    assert ("function.weight", 1) not in graph.sites


def test_depthwise_with_a_multiplier():
    """Input k makes outputs 2k and 2k + 1, and all three go together."""
    graph = toy(nn.Conv2d(4, 8, 1, groups=4), outputs=8)
    assert free(graph)
    assert flow(graph) == one_each(0, 0, 1, 1, 2, 2, 3, 3)


def test_more_groups_than_columns_go_as_whole_groups():
    """Five groups of two: whole groups leave five channels, equal columns only two."""
    graph = toy(nn.Conv2d(10, 10, 1, groups=5), width=10)
    pairs = [(2 * (k // 2), 2 * (k // 2) + 1) for k in range(10)]
    assert free(graph)
    assert flow(graph) == pairs
    assert partners(graph, ("function.weight", 0), INTO) == pairs
    assert only_reason(graph, ("function.weight", 1)) == "grouped convolution with 5 groups"


def test_more_columns_than_groups_go_as_equal_columns():
    """Two groups of three: column k of both groups, for inputs and outputs apart."""
    graph = toy(nn.Conv2d(6, 6, 1, groups=2), width=6)
    assert free(graph)
    assert partners(graph, INTO, INTO) == [(k % 3, k % 3 + 3) for k in range(6)]
    assert partners(graph, ("function.weight", 1), INTO) == [(0, 3), (1, 4), (2, 5)]
    assert partners(graph, OUT, ("function.weight", 0)) == [(k % 3, k % 3 + 3) for k in range(6)]
    assert flow(graph) == [()] * 6


def test_whole_groups_set_the_module_s_numbers():
    """Two of five groups go: groups 3, channels 6."""
    torch.manual_seed(0)
    model = Toy(nn.Conv2d(10, 10, 1, groups=5), 10)
    with torch.no_grad():
        model.norm.weight.copy_(torch.tensor([1.0, 1, 0.1, 0.1, 1, 1, 1, 1, 0.1, 0.1]))
    graph = gs.trace(model, image())
    gs.prune(model, graph, gs.select(graph, gs.scores(model, graph), threshold=0.5))
    middle = model.function
    assert (middle.groups, middle.in_channels, middle.out_channels) == (3, 6, 6)
    assert tuple(middle.weight.shape) == (6, 2, 1, 1)


def test_equal_columns_keep_the_number_of_groups():
    """One of three columns goes from both groups."""
    torch.manual_seed(0)
    model = Toy(nn.Conv2d(6, 6, 1, groups=2), 6)
    with torch.no_grad():
        model.norm.weight.copy_(torch.tensor([1.0, 0.1, 1, 1, 0.1, 1]))
    graph = gs.trace(model, image())
    gs.prune(model, graph, gs.select(graph, gs.scores(model, graph), threshold=0.5))
    middle = model.function
    assert (middle.groups, middle.in_channels, middle.out_channels) == (2, 4, 6)
    assert tuple(middle.weight.shape) == (6, 2, 1, 1)


def test_groups_written_in_the_code_cannot_change():
    """F.conv2d(..., groups=4) stays at four groups, of one column each: nothing may go."""
    depthwise = Weighted(lambda x, w: F.conv2d(x, w, groups=4), 4, 1, 1, 1)
    graph = toy(depthwise)
    assert only_reason(graph) == LAST


def test_transposed_grouped_convolution_goes_as_whole_groups():
    """The weight's first dimension is the inputs'; group k of the inputs makes group k."""
    graph = toy(nn.ConvTranspose2d(10, 10, 1, groups=5), width=10)
    pairs = [(2 * (k // 2), 2 * (k // 2) + 1) for k in range(10)]
    assert free(graph)
    assert flow(graph) == pairs
    assert partners(graph, ("function.weight", 0), INTO) == pairs


def test_cost_of_a_grouped_convolution():
    """Each output reads the columns of its own group."""
    graph = toy(nn.Conv2d(6, 6, 1, groups=2, bias=False), width=6)
    assert graph.cost().macs == (6 * 3 + 6 * 3 + 2 * 6) * 32


# Matrix products


def test_flattened_channels_meet_blocks_of_columns():
    """4 channels of 2 × 2 pixels: column j of the matrix belongs to channel j // 4."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1, stride=2, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2)
    )
    graph = checked(model, image())
    assert partners(graph, ("3.weight", 1), ("0.weight", 0)) == one_each(
        *(j // 4 for j in range(16))
    )
    assert graph.cost().macs == 4 * 3 * 8 + 2 * 16 * 2


def test_linear_layers_on_vectors():
    """Y = x Wᵀ + b with and without bias."""
    graph = checked(Flat(nn.Linear(4, 3), outputs=3), torch.randn(5, 3))
    assert partners(graph, ("function.weight", 1), INTO) == one_each(0, 1, 2, 3)
    assert partners(graph, ("function.bias", 0), ("function.weight", 0)) == one_each(0, 1, 2)
    assert partners(graph, OUT, ("function.weight", 0)) == one_each(0, 1, 2)
    assert graph.cost() == gs.Cost(macs=5 * (12 + 12 + 6), params=12 + 8 + 15 + 8)


def test_linear_layer_over_the_last_of_many_dimensions():
    """Channels last: batch and pixels only count."""

    class Last(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    graph = toy(Last(4, 3), outputs=3)
    assert free(graph)
    assert all(exact(graph))
    assert graph.cost().macs == 32 * (12 + 12 + 6)


@pytest.mark.parametrize(
    "multiply",
    [
        lambda x, w: torch.einsum("nchw,cd->ndhw", x, w),
        lambda x, w: torch.matmul(x.movedim(1, -1), w).movedim(-1, 1),
        lambda x, w: torch.tensordot(x, w, ([1], [0])).movedim(-1, 1),
    ],
    ids=["einsum", "matmul", "tensordot"],
)
def test_a_parameter_as_a_matrix(multiply):
    """Its first dimension is summed over, its second is new."""
    graph = toy(Weighted(multiply, 4, 3), outputs=3)
    assert free(graph)
    assert partners(graph, ("function.weight", 0), INTO) == one_each(0, 1, 2, 3)
    assert partners(graph, OUT, ("function.weight", 1)) == one_each(0, 1, 2)


def test_product_over_channels_of_two_maps():
    """qᵀ k over channels: removed ones are zero and add nothing, so the sum is exact."""
    graph = toy(lambda x: x * (x.flatten(2).mT @ x.flatten(2)).mean(2).view(-1, 1, 4, 4))
    assert passes(graph)


def test_product_over_channels_that_are_not_zero():
    """A sigmoid makes 0.5 of a removed channel: the sum depends on how many there are."""

    def similar(x: Tensor) -> Tensor:
        x = x.sigmoid()
        return x * (x.flatten(2).mT @ x.flatten(2)).mean(2).view(-1, 1, 4, 4)

    graph = toy(similar)
    assert free(graph)
    assert not any(exact(graph))


def test_batches_of_matrices_unite_by_batch():
    """The channel as batch: map k times matrix k."""
    graph = toy(Weighted(lambda x, w: torch.einsum("nchw,chd->ncdw", x, w), 4, 4, 4))
    assert flow(graph) == one_each(0, 1, 2, 3)
    assert partners(graph, ("function.weight", 0), INTO) == one_each(0, 1, 2, 3)
    assert free(graph)


def test_cost_of_a_product_of_two_maps():
    """(2, 16, 4) times (2, 4, 16): 2 · 16 · 4 · 16."""
    graph = toy(lambda x: x * (x.flatten(2).mT @ x.flatten(2)).mean(2).view(-1, 1, 4, 4))
    assert graph.cost().macs == (12 + 8) * 32 + 2 * 16 * 4 * 16


# Others


class Words(nn.Module):
    """An embedding of seven words, normalised and read out."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(7, 4)
        self.norm = nn.BatchNorm1d(4)
        self.out = nn.Linear(4, 2)

    def forward(self, words: Tensor) -> Tensor:
        return self.out(self.norm(self.table(words)))


def test_embedding_rows_stay_and_columns_go():
    """Rows are looked up by number; columns are channels like any other."""
    graph = checked(Words(), torch.tensor([0, 3, 6]))
    rows, columns = ("table.weight", 0), ("table.weight", 1)
    assert only_reason(graph, rows) == "rows of an embedding table are looked up by index"
    assert free(graph, columns)
    assert partners(graph, OUT, columns) == one_each(0, 1, 2, 3)


def test_weight_norm_keeps_magnitude_and_direction_together():
    """W = g · v / ‖v‖ with one g per row."""
    graph = toy(nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 3, 1)), outputs=3)
    prefix = "function.parametrizations.weight.original"
    assert free(graph)
    assert partners(graph, (f"{prefix}0", 0), (f"{prefix}1", 0)) == one_each(0, 1, 2)
    assert partners(graph, (f"{prefix}1", 1), INTO) == one_each(0, 1, 2, 3)
    assert partners(graph, OUT, (f"{prefix}1", 0)) == one_each(0, 1, 2)


def test_weight_standardisation_counts_the_columns():
    """A row's mean and deviation run over its columns: they may go, inexactly."""

    def standardised(x: Tensor, w: Tensor) -> Tensor:
        spread = w.std((1, 2, 3), keepdim=True) + 1e-3
        return F.conv2d(x, (w - w.mean((1, 2, 3), keepdim=True)) / spread)

    graph = toy(Weighted(standardised, 3, 4, 1, 1), outputs=3)
    assert reasons(graph, INTO) == [FREE] * 4
    assert not any(exact(graph))
    assert partners(graph, OUT, ("function.weight", 0)) == one_each(0, 1, 2)
    assert all(exact(graph, OUT))


def test_addbmm_sums_over_its_batch():
    """b + Σ_n x[n] y[n]: channels that number the products count, as those of a sum do."""

    def summed(x: Tensor) -> Tensor:
        products = x[0].flatten(1).unsqueeze(2)  # channels, pixels, 1
        total = torch.addbmm(torch.zeros(16, 16), products, products.mT)
        return total.view(1, 1, 16, 16)

    graph = toy(summed, outputs=1)
    assert free(graph)
    assert not any(exact(graph))
