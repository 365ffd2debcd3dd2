"""From labels to classes: the union-find in which everything that a store holds is settled."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from gammaslim.arrays import BoolArray, IntArray
from gammaslim.channels import Arrangement
from gammaslim.labels.equations import Terms, Variable
from gammaslim.labels.store import LabelStore, Partition


@dataclass(frozen=True)
class Resolved:
    """Per label its class, per class its properties; an arrangement of labels.

    ``variables``: the modules' own numbers that follow a cut, as sizes in labels; ``couplings``:
    all that was united and for which reason, see :class:`gammaslim.channels.couplings.Couplings`.
    """

    classes: IntArray
    reasons: IntArray
    inexact: BoolArray
    arrangement: Arrangement
    variables: Mapping[Variable, Terms]
    couplings: IntArray


class Classes:
    """The union-find while it is being settled: a forest over the first components."""

    def __init__(self, store: LabelStore) -> None:
        """Unite what met; freeze what is frozen."""
        self._component = _components(store.count, store.lefts, store.rights)
        self._whole = store.whole
        self._links = [*zip(store.lefts, store.rights, store.origins, strict=True)]
        number = int(self._component.max(initial=-1)) + 1
        self._parent = np.arange(number, dtype=np.int64)
        self.reasons = np.full(number, -1, dtype=np.int64)
        self.inexact = np.zeros(number, dtype=np.bool_)
        for labels, reason in reversed(store.frozen):
            self.reasons[self._component[labels]] = reason

    @property
    def count(self) -> int:
        """How many numbers classes may have."""
        return len(self._parent)

    def find(self, labels: IntArray) -> IntArray:
        """The root class of every label (labels only, no fixed codes)."""
        roots = self._component[labels]
        while not np.array_equal(above := self._parent[roots], roots):
            roots = above
        return roots

    # A convolution of two groups: inputs a0 a1 | a2 a3, outputs b0 b1 | b2 b3, and a1 is frozen.
    # Whole groups are the classes {a0 a1 b0 b1} and {a2 a3 b2 b3}, of which one may go.  Equal
    # columns are {a0 a2} {a1 a3} {b0 b2} {b1 b3}, of which three may go: columns it is.  But of
    # three groups, in each of which a is one class already and b another, columns make two classes,
    # all of a and all of b, and whole groups three.
    def settle(self, partition: Partition) -> None:
        """Choose whole rows or equal columns, whichever leaves more classes prunable."""
        choices = [False, True] if partition.whole else [False]
        edges = [partition.edges(whole=choice) for choice in choices]
        outcomes = [self.joined(*own) for own in edges]
        best = int(np.argmax([np.count_nonzero(~frozen) for _, _, frozen in outcomes]))
        partition.goes_whole = choices[best]
        self._links.append((*edges[best], partition.reason))
        self._apply(*outcomes[best], partition.reason)
        if partition.goes_whole:
            for column in partition.columns:
                if column is not None:
                    self.reasons[self.find(column[column >= 0])] = partition.reason

    def couple(self, lefts: IntArray, rights: IntArray, reason: int) -> None:
        """Unite pairs of labels; what meets a fixed index freezes for ``reason``."""
        both = (lefts >= 0).all() and (rights >= 0).all()
        if both and np.array_equal(self.find(lefts), self.find(rights)):
            return
        self._links.append((lefts, rights, reason))
        self._apply(*self.joined(lefts, rights), reason)

    def freeze(self, roots: IntArray, reason: int) -> None:
        """Freeze whole classes, unless they are already."""
        self.reasons[roots] = np.where(self.reasons[roots] < 0, reason, self.reasons[roots])

    def resolved(self, arrangement: Arrangement, variables: Mapping[Variable, Terms]) -> Resolved:
        """Number the classes in the order in which their labels were made, as roots are."""
        roots = self.find(np.arange(len(self._component)))
        kept = np.zeros(self.count, dtype=np.bool_)
        kept[roots] = True
        number = np.cumsum(kept) - 1
        return Resolved(
            number[roots], self.reasons[kept], self.inexact[kept], arrangement, variables,
            coupled_runs(self._links, self._whole),
        )  # fmt: skip

    def joined(self, lefts: IntArray, rights: IntArray) -> tuple[IntArray, IntArray, BoolArray]:
        """Class roots concerned, the part each would join, and which parts would be frozen."""
        both = (lefts >= 0) & (rights >= 0)
        lone = np.concatenate([lefts[~both], rights[~both]])
        lone = self.find(lone[lone >= 0])
        left, right = self.find(lefts[both]), self.find(rights[both])
        roots = np.concatenate([left, right, lone])
        if len(roots) < self.count // 16:
            roots = np.unique(roots)
        else:  # marking beats sorting where there are many
            present = np.zeros(self.count, dtype=np.bool_)
            present[roots] = True
            roots = np.flatnonzero(present)
        edges = [np.searchsorted(roots, left)], [np.searchsorted(roots, right)]
        parts = _components(len(roots), *edges)
        frozen = np.zeros(int(parts.max(initial=-1)) + 1, dtype=np.bool_)
        frozen[parts[self.reasons[roots] >= 0]] = True
        frozen[parts[np.searchsorted(roots, lone)]] = True
        return roots, parts, frozen

    def _apply(self, roots: IntArray, parts: IntArray, frozen: BoolArray, reason: int) -> None:
        if len(roots) == 0:
            return
        head = np.full(len(frozen), len(self._parent), dtype=np.int64)
        np.minimum.at(head, parts, roots)
        why = np.full(len(frozen), -1, dtype=np.int64)
        np.maximum.at(why, parts, self.reasons[roots])
        why[frozen & (why < 0)] = reason
        self._parent[roots] = head[parts]
        self.reasons[head] = why


def _components(count: int, lefts: list[IntArray], rights: list[IntArray]) -> IntArray:
    if count == 0:
        return np.empty(0, dtype=np.int64)
    left = np.concatenate(lefts) if lefts else np.empty(0, dtype=np.int64)
    right = np.concatenate(rights) if rights else np.empty(0, dtype=np.int64)
    ones = np.ones(len(left))
    matrix = coo_array((ones, (left, right)), shape=(count, count))
    return connected_components(matrix, directed=False)[1].astype(np.int64)


# Rows 4 to 7 of a weight meet elements 20 to 23 of a BatchNorm for reason 1, and then row 4 meets
# column 30 for reason 2: [4 5 6 7 4] and [20 21 22 23 30].  Both sides count on by one within the
# first four, so those are one run; at the fifth neither does:
# [[4, 20, 4, 1], [4, 30, 1, 2]].  Most arrays are those of a tensor's dimension: they count on by
# one from end to end, and need not be looked at.
def coupled_runs(
    links: Sequence[tuple[IntArray, IntArray, int]], whole: Collection[int]
) -> IntArray:
    """All couplings as rows ``(left, right, length, reason)``; those with a fixed index are none.

    In a row left and right labels count on by one: layers are coupled as wholes, so a network has
    some thousand rows where it has some hundred thousand couplings.  ``whole``: the ids of arrays
    that count on by one.
    """
    rows: list[tuple[int, int, int, int]] = []
    others: list[tuple[IntArray, IntArray, IntArray]] = []
    for left, right, reason in links:
        if id(left) in whole and id(right) in whole:
            rows.append((int(left[0]), int(right[0]), len(left), reason))
        else:
            others.append((left, right, np.full(len(left), reason)))
    found = np.array(rows, dtype=np.int64).reshape(-1, 4)
    if others:
        left, right, reason = (np.concatenate(side) for side in zip(*others, strict=True))
        valid = (left >= 0) & (right >= 0) & (left != right)
        left, right, reason = left[valid], right[valid], reason[valid]
        goes_on = (np.diff(left) == 1) & (np.diff(right) == 1) & (np.diff(reason) == 0)
        starts = np.concatenate([np.arange(min(1, len(left))), np.flatnonzero(~goes_on) + 1])
        lengths = np.diff(starts, append=len(left))
        broken = np.stack([left[starts], right[starts], lengths, reason[starts]], axis=1)
        found = np.concatenate([found, broken])
    return found
