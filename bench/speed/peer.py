"""What Torch-Pruning does for the same result."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from bench.speed.measuring import Arm, per_call
from bench.speed.nets import image, with_gradients

REMOVE = 0.3
"""Share of the channels that both sides remove."""


def peer() -> Any:
    """Torch-Pruning, imported late: its import prints and warns."""
    import torch_pruning

    return torch_pruning


def classifier(model: nn.Module) -> nn.Module:
    """The last linear layer, which Torch-Pruning has to be told to leave alone."""
    return [module for module in model.modules() if isinstance(module, nn.Linear)][-1]


def example(model: nn.Module) -> torch.Tensor:
    """An image where the network is."""
    return image().to(next(model.parameters()).device)


def scale_pruner(model: nn.Module, *, group_lasso: bool = False) -> Any:
    """Torch-Pruning's Network Slimming at the same ratio."""
    tp = peer()
    return tp.pruner.BNScalePruner(
        model, example(model), importance=tp.importance.BNScaleImportance(),
        group_lasso=group_lasso, global_pruning=True, pruning_ratio=REMOVE,
        ignored_layers=[classifier(model)],
    )  # fmt: skip


def lasso_pruner(model: nn.Module) -> Any:
    """The same with its group lasso on scales."""
    return scale_pruner(model, group_lasso=True)


def norm_pruner(model: nn.Module) -> Any:
    """Torch-Pruning's group lasso over all weights."""
    tp = peer()
    return tp.pruner.GroupNormPruner(
        model, example(model), importance=tp.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True, pruning_ratio=REMOVE, ignored_layers=[classifier(model)],
    )  # fmt: skip


def their_cut(original: nn.Module) -> float:
    """Seconds for the construction of the pruner and one step."""
    model = copy.deepcopy(original).eval()
    start = time.perf_counter()
    scale_pruner(model).step()
    return time.perf_counter() - start


def their_penalty(
    original: nn.Module, make: Callable[[nn.Module], Any], device: str = "cpu"
) -> Arm:
    """Seconds of one ``regularize`` call."""
    model = with_gradients(original).to(device)
    pruner = make(model)
    pruner.update_regularizer()
    if device == "cpu":
        return lambda: per_call(lambda: pruner.regularize(model))

    def finished() -> None:
        """Wait until the device has done it."""
        pruner.regularize(model)
        torch.cuda.synchronize()

    return lambda: per_call(finished)
