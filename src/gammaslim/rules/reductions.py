"""Reductions, pooling and resampling: operators that take dimensions away or resize them."""

from __future__ import annotations

import re

import torch

from gammaslim.recording import OperatorCall
from gammaslim.rules.registry import RULES, rule

SUM_LIKE = frozenset(["sum", "linalg_vector_norm", "norm"])
"""Reductions to which a zero adds nothing."""


@rule(
    "sum", "mean", "amax", "amin", "max", "min", "prod", "var", "std", "var_mean", "std_mean",
    "logsumexp", "linalg_vector_norm", "norm", "any", "all", "argmax", "argmin", "median",
)  # fmt: skip
def reduction(call: OperatorCall) -> None:
    """Channels along a reduced dimension count; all others pass."""
    x, *others = call.inputs
    if others:  # max(a, b) of two tensors is as pointwise as their sum
        RULES[torch.ops.aten.add](call)
        return
    dims, dim = call.labels(x), call.get("dim")
    listed = [dim] if isinstance(dim, int) else dim or range(x.ndim)
    reduced = {axis % max(x.ndim, 1) for axis in listed}
    rest = [None if axis in reduced else labels for axis, labels in enumerate(dims)]
    if not call.get("keepdim", False):
        rest = [labels for axis, labels in enumerate(rest) if axis not in reduced]
    for out in call.outputs:
        if out.ndim == len(rest):
            call.give(out, rest, zero=call.operator in (*SUM_LIKE, "mean", "amax"))
    if not (call.operator in SUM_LIKE and call.zero(x)):  # to which a removed zero adds nothing
        for axis in reduced:
            call.counts(dims[axis])


@rule(
    "max_pool2d_with_indices", "max_pool3d_with_indices", "max_pool1d", "max_pool2d",
    "avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool1d_with_indices",
    "adaptive_avg_pool1d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d",
    "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d",
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_linear1d",
    "_upsample_nearest_exact2d", "upsample_bilinear2d", "upsample_bicubic2d",
    "upsample_trilinear3d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa",
    "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d",
    "replication_pad2d", "replication_pad3d", "grid_sampler_2d", "grid_sampler_3d",
    "fractional_max_pool2d", "max_unpool2d",
)  # fmt: skip
def spatial(call: OperatorCall) -> None:
    """Acts on the trailing spatial dimensions, each channel by itself."""
    x, *others = call.inputs
    match = re.search(r"([123])d", call.name)
    count = int(match.group(1)) if match else 2
    dims = call.labels(x)
    lead, trailing = dims[: x.ndim - count], dims[x.ndim - count :]
    for labels in trailing:
        call.freeze(labels, "channels run along a spatial dimension")
    for labels in (own for other in others for own in call.labels(other)):
        call.freeze(labels, "channels run along a sampling grid")
    for out in call.outputs:
        call.give(out, (*lead, *(None,) * (out.ndim - len(lead))), zero=[x])


@rule("cumsum", "cumprod", "sort", "topk", "cummax", "cummin", "logcumsumexp", "kthvalue")
def along(call: OperatorCall) -> None:
    """Order along one dimension matters: channels there are kept, all others pass."""
    x = call["self"]
    dims = list(call.labels(x))
    axis = call.get("dim", -1) % max(x.ndim, 1)
    call.freeze(dims[axis], f"{call.name} runs along the channels")
    dims[axis] = None
    for out in call.outputs:
        if out.ndim == x.ndim:
            call.give(out, dims)
