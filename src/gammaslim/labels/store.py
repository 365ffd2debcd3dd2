"""Integer labels: what is said of them while the network runs.

A *label array* holds one entry per index of one tensor dimension: a label (``>= 0``), or a code
below zero for an index that can never go.  Rules only ever append to a :class:`LabelStore`;
:func:`gammaslim.labels.resolver.resolve` thinks once, at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gammaslim.arrays import BoolArray, IntArray
from gammaslim.channels import Operation, Step
from gammaslim.labels.equations import Demand, Terms, Variable

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


def or_fixed(labels: LabelArray, length: int, code: int = fixed_code(0)) -> IntArray:
    """The labels of a dimension, or ``length`` times the code of an index that is fixed."""
    return np.full(length, code, dtype=np.int64) if labels is None else labels


@dataclass
class Partition:
    """Equal parts: ``rows[i]`` are the labels of part ``i``, all of one length.

    A grouped convolution has input rows and output rows; its weight may hold one label per
    column (``columns``).  Either whole rows go (``whole`` allowed) or the same column of each.
    ``followed``: steps tell what becomes of the parts, so that they may also go unlike each other.
    """

    rows: tuple[IntArray, ...]
    columns: tuple[LabelArray, ...]
    whole: bool
    reason: int
    goes_whole: bool = field(default=False)
    followed: bool = False

    @property
    def key(self) -> Any:
        """Equal for partitions that say the same, as both modes of one network do."""
        columns = tuple(None if own is None else own.tobytes() for own in self.columns)
        rows = tuple((rows.shape, rows.tobytes()) for rows in self.rows)
        return self.whole, self.followed, columns, rows

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


class LabelStore:
    """Append-only record of everything that rules say about labels."""

    def __init__(self) -> None:
        """An empty store."""
        self.count = 0
        self.whole: dict[int, IntArray] = {}
        self.pairs: set[tuple[int, int]] = set()
        self.lefts: list[IntArray] = []
        self.rights: list[IntArray] = []
        self.origins: list[int] = []
        self.frozen: list[tuple[IntArray, int]] = []
        self.inexact: list[IntArray] = []
        self._partitions: dict[Any, Partition] = {}
        self.demands: list[Demand] = []
        self.mixed: list[IntArray] = []
        self.sequences: list[IntArray] = []
        self.steps: list[tuple[int, Step]] = []
        self._numbers: dict[int, int] = {}
        self.pinned: dict[Variable, int] = {}

    def fresh(self, length: int) -> IntArray:
        """New labels that nothing else carries yet; they count on by one."""
        labels = np.arange(self.count, self.count + length, dtype=np.int64)
        self.count += length
        self.whole[id(labels)] = labels  # kept, so its id stays good
        return labels

    def couple(self, left: IntArray, right: IntArray, reason: Callable[[], int]) -> None:
        """Unite pairs of labels; both arrays hold labels only, no fixed codes.

        ``reason`` gives the number of the reason, and is asked only where the pair is new.
        """
        pair = (id(left), id(right))  # both are kept, so their ids stay good
        if left is not right and len(left) and pair not in self.pairs:
            self.pairs.add(pair)
            self.lefts.append(left)
            self.rights.append(right)
            self.origins.append(reason())

    def unite(self, left: IntArray, right: IntArray, reason: Callable[[], int]) -> IntArray:
        """Unite two label arrays index by index; a fixed index freezes what it meets."""
        if left is right:
            return left
        left_fixed, right_fixed = left < 0, right < 0
        both = ~(left_fixed | right_fixed)
        if both.all():
            self.couple(left, right, reason)
            return left
        self.couple(left[both], right[both], reason)
        self._freeze_met(left, right, left_fixed & ~right_fixed)
        self._freeze_met(right, left, right_fixed & ~left_fixed)
        return np.where(left == ELASTIC, right, left)

    def freeze(self, labels: LabelArray, reason: int) -> None:
        """No index with one of these labels may go."""
        if labels is not None and len(labels := labels[labels >= 0].ravel()):
            self.frozen.append((labels, reason))

    def mark_inexact(self, labels: IntArray) -> None:
        """Some operator depends on how many of these there are."""
        self.inexact.append(labels[labels >= 0].ravel())

    def mark_mixed(self, columns: LabelArray) -> None:
        """Equal parts with these columns were used beside each other: they cannot go unlike."""
        if columns is not None:
            self.mixed.append(columns)

    @property
    def partitions(self) -> list[Partition]:
        """All parts that must stay equal, in the order in which they were met."""
        return list(self._partitions.values())

    def partition(self, partition: Partition) -> Partition:
        """Keep these parts equal; gives the record of it, which may be one that says the same."""
        return self._partitions.setdefault(partition.key, partition)

    def demand(self, target: IntArray, size: Terms, reason: int) -> None:
        """The number of survivors of ``target`` must always equal ``size``."""
        self.demands.append(Demand(target, size, reason))

    def pin(self, variable: Variable, reason: int) -> None:
        """This number of a module must keep its value."""
        self.pinned.setdefault(variable, reason)

    def derive(self, result: IntArray, operation: Operation, *operands: IntArray) -> None:
        """Record how the order of ``result`` comes about, whatever is cut."""
        numbers = tuple(self._number_of(operand) for operand in operands)
        self.steps.append((self._number_of(result), Step(operation, numbers)))

    def _number_of(self, sequence: IntArray) -> int:
        number = self._numbers.setdefault(id(sequence), len(self.sequences))
        if number == len(self.sequences):
            self.sequences.append(sequence)  # kept, so its id stays good
        return number

    def _freeze_met(self, fixed: IntArray, labels: IntArray, where: BoolArray) -> None:
        for code in np.unique(fixed[where]):
            if code != ELASTIC:
                self.freeze(labels[where & (fixed == code)], reason_number(int(code)))
