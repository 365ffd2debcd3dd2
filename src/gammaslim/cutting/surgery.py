"""Applies a plan to a network, in place and reversibly; all thinking happened before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gammaslim.arrays import IntArray, kept_mask, owner
from gammaslim.channels import Cut, Plan
from gammaslim.cutting.constants import replace_layer
from gammaslim.cutting.undoing import Undo
from gammaslim.errors import OptimizerError, PlanError
from gammaslim.network import first_paths, is_heard, named_tensors, select_inputs

PLAN_ATTRIBUTE = "_gammaslim_plan"
"""Where a cut module remembers what was cut from its own tensors since it was built."""

Cuts = Mapping[int, IntArray]


def cuts_by_tensor(plan: Plan) -> dict[str, dict[int, IntArray]]:
    """The plan's kept indices in their order, per tensor: name -> dimension -> indices."""
    cuts: dict[str, dict[int, IntArray]] = {}
    for (name, dim), own in plan.sites.items():
        cuts.setdefault(name, {})[dim] = own.indices
    return cuts


def sliced(tensor: Tensor, cuts: Cuts) -> Tensor:
    """A copy of ``tensor`` with only the kept indices of each dimension, memory format kept."""
    result = tensor.detach()
    for dim, kept in cuts.items():
        index = torch.from_numpy(kept).to(tensor.device)
        result = result.index_select(dim, index)
    format_kept = torch.channels_last
    if not tensor.is_contiguous() and tensor.is_contiguous(memory_format=format_kept):
        result = result.contiguous(memory_format=format_kept)
    return result


def apply_plan(model: nn.Module, plan: Plan, optimizers: Sequence[Optimizer] = ()) -> Undo:
    """Cut every tensor, gradient, optimizer state and size attribute that the plan names.

    Parameters and buffers keep their identity, so references to them stay good.

    Raises:
        PlanError: a layer that is to leave has hooks; nothing has been changed.
    """
    _refuse_hooks(model, plan)
    undo = Undo()
    try:
        for path, remnant in plan.remnants.items():
            _release(model.get_submodule(path), optimizers, undo)
            undo.steps.append(replace_layer(model, path, remnant))
        tensors = named_tensors(model)
        for name, cuts in cuts_by_tensor(plan).items():
            _cut_tensor(tensors[name], cuts, optimizers, undo)
        for path, value in plan.attributes.items():
            _set_attribute(model.get_submodule(owner(path)), path.rpartition(".")[2], value, undo)
        for path, places in plan.inputs.items():
            undo.steps.append(select_inputs(model.get_submodule(path), places))
        _remember(model, plan, undo)
    except BaseException:
        undo()
        raise
    return undo


def _refuse_hooks(model: nn.Module, plan: Plan) -> None:
    """Whoever waits for a layer to run would wait for ever."""
    for path in plan.remnants:
        if is_heard(model.get_submodule(path)):
            raise PlanError(
                f"{path!r} is to leave the network, but hooks are registered on it, which would "
                "never run again. Remove them; or trace the network with them, and it stays."
            )


def _release(layer: nn.Module, optimizers: Sequence[Optimizer], undo: Undo) -> None:
    """Let optimizers forget the parameters of a layer that leaves."""
    gone = {id(parameter) for parameter in layer.parameters()}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            before = group["params"]
            undo.steps.append(partial(group.__setitem__, "params", before))
            group["params"] = [p for p in before if id(p) not in gone]
        for parameter in layer.parameters():
            if parameter in optimizer.state:
                state = optimizer.state.pop(parameter)
                undo.steps.append(partial(optimizer.state.__setitem__, parameter, state))


