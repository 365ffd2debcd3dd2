"""Scores: one number per channel, reduced from the magnitudes of its scales."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

import numpy as np
import torch
from torch import nn

from gammaslim.arrays import FloatArray
from gammaslim.channels import ChannelGraph
from gammaslim.errors import NothingToPruneError, ScoreError, StaleGraphError
from gammaslim.network import named_tensors, unwrap, whole

Reduce = Literal["mean", "max", "l2"]


def scores(model: nn.Module, graph: ChannelGraph, *, reduce: Reduce = "mean") -> FloatArray:
    """One score per channel: the mean, the largest or the 2-norm of its |γ|.

    With γ_c the vector of all scales of channel c, wherever in the network they sit, the score is
    ``mean |γ_c|``, ``max |γ_c|`` or ``‖γ_c‖₂``.  Scales are compared raw: nothing is divided by a
    layer's own mean, so a dead layer scores low as a whole.  Where the network is sharded (FSDP2),
    every process has to call this, and gets all scores.

    Args:
        model: the network that ``graph`` was traced from.
        graph: its channels.
        reduce: ``"mean"``, ``"max"`` or ``"l2"``.

    Returns:
        Float64 array of length ``graph.num_channels``; NaN for channels that hold no scale.

    Raises:
        ScoreError: ``reduce`` is unknown, or a scale is NaN or infinite.
        StaleGraphError: the network no longer has the shapes that ``graph`` recorded.
        NothingToPruneError: the network has no BatchNorm scale.

    Source: Liu et al., ICCV 2017, arXiv 1708.06519; coupled scales as in arXiv 2301.12900.
    """
    if reduce not in get_args(Reduce):
        raise ScoreError(
            f"reduce={reduce!r} was asked; known are {', '.join(map(repr, get_args(Reduce)))}."
        )
    if not graph.scales:
        raise NothingToPruneError(
            "Scores were asked, but the network has no BatchNorm scale. gammaslim ranks channels "
            "by BatchNorm weights: add BatchNorm layers (affine=True), or score another way."
        )
    magnitudes = np.abs(_values(model, graph))
    channels = np.concatenate([graph.sites[(name, 0)] for name in graph.scales])
    owned = channels >= 0
    channels, magnitudes, number = channels[owned], magnitudes[owned], graph.num_channels
    count = np.bincount(channels, minlength=number)
    if reduce == "max":
        found = np.zeros(number)
        np.maximum.at(found, channels, magnitudes)
    elif reduce == "mean":
        found = np.bincount(channels, magnitudes, number) / np.maximum(count, 1)
    else:
        found = np.sqrt(np.bincount(channels, magnitudes**2, number))
    return np.where(count > 0, found, np.nan)


def scale_parameters(
    model: nn.Module, graph: ChannelGraph, names: Iterable[str]
) -> list[nn.Parameter]:
    """The parameters of these names, which must still have the shapes that ``graph`` recorded.

    Raises:
        StaleGraphError: one is missing or has another shape.
    """
    present = named_tensors(unwrap(model))
    found: list[nn.Parameter] = []
    for name in names:
        parameter = present.get(name)
        if not isinstance(parameter, nn.Parameter):
            raise StaleGraphError(
                f"The graph has a scale {name!r}, which the network does not have (any more). "
                "Pass the network that was traced, or trace this one."
            )
        if tuple(parameter.shape) != tuple(graph.shapes[name]):
            raise StaleGraphError(
                f"The graph was traced when {name!r} had shape {tuple(graph.shapes[name])}; now "
                f"it has {tuple(parameter.shape)}. Trace the network again."
            )
        found.append(parameter)
    return found


def _values(model: nn.Module, graph: ChannelGraph) -> FloatArray:
    parameters = scale_parameters(model, graph, graph.scales)
    parts = [whole(each.detach()).to("cpu", torch.float64).numpy() for each in parameters]
    flat: FloatArray = np.concatenate(parts)
    if not np.isfinite(flat).all():
        name, part = next(
            (name, part)
            for name, part in zip(graph.scales, parts, strict=True)
            if not np.isfinite(part).all()
        )
        bad = np.flatnonzero(~np.isfinite(part))
        raise ScoreError(
            f"Scores need finite scales; {name!r} holds {len(bad)} that are not, first at index "
            f"{bad[0]} ({part[bad[0]]}). Training has diverged: go back to an earlier checkpoint."
        )
    return flat
