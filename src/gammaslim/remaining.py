"""What layers that leave gave in the uncut network: the values of the constants in their places."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gammaslim.constants import set_value
from gammaslim.graph import ChannelGraph
from gammaslim.modules import named_tensors
from gammaslim.reading import run_batches
from gammaslim.records import BoolArray


class Given:
    """What one layer gave, per channel: the running sum, and the middle of what came first."""

    def __init__(self, dim: int) -> None:
        """Nothing so far; ``dim`` holds the channels."""
        self._dim, self._count = dim, 0
        self._total: Tensor | None = None
        self.middle = torch.empty(0)

    def look(self, output: Tensor) -> None:
        """Take in one output."""
        rows = output.detach().movedim(self._dim, 0).flatten(1).double().cpu()
        if self._total is None:
            self._total, self.middle = torch.zeros(len(rows), dtype=rows.dtype), rows.median(1)[0]
        self._total += rows.sum(dim=1)
        self._count += rows.shape[1]

    @property
    def mean(self) -> Tensor:
        """Over all images and places."""
        assert self._total is not None  # noqa: S101 -- the layer has run
        return self._total / max(self._count, 1)


def silent_part(model: nn.Module, graph: ChannelGraph, keep: BoolArray) -> BoolArray:
    """All channels but those of groups that ``keep`` empties and whose scales are all zero."""
    tensors = named_tensors(model)
    loud = np.zeros(graph.num_channels, dtype=np.bool_)
    for name in graph.scales:
        ids = graph.sites[(name, 0)]
        values = tensors[name].detach().cpu().numpy() != 0
        loud[ids[(ids >= 0) & values]] = True
    silent = np.ones(graph.num_channels, dtype=np.bool_)
    for group in graph.groups:
        scored = group.channels[graph.scored[group.channels]]
        if len(scored) and not (keep[group.channels].any() or loud[scored].any()):
            silent[group.channels] = False
    return silent


def contributions(
    model: nn.Module,
    graph: ChannelGraph,
    keep: BoolArray,
    batches: Iterable[Any],
    *,
    means: bool,
) -> dict[str, Tensor]:
    """What each constant is to be, per channel that is left.

    Where the scales that feed a layer are zero, what it gave is a constant: that, as it is away
    from the borders of an image.  Elsewhere its mean, if ``means``, or nothing.
    """
    told = {p: r for p, r in graph.departures(keep).remnants.items() if r.told}
    fixed = graph.departures(silent_part(model, graph, keep)).remnants
    wanted = [path for path in told if means or path in fixed]
    given = {path: Given(told[path].dim) for path in wanted}
    run_batches(model, {path: given[path].look for path in wanted}, batches)
    survivors = graph.survivors(keep)
    found: dict[str, Tensor] = {}
    for path in wanted:
        value = given[path].middle if path in fixed else given[path].mean
        left = torch.from_numpy(survivors(graph.flow.layers[path].channels))
        if len(left) == told[path].width:
            found[path] = value[left]
    return found


def settle(model: nn.Module, values: Mapping[str, Tensor]) -> list[Callable[[], None]]:
    """Give the constants of the cut network these values; what takes that back."""
    return [set_value(model, path, value) for path, value in values.items()]
