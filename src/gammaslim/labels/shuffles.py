"""Families: layers whose channels are joined, cut into parts and shuffled with each other.

The channels of a family can be balanced, instead of coupled, only if all that happens to them is
known: every sequence in which they occur is a layer's own or is made of others by known steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from gammaslim.arrays import BoolArray, IntArray
from gammaslim.channels import Part, Shuffle, Step
from gammaslim.labels.store import LabelStore, Partition
from gammaslim.labels.union import Classes

NOBODY = -1
"""In place of the number of a family: none."""


class Nodes:
    """All recorded sequences, in classes; those of equal content are one *node*.

    ``steps`` holds the nodes that are made of others, each after its operands; ``unclear`` those
    that are made in several ways or of something unclear; all others are leaves.  ``beneath``
    holds the leaves that a node is made of.
    """

    def __init__(self, store: LabelStore, classes: Classes) -> None:
        """Merge the sequences that are equal, and sort the steps."""
        self.labels: list[IntArray] = []
        self.classes: list[IntArray] = []
        self.unclear: set[int] = set()
        self.steps: dict[int, Step] = {}
        self._numbers: dict[bytes, int] = {}
        nodes = [self._add(labels, classes) for labels in store.sequences]
        made: dict[int, Step] = {}
        for result, step in store.steps:
            node = nodes[result]
            moved = Step(step.operation, tuple(nodes[operand] for operand in step.operands))
            if made.setdefault(node, moved) != moved or -1 in (node, *moved.operands):
                self.unclear.add(node)
        self.beneath = {node: {node} for node in range(len(self.labels)) if node not in made}
        self._sort(made)

    def number(self, classes: IntArray) -> int | None:
        """The node with this content, if there is one."""
        return self._numbers.get(classes.tobytes())

    def _add(self, labels: IntArray, classes: Classes) -> int:
        """The number of the node, which is new or known; -1 where an index is fixed."""
        if (labels < 0).any():
            return -1
        content = classes.find(labels)
        number = self._numbers.setdefault(content.tobytes(), len(self.labels))
        if number == len(self.labels):
            self.labels.append(labels)
            self.classes.append(content)
        return number

    def _sort(self, made: dict[int, Step]) -> None:
        """Steps whose operands are known, again and again; what is left over is unclear."""
        waiting = {node: step for node, step in made.items() if node not in self.unclear}
        while waiting:
            ready = [n for n, s in waiting.items() if all(o in self.beneath for o in s.operands)]
            if not ready:
                break
            for node in ready:
                self.steps[node] = waiting.pop(node)
                below = (self.beneath[operand] for operand in self.steps[node].operands)
                self.beneath[node] = set[int]().union(*below)
        self.unclear |= set(waiting)


@dataclass
class Family:
    """Leaves that share a step which cuts or shuffles.

    ``steps`` are the nodes made of these leaves alone; ``partitions`` the equal parts that the
    steps account for, and ``cuts`` the nodes that these divide, and into how many.
    """

    leaves: list[int]
    steps: list[int]
    partitions: list[Partition] = field(default_factory=list[Partition])
    cuts: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])


def shuffled_families(nodes: Nodes) -> list[Family]:
    """The families in which anything is shuffled; without that, coupling parts costs nothing."""
    member: dict[int, set[int]] = {}
    shuffled: set[int] = set()
    for node, step in nodes.steps.items():
        if isinstance(step.operation, Part | Shuffle):
            leaves = nodes.beneath[node]
            merged = set[int]().union(*(member.get(leaf, {leaf}) for leaf in leaves))
            member.update(dict.fromkeys(merged, merged))
            if isinstance(step.operation, Shuffle):
                shuffled |= leaves
    distinct = {min(leaves): leaves for leaves in member.values() if leaves & shuffled}
    return [
        Family(sorted(leaves), [n for n in nodes.steps if nodes.beneath[n] <= leaves])
        for leaves in distinct.values()
    ]


def closed(
    families: Sequence[Family],
    nodes: Nodes,
    store: LabelStore,
    classes: Classes,
    named: BoolArray,
    seen: Iterable[IntArray],
) -> Iterator[Family]:
    """The families of which everything is known; their ``partitions`` are filled in.

    ``named``: per class, whether it holds a slice of a named tensor; ``seen``: label arrays besides
    those in the store in which order matters.
    """
    owner = np.full(classes.count, NOBODY, dtype=np.int64)
    for number, family in enumerate(families):
        for leaf in family.leaves:
            owner[nodes.classes[leaf]] = number
    bad = _shared(nodes, named, owner)
    for partition in store.partitions:
        bad |= _claim(partition, families, nodes, classes, owner)
    bad |= _strangers(
        (*store.lefts, *store.rights, *store.inexact, *store.mixed, *seen), nodes, classes, owner
    )
    bad |= set(owner[classes.reasons >= 0].tolist())
    yield from (family for number, family in enumerate(families) if number not in bad)


def _shared(nodes: Nodes, named: BoolArray, owner: IntArray) -> set[int]:
    """Families with a class that is unclear, that nothing named holds, or that is there twice."""
    count = np.zeros(len(owner), dtype=np.int64)
    for node, classes in enumerate(nodes.classes):
        if node in nodes.unclear:
            count[classes] += 2
        elif node not in nodes.steps:
            np.add.at(count, classes, 1)
    for step in nodes.steps.values():
        if isinstance(step.operation, Part | Shuffle):
            classes, times = np.unique(nodes.classes[step.operands[0]], return_counts=True)
            count[classes[times > 1]] += 2
    return set(owner[(count > 1) | ~named].tolist())


def _claim(
    partition: Partition,
    families: Sequence[Family],
    nodes: Nodes,
    classes: Classes,
    owner: IntArray,
) -> set[int]:
    """Give the equal parts to the family that accounts for them; the families it spoils."""
    arrays = [a for a in (*partition.rows, *partition.columns) if a is not None]
    touched = set(_families_of(np.concatenate([a.ravel() for a in arrays]), classes, owner))
    if not touched:
        return touched
    rows, column = partition.rows[0], partition.columns[0]
    ways = (rows.ravel(), rows.T.ravel()) if partition.followed and (rows >= 0).all() else ()
    known = (nodes.number(classes.find(way)) for way in ways)
    node = next((node for node in known if node in nodes.beneath), None)
    number = min(touched)
    if node is None or not nodes.beneath[node] <= set(families[number].leaves):
        return touched
    families[number].partitions.append(partition)
    families[number].cuts.append((node, len(rows)))
    if column is not None:
        owner[classes.find(column)] = number
    return set()


def _strangers(
    arrays: Iterable[IntArray], nodes: Nodes, classes: Classes, owner: IntArray
) -> set[int]:
    """Families whose classes occur in an array that is no node."""
    spoilt = set[int]()
    for labels in arrays:
        found = set(_families_of(labels, classes, owner))
        if found and ((labels < 0).any() or nodes.number(classes.find(labels)) is None):
            spoilt |= found
    return spoilt


def _families_of(labels: IntArray, classes: Classes, owner: IntArray) -> list[int]:
    found = np.unique(owner[classes.find(labels[labels >= 0])])
    return found[found != NOBODY].tolist()
