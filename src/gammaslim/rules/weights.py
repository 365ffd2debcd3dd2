"""Convolutions, matrix products and lookups: operators that contract over channels."""

from __future__ import annotations

import math

import numpy as np

from gammaslim.arrays import IntArray
from gammaslim.labels import LabelArray, Partition, fixed_code
from gammaslim.network import CONVOLUTION
from gammaslim.recording import ALWAYS, OperatorCall, Size
from gammaslim.rules.registry import rule


@rule("convolution")
def convolution(call: OperatorCall) -> None:
    """y[o] = Σ_i w[o, i] * x[i]: inputs unite with the weight's columns, outputs with its rows."""
    x, weight, bias = call["input"], call["weight"], call["bias"]
    groups, transposed = call["groups"], call["transposed"]
    batch, channels, *spatial = call.labels(x)
    first, second, *kernel = call.labels(weight)
    for labels in spatial:
        call.freeze(labels, "a convolution runs along it")
    for labels in kernel:
        call.kernel(labels)
    if groups == 1:
        rows, columns = (second, first) if transposed else (first, second)
        inputs = call.unite(channels, columns, call.fixed_for(x))
        outputs, partition = rows, None
    else:
        inputs, outputs, partition = _grouped(call, channels, first, second)
    if bias is not None:
        outputs = call.unite(outputs, call.labels(bias)[0])
    own = [tensor for tensor in (weight, bias) if tensor is not None]
    call.give(call.out, (batch, outputs, *(None for _ in spatial)), zero=own)
    if isinstance(call.module, CONVOLUTION):
        inputs, outputs = (
            call.or_fixed(inputs, x.shape[1]), call.or_fixed(outputs, call.out.shape[1])
        )  # fmt: skip
        call.convolves(inputs, outputs, partition)
    places = x if transposed else call.out
    coefficient = places.shape[0] * math.prod(places.shape[2:]) * math.prod(weight.shape[2:])
    call.work(coefficient, [(first, weight.shape[0]), (second, weight.shape[1])])


