"""Integers that the network's own modules hold: what a cut makes of them, worked out by hand."""

from __future__ import annotations

import copy
import functools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gammaslim as gs
from gammaslim.selecting.planning import make_plan
from tests.rules.helper import checked, image, only_reason


class Split(nn.Module):
    """``into`` makes 6 channels, which are split into parts of held widths, and joined again."""

    def __init__(self, widths: object, outputs: int = 6):
        super().__init__()
        self.into, self.norm = nn.Conv2d(3, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.widths, self.label, self.flag = widths, "six", True
        self.out = nn.Conv2d(outputs, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat(self.parts(self.norm(self.into(x))), 1))

    def parts(self, x: Tensor) -> list[Tensor]:
        return list(x.split(self.widths, 1))


def without(graph: gs.ChannelGraph, *rows: int) -> gs.Plan:
    """The plan that removes these rows of ``into``, and what goes with them."""
    keep = np.ones(graph.num_channels, dtype=np.bool_)
    keep[graph.sites["into.weight", 0][list(rows)]] = False
    return make_plan(graph, keep)


def test_each_entry_of_a_list_follows_its_part():
    """[1, 5] without channels 2 and 3 is [1, 3], and still a list."""
    model = Split([1, 5])
    graph = checked(model, image())
    assert graph.coverage == 1
    plan = without(graph, 2, 3)
    assert plan.attributes["widths"] == (1, 3)
    gs.prune(model, graph, plan)
    assert model.widths == [1, 3]
    assert type(model.widths) is list


def test_one_width_of_equal_parts_couples_their_columns():
    """``split(3)`` of 6: channels k and k + 3 go together, and 3 becomes 2."""
    model = Split(3)
    graph = checked(model, image())
    ids = graph.sites["into.weight", 0]
    assert np.array_equal(ids[:3], ids[3:])
    gs.prune(model, graph, without(graph, 1))
    assert model.widths == 2


def test_a_width_that_leaves_a_rest_governs_only_the_full_parts():
    """``split(4)`` of 6 is 4 and 2: the 2 are free, the 4 are counted."""
    model = Split(4)
    graph = checked(model, image())
    assert graph.coverage == 1
    assert without(graph, 0, 5).attributes["widths"] == 3


def test_attributes_are_plain_integers_again_after_tracing():
    """Nothing of the trace stays behind, in the module or in its containers."""
    widths = [1, 5]
    model = Split(widths)
    before = dict(model.__dict__)
    gs.trace(model, image())
    assert model.__dict__.keys() == before.keys()
    assert model.widths is widths
    assert [type(width) for width in widths] == [int, int]
    assert model.flag is True


def test_files_and_plans_carry_attributes(tmp_path):
    """A fresh module gets the new numbers from the file; JSON holds them too."""
    model = Split([1, 5])
    fresh = copy.deepcopy(model)
    graph = gs.trace(model, image())
    plan = without(graph, 4)
    assert gs.Plan.from_json(plan.to_json()) == plan
    gs.prune(model, graph, plan)
    gs.save(model, tmp_path / "slim.safetensors")
    gs.load(fresh, tmp_path / "slim.safetensors")
    assert fresh.widths == [1, 4]
    assert torch.equal(fresh(image()), model(image()))


def test_a_failed_cut_puts_attributes_back():
    """As it does with everything else."""

    class Narrow(Split):
        def parts(self, x: Tensor) -> list[Tensor]:
            if x.shape[1] < 6:
                raise ValueError("too narrow")
            return super().parts(x)

    model = Narrow([1, 5])
    graph = gs.trace(model, image())
    with pytest.raises(gs.VerificationError, match="too narrow"):
        gs.prune(model, graph, without(graph, 4))
    assert model.widths == [1, 5]


def test_one_number_for_two_layers_couples_them():
    """The same width cuts two different tensors: what goes in one goes in the other."""

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.into, self.norm = nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6)
            self.other, self.norm2 = nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6)
            self.half, self.out = 2, nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.norm(self.into(x)), self.norm2(self.other(x))
            return self.out(torch.cat([a[:, : self.half], b[:, -self.half :]], 1))

    graph = checked(Both(), image())
    assert graph.coverage == 1
    first, second = graph.sites["into.weight", 0], graph.sites["other.weight", 0]
    assert np.array_equal(first[:2], second[4:])
    assert not set(first[2:].tolist()) & set(second[:4].tolist())


def test_an_attribute_that_is_also_a_factor_names_itself():
    """√width cannot follow a cut, so the part that it counts stays; the other parts do not."""

    class Rooted(Split):
        def __init__(self):
            super().__init__(2)

        def parts(self, x: Tensor) -> list[Tensor]:
            first = x[:, : self.widths] * self.widths**0.5
            return [first, x[:, self.widths :]]

    graph = checked(Rooted(), image())
    assert graph.coverage == pytest.approx(4 / 6)
    (record,) = (f for f in graph.frozen if "widths" in f.reason)
    assert record.reason == "widths enters arithmetic that cannot be followed"
    assert record.channels == 2
    assert "test_attributes.py:" in record.source


def test_equations_without_a_solution_freeze():
    """The same number as a count of 2 and, three more, as a count of 5 of the same 6: 2 + 3 = 5."""

    class Three(Split):
        def __init__(self):
            super().__init__(2, 7)

        def parts(self, x: Tensor) -> list[Tensor]:
            return [x[:, : self.widths], x[:, : self.widths + 3]]

    graph = checked(Three(), image())
    ids = graph.sites["into.weight", 0]
    assert not graph.prunable[ids[2:5]].any()
    assert graph.prunable[ids[[0, 1, 5]]].all()
    (record,) = (f for f in graph.frozen if f.channels == 3 and "size" in f.reason)
    assert record.reason == "the code computes from widths another size than is left"


def test_half_of_a_held_number_stays_whole():
    """``2 · split(half)``: the second part is half the first, so its channels go in pairs."""

    class Halves(Split):
        def __init__(self):
            super().__init__(4)

        def parts(self, x: Tensor) -> list[Tensor]:
            return list(x.split([self.widths, self.widths // 2], 1))

    model = Halves()
    graph = checked(model, image())
    ids = graph.sites["into.weight", 0]
    assert graph.coverage == 1
    assert np.array_equal(ids[:2], ids[2:4])
    assert np.array_equal(ids[:2], ids[4:])
    gs.prune(model, graph, without(graph, 0))
    assert model.widths == 2


def test_comparison_with_a_constant_freezes():
    """The code goes by ``channels == 6``."""

    class Six(Split):
        def parts(self, x: Tensor) -> list[Tensor]:
            return [x * 2] if x.shape[1] == 6 else [x]

    assert only_reason(checked(Six([1, 5]), image())) == "the code compares its size"


def test_comparison_that_failed_binds_nothing():
    """The code goes by ``channels == 7``, which is not so, now or later."""

    class Seven(Split):
        def parts(self, x: Tensor) -> list[Tensor]:
            return [x * 2] if x.shape[1] == 7 else [x]

    assert checked(Seven([1, 5]), image()).coverage == 1


def test_sizes_that_a_cache_kept_from_another_trace_are_plain_numbers():
    """A memoised helper hands out what it was given when the network was first traced."""
    remembered = functools.lru_cache(lambda width: width)

    class Cached(Split):
        def parts(self, x: Tensor) -> list[Tensor]:
            return list(x.split(remembered(x.shape[1] // 2), 1))

    assert checked(Cached([1, 5]), image()).coverage == 1
    again = checked(Cached([1, 5]), image())
    assert "the size 3 is written as a constant" in {record.reason for record in again.frozen}
