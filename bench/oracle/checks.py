"""What must hold of a network that was cut, beside the law: sizes, costs, training; and the whole.

:func:`check_law` cuts a random share of the channels and checks all of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

import gammaslim as gs
from bench.oracle.law import TOLERANCE, Pair, Spare, masked_copy
from bench.oracle.networks import call, outputs, randomise_batchnorms, snapshot, tensors


def random_scores(graph: gs.ChannelGraph, seed: int) -> np.ndarray:
    """One uniform score per channel."""
    return np.random.default_rng(seed).uniform(0.1, 1.0, graph.num_channels)


def removed(graph: gs.ChannelGraph, plan: gs.Plan) -> np.ndarray:
    """The ids of the channels that a plan removes."""
    return np.flatnonzero(~graph.keep_mask(plan))


def traced(model: nn.Module, inputs: Any, **options: bool) -> gs.ChannelGraph:
    """Trace, asserting that the model and the random state are left as they were."""
    before = snapshot(model)
    graph = gs.trace(model, inputs, **options)
    after = snapshot(model)
    changed = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
    assert not changed, f"tracing changed {changed[:5]}"
    return graph


SIZES: dict[type[nn.Module], Callable[[Any], dict[str, int | tuple[int, ...]]]] = {
    nn.Linear: lambda m: {"out_features": m.weight.shape[0], "in_features": m.weight.shape[1]},
    nn.LayerNorm: lambda m: {"normalized_shape": tuple(m.weight.shape)},
    nn.GroupNorm: lambda m: {"num_channels": len(m.weight)},
    nn.PReLU: lambda m: {"num_parameters": len(m.weight)},
    nn.Embedding: lambda m: {"embedding_dim": m.weight.shape[1]},
}


def expected_sizes(module: nn.Module) -> dict[str, int | tuple[int, ...]]:
    """The numbers that a built-in module must hold, read off its tensors."""
    if isinstance(module, nn.modules.conv._ConvNd):
        wide, narrow = module.weight.shape[0], module.weight.shape[1] * module.groups
        sizes = (wide, narrow) if module.transposed else (narrow, wide)
        return dict(zip(("in_channels", "out_channels"), sizes, strict=True))
    if isinstance(module, nn.modules.batchnorm._NormBase):
        known = module.weight if module.weight is not None else module.running_mean
        return {} if known is None else {"num_features": len(known)}
    return SIZES[type(module)](module) if type(module) in SIZES else {}


def check_attributes(model: nn.Module) -> None:
    """The numbers of built-in modules agree with their tensors."""
    for name, module in model.named_modules():
        for key, value in expected_sizes(module).items():
            found = getattr(module, key)
            assert found == value, f"{name}.{key} is {found}, its tensors say {value}"
            if not isinstance(module, nn.LayerNorm):
                assert type(found) is int, f"{name}.{key} is a {type(found).__name__}"


def check_training(model: nn.Module, inputs: Any) -> None:
    """A forward and a backward in training mode run and give finite gradients of right shape."""
    model.train()
    model.zero_grad()
    results = tensors(call(model, copy.deepcopy(inputs)))
    torch.stack([result.square().mean() for result in results]).sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert parameter.grad.shape == parameter.shape, f"{name}: gradient of old shape"
            assert parameter.grad.isfinite().all(), f"{name}: gradient is not finite"
    model.zero_grad()


def attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Of the two products, from three shapes."""
    return sdpa_flop_count(query, key, value)


def counted_macs(model: nn.Module, inputs: Any) -> int:
    """Multiply-accumulates of one evaluation by torch's flop counter.

    It knows fused attention on accelerators only; on the CPU the same formula holds.
    """
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    counter = FlopCounterMode(display=False, custom_mapping={attention: attention_flops})
    with counter:
        outputs(model, inputs)
    return counter.get_total_flops() // 2


def check_cost(model: nn.Module, cost: gs.Cost, inputs: Any, *, counted: bool = True) -> None:
    """The closed form agrees with what is stored and, where torch can count it, with what runs."""
    stored = sum(parameter.numel() for parameter in model.parameters())
    assert cost.params == stored, f"{cost.params} parameters reckoned, {stored} stored"
    if counted:
        ran = counted_macs(model, inputs)
        assert cost.macs == ran, f"{cost.macs} MACs reckoned, {ran} run"


def check_agreement(
    masked: nn.Module, cut: nn.Module, plan: gs.Plan, inputs: Any, tolerance: float = TOLERANCE
) -> None:
    """The law itself: every layer's outputs agree, and the network's."""
    found = Pair(masked, cut, plan, inputs).compared(tolerance)
    assert found.holds, f"a drift of {found.drift:.3g}, first over {tolerance} at {found.first}"


def check_law(  # noqa: PLR0913 -- the law has that many knobs, most of them keyword-only
    model: nn.Module,
    inputs: Any,
    remove: float,
    seed: int,
    tolerance: float = TOLERANCE,
    *,
    spare: Spare = (),
    counted: bool = True,
    select_inputs: bool = False,
) -> gs.ChannelGraph:
    """Cut a random share of the channels and check everything that must hold afterwards.

    Channels that some operator counts have no masked reference without further knowledge; where
    the plan removes such, the comparison is left to ``gs.prune``.
    """
    randomise_batchnorms(model, seed)
    model.train(seed % 2 == 0)
    graph = traced(model, inputs, select_inputs=select_inputs)
    plan = gs.select(graph, random_scores(graph, seed), remove_channels=remove)
    masked = masked_copy(model, plan, spare)
    check_cost(model, graph.cost(), inputs, counted=counted)
    mode = model.training
    outcome = gs.prune(model, graph, plan)
    assert outcome.drift <= tolerance, f"gs.prune reports a drift of {outcome.drift:.3g}"
    assert all(module.training == mode for module in model.modules()), "the mode has changed"
    check_attributes(model)
    if graph.exact[removed(graph, plan)].all():
        check_agreement(masked, model, plan, inputs, tolerance)
    told = (outcome.before, outcome.after)
    assert told == (graph.cost(), graph.cost(plan)), f"the outcome says {told}"
    check_cost(model, outcome.after, inputs, counted=counted)
    check_training(model, inputs)
    return graph
