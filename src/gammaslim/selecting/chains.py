"""Chains: the steps in which layers that must keep equal shares become narrower."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from gammaslim.arrays import BoolArray, FloatArray, IntArray
from gammaslim.channels import Balance


@dataclass(frozen=True, eq=False)
class Chain:
    """The steps of one balance, each to its next possible cut.

    Per channel: its ``channels`` id, the index of its run in ``runs``, and how many of that run go
    before it, ``ranks``.  Per step: ``means``, the mean score of what it removes, and ``largest``,
    the largest of what is gone after it, either at least that of the step before; ``shares``, how
    much of the width is gone half-way through it.  After any number of steps from 0 on: ``gone``,
    how many of each run, and ``widths``, those of the layers.
    """

    channels: IntArray
    runs: IntArray
    ranks: IntArray
    means: FloatArray
    largest: FloatArray
    shares: FloatArray
    gone: IntArray
    widths: IntArray

    def removed(self, steps: int) -> IntArray:
        """The channels that are gone after so many steps: the lowest-scored of each run.

        A run may be one channel longer again at a smaller width, where a part's size is rounded
        another way; then a channel comes back.
        """
        return self.channels[self.ranks < self.gone[steps][self.runs]]

    def blocks(self, stops: IntArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Per stretch between two stops: how much is gone half-way, mean and largest score.

        Steps that remove no score do not count for the mean.
        """
        pairs = list(pairwise(stops.tolist()))
        width = self.widths[:, 0]
        shares = [1 - (width[a] + width[b]) / (2 * width[0]) for a, b in pairs]
        known = [own[own > -np.inf] for own in (self.means[a:b] for a, b in pairs)]
        means = [float(own.mean()) if len(own) else -np.inf for own in known]
        largest = [self.largest[b - 1] for _, b in pairs]
        return np.array(shares), np.array(means), np.array(largest)


def chain_of(balance: Balance, scores: FloatArray, scored: BoolArray) -> Chain:
    """The chain of a balance; channels without a score go along in the order of their ids."""
    known = np.where(scored, scores, 0.0)
    ordered = [run[np.lexsort((run, known[run]))] for run in balance.runs]
    lengths = [len(run) for run in ordered]
    runs, channels = np.repeat(np.arange(len(ordered)), lengths), np.concatenate(ordered)
    ranks = np.concatenate([np.arange(length) for length in lengths])
    gone = balance.quotas[0] - balance.quotas
    own, pairs = known[channels], list[tuple[float, float]]()
    states = (scored[channels] & (ranks < count[runs]) for count in gone)
    for before, after in pairwise(states):
        fresh = own[after & ~before]
        mean = float(fresh.mean()) if len(fresh) else -np.inf
        pairs.append((mean, float(own[after].max(initial=-np.inf))))
    means, largest = np.maximum.accumulate(np.array(pairs).reshape(-1, 2)).T
    width = balance.widths[:, 0]
    shares = 1 - (width[:-1] + width[1:]) / (2 * width[0])
    return Chain(channels, runs, ranks, means, largest, shares, gone, balance.widths)
