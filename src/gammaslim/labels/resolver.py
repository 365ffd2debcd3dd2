"""Settles everything that a store holds: unions, balances, equal parts, sizes, in this order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from gammaslim.arrays import BoolArray, IntArray
from gammaslim.channels import Arrangement, Balance, Shuffle, Step
from gammaslim.labels.balance import Levels, levels_of, met, shape_of
from gammaslim.labels.equations import Terms, compared, equal_counts, solve
from gammaslim.labels.shuffles import Family, Nodes, closed, shuffled_families
from gammaslim.labels.store import LabelStore
from gammaslim.labels.union import Classes, Resolved


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
    variables = {v: _counted_in_rows(terms, rows) for v, terms in variables.items()}
    if store.inexact:
        classes.inexact[classes.find(np.concatenate(store.inexact))] = True
    return classes.resolved(arrangement, variables)


def _counted_in_rows(terms: Terms, rows_of: Mapping[bytes, IntArray]) -> Terms:
    """The same size, where it counts the columns of balanced parts: a share of all their rows."""
    parts: list[tuple[IntArray, Fraction]] = []
    for labels, share in terms.parts:
        rows = rows_of.get(labels.tobytes())
        parts.append((labels, share) if rows is None else (rows.ravel(), share / len(rows)))
    return Terms(tuple(parts), terms.constant)


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
        if levels is not None and _offered(levels) >= max((1, 2), _coupled(family, nodes, classes)):
            yield _Balanced(family, levels)


def _offered(levels: Levels) -> tuple[int, int]:
    """How many slices may go if a family is balanced, and to how many widths it can be cut."""
    lengths = np.array([stop - start for _, start, stop in levels.runs])
    shrinks = levels.quotas.min(axis=0) < levels.quotas[0]
    return int(lengths[shrinks].sum()), len(levels.widths)


def _coupled(family: Family, nodes: Nodes, classes: Classes) -> tuple[int, int]:
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
