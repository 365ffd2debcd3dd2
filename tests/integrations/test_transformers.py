"""The Hugging Face callback, on real Trainers."""

import importlib
import json
import sys
from collections import defaultdict

import pytest
from torch import nn
from torch.nn import functional

import gammaslim as gs
from tests.integrations.tiny import (
    BATCH,
    EXAMPLE,
    IMAGES,
    assert_same,
    images,
    net,
    plain_loop,
    sgd,
)

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from gammaslim.integrations.transformers import SlimmingCallback  # noqa: E402

PENALTY = gs.L1(1.0)
STEPS = IMAGES // BATCH
PENALTIES = [PENALTY, gs.Proximal(5.0)]
BUDGET = gs.Budget(keep_macs=0.6, steps=3 * STEPS)


class Classifier(nn.Module):
    """What the Trainer wants: a loss first, from keyword arguments."""

    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, pixel_values, labels=None):
        logits = self.net(pixel_values)
        loss = None if labels is None else functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits} if loss is not None else {"logits": logits}


def train(tmp_path, *callbacks, resume=None, **options):
    defaults = {
        "output_dir": str(tmp_path),
        "num_train_epochs": 3,
        "per_device_train_batch_size": BATCH,
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "train_sampling_strategy": "sequential",
        "lr_scheduler_type": "constant",
        "dataloader_pin_memory": False,
    }
    model = Classifier()
    trainer = transformers.Trainer(
        model,
        transformers.TrainingArguments(**{**defaults, **options}),
        train_dataset=[{"pixel_values": v, "labels": n} for v, n in images()],
        optimizers=(sgd(model), None),
        callbacks=list(callbacks),
    )
    trainer.train(resume_from_checkpoint=resume)
    return model, trainer


def slim(penalty=PENALTY, **options):
    return SlimmingCallback(penalty, EXAMPLE, module="net", **options)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("penalty", PENALTIES, ids=lambda penalty: type(penalty).__name__)
def test_it_trains_as_a_plain_loop_does(tmp_path, penalty, accumulate):
    slimming = slim(penalty)
    model, _ = train(tmp_path, slimming, gradient_accumulation_steps=accumulate)
    expected, _ = plain_loop(penalty, epochs=3, accumulate=accumulate)
    assert_same(model.net, expected)
    assert not slimming.handle.active


def test_it_acts_under_mixed_precision(tmp_path):
    """Accelerate has replaced the model's own ``forward`` by the time it is traced."""
    slimming = SlimmingCallback(PENALTY, {"pixel_values": EXAMPLE})
    model, _ = train(tmp_path, slimming, bf16=True)
    assert len(slimming.graph.scales) == 3
    expected, _ = plain_loop(PENALTY, epochs=3, half=True)
    assert_same(model.net, expected)


def test_what_it_leaves_behind_serves_scores_select_and_prune(tmp_path):
    slimming = SlimmingCallback(PENALTY, {"pixel_values": EXAMPLE}, ignore=["net.bn_stem"])
    model, _ = train(tmp_path, slimming)
    assert slimming.network is model
    scores = gs.scores(model, slimming.graph)
    plan = gs.select(slimming.graph, scores, remove_channels=0.5)
    outcome = gs.prune(model, slimming.graph, plan)
    assert outcome.after.macs < outcome.before.macs
    assert model.net.bn_stem.num_features == 8
    assert model.net.bn_down.num_features == 3


def test_figures_are_in_the_log_history_and_reach_later_callbacks(tmp_path):
    seen = []

    class Reporter(transformers.TrainerCallback):
        def on_log(self, args, state, control, logs=None, **others):
            seen.append(dict(logs))

    slimming = slim()
    _, trainer = train(tmp_path, slimming, Reporter(), logging_steps=4)
    names = {f"gammaslim/{name}" for name in slimming.handle.stats().as_dict()}
    history = [entry for entry in trainer.state.log_history if names <= entry.keys()]
    assert [entry["step"] for entry in history] == [4, 8, 12]
    assert [names <= entry.keys() for entry in seen] == [True, True, True, False]  # the summary
    json.dumps(trainer.state.log_history)


def test_a_reporter_after_it_writes_the_figures_to_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    written = defaultdict(list)

    class Writer(SummaryWriter):
        def add_scalar(self, tag, value, step=None, **others):
            written[tag].append(step)

    slimming = slim()
    train(tmp_path, slimming, TensorBoardCallback(Writer(str(tmp_path))), logging_steps=6)
    for name in slimming.handle.stats().as_dict():
        assert written[f"train/gammaslim/{name}"] == [6, 12]


@pytest.mark.parametrize("step", [4, 8])
@pytest.mark.parametrize("penalty", [*PENALTIES, BUDGET], ids=lambda p: type(p).__name__)
def test_a_checkpoint_goes_on_where_it_was_made(tmp_path, penalty, step):
    """A budget has begun to choose by the first, and to shrink by the second."""
    saving = {"save_strategy": "steps", "save_steps": 4}
    slimming = slim(penalty)
    straight, _ = train(tmp_path, slimming, **saving)
    again = slim(lambda steps: penalty)
    path = str(tmp_path / f"checkpoint-{step}")
    resumed, _ = train(tmp_path, again, resume=path, **saving)
    assert_same(resumed.net, straight.net)
    assert again.handle.steps == slimming.handle.steps == 3 * STEPS


def test_a_function_of_the_steps_is_given_those_of_the_whole_training(tmp_path):
    asked = []
    slimming = slim(lambda steps: asked.append(steps) or PENALTY)
    train(tmp_path, slimming)
    train(tmp_path, slimming, gradient_accumulation_steps=2)
    train(tmp_path, slimming, max_steps=5)
    assert asked == [3 * STEPS, 3 * STEPS // 2, 5]


def test_a_checkpoint_without_it_leaves_it_the_steps_that_are_left(tmp_path):
    train(tmp_path, save_strategy="steps", save_steps=6)
    asked = []
    slimming = slim(lambda steps: asked.append(steps) or PENALTY)
    path = str(tmp_path / "checkpoint-6")
    train(tmp_path, slimming, resume=path, save_strategy="steps", save_steps=6)
    assert asked == [6]
    saved = json.loads((tmp_path / "checkpoint-12" / "trainer_state.json").read_text())
    assert saved["stateful_callbacks"]["SlimmingCallback"]["attributes"]["handle_state"]


def test_a_callback_cannot_be_remade_from_a_checkpoint(tmp_path):
    train(tmp_path, slim(), save_strategy="steps", save_steps=6)
    path = str(tmp_path / "checkpoint-6")
    with pytest.raises(gs.PenaltyError, match="Leave that option off"):
        train(tmp_path, slim(), resume=path, restore_callback_states_from_checkpoint=True)


def test_without_transformers_it_says_how_to_install_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "gammaslim.integrations.transformers")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(gs.MissingExtraError, match=r"pip install 'gammaslim\[huggingface\]'"):
        importlib.import_module("gammaslim.integrations.transformers")
