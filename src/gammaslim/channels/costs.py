"""What each channel costs: the multiply-accumulates or parameters that go when it goes alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import numpy as np

from gammaslim.arrays import FloatArray, IntArray
from gammaslim.channels.graph import ChannelGraph
from gammaslim.errors import PenaltyError

CostKind = Literal["macs", "params"]

Product = tuple[float, Sequence[IntArray]]
"""A cost ``coefficient · Π_a kept(axes[a])``."""


def channel_costs(graph: ChannelGraph, cost: CostKind = "macs") -> FloatArray:
    """What the network saves if one channel goes and all others stay, for each channel.

    Args:
        graph: the network's channels.
        cost: ``"macs"`` (for the example batch) or ``"params"``.

    Returns:
        Float64 array of length ``graph.num_channels``, in multiply-accumulates or parameters.

    Raises:
        PenaltyError: ``cost`` is neither.

    Source: Gordon et al., "MorphNet", CVPR 2018, arXiv 1711.06798, which weighs its regulariser so.
    """
    if cost not in get_args(CostKind):
        raise PenaltyError(f"cost={cost!r} was asked; known are 'macs' and 'params'.")
    if cost == "macs":
        products = [(float(work.coefficient), work.axes) for work in graph.work]
    else:
        products = _tensors(graph)
    saved = np.zeros(graph.num_channels)
    # What goes with channel c, m_a times in axis a: coefficient · (Π n_a − Π (n_a − m_a)).
    for coefficient, axes in products:
        channels = np.unique(np.concatenate(axes)) if axes else np.empty(0, dtype=np.int64)
        channels = channels[channels >= 0]
        if not len(channels):
            continue
        full, left = coefficient, np.full(len(channels), coefficient)
        for ids in axes:
            full *= len(ids)
            left *= len(ids) - np.bincount(ids[ids >= 0], minlength=channels[-1] + 1)[channels]
        saved[channels] += full - left
    return saved


def _tensors(graph: ChannelGraph) -> Iterable[Product]:
    for name in graph.parameters:
        fixed, axes = 1, list[IntArray]()
        for dim, length in enumerate(graph.shapes[name]):
            ids = graph.sites.get((name, dim))
            if ids is None:
                fixed *= length
            else:
                axes.append(ids)
        yield float(fixed), axes
