"""A user's own operators: frozen without a rule, free with one, and never lost out of sight."""

from __future__ import annotations

import copy
import ctypes
import io
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import gammaslim as gs
from bench import oracle
from tests.rules.helper import (
    INTO,
    Toy,
    exact,
    flow,
    free,
    image,
    one_each,
    only_reason,
    reasons,
    toy,
)

DOCS = Path(__file__).parents[2] / "docs"
REAL = "Traced on real tensors in evaluation mode."


@torch.library.custom_op("gammaslim_tests::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    return x * 2


@twice.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("gammaslim_tests::no_fake", mutates_args=())
def no_fake(x: Tensor) -> Tensor:
    return x * 2


@torch.library.custom_op("gammaslim_tests::in_place", mutates_args={"x"})
def in_place(x: Tensor) -> None:
    x.mul_(2)


@torch.library.custom_op("gammaslim_tests::into_out", mutates_args={"out"})
def into_out(x: Tensor, out: Tensor) -> None:
    out.copy_(x * 2)


@torch.library.custom_op("gammaslim_tests::pair", mutates_args=())
def pair(x: Tensor) -> tuple[Tensor, Tensor]:
    return x * 2, x.mean(1)


@torch.library.custom_op("gammaslim_tests::many", mutates_args=())
def many(x: Tensor, times: int) -> list[Tensor]:
    return [x * k for k in range(1, times + 1)]


@torch.library.custom_op("gammaslim_tests::minus_mean", mutates_args=())
def minus_mean(x: Tensor) -> Tensor:
    return x - x.mean(1, keepdim=True)


@torch.library.custom_op("gammaslim_tests::weighted", mutates_args=())
def weighted(x: Tensor, weight: Tensor) -> Tensor:
    return x * weight.view(1, -1, 1, 1)


@weighted.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return torch.empty_like(x)


class Weighted(Toy):
    """A map that is zero nowhere, times a weight."""

    def __init__(self) -> None:
        super().__init__(torch.sigmoid)
        self.weight = torch.nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(weighted(self.function(self.norm(self.into(x))), self.weight))


def operator(definition: Any) -> Callable[[Tensor], Tensor]:
    """A function of its own, which unlike the definition can be copied."""

    def call(x: Tensor) -> Tensor:
        return definition(x)

    return call


def written_in_place(x: Tensor) -> Tensor:
    y = x.clone()
    in_place(y)
    return y


def written_out(x: Tensor) -> Tensor:
    out = torch.zeros(2, 4, 4, 4)
    into_out(x, out)
    return out


# Without a rule


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (operator(twice), "twice"),
        (operator(no_fake), "no_fake"),
        (written_in_place, "in_place"),
        (written_out, "into_out"),
        (lambda x: pair(x)[0], "pair"),
        (lambda x: sum(many(x, 3)), "many"),
    ],
    ids=["fake", "no fake", "in place", "into a buffer", "two tensors", "a list"],
)
def test_an_operator_without_a_rule_freezes_by_its_name(function, name):
    graph = toy(function)
    assert only_reason(graph) == f"unknown operator gammaslim_tests.{name}"
    (record,) = (r for r in graph.frozen if r.reason == only_reason(graph))
    assert record.operator == f"gammaslim_tests.{name}"
    assert record.channels >= 4


def test_an_operator_that_takes_functions_freezes():
    graph = toy(lambda x: torch.cond(x.sum() > 0, lambda t: t * 2, lambda t: t * 3, (x,)))
    assert only_reason(graph) == "unknown operator cond"


# Autograd functions


