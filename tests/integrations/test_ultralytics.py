"""Ultralytics, on a real YOLOv8n that sees eight small images."""

import csv
import importlib
import os
import sys
import tempfile

import numpy as np
import pytest
import torch

import gammaslim as gs
from tests.integrations.test_examples import run

# Read when it is imported: where it keeps its settings, and that it must not ask the network.
os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.mkdtemp())
os.environ.setdefault("YOLO_OFFLINE", "true")
cv2 = pytest.importorskip(
    "cv2", exc_type=ImportError
)  # it is there but lacks libGL on some machines
ultralytics = pytest.importorskip("ultralytics")

from ultralytics.models.yolo.detect import DetectionTrainer  # noqa: E402
from ultralytics.utils.nms import TorchNMS  # noqa: E402

from gammaslim.integrations.ultralytics import STATE_FILE, add_slimming  # noqa: E402

SIZE, IMAGES, BATCH = 64, 8, 4
RATE = 0.1


@pytest.fixture(autouse=True)
def boxes(monkeypatch):
    """The package's own non-maximum suppression: torchvision's may not be compiled here."""
    torchvision = pytest.importorskip("torchvision")
    monkeypatch.setattr(torchvision.ops, "nms", TorchNMS.nms)


@pytest.fixture
def data(tmp_path):
    """Green squares on noise, and where they are."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        images, labels = tmp_path / "images" / split, tmp_path / "labels" / split
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for index in range(IMAGES):
            pixels = rng.integers(0, 80, (SIZE, SIZE, 3), dtype=np.uint8)
            x, y = rng.integers(4, 36, 2)
            pixels[y : y + 24, x : x + 24] = (0, 255, 0)
            cv2.imwrite(str(images / f"{index}.png"), pixels)
            centre = f"{(x + 12) / SIZE} {(y + 12) / SIZE}"
            (labels / f"{index}.txt").write_text(f"0 {centre} {24 / SIZE} {24 / SIZE}\n")
    path = tmp_path / "data.yaml"
    path.write_text(f"path: {tmp_path}\ntrain: images/train\nval: images/val\nnames: {{0: box}}\n")
    return path


def train(yolo, data, **options):
    defaults = {
        "epochs": 2,
        "imgsz": SIZE,
        "batch": BATCH,
        "nbs": BATCH,
        "device": "cpu",
        "workers": 0,
        "plots": False,
        "project": str(data.parent / "runs"),
        "name": "run",
        "exist_ok": True,
        "optimizer": "SGD",
        "lr0": RATE,
        "warmup_epochs": 0,
        "verbose": False,
    }
    yolo.train(data=str(data), **{**defaults, **options})
    return yolo


def gradients_at_each_step(found):
    """A callback that notes all gradients when ``optimizer.step`` begins."""

    def note(optimizer, args, kwargs):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        found.append({id(p): p.grad.clone() for p in parameters if p.grad is not None})

    return lambda trainer: trainer.optimizer.register_step_pre_hook(note)


def stop_after_first_save(trainer):
    raise InterruptedError("stopped")


def test_each_step_adds_the_penalty_to_the_gradients_of_the_scales(data):
    yolo, before, after, values = ultralytics.YOLO("yolov8n.yaml"), [], [], []
    yolo.add_callback("on_pretrain_routine_end", gradients_at_each_step(before))
    session = add_slimming(yolo, gs.L1(0.3))
    yolo.add_callback("on_pretrain_routine_end", gradients_at_each_step(after))

    def note_values(optimizer, args, kwargs):
        values.append({p: p.detach().clone() for p in trained})

    trained = []

    def begin(trainer):
        named = dict(session.network.named_parameters())
        trained.extend(named[name] for name in session.graph.scales)
        trainer.optimizer.register_step_pre_hook(note_values)

    yolo.add_callback("on_pretrain_routine_end", begin)
    train(yolo, data)
    assert not session.handle.active
    assert len(before) == len(after) == 4
    free = {
        name: session.graph.prunable[session.graph.sites[(name, 0)]]
        for name in session.graph.scales
    }
    for first, second, value in zip(before, after, values, strict=True):
        terms = {
            id(p): 0.3 * p_value.sign() * torch.from_numpy(mask)
            for (p, p_value), mask in zip(value.items(), free.values(), strict=True)
        }
        for key, gradient in first.items():
            assert torch.equal(gradient + terms.get(key, 0.0), second[key])


@pytest.mark.slow
def test_what_it_saves_can_be_cut_and_trained_on(data):
    """Left to itself the package builds a full network again and copies the weights that fit."""

    class KeepNetwork(DetectionTrainer):
        def get_model(self, cfg=None, weights=None, verbose=True):  # noqa: FBT002
            return weights

    yolo = ultralytics.YOLO("yolov8n.yaml")
    session = add_slimming(yolo, gs.Proximal(5.0), ignore=["model.22"])
    train(yolo, data)
    plan = gs.select(session.graph, gs.scores(yolo.model, session.graph), keep_macs=0.5)
    outcome = gs.prune(yolo.model, session.graph, plan)
    assert outcome.after.macs <= 0.5 * outcome.before.macs
    parameters = sum(p.numel() for p in yolo.model.parameters())
    train(yolo, data, trainer=KeepNetwork, epochs=1)
    assert sum(p.numel() for p in yolo.model.parameters()) == parameters
    assert session.graph.cost().params == outcome.after.params  # it was traced once more


def test_a_budget_is_met_in_what_the_package_saves(data):
    """The average of the weights is saved, and what goes is zero in it too."""

    def average_slowly(trainer):  # as it does after some thousand steps
        trainer.ema.decay = lambda updates: 0.99

    yolo = ultralytics.YOLO("yolov8n.yaml")
    yolo.add_callback("on_pretrain_routine_end", average_slowly)
    session = add_slimming(
        yolo, lambda steps: gs.Budget(keep_macs=0.6, steps=steps), ignore=["model.22"]
    )
    train(yolo, data, epochs=3, batch=2, nbs=2)
    plan = session.handle.plan()
    slim = ultralytics.YOLO(yolo.trainer.last).model.float().eval()
    state, gone = slim.state_dict(), 0
    for scale, shift in session.graph.shifts.items():
        every = np.arange(len(state[scale]))
        removed = np.setdiff1d(every, plan.kept.get((scale, 0), every))
        assert not state[scale][removed].any()
        assert not state[shift][removed].any()
        gone += len(removed)
    assert gone > 500
    outcome = gs.prune(slim, session.graph, plan)
    assert outcome.after.macs <= 0.65 * outcome.before.macs


def test_after_a_loss_that_is_not_finite_it_goes_back_with_the_trainer(data):
    yolo, asked, spoilt = ultralytics.YOLO("yolov8n.yaml"), [], []
    session = add_slimming(yolo, lambda steps: asked.append(steps) or gs.L1(1.0))

    def spoil(trainer):
        if trainer.epoch == 1 and not spoilt:
            spoilt.append(session.handle)
            trainer.loss = torch.tensor(float("nan"))

    yolo.add_callback("on_train_epoch_end", spoil)
    train(yolo, data)
    assert asked == [4, 4]
    assert session.handle is not spoilt[0]
    assert not spoilt[0].active
    assert session.handle.steps == 4


def test_figures_are_in_the_results(data):
    yolo = ultralytics.YOLO("yolov8n.yaml")
    session = add_slimming(yolo, gs.L1(1.0))
    train(yolo, data)
    with (data.parent / "runs" / "run" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    for name in session.handle.stats().as_dict():
        assert all(np.isfinite(float(row[f"gammaslim/{name}"])) for row in rows)


def test_a_function_of_the_steps_is_given_exactly_those_taken(data):
    """While it warms up, the trainer accumulates fewer and fewer batches less."""
    yolo, asked, steps = ultralytics.YOLO("yolov8n.yaml"), [], []
    add_slimming(yolo, lambda count: asked.append(count) or gs.L1(1.0))
    yolo.add_callback("on_pretrain_routine_end", gradients_at_each_step(steps))
    train(yolo, data, epochs=4, batch=1, nbs=6, warmup_epochs=2, val=False)
    assert asked == [len(steps)]
    assert len(steps) > 4 * IMAGES // 6 + 1


def test_training_by_time_has_no_number_of_steps(data):
    yolo = ultralytics.YOLO("yolov8n.yaml")
    add_slimming(yolo, lambda steps: gs.L1(1.0))
    with pytest.raises(gs.PenaltyError, match="does not know in advance"):
        train(yolo, data, time=0.01)


def test_an_interrupted_training_resumes_with_the_state_of_the_handle(data):
    asked = []
    yolo = ultralytics.YOLO("yolov8n.yaml")
    first = add_slimming(yolo, lambda steps: asked.append(steps) or gs.L1(1.0))
    yolo.add_callback("on_model_save", stop_after_first_save)
    with pytest.raises(InterruptedError):
        train(yolo, data)
    assert not first.handle.active
    folder = data.parent / "runs" / "run" / "weights"
    saved = torch.load(folder / STATE_FILE, weights_only=True)
    assert saved["epoch"] == 0

    yolo = ultralytics.YOLO(folder / "last.pt")
    second = add_slimming(yolo, lambda steps: asked.append(steps) or gs.L1(1.0))
    yolo.train(resume=True, workers=0)
    assert asked == [4, 4]
    assert saved["handle"]["steps"] == 2
    assert second.handle.steps == 4


def test_without_its_state_a_resumed_training_starts_anew_and_says_so(data):
    yolo = ultralytics.YOLO("yolov8n.yaml")
    yolo.add_callback("on_model_save", stop_after_first_save)
    with pytest.raises(InterruptedError):
        train(yolo, data)
    asked = []
    yolo = ultralytics.YOLO(data.parent / "runs" / "run" / "weights" / "last.pt")
    add_slimming(yolo, lambda steps: asked.append(steps) or gs.L1(1.0))
    with pytest.warns(gs.GammaslimWarning, match="there is no .*gammaslim.pt"):
        yolo.train(resume=True, workers=0)
    assert asked == [2]


def test_what_is_no_yolo_is_refused():
    with pytest.raises(gs.GammaslimError, match="found Linear"):
        add_slimming(torch.nn.Linear(1, 1), gs.L1(0.1))


def test_without_ultralytics_it_says_how_to_install_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "gammaslim.integrations.ultralytics")
    for name in ("ultralytics", "ultralytics.engine.model"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(gs.MissingExtraError, match=r"pip install 'gammaslim\[ultralytics\]'"):
        importlib.import_module("gammaslim.integrations.ultralytics")


def test_the_example_of_the_page(data, tmp_path, monkeypatch):
    """The defaults are for many images: here a step is to be four of them, and nothing drawn."""
    small = {"batch": BATCH, "nbs": BATCH, "plots": False, "project": str(tmp_path / "runs")}
    for name, value in small.items():
        monkeypatch.setattr(ultralytics.utils.DEFAULT_CFG, name, value)
    names = run("Ultralytics", tmp_path, monkeypatch, data=str(data), epochs=6, imgsz=SIZE)
    assert isinstance(names["slim"].trainer, names["KeepNetwork"])
    shapes = {n: tuple(t.shape) for n, t in names["slim"].model.state_dict().items()}
    traced = names["slimming"].graph.shapes
    assert sum(shapes[n] != traced[n] for n in traced) > 50
