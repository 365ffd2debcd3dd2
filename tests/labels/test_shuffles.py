"""Families of layers that share a shuffle: eight channels through the units of a ShuffleNet."""

from fractions import Fraction

import numpy as np
import pytest

from gammaslim.channels.sequences import Join, Part, Shuffle, Step
from gammaslim.labels.balance import Levels, levels_of, met, shape_of
from gammaslim.labels.equations import Demand, Terms, Variable
from gammaslim.labels.resolver import coupled
from gammaslim.labels.shuffles import Nodes, closed, shuffled_families
from gammaslim.labels.store import LabelStore
from gammaslim.labels.union import Classes
from tests.labels.told import COUNTED, GROUPS, couple, labels, parts, shuffle_unit


class Unit:
    """Leaves a = 0 1 2 3 and b = 4 5 6 7; halves 0 4 1 5 and 2 6 3 7; 8 to 15 are spare."""

    def __init__(self):
        self.store = LabelStore()
        self.a, self.b = self.store.fresh(4), self.store.fresh(4)
        self.spare = self.store.fresh(8)
        self.halves = shuffle_unit(self.store, self.a, self.b)

    def families(self, *, named=range(16), seen=()):
        """The leaves of each family that may be balanced."""
        self.classes = Classes(self.store)
        self.nodes = Nodes(self.store, self.classes)
        every = shuffled_families(self.nodes)
        holds = np.zeros(self.classes.count, dtype=np.bool_)
        holds[self.classes.find(labels(*named))] = True
        arguments = every, self.nodes, self.store, self.classes, holds, seen
        self.found = list(closed(*arguments))
        return [family.leaves for family in self.found]


def test_halves_by_hand():
    left, right = Unit().halves
    assert (left.tolist(), right.tolist()) == ([0, 4, 1, 5], [2, 6, 3, 7])


def test_nodes_are_sequences_of_equal_content():
    """a, b, joined, shuffled and two halves; said twice, they are still six."""
    unit = Unit()
    shuffle_unit(unit.store, unit.a.copy(), unit.b.copy())
    nodes = Nodes(unit.store, Classes(unit.store))
    assert len(unit.store.sequences) == 12
    assert [own.tolist() for own in nodes.labels] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [0, 1, 2, 3, 4, 5, 6, 7],
        [0, 4, 1, 5, 2, 6, 3, 7],
        [0, 4, 1, 5],
        [2, 6, 3, 7],
    ]
    assert nodes.steps == {
        2: Step(Join(), (0, 1)),
        3: Step(Shuffle(2), (2,)),
        4: Step(Part(0, 1, 2), (3,)),
        5: Step(Part(1, 2, 2), (3,)),
    }
    assert nodes.beneath[5] == {0, 1}
    assert not nodes.unclear


def test_steps_are_sorted_whatever_was_said_first():
    store = LabelStore()
    a, b = store.fresh(2), store.fresh(2)
    joined = np.concatenate([a, b])
    shuffled = joined[[0, 2, 1, 3]]
    store.derive(shuffled, Shuffle(2), joined)
    store.derive(joined, Join(), a, b)
    nodes = Nodes(store, Classes(store))
    assert [type(step.operation) for step in nodes.steps.values()] == [Join, Shuffle]


def test_what_is_made_in_two_ways_is_unclear_and_all_above_it():
    """The shuffle is made by a part as well: neither it nor its halves are known."""
    unit = Unit()
    shuffled = np.concatenate(unit.halves)
    unit.store.derive(shuffled, Part(0, 1, 1), np.arange(8))
    nodes = Nodes(unit.store, Classes(unit.store))
    assert {tuple(nodes.labels[node].tolist()) for node in nodes.unclear} == {
        tuple(own.tolist()) for own in (shuffled, *unit.halves)
    }


def test_a_sequence_with_a_fixed_index_is_no_node():
    store = LabelStore()
    own = store.fresh(2)
    padded = np.append(own, -1)
    store.derive(padded, Join(), own, labels(-1))
    assert Nodes(store, Classes(store)).steps == {}


def test_one_unit_is_one_family():
    unit = Unit()
    unit.families()
    (family,) = unit.found
    assert [unit.nodes.labels[leaf].tolist() for leaf in family.leaves] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
    ]
    assert [parts for _, parts in family.cuts] == [2, 2]


def test_a_second_unit_joins_the_family():
    """Of the right half a layer makes 8 9 10 11, which is shuffled with the left half."""
    unit = Unit()
    left, _ = unit.halves
    right = unit.store.fresh(4)
    shuffle_unit(unit.store, left, right)
    unit.families(named=range(20))
    (family,) = unit.found
    assert [unit.nodes.labels[leaf].tolist() for leaf in family.leaves] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        right.tolist(),
    ]
    shape = shape_of(family, unit.nodes)
    assert shape.widths == (4, 4, 4)
    assert len(shape.steps) == 8