class Clamp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class InNumpy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.from_numpy(x.detach().numpy() * 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 2


def test_an_autograd_function_is_followed_through():
    graph = toy(Clamp.apply)
    assert free(graph)
    assert flow(graph) == one_each(0, 1, 2, 3)


def test_an_autograd_function_in_numpy_freezes():
    graph = toy(InNumpy.apply)
    assert only_reason(graph) == "its data leaves PyTorch through numpy"
    assert REAL in graph.notes


# Data out of sight


def through_memory(x: Tensor) -> Tensor:
    x, y = x.contiguous(), torch.zeros(2, 4, 4, 4)
    ctypes.memmove(y.data_ptr(), x.data_ptr(), 4 * x.numel())
    return y


def through_storage(x: Tensor) -> Tensor:
    return torch.empty(0).set_(x.untyped_storage(), 0, x.size(), x.stride())


def through_data(x: Tensor) -> Tensor:
    y = torch.zeros(1)
    y.data = x.data * 2
    return y


def through_pickle(x: Tensor) -> Tensor:
    return pickle.loads(pickle.dumps(x))  # noqa: S301 -- its own text


def through_file(x: Tensor) -> Tensor:
    buffer = io.BytesIO()
    torch.save(x, buffer)
    buffer.seek(0)
    return torch.load(buffer)


@pytest.mark.parametrize(
    ("function", "way"),
    [
        (lambda x: torch.from_numpy(x.numpy() * 2), "numpy"),
        (lambda x: torch.from_numpy(x.cpu().numpy() * 2), "numpy"),
        (lambda x: torch.from_numpy(np.asarray(x) * 2), "__array__"),
        (lambda x: torch.frombuffer(memoryview(x.numpy()), dtype=x.dtype).view(2, 4, 4, 4),
         "numpy"),
        (lambda x: torch.tensor(x.tolist()), "tolist"),
        (lambda x: torch.from_dlpack(x) * 2, "__dlpack__"),
        (lambda x: x.clone().apply_(lambda value: 2 * value), "apply_"),
        (through_memory, "data_ptr"),
        (through_storage, "untyped_storage"),
        (through_data, "an assignment to .data"),
        (through_pickle, "__reduce_ex__"),
        (through_file, "__reduce_ex__"),
    ],
    ids=["numpy", "cpu", "array", "memoryview", "tolist", "dlpack", "apply", "pointer", "storage",
         "data", "pickle", "file"],
)  # fmt: skip
def test_data_that_leaves_pytorch_freezes(function, way):
    assert only_reason(toy(function)) == f"its data leaves PyTorch through {way}"


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.data * 2,
        lambda x: torch.as_tensor(x) * 2,
        copy.deepcopy,
        lambda x: x / (1 + x.detach().sum().item() ** 2),
        lambda x: torch.utils.checkpoint.checkpoint(torch.relu, x, use_reentrant=False),
        torch.func.vmap(torch.relu, in_dims=1, out_dims=1),
        lambda x: torch.view_as_complex(torch.stack([x, x], -1)).abs(),
        lambda x: torch.complex(x, x).imag,
        lambda x: torch.fft.irfft2(torch.fft.rfft2(x), s=(4, 4)),
    ],
    ids=["data", "as_tensor", "deepcopy", "item", "checkpoint", "vmap", "complex",
         "imaginary", "fourier"],
)  # fmt: skip
def test_data_that_stays_in_sight_is_followed(function):
    assert free(toy(function))


def test_a_fourier_transform_along_the_channels_freezes():
    graph = toy(lambda x: torch.fft.fft(x, dim=1).real)
    assert only_reason(graph) == "a Fourier transform runs along the channels"


def test_channels_that_become_complex_numbers_freeze():
    graph = toy(
        lambda x: (
            torch.view_as_complex(x.permute(0, 2, 3, 1).reshape(2, 4, 4, 2, 2).contiguous())
            .abs()
            .permute(0, 3, 1, 2)
        ),
        outputs=2,
    )
    assert not free(graph)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (x.to_sparse() * 2).to_dense(),
        lambda x: x.contiguous().to_mkldnn().to_dense(),
        lambda x: torch.nested.to_padded_tensor(torch.nested.nested_tensor([x[0], x[1]]), 0.0),
        lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8).dequantize(),
    ],
    ids=["sparse", "mkldnn", "nested", "quantized"],
)
def test_other_memory_layouts_freeze(function):
    """A tensor may have no strides, or not even a shape."""
    assert only_reason(toy(function)).startswith("unknown operator aten.")


def test_sizes_in_traced_torchscript_are_constants():
    """What ``torch.jit.trace`` made of a function has the numbers of its example written in."""
    with pytest.warns(DeprecationWarning, match="torch.jit.trace"):
        function = torch.jit.trace(lambda x: x.view(2, 4, 16).mul(2).view(x.shape), image4())
    assert only_reason(toy(function)) == "the size 4 is written as a constant"


def image4() -> Tensor:
    return torch.zeros(2, 4, 4, 4)


# Registering


@pytest.fixture
def passes_on() -> Iterator[Any]:
    """A rule for ``twice``: every dimension passes."""

    def same(call: gs.OperatorCall) -> None:
        call.give(call.outputs[0], call.labels(call["x"]), zero=True)

    with gs.rule(twice)(same) as rule:
        yield rule


def test_a_rule_frees_the_channels(passes_on):
    graph = toy(operator(twice))
    assert free(graph)
    assert flow(graph) == one_each(0, 1, 2, 3)
    passes_on.remove()
    assert not free(toy(operator(twice)))


