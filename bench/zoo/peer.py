"""What Torch-Pruning makes of the same network: construction time, one cut, the same law."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import gammaslim as gs
from bench import oracle
from bench.oracle import Pair, judged, settle
from bench.zoo.ours import REPETITIONS, Record, best_of, said, training_error
from gammaslim.channels.plan import Kept

RATIO = 0.3


@dataclass(frozen=True)
class Outcome:
    """``right``, ``wrong``, ``fails`` or ``untrainable``, and a sentence."""

    verdict: str
    text: str = ""


def pruner_of(model: nn.Module, inputs: Tensor) -> Any:
    """The pruner as its README makes it; the last layer is to be left alone."""
    import torch_pruning as tp

    return tp.pruner.BasePruner(
        model, inputs, importance=tp.importance.RandomImportance(),
        pruning_ratio=RATIO, ignored_layers=[last_layer(model)],
    )  # fmt: skip


def last_layer(model: nn.Module) -> nn.Module:
    """The classifier: the last linear layer or convolution."""
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    return (linear or layers)[-1]


def tagged(model: nn.Module) -> None:
    """Replace every number by its own place in its tensor, so that a cut shows what it kept."""
    for tensor in oracle.named_tensors(model).values():
        if tensor.is_floating_point():
            places = torch.arange(tensor.numel(), dtype=torch.float64)
            tensor.data = places.reshape(tensor.shape)


def kept_indices(tags: Tensor, shape: torch.Size) -> list[np.ndarray]:
    """Which indices of each dimension are left of a tensor that had this shape.

    Raises:
        ValueError: what is left is no block of whole slices.
    """
    kept: list[np.ndarray] = []
    places = tags.detach().long()
    for dim in reversed(range(len(shape))):
        rows = (places % shape[dim]).movedim(dim, 0).reshape(tags.shape[dim], -1)
        if (rows != rows[:, :1]).any():
            raise ValueError(f"dimension {dim} mixes slices of several channels")
        kept.insert(0, rows[:, 0].numpy())
        places = places // shape[dim]
    return kept


def plan_of(cut: nn.Module, originals: Mapping[str, Tensor]) -> gs.Plan:
    """What the peer kept, as a plan."""
    sites = {}
    for name, tensor in oracle.named_tensors(cut).items():
        shape = originals[name].shape
        if not tensor.is_floating_point() or tensor.shape == shape:
            continue
        for dim, indices in enumerate(kept_indices(tensor, shape)):
            if len(indices) < shape[dim]:
                sites[(name, dim)] = Kept(indices, shape[dim])
    return gs.Plan(sites)


def refill(cut: nn.Module, originals: Mapping[str, Tensor]) -> None:
    """Put the numbers back that the tags stand for."""
    for name, tensor in oracle.named_tensors(cut).items():
        if tensor.is_floating_point():
            places = tensor.detach().long().flatten()
            tensor.data = originals[name].detach().flatten()[places].reshape(tensor.shape)


def outcome_of(
    model: nn.Module, pruner: Any, cut: nn.Module, inputs: tuple[Tensor, Tensor]
) -> Outcome:
    """Let the peer cut its copy, and hold the result against the masked network."""
    originals = oracle.named_tensors(model)
    try:
        tagged(cut)
        pruner.step()
        plan = plan_of(cut, originals)
    except Exception as error:  # noqa: BLE001 -- whatever it raises is the result
        return Outcome("fails", f"at the cut: {said(error)}")
    if not plan.kept:
        return Outcome("fails", "nothing is removed")
    refill(cut, originals)
    try:
        _, finding = judged(Pair(oracle.masked_copy(model, plan), cut, plan, inputs[1]))
    except Exception as error:  # noqa: BLE001
        return Outcome("fails", f"the cut network's forward: {said(error)}")
    if not finding.holds:
        return Outcome("wrong", f"drift {finding.drift:.1e}, first at {finding.first}")
    error = training_error(cut, inputs[0])
    return Outcome("untrainable", error) if error else Outcome("right", f"{finding.drift:.1e}")


def examine(model: nn.Module, inputs: tuple[Tensor, Tensor]) -> Record:
    """Construction time, and the outcome of one cut."""
    import torch_pruning  # noqa: F401 -- its import is no part of the construction

    settle(model, inputs[0], seed=0)
    torch.manual_seed(0)
    cut = copy.deepcopy(model)
    start = time.perf_counter()
    try:
        pruner = pruner_of(cut, inputs[0])
    except Exception as error:  # noqa: BLE001 -- whatever it raises is the result
        return {"verdict": "fails", "text": f"at construction: {said(error)}"}
    first = time.perf_counter() - start
    again = (partial(pruner_of, copy.deepcopy(model), inputs[0]) for _ in range(REPETITIONS - 1))
    construction = best_of(again, first)
    outcome = outcome_of(model, pruner, cut, inputs)
    return {
        "first_construction_s": first,
        "construction_s": construction,
        "verdict": outcome.verdict,
        "text": outcome.text,
    }
