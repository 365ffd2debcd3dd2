"""The law, checked without the library's own verification.

The masked model is a deep copy in which every slice that a plan removes is zero; the cut network
must agree with it at the network's outputs and at the kept channels of every BatchNorm.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

import gammaslim as gs

Spare = Sequence[tuple[str, int]]


def randomise_batchnorms(model: nn.Module, seed: int) -> None:
    """Give every BatchNorm lively numbers, so that nothing is zero or one by chance."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if not isinstance(module, _BatchNorm):
                continue
            if module.weight is not None:
                module.weight.uniform_(0.2, 1.5, generator=generator)
                flips = torch.rand(module.weight.shape, generator=generator) < 0.15
                module.weight[flips] *= -1
                module.bias.normal_(0, 0.3, generator=generator)
            if module.running_mean is not None and module.running_var is not None:
                module.running_mean.normal_(0, 0.3, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)


def call(model: nn.Module, inputs: Any) -> Any:
    """Run a model on a tensor, a tuple of arguments, or a dict of keywords."""
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def tensors(result: Any) -> list[Tensor]:
    """All floating-point tensors of a nested result, in order."""
    leaves = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
    return [leaf for leaf in leaves if leaf.is_floating_point()]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every module's own mode is put back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def outputs(model: nn.Module, inputs: Any) -> list[Tensor]:
    """All output tensors in evaluation mode; the inputs are copied first."""
    with evaluating(model):
        return tensors(call(model, copy.deepcopy(inputs)))


def exports(model: nn.Module, example: Tensor) -> dict[str, Callable[[Tensor], Any]]:
    """The network as other tools of PyTorch's own take it, by their names."""
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(model), buffer)
    buffer.seek(0)
    return {
        "torch.export": torch.export.export(model, (example,)).module(),
        "torch.fx": torch.fx.symbolic_trace(model),
        "torch.jit.trace": torch.jit.trace(model, example),
        "torch.jit.script": torch.jit.load(buffer),
        "torch.compile": torch.compile(model, backend="aot_eager", fullgraph=True),
    }


def drift(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """``max |a - b| / max |a|``, the worst over pairs of tensors; infinite where they misfit."""
    worst = 0.0 if len(a) == len(b) else float("inf")
    for left, right in zip(a, b, strict=False):
        if left.shape != right.shape or not (left.isfinite().all() and right.isfinite().all()):
            return float("inf")
        if left.numel():
            scale = float(left.abs().max()) or 1.0
            worst = max(worst, float((left - right).abs().max()) / scale)
    return worst


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer under every name it has, buffers outside state_dict included."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return {**parameters, **dict(model.named_buffers(remove_duplicate=False))}


def masked_copy(model: nn.Module, plan: gs.Plan, spare: Spare = ()) -> nn.Module:
    """A deep copy in which every slice that ``plan`` removes is zero."""
    sites = plan.kept.items()
    gone = {site: np.setdiff1d(np.arange(plan.sizes[site]), kept) for site, kept in sites}
    return _masked(model, gone, spare)


def masked_by(
    model: nn.Module, graph: gs.ChannelGraph, keep: np.ndarray, spare: Spare = ()
) -> nn.Module:
    """A deep copy in which everything is zero that belongs to a channel that goes."""
    sites = graph.sites.items()
    return _masked(model, {s: np.flatnonzero((ids >= 0) & ~keep[ids]) for s, ids in sites}, spare)


def _masked(model: nn.Module, gone: dict[tuple[str, int], np.ndarray], spare: Spare) -> nn.Module:
    """A deep copy in which these indices of tensors' dimensions are zero, but for spared ones."""
    masked = copy.deepcopy(model)
    found = named_tensors(masked)
    with torch.no_grad():
        for (name, dim), indices in gone.items():
            if not any(name.endswith(end) and dim == at for end, at in spare):
                found[name].index_fill_(dim, torch.from_numpy(indices), 0)
    return masked


def norm_outputs(model: nn.Module, inputs: Any) -> dict[str, list[Tensor]]:
    """What each BatchNorm puts out in evaluation mode, call by call."""
    seen: dict[str, list[Tensor]] = {}
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            calls = seen.setdefault(name, [])
            handles.append(module.register_forward_hook(
                lambda _module, _args, out, calls=calls: calls.append(out.detach().clone())
            ))  # fmt: skip
    try:
        outputs(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def kept_slices(plan: gs.Plan, site: tuple[str, int]) -> Tensor:
    """Which slices of the uncut tensor the cut one holds, in order."""
    kept = torch.from_numpy(plan.kept[site])
    return kept[torch.from_numpy(plan.orders[site])] if site in plan.orders else kept


def norm_drift(masked: nn.Module, cut: nn.Module, plan: gs.Plan, inputs: Any) -> float:
    """The worst drift over all BatchNorm outputs, on the channels the plan keeps."""
    before, after = norm_outputs(masked, inputs), norm_outputs(cut, inputs)
    worst = 0.0
    for name, calls in before.items():
        sites = [(f"{name}.weight", 0), (f"{name}.running_mean", 0)]
        cut_sites = [site for site in sites if site in plan.kept]
        index = kept_slices(plan, cut_sites[0]) if cut_sites else slice(None)
        worst = max(worst, drift([out[:, index] for out in calls], after[name]))
    return worst


def random_scores(graph: gs.ChannelGraph, seed: int) -> np.ndarray:
    """One uniform score per channel."""
    return np.random.default_rng(seed).uniform(0.1, 1.0, graph.num_channels)


def removed(graph: gs.ChannelGraph, plan: gs.Plan) -> np.ndarray:
    """The ids of the channels that a plan removes."""
    return np.flatnonzero(~graph.keep_mask(plan))


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything about a model that tracing must not change, in comparable form."""
    record: dict[str, Any] = {"rng": torch.get_rng_state().tolist()}
    for path, module in model.named_modules():
        for key, value in vars(module).items():
            plain = isinstance(value, int | float | str | tuple | type(None))
            content = value if plain else len(value) if isinstance(value, dict) else id(value)
            record[f"{path}:{key}"] = (type(value), content)
    for name, tensor in named_tensors(model).items():
        grad = None if getattr(tensor, "grad", None) is None else tensor.grad.tolist()  # type: ignore[union-attr]
        record[f"tensor {name}"] = (id(tensor), tensor._version, tensor.tolist(), grad)
    return record


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
    masked: nn.Module, cut: nn.Module, plan: gs.Plan, inputs: Any, tolerance: float = 1e-4
) -> None:
    """The law itself: outputs and every BatchNorm agree."""
    found = drift(outputs(masked, inputs), outputs(cut, inputs))
    assert found <= tolerance, f"outputs drift by {found:.3g}"
    found = norm_drift(masked, cut, plan, inputs)
    assert found <= tolerance, f"a BatchNorm output drifts by {found:.3g}"


def check_law(  # noqa: PLR0913 -- the law has that many knobs, most of them keyword-only
    model: nn.Module,
    inputs: Any,
    remove: float,
    seed: int,
    tolerance: float = 1e-4,
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