def test_what_is_only_joined_or_only_cut_is_no_family():
    store = LabelStore()
    a, b = store.fresh(4), store.fresh(4)
    joined = np.concatenate([a, b])
    store.derive(joined, Join(), a, b)
    store.derive(joined[:4], Part(0, 1, 2), joined)
    assert shuffled_families(Nodes(store, Classes(store))) == []


def spoil_by_a_sum(unit):
    couple(unit.store, unit.a, unit.b)


def spoil_by_freezing(unit):
    unit.store.freeze(labels(3), 9)


def spoil_by_another_order(unit):
    couple(unit.store, unit.halves[1][::-1], unit.spare[:4])


def spoil_by_a_count(unit):
    unit.store.mark_inexact(labels(0, 1))


def spoil_by_groups(unit):
    rows = unit.halves[1].reshape(2, 2), unit.spare[:4].reshape(2, 2)
    unit.store.partition(parts(*rows, whole=True, reason=GROUPS))


def spoil_by_mixing(unit):
    unit.store.mark_mixed(labels(5, 4))


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_by_a_sum,
        spoil_by_freezing,
        spoil_by_another_order,
        spoil_by_a_count,
        spoil_by_groups,
        spoil_by_mixing,
    ],
)
def test_what_spoils_a_family(spoil):
    unit = Unit()
    spoil(unit)
    assert unit.families() == []


def test_what_meets_a_half_in_its_order_does_not():
    unit = Unit()
    couple(unit.store, unit.halves[1], unit.spare[:4])
    assert len(unit.families()) == 1


def test_channels_of_no_named_tensor_are_not_balanced():
    assert Unit().families(named=range(7)) == []


def test_an_order_that_is_seen_must_be_known():
    unit = Unit()
    assert unit.families(seen=[unit.halves[0]])
    assert not unit.families(seen=[labels(1, 0)])


def test_coupling_against_balance():
    """{0 2 4 6} {1 3 5 7}, so 8 slices as 2 channels; in balance 8 to 4 widths."""
    unit = Unit()
    unit.families()
    (family,) = unit.found
    assert coupled(family, unit.nodes, unit.classes) == (8, 2)
    levels = levels_of(shape_of(family, unit.nodes))
    assert levels.offered == (8, 4)
    assert levels.quotas.tolist() == [[2, 2, 2, 2], [2, 1, 1, 2], [1, 1, 1, 1], [1, 0, 0, 1]]


def test_fates_of_two_leaves():
    """a0 b0 a1 b1 | a2 b2 a3 b3, and of three each a0 b0 a1 | b1 a2 b2."""
    unit = Unit()
    unit.families()
    shape = shape_of(unit.found[0], unit.nodes)
    left, right = (mark for mark, _ in shape.marks)
    assert [own.tolist() for own in shape.fates((4, 4))] == [[left, left, right, right]] * 2
    assert shape.fates((3, 4)) is None
    assert shape.fates((2, 2))[0].tolist() == [left, right]


def levels_and(demand):
    unit = Unit()
    unit.families()
    (family,) = unit.found
    levels = levels_of(shape_of(family, unit.nodes))
    return met(levels, demand, family, unit.nodes, unit.classes)


def count(own, share=1):
    return Terms(((labels(*own), Fraction(share)),))


def test_a_size_that_holds_at_every_level():
    """As many of a as of b: their shares are equal, so it is true at all four widths."""
    demand = Demand(labels(0, 1, 2, 3), count([4, 5, 6, 7]), COUNTED)
    assert levels_and(demand).widths.tolist() == [[4, 4], [3, 3], [2, 2], [1, 1]]


def test_a_size_that_holds_at_some_levels():
    """As many of a's first run as of its second: not where it is two and one."""
    demand = Demand(labels(0, 1), count([2, 3]), COUNTED)
    assert levels_and(demand).widths.tolist() == [[4, 4], [2, 2]]


def test_a_size_that_depends_on_which_of_a_run_stay():
    assert levels_and(Demand(labels(0), count([2]), COUNTED)) is None


def test_the_number_of_a_module_does_not_follow_a_balance():
    size = Terms(variables=((Variable("net.width", None, 4), Fraction(1)),))
    assert levels_and(Demand(labels(0, 1, 2, 3), size, COUNTED)) is None
    assert isinstance(levels_and(Demand(labels(8, 9), size, COUNTED)), Levels)
