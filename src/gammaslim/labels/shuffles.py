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
"""In place of the number of a family or a node: none."""


class Nodes:
    """All recorded sequences, in classes; those of equal content are one *node*.

    ``steps`` holds the nodes that are made of others, each after its operands; ``unclear`` those
    that are made in several ways or of something unclear; all others are leaves.  ``beneath``
    holds the leaves that a node is made of.
    """

    # Leaves a and b are joined to n2, and that is shuffled to n3.  Training mode says so once more
    # of arrays of its own: eight sequences of four contents, so four nodes, and the leaves a and b
    # are beneath n2 and n3.  Steps are taken when their operands are known, n2 before n3, in
    # whichever order they were said.  A node that is made in two ways, by a shuffle and by a part
    # as well, is unclear, and so is all that is made of it: its turn never comes.
    def __init__(self, store: LabelStore, classes: Classes) -> None:
        """Merge the sequences that are equal, and sort the steps."""
        self.labels: list[IntArray] = []
        self.classes: list[IntArray] = []
        self.steps: dict[int, Step] = {}
        self._numbers: dict[bytes, int] = {}
        nodes: list[int] = []
        for labels in store.sequences:
            if (labels < 0).any():
                nodes.append(NOBODY)
                continue
            content = classes.find(labels)
            nodes.append(self._numbers.setdefault(content.tobytes(), len(self.labels)))
            if nodes[-1] == len(self.labels):
                self.labels.append(labels)
                self.classes.append(content)
        made: dict[int, Step] = {}
        unclear: set[int] = set()
        for result, step in store.steps:
            node = nodes[result]
            moved = Step(step.operation, tuple(nodes[operand] for operand in step.operands))
            if made.setdefault(node, moved) != moved or NOBODY in (node, *moved.operands):
                unclear.add(node)
        self.beneath = {node: {node} for node in range(len(self.labels)) if node not in made}
        waiting = {node: step for node, step in made.items() if node not in unclear}
        while True:
            ready = [n for n, s in waiting.items() if all(o in self.beneath for o in s.operands)]
            if not ready:
                break
            for node in ready:
                self.steps[node] = waiting.pop(node)
                below = (self.beneath[operand] for operand in self.steps[node].operands)
                self.beneath[node] = set[int]().union(*below)
        self.unclear = unclear | set(waiting)

    def number(self, classes: IntArray) -> int | None:
        """The node with this content, if there is one."""
        return self._numbers.get(classes.tobytes())


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


# A stage of ShuffleNet: a unit joins its branches a and b, shuffles, and cuts into halves l and r.
# The next makes c of r, and joins, shuffles and cuts l and c.  Beneath the first shuffle are the
# leaves a and b, beneath the second a, b and c.  They share leaves, so all three are one family.
# Layers that are only joined share no step that cuts or shuffles: nothing binds them.
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


# The family a, b, c above may be balanced only if whatever depends on the order of its channels is
# known.  What spoils it:
# - a class that is in two leaves, or in one twice: a sum of a and b;
# - a class in which no named tensor has a slice, so that there is nothing to cut;
# - equal parts that are none of this family's nodes, such as a convolution's groups (`_claim`);
# - an array that meets its classes in an order which is no node's: what reads r reads a node, what
#   reads a flip of r does not;
# - a class that is frozen.
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
    bad = set(owner[(_occurrences(nodes, classes.count) > 1) | ~named].tolist())
    for partition in store.partitions:
        bad |= _claim(partition, families, nodes, classes, owner)
    for labels in (*store.lefts, *store.rights, *store.inexact, *store.mixed, *seen):
        found = set(_families_of(labels, classes, owner))
        if found and ((labels < 0).any() or nodes.number(classes.find(labels)) is None):
            bad |= found
    bad |= set(owner[classes.reasons >= 0].tolist())
    yield from (family for number, family in enumerate(families) if number not in bad)


def _occurrences(nodes: Nodes, number: int) -> IntArray:
    """Per class in how many leaves it is, and how often; what is unclear counts as twice."""
    count = np.zeros(number, dtype=np.int64)
    for node, classes in enumerate(nodes.classes):
        if node in nodes.unclear:
            count[classes] += 2
        elif node not in nodes.steps:
            np.add.at(count, classes, 1)
    for step in nodes.steps.values():
        if isinstance(step.operation, Part | Shuffle):
            classes, times = np.unique(nodes.classes[step.operands[0]], return_counts=True)
            count[classes[times > 1]] += 2
    return count


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


def _families_of(labels: IntArray, classes: Classes, owner: IntArray) -> list[int]:
    found = np.unique(owner[classes.find(labels[labels >= 0])])
    return found[found != NOBODY].tolist()
