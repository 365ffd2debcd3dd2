"""Normalisation: BatchNorm in all its forms, LayerNorm, GroupNorm; and softmax."""

from __future__ import annotations

from torch import nn

from gammaslim.labels.store import LabelArray, Partition
from gammaslim.recording.ops import Op
from gammaslim.recording.recorder import Recorder
from gammaslim.rules.pointwise import broadcast
from gammaslim.rules.registry import rule


@rule(
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
    "cudnn_batch_norm", "miopen_batch_norm", "_batch_norm_with_update",
    "_batch_norm_no_update", "batch_norm_with_update",
)  # fmt: skip
def batch_norm(recorder: Recorder, op: Op) -> None:
    """Y = γ (x − μ) / σ + β, each channel by itself; γ of a named tensor is a scale."""
    x, weight = op["input"], op.get("weight")
    dims = list(recorder.dims(x))
    channels = dims[1]
    own = recorder.dims(weight)[0] if weight is not None else None
    # Of a BatchNorm module only: InstanceNorm repeats its weight for every image.
    module = recorder.module_name
    mine = recorder.name_of(weight) == f"{module}.weight"
    if recorder.streams.select(module if mine else "", channels, own):
        channels = own
    for name in ("weight", "bias", "running_mean", "running_var"):
        if (own := op.get(name)) is not None:
            channels = recorder.unite(channels, recorder.dims(own)[0], recorder.labels(x).reason)
    dims[1] = channels
    _remember_scale(recorder, op)
    _statistics_over(recorder, op, dims)
    affine = weight is not None and op.get("bias") is not None
    recorder.give(op.out, dims, zero=affine or recorder.labels(x).zero)
    for out in op.outputs[1:]:
        if out.ndim == 1 and out.shape[0] == x.shape[1]:
            recorder.give(out, (channels,))


def _remember_scale(recorder: Recorder, op: Op) -> None:
    name = recorder.name_of(op.get("weight"))
    if name is not None:
        recorder.findings.scales[name] = recorder.name_of(op.get("bias"))


def _statistics_over(recorder: Recorder, op: Op, dims: list[LabelArray]) -> None:
    """Mark channels whose number enters the statistics, as in weight standardisation.

    ``dims``: those of the output.
    """
    labelled = [d for i, d in enumerate(dims) if i != 1 and d is not None]
    for labels in labelled:
        recorder.depends_on_count(labels)
    if labelled:
        tensors = (op.get(name) for name in ("weight", "bias", "running_mean", "running_var"))
        # The input counts by what this BatchNorm reads of it, which may be less than there is.
        recorder.recount([tuple(dims), *(t for t in tensors if t is not None)])


@rule("native_layer_norm", "_fused_rms_norm")
def layer_norm(recorder: Recorder, op: Op) -> None:
    """Statistics over the last dimensions: they depend on how many channels there are."""
    x, weight, bias = op["input"], op.get("weight"), op.get("bias")
    affine = [t for t in (weight, bias) if t is not None]
    dims = broadcast(recorder, [x, *affine], tuple(x.shape))
    normalized = dims[x.ndim - len(op["normalized_shape"]) :]
    if isinstance(recorder.module, nn.LayerNorm | nn.RMSNorm):
        recorder.findings.normalized[recorder.module_name] = normalized
    else:
        shape = recorder.call.given("normalized_shape", op["normalized_shape"])
        for labels, given in zip(normalized, shape, strict=True):
            if labels is not None:
                recorder.follow(labels, given)
    inner = [d for d in normalized if d is not None]
    recorder.give(op.out, dims, zero=weight is not None and bias is not None)
    for labels in inner:
        recorder.depends_on_count(labels)
    if inner:
        recorder.recount([x, *affine])


@rule("native_group_norm")
def group_norm(recorder: Recorder, op: Op) -> None:
    """Statistics over each group: whole groups go exactly, equal columns change the counts."""
    x, weight, bias, groups = op["input"], op["weight"], op["bias"], op["group"]
    affine = [t for t in (weight, bias) if t is not None]
    dims = list(recorder.dims(x))
    for own in affine:
        dims[1] = recorder.unite(dims[1], recorder.dims(own)[0], recorder.labels(x).reason)
    recorder.give(op.out, dims, zero=weight is not None and bias is not None)
    channels = dims[1]
    if channels is None:
        return
    if groups > 1:
        rows = (channels.reshape(groups, -1),)
        reason = recorder.reason(f"group normalisation with {groups} groups")
        recorder.store.partition(Partition(rows, (None,), whole=False, reason=reason))
    recorder.depends_on_count(channels)
    recorder.recount([x, *affine])


@rule("_softmax", "_log_softmax", "_safe_softmax", "softmax", "log_softmax")
def softmax(recorder: Recorder, op: Op) -> None:
    """Normalises over one dimension; channels along it count, all others pass."""
    x = op["self"]
    dims = recorder.dims(x)
    along = dims[op["dim"]]
    recorder.give(op.out, dims)
    if along is not None:
        recorder.depends_on_count(along)
        recorder.recount([x])
