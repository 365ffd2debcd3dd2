"""Why two slices are tied: the shortest chain of operators, worked out by hand on tiny networks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import gammaslim as gs
from gammaslim.channels.couplings import Couplings, Link, Reason, Tie, short_source

IMAGE = torch.zeros(2, 3, 8, 8)


def conv(inputs, outputs, **options):
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False, **options)


class Plain(nn.Module):
    """conv, BatchNorm, ReLU, conv."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second = conv(3, 4), nn.BatchNorm2d(4), conv(4, 5)

    def forward(self, x):
        return self.second(self.norm(self.first(x)).relu())


class Residual(nn.Module):
    """Two branches that are added, and a reader."""

    def __init__(self):
        super().__init__()
        self.one, self.one_norm = conv(3, 4), nn.BatchNorm2d(4)
        self.two, self.two_norm = conv(3, 4), nn.BatchNorm2d(4)
        self.head = conv(4, 5)

    def forward(self, x):
        return self.head(self.one_norm(self.one(x)) + self.two_norm(self.two(x)))


class Joined(nn.Module):
    """Two branches of 4 and 3 are joined; 2 of the first and all of the second are read."""

    def __init__(self):
        super().__init__()
        self.one, self.one_norm = conv(3, 4), nn.BatchNorm2d(4)
        self.two, self.two_norm = conv(3, 3), nn.BatchNorm2d(3)
        self.head = conv(5, 5)

    def forward(self, x):
        both = torch.cat([self.one_norm(self.one(x)), self.two_norm(self.two(x))], 1)
        return self.head(both[:, 2:])


class Shuffled(nn.Module):
    """Eight channels in two halves, interleaved: 0 4 1 5 2 6 3 7."""

    def __init__(self):
        super().__init__()
        self.body, self.norm, self.head = conv(3, 8), nn.BatchNorm2d(8), conv(8, 5)

    def forward(self, x):
        x = self.norm(self.body(x))
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(x)


class Gated(nn.Module):
    """Eight channels in two halves, each times the same four numbers."""

    def __init__(self):
        super().__init__()
        self.body, self.norm, self.head = conv(3, 8), nn.BatchNorm2d(8), conv(8, 5)
        self.gate = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x):
        left, right = self.norm(self.body(x)).chunk(2, 1)
        return self.head(torch.cat([left * self.gate, right * self.gate], 1))


class Excited(nn.Module):
    """Squeeze and excitation: a scale for every channel from the mean of all."""

    def __init__(self):
        super().__init__()
        self.body, self.norm, self.head = conv(3, 4), nn.BatchNorm2d(4), conv(4, 5)
        self.squeeze, self.excite = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)

    def forward(self, x):
        x = self.norm(self.body(x))
        gate = self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return self.head(x * gate)


def told(tie):
    """Operators and slices of a chain, in order."""
    return [(link.reason.operator, link.reason.module, link.to) for link in tie.links]


def test_conv_norm_relu_conv():
    """The BatchNorm meets the rows of the first weight; these meet the columns of the second."""
    tie = gs.trace(Plain(), IMAGE).why(("norm.weight", 0, 3), ("second.weight", 1))
    assert tie.tied
    assert tie.first == ("norm.weight", 0, 3)
    assert told(tie) == [
        ("aten.native_batch_norm", "norm", ("first.weight", 0, 3)),
        ("aten.convolution", "second", ("second.weight", 1, 3)),
    ]


def test_it_prints_a_line_for_each_slice_and_operator():
    source = short_source(__file__)
    line = Plain.forward.__code__.co_firstlineno + 1
    graph = gs.trace(Plain(), IMAGE)
    assert str(graph.why(("norm.weight", 0, 3), ("second.weight", 1))).splitlines() == [
        "norm.weight[3]",
        f"  aten.native_batch_norm in norm ({source}:{line})",
        "first.weight[3]",
        f"  aten.convolution in second ({source}:{line})",
        "second.weight[:, 3]",
    ]
    assert graph.why(("first.weight", 0), ("norm.bias", 0)).line == (
        "first.weight[0] is tied to norm.bias[0] by aten.native_batch_norm in norm "
        f"({source}:{line})"
    )


def test_residual_sum():
    """Both norms take over the labels of their convolutions, and the sum unites those."""
    tie = gs.trace(Residual(), IMAGE).why(("one_norm.weight", 0, 2), ("two_norm.bias", 0))
    assert told(tie) == [
        ("aten.native_batch_norm", "one_norm", ("one.weight", 0, 2)),
        ("aten.add", "", ("two.weight", 0, 2)),
        ("aten.native_batch_norm", "two_norm", ("two_norm.bias", 0, 2)),
    ]


def test_cat_then_slice():
    """Column 0 of the head is channel 2 of the first branch, column 2 channel 0 of the second."""
    graph = gs.trace(Joined(), IMAGE)
    first = graph.why(("one.weight", 0), ("head.weight", 1))
    assert (first.first, told(first)) == (
        ("one.weight", 0, 2),
        [("aten.convolution", "head", ("head.weight", 1, 0))],
    )
    second = graph.why(("two.weight", 0, 0), ("head.weight", 1))
    assert told(second) == [("aten.convolution", "head", ("head.weight", 1, 2))]


