"""What layers that leave gave in the uncut network: the values of the constants in their places."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from gammaslim.channels.graph import Cut
from gammaslim.cutting.constants import set_value
from gammaslim.cutting.undoing import Undo
from gammaslim.network.modules import named_tensors


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


def silent_part(model: nn.Module, cut: Cut) -> Cut:
    """All channels but those of groups that a cut empties and whose scales are all zero."""
    graph, tensors = cut.graph, named_tensors(model)
    loud = np.zeros(graph.num_channels, dtype=np.bool_)
    for name in graph.scales:
        ids = graph.sites[(name, 0)]
        values = tensors[name].detach().cpu().numpy() != 0
        loud[ids[(ids >= 0) & values]] = True
    silent = np.ones(graph.num_channels, dtype=np.bool_)
    for group in graph.groups:
        scored = group.channels[graph.scored[group.channels]]
        if len(scored) and not (cut.keep[group.channels].any() or loud[scored].any()):
            silent[group.channels] = False
    return Cut(graph, silent)


class Contributions:
    """What each constant of the cut network is to be, measured in the uncut one.

    Where the scales that feed a layer are zero, what it gave is a constant: that, as it is away
    from the borders of an image.  Elsewhere its mean, if ``means``, or nothing.
    """

    def __init__(self, model: nn.Module, cut: Cut, *, means: bool) -> None:
        """Nothing has been looked at so far."""
        told = {p: r for p, r in cut.leaving.remnants.items() if r.speaks}
        fixed = silent_part(model, cut).leaving.remnants if told else {}
        self._cut, self._told, self._fixed = cut, told, fixed
        self._given = {p: Given(r.dim) for p, r in told.items() if means or p in fixed}

    @property
    def looks(self) -> dict[str, Callable[[Tensor], None]]:
        """Who wants to see what a layer gives, by its path."""
        return {path: given.look for path, given in self._given.items()}

    def values(self) -> dict[str, Tensor]:
        """Per layer that leaves, one value for each channel that is left."""
        layers = self._cut.graph.flow.layers
        found: dict[str, Tensor] = {}
        for path, given in self._given.items():
            value = given.middle if path in self._fixed else given.mean
            left = torch.from_numpy(self._cut.survivors(layers[path].channels))
            if len(left) == self._told[path].width:
                found[path] = value[left]
        return found


def settle(model: nn.Module, values: Mapping[str, Tensor], undo: Undo) -> None:
    """Give the constants of the cut network these values."""
    for path, value in values.items():
        set_value(model, path, value, undo)
