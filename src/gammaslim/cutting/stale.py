"""What a cut would leave stale is refused, or says so itself: optimizers, wrappers, shards."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Any

import torch
from torch import Size, Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from gammaslim.errors import OptimizerError, PlanError, StaleGraphError
from gammaslim.network import PROCESS, is_sharded, named_tensors


def remember(shapes: Mapping[nn.Parameter, Size]) -> None:
    """After a cut: these parameters had these shapes before it.

    An optimizer whose state still has them raises :class:`OptimizerError` at its next step, where
    PyTorch would complain of two sizes.  Every optimizer is looked at once after each cut.
    """
    PROCESS.cut(shapes, _look)


def _look(optimizer: Optimizer) -> None:
    for parameter, state in optimizer.state.items():
        known = isinstance(parameter, Tensor)
        shape = PROCESS.shape_before_cut(parameter) if known else None
        if shape is None or parameter.shape == shape:
            continue
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == shape:
                raise OptimizerError(
                    f"This {type(optimizer).__name__} has a state {name!r} of shape {tuple(shape)} "
                    f"for a parameter that was cut to {tuple(parameter.shape)}: it was never told "
                    "of the cut. Use gs.prune(..., optimizer=optimizer), or make a new optimizer."
                )


def refuse_sharded(model: nn.Module) -> None:
    """Refuse to cut what this process holds only a part of.

    Raises:
        PlanError: a tensor is sharded.
    """
    for name, tensor in named_tensors(model).items():
        if is_sharded(tensor):
            raise PlanError(
                f"A cut was asked of a network whose {name!r} is sharded over processes (FSDP2); "
                "each holds only a part. Gather it first, cut that, and shard again: "
                "docs/cutting.md shows how."
            )


def retire(model: nn.Module) -> None:
    """Let DistributedDataParallel wrappers around a cut network raise at their next forward pass.

    They hold buckets of the old sizes and hooks at nodes that autograd no longer uses: gradients
    would be averaged no more, in silence.

    A network does not know its wrappers, PyTorch keeps no list of them, and most are never handed
    to gammaslim (``gs.prune(ddp.module, ...)``).  A hook in the network would stay in what the user
    exports, a hook in every module's forward would slow down all of them, and neither could tell an
    old wrapper from a new one.  So Python is asked which ones there are, once per cut, in process
    groups only; nothing is remembered.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    for thing in gc.get_objects():
        wraps = issubclass(type(thing), DistributedDataParallel)  # isinstance may run others' code
        if wraps and any(module is model for module in thing.modules()):
            thing.register_forward_pre_hook(_refuse)


def _refuse(module: nn.Module, args: Any) -> None:  # noqa: ARG001 -- torch's signature
    raise StaleGraphError(
        "The network inside this DistributedDataParallel was cut since it was wrapped. Wrap it "
        "again: model = DistributedDataParallel(model.module)."
    )
