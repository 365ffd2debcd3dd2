"""Operators that act element by element, and those that only copy."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from gammaslim.labels.store import LabelArray
from gammaslim.recording.findings import Dims
from gammaslim.recording.ops import Op
from gammaslim.recording.recorder import Recorder
from gammaslim.rules.registry import rule

ZERO_TO_ZERO = frozenset([
    "relu", "silu", "gelu", "tanh", "hardswish", "leaky_relu", "elu", "celu", "selu", "mish",
    "softsign", "abs", "neg", "sqrt", "sin", "asin", "sinh", "tan", "atan", "erf", "sign",
    "square", "expm1", "log1p", "relu6", "_prelu_kernel", "softshrink", "hardshrink",
    "nan_to_num", "round", "floor", "ceil", "trunc",
])  # fmt: skip
"""Functions of one tensor with f(0) = 0."""

SUMS = frozenset(["add", "sub", "rsub", "lerp", "maximum", "minimum"])
PRODUCTS = frozenset(["mul", "logical_and"])
SINGULAR = frozenset(
    ["div", "true_divide", "reciprocal", "rsqrt", "log", "log2", "log10", "pow", "atan2"]
)
"""Not finite at zero, where masked channels are: the reference runs them over kept ones only."""

QUOTIENTS = frozenset(["div", "true_divide", "floor_divide", "fmod", "remainder"])


@rule(
    "add", "hardswish", "masked_fill", "floor_divide", "_prelu_kernel", "rrelu_with_noise",
    "copy", "fill", "true_divide", "normal", "uniform", "bernoulli", "random", "threshold",
    "log_sigmoid_forward", "where", "rrelu", "native_dropout", "zero",
    "exponential", "log_normal", "complex",
)  # fmt: skip
def pointwise(recorder: Recorder, op: Op) -> None:
    """Unite what meets index by index; broadcasting over a size-1 dimension couples nothing."""
    tensors = op.inputs
    shape = tuple(op.out.shape)
    dims = broadcast(recorder, tensors, shape)
    name = op.func.overloadpacket.__name__.rstrip("_")
    zero = _zero(recorder, op, name, tensors, dims)
    if name in SINGULAR and any(labels is not None for labels in dims):
        recorder.recount([_aligned(t, op.out, dims) for t in tensors])
        zero = True
    for out in op.outputs:
        if tuple(out.shape) == shape:
            recorder.give(out, dims, zero=zero)


def _aligned(tensor: Tensor, out: Tensor, dims: Dims) -> Dims:
    """The result's labels on every dimension of an operand that was not broadcast."""
    lead = out.ndim - tensor.ndim
    pairs = zip(tensor.shape, out.shape[lead:], dims[lead:], strict=True)
    return tuple(labels if own == full else None for own, full, labels in pairs)


def broadcast(recorder: Recorder, tensors: Sequence[Tensor], shape: tuple[int, ...]) -> Dims:
    """Labels of the broadcast of ``tensors``, right-aligned to ``shape``, after uniting them."""
    dims: list[LabelArray] = [None] * len(shape)
    for position, size in enumerate(shape):
        found: list[tuple[LabelArray, int]] = []
        for tensor in tensors:
            own = position - (len(shape) - tensor.ndim)
            if own >= 0 and tensor.shape[own] == size:
                labels = recorder.labels(tensor)
                found.append((labels.dims[own], labels.reason))
        if found and size != 1:
            dims[position] = _united(recorder, found)
    return tuple(dims)


def _united(recorder: Recorder, found: list[tuple[LabelArray, int]]) -> LabelArray:
    united, why = found[0]
    for labels, reason in found[1:]:
        fixed = why if united is None else reason
        united, why = recorder.unite(united, labels, fixed), fixed
    return united


def _zero(recorder: Recorder, op: Op, name: str, tensors: Sequence[Tensor], dims: Dims) -> bool:
    """Whether a removed channel is exactly zero in the result, in the masked network."""
    spans = [_spans(recorder, t, dims) and recorder.labels(t).zero for t in tensors]
    if name in PRODUCTS:
        return any(spans)
    if name in ZERO_TO_ZERO or name in QUOTIENTS:
        return bool(spans) and spans[0]
    return all(spans) and _maps_zero_to_zero(op, name, len(tensors))


def _maps_zero_to_zero(op: Op, name: str, tensors: int) -> bool:
    """Whether the result is zero where every tensor operand is."""
    if name in ("add", "sub") and tensors == 1:
        return op["other"] == 0
    if name == "hardtanh":
        return op["min_val"] <= 0 <= op["max_val"]
    return name in ("native_dropout", "zero", "copy", "complex", *SUMS)


def _spans(recorder: Recorder, tensor: Tensor, dims: Dims) -> bool:
    """Whether the tensor itself carries every labelled dimension of the result."""
    own = recorder.dims(tensor)
    padded = (None,) * (len(dims) - len(own)) + tuple(own)
    return all(have is not None for have, out in zip(padded, dims, strict=True) if out is not None)


@rule(
    "detach", "alias", "_to_copy", "clone", "contiguous", "lift_fresh", "lift_fresh_copy",
    "positive",
    "_conj", "resolve_conj", "resolve_neg", "to",
)  # fmt: skip
def identity(recorder: Recorder, op: Op) -> None:
    """The same tensor under another name, type or memory layout."""
    source = recorder.labels(op.inputs[0])
    recorder.give(op.out, source.dims, zero=source.zero, reason=source.reason, grid=source.grid)


@rule("is_pinned", "is_same_size")
def question(recorder: Recorder, op: Op) -> None:
    """Asks where or how large tensors are; whatever goes, the answer stays as it is."""
    del recorder, op


@rule(
    "zeros_like", "empty_like", "ones_like", "full_like", "rand_like", "randn_like",
)  # fmt: skip
def like(recorder: Recorder, op: Op) -> None:
    """A new tensor of the same size: it follows the same labels."""
    name = op.func.overloadpacket.__name__
    recorder.give(op.out, recorder.dims(op["self"]), zero=name == "zeros_like")


@rule(
    "zeros", "ones", "empty", "full", "rand", "randn", "new_zeros", "new_ones", "new_empty",
    "new_full",
)  # fmt: skip
def factory(recorder: Recorder, op: Op) -> None:
    """A new tensor of a given size: dimensions follow the sizes that the code read."""
    given = recorder.call.given("size", op["size"])
    pairs = zip(given, op.out.shape, strict=True)
    dims = [recorder.size_labels(g, n) for g, n in pairs]
    if recorder.call.written("pad") is not None:  # circular: copied into a tensor of its own making
        dims[:2] = recorder.dims(recorder.call.written("input"))[:2]
    if any(d is not None for d in dims):
        recorder.give(op.out, dims, zero="zeros" in op.name)
