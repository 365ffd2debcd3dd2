"""Thresholds: the valley between the scores near zero and the rest."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gammaslim.arrays import FloatArray
from gammaslim.channels import ChannelGraph
from gammaslim.errors import TargetError
from gammaslim.selecting.ranking import checked_scores

IntArray = NDArray[np.int64]

_BINS = 10
"""Bins per decade of the histogram."""
_WINDOW = 5
"""Bins that are counted together: half a decade."""
_PEAK = 5
"""Scores that the fullest window on either side of a valley must hold at least."""
_DEPTH = 0.1
"""What a valley may hold at most, as a share of the lower of the peaks beside it."""
_REST = 0.05
"""The share of the scores above zero that must lie above a valley."""


def gap_threshold(graph: ChannelGraph, scores: FloatArray) -> float:
    """The threshold in the valley between the scores near zero and the rest.

    Scores of exactly zero are a cluster of their own and always below.  Of the others, ``log10`` is
    counted in bins of a tenth of a decade, and five neighbours make a window.  A window is a
    valley if it holds at most a tenth of the lower of the two peaks beside it (the fullest window
    entirely below it, and entirely above), either peak holds at least 5 scores, the median below
    is at most a tenth of the median above, and at least 5 % of the scores lie above.  The valley
    with the highest lower peak is taken, of those the emptiest, and the middle of the longest
    stretch of such windows.  So stragglers do not make a valley, and of several clusters the two
    largest are told apart.

    Args:
        graph: the network's channels; those that are prunable and hold a scale count.
        scores: one per channel, 0 or more, as from :func:`gammaslim.scores`.

    Returns:
        What to pass as ``select(..., threshold=...)``; 0.0 where zeros are the only cluster below.

    Raises:
        TargetError: there is neither a valley nor a score of exactly zero, or a score is negative.
        ScoreError: the scores do not belong to this graph, or are NaN where a choice is due.
        NothingToPruneError: no prunable channel holds a scale.
    """
    values = checked_scores(graph, scores)[graph.prunable & graph.scored]
    if (values < 0).any():
        raise TargetError(
            f"threshold='gap' was asked; {np.count_nonzero(values < 0)} of {len(values)} scores "
            "are below 0, where logarithms end. Pass magnitudes, or a number as threshold."
        )
    above = np.log10(values[(values > 0) & np.isfinite(values)])
    found = _valley(np.sort(above)) if len(above) else None
    if found is not None:
        return 10.0**found
    if (values == 0).any():
        return 0.0
    low, quarter, half, most = np.quantile(values, [0, 0.25, 0.5, 1], method="lower")
    decades = np.floor(np.log10(values[np.isfinite(values)])).astype(np.int64)
    numbers, counts = np.unique(decades, return_counts=True)
    each = ", ".join(f"{n} from 1e{d}" for d, n in zip(numbers, counts, strict=True))
    raise TargetError(
        "threshold='gap' was asked, but the scores have no valley: of "
        f"{len(values)} prunable channels the lowest score is {low:.3g}, a quarter are up to "
        f"{quarter:.3g}, half up to {half:.3g}, the highest is {most:.3g} (per decade: {each}). "
        "Nothing separates what matters from what does not. Train longer or with a stronger "
        "penalty (Budget and Proximal reach exact zeros), or ask for remove_channels, keep_macs, "
        "keep_params or a number as threshold."
    )


def _valley(logs: FloatArray) -> float | None:
    """The middle of the valley of sorted ``logs``, if there is one that is real."""
    first = math.floor(logs[0] * _BINS)
    bins = np.floor(logs * _BINS).astype(np.int64) - first
    counts = np.convolve(np.bincount(bins), np.ones(_WINDOW, dtype=np.int64), mode="valid")
    if len(counts) <= 2 * _WINDOW:
        return None
    inner = np.arange(_WINDOW, len(counts) - _WINDOW)
    below = np.maximum.accumulate(counts)[inner - _WINDOW]
    beyond = np.maximum.accumulate(counts[::-1])[::-1][inner + _WINDOW]
    lower = np.minimum(below, beyond)
    real = (lower >= _PEAK) & (counts[inner] <= _DEPTH * lower)
    middles = (inner + first + _WINDOW / 2) / _BINS
    for place in np.flatnonzero(real):  # a tenth between the medians, and enough above
        split = int(np.searchsorted(logs, middles[place], side="right"))
        real[place] = 0 < split < len(logs) and len(logs) - split >= _REST * len(logs)
        real[place] &= real[place] and np.median(logs[split:]) - np.median(logs[:split]) >= 1.0
    if not real.any():
        return None
    best = real & (lower == lower[real].max())
    best &= counts[inner] == counts[inner][best].min()
    start, stop = _longest(best)
    return float((middles[start] + middles[stop - 1]) / 2)


def _longest(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """Start and stop of the longest run of ``True``, the first of equals."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    starts, stops = edges[::2], edges[1::2]
    longest = int(np.argmax(stops - starts))
    return int(starts[longest]), int(stops[longest])
