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
from gammaslim.labels.store import Partition
from gammaslim.labels.union import Classes


@dataclass(frozen=True)
class Shape:
    """A family by itself: the widths of its leaves, its steps, and nodes that divide evenly."""

    widths: tuple[int, ...]
    steps: tuple[Step, ...]
    cuts: tuple[tuple[int, int], ...] = ()

    def fates(self, widths: Sequence[int]) -> list[IntArray] | None:
        """Per leaf the fate of each rank at other widths; ``None`` where parts are not equal."""
        ends = np.cumsum(self.widths)
        starts = ends - self.widths
        ranks = [start + np.arange(n) for start, n in zip(starts, widths, strict=True)]
        known = run(ranks, self.steps)
        if known is None or any(len(known[node]) % parts for node, parts in self.cuts):
            return None
        fates = np.zeros(int(ends[-1]), dtype=np.int64)
        for mark, place in self._marks:
            fates[known[place]] += mark  # a set of parts is known by the sum of their marks
        return [fates[own] for own in ranks]

    @cached_property
    def _marks(self) -> list[tuple[int, int]]:
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
        _spread_columns(weights, partition, classes)
    by_leaf = [weights[nodes.classes[leaf]] for leaf in family.leaves]
    by_run = [by_leaf[leaf][start:stop] for leaf, start, stop in levels.runs]
    if any((own != own[0]).any() for own in by_run):
        return None
    lost = (levels.quotas[0] - levels.quotas) @ np.array([own[0] for own in by_run])
    if demand.size.variables:  # the number of a module would have to follow: not in a balance
        return levels if not any(own.any() for own in by_run) else None
    return Levels(levels.runs, levels.widths[lost == 0], levels.quotas[lost == 0])


def _spread_columns(weights: IntArray, partition: Partition, classes: Classes) -> None:
    """The label of a column counts the column: a share of each row's."""
    column, rows = partition.columns[0], partition.rows[0]
    if column is not None:
        roots = classes.find(column)
        share = weights[roots] // len(rows)
        weights[roots] = 0
        for row in rows:
            weights[classes.find(row)] += share
