"""Sizes that the network's code computes: what they must equal, solved once at the end.

A *demand* is one linear equation between counts of surviving labels and *variables*, the integers
that the network's own modules hold.  Solving gives every variable its new value in closed form;
where two counts must agree their labels are coupled, and where that is not possible they freeze.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np

from gammaslim.arrays import FIXED, BoolArray, IntArray

_ONE = Fraction(1)


@dataclass(frozen=True)
class Variable:
    """An integer attribute of a module: its dotted name, its place in a tuple, its value now."""

    name: str
    position: int | None
    value: int

    def __str__(self) -> str:
        """The name as one would write it in Python."""
        return self.name if self.position is None else f"{self.name}[{self.position}]"


@dataclass(frozen=True)
class Terms:
    """A size as a linear function: ``Σ share · |labels|  +  Σ share · variable  +  constant``."""

    parts: tuple[tuple[IntArray, Fraction], ...] = ()
    constant: Fraction = Fraction(0)
    variables: tuple[tuple[Variable, Fraction], ...] = ()

    def scaled(self, factor: Fraction) -> Terms:
        """Every coefficient multiplied by ``factor``."""
        return Terms(
            tuple((labels, share * factor) for labels, share in self.parts),
            self.constant * factor,
            tuple((variable, share * factor) for variable, share in self.variables),
        )

    def plus(self, other: Terms) -> Terms:
        """The sum of two sizes."""
        shares = dict(self.variables)
        for variable, share in other.variables:
            shares[variable] = shares.get(variable, Fraction(0)) + share
        variables = tuple((v, share) for v, share in shares.items() if share)
        return Terms(self.parts + other.parts, self.constant + other.constant, variables)

    @property
    def counted(self) -> IntArray | None:
        """The labels whose number this is and nothing more; ``None`` where there is more to it."""
        lone = len(self.parts) == 1 and not self.constant and not self.variables
        return self.parts[0][0] if lone and self.parts[0][1] == 1 else None

    def minus(self, other: Terms) -> Terms:
        """The difference of two sizes."""
        return self.plus(other.scaled(-_ONE))

    def with_known(self, known: Mapping[Variable, Terms]) -> Terms:
        """The same size with every known variable replaced by what it stands for."""
        result = self
        while any(variable in known for variable, _ in result.variables):
            total = Terms(result.parts, result.constant)
            for variable, share in result.variables:
                own = Terms(variables=((variable, _ONE),))
                total = total.plus(known.get(variable, own).scaled(share))
            result = total
        return result

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

    @property
    def balance(self) -> Terms:
        """What must be zero."""
        return self.size.minus(Terms(((self.target, _ONE),)))


class Settling(Protocol):
    """The union-find, as far as solving needs it."""

    def find(self, labels: IntArray) -> IntArray:
        """The root class of every label."""
        ...

    def couple(self, lefts: IntArray, rights: IntArray, reason: int) -> None:
        """Unite pairs of labels; what meets a fixed index freezes for ``reason``."""
        ...

    def freeze(self, roots: IntArray, reason: int) -> None:
        """Freeze whole classes, unless they are already."""
        ...


# Eight channels c0 .. c7 that a module splits, `split(x, [self.width, self.rest])`, in four and
# four: the targets and sizes of two demands are  |c0..c3| = width  and  |c4..c7| = rest.  Neither
# variable is known, so each demand defines one: width := |c0..c3| and rest := |c4..c7|, for every
# cut.
#
# Then the code takes `z[:, :self.width]` of d0 .. d7:  |d0..d3| = width.  That one is known by
# now, so what is left says  |c0..c3| - |d0..d3| = 0.  By class, c0 counts +1 and d0 -1: neither may
# go by itself.  The two sides are coupled one to one, and every class counts 0.  Had z only d0 ..
# d2 and a constant in this place, c3 would meet a fixed index, and freeze.
#
# A number that is pinned is known from the start: width = 4 gives  4 - |c0..c3| = 0, four fixed
# indices against four labels, which freeze.  Where the code takes `2 * self.half` of c0 .. c3,
# half is |c0..c3| / 2, and a class by itself moves it by a half.  So the first half is coupled with
# the second, {c0 c2} and {c1 c3}, and each class moves it by one.
def solve(
    demands: Iterable[Demand],
    pinned: Mapping[Variable, int],
    classes: Settling,
    balanced: BoolArray,
) -> dict[Variable, Terms]:
    """Make every demand true for every cut, and say what each variable then is.

    Args:
        demands: the equations, in the order in which the code made them.
        pinned: variables that must keep their value, with the reason's number.
        classes: what is coupled so far; more is coupled, or frozen, here.
        balanced: per class, whether it is balanced: there sizes agree in sum, for every cut.

    Returns:
        The variables that follow a cut, as sizes in labels only.
    """
    known = {v: Terms(constant=Fraction(v.value)) for v in pinned}
    defined: dict[Variable, int] = {}
    for demand in demands:
        reason = next((pinned[v] for v, _ in demand.size.variables if v in pinned), demand.reason)
        balance = demand.balance.with_known(known)
        if balance.variables:
            variable, share = max(balance.variables, key=lambda entry: abs(entry[1]) == 1)
            rest = balance.minus(Terms(variables=((variable, share),)))
            known[variable] = rest.scaled(-1 / share)
            defined[variable] = reason
            continue
        wrong = _unbalanced(balance, classes, balanced)
        if len(wrong) and not balanced[classes.find(balance.labels)].any():
            if (sides := two_sides(balance)) is not None:
                classes.couple(*sides, reason)
            wrong = _unbalanced(balance, classes, balanced)
        classes.freeze(wrong, reason)
    values: dict[Variable, Terms] = {}
    for variable in defined:
        terms = known[variable].with_known(known)
        free = sum((Fraction(v.value) * share for v, share in terms.variables), Fraction(0))
        values[variable] = Terms(terms.parts, terms.constant + free)  # undefined: as it is
    for variable, reason in defined.items():
        _make_whole(values[variable], reason, classes)
    return values


def compared(demands: Iterable[Demand], pinned: Mapping[Variable, int]) -> Iterator[Demand]:
    """The demands without numbers of modules, where each of these only counts labels.

    What one number counts must be as many everywhere; one that is pinned stays as it is.
    """
    first: dict[Variable, IntArray] = {}
    for demand in demands:
        if (variable := _counter(demand)) is None:
            yield demand
        elif variable in pinned:
            yield Demand(demand.target, Terms(constant=Fraction(variable.value)), demand.reason)
        else:
            counted = first.setdefault(variable, demand.target)
            yield Demand(demand.target, Terms(((counted, _ONE),)), demand.reason)


def _counter(demand: Demand) -> Variable | None:
    """The number of a module that by itself is the demanded size."""
    size = demand.size
    alone = len(size.variables) == 1 and not size.parts and not size.constant
    return size.variables[0][0] if alone and size.variables[0][1] == 1 else None


def equal_counts(demands: Iterable[Demand]) -> Iterator[tuple[IntArray, IntArray, int]]:
    """Label arrays that one number of a module counts, in pairs, and the reason's number."""
    counted: dict[Variable, list[Demand]] = {}
    for demand in demands:
        variable = _counter(demand)
        if variable is not None and len(demand.target) == variable.value:
            counted.setdefault(variable, []).append(demand)
    for first, *others in counted.values():
        if others:
            rights = [demand.target for demand in others]
            yield np.tile(first.target, len(others)), np.concatenate(rights), first.reason


