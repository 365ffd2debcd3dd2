"""The union-find: classes, what freezes them, and equal parts."""

import numpy as np
import pytest

from gammaslim.channels.sequences import Arrangement
from gammaslim.labels.store import ELASTIC, LabelStore, fixed_code
from gammaslim.labels.union import Classes, coupled_runs
from tests.labels.told import CUT, GROUPS, MET, couple, labels, parts, sets


def store_of(count):
    store = LabelStore()
    store.fresh(count)
    return store


def found(classes, count):
    return sets(classes.find(np.arange(count)))


def test_what_met_is_one_class():
    """0-3, 1-4 and 4-5: three classes of 2, 3 and 1."""
    store = store_of(6)
    couple(store, [0, 1], [3, 4])
    couple(store, [4], [5])
    assert found(Classes(store), 6) == [{0, 3}, {1, 4, 5}, {2}]


def test_a_class_is_frozen_for_what_was_said_first():
    store = store_of(4)
    couple(store, [0], [1])
    store.freeze(labels(1), 7)
    store.freeze(labels(0, 2), 8)
    classes = Classes(store)
    assert classes.reasons[classes.find(np.arange(4))].tolist() == [7, 7, 8, -1]


def test_uniting_with_a_fixed_index_freezes():
    """Label 1 meets an index that is fixed for reason 5, label 2 one that was broadcast."""
    store = store_of(4)
    result = store.unite(labels(0, 1, 2), labels(3, fixed_code(5), ELASTIC), lambda: MET)
    assert result.tolist() == [0, 1, 2]
    classes = Classes(store)
    assert found(classes, 4) == [{0, 3}, {1}, {2}]
    assert classes.reasons[classes.find(np.arange(4))].tolist() == [-1, 5, -1, -1]


def test_coupling_later_freezes_the_whole_class():
    """0-1 is one class; label 1 meets a fixed index, for reason 9."""
    store = store_of(4)
    couple(store, [0], [1])
    classes = Classes(store)
    classes.couple(labels(1, 2), labels(-1, 3), 9)
    assert found(classes, 4) == [{0, 1}, {2, 3}]
    assert classes.reasons[classes.find(np.arange(4))].tolist() == [9, 9, -1, -1]


def test_what_is_frozen_stays_so_for_its_first_reason():
    store = store_of(2)
    store.freeze(labels(0), 7)
    classes = Classes(store)
    classes.freeze(classes.find(labels(0, 1)), 9)
    assert classes.reasons.tolist() == [7, 9]


def test_joined_tries_without_doing():
    """1 would meet 2 and 3 a fixed index: parts {1 2} and {3}, the second frozen."""
    classes = Classes(store_of(4))
    roots, part, frozen = classes.joined(labels(1, 3), labels(2, -1))
    assert roots.tolist() == [1, 2, 3]
    assert sets(part) == [{0, 1}, {2}]
    assert frozen.tolist() == [False, True]
    assert found(classes, 4) == [{0}, {1}, {2}, {3}]


A, B = labels(0, 1, 2, 3).reshape(2, 2), labels(4, 5, 6, 7).reshape(2, 2)


def test_columns_leave_more_than_whole_groups():
    """With label 1 frozen whole groups leave one class, columns three."""
    store = store_of(8)
    store.freeze(labels(1), 9)
    classes = Classes(store)
    partition = parts(A, B, whole=True)
    classes.settle(partition)
    assert not partition.goes_whole
    assert found(classes, 8) == [{0, 2}, {1, 3}, {4, 6}, {5, 7}]
    assert classes.reasons[classes.find(labels(0, 1, 4, 5))].tolist() == [-1, 9, -1, -1]


def test_whole_groups_leave_more_than_columns():
    """Three groups of two and two, each coupled within: columns make two classes, groups three."""
    store = store_of(14)
    a, b = np.arange(6).reshape(3, 2), np.arange(6, 12).reshape(3, 2)
    for rows in (a, b):
        couple(store, rows[:, 0], rows[:, 1])
    classes = Classes(store)
    partition = parts(a, b, columns=(labels(12, 13), None), whole=True, reason=GROUPS)
    classes.settle(partition)
    assert partition.goes_whole
    assert found(classes, 12) == [{0, 1, 6, 7}, {2, 3, 8, 9}, {4, 5, 10, 11}]
    assert classes.reasons[classes.find(labels(12, 13))].tolist() == [GROUPS, GROUPS]


def test_the_label_of_a_column_goes_with_it():
    store = store_of(6)
    classes = Classes(store)
    classes.settle(parts(A, columns=(labels(4, 5),)))
    assert found(classes, 6) == [{0, 2, 4}, {1, 3, 5}]


def test_classes_are_numbered_in_the_order_of_their_labels():
    store = store_of(5)
    couple(store, [0, 2], [3, 4])
    store.freeze(labels(4), 7)
    store.inexact.append(labels(1))
    classes = Classes(store)
    classes.inexact[classes.find(labels(1))] = True
    resolved = classes.resolved(Arrangement(), {})
    assert resolved.classes.tolist() == [0, 1, 2, 0, 2]
    assert resolved.reasons.tolist() == [-1, -1, 7]
    assert resolved.inexact.tolist() == [False, True, False]


def test_couplings_keep_their_reasons():
    """Met in a run of two; the equal parts couple 0-2 and 1-3, which is another run of two."""
    store = store_of(6)
    couple(store, [0, 1], [4, 5])
    classes = Classes(store)
    classes.settle(parts(A))
    runs = classes.resolved(Arrangement(), {}).couplings.tolist()
    assert runs == [[0, 4, 2, MET], [0, 2, 2, CUT]]


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ([4, 5, 6, 7, 4], [20, 21, 22, 23, 30], [[4, 20, 4, 1], [4, 30, 1, 1]]),
        ([0, 1, 2], [5, 7, 8], [[0, 5, 1, 1], [1, 7, 2, 1]]),
        ([0, 1, -1, 3], [5, 6, 7, 8], [[0, 5, 2, 1], [3, 8, 1, 1]]),
        ([2, 3], [2, 3], []),
        ([], [], []),
    ],
)
def test_runs(left, right, expected):
    """Both sides count on by one; neither a fixed index nor a label with itself is a coupling."""
    links = [(labels(*left), labels(*right), 1)]
    assert coupled_runs(links, {}).tolist() == expected


def test_runs_of_arrays_that_are_known_to_count_on():
    left, right = np.arange(4), np.arange(8, 12)
    whole = {id(left), id(right)}
    assert coupled_runs([(left, right, 3)], whole).tolist() == [[0, 8, 4, 3]]
    assert coupled_runs([], {}).shape == (0, 4)
