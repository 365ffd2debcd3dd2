"""Scaled dot-product attention, fused or not."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F  # noqa: N812

from gammaslim.labels.store import LabelArray
from gammaslim.recording.ops import Op
from gammaslim.recording.recorder import Recorder
from gammaslim.recording.sizes import PythonCall
from gammaslim.rules.registry import function_rule, rule

DEFAULT_SCALE = "the default attention scale depends on the feature size"


@function_rule(F.scaled_dot_product_attention)
def default_scale(recorder: Recorder, call: PythonCall) -> None:
    """Without ``scale`` it is 1 / √d of the features, whichever kernel PyTorch takes."""
    if call.written("scale") is None:
        for name in ("query", "key"):
            recorder.freeze(recorder.dims(call.written(name))[-1], DEFAULT_SCALE)


@rule("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention",
      "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention",
      "_scaled_dot_product_attention_math",
      "_scaled_dot_product_fused_attention_overrideable")  # fmt: skip
def attention(recorder: Recorder, op: Op) -> None:
    """softmax(q kᵀ · scale) v: q and k unite over their features, v's pass."""
    query, key, value = op["query"], op["key"], op["value"]
    q, k, v = recorder.dims(query), recorder.dims(key), recorder.dims(value)
    features = recorder.unite(q[-1], k[-1])
    heads = [_all_united(recorder, trio) for trio in zip(q[:-2], k[:-2], v[:-2], strict=True)]
    for labels in (k[-2], v[-2]):
        recorder.freeze(labels, "keys are normalised over by softmax")
    if op.outputs and op.out.ndim == query.ndim:
        recorder.give(op.out, (*heads, q[-2], v[-1]), zero=recorder.labels(value).zero)
    mask = op.get("attn_mask", op.get("attn_bias"))
    if mask is not None:
        for labels in recorder.dims(mask):
            recorder.freeze(labels, "dimension of an attention mask")
    zeros = recorder.labels(query).zero or recorder.labels(key).zero
    if features is not None and np.any(features >= 0) and not zeros:
        recorder.freeze(features, "masked attention features are not zero")
    pairs = query.shape[-2] * key.shape[-2]
    batch = list(zip(heads, query.shape[:-2], strict=True))
    recorder.work(op, pairs, [*batch, (features, query.shape[-1])])
    recorder.work(op, pairs, [*batch, (v[-1], value.shape[-1])])


def _all_united(recorder: Recorder, trio: tuple[LabelArray, ...]) -> LabelArray:
    return recorder.unite(recorder.unite(trio[0], trio[1]), trio[2])
