"""What a penalty has achieved so far: quantiles of the scales, zeros, and what could go now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gammaslim.channels import ChannelGraph, Cut
from gammaslim.training.flat_vector import Layout

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


@dataclass(frozen=True)
class Stats:
    """The penalised scales at one moment.

    ``step``: optimizer steps taken.  ``strength``: λ at the last of them, ``None`` for a budget.
    ``quantiles``: of |γ|.  ``zeros`` of ``scales`` are exactly zero; ``dead`` of ``channels`` have
    no scale that is not (nor shift, where the penalty acts on shifts).  ``macs`` and ``params`` are
    the shares of the network's that remain if the dead channels go.
    """

    step: int
    strength: float | None
    quantiles: Mapping[float, float]
    zeros: int
    scales: int
    dead: int
    channels: int
    macs: float
    params: float

    def as_dict(self) -> dict[str, float]:
        """Flat names and numbers, for a logger; ``zeros`` and ``dead`` as shares, 0 to 1."""
        named = {f"scale_q{round(100 * q):02d}": value for q, value in self.quantiles.items()}
        strength = {} if self.strength is None else {"strength": self.strength}
        return {
            **named,
            **strength,
            "zeros": self.zeros / self.scales,
            "dead": self.dead / self.channels,
            "macs": self.macs,
            "params": self.params,
        }

    def __str__(self) -> str:
        """One line."""
        return (
            f"step {self.step}: {self.zeros}/{self.scales} scales exactly zero, {self.dead}/"
            f"{self.channels} channels dead, {self.macs:.1%} of the MACs remain without them; "
            f"median |γ| {self.quantiles[0.5]:.3g}"
        )


def watch(graph: ChannelGraph, layout: Layout, step: int, strength: float | None) -> Stats:
    """The statistics of a layout's values; every process of a mesh must call it."""
    atlas, values = layout.atlas, layout.whole()
    scales = np.abs(values[atlas.free & atlas.scale])
    present = np.bincount(atlas.channels[values != 0], minlength=len(atlas.numbers)) > 0
    free = np.bincount(atlas.channels[atlas.free], minlength=len(atlas.numbers)) > 0
    keep = np.ones(graph.num_channels, dtype=np.bool_)
    keep[atlas.numbers[free & ~present]] = False
    full, left = graph.cost(), Cut(graph, keep).cost
    points = np.quantile(scales, QUANTILES).tolist()
    return Stats(
        step=step,
        strength=strength,
        quantiles=dict(zip(QUANTILES, points, strict=True)),
        zeros=int(np.count_nonzero(scales == 0)),
        scales=len(scales),
        dead=int(np.count_nonzero(free & ~present)),
        channels=int(np.count_nonzero(free)),
        macs=left.macs / max(full.macs, 1),
        params=left.params / max(full.params, 1),
    )
