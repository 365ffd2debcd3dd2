"""Integer labels and their union: which slices of all tensors live or die together.

A *label array* holds one entry per index of one tensor dimension: a label (``>= 0``), or a code
below zero for an index that can never go.  Rules only ever append to a :class:`LabelStore`;
:meth:`LabelStore.resolve` thinks once, at the end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from gammaslim.graph import BoolArray, IntArray

ELASTIC = np.iinfo(np.int64).min
"""Code of an index that was broadcast: it takes whatever size the other operand has."""

LabelArray = IntArray | None
"""The labels of one dimension, or ``None`` where its size is given and nothing may go."""


def fixed_code(reason: int) -> int:
    """The label-array code of an index that is fixed for the reason with this number."""
    return -1 - reason


def reason_number(code: int) -> int:
    """The inverse of :func:`fixed_code`; an elastic index counts as reason 0."""
    return 0 if code == ELASTIC else -1 - code


@dataclass(frozen=True)
class Terms:
    """A size as a linear function of label counts: ``Σ factor · |labels|  + constant``."""

    parts: tuple[tuple[IntArray, Fraction], ...]
    constant: Fraction = Fraction(0)

    def scaled(self, factor: Fraction) -> Terms:
        """Every coefficient multiplied by ``factor``."""
        parts = tuple((labels, share * factor) for labels, share in self.parts)
        return Terms(parts, self.constant * factor)

    def plus(self, other: Terms) -> Terms:
        """The sum of two sizes."""
        return Terms(self.parts + other.parts, self.constant + other.constant)

    def counts(self, target: IntArray) -> bool:
        """Whether this is no more than the number of these labels."""
        whole = len(self.parts) == 1 and self.parts[0][1] == 1 and self.constant == 0
        return whole and np.array_equal(self.parts[0][0], target)

    @property
    def labels(self) -> IntArray:
        """All labels that the size depends on."""
        if not self.parts:
            return np.empty(0, dtype=np.int64)
        return np.concatenate([labels for labels, _ in self.parts])


@dataclass(frozen=True)
class Demand:
    """The code computes a size: after any cut, ``target`` must have exactly that many left."""

    target: IntArray
    size: Terms
    reason: int


@dataclass
class Partition:
    """Equal parts: ``rows[i]`` are the labels of part ``i``, all of one length.

    A grouped convolution has input rows and output rows; its weight may hold one label per
    column (``columns``).  Either whole rows go (``whole`` allowed) or the same column of each.
    """

    rows: tuple[IntArray, ...]
    columns: tuple[LabelArray, ...]
    whole: bool
    reason: int
    goes_whole: bool = field(default=False)

    @property
    def key(self) -> Any:
        """Equal for partitions that say the same, as both modes of one network do."""
        columns = tuple(None if own is None else own.tobytes() for own in self.columns)
        return self.whole, columns, tuple((rows.shape, rows.tobytes()) for rows in self.rows)

    def edges(self, *, whole: bool) -> tuple[IntArray, IntArray]:
        """Label pairs to unite if whole rows go, or else the same column of every row."""
        lefts, rights = [], []
        anchor = self.rows[0][:, :1]
        for rows, column in zip(self.rows, self.columns, strict=True):
            left = anchor if whole else (rows[:1] if column is None else column[None, :])
            left, right = np.broadcast_arrays(left, rows)
            lefts.append(left.ravel())
            rights.append(right.ravel())
        return np.concatenate(lefts), np.concatenate(rights)


@dataclass(frozen=True)
class Resolved:
    """What :meth:`LabelStore.resolve` found: per label its class, per class its properties."""

    classes: IntArray
    reasons: IntArray
    inexact: BoolArray


class LabelStore:
    """Append-only record of everything that rules say about labels."""

    def __init__(self) -> None:
        """An empty store."""
        self.count = 0
        self.pairs: set[tuple[int, int]] = set()
        self.lefts: list[IntArray] = []
        self.rights: list[IntArray] = []
        self.frozen: list[tuple[IntArray, int]] = []
        self._inexact: list[IntArray] = []
        self._partitions: dict[Any, Partition] = {}
        self._demands: list[Demand] = []

    def fresh(self, length: int) -> IntArray:
        """New labels that nothing else carries yet."""
        labels = np.arange(self.count, self.count + length, dtype=np.int64)
        self.count += length
        return labels

    def couple(self, left: IntArray, right: IntArray) -> None:
        """Unite pairs of labels; both arrays hold labels only, no fixed codes."""
        pair = (id(left), id(right))  # both are kept, so their ids stay good
        if left is not right and len(left) and pair not in self.pairs:
            self.pairs.add(pair)
            self.lefts.append(left)
            self.rights.append(right)

    def unite(self, left: IntArray, right: IntArray) -> IntArray:
        """Unite two label arrays index by index; a fixed index freezes what it meets."""
        if left is right:
            return left
        left_fixed, right_fixed = left < 0, right < 0
        both = ~(left_fixed | right_fixed)
        if both.all():
            self.couple(left, right)
            return left
        self.couple(left[both], right[both])
        self._freeze_met(left, right, left_fixed & ~right_fixed)
        self._freeze_met(right, left, right_fixed & ~left_fixed)
        return np.where(left == ELASTIC, right, left)

    def freeze(self, labels: LabelArray, reason: int) -> None:
        """No index with one of these labels may go."""
        if labels is not None and len(labels := labels[labels >= 0].ravel()):
            self.frozen.append((labels, reason))

    def mark_inexact(self, labels: IntArray) -> None:
        """Some operator depends on how many of these there are."""
        self._inexact.append(labels[labels >= 0].ravel())

    def partition(self, partition: Partition) -> Partition:
        """Keep these parts equal; gives the record of it, which may be one that says the same."""
        return self._partitions.setdefault(partition.key, partition)

    def demand(self, target: IntArray, size: Terms, reason: int) -> None:
        """The number of survivors of ``target`` must always equal ``size``."""
        self._demands.append(Demand(target, size, reason))

    def resolve(self) -> Resolved:
        """Unite, settle the partitions and the demands, and number the classes from 0."""
        classes = _Classes(self)
        for partition in self._partitions.values():
            classes.settle(partition)
        for demand in self._demands:
            classes.check(demand)
        if self._inexact:
            classes.inexact[classes.find(np.concatenate(self._inexact))] = True
        return classes.resolved()

    def _freeze_met(self, fixed: IntArray, labels: IntArray, where: BoolArray) -> None:
        for code in np.unique(fixed[where]):
            if code != ELASTIC:
                self.freeze(labels[where & (fixed == code)], reason_number(int(code)))


class _Classes:
    """The union-find while it is being settled: a forest over the first components."""

    def __init__(self, store: LabelStore) -> None:
        self._component = _components(store.count, store.lefts, store.rights)
        number = int(self._component.max(initial=-1)) + 1
        self._parent = np.arange(number, dtype=np.int64)
        self._reasons = np.full(number, -1, dtype=np.int64)
        self.inexact = np.zeros(number, dtype=np.bool_)
        for labels, reason in reversed(store.frozen):
            self._reasons[self._component[labels]] = reason

    def find(self, labels: IntArray) -> IntArray:
        """The root class of every label (labels only, no fixed codes)."""
        roots = self._component[labels]
        while not np.array_equal(above := self._parent[roots], roots):
            roots = above
        return roots

    def settle(self, partition: Partition) -> None:
        """Choose whole rows or equal columns, whichever leaves more classes prunable."""
        choices = [False, True] if partition.whole else [False]
        outcomes = [self._joined(*partition.edges(whole=choice)) for choice in choices]
        best = int(np.argmax([np.count_nonzero(~frozen) for _, _, frozen in outcomes]))
        partition.goes_whole = choices[best]
        self._apply(*outcomes[best], partition.reason)
        if partition.goes_whole:
            for column in partition.columns:
                if column is not None:
                    self._reasons[self.find(column[column >= 0])] = partition.reason

    def check(self, demand: Demand) -> None:
        """Freeze the classes for which the code's size and the real one would disagree."""
        labels = demand.target[demand.target >= 0]
        arrays = [self.find(labels)] + [self.find(part[part >= 0]) for part, _ in demand.size.parts]
        shares = [Fraction(-1)] + [share for _, share in demand.size.parts]
        whole = math.lcm(*(share.denominator for share in shares))
        weights = np.repeat([int(share * whole) for share in shares], list(map(len, arrays)))
        roots, index = np.unique(np.concatenate(arrays), return_inverse=True)
        balance = np.bincount(index, weights, minlength=len(roots))  # whole numbers, so exact
        wrong = roots[balance != 0]
        self._reasons[wrong] = np.where(
            self._reasons[wrong] < 0, demand.reason, self._reasons[wrong]
        )

    def resolved(self) -> Resolved:
        """Number the classes in the order in which their labels were made, as roots are."""
        roots = self.find(np.arange(len(self._component)))
        kept = np.zeros(len(self._parent), dtype=np.bool_)
        kept[roots] = True
        number = np.cumsum(kept) - 1
        return Resolved(number[roots], self._reasons[kept], self.inexact[kept])

    def _joined(self, lefts: IntArray, rights: IntArray) -> tuple[IntArray, IntArray, BoolArray]:
        """Class roots concerned, the part each would join, and which parts would be frozen."""
        both = (lefts >= 0) & (rights >= 0)
        lone = np.concatenate([lefts[~both], rights[~both]])
        lone = self.find(lone[lone >= 0])
        left, right = self.find(lefts[both]), self.find(rights[both])
        roots = np.unique(np.concatenate([left, right, lone]))
        edges = [np.searchsorted(roots, left)], [np.searchsorted(roots, right)]
        parts = _components(len(roots), *edges)
        frozen = np.zeros(int(parts.max(initial=-1)) + 1, dtype=np.bool_)
        frozen[parts[self._reasons[roots] >= 0]] = True
        frozen[parts[np.searchsorted(roots, lone)]] = True
        return roots, parts, frozen

    def _apply(self, roots: IntArray, parts: IntArray, frozen: BoolArray, reason: int) -> None:
        if len(roots) == 0:
            return
        head = np.full(len(frozen), len(self._parent), dtype=np.int64)
        np.minimum.at(head, parts, roots)
        why = np.full(len(frozen), -1, dtype=np.int64)
        np.maximum.at(why, parts, self._reasons[roots])
        why[frozen & (why < 0)] = reason
        self._parent[roots] = head[parts]
        self._reasons[head] = why


def _components(count: int, lefts: list[IntArray], rights: list[IntArray]) -> IntArray:
    """The connected component of each of ``count`` nodes, numbered in the order of their first.

    In every round each root joins the lowest of its neighbours, so that at least half of those
    that have a neighbour left are gone, and edges are drawn anew between the roots that remain.
    """
    parent = np.arange(count, dtype=np.int64)
    left = np.concatenate([parent[:0], *lefts])
    right = np.concatenate([parent[:0], *rights])
    while len(left):
        np.minimum.at(parent, np.maximum(left, right), np.minimum(left, right))
        while not np.array_equal(above := parent[parent], parent):
            parent = above
        left, right = parent[left], parent[right]
        apart = left != right
        left, right = left[apart], right[apart]
    return (np.cumsum(parent == np.arange(count)) - 1)[parent]
