"""Sequences: each step on numbers, and what a cut leaves where."""

import numpy as np
import pytest

from gammaslim.channels.sequences import (
    Arrangement,
    Balance,
    Join,
    Part,
    Repeat,
    Shuffle,
    Step,
    order_of,
    run,
)
from gammaslim.labels.balance import Shape, levels_of
from gammaslim.selecting.chains import chain_of

SIX = np.arange(6)


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (Part(0, 1, 2), [0, 1, 2]),
        (Part(1, 3, 3), [2, 3, 4, 5]),
        (Part(0, 1, 4), None),
        (Shuffle(2), [0, 3, 1, 4, 2, 5]),
        (Shuffle(3), [0, 2, 4, 1, 3, 5]),
        (Shuffle(2, strided=True), [0, 2, 4, 1, 3, 5]),
        (Shuffle(4), None),
        (Repeat(2), [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]),
    ],
)
def test_operations(operation, expected):
    value = operation.value(SIX)
    assert value is None if expected is None else value.tolist() == expected


def test_join():
    assert Join().value(SIX[:2], SIX[4:]).tolist() == [0, 1, 4, 5]


UNIT = (
    Step(Join(), (0, 1)),
    Step(Shuffle(2), (2,)),
    Step(Part(0, 1, 2), (3,)),
    Step(Part(1, 2, 2), (3,)),
)
"""Two leaves, joined, shuffled, and cut in half again."""


def test_steps_run_in_order():
    """a0 b0 a1 | b1 a2 b2."""
    known = run([np.array([0, 1, 2]), np.array([10, 11, 12])], UNIT)
    assert [value.tolist() for value in known[3:]] == [
        [0, 10, 1, 11, 2, 12],
        [0, 10, 1],
        [11, 2, 12],
    ]


def test_steps_stop_where_parts_are_unequal():
    assert run([SIX[:2], SIX[:1]], UNIT) is None


def test_order_of_pairs_equal_entries_in_turn():
    ids, sequence = np.array([7, 3, 7, 5]), np.array([5, 7, 7, 3])
    order = order_of(ids, sequence)
    assert ids[order].tolist() == sequence.tolist()
    assert order.tolist() == [3, 0, 2, 1]


def balance() -> Balance:
    """The unit above on channels 0..3 and 4..7."""
    levels = levels_of(Shape((4, 4), UNIT))
    ids = np.arange(8).reshape(2, 4)
    runs = tuple(ids[leaf, start:stop] for leaf, start, stop in levels.runs)
    return Balance(runs, levels.quotas, levels.widths)


def keeping(*channels: int) -> np.ndarray:
    mask = np.zeros(8, dtype=np.bool_)
    mask[list(channels)] = True
    return mask


def test_balance_allows_any_channels_of_a_run():
    assert balance().allows(keeping(*range(8)))
    assert balance().allows(keeping(0, 1, 3, 5, 6, 7))
    assert balance().allows(keeping(1, 3, 4, 6))
    assert not balance().allows(keeping(0, 1, 4, 5))  # the right half would be empty
    assert not balance().allows(keeping(0, 1, 2, 3))


def test_survivors_come_in_the_order_of_the_cut_network():
    """Kept a1 a3 b0 b2 run as a1 b0 a3 b2; the halves hold what is theirs."""
    leaves = (np.arange(4), np.arange(4, 8))
    found = Arrangement(leaves, UNIT).survivors(keeping(1, 3, 4, 6))
    shuffled, left = np.array([0, 4, 1, 5, 2, 6, 3, 7]), np.array([0, 4, 1, 5])
    assert found[shuffled.tobytes()].tolist() == [1, 4, 3, 6]
    assert found[left.tobytes()].tolist() == [1, 4]


def sets_of(chain) -> list[set[int]]:
    """What is gone after each step."""
    assert not len(chain.removed(0))
    return [set(chain.removed(steps).tolist()) for steps in range(1, len(chain.widths))]


def test_chain_removes_the_lowest_of_each_run():
    """Step by step: (a2|a3, b0|b1), (a0|a1, b2|b3), then what is left of the inner runs."""
    scores = np.array([5, 1, 2, 4, 3, 6, 8, 7], dtype=np.float64)
    chain = chain_of(balance(), scores, np.ones(8, dtype=np.bool_))
    assert sets_of(chain) == [{2, 4}, {1, 2, 4, 7}, {1, 2, 3, 4, 5, 7}]
    assert chain.means.tolist() == [2.5, 4, 5]
    assert chain.largest.tolist() == [3, 7, 7]
    assert chain.shares.tolist() == [0.125, 0.375, 0.625]
    assert chain.widths.tolist() == [[4, 4], [3, 3], [2, 2], [1, 1]]


def test_a_run_may_grow_again_at_a_smaller_width():
    """Quotas (2, 2), (2, 1), (0, 2): at the last one the second run is whole again."""
    quotas, widths = np.array([[2, 2], [2, 1], [0, 2]]), np.array([[4], [3], [2]])
    one = Balance((SIX[:2], SIX[2:4]), quotas, widths)
    chain = chain_of(one, np.array([1.0, 2, 3, 4, 0, 0]), np.ones(6, dtype=np.bool_))
    assert sets_of(chain) == [{2}, {0, 1}]
    assert chain.means.tolist() == [3, 3]
    assert chain.largest.tolist() == [3, 3]


def test_chain_takes_unscored_channels_along():
    """The second leaf has no scale: its channels go in order and count for nothing."""
    scores = np.array([5, 1, 2, 4, *[np.nan] * 4])
    chain = chain_of(balance(), scores, ~np.isnan(scores))
    assert sets_of(chain) == [{2, 4}, {1, 2, 4, 6}, {1, 2, 3, 4, 5, 6}]
    assert chain.means.tolist() == [2, 2, 4]
