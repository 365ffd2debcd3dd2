"""Views and folds: how labels merge, split and spread."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import gammaslim as gs
from gammaslim.selecting.planning import make_plan
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

SAME = {
    "flatten and back": lambda x: x.flatten(2).view(x.shape),
    "view_as": lambda x: x.flatten(2).view_as(x),
    "reshape of a permuted map": lambda x: x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
    .view(-1, 4, 4, x.shape[1]).permute(0, 3, 1, 2),
    "pixels as a matrix": lambda x: x.reshape(*x.shape[:2], -1).unflatten(-1, (4, 4)),
    "batch and channels merged": lambda x: x.flatten(0, 1).unflatten(0, (-1, x.shape[1])),
    "batch and channels merged by size": lambda x: x.view(-1, 4, 4).view(-1, x.shape[1], 4, 4),
    "size from a name": lambda x: x.view(x.size(0), x.size(1), -1).view(x.size(0), -1, 4, 4),
    "ones added": lambda x: x.view(-1, 1, x.shape[1], 1, 16).view(-1, x.shape[1], 4, 4),
    "tokens": lambda x: x.flatten(2).transpose(1, 2).transpose(1, 2).unflatten(2, (4, 4)),
}  # fmt: skip


@pytest.mark.parametrize("function", SAME.values(), ids=SAME.keys())
def test_views_that_keep_the_channels_apart(function):
    """Every channel is still itself, free and exact."""
    assert passes(toy(function))


# Constants


def test_a_width_written_as_a_constant_freezes_and_names_it():
    """``view(n, 4, ...)`` will ask for four for ever."""
    graph = toy(lambda x: x.view(-1, 4, 16).view(x.shape))
    assert only_reason(graph) == "the size 4 is written as a constant"


def test_the_record_of_a_constant_names_operator_and_line():
    """So that its author finds it."""
    graph = toy(lambda x: x.view(-1, 4, 16).view(x.shape))
    (record,) = (f for f in graph.frozen if "constant" in f.reason)
    assert record.operator == "aten.view"
    assert "test_reshape.py:" in record.source
    assert record.channels == 4


def test_minus_one_follows():
    """The same view with the width left to torch."""
    assert passes(toy(lambda x: x.view(x.shape[0], -1, 16).view(x.shape)))


def test_both_parts_written_as_constants_freeze():
    """``view(n, 2, 2, ...)`` can lose neither."""
    graph = toy(lambda x: x.view(-1, 2, 2, 4, 4).flatten(1, 2))
    assert only_reason(graph) == "the sizes that split it are constants"


def test_flattened_width_written_as_a_constant_freezes():
    """``view(-1, 64)`` holds 4 channels of 16 pixels."""
    model = nn.Sequential()
    model.into, model.norm = nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4)
    model.flat, model.out = Flat64(), nn.Linear(64, 2)
    graph = checked(model, image())
    assert only_reason(graph) == "the size 64 is written as a constant"


class Flat64(nn.Module):
    """A view whose size is a literal."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(-1, 64)


# Splitting one dimension in two