# A convolution of 8 inputs and 4 outputs in 2 groups has a weight of 4 x 4: rows 0 and 1 read
# inputs 0 ... 3, rows 2 and 3 read inputs 4 ... 7.  To stay one, it must keep as many rows, and as
# many inputs, of either group.  So either the same column of every group goes: inputs 1 and 5 with
# column 1 of the weight, or rows 0 and 2.  Or a whole group goes: inputs 0 ... 3 with rows 0 and 1,
# which changes ``groups``, and is possible where that is the module's own or a size that follows.
# In a depthwise convolution, of as many groups as inputs, every group is one input with its rows.
def _grouped(
    call: OperatorCall, channels: LabelArray, first: LabelArray, second: LabelArray
) -> tuple[LabelArray, LabelArray, Partition | None]:
    """Either whole groups go, or the same column of every group."""
    x, groups, module = call["input"], call["groups"], call.module
    reason = call.reason(f"grouped convolution with {groups} groups")
    inputs = call.or_fixed(channels, x.shape[1], by=x)
    if call["transposed"]:
        inputs = call.unite(inputs, call.or_fixed(first, len(inputs)))
        outputs = call.fresh(call.out.shape[1])
        columns: tuple[LabelArray, ...] = (None, second)
    else:
        outputs = call.or_fixed(first, call.out.shape[1])
        columns = (second, None)
    rows: tuple[IntArray, ...] = (inputs.reshape(groups, -1), outputs.reshape(groups, -1))
    given = None if isinstance(module, CONVOLUTION) else call.written("groups")
    followed = given if isinstance(given, Size) and not given.constant else None
    owned = isinstance(module, CONVOLUTION) and module.groups == groups
    whole = owned or followed is not None
    counted = inputs
    if whole and len(inputs) == groups:
        partition = Partition(rows, columns, whole, reason, goes_whole=True)
        call.unite(np.repeat(inputs, len(outputs) // groups), outputs)
    else:
        if followed is not None:  # one label per group, which a cut of columns keeps
            counted = call.fresh(groups)
            rows = (*rows, counted[:, None])
            columns = (*columns, np.array([fixed_code(reason)]))
        partition = call.partition(Partition(rows, columns, whole, reason))
    if followed is not None:
        call.follow(counted, followed)
    return inputs, outputs, partition


@rule("mm", "bmm", "addmm", "baddbmm", "mv", "dot", "addbmm")
def product(call: OperatorCall) -> None:
    """Matrix product: the contracted dimensions unite, batch dimensions unite."""
    *bias, left, right = call.inputs
    a, b = call.labels(left), call.labels(right)
    inner_b = 0 if right.ndim == 1 else right.ndim - 2
    inner = call.unite(a[-1], b[inner_b], call.fixed_for(left, right))
    batch = [call.unite(p, q) for p, q in zip(a[:-2], b[:-2], strict=False)]
    rest = (*a[len(batch) : -1], *(b[-1:] if right.ndim > 1 else ()))
    if call.operator == "addbmm":  # which sums over the batch as well
        call.counts(batch.pop())
    out: tuple[LabelArray, ...] = (*batch, *rest)
    zeros = call.zero(left), call.zero(right)
    if not any(zeros):
        call.counts(inner)
    zero = all(z or d is None for z, d in zip(zeros, (*a[-2:-1], *b[-1:]), strict=False))
    if bias:
        zero = zero and call.zero(*bias)
        call.give(call.out, out)
        out = call.broadcast([call.out, *bias], tuple(call.out.shape))
    call.give(call.out, out, zero=ALWAYS if zero else False)
    axes = list(zip(a, left.shape, strict=True))
    if right.ndim > 1:
        axes.append((b[-1], right.shape[-1]))
    if call.operator not in ("mv", "dot"):
        call.work(1, axes)


@rule("linear")
def linear(call: OperatorCall) -> None:
    """Y = x Wᵀ + b over the last dimension."""
    x, weight, bias = call["input"], call["weight"], call["bias"]
    rows, columns = call.labels(weight)
    *lead, channels = call.labels(x)
    call.unite(channels, columns, call.fixed_for(x))
    own = [weight]
    if bias is not None:
        rows = call.unite(rows, call.labels(bias)[0])
        own.append(bias)
    call.give(call.out, (*lead, rows), zero=own)
    axes = list(zip(call.labels(x), x.shape, strict=True))
    call.work(1, [*axes, (rows, weight.shape[0])])


@rule("mkldnn_rnn_layer")
def recurrent(call: OperatorCall) -> None:
    """One layer of an RNN: features enter through the columns of its first weight; states stay."""
    x, weight = call["input"], call["weight0"]
    *lead, features = call.labels(x)
    rows, columns = call.labels(weight)
    call.unite(features, columns, call.fixed_for(x))
    others = [tensor for tensor in call.inputs if tensor is not x and tensor is not weight]
    for labels in (*lead, rows, *(own for other in others for own in call.labels(other))):
        call.freeze(labels, "state of a recurrent layer")
    for out in call.outputs:
        call.give(out, (None,) * out.ndim)


@rule("_cdist_forward", "_euclidean_dist")
def distances(call: OperatorCall) -> None:
    """d[i, j] = ‖x₁[i] − x₂[j]‖: features unite, and add nothing where both are zero."""
    left, right = call["x1"], call["x2"]
    a, b = call.labels(left), call.labels(right)
    features = call.unite(a[-1], b[-1], call.fixed_for(left))
    batch = [call.unite(p, q) for p, q in zip(a[:-2], b[:-2], strict=False)]
    call.give(call.out, (*batch, a[-2], b[-2]))
    if not call.zero(left, right):
        call.counts(features)


@rule("embedding")
def embedding(call: OperatorCall) -> None:
    """Rows of a table by index: the rows stay, the columns pass."""
    rows, columns = call.labels(call["weight"])
    call.freeze(rows, "rows of an embedding table are looked up by index")
    call.give(call.out, (*call.labels(call["indices"]), columns), zero=[call["weight"]])


@rule("_weight_norm_interface")
def weight_norm(call: OperatorCall) -> None:
    """W = g · v / ‖v‖: masked columns are zero and add nothing to the norm."""
    dims = call.broadcast([call["v"], call["g"]], tuple(call["v"].shape))
    call.give(call.out, dims, zero=ALWAYS)
    call.give(call.outputs[1], call.labels(call["g"]))
    call.recount([call["v"], call["g"]])  # a masked row is 0 / 0
