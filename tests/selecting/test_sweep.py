"""A sweep says what select would leave; answers worked out by hand."""

import numpy as np
import pytest

import gammaslim as gs
from gammaslim.errors import TargetError
from tests.handmade import plain_graph, widths_of

SCORES = np.array([1.0, 2.0, 3.0, 4.0, 0.1, 0.2, 0.3])
"""Of plain_graph([4, 3]), whose MACs are 108a + 36ab + 2b and parameters 29a + 9ab + 4b + 2."""


def test_rows_are_what_select_leaves():
    """A third leaves (4, 1): 578 of 870 MACs; two thirds leave (2, 1), where only layer 1 is."""
    found = gs.sweep(plain_graph([4, 3]), SCORES, targets=(2 / 7, 4 / 7))
    first, second = found.rows
    assert first == gs.SweepRow(2 / 7, gs.Cost(578, 158), "conv1.weight", 1, 3, 1)
    assert second == gs.SweepRow(4 / 7, gs.Cost(290, 82), "conv1.weight", 1, 3, 1)
    assert found.full == gs.Cost(870, 238)
    assert found.unreachable == ()


@pytest.mark.parametrize("limits", [{}, {"round_to": 4}, {"max_remove": 0.5, "scope": "group"}])
def test_default_targets_agree_with_select(limits):
    graph = plain_graph([16, 24, 8])
    scores = np.random.default_rng(0).random(48)
    found = gs.sweep(graph, scores, **limits)
    assert len(found.rows) + len(found.unreachable) == 9
    for row in found.rows:
        plan = gs.select(graph, scores, remove_channels=row.target, **limits)
        assert graph.cost(plan) == row.cost
        assert row.left in widths_of(graph, plan)
    for target in found.unreachable:
        with pytest.raises(TargetError, match="the closest that floors"):
            gs.select(graph, scores, remove_channels=target, **limits)


def test_caps_are_floors_too():
    """Capped at half, layer 0 of 8 ends at 4; targets above a half are out of reach."""
    graph = plain_graph([8, 8])
    scores = np.concatenate([np.arange(8.0), 10 + np.arange(8.0)])
    found = gs.sweep(graph, scores, targets=(0.25, 0.5, 0.6), max_remove=0.5)
    assert [row.at_floor for row in found.rows] == [1, 2]
    assert found.unreachable == (0.6,)


def test_safe_threshold_is_the_highest_at_which_no_group_dies():
    """At it every group keeps a channel of its own; at the next number conv1 would have none."""
    graph = plain_graph([4, 3])
    found = gs.sweep(graph, SCORES, by="threshold", targets=(0.15,))
    assert found.first_to_die == "conv1.weight"
    assert found.safe_threshold < 0.3 == np.nextafter(found.safe_threshold, 1)
    (row,) = found.rows
    assert (row.left, row.width) == (2, 3)


def test_text_has_a_row_per_target():
    """As a table, with what cannot be reached below it."""
    text = str(gs.sweep(plain_graph([4, 3]), SCORES, targets=(0.25, 0.9)))
    row = next(line for line in text.splitlines() if "0.25" in line)
    assert [part.strip() for part in row.strip("│ ").split("│")] == [
        "0.25", "578", "66.4%", "158", "66.4%", "conv1.weight", "1 of 3", "1",
    ]  # fmt: skip
    assert "up to a threshold of 0.3; conv1.weight would be the first" in text
    assert "Out of reach of the limits: 0.9." in text


def test_arguments_that_make_no_sense_are_refused():
    graph = plain_graph([4, 3])
    with pytest.raises(TargetError, match=r"by='macs' was asked; known are 'remove_channels'"):
        gs.sweep(graph, SCORES, by="macs")
    with pytest.raises(TargetError, match=r"remove_channels=1\.5 was asked; it is a share"):
        gs.sweep(graph, SCORES, targets=(1.5,))
