"""Balance: how many channels of which run may stay when a family becomes narrower.

All leaves of a family keep equal shares.  The steps are run on ranks, at every width: where a rank
of a leaf ends up, in which parts, is its *fate*.  A run is an interval of ranks of one fate.  A cut
to some width is right if of each run as many channels stay as ranks have that fate there: then
every part holds exactly the channels that were in it before, whichever of a run they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

import numpy as np

from gammaslim.arrays import IntArray
from gammaslim.channels import Part, Step, run
from gammaslim.labels.equations import Demand, by_class
from gammaslim.labels.shuffles import Family, Nodes
from gammaslim.labels.union import Classes


@dataclass(frozen=True)
class Shape:
    """A family by itself: the widths of its leaves, its steps, and nodes that divide evenly."""

    widths: tuple[int, ...]
    steps: tuple[Step, ...]
    cuts: tuple[tuple[int, int], ...] = ()

    # Leaves a and b of 4 are joined, shuffled and cut in half: a0 b0 a1 b1 | a2 b2 a3 b3.  With the
    # marks 5 and 7 for the halves, a's ranks have the fates 5 5 7 7, and so have b's.  At width 3
    # it is a0 b0 a1 | b1 a2 b2: 5 5 7 for a and 5 7 7 for b.  What a second unit cuts once more has
    # the sum of the marks of all parts that it was in; with random marks of 62 bits it is all but
    # impossible that two different sets of parts have one sum.
    def fates(self, widths: Sequence[int]) -> list[IntArray] | None:
        """Per leaf the fate of each rank at other widths; ``None`` where parts are not equal."""
        ends = np.cumsum(self.widths)
        starts = ends - self.widths
        ranks = [start + np.arange(n) for start, n in zip(starts, widths, strict=True)]
        known = run(ranks, self.steps)
        if known is None or any(len(known[node]) % parts for node, parts in self.cuts):
            return None
        fates = np.zeros(int(ends[-1]), dtype=np.int64)
        for mark, place in self.marks:
            fates[known[place]] += mark  # a set of parts is known by the sum of their marks
        return [fates[own] for own in ranks]

    @cached_property
    def marks(self) -> list[tuple[int, int]]:
        """A random number for each part, always the same, and the place of that part."""
        places = [i for i, step in enumerate(self.steps) if isinstance(step.operation, Part)]
        marks = np.random.default_rng(0).integers(-(2**62), 2**62, size=len(places)).tolist()
        return [(mark, len(self.widths) + i) for mark, i in zip(marks, places, strict=True)]


@dataclass(frozen=True)
class Levels:
    """All cuts of a family, from none to the deepest.

    ``runs`` holds (leaf, start, stop) of each run; per level, ``widths`` those of the leaves and
    ``quotas`` how many stay of each run.
    """

    runs: tuple[tuple[int, int, int], ...]
    widths: IntArray
    quotas: IntArray

    @property
    def offered(self) -> tuple[int, int]:
        """How many slices may go, and to how many widths the family can be cut."""
        lengths = np.array([stop - start for _, start, stop in self.runs])
        shrinks = self.quotas.min(axis=0) < self.quotas[0]
        return int(lengths[shrinks].sum()), len(self.widths)


# The same two leaves.  Uncut, 5 5 7 7 is two runs of two ranks, for a and for b.  At width 3, where
# it is 5 5 7 and 5 7 7, two of a's first run stay and one of its second, and one and two of b's.
# Which ones is free: any two of a0 a1 would go left.  At width 2 it is one of each, and at width 1,
# a0 | b0, one of a's first and one of b's second.  So the levels are
#     widths   4 4      3 3      2 2      1 1
#     quotas   2 2 2 2  2 1 1 2  1 1 1 1  1 0 0 1
# A width at which runs come in another order, or one would be longer than it was, is no level.
def levels_of(shape: Shape) -> Levels | None:
    """Try every width; ``None`` where the family is not clear even as it is."""
    unit = math.gcd(*shape.widths)
    full = shape.fates(shape.widths)
    if full is None:
        return None
    runs = [_runs(fates) for fates in full]
    widths, quotas = [], []
    for share in range(unit, 0, -1):
        tried = [width // unit * share for width in shape.widths]
        fates = shape.fates(tried)
        found = None if fates is None else _quotas(runs, fates)
        if found is not None:
            widths.append(tried)
            quotas.append(found)
    places: list[tuple[int, int, int]] = []
    for leaf, own in enumerate(runs):
        edges = accumulate((length for _, length in own), initial=0)
        places += [(leaf, start, stop) for start, stop in pairwise(edges)]
    return Levels(tuple(places), np.array(widths), np.array(quotas))


def _runs(fates: IntArray) -> list[tuple[int, int]]:
    """Fate and length of each run."""
    edges = [0, *(np.flatnonzero(fates[1:] != fates[:-1]) + 1).tolist(), len(fates)]
    return [(int(fates[start]), stop - start) for start, stop in pairwise(edges)]


def _quotas(full: Sequence[list[tuple[int, int]]], fates: Sequence[IntArray]) -> list[int] | None:
    """Lengths of the runs at another width; ``None`` where no cut can give them.

    A run may vanish, so those that are left must be found among the old ones one after the other;
    none can be longer than it was.
    """
    quotas: list[int] = []
    for old, new in zip(full, map(_runs, fates), strict=True):
        left = list(new)
        for fate, length in old:
            quotas.append(left.pop(0)[1] if left and left[0][0] == fate else 0)
            if quotas[-1] > length:
                return None
        if left:
            return None
    return quotas


def shape_of(family: Family, nodes: Nodes) -> Shape:
    """The family with its own numbering: leaves first, then steps."""
    number = {node: place for place, node in enumerate((*family.leaves, *family.steps))}
    return Shape(
        tuple(len(nodes.classes[leaf]) for leaf in family.leaves),
        tuple(
            Step(step.operation, tuple(number[operand] for operand in step.operands))
            for step in (nodes.steps[node] for node in family.steps)
        ),
        tuple((number[node], parts) for node, parts in family.cuts),
    )


def met(
    levels: Levels, demand: Demand, family: Family, nodes: Nodes, classes: Classes
) -> Levels | None:
    """The levels at which the code computes the sizes that are left.

    ``None`` where that depends on which channels of a run stay.
    """
    roots, excess, _ = by_class(demand.balance, classes)
    weights = np.zeros(classes.count, dtype=np.int64)
    weights[roots] = excess * math.lcm(*(parts for _, parts in family.cuts))
    for partition in family.partitions:
        column, rows = partition.columns[0], partition.rows[0]
        if column is not None:  # the label of a column counts the column: a share of each row's
            roots = classes.find(column)
            share = weights[roots] // len(rows)
            weights[roots] = 0
            for row in rows:
                weights[classes.find(row)] += share
    by_leaf = [weights[nodes.classes[leaf]] for leaf in family.leaves]
    by_run = [by_leaf[leaf][start:stop] for leaf, start, stop in levels.runs]
    if any((own != own[0]).any() for own in by_run):
        return None
    lost = (levels.quotas[0] - levels.quotas) @ np.array([own[0] for own in by_run])
    if demand.size.variables:  # the number of a module would have to follow: not in a balance
        return levels if not any(own.any() for own in by_run) else None
    return Levels(levels.runs, levels.widths[lost == 0], levels.quotas[lost == 0])