def test_rows_of_a_fixed_number_keep_equal_columns():
    """``view(n, 2, -1, ...)``: channels k and k + 3 of six are column k."""
    graph = toy(lambda x: x.view(-1, 2, x.shape[1] // 2, 4, 4).flatten(1, 2), width=6)
    assert free(graph)
    assert flow(graph) == [(k % 3, k % 3 + 3) for k in range(6)]


def test_columns_of_a_fixed_number_keep_equal_rows():
    """``view(n, -1, 2, ...)``: pairs go together."""
    graph = toy(lambda x: x.unflatten(1, (-1, 2)).flatten(1, 2), width=6)
    assert free(graph)
    assert flow(graph) == [(2 * (k // 2), 2 * (k // 2) + 1) for k in range(6)]


def test_unflatten_with_a_constant_inside_a_followed_size():
    """``unflatten(1, (2, c // 2))`` is the view."""
    graph = toy(lambda x: x.unflatten(1, (2, x.shape[1] // 2)).flatten(1, 2), width=6)
    assert flow(graph) == [(k % 3, k % 3 + 3) for k in range(6)]
    assert free(graph)


def test_unflatten_with_constants_freezes():
    """``unflatten(1, (2, 3))`` can lose neither."""
    graph = toy(lambda x: x.unflatten(1, (2, 3)).flatten(1, 2), width=6)
    assert only_reason(graph) == "the sizes that split it are constants"


def test_shuffle_with_views():
    """Two rows of three, transposed: place 2k holds channel k, place 2k + 1 channel k + 3."""

    def shuffled(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)

    graph = toy(shuffled, width=6)
    assert free(graph)
    assert partners(graph, INTO, INTO) == one_each(*range(6))
    assert flow(graph) == one_each(0, 3, 1, 4, 2, 5)
    (balance,) = graph.arrangement.balances
    assert balance.widths.ravel().tolist() == [6, 4, 2]
    assert balance.quotas.ravel().tolist() == [6, 4, 2]


def test_shuffle_whose_parts_meet_couples_them():
    """Each row minus the mean of both: channels k and k + 3 are no longer apart."""

    def mixed(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        grid = x.view(n, 2, c // 2, h, w)
        return (grid - grid.mean(1, keepdim=True)).transpose(1, 2).reshape(n, c, h, w)

    graph = toy(mixed, width=6)
    assert free(graph)
    assert not graph.arrangement.balances
    assert flow(graph) == [(k // 2, k // 2 + 3) for k in range(6)]


def test_parts_that_meet_in_place_are_coupled():
    """The swapped rows are added into the memory of the six channels themselves."""

    def overwritten(x: Tensor) -> Tensor:
        x = x.clone()
        grid = x.view(x.shape[0], 2, x.shape[1] // 2, 4, 4)
        grid += grid.flip(1)
        return F.channel_shuffle(x, 2)

    graph = toy(overwritten, width=6)
    assert not graph.arrangement.balances
    assert flow(graph) == [(k // 2, k // 2 + 3) for k in range(6)]


def test_inverse_shuffle_with_views():
    """Three rows of two, transposed: first the even channels, then the odd ones."""
    graph = toy(lambda x: x.unflatten(1, (-1, 2)).transpose(1, 2).flatten(1, 2), width=6)
    assert free(graph)
    assert flow(graph) == one_each(0, 2, 4, 1, 3, 5)
    assert graph.arrangement.balances[0].widths.ravel().tolist() == [6, 4, 2]


def test_shuffle_of_fixed_parts_stays():
    """Two channels of padding among the six that are shuffled: only whole columns may go."""

    def padded(x: Tensor) -> Tensor:
        return F.channel_shuffle(F.pad(x, (0, 0, 0, 0, 2, 0)), 2)

    graph = toy(padded, width=4, outputs=6)
    assert not graph.arrangement.balances
    assert flow(graph) == [(), (1,), (), (2,), (0, 3), (0, 3)]


def test_radix_sum_over_rows():
    """Two rows of three are added: three columns, each of channels k and k + 3."""
    graph = toy(lambda x: x.view(-1, 2, x.shape[1] // 2, 4, 4).sum(1), width=6, outputs=3)
    assert free(graph)
    assert all(exact(graph))
    assert flow(graph) == [(0, 3), (1, 4), (2, 5)]


def test_mean_over_split_columns():
    """Pairs are averaged: their number is fixed, so nothing counts channels."""
    graph = toy(lambda x: x.unflatten(1, (-1, 2)).mean(2), width=6, outputs=3)
    assert free(graph)
    assert all(exact(graph))
    assert flow(graph) == [(0, 1), (2, 3), (4, 5)]


def test_two_channel_dimensions_are_not_merged():
    """A gram matrix (C, C) as C² features: a cut would need a cross of them."""

    class Gram(nn.Module):
        def __init__(self):
            super().__init__()
            self.into, self.norm = nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4)
            self.out = nn.Linear(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(self.into(x)).flatten(2)
            return self.out((x @ x.mT).flatten(1))

    graph = checked(Gram(), image())
    assert only_reason(graph) == "4 x 4 channels are one dimension"


def test_channels_and_pixels_merged_and_cut_elsewhere_freeze():
    """(4, 16) as (8, 8): half channels have no place."""
    graph = toy(lambda x: x.reshape(-1, 8, 8).reshape(x.shape))
    assert FREE not in reasons(graph, INTO)


# Folding


def test_pixel_shuffle_folds_four_rows_into_one():
    """Rows 4k … 4k + 3 of the producer are column k of the consumer."""
    graph = toy(nn.PixelShuffle(2), width=8, outputs=2)
    assert free(graph)
    assert flow(graph) == [(0, 1, 2, 3), (4, 5, 6, 7)]
    assert partners(graph, INTO, OUT) == one_each(0, 0, 0, 0, 1, 1, 1, 1)


def test_pixel_unshuffle_spreads_one_row_over_four():
    """Column j of the consumer belongs to row j // 4."""
    graph = toy(nn.PixelUnshuffle(2), outputs=16)
    assert free(graph)
    assert flow(graph) == one_each(*(j // 4 for j in range(16)))


def test_unfold_spreads_each_channel_over_its_window():
    """im2col of 2 × 2: row j of the columns belongs to channel j // 4."""
    graph = toy(lambda x: F.unfold(x, 2).unflatten(2, (3, 3)), outputs=16)
    assert free(graph)
    assert flow(graph) == one_each(*(j // 4 for j in range(16)))


def test_fold_joins_each_window():
    """col2im of 2 × 2: rows 4k … 4k + 3 are channel k."""
    graph = toy(lambda x: F.fold(x.flatten(2)[:, :, :9], (4, 4), 2), width=8, outputs=2)
    assert free(graph)
    assert flow(graph) == [(0, 1, 2, 3), (4, 5, 6, 7)]


def test_channel_shuffle_operator():
    """The same as with views."""
    graph = toy(nn.ChannelShuffle(2), width=6)
    assert free(graph)
    assert flow(graph) == one_each(0, 3, 1, 4, 2, 5)
    assert graph.arrangement.balances[0].widths.ravel().tolist() == [6, 4, 2]


@pytest.mark.parametrize("kept", [[0, 2], [1]])
def test_flattened_blocks_survive_a_cut(kept):
    """The surviving columns are whole blocks of four pixels, in order."""
    model = nn.Sequential(
        nn.Conv2d(3, 3, 1, stride=2, bias=False), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2)
    )
    before = model[3].weight.detach().clone()
    graph = checked(model, image())
    scores = torch.zeros(graph.num_channels).double()
    scores[torch.from_numpy(graph.sites[("0.weight", 0)][kept])] = 1
    import gammaslim as gs

    gs.prune(model, graph, gs.select(graph, scores.numpy(), threshold=0.5))
    columns = [4 * channel + pixel for channel in kept for pixel in range(4)]
    assert torch.equal(model[3].weight, before[:, columns])


def test_toy_itself():
    """The frame of all these tests adds nothing of its own."""
    assert passes(checked(Toy(nn.Identity()), image()))


def test_fixed_dimension_sized_by_channels_keeps_them():
    """Pixels laid out in as many rows as there are channels: the channels must stay as many."""
    graph = toy(lambda x: x + x.sum(1).view(len(x), x.shape[1], 1, 4).mean())
    assert FREE not in reasons(graph, INTO)


def test_view_as_asks_for_the_size_of_its_example():
    """Two maps of one shape, of which the second is laid out as the first: one count, one fate."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
            self.norm, self.head = nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            other = self.second(x).flatten(2).view_as(self.first(x))
            return self.head(self.norm(other))

    graph = gs.trace(Twice(), image())
    assert np.array_equal(graph.sites["second.weight", 0], graph.sites["first.weight", 0])
    assert graph.coverage == 1


def test_two_channel_dimensions_that_merge_freeze():
    """Also where as many dimensions come out as went in."""
    graph = toy(lambda x: x + (x.flatten(2) @ x.flatten(2).mT).view(len(x), 2, 8).mean())
    assert FREE not in reasons(graph, INTO)


# Either whole parts or equal columns


class Heads(nn.Module):
    """Six channels as two parts of three, which a function sees, and as six again."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.into, self.norm = nn.Conv2d(3, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.parts, self.size, self.function = 2, 3, function
        self.out = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.into(x))
        split = x.view(len(x), self.parts, self.size, *x.shape[2:])
        return self.out(self.function(split).reshape(len(x), -1, *x.shape[2:]))


def gone_with_first(graph: gs.ChannelGraph) -> list[int]:
    """Which rows of ``into`` are the same channel as the first."""
    ids = graph.sites[INTO]
    return np.flatnonzero(ids == ids[0]).tolist()


def test_columns_go_where_both_could():
    """Three columns are more to choose from than two parts; the width becomes 2, the parts stay."""
    model = Heads(torch.relu)
    graph = checked(model, image())
    assert gone_with_first(graph) == [0, 3]
    keep = np.ones(graph.num_channels, dtype=np.bool_)
    keep[graph.sites[INTO][0]] = False
    assert make_plan(graph, keep).attributes["size"] == 2
    assert "parts" not in make_plan(graph, keep).attributes


def test_whole_parts_go_where_columns_are_held():
    """A factor computed from the size keeps it; then the first three channels go together."""
    model = Heads(lambda x: x * x.shape[2] ** -0.5)
    graph = checked(model, image())
    assert gone_with_first(graph) == [0, 1, 2]
    assert graph.coverage == 1
    keep = np.ones(graph.num_channels, dtype=np.bool_)
    keep[graph.sites[INTO][0]] = False
    assert make_plan(graph, keep).attributes["parts"] == 1


def test_neither_goes_where_both_are_held():
    """Factors computed from both sizes keep all."""
    graph = checked(Heads(lambda x: x * (x.shape[1] ** -0.5 + x.shape[2] ** -0.5)), image())
    assert FREE not in reasons(graph, INTO)


def test_parts_that_are_one_dimension_again_in_the_other_order():
    """(2, 3) as (3, 2) is a shuffle: any one of each part may go, and the width becomes 2."""
    model = Heads(lambda x: x.transpose(1, 2))
    graph = checked(model, image())
    assert gone_with_first(graph) == [0]
    assert graph.coverage == 1
    keep = np.ones(graph.num_channels, dtype=np.bool_)
    keep[graph.sites[INTO][[0, 5]]] = False
    assert make_plan(graph, keep).attributes["size"] == 2
