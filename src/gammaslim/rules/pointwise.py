"""Operators that act element by element, and those that only copy."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from gammaslim.recording import ALWAYS, Dims, OperatorCall
from gammaslim.rules.registry import rule

ZERO_TO_ZERO = frozenset([
    "relu", "silu", "gelu", "tanh", "hardswish", "leaky_relu", "elu", "celu", "selu", "mish",
    "softsign", "abs", "neg", "sqrt", "sin", "asin", "sinh", "tan", "atan", "erf", "sign",
    "square", "expm1", "log1p", "relu6", "_prelu_kernel", "softshrink", "hardshrink",
    "nan_to_num", "round", "floor", "ceil", "trunc",
])  # fmt: skip
"""Functions of one tensor with f(0) = 0."""

KEEPS_ZERO = frozenset([
    "add", "sub", "rsub", "lerp", "maximum", "minimum", "complex", "copy", "native_dropout", "zero",
])  # fmt: skip
"""Zero where all operands are."""

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
def pointwise(call: OperatorCall) -> None:
    """Unite what meets index by index; broadcasting over a size-1 dimension couples nothing."""
    shape = tuple(call.out.shape)
    dims = call.broadcast(call.inputs, shape)
    zero = _zero(call, dims)
    if call.operator in SINGULAR and any(labels is not None for labels in dims):
        call.recount([_aligned(tensor, shape, dims) for tensor in call.inputs])
        zero = ALWAYS
    for out in call.outputs:
        if tuple(out.shape) == shape:
            call.give(out, dims, zero=zero)


def _aligned(tensor: Tensor, shape: tuple[int, ...], dims: Dims) -> Dims:
    """The result's labels on every dimension of an operand that was not broadcast."""
    lead = len(shape) - tensor.ndim
    pairs = zip(tensor.shape, shape[lead:], dims[lead:], strict=True)
    return tuple(labels if own == full else None for own, full, labels in pairs)


def _zero(call: OperatorCall, dims: Dims) -> bool | Sequence[Tensor]:
    """The tensors that make a removed channel exactly zero in the result, if any do."""
    name, tensors = call.operator, call.inputs
    along = [-axis for axis, labels in enumerate(reversed(dims), 1) if labels is not None]
    # One that was broadcast along the channels has no element that is a removed channel's own.
    spans = [
        all(-axis <= tensor.ndim and own[axis] is not None for axis in along)
        for tensor, own in zip(tensors, map(call.labels, tensors), strict=True)
    ]
    if name in PRODUCTS:
        pairs = zip(tensors, spans, strict=True)
        return next(([tensor] for tensor, own in pairs if own and call.zero(tensor)), False)
    if name in ZERO_TO_ZERO or name in QUOTIENTS:
        return tensors[:1] if spans and spans[0] else False
    if name in ("add", "sub") and len(tensors) == 1:
        return call["other"] == 0 and all(spans)
    if name == "hardtanh":
        return call["min_val"] <= 0 <= call["max_val"] and all(spans)
    return name in KEEPS_ZERO and all(spans)


@rule(
    "detach", "alias", "_to_copy", "clone", "contiguous", "lift_fresh", "lift_fresh_copy",
    "positive",
    "_conj", "resolve_conj", "resolve_neg", "to",
)  # fmt: skip
def identity(call: OperatorCall) -> None:
    """The same tensor under another name, type or memory layout."""
    x = call.inputs[0]
    reason, grid = call.fixed_for(x), call.follow_grid(x)
    call.give(call.out, call.labels(x), zero=[x], reason=reason, grid=grid)


@rule("is_pinned", "is_same_size")
def question(call: OperatorCall) -> None:
    """Asks where or how large tensors are; whatever goes, the answer stays as it is."""
    del call


@rule(
    "zeros_like", "empty_like", "ones_like", "full_like", "rand_like", "randn_like",
)  # fmt: skip
def like(call: OperatorCall) -> None:
    """A new tensor of the same size: it follows the same labels."""
    zero = ALWAYS if call.operator == "zeros_like" else False
    call.give(call.out, call.labels(call["self"]), zero=zero)


@rule(
    "zeros", "ones", "empty", "full", "rand", "randn", "new_zeros", "new_ones", "new_empty",
    "new_full",
)  # fmt: skip
def factory(call: OperatorCall) -> None:
    """A new tensor of a given size: dimensions follow the sizes that the code read."""
    pairs = zip(call.given("size", call["size"]), call.out.shape, strict=True)
    dims = [call.size_labels(given, length) for given, length in pairs]
    if call.written("pad") is not None:  # circular: copied into a tensor of its own making
        dims[:2] = call.labels(call.written("input"))[:2]
    if any(labels is not None for labels in dims):
        call.give(call.out, dims, zero=ALWAYS if "zeros" in call.name else False)
