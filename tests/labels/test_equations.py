"""Sizes that code computes, as equations between counts of labels: solved by hand and here."""

from fractions import Fraction

import numpy as np
import pytest

from gammaslim.labels.equations import (
    Demand,
    Terms,
    Variable,
    by_class,
    compared,
    equal_counts,
    solve,
    two_sides,
)
from gammaslim.labels.store import LabelStore
from gammaslim.labels.union import Classes
from tests.labels.told import COUNTED, couple, labels, sets

WIDTH, REST = Variable("net.width", None, 4), Variable("net.rest", None, 4)
C, D = np.arange(8), np.arange(8, 16)


def size(*variables, constant=0, share=1):
    return Terms((), Fraction(constant), tuple((v, Fraction(share)) for v in variables))


def count(own, share=1):
    return Terms(((own, Fraction(share)),))


def classes_of(number, *couplings):
    store = LabelStore()
    store.fresh(number)
    for left, right in couplings:
        couple(store, left, right)
    return Classes(store)


def solved(classes, *demands, pinned=None, balanced=()):
    """The variables that follow, as numbers when ``classes`` of the first labels are kept."""
    mask = np.zeros(classes.count, dtype=np.bool_)
    mask[list(balanced)] = True
    return solve(demands, pinned or {}, classes, mask)


def reasons(classes, number):
    return classes.reasons[classes.find(np.arange(number))].tolist()


def test_terms_add_up():
    """(width + 2) - (width - |c0 c1| / 2) = |c0 c1| / 2 + 2."""
    left = size(WIDTH, constant=2)
    right = size(WIDTH).minus(count(C[:2], Fraction(1, 2)))
    total = left.minus(right)
    assert total.variables == ()
    assert total.constant == 2
    assert [(own.tolist(), share) for own, share in total.parts] == [([0, 1], Fraction(1, 2))]


def test_known_variables_are_replaced_until_none_is_left():
    """rest = 8 - width and width = |c0..c3|: 2 rest = 16 - 2 |c0..c3|."""
    known = {REST: size(WIDTH, constant=8, share=-1), WIDTH: count(C[:4])}
    found = size(REST, share=2).with_known(known)
    assert (found.constant, found.variables) == (16, ())
    assert [(own.tolist(), share) for own, share in found.parts] == [([0, 1, 2, 3], -2)]


def test_a_variable_is_defined_by_what_it_first_counts():
    """A split in width and rest: both follow, and nothing is coupled."""
    classes = classes_of(8)
    values = solved(
        classes, Demand(C[:4], size(WIDTH), COUNTED), Demand(C[4:], size(REST), COUNTED)
    )
    assert {v: t.labels.tolist() for v, t in values.items()} == {
        WIDTH: [0, 1, 2, 3],
        REST: [4, 5, 6, 7],
    }
    assert sets(classes.find(C)) == [{n} for n in range(8)]
    assert reasons(classes, 8) == [-1] * 8


def test_what_one_variable_counts_twice_is_coupled():
    """|c0..c3| = width = |d0..d3|."""
    classes = classes_of(16)
    solved(classes, Demand(C[:4], size(WIDTH), COUNTED), Demand(D[:4], size(WIDTH), COUNTED))
    found = sets(classes.find(np.arange(16)))
    assert found[:4] == [{0, 8}, {1, 9}, {2, 10}, {3, 11}]
    assert all(len(own) == 1 for own in found[4:])


def test_a_constant_freezes_what_it_meets():
    """|c0..c3| = width and |d0..d2| + 1 = width: the last of c meets a fixed index."""
    classes = classes_of(16)
    solved(
        classes,
        Demand(C[:4], size(WIDTH), COUNTED),
        Demand(D[:3], size(WIDTH, constant=-1), COUNTED),
    )
    assert sets(classes.find(C[:4]))[:3] == [{0}, {1}, {2}]
    assert reasons(classes, 4) == [-1, -1, -1, COUNTED]
    assert classes.find(C[:3]).tolist() == classes.find(D[:3]).tolist()


def test_a_pinned_variable_freezes_what_it_counts_for_its_own_reason():
    classes = classes_of(8)
    values = solved(classes, Demand(C[:4], size(WIDTH), COUNTED), pinned={WIDTH: 9})
    assert values == {}
    assert reasons(classes, 8) == [9] * 4 + [-1] * 4


