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
    saved = np.zeros(graph.num_channels)
    for coefficient, axes in _works(graph) if cost == "macs" else _tensors(graph):
        _add(saved, coefficient, axes)
    return saved


def _works(graph: ChannelGraph) -> Iterable[Product]:
    return ((work.coefficient, work.axes) for work in graph.work)


def _tensors(graph: ChannelGraph) -> Iterable[Product]:
    for name in graph.parameters:
        fixed, axes = 1, list[IntArray]()
        for dim, length in enumerate(graph.shapes[name]):
            ids = graph.sites.get((name, dim))
            if ids is None:
                fixed *= length
            else:
                axes.append(ids)
        yield fixed, axes


def _add(saved: FloatArray, coefficient: float, axes: Sequence[IntArray]) -> None:
    """Add ``coefficient · (Π n_a − Π (n_a − m_a))``, m_a being how often a channel is in axis a."""
    if not axes:
        return
    channels = np.unique(np.concatenate(axes))
    channels = channels[channels >= 0]
    if not len(channels):
        return
    full, left = float(coefficient), np.full(len(channels), float(coefficient))
    for ids in axes:
        full *= len(ids)
        left *= len(ids) - np.bincount(ids[ids >= 0], minlength=channels[-1] + 1)[channels]
    saved[channels] += full - left
