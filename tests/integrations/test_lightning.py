"""The Lightning callback, on real Trainers."""

import csv
import importlib
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from torch.utils.data import DataLoader

import gammaslim as gs
from tests.integrations.tiny import (
    BATCH,
    EXAMPLE,
    IMAGES,
    RATE,
    assert_same,
    images,
    net,
    plain_loop,
    sgd,
)

lightning = pytest.importorskip("lightning.pytorch")
from lightning.pytorch.loggers import CSVLogger  # noqa: E402

from gammaslim.integrations.lightning import Slimming  # noqa: E402

# Lightning's own: it uses what PyTorch deprecates, and advises on data loaders and loggers.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.`:FutureWarning"),
    pytest.mark.filterwarnings("ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning"),
]

PENALTY = gs.L1(1.0)
STEPS = IMAGES // BATCH
PENALTIES = [PENALTY, gs.Proximal(5.0)]
BUDGET = gs.Budget(keep_macs=0.6, steps=3 * STEPS)


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, index):
        values, labels = batch
        return functional.cross_entropy(self(values), labels)

    def configure_optimizers(self):
        return sgd(self)


def trainer(tmp_path, *callbacks, **options):
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 3,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": tmp_path,
    }
    return lightning.Trainer(callbacks=list(callbacks), **{**defaults, **options})


def fit(tmp_path, *callbacks, ckpt_path=None, module=None, **options):
    module = Classifier() if module is None else module
    running = trainer(tmp_path, *callbacks, **options)
    running.fit(module, DataLoader(images(), batch_size=BATCH), ckpt_path=ckpt_path)
    return module, running


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("penalty", PENALTIES, ids=lambda penalty: type(penalty).__name__)
def test_it_trains_as_a_plain_loop_does(tmp_path, penalty, accumulate):
    slimming = Slimming(penalty, EXAMPLE, module="net")
    module, _ = fit(tmp_path, slimming, accumulate_grad_batches=accumulate)
    expected, _ = plain_loop(penalty, epochs=3, accumulate=accumulate)
    assert_same(module.net, expected)
    assert not slimming.handle.active


def test_it_acts_under_mixed_precision(tmp_path):
    slimming = Slimming(PENALTY, EXAMPLE, module="net")
    module, _ = fit(tmp_path, slimming, precision="bf16-mixed")
    expected, _ = plain_loop(PENALTY, epochs=3, half=True)
    assert_same(module.net, expected)
    full, _ = plain_loop(PENALTY, epochs=3)
    assert not torch.equal(expected.head.weight, full.head.weight)


def test_a_module_with_a_forward_is_the_network_itself(tmp_path):
    module = Classifier()
    module.example_input_array = EXAMPLE
    slimming = Slimming(PENALTY)
    fit(tmp_path, slimming, module=module)
    expected, _ = plain_loop(PENALTY, epochs=3)
    assert_same(module.net, expected)
    assert slimming.network is module
    assert slimming.graph.scales == tuple(f"net.{n}" for n in gs.trace(module.net, EXAMPLE).scales)


def test_what_it_leaves_behind_serves_scores_select_and_prune(tmp_path):
    slimming = Slimming(PENALTY, EXAMPLE, ignore=["bn_stem"], module="net")
    module, running = fit(tmp_path, slimming)
    scores = gs.scores(slimming.network, slimming.graph)
    plan = gs.select(slimming.graph, scores, remove_channels=0.5)
    outcome = gs.prune(slimming.network, slimming.graph, plan, optimizer=running.optimizers[0])
    assert outcome.after.macs < outcome.before.macs
    assert module.net.bn_stem.num_features == 8
    assert module.net.bn_down.num_features == 3