def _cut_tensor(tensor: Tensor, cuts: Cuts, optimizers: Sequence[Optimizer], undo: Undo) -> None:
    """Cut a tensor, its gradient, and whatever optimizers keep of its shape."""
    data, grad = tensor.data, tensor.grad

    def restore() -> None:
        tensor.grad = None
        _set_data(tensor, data)
        tensor.grad = grad

    undo.steps.append(restore)
    tensor.grad = None
    _set_data(tensor, sliced(data, cuts))
    if grad is not None:
        tensor.grad = sliced(grad, cuts)
    for state in (optimizer.state[tensor] for optimizer in optimizers if tensor in optimizer.state):
        before = dict(state)
        undo.steps.append(partial(state.update, before))
        for key, value in before.items():
            if isinstance(value, Tensor) and value.ndim > max(cuts):
                state[key] = sliced(value, cuts)


def _set_data(tensor: Tensor, data: Tensor) -> None:
    """Give a tensor other data, and autograd no chance to remember its old shape.

    While the graph of the last step is alive (a loss that nobody deleted), it holds the node that
    accumulates this tensor's gradient, with the shape of then; PyTorch makes a new one only where
    the type or device of the data changes.
    """
    other = torch.float64 if data.dtype is not torch.float64 else torch.float32
    if tensor.requires_grad:
        tensor.data = data.new_empty(0, dtype=other)
    tensor.data = data


def _set_attribute(module: nn.Module, name: str, value: Any, undo: Undo) -> None:
    before = getattr(module, name)
    undo.steps.append(partial(setattr, module, name, before))
    setattr(module, name, list(value) if isinstance(before, list) else value)


def _remember(model: nn.Module, plan: Plan, undo: Undo) -> None:
    """Every module remembers what was cut from its own tensors: parts can be saved alone."""
    for path, part in plan.by_module().items():
        attributes = model.get_submodule(path).__dict__
        before: Plan | None = attributes.get(PLAN_ATTRIBUTE)
        back = attributes.pop if before is None else attributes.__setitem__
        undo.steps.append(partial(back, PLAN_ATTRIBUTE, before))
        attributes[PLAN_ATTRIBUTE] = part if before is None else before.then(part)


def remembered_plan(model: nn.Module) -> Plan:
    """The plan of everything that was cut from ``model`` and its parts since they were built."""
    whole = Plan()
    for module, path in first_paths(model).items():
        plan = module.__dict__.get(PLAN_ATTRIBUTE)
        if plan is not None:
            whole = whole.then(plan.renamed(lambda part, path=path: f"{path}.{part}".strip(".")))
    return whole


def check_optimizer(model: nn.Module, plan: Plan, optimizer: Optimizer) -> None:
    """Refuse an optimizer that does not own the network, or whose state cannot be cut.

    Raises:
        OptimizerError: before anything has been changed.
    """
    tensors = named_tensors(model)
    owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
    cut = cuts_by_tensor(plan)
    if cut and not any(id(tensor) in owned for tensor in tensors.values()):
        raise OptimizerError(
            f"The {type(optimizer).__name__} given owns none of this network's parameters. Pass "
            "the optimizer that trains it, or none."
        )
    for name in cut:
        tensor = tensors[name]
        for key, value in optimizer.state.get(tensor, {}).items():
            several = isinstance(value, Tensor) and value.numel() > 1
            if several and value.shape != tensor.shape:
                raise OptimizerError(
                    f"The optimizer state {key!r} of {name!r} has shape {list(value.shape)}, "
                    f"which is not that of the parameter, {list(tensor.shape)}: how to cut it is "
                    "unknown. Prune without optimizer= and make a new optimizer."
                )


def masked_state(model: nn.Module, cut: Cut) -> dict[str, Tensor]:
    """Copies of the tensors that lose something, with all but the channels that stay zero."""
    tensors = named_tensors(model)
    state: dict[str, Tensor] = {}
    for (name, dim), ids in cut.graph.sites.items():
        gone = np.flatnonzero(~kept_mask(ids, cut.keep))
        if len(gone):
            masked = state.get(name)
            if masked is None:
                masked = state[name] = tensors[name].detach().clone()
            masked.index_fill_(dim, torch.from_numpy(gone).to(masked.device), 0)
    return state
