"""Scaled dot-product attention, fused or not."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812

from gammaslim.recording import OperatorCall
from gammaslim.rules.registry import function_rule, rule

DEFAULT_SCALE = "the default attention scale depends on the feature size"


@function_rule(F.scaled_dot_product_attention)
def default_scale(call: OperatorCall) -> None:
    """Without ``scale`` it is 1 / √d of the features, whichever kernel PyTorch takes."""
    if call.get("scale") is None:
        for name in ("query", "key"):
            call.freeze(call.labels(call[name])[-1], DEFAULT_SCALE)


@rule("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention",
      "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention",
      "_scaled_dot_product_attention_math",
      "_scaled_dot_product_fused_attention_overrideable")  # fmt: skip
def attention(call: OperatorCall) -> None:
    """softmax(q kᵀ · scale) v: q and k unite over their features, v's pass."""
    query, key, value = call["query"], call["key"], call["value"]
    q, k, v = call.labels(query), call.labels(key), call.labels(value)
    features = call.unite(q[-1], k[-1])
    trios = zip(q[:-2], k[:-2], v[:-2], strict=True)
    heads = [call.unite(call.unite(one, two), three) for one, two, three in trios]
    for labels in (k[-2], v[-2]):
        call.freeze(labels, "keys are normalised over by softmax")
    if call.outputs and call.out.ndim == query.ndim:
        call.give(call.out, (*heads, q[-2], v[-1]), zero=[value])
    mask = call.get("attn_mask", call.get("attn_bias"))
    if mask is not None:
        for labels in call.labels(mask):
            call.freeze(labels, "dimension of an attention mask")
    if features is not None and not call.zero(query) and not call.zero(key):
        call.freeze(features, "masked attention features are not zero")
    pairs = query.shape[-2] * key.shape[-2]
    batch = list(zip(heads, query.shape[:-2], strict=True))
    call.work(pairs, [*batch, (features, query.shape[-1])])
    call.work(pairs, [*batch, (v[-1], value.shape[-1])])