def test_figures_are_logged(tmp_path):
    slimming = Slimming(PENALTY, EXAMPLE, module="net")
    logger = CSVLogger(tmp_path)
    _, running = fit(tmp_path, slimming, logger=logger, log_every_n_steps=4)
    names = {f"gammaslim/{name}" for name in slimming.handle.stats().as_dict()}
    assert names <= running.logged_metrics.keys()
    with Path(logger.log_dir, "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert all(row[name] for row in rows for name in names)
    assert [row["step"] for row in rows] == ["3", "7", "11"]  # this logger counts from 0


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize("penalty", [*PENALTIES, BUDGET], ids=lambda p: type(p).__name__)
def test_a_checkpoint_goes_on_where_it_was_made(tmp_path, penalty, epoch):
    """A budget has begun to choose in the first epoch, and to shrink in the second."""
    path = tmp_path / "middle.ckpt"

    class Saving(lightning.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch == epoch:
                trainer.save_checkpoint(path)

    slimming = Slimming(penalty, EXAMPLE, module="net")
    straight, _ = fit(tmp_path, slimming, Saving())
    again = Slimming(lambda steps: penalty, EXAMPLE, module="net")
    resumed, _ = fit(tmp_path, again, ckpt_path=path)
    assert_same(resumed.net, straight.net)
    assert again.handle.steps == slimming.handle.steps == 3 * STEPS


def test_a_state_without_a_handle_is_handed_on(tmp_path):
    """A checkpoint may be saved again before the fit that it was loaded for has begun."""
    slimming = Slimming(PENALTY, EXAMPLE, module="net")
    assert slimming.state_dict() == {}
    fit(tmp_path, slimming)
    again = Slimming(PENALTY, EXAMPLE, module="net")
    again.load_state_dict(slimming.state_dict())
    assert again.state_dict() == slimming.state_dict()


def test_the_state_of_another_penalty_is_refused_and_nothing_stays_attached(tmp_path):
    first = Slimming(PENALTY, EXAMPLE, module="net")
    _, running = fit(tmp_path, first, max_epochs=1)
    running.save_checkpoint(tmp_path / "other.ckpt")
    module, other = Classifier(), Slimming(gs.L1(2.0), EXAMPLE, module="net")
    with pytest.raises(gs.PenaltyError, match="Attach the penalty it was saved with"):
        fit(tmp_path, other, module=module, ckpt_path=tmp_path / "other.ckpt")
    with pytest.raises(gs.GammaslimError, match="has not begun"):
        _ = other.handle


def test_a_budget_is_met_and_its_cut_changes_nothing(tmp_path):
    slimming = Slimming(lambda n: gs.Budget(keep_macs=0.6, steps=n), EXAMPLE, module="net")
    module, _ = fit(tmp_path, slimming)
    values = images().tensors[0]
    before = module.eval()(values)
    gs.prune(module.net, slimming.graph, slimming.handle.plan())
    torch.testing.assert_close(module(values), before)
    assert slimming.graph.cost(slimming.handle.plan()).macs <= 0.65 * slimming.graph.cost().macs


def test_a_low_rate_at_the_start_is_no_reason_to_warn(tmp_path):
    """One cycle begins at a 25th of its highest rate."""

    class OneCycle(Classifier):
        def configure_optimizers(self):
            optimizer = sgd(self)
            total = self.trainer.estimated_stepping_batches
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    fit(tmp_path, Slimming(PENALTY, EXAMPLE, module="net"), module=OneCycle())
    with pytest.warns(gs.GammaslimWarning, match="can move scales by at most"):
        fit(tmp_path, Slimming(gs.L1(0.001), EXAMPLE, module="net"), module=OneCycle())


def test_a_function_of_the_steps_is_given_those_of_the_whole_fit(tmp_path):
    asked = []
    slimming = Slimming(lambda steps: asked.append(steps) or PENALTY, EXAMPLE, module="net")
    fit(tmp_path, slimming)
    fit(tmp_path, slimming, accumulate_grad_batches=3)
    fit(tmp_path, slimming, max_steps=5)
    assert asked == [3 * STEPS, 3 * 2, 5]


def test_a_function_of_the_steps_is_given_those_left_where_a_checkpoint_knows_no_penalty(tmp_path):
    path = tmp_path / "plain.ckpt"
    running = trainer(tmp_path, max_epochs=1)
    running.fit(Classifier(), DataLoader(images(), batch_size=BATCH))
    running.save_checkpoint(path)
    asked = []
    slimming = Slimming(lambda steps: asked.append(steps) or PENALTY, EXAMPLE, module="net")
    fit(tmp_path, slimming, ckpt_path=path)
    assert asked == [2 * STEPS]


def test_an_endless_fit_has_no_number_of_steps(tmp_path):
    slimming = Slimming(lambda steps: PENALTY, EXAMPLE, module="net")
    with pytest.raises(gs.PenaltyError, match="does not know in advance"):
        fit(tmp_path, slimming, max_epochs=-1)


def test_of_two_optimizers_it_takes_the_one_with_the_scales(tmp_path):
    class Two(Classifier):
        automatic_optimization = False

        def training_step(self, batch, index):
            loss = super().training_step(batch, index)
            for optimizer in self.optimizers():
                optimizer.zero_grad()
            self.manual_backward(loss)
            for optimizer in self.optimizers():
                optimizer.step()

        def configure_optimizers(self):
            scales = [p for n, p in self.named_parameters() if ".bn_" in n]
            others = [p for n, p in self.named_parameters() if ".bn_" not in n]
            return [torch.optim.SGD(group, lr=RATE, momentum=0.9) for group in (others, scales)]

    slimming = Slimming(PENALTY, EXAMPLE, module="net")
    module, _ = fit(tmp_path, slimming, module=Two())
    expected, _ = plain_loop(PENALTY, epochs=3)
    assert_same(module.net, expected)


def test_it_lets_go_when_training_fails(tmp_path):
    class Failing(Classifier):
        def training_step(self, batch, index):
            if self.global_step == 2:
                raise RuntimeError("no more")
            return super().training_step(batch, index)

    slimming = Slimming(PENALTY, EXAMPLE, module="net")
    with pytest.raises(RuntimeError, match="no more"):
        fit(tmp_path, slimming, module=Failing())
    assert not slimming.handle.active


def test_without_example_inputs_it_says_what_to_give(tmp_path):
    with pytest.raises(gs.GammaslimError, match="Classifier has no example_input_array"):
        fit(tmp_path, Slimming(PENALTY))


def test_before_training_there_is_no_graph():
    with pytest.raises(gs.GammaslimError, match="has not begun"):
        _ = Slimming(PENALTY).graph


def test_what_is_no_penalty_is_refused_at_once():
    with pytest.raises(gs.PenaltyError, match=r"found 0\.1"):
        Slimming(0.1)


def test_without_lightning_it_says_how_to_install_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "gammaslim.integrations.lightning")
    for name in ("lightning", "lightning.pytorch"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(gs.MissingExtraError, match=r"pip install 'gammaslim\[lightning\]'"):
        importlib.import_module("gammaslim.integrations.lightning")