def test_shuffle():
    """Of 0 4 1 5 2 6 3 7 place 3 holds channel 5; halves are balanced, so 1 and 5 are not tied."""
    graph = gs.trace(Shuffled(), IMAGE)
    tie = graph.why(("body.weight", 0, 5), ("head.weight", 1))
    assert told(tie) == [("aten.convolution", "head", ("head.weight", 1, 3))]
    assert not graph.why(("body.weight", 0, 5), ("body.weight", 0, 1)).tied


def test_what_is_cut_into_halves():
    """The i-th of both halves go together, so that they stay equal: no longer way is shorter."""
    tie = gs.trace(Gated(), IMAGE).why(("body.weight", 0, 5), ("body.weight", 0, 1))
    assert told(tie) == [("aten.split", "", ("body.weight", 0, 1))]
    assert tie.line.endswith("): it is cut into 2 equal parts")


def test_squeeze_and_excitation():
    """The gate's rows meet the body's in the product; the squeeze is no part of it."""
    graph = gs.trace(Excited(), IMAGE)
    assert told(graph.why(("excite.bias", 0, 1), ("body.weight", 0))) == [
        ("aten.convolution", "excite", ("excite.weight", 0, 1)),
        ("aten.mul", "", ("body.weight", 0, 1)),
    ]
    untied = graph.why(("squeeze.weight", 0), ("body.weight", 0))
    assert not untied.tied
    assert str(untied) == (
        "squeeze.weight[:] and body.weight[:] are not tied: no channel has slices of both."
    )


def test_what_is_no_channel():
    tie = gs.trace(Plain(), IMAGE).why(("second.weight", 2), ("norm.weight", 0))
    assert tie.line == "second.weight[:, :, :] belongs to no channel: nothing of it can go."


def test_a_slice_is_tied_to_itself():
    tie = gs.trace(Plain(), IMAGE).why(("norm.weight", 0, 1), ("norm.weight", 0, 1))
    assert tie.tied
    assert tie.line == "norm.weight[1]"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("nrm.weight", 0), "no tensor 'nrm.weight' in this graph. Is it 'norm.weight'"),
        (("norm.weight", 1), r"has the shape \[4\] and so no dimension 1"),
        (("norm.weight", 0, 4), "has 4 indices and so none that is 4"),
    ],
)
def test_what_is_not_there(asked, words):
    graph = gs.trace(Plain(), IMAGE)
    with pytest.raises(gs.SiteError, match=words):
        graph.why(asked, ("norm.weight", 0))


def test_after_a_cut_indices_are_those_of_the_cut_network():
    """Channels 0 and 2 have gone, so the second that is left is the one that was 3."""
    model = Residual()
    model.one_norm.weight.data[[0, 2]] = 0
    model.two_norm.weight.data[[0, 2]] = 0
    graph = gs.trace(model, IMAGE)
    plan = gs.select(graph, gs.scores(model, graph), remove_channels=0.5)
    left = gs.prune(model, graph, plan).graph
    tie = left.why(("one_norm.weight", 0, 1), ("head.weight", 1))
    assert [link.to for link in tie.links] == [("one.weight", 0, 1), ("head.weight", 1, 1)]


def test_a_graph_without_couplings_says_so():
    bare = replace(gs.trace(Plain(), IMAGE), couplings=Couplings())
    with pytest.raises(gs.SiteError, match="Trace the network again"):
        bare.why(("norm.weight", 0), ("first.weight", 0))


def test_a_long_chain_in_one_line_has_its_ends():
    links = tuple(Link(Reason("", f"aten.{name}"), None) for name in "abcd")
    assert Tie(("x", 0, 1), links[:2]).line == "x[1] by aten.a, then aten.b"
    assert Tie(("x", 0, 1), links).line == "x[1] by aten.a, then 2 more, then aten.d"


def test_couplings_are_compact():
    """A layer is coupled as a whole: one row for all its channels."""
    runs = gs.trace(Plain(), IMAGE).couplings.runs
    assert runs.shape[1] == 4
    assert set(runs[:, 2].tolist()) <= {3, 4, 5}
    assert np.unique(runs[:, :2]).size <= 2 * len(runs)


@pytest.mark.parametrize(
    "odd",
    ["first.weight", ("first.weight",), ("first.weight", 0, 0, 0), ("first.weight", "0"), None, 3],
)
def test_what_is_no_slice_is_refused(odd):
    graph = gs.trace(Plain(), IMAGE)
    with pytest.raises(gs.SiteError, match=r"as \(tensor name, dimension\)"):
        graph.why(odd, ("first.weight", 0))


def test_a_group_that_was_ignored_itself_has_no_chain():
    """Only its BatchNorm was named, but its channels are that BatchNorm's."""
    graph = gs.trace(Plain(), IMAGE, ignore=["norm"])
    (group,) = (group for group in graph.groups if "norm.weight" in group.scales)
    assert (group.reason, group.chain) == ("ignored by the user", "")
