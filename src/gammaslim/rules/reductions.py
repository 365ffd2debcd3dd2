"""Reductions, pooling and resampling: operators that take dimensions away or resize them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor

from gammaslim.labels.store import LabelArray
from gammaslim.recording.ops import Op
from gammaslim.recording.recorder import Recorder
from gammaslim.rules.registry import rule

SUM_LIKE = frozenset(["sum", "linalg_vector_norm", "norm"])
"""Reductions to which a zero adds nothing."""


@rule(
    "sum", "mean", "amax", "amin", "max", "min", "prod", "var", "std", "var_mean", "std_mean",
    "logsumexp", "linalg_vector_norm", "norm", "any", "all", "argmax", "argmin", "median",
)  # fmt: skip
def reduction(recorder: Recorder, op: Op) -> None:
    """Channels along a reduced dimension count; all others pass."""
    x = op.inputs[0]
    if len(op.inputs) > 1:  # max(a, b) of two tensors is pointwise
        from gammaslim.rules.pointwise import pointwise

        pointwise(recorder, op)
        return
    labels = recorder.labels(x)
    reduced = _dimensions(op.get("dim"), x.ndim)
    lost = [labels.dims[d] for d in reduced if labels.dims[d] is not None]
    keep = bool(op.get("keepdim", False))
    dims = [None if i in reduced else d for i, d in enumerate(labels.dims)]
    if not keep:
        dims = [d for i, d in enumerate(dims) if i not in reduced]
    name = op.func.overloadpacket.__name__
    for out in op.outputs:
        if out.ndim == len(dims):
            recorder.give(out, dims, zero=labels.zero and name in (*SUM_LIKE, "mean", "amax"))
    exact = name in SUM_LIKE and labels.zero
    for gone in lost:
        if gone is not None and not exact:
            recorder.depends_on_count(gone)
    if lost and not exact:
        recorder.recount([x])


def _dimensions(dim: int | Sequence[int] | None, ndim: int) -> set[int]:
    if dim is None or (isinstance(dim, list | tuple) and not dim):
        return set(range(ndim))
    dims = [dim] if isinstance(dim, int) else dim
    return {d % max(ndim, 1) for d in dims}


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
def spatial(recorder: Recorder, op: Op) -> None:
    """Acts on the trailing spatial dimensions, each channel by itself."""
    x = op.inputs[0]
    match = re.search(r"([123])d", op.name)
    count = int(match.group(1)) if match else 2
    labels = recorder.labels(x)
    lead, trailing = labels.dims[: x.ndim - count], labels.dims[x.ndim - count :]
    for own in trailing:
        recorder.freeze(own, "channels run along a spatial dimension")
    if len(op.inputs) > 1:
        for other in op.inputs[1:]:
            for own in recorder.dims(other):
                recorder.freeze(own, "channels run along a sampling grid")
    for out in op.outputs:
        spread = [None] * (out.ndim - len(lead))
        recorder.give(out, (*lead, *spread), zero=labels.zero)


@rule("cumsum", "cumprod", "sort", "topk", "cummax", "cummin", "logcumsumexp", "kthvalue")
def along(recorder: Recorder, op: Op) -> None:
    """Order along one dimension matters: channels there are kept, all others pass."""
    x: Tensor = op["self"]
    dims: list[LabelArray] = list(recorder.dims(x))
    axis = op.get("dim", -1) % max(x.ndim, 1)
    recorder.freeze(dims[axis], f"{op.name} runs along the channels")
    dims[axis] = None
    for out in op.outputs:
        if out.ndim == x.ndim:
            recorder.give(out, dims)