def test_a_variable_that_would_be_no_whole_number_couples_what_it_divides():
    """2 half = |c0..c3|: c0 goes with c2, c1 with c3."""
    half = Variable("net.half", None, 2)
    classes = classes_of(8)
    values = solved(classes, Demand(C[:4], size(half, share=2), COUNTED))
    assert [(own.tolist(), share) for own, share in values[half].parts] == [
        ([0, 1, 2, 3], Fraction(1, 2))
    ]
    assert sets(classes.find(C[:4])) == [{0, 2}, {1, 3}]


def test_what_cannot_be_divided_freezes():
    """3 third + 1 = |c0..c3|."""
    third = Variable("net.third", None, 1)
    classes = classes_of(4)
    solved(classes, Demand(C[:4], size(third, share=3, constant=1), COUNTED))
    assert reasons(classes, 4) == [COUNTED] * 4


def test_an_equation_that_holds_by_class_changes_nothing():
    """|c0 c1| = |c2 c3| where they are coupled crosswise already."""
    classes = classes_of(4, ([0, 1], [3, 2]))
    solved(classes, Demand(C[:2], count(C[2:4]), COUNTED))
    assert sets(classes.find(C[:4])) == [{0, 3}, {1, 2}]
    assert reasons(classes, 4) == [-1] * 4


def test_sides_of_different_lengths_freeze():
    """|c0..c3| = 2 |c4|, which is not true now."""
    classes = classes_of(5)
    solved(classes, Demand(C[:4], count(C[4:5], 2), COUNTED))
    assert reasons(classes, 5) == [COUNTED] * 5


def test_balanced_classes_are_left_alone():
    classes = classes_of(4)
    solved(classes, Demand(C[:2], count(C[2:4]), COUNTED), balanced=range(4))
    assert sets(classes.find(C[:4])) == [{0}, {1}, {2}, {3}]
    assert reasons(classes, 4) == [-1] * 4


def test_by_class():
    """|c0 c1 c2 c2| / 2 - |c0| where c1 and c2 are one: -1 and 3 halves."""
    classes = classes_of(3, ([1], [2]))
    terms = count(labels(0, 1, 2, 2), Fraction(1, 2)).minus(count(labels(0)))
    roots, amounts, unit = by_class(terms, classes)
    assert (roots.tolist(), amounts.tolist(), unit) == ([0, 1], [-1, 3], 2)
    assert by_class(Terms(), classes)[0].size == 0


@pytest.mark.parametrize(
    ("balance", "expected"),
    [
        (count(C[:4]).minus(count(D[:2], 2)), ([0, 1, 2, 3], [8, 9, 8, 9])),
        (
            count(C[:4]).minus(count(D[:2])).minus(Terms(constant=Fraction(2))),
            ([0, 1, 2, 3], [8, 9, -1, -1]),
        ),
        (count(C[:4], Fraction(1, 2)).minus(count(D[:2])), ([0, 1, 2, 3], [8, 9, 8, 9])),
        (count(C[:4]).minus(count(D[:1], 2)), None),
    ],
    ids=["twice", "constant", "half", "unequal"],
)
def test_two_sides(balance, expected):
    sides = two_sides(balance)
    assert (sides and tuple(side.tolist() for side in sides)) == expected


def test_equal_counts_pairs_what_one_variable_counts():
    """Only where the count is what the variable is now: 3 of 4 is another equation."""
    demands = [Demand(own, size(WIDTH), COUNTED) for own in (C[:4], D[:4], D[4:8], C[4:7])]
    ((left, right, reason),) = equal_counts(demands)
    assert left.tolist() == [0, 1, 2, 3] * 2
    assert right.tolist() == list(range(8, 16))
    assert reason == COUNTED


def test_compared_has_counts_in_place_of_variables():
    """The first target stands for width; rest is pinned at 4; |c0..c3| / 2 stays as it is."""
    half = count(C[:4], Fraction(1, 2))
    demands = [
        Demand(C[:4], size(WIDTH), 1),
        Demand(D[:4], size(WIDTH), 2),
        Demand(C[4:], size(REST), 3),
        Demand(D[:2], half, 4),
    ]
    first, second, third, fourth = compared(demands, {REST: 9})
    assert first.size.labels.tolist() == [0, 1, 2, 3]
    assert second.size.labels.tolist() == [0, 1, 2, 3]
    assert (third.size.constant, third.size.variables) == (4, ())
    assert fourth is demands[3]
