"""Stores of labels, told by hand what operators would tell them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gammaslim.arrays import IntArray
from gammaslim.channels.sequences import Join, Part, Shuffle
from gammaslim.labels.store import LabelArray, LabelStore, Partition

MET, CUT, GROUPS, COUNTED = 1, 2, 3, 4
"""Numbers of reasons."""


def labels(*numbers: int) -> IntArray:
    return np.array(numbers, dtype=np.int64)


def couple(store: LabelStore, left: Sequence[int], right: Sequence[int], reason: int = MET) -> None:
    store.couple(labels(*left), labels(*right), lambda: reason)


def parts(
    *rows: IntArray,
    columns: Sequence[LabelArray] = (),
    whole: bool = False,
    reason: int = CUT,
    followed: bool = False,
) -> Partition:
    """Equal parts; ``rows`` as matrices, one row per part."""
    own = tuple(columns) or (None,) * len(rows)
    return Partition(rows, own, whole=whole, reason=reason, followed=followed)


def sets(numbers: IntArray) -> list[set[int]]:
    """Which labels are one class, in order."""
    return [set(np.flatnonzero(numbers == one).tolist()) for one in dict.fromkeys(numbers.tolist())]


def shuffle_unit(store: LabelStore, left: IntArray, right: IntArray) -> tuple[IntArray, IntArray]:
    """Two leaves joined, shuffled in two and cut in half, as the rules tell it; the halves."""
    joined = np.concatenate([left, right])
    store.derive(joined, Join(), left, right)
    shuffled = joined.reshape(2, -1).T.ravel()
    store.derive(shuffled, Shuffle(2), joined)
    half = len(shuffled) // 2
    halves = shuffled[:half], shuffled[half:]
    for place, own in enumerate(halves):
        store.derive(own, Part(place, place + 1, 2), shuffled)
    store.partition(parts(joined.reshape(2, -1), followed=True))
    store.partition(parts(shuffled.reshape(2, -1), followed=True))
    return halves