@pytest.mark.parametrize(
    "name",
    [
        "gammaslim_tests::no_fake",
        torch.ops.gammaslim_tests.no_fake,
        torch.ops.gammaslim_tests.no_fake.default,
        no_fake,
    ],
    ids=["name", "packet", "overload", "definition"],
)
def test_ways_to_name_an_operator(name):
    """Real tensors (this one has no fake) ask the same rule."""
    with gs.rule(name)(lambda call: call.give(call.outputs[0], call.labels(call.inputs[0]))):
        graph = toy(operator(no_fake))
    assert free(graph)
    assert REAL in graph.notes
    assert not free(toy(operator(no_fake)))


def test_a_rule_before_its_operator():
    """A name may be given before the operator is defined."""
    with gs.rule("gammaslim_tests::late")(
        lambda call: call.give(call.outputs[0], call.labels(call["x"]))
    ):
        late = torch.library.custom_op(
            "gammaslim_tests::late", lambda x: x * 2, mutates_args=(), schema="(Tensor x) -> Tensor"
        )
        assert free(toy(operator(late)))


def test_a_second_rule_is_refused(passes_on):
    def other(call: gs.OperatorCall) -> None:
        """Says nothing."""

    with pytest.raises(
        gs.RuleError, match=r"gammaslim_tests::twice, which has one already: .*same"
    ):
        gs.rule("gammaslim_tests::twice")(other)
    again = gs.rule(twice)(passes_on.body)
    passes_on.remove()  # it is not the present one any more
    assert free(toy(operator(twice)))
    again.remove()


KNOWN = "gammaslim's rule for it cannot be replaced"
COMPOSED = "made of other operators"
MISSING = "no ATen operator of that name"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("aten::add", KNOWN),
        ("aten::cat", KNOWN),
        ("aten::slice.Tensor", KNOWN),
        ("aten::erfc", KNOWN),
        ("aten::erfc_", KNOWN),
        (torch.ops.aten.relu, KNOWN),
        (torch.ops.aten.max.dim, KNOWN),
        ("aten::matmul", COMPOSED),
        (torch.ops.aten.einsum, COMPOSED),
        ("aten::never_heard_of", MISSING),
        ("prims::sin", MISSING),
    ],
)
def test_what_gammaslim_follows_already_is_refused(name, why):
    with pytest.raises(gs.RuleError, match="is PyTorch's own") as error:
        gs.rule(name)
    assert why in str(error.value)


@pytest.mark.parametrize("name", ["aten::tril", torch.ops.aten.tril, torch.ops.aten.tril.default])
def test_an_operator_of_pytorch_without_a_rule_can_be_taught(name):
    """Unknown before and after; in between, each channel's own triangle."""
    assert only_reason(toy(torch.tril)) == "unknown operator aten.tril"
    with gs.rule(name)(lambda call: call.give(call.out, call.labels(call["self"]), zero=True)):
        graph = toy(torch.tril)
        assert free(graph)
        assert flow(graph) == one_each(0, 1, 2, 3)
    assert not free(toy(torch.tril))


def test_every_verb_counts_as_said():
    """Parts that are tied, and sizes that are followed, are not left out."""

    def halves(call: gs.OperatorCall) -> None:
        batch, channels, *rest = call.labels(call["x"])
        call.tie(channels.reshape(2, -1), "halves")
        labels = call.fresh(4)
        call.follow(labels, None)
        call.give(call.outputs[0], (batch, labels, *rest))

    with gs.rule(twice)(halves):
        graph = gs.trace(Toy(operator(twice)), image())
    assert flow(graph) == [(), (), (), ()]
    assert reasons(graph, INTO) == [""] * 4


def test_zero_may_hang_on_some_of_the_inputs():
    """A gate that is zero where its weight is."""

    def product(call: gs.OperatorCall) -> None:
        batch, channels, *rest = call.labels(call["x"])
        (weights,) = call.labels(call["weight"])
        labels = (batch, call.unite(channels, weights), *rest)
        call.give(call.out, labels, zero=[call["weight"]])
        found.append((call.zero(call["x"]), call.zero(call.out), call.operator))

    found: list[Any] = []
    with gs.rule(weighted)(product):
        model = Weighted()
        gs.trace(model, image())
    assert found[0] == (False, True, "weighted")


@pytest.mark.parametrize("name", ["gate", "a::b::c", 3, torch.relu])
def test_what_is_no_operator_is_refused(name):
    with pytest.raises(gs.RuleError, match="A rule is registered for an operator"):
        gs.rule(name)


# What a rule says


