"""Cuts while training goes on: what has become zero leaves the network at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from gammaslim.arrays import FloatArray
from gammaslim.channels import ChannelGraph
from gammaslim.cutting import Outcome, prune
from gammaslim.errors import TargetError
from gammaslim.network import unwrap
from gammaslim.selecting import scale_parameters, select
from gammaslim.training.attachment import Attachment


class Shrinker:
    """Removes dead channels every so many steps; made by :func:`shrink_every`."""

    def __init__(
        self,
        n_steps: int,
        model: nn.Module,
        handle: Attachment,
        optimizers: Optimizer | Sequence[Optimizer],
        ema: nn.Module | None,
        min_channels: int,
    ) -> None:
        """Remember what to cut; use :func:`shrink_every`."""
        self._every, self._model, self._handle = n_steps, model, handle
        self._optimizers, self._ema, self._least = optimizers, ema, min_channels
        self.outcomes: list[Outcome] = []

    def __call__(self) -> Outcome | None:
        """After an optimizer step: cut if it is time to and something is dead.

        Returns:
            What the cut did; ``None`` if there was none.
        """
        if self._handle.steps % self._every or not self._handle.ready_for_cut:
            return None
        graph = self._handle.graph
        if not (graph.prunable & graph.scored).any():
            return None
        plan = select(graph, loudness(self._model, graph), threshold=0.0, min_channels=self._least)
        if plan.empty:
            return None
        outcome = prune(
            self._model, graph, plan,
            optimizer=self._optimizers, ema=self._ema, handle=self._handle,
        )  # fmt: skip
        self.outcomes.append(outcome)
        return outcome


def shrink_every(
    n_steps: int,
    model: nn.Module,
    handle: Attachment,
    optimizer: Optimizer | Sequence[Optimizer],
    *,
    ema: nn.Module | None = None,
    min_channels: int = 1,
) -> Shrinker:
    """Cut while training, so that a step takes less time as channels reach zero.

    Call what it returns after each ``optimizer.step()``.  Every ``n_steps`` steps it removes the
    channels of which every scale and shift is exactly zero, from the network, its average, the
    optimizer's state and the penalty: training goes on as if they were still there, being zero.

    Args:
        n_steps: how often to look.
        model: the network.
        handle: of a penalty that reaches zero: ``Proximal`` or ``Budget``.
        optimizer: the one that trains it, or a list of those that do.
        ema: an average of the network's weights.
        min_channels: every group keeps at least this many channels; 0 lets whole residual branches
            leave whose scales are all zero.

    Raises:
        TargetError: ``n_steps`` is no integer above 0.

    Example:
        >>> shrink = gs.shrink_every(100, model, handle, optimizer)
        >>> for images, labels in loader:
        ...     ...
        ...     optimizer.step()
        ...     shrink()
    """
    if not isinstance(n_steps, int) or isinstance(n_steps, bool) or n_steps < 1:
        raise TargetError(f"shrink_every({n_steps!r}) was asked; an integer above 0 is needed.")
    return Shrinker(n_steps, model, handle, optimizer, ema, min_channels)


def loudness(model: nn.Module, graph: ChannelGraph) -> FloatArray:
    """Per channel the largest magnitude of its scales and shifts; NaN where it has no scale."""
    found = np.where(graph.scored, 0.0, np.nan)
    names = [*graph.scales, *(graph.shifts[n] for n in graph.scales if n in graph.shifts)]
    parameters = scale_parameters(unwrap(model), graph, names)
    with torch.no_grad():
        values = torch.cat([p.abs().double() for p in parameters]).cpu().numpy()
    channels = np.concatenate([graph.sites[(name, 0)] for name in names])
    known = channels >= 0
    np.maximum.at(found, channels[known], values[known])
    return found
