"""Chains: the steps in which layers that must keep equal shares become narrower."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gammaslim.graph import BoolArray, IntArray
from gammaslim.sequences import Balance

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Chain:
    """The steps of one balance; in each, the lowest-scored channels of some runs go.

    Per channel that may go: its ``channels`` id and the number of its step, ``places``.  Per step:
    ``means`` and ``largest``, the mean and the largest score of what it removes, or of a step
    before it where that is more; ``shares``, how much of the width is gone half-way through it.
    ``widths`` holds those of the layers, one row before the first step and one after each.
    """

    channels: IntArray
    places: IntArray
    means: FloatArray
    largest: FloatArray
    shares: FloatArray
    widths: IntArray


def chain_of(balance: Balance, scores: FloatArray, scored: BoolArray) -> Chain:
    """The chain of a balance; channels without a score go along in the order of their ids."""
    levels = _nested(balance.quotas)
    channels, places = [], []
    for run, quotas in zip(balance.runs, balance.quotas[levels].T, strict=True):
        values = np.where(scored[run], scores[run], 0.0)
        channels.append(run[np.lexsort((run, values))][: len(run) - quotas[-1]])
        places.append(np.repeat(np.arange(len(levels) - 1), -np.diff(quotas)))
    gone, step = np.concatenate(channels), np.concatenate(places).astype(np.int64)
    widths = balance.widths[levels]
    half = (widths[:-1, 0] + widths[1:, 0]) / 2
    means, largest = _step_scores(scores[gone], step, scored[gone], len(levels) - 1)
    return Chain(gone, step, means, largest, 1 - half / widths[0, 0], widths)


def _nested(quotas: IntArray) -> IntArray:
    """The levels at which no run gets longer again, so that what has gone stays away."""
    levels = [0]
    for level in range(1, len(quotas)):
        if (quotas[level] <= quotas[levels[-1]]).all():
            levels.append(level)
    return np.array(levels, dtype=np.int64)


def _step_scores(
    scores: FloatArray, step: IntArray, scored: BoolArray, steps: int
) -> tuple[FloatArray, FloatArray]:
    """Mean and largest score per step; a step waits for all before it."""
    scores, step = scores[scored], step[scored]
    number = np.bincount(step, minlength=steps)
    total = np.bincount(step, weights=scores, minlength=steps)
    means = np.where(number > 0, total / np.maximum(number, 1), -np.inf)
    largest = np.full(steps, -np.inf)
    np.maximum.at(largest, step, scores)
    return np.maximum.accumulate(means), np.maximum.accumulate(largest)