def _unbalanced(balance: Terms, classes: Settling, balanced: BoolArray) -> IntArray:
    """The classes whose removal would change the size."""
    roots, amounts, _ = by_class(balance, classes)
    wrong = roots[amounts != 0]
    return wrong[~balanced[wrong]]


# |c0 c1 c2 c2| / 2 - |c0|, where c1 and c2 have become one class, 1.  In halves class 0 counts
# 1 - 2 = -1 and class 1 counts 3, for it is there three times: roots [0, 1], amounts [-1, 3],
# unit 2.  A cut that takes class 1 makes the size smaller by 3 / 2.  A size must be whole, so
# amounts that 2 does not divide are those by which it would not be; and a size that must be zero
# stays so only if every amount is zero.
def by_class(terms: Terms, classes: Settling) -> tuple[IntArray, IntArray, int]:
    """Class roots, by how much the size shrinks when each one goes, and in which unit, 1 / n."""
    arrays = [classes.find(labels[labels >= 0]) for labels, _ in terms.parts]
    unit = math.lcm(*(share.denominator for _, share in terms.parts))
    if not arrays:
        nothing = np.empty(0, dtype=np.int64)
        return nothing, nothing, unit
    shares = [
        np.full(len(array), int(share * unit))
        for array, (_, share) in zip(arrays, terms.parts, strict=True)
    ]
    roots, index = np.unique(np.concatenate(arrays), return_inverse=True)
    amounts = np.zeros(len(roots), dtype=np.int64)
    np.add.at(amounts, index, np.concatenate(shares))
    return roots, amounts, unit


# |a0 a1 a2 a3| - 2 |b0 b1| = 0 says that a has twice as many left as b.  Four labels stand on the
# one side, and b's two twice over on the other: a0-b0, a1-b1, a2-b0, a3-b1 can be coupled, and then
# it holds for every cut.  |a0 a1 a2 a3| - |b0 b1| - 2 = 0 has two fixed indices on b's side: a2 and
# a3 meet them, and freeze.  |a0 a1 a2 a3| - 2 |b0| = 0 is not even true now: there are no sides.
def two_sides(balance: Terms) -> tuple[IntArray, IntArray] | None:
    """Two label arrays that must keep equal lengths, if the equation says nothing else."""
    scale = math.lcm(balance.constant.denominator, *(s.denominator for _, s in balance.parts))
    sides: tuple[list[IntArray], list[IntArray]] = ([], [])
    for labels, share in balance.parts:
        sides[share < 0].append(np.tile(labels, abs(int(share * scale))))
    constant = int(balance.constant * scale)
    sides[constant < 0].append(np.full(abs(constant), FIXED, dtype=np.int64))
    nothing = np.empty(0, dtype=np.int64)
    left, right = (np.concatenate([nothing, *side]) for side in sides)
    return (left, right) if len(left) == len(right) else None


def _make_whole(value: Terms, reason: int, classes: Settling) -> None:
    """See that a variable stays a whole number: keep what it divides in equal parts, or freeze."""
    if len(_fractional(value, classes)):
        for labels, share in value.parts:
            if len(labels) % share.denominator == 0:
                rows = labels.reshape(share.denominator, -1)
                classes.couple(np.broadcast_to(rows[:1], rows.shape).ravel(), rows.ravel(), reason)
        classes.freeze(_fractional(value, classes), reason)


def _fractional(value: Terms, classes: Settling) -> IntArray:
    """The classes by each of which the value shrinks by no whole number."""
    roots, amounts, unit = by_class(value, classes)
    return roots[amounts % unit != 0]
