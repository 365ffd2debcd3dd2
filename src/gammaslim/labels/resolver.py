"""Settles everything that a store holds: unions, balances, equal parts, sizes, in this order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gammaslim.arrays import BoolArray, IntArray
from gammaslim.channels import Arrangement, Balance, Shuffle, Step
from gammaslim.labels.balance import Levels, levels_of, met, shape_of
from gammaslim.labels.equations import Terms, compared, equal_counts, solve
from gammaslim.labels.shuffles import Family, Nodes, closed, shuffled_families
from gammaslim.labels.store import LabelStore
from gammaslim.labels.union import Classes, Resolved


# A unit of ShuffleNet, eight channels: layers a = [a0 a1 a2 a3] and b are joined, shuffled to a0 b0
# a1 b1 a2 b2 a3 b3 and cut in half, and o = [o0 o1 o2 o3] are the outputs of a convolution of two
# groups that reads the right half, a2 b2 | a3 b3.
# - What met is one class already, and what is frozen is known: `Classes`.
# - a and b are a family.  Without o they would be balanced, and each of the eight go by itself, in
#   equal shares: that is decided first, for nothing else may couple them then.  But no step tells
#   what the groups of o make of the right half, so here they are no such family.
# - What one number of a module counts in two places is coupled, one to one.
# - Equal parts are settled.  The halves have no choice: {a0 b0 a2 b2} {a1 b1 a3 b3}, the i-th of
#   what is shuffled and the i-th of both halves.  The groups have one, so they come last.  As
#   wholes they take o0 o1 into the first class and o2 o3 into the second, which leaves two; by
#   columns all of a and b are one class, but {o0 o2} {o1 o3} are two more: columns it is.
# - Now it is known how many of what may go together, so the sizes that the code computes are solved
#   for the numbers of modules, and classes are numbered in the order of their labels.
def resolve(
    store: LabelStore, named: Sequence[IntArray] = (), seen: Sequence[IntArray] = ()
) -> Resolved:
    """Unite, settle the balances, the partitions and the demands, number the classes from 0.

    ``named`` are the label arrays of named tensors, ``seen`` others in which order matters.
    """
    classes = Classes(store)
    balanced, arrangement = np.zeros(classes.count, dtype=np.bool_), Arrangement()
    done: set[int] = set()
    if any(isinstance(step.operation, Shuffle) for _, step in store.steps):
        nodes = Nodes(store, classes)
        chosen = list(_chosen(store, nodes, classes, (named, seen)))
        for one in chosen:
            one.settle(nodes, classes, balanced)
            done |= {id(partition) for partition in one.family.partitions}
        arrangement = _arrangement(nodes, chosen)
    for left, right, reason in equal_counts(store.demands):
        if not balanced[classes.find(np.concatenate([left, right]))].any():
            classes.couple(left, right, reason)
    # Those that leave a choice come last, when all else is known.
    for partition in sorted(store.partitions, key=lambda p: p.whole):
        if id(partition) not in done:
            classes.settle(partition)
    variables = solve(store.demands, store.pinned, classes, balanced)
    rows = {
        partition.columns[0].tobytes(): partition.rows[0]
        for partition in store.partitions
        if id(partition) in done and partition.columns[0] is not None
    }
    for variable, terms in variables.items():  # those columns are a share of all their rows
        parts = [(rows.get(labels.tobytes(), labels[None]), share) for labels, share in terms.parts]
        counted = tuple((all_rows.ravel(), share / len(all_rows)) for all_rows, share in parts)
        variables[variable] = Terms(counted, terms.constant)
    if store.inexact:
        classes.inexact[classes.find(np.concatenate(store.inexact))] = True
    return classes.resolved(arrangement, variables)


@dataclass(frozen=True)
class _Balanced:
    """A family that is balanced, with its possible cuts."""

    family: Family
    levels: Levels

    def settle(self, nodes: Nodes, classes: Classes, balanced: BoolArray) -> None:
        """Mark its classes; freeze the runs that no cut makes shorter."""
        family, levels = self.family, self.levels
        for leaf in family.leaves:
            balanced[nodes.classes[leaf]] = True
        for partition in family.partitions:
            for column in partition.columns:
                if column is not None:
                    balanced[classes.find(column[column >= 0])] = True
            for rows in partition.rows[1:]:  # labels of the parts: none of them goes
                classes.freeze(classes.find(rows.ravel()), partition.reason)
        stays = levels.quotas.min(axis=0) == levels.quotas[0]
        for (leaf, start, stop), stuck in zip(levels.runs, stays, strict=True):
            if stuck:
                own = nodes.classes[family.leaves[leaf]][start:stop]
                classes.reasons[own] = family.partitions[0].reason

    def record(self, nodes: Nodes) -> Balance:
        """The balance, in labels."""
        labels = [nodes.labels[leaf] for leaf in self.family.leaves]
        runs = tuple(labels[leaf][start:stop] for leaf, start, stop in self.levels.runs)
        return Balance(runs, self.levels.quotas, self.levels.widths)


def _chosen(
    store: LabelStore,
    nodes: Nodes,
    classes: Classes,
    arrays: tuple[Sequence[IntArray], Sequence[IntArray]],
) -> Iterator[_Balanced]:
    """The families in which balance leaves more slices prunable than coupling, or finer ones."""
    known, seen = arrays
    named = np.zeros(classes.count, dtype=np.bool_)
    for labels in known:
        named[classes.find(labels)] = True
    families = shuffled_families(nodes)
    for family in closed(families, nodes, store, classes, named, (*known, *seen)):
        levels = levels_of(shape_of(family, nodes))
        for demand in compared(store.demands, store.pinned):
            levels = levels and met(levels, demand, family, nodes, classes)
        if levels is not None and levels.offered >= max((1, 2), coupled(family, nodes, classes)):
            yield _Balanced(family, levels)


# The leaves a and b are shuffled and cut into halves, a0 b0 a1 b1 | a2 b2 a3 b3.  If the i-th of
# all equal parts were coupled, of a | b and of both halves, {a0 b0 a2 b2} and {a1 b1 a3 b3} would
# be left: 8 slices could go, as 2 channels.  Balanced, 8 may go to 4 widths (`Levels.offered`),
# which is more.  With every further unit the coupled classes become fewer; a node that is one class
# from end to end cannot lose it, so then nothing could go.
def coupled(family: Family, nodes: Nodes, classes: Classes) -> tuple[int, int]:
    """How many slices could go if equal parts were coupled, and how many channels they would be."""
    edges = [partition.edges(whole=False) for partition in family.partitions]
    edges += [(nodes.labels[leaf], nodes.labels[leaf]) for leaf in family.leaves]
    lefts, rights = (np.concatenate(side) for side in zip(*edges, strict=True))
    roots, parts, frozen = classes.joined(lefts, rights)
    owned = {
        node: parts[np.searchsorted(roots, nodes.classes[node])]
        for node in (*family.leaves, *family.steps)
    }
    for own in owned.values():
        frozen[own[0]] |= bool((own == own[0]).all())
    slices = sum(np.count_nonzero(~frozen[owned[leaf]]) for leaf in family.leaves)
    return int(slices), int(np.count_nonzero(~frozen))


def _arrangement(nodes: Nodes, chosen: Sequence[_Balanced]) -> Arrangement:
    """All sequences in which balanced channels occur; whatever else they are made of is a leaf."""
    mine = {leaf for one in chosen for leaf in one.family.leaves}
    steps = {n: s for n, s in nodes.steps.items() if nodes.beneath[n] & mine}
    operands = {operand for step in steps.values() for operand in step.operands}
    leaves = sorted(mine | (operands - steps.keys()))
    number = {node: place for place, node in enumerate((*leaves, *steps))}
    return Arrangement(
        tuple(nodes.labels[leaf] for leaf in leaves),
        tuple(
            Step(step.operation, tuple(number[operand] for operand in step.operands))
            for step in steps.values()
        ),
        tuple(one.record(nodes) for one in chosen),
    )