def test_labels_can_be_reordered():
    """An operator that turns the channels around."""
    with torch.library._scoped_library("gammaslim_tests", "FRAGMENT") as library:
        library.define("turned(Tensor x) -> Tensor")
        library.impl("turned", lambda x: x.flip(1), "CompositeExplicitAutograd")

        def turned(call: gs.OperatorCall) -> None:
            batch, channels, *rest = call.labels(call["x"])
            call.give(call.outputs[0], (batch, channels[::-1], *rest))

        with gs.rule("gammaslim_tests::turned")(turned):
            graph = toy(torch.ops.gammaslim_tests.turned)
    assert free(graph)
    assert flow(graph) == one_each(3, 2, 1, 0)


def test_labels_that_count():
    """The mean is taken over the kept channels, also in the reference."""

    def mean(call: gs.OperatorCall) -> None:
        labels = call.labels(call["x"])
        call.counts(labels[1])
        call.give(call.outputs[0], labels)

    with gs.rule(minus_mean)(mean):
        graph = toy(operator(minus_mean))
    assert free(graph)
    assert exact(graph) == [False] * 4


def test_labels_that_freeze():
    with gs.rule(twice)(lambda call: (
        call.freeze(call.labels(call["x"])[1], "it is used up"),
        call.give(call.outputs[0], (None,) * 4),
    )):  # fmt: skip
        graph = toy(operator(twice))
    assert only_reason(graph) == "it is used up"


def test_what_a_rule_leaves_out_is_frozen():
    """The second half is given on to nothing."""

    def half(call: gs.OperatorCall) -> None:
        batch, channels, *rest = call.labels(call["x"])
        kept = np.concatenate([channels[:2], channels[:2]])
        call.give(call.outputs[0], (batch, kept, *rest))

    with gs.rule(twice)(half):
        graph = gs.trace(Toy(operator(twice)), image())
    left = "the rule for gammaslim_tests.twice leaves it out"
    assert reasons(graph, INTO)[2:] == [left, left]


def test_an_output_that_a_rule_leaves_out_freezes_everything():
    with gs.rule(pair)(lambda call: call.give(call.outputs[0], call.labels(call["x"]))):
        graph = toy(lambda x: pair(x)[0])
    assert only_reason(graph) == "the rule for gammaslim_tests.pair leaves out an output"


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (lambda call: call.give(call.outputs[0], call.labels(call["x"])[:2]),
         "ValueError: labels of lengths [None, 4] do not fit an output of shape [2, 4, 4, 4]"),
        (lambda call: call.unite(call.labels(call["x"])[1], np.arange(3)),
         "ValueError: 4 labels cannot be united with 3"),
        (lambda call: call["y"], "KeyError: 'y'"),
    ],
    ids=["lengths", "unite", "argument"],
)  # fmt: skip
def test_a_rule_that_fails_freezes_and_is_reported(body, error):
    text = f"the rule for gammaslim_tests.twice failed ({error})"
    with gs.rule(twice)(body), pytest.warns(gs.GammaslimWarning, match=re.escape(text)):
        graph = gs.trace(Toy(operator(twice)), image())
    assert only_reason(graph) == text


def test_a_wrong_rule_cannot_make_a_wrong_network():
    """``flip`` taken for an elementwise operator pairs every channel with the wrong partner."""
    wrong = torch.library.custom_op(
        "gammaslim_tests::wrong", lambda x: x.flip(1), mutates_args=(),
        schema="(Tensor x) -> Tensor",
    )  # fmt: skip
    with gs.rule(wrong)(lambda call: call.give(call.outputs[0], call.labels(call["x"]))):
        model = Toy(operator(wrong))
        oracle.randomise_batchnorms(model, 0)
        graph = gs.trace(model, image())
        plan = gs.select(graph, np.arange(graph.num_channels) + 1.0, threshold=1.5)
        with pytest.raises(gs.VerificationError, match=r"\. There .* is tied to .* by aten\."):
            gs.prune(model, graph, plan)


# The document


def test_the_example_in_the_docs():
    """Every block of ``docs/rules.md``, in order; what its text claims holds."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "rules.md").read_text("utf-8"), re.DOTALL)
    names: dict[str, Any] = {"__name__": "docs.rules"}
    exec(blocks[0], names)  # noqa: S102 -- our own documentation
    assert gs.trace(names["model"], names["image"]).coverage == 0
    exec(blocks[1], names)  # noqa: S102
    assert names["graph"].coverage == 1
    assert len(names["model"][3].weight) == 8
    names["lower"] = Toy(torch.tril)
    exec(blocks[2], names)  # noqa: S102
    assert names["triangles"].coverage == 1
    names["lower_triangle"].remove()
    names["build"] = lambda: names["model"]
    exec(blocks[3], names)  # noqa: S102
    assert gs.trace(names["model"], names["image"]).coverage == 0
