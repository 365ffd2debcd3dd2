"""Balance: to which widths a family can be cut, and how many of each run then stay."""

from gammaslim.channels.sequences import Join, Part, Repeat, Shuffle, Step
from gammaslim.labels.balance import Shape, levels_of

UNIT = (
    Step(Join(), (0, 1)),
    Step(Shuffle(2), (2,)),
    Step(Part(0, 1, 2), (3,)),
    Step(Part(1, 2, 2), (3,)),
)
"""Two leaves, joined, shuffled, and cut in half again."""


def test_quotas_of_one_unit():
    """Of n ranks the first leaf sends ⌈n/2⌉ to the left half, the second ⌊n/2⌋."""
    levels = levels_of(Shape((4, 4), UNIT))
    assert levels.runs == ((0, 0, 2), (0, 2, 4), (1, 0, 2), (1, 2, 4))
    assert levels.widths.tolist() == [[4, 4], [3, 3], [2, 2], [1, 1]]
    assert levels.quotas.tolist() == [[2, 2, 2, 2], [2, 1, 1, 2], [1, 1, 1, 1], [1, 0, 0, 1]]


def test_widths_keep_their_proportion():
    """Leaves of 4 and 2, as three parts: the first fills two of them."""
    steps = (Step(Join(), (0, 1)), Step(Shuffle(3), (2,)))
    levels = levels_of(Shape((4, 2), steps))
    assert levels.widths.tolist() == [[4, 2], [2, 1]]
    assert levels.quotas.tolist() == [[4, 2], [2, 1]]


def test_a_width_at_which_parts_are_unequal_is_left_out():
    levels = levels_of(Shape((6,), (Step(Shuffle(3), (0,)),)))
    assert levels.widths.ravel().tolist() == [6, 3]
    levels = levels_of(Shape((6,), (Step(Repeat(1), (0,)),), cuts=((1, 2),)))
    assert levels.widths.ravel().tolist() == [6, 4, 2]
    assert levels_of(Shape((5,), (Step(Shuffle(2), (0,)),))) is None


def test_a_width_at_which_runs_come_in_another_order_is_left_out():
    """One part of an inverse shuffle takes every second rank: all runs are of one rank."""
    steps = (Step(Shuffle(2, strided=True), (0,)), Step(Part(0, 1, 2), (1,)))
    levels = levels_of(Shape((4,), steps))
    assert levels.runs == tuple((0, rank, rank + 1) for rank in range(4))
    assert levels.quotas.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]


def test_a_width_at_which_a_run_would_be_longer_is_left_out():
    """What two leaves send left is shuffled with a third, and cut in half once more.

    Of seven ranks of the second leaf 2, 1 and 4 go left twice, once and never; of six it would be
    1, 2 and 3, which is one more than there are.
    """
    steps = (
        Step(Join(), (0, 1)),
        Step(Shuffle(2), (3,)),
        Step(Part(0, 1, 2), (4,)),
        Step(Join(), (5, 2)),
        Step(Shuffle(2), (6,)),
        Step(Part(0, 1, 2), (7,)),
    )
    levels = levels_of(Shape((7, 7, 7), steps))
    assert levels.widths[:, 0].tolist() == [7, 5, 4, 3, 2, 1]
    assert levels.quotas[0].tolist() == [2, 2, 3, 2, 1, 4, 3, 4]
    assert levels_of(Shape((6, 6, 6), steps)).quotas[0].tolist() == [2, 1, 3, 1, 2, 3, 3, 3]
