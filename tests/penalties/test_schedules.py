"""Strengths that change while training, against values worked out by hand."""

import pytest
import torch

import gammaslim as gs
from gammaslim.errors import PenaltyError
from gammaslim.schedules import After, Constant, Cosine, Linear, Warmup, length_of
from tests.handmade import INNER, WIDTH, fill_gradients, residual_graph, residual_net


def values(schedule, *steps):
    return [schedule.at(step) for step in steps]


def test_constant():
    assert values(Constant(0.3), 0, 7) == [0.3, 0.3]


def test_linear_stays_at_its_end():
    assert values(Linear(1.0, 0.0, steps=4), 0, 1, 4, 9) == [1.0, 0.75, 0.0, 0.0]


def test_cosine_is_half_way_in_the_middle():
    assert values(Cosine(1.0, 0.2, steps=10), 0, 5, 10, 99) == pytest.approx([1.0, 0.6, 0.2, 0.2])


def test_warmup_multiplies_what_is_in_it():
    assert values(Warmup(1.0, steps=4), 0, 1, 3, 9) == [0.25, 0.5, 1.0, 1.0]
    assert Warmup(Linear(1.0, 0.0, steps=4), steps=2).at(1) == 0.75


def test_after_starts_its_schedule_late():
    schedule = After(0.5, Linear(1.0, 0.0, steps=4), steps=10)
    assert values(schedule, 0, 4, 5, 6, 9) == [0.0, 0.0, 1.0, 0.75, 0.0]
    assert After(0.5, 2.0, steps=3).at(1) == 0.0
    assert After(0.5, 2.0, steps=3).at(2) == 2.0


def test_lengths():
    assert length_of(0.1) == length_of(Constant(0.1)) == 0
    assert length_of(Warmup(Linear(1.0, 0.0, steps=4), steps=9)) == 9
    assert length_of(After(0.1, 1.0, steps=20)) == 20


@pytest.mark.parametrize("penalty", [gs.L1, gs.GroupLasso, gs.Polarization])
def test_penalties_follow_their_schedule(penalty):
    """The term of each step is that of the number that holds at it."""
    model, graph = residual_net(), residual_graph(WIDTH, INNER)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    gs.attach(model, graph, optimizer, penalty(Linear(1.0, 0.0, steps=4)))
    for strength in (1.0, 0.75, 0.5):
        fill_gradients(model)
        optimizer.step()
        found = model.bn_down.weight.grad.clone()
        other = torch.optim.SGD(model.parameters(), lr=0.0)
        with gs.attach(model, graph, other, penalty(strength)):
            fill_gradients(model)
            other.step()
        assert torch.equal(found, model.bn_down.weight.grad)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Constant(-1.0),
        lambda: Linear(1.0, float("nan"), steps=3),
        lambda: Cosine(1.0, 0.0, steps=0),
        lambda: Warmup("1", steps=3),
        lambda: After(1.5, 1.0, steps=3),
        lambda: Linear(1.0, 0.0, steps=True),
    ],
)
def test_numbers_that_make_no_sense_are_refused(make):
    with pytest.raises(PenaltyError, match="was asked"):
        make()


def test_a_schedule_longer_than_what_is_left_is_refused():
    with pytest.raises(PenaltyError, match=r"leaves 5 steps, but .* a schedule of 6"):
        After(0.5, Linear(1.0, 0.0, steps=6), steps=10)


def test_a_schedule_longer_than_the_training_is_refused():
    """And nothing stays attached."""
    model, graph = residual_net(), residual_graph(WIDTH, INNER)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    penalty = gs.L1(Linear(1.0, 0.0, steps=20))
    with pytest.raises(PenaltyError, match="takes 20 optimizer steps, but the training has 10"):
        gs.attach(model, graph, optimizer, penalty, total_steps=10)
    gs.attach(model, graph, optimizer, penalty)
