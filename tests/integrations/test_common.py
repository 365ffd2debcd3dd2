"""What all trainers share, where no trainer is needed to see it."""

import pytest
import torch

import gammaslim as gs
from gammaslim.integrations.common import Session, Steps
from tests.integrations.tiny import EXAMPLE, images, net, sgd


def begin(session, model, example=EXAMPLE, steps=None):
    session.begin(model, example, [sgd(model)], Steps(12) if steps is None else steps)


def test_example_inputs_follow_the_network_to_its_device():
    session = Session(gs.L1(1.0))
    with torch.device("meta"):
        model = net()
    begin(session, model, (EXAMPLE,), Steps(None))
    assert session.graph.scales == gs.trace(net(), EXAMPLE).scales


def test_logs_are_empty_unless_it_is_active():
    session = Session(gs.L1(1.0))
    assert session.logs() == {}
    begin(session, net())
    assert session.logs()["gammaslim/zeros"] == 0
    session.end()
    assert session.logs() == {}


def test_beginning_again_lets_go_of_the_first():
    session, model = Session(gs.L1(1.0)), net()
    begin(session, model)
    first = session.handle
    begin(session, model)
    assert not first.active
    assert session.handle.active


def test_a_penalty_longer_than_the_training_is_refused():
    session = Session(gs.Budget(keep_macs=0.5, steps=40))
    with pytest.raises(gs.PenaltyError, match="takes 16 optimizer steps, but the training has 12"):
        begin(session, net())


def test_a_penalty_is_taken_where_nobody_knows_the_number_of_steps():
    session, model = Session(gs.L1(1e-9)), net()
    begin(session, model, steps=Steps(None))
    model(images().tensors[0]).sum().backward()
    assert session.handle.active


def test_steps_left_are_never_negative():
    assert Steps(12, 5).left == 7
    assert Steps(12, 13).left == 0
    assert Steps(None, 5).left is None
