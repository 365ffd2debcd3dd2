"""TensorBoard, read back from the files that it writes."""

import pytest

import gammaslim as gs
from gammaslim.integrations.tensorboard import log_stats
from tests.integrations.tiny import EXAMPLE, net, sgd

pytest.importorskip("tensorboard")


def test_figures_are_read_back_from_the_events(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    model = net()
    handle = gs.attach(model, gs.trace(model, EXAMPLE), sgd(model), gs.Proximal(5.0))
    expected = []
    with SummaryWriter(tmp_path) as writer:
        for step in (0, 100):
            log_stats(writer, handle, step)
            expected.append(handle.stats().as_dict())
            model.bn_down.weight.data.zero_()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert set(events.Tags()["scalars"]) == {f"gammaslim/{name}" for name in expected[0]}
    for name in expected[0]:
        scalars = events.Scalars(f"gammaslim/{name}")
        assert [event.step for event in scalars] == [0, 100]
        assert [event.value for event in scalars] == pytest.approx([e[name] for e in expected])
    assert expected[1]["zeros"] > expected[0]["zeros"] == 0
