"""Convolutions, matrix products and lookups: operators that contract over channels."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from gammaslim.arrays import IntArray
from gammaslim.labels.store import LabelArray, Partition, fixed_code, or_fixed
from gammaslim.network.modules import CONVOLUTION
from gammaslim.recording.findings import ConvSizes
from gammaslim.recording.ops import Op
from gammaslim.recording.recorder import Recorder
from gammaslim.recording.sizes import Size
from gammaslim.rules.pointwise import broadcast
from gammaslim.rules.registry import rule


@rule("convolution")
def convolution(recorder: Recorder, op: Op) -> None:
    """y[o] = Σ_i w[o, i] * x[i]: inputs unite with the weight's columns, outputs with its rows."""
    x, weight, bias = op["input"], op["weight"], op["bias"]
    groups, transposed = op["groups"], op["transposed"]
    batch, channels, *spatial = recorder.dims(x)
    first, second, *kernel = recorder.dims(weight)
    for labels in spatial:
        recorder.freeze(labels, "a convolution runs along it")
    for labels in kernel:
        recorder.freeze(labels, "kernel size of a convolution")
        recorder.findings.kernels += [] if labels is None else [labels]
    if groups == 1:
        rows, columns = (second, first) if transposed else (first, second)
        inputs = recorder.unite(channels, columns, recorder.labels(x).reason)
        outputs, partition = rows, None
    else:
        inputs, outputs, partition = _grouped(recorder, op, channels, first, second)
    if bias is not None:
        outputs = recorder.unite(outputs, recorder.dims(bias)[0])
    zero = recorder.labels(weight).zero and (bias is None or recorder.labels(bias).zero)
    recorder.give(op.out, (batch, outputs, *(None for _ in spatial)), zero=zero)
    _remember(recorder, op, inputs, outputs, partition)
    _count(recorder, op, first, second)


