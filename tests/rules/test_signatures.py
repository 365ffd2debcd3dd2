"""Arguments by name: whichever way a function is called, its rule finds the same ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

from gammaslim.recording.signatures import EVERYWHERE, FUNCTIONAL, SIGNATURES, Signature
from tests.rules.helper import FREE, INTO, exact, flow, free, only_reason, reasons, toy

X = torch.zeros(2, 4, 6)
Y, IMAGE, VOLUME = torch.zeros(2, 3, 8), torch.zeros(2, 4, 6, 6), torch.zeros(2, 4, 6, 6, 6)


class Bindings(TorchFunctionMode):
    """Notes what each call of a function of the table is bound to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict[str, Any]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in SIGNATURES:
            self.found.append(SIGNATURES[func].bind(args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def convolution(number: int, *last: str) -> dict[str, Any]:
    """Arguments of a convolution over so many spatial dimensions; ``last`` in their order."""
    side, none = (1,) * number, (0,) * number
    first = {"input": (X, IMAGE, VOLUME)[number - 1], "weight": torch.zeros(4, 4, *side)}
    values = {"output_padding": none, "dilation": side, "groups": 1}
    return {**first, "bias": None, "stride": side, "padding": none, **{n: values[n] for n in last}}


CALLS: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "__getitem__": ([Tensor.__getitem__], {"input": X, "index": (0, slice(1))}),
    "__setitem__": ([Tensor.__setitem__], {"input": X.clone(), "index": 0, "value": 1.0}),
    "chunk": ([torch.chunk, Tensor.chunk], {"input": X, "chunks": 2, "dim": 1}),
    "dim": ([Tensor.dim], {"input": X}),
    "empty": ([torch.empty], {"size": (2, 3)}),
    "expand": ([Tensor.expand], {"input": X[:, :1], "size": (2, 3, -1)}),
    "expand_as": ([Tensor.expand_as], {"input": X[:, :1], "other": X}),
    "flatten": ([torch.flatten, Tensor.flatten], {"input": X, "start_dim": 0, "end_dim": 1}),
    "movedim": ([torch.movedim, Tensor.movedim], {"input": X, "source": 0, "destination": 1}),
    "narrow": ([torch.narrow, Tensor.narrow], {"input": X, "dim": 1, "start": 1, "length": 2}),
    "new_empty": ([Tensor.new_empty], {"input": X, "size": (2, 3)}),
    "new_ones": ([Tensor.new_ones], {"input": X, "size": (2, 3)}),
    "new_zeros": ([Tensor.new_zeros], {"input": X, "size": (2, 3)}),
    "ones": ([torch.ones], {"size": (2, 3)}),
    "permute": ([torch.permute, Tensor.permute], {"input": X, "dims": (2, 0, 1)}),
    "rand": ([torch.rand], {"size": (2, 3)}),
    "randn": ([torch.randn], {"size": (2, 3)}),
    "repeat": ([Tensor.repeat], {"input": X, "repeats": (1, 2, 1)}),
    "reshape": ([torch.reshape, Tensor.reshape], {"input": X, "shape": (2, -1)}),
    "reshape_as": ([Tensor.reshape_as], {"input": X, "other": Y}),
    "size": ([Tensor.size], {"input": X, "dim": 1}),
    "split": ([torch.functional.split], {"tensor": X, "split_size_or_sections": 2, "dim": 1}),
    "split_method": ([Tensor.split], {"input": X, "split_size": (1, 3), "dim": 1}),
    "split_with_sizes": (
        [torch.split_with_sizes, Tensor.split_with_sizes],
        {"input": X, "split_sizes": (1, 3), "dim": 1},
    ),
    "squeeze": ([torch.squeeze, Tensor.squeeze], {"input": X, "dim": (0, 1)}),
    "tensor_split": (
        [torch.tensor_split, Tensor.tensor_split],
        {"input": X, "sections": 2, "dim": 1},
    ),
    "tensor_split_indices": (
        [torch.tensor_split, Tensor.tensor_split],
        {"input": X, "indices": (1, 2), "dim": 1},
    ),
    "tile": ([torch.tile, Tensor.tile], {"input": X, "dims": (2, 1)}),
    "transpose": ([torch.transpose, Tensor.transpose], {"input": X, "dim0": 0, "dim1": 1}),
    "unflatten": ([torch.unflatten, Tensor.unflatten], {"input": X, "dim": 1, "sizes": (2, 2)}),
    "unsqueeze": ([torch.unsqueeze, Tensor.unsqueeze], {"input": X, "dim": 1}),
    "view": ([Tensor.view], {"input": X, "size": (2, -1)}),
    "view_as": ([Tensor.view_as], {"input": X, "other": Y}),
    "zeros": ([torch.zeros], {"size": (2, 3)}),
    "adaptive_avg_pool1d": ([F.adaptive_avg_pool1d], {"input": X, "output_size": 2}),
    "adaptive_avg_pool2d": ([F.adaptive_avg_pool2d], {"input": X, "output_size": 2}),
    "adaptive_max_pool2d": (
        [F.adaptive_max_pool2d],
        {"input": X, "output_size": 2, "return_indices": False},
    ),
    "batch_norm": (
        [F.batch_norm],
        {"input": X, "running_mean": X[0, :, 0], "running_var": X[0, :, 0], "weight": None,
         "bias": None, "training": False, "momentum": 0.1, "eps": 1.0},
    ),
    "conv1d": ([F.conv1d], convolution(1, "dilation", "groups")),
    "conv2d": ([F.conv2d], convolution(2, "dilation", "groups")),
    "conv3d": ([F.conv3d], convolution(3, "dilation", "groups")),
    "conv_transpose1d": (
        [F.conv_transpose1d], convolution(1, "output_padding", "groups", "dilation")
    ),
    "conv_transpose2d": (
        [F.conv_transpose2d], convolution(2, "output_padding", "groups", "dilation")
    ),
    "conv_transpose3d": (
        [F.conv_transpose3d], convolution(3, "output_padding", "groups", "dilation")
    ),
    "interpolate": (
        [F.interpolate],
        {"input": X, "size": 3, "scale_factor": None, "mode": "nearest", "align_corners": None},
    ),
    "layer_norm": (
        [F.layer_norm],
        {"input": X, "normalized_shape": (6,), "weight": None, "bias": None, "eps": 1.0},
    ),
    "pad": ([F.pad], {"input": X, "pad": (1, 0), "mode": "constant", "value": 0.0}),
    "scaled_dot_product_attention": (
        [F.scaled_dot_product_attention],
        {"query": X, "key": X, "value": X, "attn_mask": None, "dropout_p": 0.0, "is_causal": True},
    ),
}  # fmt: skip
"""Name -> its forms, and arguments of theirs under the names that PyTorch documents, in order."""

FORMS = [
    pytest.param(form, named, id=f"{name}-{index}")
    for name, (forms, named) in CALLS.items()
    for index, form in enumerate(forms)
]
METHODS = {getattr(Tensor, row.partition("(")[0], None) for row in EVERYWHERE} - {None}


def test_every_row_of_the_table_is_called():
    rows = {row.partition("(")[0] for row in (*EVERYWHERE, *FUNCTIONAL)}
    assert rows == {name.removesuffix("_method").removesuffix("_indices") for name in CALLS}


@pytest.mark.parametrize(("form", "named"), FORMS)
def test_positions_and_keywords_bind_alike(form: Any, named: dict[str, Any]) -> None:
    """PyTorch accepts both calls, so the table has its order and its names."""
    named = dict(named)
    order = list(named.values())
    with Bindings() as seen:
        form(*order)
        own = [named.pop("input")] if form in METHODS else []
        if form not in (Tensor.__getitem__, Tensor.__setitem__):  # which take no keywords
            form(*own, **dict(reversed(named.items())))
    by_position, *by_keyword = seen.found
    aliases = SIGNATURES[form].aliases
    for bound in by_keyword:
        assert bound.keys() >= by_position.keys()  # F.pad fills in the rest
        assert all(bound[name] is by_position[name] for name in by_position)
    assert all(by_position[aliases.get(name, name)] is value for name, value in named.items())


@pytest.mark.parametrize("form", [torch.permute, Tensor.permute, Tensor.view, torch.zeros])
def test_a_sequence_may_be_written_out(form: Any) -> None:
    signature = SIGNATURES[form]
    first = [X] if "input" in signature.names else []
    one, many = (signature.bind([*first, *rest], {}) for rest in ([2, 0, 1], [[2, 0, 1]]))
    assert list(one[signature.rest]) == many[signature.rest]
    assert one.keys() == many.keys()


def test_operators_called_by_name_have_the_same_parameters():
    """``torch.ops.aten.narrow`` calls its tensor ``self``."""
    bound = SIGNATURES[torch.ops.aten.narrow].bind([], {"self": X, "length": 2, "dim": 1})
    assert bound == {"input": X, "length": 2, "dim": 1}


def test_how_a_row_is_read():
    signature = Signature.parse("input|tensor, *size|shape")
    assert (signature.names, signature.rest) == (("input",), "size")
    assert signature.bind([X], {"shape": 3}) == signature.bind([], {"tensor": X, "shape": 3})


# What rules make of it


NARROWED = {
    "positions": lambda x, h: x.narrow(1, h, h),
    "keywords": lambda x, h: x.narrow(dim=1, start=h, length=h),
    "keywords turned": lambda x, h: x.narrow(1, length=h, start=h),
    "function": lambda x, h: torch.narrow(x, 1, h, h),
    "function, keywords": lambda x, h: torch.narrow(length=h, start=h, dim=1, input=x),
    "negative dimension": lambda x, h: x.narrow(-3, h, h),
    "from the end": lambda x, h: x.narrow(1, -h, h),
    "operator": lambda x, h: torch.ops.aten.narrow(x, 1, h, h),
    "slice": lambda x, h: x[:, h : 2 * h],
    "slice after an ellipsis": lambda x, h: x[..., h:, :, :],
    "slice from the end": lambda x, h: x[:, -h:],
    "slice behind a new dimension": lambda x, h: x[:, None, h:][:, 0],
    "slice behind an integer": lambda x, h: x[0, h:][None].expand(2, -1, -1, -1),
    "split": lambda x, h: x.split(h, 1)[1],
    "split, function": lambda x, h: torch.split(split_size_or_sections=h, dim=1, tensor=x)[1],
    "split, keywords": lambda x, h: x.split(dim=-3, split_size=h)[1],
    "split into a list": lambda x, h: x.split([h, h], dim=1)[1],
    "split_with_sizes": lambda x, h: x.split_with_sizes(dim=1, split_sizes=[h, h])[1],
    "chunk": lambda x, _: x.chunk(dim=1, chunks=2)[1],
    "chunk, function": lambda x, _: torch.chunk(x, dim=-3, chunks=2)[1],
    "tensor_split": lambda x, _: x.tensor_split(dim=1, sections=2)[1],
    "tensor_split, function": lambda x, _: torch.tensor_split(x, 2, -3)[1],
    "tensor_split, indices": lambda x, h: x.tensor_split((h,), 1)[1],
    "unflatten": lambda x, h: x.unflatten(1, (2, h))[:, 1],
    "unflatten, keywords": lambda x, h: x.unflatten(sizes=(2, h), dim=-3)[:, 1],
    "view": lambda x, h: x.view(2, 2, h, 4, 4)[:, 1],
    "view, a tuple": lambda x, h: x.view(size=(2, 2, h, 4, 4))[:, 1],
    "reshape, keyword": lambda x, h: x.reshape(shape=(2, 2, h, 4, 4))[:, 1],
    "reshape, function": lambda x, h: torch.reshape(shape=(2, 2, h, 4, 4), input=x)[:, 1],
}


@pytest.mark.parametrize("function", NARROWED.values(), ids=NARROWED.keys())
def test_the_second_half_however_it_is_asked_for(function: Any) -> None:
    """Channels k and k + 2 go together, since the halves must stay halves."""
    graph = toy(lambda x: function(x, x.shape[1] // 2), outputs=2)
    assert free(graph)
    assert flow(graph) == [(0, 2), (1, 3)]


def test_the_middle_of_narrow_by_keywords_in_both_orders():
    """``length`` before ``start`` is the same call."""
    turned = toy(lambda x: x.narrow(1, length=x.shape[1] // 2, start=x.shape[1] // 4), 8, 4)
    straight = toy(lambda x: x.narrow(1, start=x.shape[1] // 4, length=x.shape[1] // 2), 8, 4)
    assert free(turned)
    assert flow(turned) == flow(straight) == [(0, 2, 4, 6), (1, 3, 5, 7)] * 2


def test_equal_numbers_are_not_taken_for_each_other():
    """Four rows of pixels as a constant, four channels as a size: each where it stands."""
    graph = toy(lambda x: x.view(len(x), x.shape[1], 4, 4))
    assert free(graph)
    swapped = toy(lambda x: x.transpose(1, 2).reshape(2, 4, x.shape[1], 4).transpose(1, 2))
    assert free(swapped)
    constant = toy(lambda x: x.reshape(2, 4, 4 * x.shape[3]).view(2, 4, 4, 4))
    assert only_reason(constant) == "the size 4 is written as a constant"


def test_a_number_of_parts_that_follows_a_size_stays():
    """As many parts as there are pairs of channels: not one may go."""
    graph = toy(lambda x: sum(x.chunk(x.shape[1] // 2, 1)), outputs=2)
    assert FREE not in reasons(graph, INTO)


def test_tile_of_fewer_numbers_than_dimensions():
    """They stand for the last ones."""
    assert free(toy(lambda x: x[:, :, :1, :1].tile((4, 4))))
    counted = toy(lambda x: x.sum(1, keepdim=True).tile((x.shape[1], 1, 1)) * x)
    assert free(counted)


def test_sizes_follow_under_vmap():
    """It puts a dimension of its own in front, of which the code knows nothing."""
    graph = toy(torch.func.vmap(lambda x: x.view(x.shape[0] * 16).view(-1, 4, 4)))
    assert all(exact(graph))


def test_groups_by_keyword_or_by_position():
    """A depthwise convolution whose number of groups is the size that it reads."""

    class Depthwise(nn.Module):
        def __init__(self, call: Any) -> None:
            super().__init__()
            self.weight, self.call = nn.Parameter(torch.ones(4, 1, 1, 1)), call

        def forward(self, x: Tensor) -> Tensor:
            return self.call(x, self.weight, x.shape[1])

    for call in (
        lambda x, w, g: F.conv2d(x, w, None, 1, 0, 1, g),
        lambda x, w, g: F.conv2d(x, groups=g, weight=w),
    ):
        graph = toy(Depthwise(call))
        assert free(graph)
        assert flow(graph) == [(0,), (1,), (2,), (3,)]
