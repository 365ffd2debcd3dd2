"""Normalisation: BatchNorm in all its forms, LayerNorm, GroupNorm; and softmax."""

from __future__ import annotations

from torch import nn

from gammaslim.labels import Partition
from gammaslim.recording import ALWAYS, OperatorCall
from gammaslim.rules.registry import rule


@rule(
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
    "cudnn_batch_norm", "miopen_batch_norm", "_batch_norm_with_update",
    "_batch_norm_no_update", "batch_norm_with_update",
)  # fmt: skip
def batch_norm(call: OperatorCall) -> None:
    """Y = γ (x − μ) / σ + β, each channel by itself; γ of a named tensor is a scale."""
    x, weight, bias = call["input"], call.get("weight"), call.get("bias")
    tensors = [weight, bias, call.get("running_mean"), call.get("running_var")]
    per_channel = [t for t in tensors if t is not None]
    dims = list(call.labels(x))
    channels = dims[1]
    if call.selects(channels, weight):
        channels = call.labels(weight)[0]
    for tensor in per_channel:
        channels = call.unite(channels, call.labels(tensor)[0], call.fixed_for(x))
    dims[1] = channels
    call.scales(weight, bias)
    for axis, labels in enumerate(dims):
        if axis != 1 and labels is not None:  # its number enters the statistics
            # The input counts by what this BatchNorm reads of it, which may be less than there is.
            call.counts(labels, [tuple(dims), *per_channel])
    affine = weight is not None and bias is not None
    call.give(call.out, dims, zero=ALWAYS if affine else [x])
    for out in call.outputs[1:]:
        if out.ndim == 1 and out.shape[0] == x.shape[1]:
            call.give(out, (channels,))


@rule("native_layer_norm", "_fused_rms_norm")
def layer_norm(call: OperatorCall) -> None:
    """Statistics over the last dimensions: they depend on how many channels there are."""
    x, weight, bias = call["input"], call.get("weight"), call.get("bias")
    tensors = [t for t in (x, weight, bias) if t is not None]
    dims = call.broadcast(tensors, tuple(x.shape))
    normalized = dims[x.ndim - len(call["normalized_shape"]) :]
    if isinstance(call.module, nn.LayerNorm | nn.RMSNorm):
        call.normalizes(normalized)
    else:
        shape = call.given("normalized_shape", call["normalized_shape"])
        for labels, given in zip(normalized, shape, strict=True):
            if labels is not None:
                call.follow(labels, given)
    call.give(call.out, dims, zero=ALWAYS if len(tensors) == 3 else False)
    for labels in normalized:
        call.counts(labels, tensors)


@rule("native_group_norm")
def group_norm(call: OperatorCall) -> None:
    """Statistics over each group: whole groups go exactly, equal columns change the counts."""
    x, weight, bias, groups = call["input"], call["weight"], call["bias"], call["group"]
    tensors = [t for t in (x, weight, bias) if t is not None]
    dims = list(call.labels(x))
    for tensor in tensors[1:]:
        dims[1] = call.unite(dims[1], call.labels(tensor)[0], call.fixed_for(x))
    call.give(call.out, dims, zero=ALWAYS if len(tensors) == 3 else False)
    channels = dims[1]
    if channels is not None and groups > 1:
        rows = (channels.reshape(groups, -1),)
        reason = call.reason(f"group normalisation with {groups} groups")
        call.partition(Partition(rows, (None,), whole=False, reason=reason))
    call.counts(channels, tensors)


@rule("_softmax", "_log_softmax", "_safe_softmax", "softmax", "log_softmax")
def softmax(call: OperatorCall) -> None:
    """Normalises over one dimension; channels along it count, all others pass."""
    dims = call.labels(call["self"])
    call.give(call.out, dims)
    call.counts(dims[call["dim"]])