def _grouped(
    recorder: Recorder, op: Op, channels: LabelArray, first: LabelArray, second: LabelArray
) -> tuple[LabelArray, LabelArray, Partition | None]:
    """Either whole groups go, or the same column of every group."""
    x, groups = op["input"], op["groups"]
    reason = recorder.reason(f"grouped convolution with {groups} groups")
    fixed = fixed_code(recorder.labels(x).reason)
    inputs = or_fixed(channels, x.shape[1], fixed)
    if op["transposed"]:
        columns_in = or_fixed(first, len(inputs), fixed_code(0))
        inputs = recorder.store.unite(inputs, columns_in)
        outputs = recorder.store.fresh(op.out.shape[1])
        columns: tuple[LabelArray, ...] = (None, second)
    else:
        outputs = or_fixed(first, op.out.shape[1], fixed_code(0))
        columns = (second, None)
    rows: tuple[IntArray, ...] = (inputs.reshape(groups, -1), outputs.reshape(groups, -1))
    given = _followed_groups(recorder)
    whole = given is not None or _owns_groups(recorder, groups)
    counted = inputs
    if whole and len(inputs) == groups:  # depthwise: every group is one channel
        partition = Partition(rows, columns, whole, reason, goes_whole=True)
        recorder.store.unite(np.repeat(inputs, len(outputs) // groups), outputs)
    else:
        if given is not None:  # one label per group, which a cut of columns keeps
            counted = recorder.store.fresh(groups)
            rows = (*rows, counted[:, None])
            columns = (*columns, np.array([fixed_code(reason)]))
        partition = recorder.store.partition(Partition(rows, columns, whole, reason))
    if given is not None:
        recorder.demand(counted, given)
    return inputs, outputs, partition


def _owns_groups(recorder: Recorder, groups: int) -> bool:
    """Whether the number of groups is a convolution module's own, which surgery sets anew."""
    owner = recorder.module
    return isinstance(owner, CONVOLUTION) and owner.groups == groups


def _followed_groups(recorder: Recorder) -> Size | None:
    """The number of groups, where the network's code computes it or holds it in a module."""
    given = None if isinstance(recorder.module, CONVOLUTION) else recorder.call.written("groups")
    return given if isinstance(given, Size) and not given.constant else None


def _remember(
    recorder: Recorder,
    op: Op,
    inputs: LabelArray,
    outputs: LabelArray,
    partition: Partition | None,
) -> None:
    """Keep the labels behind the module's in_channels, out_channels and groups."""
    if isinstance(recorder.module, CONVOLUTION):
        recorder.findings.convolutions[recorder.module_name] = ConvSizes(
            or_fixed(inputs, op["input"].shape[1], fixed_code(0)),
            or_fixed(outputs, op.out.shape[1], fixed_code(0)),
            partition,
        )


def _count(recorder: Recorder, op: Op, first: LabelArray, second: LabelArray) -> None:
    weight = op["weight"]
    places = op["input"] if op["transposed"] else op.out
    coefficient = places.shape[0] * math.prod(places.shape[2:]) * math.prod(weight.shape[2:])
    axes = [(first, weight.shape[0]), (second, weight.shape[1])]
    recorder.work(op, coefficient, axes)


@rule("mm", "bmm", "addmm", "baddbmm", "mv", "dot", "addbmm")
def product(recorder: Recorder, op: Op) -> None:
    """Matrix product: the contracted dimensions unite, batch dimensions unite."""
    bias, left, right = _operands(op)
    a, b = recorder.dims(left), recorder.dims(right)
    inner_b = 0 if right.ndim == 1 else right.ndim - 2
    reason = recorder.labels(left).reason or recorder.labels(right).reason
    inner = recorder.unite(a[-1], b[inner_b], reason)
    batch = [recorder.unite(p, q) for p, q in zip(a[:-2], b[:-2], strict=False)]
    out = [*batch, *a[len(batch) : -1], *(b[-1:] if right.ndim > 1 else ())]
    zeros = (recorder.labels(left).zero, recorder.labels(right).zero)
    if inner is not None and not any(zeros):
        recorder.depends_on_count(inner)
        recorder.recount([t for t in (bias, left, right) if t is not None])
    zero = all(z or d is None for z, d in zip(zeros, (*a[-2:-1], *b[-1:]), strict=False))
    if bias is not None:
        zero = zero and recorder.labels(bias).zero
        recorder.give(op.out, out)
        out = list(broadcast(recorder, [op.out, bias], tuple(op.out.shape)))
    recorder.give(op.out, out, zero=zero)
    axes = [(d, n) for d, n in zip(a, left.shape, strict=True)]
    if right.ndim > 1:
        axes.append((b[-1], right.shape[-1]))
    if "mv" not in op.name and "dot" not in op.name:
        recorder.work(op, 1, axes)


def _operands(op: Op) -> tuple[Tensor | None, Tensor, Tensor]:
    *bias, left, right = op.inputs
    return (bias[0] if bias else None), left, right


@rule("linear")
def linear(recorder: Recorder, op: Op) -> None:
    """Y = x Wᵀ + b over the last dimension."""
    x, weight, bias = op["input"], op["weight"], op["bias"]
    rows, columns = recorder.dims(weight)
    *lead, channels = recorder.dims(x)
    recorder.unite(channels, columns, recorder.labels(x).reason)
    zero = recorder.labels(weight).zero
    if bias is not None:
        rows = recorder.unite(rows, recorder.dims(bias)[0])
        zero = zero and recorder.labels(bias).zero
    recorder.give(op.out, (*lead, rows), zero=zero)
    axes = [(d, n) for d, n in zip(recorder.dims(x), x.shape, strict=True)]
    recorder.work(op, 1, [*axes, (rows, weight.shape[0])])


@rule("mkldnn_rnn_layer")
def recurrent(recorder: Recorder, op: Op) -> None:
    """One layer of an RNN: features enter through the columns of its first weight; states stay."""
    x, weight = op["input"], op["weight0"]
    *lead, features = recorder.dims(x)
    rows, columns = recorder.dims(weight)
    recorder.unite(features, columns, recorder.labels(x).reason)
    others = [t for t in op.inputs if t is not x and t is not weight]
    for labels in (*lead, rows, *(own for t in others for own in recorder.dims(t))):
        recorder.freeze(labels, "state of a recurrent layer")
    for out in op.outputs:
        recorder.give(out, (None,) * out.ndim)


@rule("_cdist_forward", "_euclidean_dist")
def distances(recorder: Recorder, op: Op) -> None:
    """d[i, j] = ‖x₁[i] − x₂[j]‖: features unite, and add nothing where both are zero."""
    left, right = op["x1"], op["x2"]
    a, b = recorder.dims(left), recorder.dims(right)
    features = recorder.unite(a[-1], b[-1], recorder.labels(left).reason)
    batch = [recorder.unite(p, q) for p, q in zip(a[:-2], b[:-2], strict=False)]
    recorder.give(op.out, (*batch, a[-2], b[-2]))
    if features is not None and not (recorder.labels(left).zero and recorder.labels(right).zero):
        recorder.depends_on_count(features)
        recorder.recount([left, right])


@rule("embedding")
def embedding(recorder: Recorder, op: Op) -> None:
    """Rows of a table by index: the rows stay, the columns pass."""
    rows, columns = recorder.dims(op["weight"])
    recorder.freeze(rows, "rows of an embedding table are looked up by index")
    lead = recorder.dims(op["indices"])
    recorder.give(op.out, (*lead, columns), zero=recorder.labels(op["weight"]).zero)


@rule("_weight_norm_interface")
def weight_norm(recorder: Recorder, op: Op) -> None:
    """W = g · v / ‖v‖: masked columns are zero and add nothing to the norm."""
    dims = broadcast(recorder, [op["v"], op["g"]], tuple(op["v"].shape))
    recorder.give(op.out, dims, zero=True)
    recorder.give(op.outputs[1], recorder.dims(op["g"]))
    recorder.recount([op["v"], op["g"]])  # a masked row is 0 / 0
