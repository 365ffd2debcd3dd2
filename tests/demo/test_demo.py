"""The demo's pieces, quickly; `make demo` runs the whole."""

import json
import sys
from dataclasses import replace

import pytest
import torch
from rich.console import Console

import gammaslim as gs
from gammaslim.demo.data import load_digits
from gammaslim.demo.metrics import Accuracy, Change, Measured, metrics_table, write_metrics
from gammaslim.demo.nets import NETWORKS, build
from gammaslim.demo.run import FILES, Recipe, Setting, make_folder, run_demo, slim_network
from gammaslim.demo.training import (
    BATCH,
    Phase,
    accuracy,
    latencies,
    make_optimizer,
    predict,
    train,
)

SHORT = Recipe(sparse=Phase(1, 0.1), tune=Phase(1, 0.01))


@pytest.fixture(scope="module")
def digits():
    return load_digits()


def line():
    accuracies = Accuracy(0.99, 0.9, 0.98)
    latency = Change(2.0, 1.0)
    return Measured(
        accuracies, Change(9, 4), Change(8, 3), 1e-7, same_predictions=True, latency_ms=latency
    )


def test_split_is_disjoint_and_stratified(digits):
    assert len(digits.train_labels) + len(digits.test_labels) == 1797
    assert len(digits.test_labels) == 450
    assert digits.test_labels.bincount().min() >= 43
    seen = {image.numpy().tobytes() for image in digits.train_images}
    assert not any(image.numpy().tobytes() in seen for image in digits.test_images)


def test_images_are_normalised_by_the_training_set(digits):
    assert digits.train_images.shape[1:] == (1, 8, 8)
    assert abs(digits.train_images.mean()) < 1e-5
    assert abs(digits.train_images.std() - 1) < 1e-3


def test_batches_follow_their_generator(digits):
    first, again = (list(digits.batches(BATCH, torch.Generator().manual_seed(3))) for _ in range(2))
    assert len(first) == digits.steps(BATCH)
    for (images, labels), (same_images, same_labels) in zip(first, again, strict=True):
        assert torch.equal(images, same_images)
        assert torch.equal(labels, same_labels)
        assert images.shape == (BATCH, 1, 8, 8)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_built_from_the_seed_alone(name, digits):
    state = torch.get_rng_state()
    one, two, other = build(name, 1), build(name, 1), build(name, 2)
    assert torch.equal(state, torch.get_rng_state())
    outputs = [predict(net, digits.test_images[:3]) for net in (one, two, other)]
    assert outputs[0].shape == (3, 10)
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_training_learns_and_repeats(digits):
    results = []
    for _ in range(2):
        model, ticks = build("vgg", 0), []
        optimizer = make_optimizer(model)
        train(model, optimizer, digits, Phase(2, 0.1), seed=0, tick=lambda t=ticks: t.append(1))
        assert len(ticks) == 2
        results.append(predict(model, digits.test_images))
    assert torch.equal(*results)
    assert accuracy(model, digits) > 0.5


def test_weight_decay_spares_scales_and_shifts():
    model = build("vgg", 0)
    decayed, spared = make_optimizer(model).param_groups
    assert decayed["weight_decay"] > 0
    assert spared["weight_decay"] == 0
    assert all(p.ndim == 1 for p in spared["params"])
    assert len(decayed["params"]) + len(spared["params"]) == len(list(model.parameters()))


def test_latencies_are_one_median_per_model(digits):
    times = latencies((build("vgg", 0), build("resnet", 0)), digits.test_images[:4], rounds=3)
    assert len(times) == 2
    assert min(times) > 0


def test_metrics_file(tmp_path):
    write_metrics({"vgg": line()}, tmp_path / "metrics.json")
    assert json.loads((tmp_path / "metrics.json").read_text()) == {
        "vgg": {
            "accuracy": {"dense": 0.99, "after_cut": 0.9, "finetuned": 0.98},
            "macs": {"before": 9, "after": 4},
            "params": {"before": 8, "after": 3},
            "drift": 1e-7,
            "same_predictions": True,
            "latency_ms": {"before": 2.0, "after": 1.0},
        }
    }
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.json"]


def test_metrics_table():
    table = metrics_table({"vgg": line(), "resnet": line()})
    assert len(table.columns) == 3
    assert table.row_count == 8
    assert metrics_table({}).row_count == 0


def test_folder_may_not_be_a_file(tmp_path):
    (tmp_path / "taken").touch()
    with pytest.raises(gs.GammaslimError, match=r"there is a file of that name\. Name another"):
        make_folder(tmp_path / "taken")
    with pytest.raises(gs.GammaslimError, match="Name another folder with --out"):
        make_folder(tmp_path / "taken" / "below")


def test_missing_scikit_learn_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(gs.MissingExtraError, match=r"pip install 'gammaslim\[demo\]'"):
        load_digits()


@pytest.mark.parametrize("penalty", ["budget", "lasso"])
@pytest.mark.parametrize("name", NETWORKS)
def test_one_network_in_short(name, penalty, digits, tmp_path):
    file = tmp_path / FILES[name]
    result = slim_network(name, Setting(digits, replace(SHORT, penalty=penalty), seed=0), file)
    measured = result.measured
    assert measured.same_predictions >= (penalty == "budget")
    assert file.stat().st_size > 0
    assert measured.macs.after <= SHORT.keep_macs * measured.macs.before
    assert measured.params.after < measured.params.before
    assert measured.drift < 1e-4
    assert list(result.before) == list(result.after)
    assert sum(map(len, result.after.values())) < sum(map(len, result.before.values()))


@pytest.mark.slow
def test_the_whole_demo_keeps_its_promise(tmp_path):
    """At most half of the MACs, within a point of the dense accuracy, and all files written."""
    measured = run_demo(tmp_path / "new" / "out", console=Console(quiet=True))
    assert {file.name for file in (tmp_path / "new" / "out").iterdir()} == {
        *FILES.values(),
        "metrics.json",
        "scales.png",
    }
    for result in measured.values():
        assert result.macs.after <= 0.5 * result.macs.before
        assert result.accuracy.finetuned >= result.accuracy.dense - 0.01
        assert result.drift < 1e-4
        assert result.same_predictions
        assert result.accuracy.after_cut == result.accuracy.dense
