"""Everything that is said of labels, settled at once and in the right order."""

from fractions import Fraction

import numpy as np

from gammaslim.labels.equations import Terms, Variable
from gammaslim.labels.resolver import resolve
from gammaslim.labels.store import LabelStore
from tests.labels.told import COUNTED, CUT, GROUPS, MET, couple, labels, parts, sets, shuffle_unit


def test_nothing_said():
    store = LabelStore()
    store.fresh(3)
    resolved = resolve(store)
    assert resolved.classes.tolist() == [0, 1, 2]
    assert resolved.reasons.tolist() == [-1, -1, -1]
    assert not resolved.arrangement.balances


def test_an_empty_store():
    resolved = resolve(LabelStore())
    assert resolved.classes.size == resolved.reasons.size == 0


def test_two_layers_that_are_added_and_counted():
    """0-2 and 1-3 met; a mean counts 0 and 1."""
    store = LabelStore()
    store.fresh(5)
    couple(store, [0, 1], [2, 3])
    store.mark_inexact(labels(0, 1))
    resolved = resolve(store)
    assert resolved.classes.tolist() == [0, 1, 0, 1, 2]
    assert resolved.inexact.tolist() == [True, True, False]
    assert resolved.couplings.tolist() == [[0, 2, 2, MET]]


def unit():
    """Two leaves of four, shuffled and cut in half; spare labels 8 to 11 and outputs 12 to 15."""
    store = LabelStore()
    a, b = store.fresh(4), store.fresh(4)
    store.fresh(8)
    return store, [a, b], shuffle_unit(store, a, b)


def test_a_shuffle_is_balanced():
    """Each of the eight is a channel of its own; the runs are the halves of both leaves."""
    store, leaves, _ = unit()
    resolved = resolve(store, leaves)
    assert sets(resolved.classes[:8]) == [{n} for n in range(8)]
    (balance,) = resolved.arrangement.balances
    assert [run.tolist() for run in balance.runs] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert balance.widths.tolist() == [[4, 4], [3, 3], [2, 2], [1, 1]]
    assert len(resolved.arrangement.steps) == 4


def test_a_sum_spoils_the_balance():
    """a meets b: 0 4, 1 5, ... are one, and the halves couple 0 2 and 1 3."""
    store, leaves, _ = unit()
    couple(store, *leaves)
    resolved = resolve(store, leaves)
    assert sets(resolved.classes[:8]) == [{0, 2, 4, 6}, {1, 3, 5, 7}]
    assert not resolved.arrangement.balances


def test_groups_come_last():
    """Shuffle and halves leave 0 2 4 6 and 1 3 5 7; columns of 2 6 | 3 7 unite those as well.

    With the outputs 12 13 | 14 15 that makes three classes, and whole groups would make two.
    """
    store, leaves, (_, right) = unit()
    groups = parts(
        right.reshape(2, 2), labels(12, 13, 14, 15).reshape(2, 2), whole=True, reason=GROUPS
    )
    store.partition(groups)
    resolved = resolve(store, [*leaves, labels(12, 13, 14, 15)])
    assert not groups.goes_whole
    assert sets(resolved.classes[:8]) == [set(range(8))]
    assert sets(resolved.classes[12:]) == [{0, 2}, {1, 3}]
    assert set(resolved.couplings[:, 3].tolist()) == {CUT, GROUPS}


WIDTH = Variable("net.width", None, 2)


def test_a_number_of_a_module_follows_what_it_counts():
    """``split(x, [width, ...])`` of 0 1 | 2 3, and 4 5 of another layer: coupled one to one."""
    store = LabelStore()
    store.fresh(6)
    size = Terms(variables=((WIDTH, Fraction(1)),))
    store.demand(labels(0, 1), size, COUNTED)
    store.demand(labels(4, 5), size, COUNTED)
    resolved = resolve(store)
    assert sets(resolved.classes) == [{0, 4}, {1, 5}, {2}, {3}]
    assert resolved.variables[WIDTH].labels.tolist() == [0, 1]
    assert resolved.couplings.tolist() == [[0, 4, 2, COUNTED]]


def test_a_pinned_number_keeps_what_it_counts():
    store = LabelStore()
    store.fresh(4)
    store.demand(labels(0, 1), Terms(variables=((WIDTH, Fraction(1)),)), COUNTED)
    store.pin(WIDTH, 9)
    resolved = resolve(store)
    assert resolved.variables == {}
    assert resolved.reasons.tolist() == [9, 9, -1, -1]


def test_a_column_that_is_counted_in_a_balance_is_a_share_of_its_rows():
    """The halves as rows have a label per column, 8 to 11: as many as half of the eight."""
    store, leaves, halves = unit()
    columns = labels(8, 9, 10, 11)
    store.partition(parts(np.stack(halves), columns=(columns,), followed=True))
    store.demand(columns, Terms(variables=((WIDTH, Fraction(1)),)), COUNTED)
    resolved = resolve(store, leaves)
    assert len(resolved.arrangement.balances) == 1
    ((counted, share),) = resolved.variables[WIDTH].parts
    assert (counted.tolist(), share) == ([0, 4, 1, 5, 2, 6, 3, 7], Fraction(1, 2))
