"""Operators that move, join, cut and repeat; and sizes that the code computes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tests.rules.helper import (
    FREE,
    INTO,
    NO_CHANNEL,
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

BY_POSITION = "single channels are taken by their position"
CONSTANT_POSITIONS = "channels are taken by constant positions"
ARITHMETIC = "its size enters arithmetic that cannot be followed"


class Two(nn.Module):
    """Two producers of three and two channels."""

    def __init__(self, function, outputs: int):
        super().__init__()
        self.into, self.norm = nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3)
        self.other, self.other_norm = nn.Conv2d(3, 2, 1, bias=False), nn.BatchNorm2d(2)
        self.function = function
        self.out = nn.Conv2d(outputs, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.norm(self.into(x)), self.other_norm(self.other(x))
        return self.out(self.function(x, left, right))


OTHER = ("other.weight", 0)

# Moving

MOVES = {
    "permute": lambda x: x.permute(0, 2, 3, 1).permute(0, 3, 1, 2),
    "transpose": lambda x: x.transpose(1, 3).transpose(1, 3),
    "swapaxes": lambda x: x.swapaxes(0, 1).swapaxes(0, 1),
    "movedim": lambda x: x.movedim(1, -1).movedim(-1, 1),
    "mT": lambda x: x.mT.mT,
    "T": lambda x: x[:, :, 0, 0].T.T[:, :, None, None],
    "unsqueeze": lambda x: x.unsqueeze(1).squeeze(1),
    "squeeze everything": lambda x: x[..., None].squeeze(),
    "index with None": lambda x: x[:, None][:, 0],
    "slice of pixels": lambda x: x[:, :, 1:3, ::2],
    "ellipsis": lambda x: x[..., 1:2],
    "flip of pixels": lambda x: x.flip(2, 3),
    "roll of pixels": lambda x: x.roll(1, -1),
    "focus": lambda x: x[..., ::2, ::2] + x[..., 1::2, 1::2],
    "chunks of pixels": lambda x: torch.cat(x.chunk(2, 3)[::-1], 3),
    "stacked and summed": lambda x: torch.stack([x, 2 * x]).sum(0),
    "stacked behind": lambda x: torch.stack([x, x], -1).mean(-1),
    "expand of a pooled map": lambda x: x + x.mean((2, 3), keepdim=True).expand(-1, -1, 4, 4),
    "expand_as": lambda x: x * x.mean((2, 3), keepdim=True).expand_as(x),
    "repeat of pixels": lambda x: x.mean((2, 3), keepdim=True).repeat(1, 1, 4, 4),
    "index of pixels": lambda x: x[:, :, [0, 2]],
    "index_select of pixels": lambda x: x.index_select(3, torch.tensor([0, 2])),
    "all channels": lambda x: x[:, 0 : x.shape[1]],
}


@pytest.mark.parametrize("function", MOVES.values(), ids=MOVES.keys())
def test_moves_let_channels_pass(function):
    """Each channel stays itself, free and exact."""
    assert passes(toy(function))


def test_flip_reverses():
    """Column k belongs to row 3 - k."""
    graph = toy(lambda x: x.flip(1))
    assert free(graph)
    assert flow(graph) == one_each(3, 2, 1, 0)


def test_roll_of_channels_freezes():
    """After a cut another channel would be first."""
    assert only_reason(toy(lambda x: x.roll(1, 1))) == "channels are rolled by a constant"


# Joining


def test_cat_offsets_the_columns():
    """Columns 0, 1, 2 are the first producer's rows, columns 3, 4 the second's."""
    graph = checked(Two(lambda _, a, b: torch.cat((a, b), 1), 5), image())
    assert free(graph)
    assert free(graph, OTHER)
    assert flow(graph) == [*one_each(0, 1, 2), (), ()]
    assert partners(graph, OUT, OTHER) == [(), (), (), *one_each(0, 1)]


def test_cat_of_a_map_with_itself():
    """Row k has two columns."""
    graph = toy(lambda x: torch.cat((x, x.relu()), 1), outputs=8)
    assert free(graph)
    assert flow(graph) == one_each(0, 1, 2, 3, 0, 1, 2, 3)


def test_cat_with_the_input():
    """The columns that read the picture stay, with its reason; the others go."""
    graph = checked(Two(lambda x, a, b: torch.cat((x, a, b), 1), 8), image())
    assert reasons(graph, OUT) == ["network input"] * 3 + [FREE] * 5
    assert free(graph)
    assert flow(graph)[3:6] == one_each(0, 1, 2)


def test_cat_along_pixels_unites_channels():
    """Two maps of the same width beside each other."""
    graph = toy(lambda x: torch.cat((x, x.sigmoid()), 3))
    assert passes(graph)


def test_cat_into_a_depthwise_convolution():
    """Channels of both producers go one by one through the same module."""

    class Depthwise(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(5, 5, 1, groups=5)

        def forward(self, _x: Tensor, a: Tensor, b: Tensor) -> Tensor:
            return self.conv(torch.cat((a, b), 1))

    graph = checked(Two(Depthwise(), 5), image())
    assert flow(graph) == [*one_each(0, 1, 2), (), ()]
    assert partners(graph, ("function.conv.weight", 0), OTHER) == [(), (), (), (0,), (1,)]
    assert free(graph, OUT)


def test_stack_beside_channels_ties_the_maps():
    """(2, C) flattened: two columns per row, as with cat."""
    graph = toy(lambda x: torch.stack((x, x.relu()), 1).flatten(1, 2), outputs=8)
    assert free(graph)
    assert flow(graph) == one_each(0, 1, 2, 3, 0, 1, 2, 3)


def test_padded_channels_are_fixed():
    """Two zeros before and one after are always there."""
    graph = toy(lambda x: F.pad(x, (0, 0, 0, 0, 2, 1)), outputs=7)
    assert free(graph)
    assert flow(graph) == [(), (), *one_each(0, 1, 2, 3), ()]
    found = reasons(graph, OUT)
    assert found[2:6] == [FREE] * 4
    assert {*found[:2], found[6]} == {"padding of a constant number of channels"}


def test_padding_that_cuts_freezes():
    """A negative amount drops a channel by its position."""
    graph = toy(lambda x: F.pad(x, (0, 0, 0, 0, -1, 0)), outputs=3)
    assert only_reason(graph) == "padding that cuts, or whose amount follows a size"


def test_repeated_channels():
    """Columns k and k + 4 belong to row k."""
    graph = toy(lambda x: x.repeat(1, 2, 1, 1), outputs=8)
    assert free(graph)
    assert flow(graph) == one_each(0, 1, 2, 3, 0, 1, 2, 3)


def test_repeat_interleave():
    """Columns 2k and 2k + 1 belong to row k, or else nothing goes."""
    graph = toy(lambda x: x.repeat_interleave(2, 1), outputs=8)
    if free(graph):
        assert flow(graph) == one_each(0, 0, 1, 1, 2, 2, 3, 3)
    else:
        assert FREE not in reasons(graph, INTO)


def test_expand_to_a_constant_width_is_fixed():
    """A sum over channels, spread over four: nothing connects those with the four before."""
    graph = toy(lambda x: x.sum(1, keepdim=True).expand(-1, 4, -1, -1))
    assert free(graph)
    assert flow(graph) == [()] * 4
    assert FREE not in reasons(graph, OUT)


UNLABELLED = {
    "expand": lambda x: x + x.sum(1, keepdim=True).expand(-1, x.shape[1], -1, -1),
    "expand_as": lambda x: x * x.sum(1, keepdim=True).expand_as(x),
    "repeat": lambda x: x * x.sum(1, keepdim=True).repeat(1, x.shape[1], 1, 1),
    "new_zeros": lambda x: x + x.sum(1).new_zeros(len(x), x.shape[1], 4, 4),
}


@pytest.mark.parametrize("function", UNLABELLED.values(), ids=UNLABELLED.keys())
def test_what_has_no_channels_takes_a_followed_width(function):
    """A map without channels gets as many as the code reads from another."""
    assert passes(toy(function))


# Cutting


def test_slices_by_constants_keep_what_lies_before_the_boundary():
    """``x[:, :1]`` and ``x[:, 1:]``: the boundary stays true if channel 0 stays."""
    graph = toy(lambda x: torch.cat((x[:, 1:], x[:, :1]), 1))
    words = "the boundary 1 is written as a constant"
    assert reasons(graph, INTO) == [words, FREE, FREE, FREE]
    assert flow(graph) == one_each(1, 2, 3, 0)


def test_slice_from_the_end_keeps_what_lies_behind():
    """``x[:, :-1]`` drops the last one, which must stay the last."""
    graph = toy(lambda x: x[:, :-1], outputs=3)
    assert reasons(graph, INTO) == [FREE] * 3 + ["the boundary -1 is written as a constant"]
    assert flow(graph) == one_each(0, 1, 2)


def test_slice_with_a_step_freezes():
    """Every second channel is another one after a cut."""
    graph = toy(lambda x: x[:, ::2], outputs=2)
    assert only_reason(graph) == "every 2-th channel is taken"


def test_slice_by_half_the_size_ties_the_halves():
    """``x[:, : c // 2]``: the k-th channels of both halves go together."""

    def swapped(x: Tensor) -> Tensor:
        half = x.shape[1] // 2
        return torch.cat((x[:, half:], x[:, :half]), 1)

    graph = toy(swapped)
    assert free(graph)
    assert flow(graph) == [(0, 2), (1, 3), (0, 2), (1, 3)]


def test_narrow_follows_a_size_and_keeps_a_constant():
    """``narrow(1, 0, c // 2)`` against ``narrow(1, 0, 2)``."""
    followed = toy(lambda x: x.narrow(1, 0, x.shape[1] // 2), outputs=2)
    assert flow(followed) == [(0, 2), (1, 3)]
    assert free(followed)
    constant = toy(lambda x: x.narrow(1, 0, 2), outputs=2)
    assert reasons(constant, INTO)[:2] == ["the boundary 2 is written as a constant"] * 2
    assert reasons(constant, INTO)[2:] == [FREE] * 2


def test_chunk_ties_the_halves():
    """The k-th channels of both halves go together, so that halves stay halves."""
    graph = toy(lambda x: torch.cat(x.chunk(2, 1)[::-1], 1))
    assert free(graph)
    assert flow(graph) == [(0, 2), (1, 3), (0, 2), (1, 3)]


def test_unequal_chunks_freeze():
    """Five in two parts are three and two."""
    graph = toy(lambda x: torch.cat(x.chunk(2, 1), 1), width=5)
    assert only_reason(graph) == "it is cut into 2 unequal parts"


def test_tensor_split_ties_equal_parts():
    """Three parts of two."""
    graph = toy(lambda x: sum(x.tensor_split(3, 1)), width=6, outputs=2)
    assert free(graph)
    assert flow(graph) == [(0, 2, 4), (1, 3, 5)]


def test_split_by_constants_freezes_the_listed_parts():
    """``split((1, 3))`` asks for one and three."""
    graph = toy(lambda x: torch.cat(x.split((1, 3), 1)[::-1], 1))
    found = reasons(graph, INTO)
    assert found[0] == "the size 1 is written as a constant"
    assert found[1:] == ["the size 3 is written as a constant"] * 3


def test_split_by_one_number_lets_the_last_part_shrink():
    """``split(3)`` of four: three that stay, and what is left over, here one channel."""
    graph = toy(lambda x: torch.cat(x.split(3, 1)[::-1], 1))
    assert reasons(graph, INTO)[:3] == ["the size 3 is written as a constant"] * 3


def test_split_by_half_the_size():
    """``split(c // 2)`` is a chunk."""
    graph = toy(lambda x: torch.cat(x.split(x.shape[1] // 2, 1)[::-1], 1))
    assert free(graph)
    assert flow(graph) == [(0, 2), (1, 3), (0, 2), (1, 3)]


def test_glu_unites_the_halves():
    """First half times the sigmoid of the second."""
    graph = toy(nn.GLU(1), outputs=2)
    assert free(graph)
    assert flow(graph) == [(0, 2), (1, 3)]


# Taking by position

POSITIONS = {
    "select": (lambda x: x * x[:, 0:1].sigmoid() + x.select(1, 0).unsqueeze(1), BY_POSITION),
    "integer index": (lambda x: x * x[:, 2].unsqueeze(1), BY_POSITION),
    "unbind": (lambda x: torch.stack(x.unbind(1)[::-1], 1), BY_POSITION),
    "list index": (lambda x: x[:, [3, 0, 1, 2]], CONSTANT_POSITIONS),
    "index_select": (lambda x: x.index_select(1, torch.tensor([1, 0, 3, 2])), CONSTANT_POSITIONS),
    "gather": (lambda x: x.gather(1, torch.zeros(1, 4, 4, 4).long().expand(len(x), -1, -1, -1)),
               CONSTANT_POSITIONS),
    "sliding windows": (lambda x: x.unfold(1, 1, 1).squeeze(-1),
                        "windows slide along the channels"),
}  # fmt: skip


@pytest.mark.parametrize(("function", "words"), POSITIONS.values(), ids=POSITIONS.keys())
def test_channels_taken_by_position_stay(function, words):
    """After a cut the same position would be another channel."""
    graph = toy(function)
    if words == BY_POSITION:
        assert set(reasons(graph, INTO)) <= {words, "the boundary 1 is written as a constant"}
    else:
        assert only_reason(graph) == words


def test_other_strides_over_the_same_memory_freeze():
    """``as_strided`` says nothing about dimensions."""
    graph = toy(
        lambda x: x.contiguous().as_strided((len(x), 4, 16), (64, 16, 1)).unflatten(2, (4, 4))
    )
    assert FREE not in reasons(graph, INTO)


def test_assignment_to_a_part_of_the_channels():
    """``y[:, :2] = ...`` with a constant keeps what lies before the boundary."""

    def shifted(x: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        y[:, :2, :-1] = x[:, :2, 1:]
        y[:, 2:] = x[:, 2:]
        return y

    graph = toy(shifted)
    assert reasons(graph, INTO) == ["the boundary 2 is written as a constant"] * 2 + [FREE] * 2
    assert flow(graph) == one_each(0, 1, 2, 3)


# Sizes that the code computes


def test_twice_the_size_follows():
    """A map of 2c channels made by repeating, viewed with ``2 * c``."""
    graph = toy(lambda x: x.repeat(1, 2, 1, 1).view(-1, 2 * x.shape[1], 4, 4), outputs=8)
    assert free(graph)
    assert flow(graph) == one_each(0, 1, 2, 3, 0, 1, 2, 3)


def test_sum_of_two_sizes_follows():
    """``a.shape[1] + b.shape[1]`` is what cat makes."""

    def joined(_x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return torch.cat((a, b), 1).view(-1, a.shape[1] + b.shape[1], 4, 4)

    graph = checked(Two(joined, 5), image())
    assert free(graph)
    assert free(graph, OTHER)


def test_difference_of_two_sizes_follows():
    """What is left when the first part is taken off."""

    def rest(_x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        both = torch.cat((a, b), 1)
        return both[:, -(both.shape[1] - a.shape[1]) :]

    graph = checked(Two(rest, 2), image())
    assert free(graph, OTHER)
    assert free(graph)
    assert partners(graph, OUT, OTHER) == one_each(0, 1)


def test_boundary_by_another_map_s_size_follows():
    """``both[:, : a.shape[1]]`` is a again."""
    graph = checked(Two(lambda _, a, b: torch.cat((a, b), 1)[:, : a.shape[1]], 3), image())
    assert free(graph)
    assert flow(graph) == one_each(0, 1, 2)


def test_size_plus_a_constant():
    """One padded channel: ``c + 1`` follows."""
    graph = toy(lambda x: F.pad(x, (0, 0, 0, 0, 0, 1)).view(-1, x.shape[1] + 1, 4, 4), outputs=5)
    assert free(graph)
    assert flow(graph) == [*one_each(0, 1, 2, 3), ()]


LOST = {
    "float": lambda x: x / float(x.shape[1]),
    "square root": lambda x: x / math.sqrt(x.shape[1]),
    "power": lambda x: x * x.shape[1] ** -0.5,
    "true division": lambda x: x * (1 / x.shape[1]),
    "divided size": lambda x: x * (x.shape[1] / 2),
    "number itself": lambda x: x * x.shape[1],
    "size()": lambda x: x + float(x.size(1)),
    "product of sizes": lambda x: x * (x.shape[1] * x.shape[1]),
    "part that does not divide": lambda x: x * (x.shape[1] // 3),
}


@pytest.mark.parametrize("function", LOST.values(), ids=LOST.keys())
def test_sizes_in_arithmetic_freeze(function):
    """A number made of a size would change with a cut."""
    graph = toy(function)
    assert only_reason(graph) == ARITHMETIC
    (record,) = (f for f in graph.frozen if f.reason == ARITHMETIC)
    assert "test_shapes.py:" in record.source


def test_normalisation_over_channels():
    """x / max(‖x‖, ε): the norm is spread over the channels that it divides."""
    graph = toy(lambda x: F.normalize(x, dim=1))
    assert free(graph)
    assert flow(graph) == one_each(0, 1, 2, 3)


UNSEEN = {
    "len": lambda x: x * len(x[0]) ** -0.5,
    "numel": lambda x: x / x[0, :, 0, 0].numel(),
}


@pytest.mark.parametrize("function", UNSEEN.values(), ids=UNSEEN.keys())
def test_other_ways_to_read_a_size(function):
    """They are sizes all the same: arithmetic with them freezes."""
    assert FREE not in reasons(toy(function), INTO)


def test_sizes_of_pixels_are_plain_numbers():
    """Height and width may enter any arithmetic."""
    assert passes(toy(lambda x: x / math.sqrt(x.shape[2] * x.shape[3])))


def test_sizes_in_conditions_are_plain_numbers():
    """Checks are common, and stay as they are."""
    assert passes(toy(lambda x: x if x.shape[1] > 0 and x.shape[1] % 1 == 0 else x[0]))


def test_new_zeros_of_a_followed_size_join_as_channels():
    """Zeros of ``c`` channels beside the map go with them."""
    graph = toy(lambda x: torch.cat((x, x.new_zeros(len(x), x.shape[1], 4, 4)), 1), outputs=8)
    assert free(graph)
    assert flow(graph) == one_each(0, 1, 2, 3, 0, 1, 2, 3)


def test_new_zeros_of_a_constant_size_are_fixed():
    """Two zero channels beside the map stay."""
    graph = toy(lambda x: torch.cat((x, x.new_zeros(len(x), 2, 4, 4)), 1), outputs=6)
    assert free(graph)
    assert flow(graph) == [*one_each(0, 1, 2, 3), (), ()]
    assert FREE not in reasons(graph, OUT)[4:]


def test_labels_of_dimension_one_do_not_exist():
    """The only row of a one-channel convolution is no site."""
    graph = toy(nn.Conv2d(4, 1, 1), outputs=1)
    assert ("function.weight", 0) not in graph.sites
    assert reasons(graph, OUT) == [NO_CHANNEL]
    assert free(graph)
    assert all(exact(graph))
