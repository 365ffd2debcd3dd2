"""The examples of docs/trainers.md, run as they stand there."""

import re
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

import gammaslim as gs
from tests.integrations.tiny import BATCH, EXAMPLE, images, net, sgd

PAGE = Path(__file__).parents[2] / "docs" / "trainers.md"


def example(title):
    """The one Python block of a section."""
    section = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    body = next(part for part in section if part.startswith(title))
    (code,) = re.findall(r"^```python\n(.*?)^```", body, flags=re.MULTILINE | re.DOTALL)
    return code


def run(title, tmp_path, monkeypatch, **names):
    monkeypatch.chdir(tmp_path)
    exec(compile(example(title), str(PAGE), "exec"), names)  # noqa: S102 -- our own page
    return names


@pytest.fixture
def parts():
    model = net()
    loader = DataLoader(images(), batch_size=BATCH)
    return {
        "torch": torch,
        "model": model,
        "optimizer": sgd(model),
        "loader": loader,
        "example": EXAMPLE,
        "epochs": 3,
    }


def test_own_loop(parts, tmp_path, monkeypatch):
    names = run("Your own loop", tmp_path, monkeypatch, **parts)
    assert names["outcome"].after.macs <= 0.55 * names["outcome"].before.macs
    assert torch.load("last.pt")["slimming"]["steps"] == 12


def test_tensorboard(parts, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    graph = gs.trace(parts["model"], EXAMPLE)
    handle = gs.attach(parts["model"], graph, parts["optimizer"], gs.L1(1.0))
    run("TensorBoard", tmp_path, monkeypatch, handle=handle, **parts)
    assert list(tmp_path.glob("runs/slim/events*"))


@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.`:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*num_workers:UserWarning")
@pytest.mark.filterwarnings("ignore:.*log_every_n_steps:UserWarning")
def test_lightning(parts, tmp_path, monkeypatch):
    pytest.importorskip("lightning.pytorch")
    from tests.integrations.test_lightning import Classifier

    module = Classifier()
    run("Lightning", tmp_path, monkeypatch, lightning_module=module, **parts)
    assert module.net.bn_down.num_features < 6


@pytest.mark.filterwarnings("ignore:'pin_memory':UserWarning")
def test_hugging_face(parts, tmp_path, monkeypatch):
    pytest.importorskip("accelerate")
    from tests.integrations.test_transformers import Classifier

    parts["model"] = Classifier()
    dataset = [{"pixel_values": v, "labels": n} for v, n in images()]
    run("Hugging Face", tmp_path, monkeypatch, dataset=dataset, **{**parts, "epochs": 6})
    assert parts["model"].net.bn_down.num_features < 6
