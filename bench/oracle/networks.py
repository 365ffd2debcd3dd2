"""Networks, run and looked at as anyone could: without anything of the library's own."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves


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


def settle(model: nn.Module, inputs: Any, seed: int) -> None:
    """Random scales and shifts, and random statistics around what the network really sees.

    Statistics drawn out of the blue would let a hundred layers blow up or die out; those of a few
    batches in training mode keep every layer at a scale of one, and are then shaken.
    """
    randomise_batchnorms(model, seed)
    model.train()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for _ in range(3):
            call(model, inputs + 0.3 * torch.randn_like(inputs))
        for module in model.modules():
            if isinstance(module, _BatchNorm) and module.running_var is not None:
                deviation = module.running_var.sqrt()
                module.running_mean += 0.3 * deviation * torch.randn_like(deviation)
                module.running_var *= torch.empty_like(deviation).uniform_(0.5, 1.5)
    model.eval()


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
