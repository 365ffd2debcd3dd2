"""The bench of accuracies: tiny runs of every method, and what is kept of them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from bench.accuracy import baselines, glyphs, measures, one
from bench.accuracy.__main__ import main
from bench.accuracy.grid import DENSE, METHODS, Entry, entries
from bench.accuracy.nets import NETWORKS, build
from bench.accuracy.plot import points
from bench.accuracy.results import _code, fingerprint, load
from bench.accuracy.setup import Setup
from bench.accuracy.training import Training
from bench.accuracy.verdict import standing

TINY = Setup(train=192, test=96, epochs=4, sparse_epochs=2, batch=16)


@pytest.fixture(scope="module")
def pictures():
    return glyphs.draw(glyphs.Recipe(train=TINY.train, test=TINY.test))


@pytest.fixture(autouse=True)
def in_its_own_folder(tmp_path, monkeypatch):
    """Nothing of what a run keeps for the next one lands in the project."""
    monkeypatch.setattr(one, "CACHE", tmp_path / "kept")


def made_up(method: str, *, net: str = "vgg", share: float = 0.5, seed: int = 0, **values):
    """A record as a run would leave it."""
    entry = Entry(method, net, share, seed)
    record = {
        "key": entry.key, "method": method, "net": net, "share": share, "seed": seed,
        "recipe": TINY.recipe, "sources": fingerprint(method), "final": 0.5, "macs": share,
    }  # fmt: skip
    return record | values


def test_the_architecture_from_scratch_comes_after_the_budget_that_finds_it():
    found = list(entries(2))
    for entry in found:
        if entry.method == "scratch":
            assert found.index(replace(entry, method="budget")) < found.index(entry)


def test_a_training_taken_up_again_goes_on_bit_for_bit(pictures, tmp_path):
    file = tmp_path / "half.pt"
    whole = Training(build("vgg", seed=0), TINY, pictures, 0)
    half = Training(build("vgg", seed=0), TINY, pictures, 0)
    half.once(file, lambda: half.until(TINY.sparse_steps - 5))
    again = Training(build("vgg", seed=1), TINY, pictures, 0)
    again.once(file, lambda: pytest.fail("the file is there"))
    for training in (whole, again):
        training.until(TINY.steps)
    pairs = zip(whole.model.parameters(), again.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert again.cpu > half.cpu > 0


@pytest.mark.parametrize("method", [name for name in METHODS if name != "scratch"])
def test_every_method_runs_and_meets_the_macs(method, pictures):
    share = 1.0 if method == DENSE else 0.4
    net = "vgg" if method.startswith("tp") else "mobilenet"  # its cuts take seconds there
    record = one.run(Entry(method, net, share, 0), TINY, pictures, {})
    assert json.loads(json.dumps(record)) == record
    assert 0 <= record["final"] <= 1
    assert record["macs"] == pytest.approx(share, rel=0.12)
    assert set(record["latency_ms"]) == {"1", "32"}
    assert ("before" in record) == (method not in (DENSE, "narrow"))


def test_a_budget_removes_nothing_but_zeros_and_changes_no_answer(pictures):
    record = one.run(Entry("budget", "resnet20", 0.3, 0), TINY, pictures, {})
    assert record["zero"]
    assert record["same"] == 1
    assert record["drift"] < 1e-4
    assert record["after_cut"] == record["before"]


def test_a_cut_that_removes_more_than_zeros_says_so(pictures):
    record = one.run(Entry("l1", "vgg", 0.3, 0), TINY, pictures, {})
    assert record["zero"] is False
    assert record["drift"] > 1e-3


def test_a_fresh_network_gets_the_widths_of_the_cut_one_and_other_weights():
    plain = build("resnet20", seed=0)
    full = baselines.widths(baselines.gs.trace(plain, baselines.EXAMPLE))
    kept = [width // 2 for width in full]
    first, second = (baselines.scratch("resnet20", kept, seed) for seed in (0, 1))
    assert baselines.widths(baselines.gs.trace(first, baselines.EXAMPLE)) == kept
    assert not torch.equal(first.head.weight, second.head.weight)
    assert not torch.equal(first.head.weight, plain.head.weight[:, : kept[-1]])


def test_the_architecture_from_scratch_needs_the_budget_first(pictures):
    with pytest.raises(LookupError, match="run that first"):
        one.run(Entry("scratch", "vgg", 0.5, 0), TINY, pictures, {})


@pytest.mark.parametrize("net", NETWORKS)
def test_a_uniformly_narrower_network_has_about_the_macs(net):
    model = baselines.narrow(net, 0.15, 0)
    share = baselines.macs(model) / baselines.macs(build(net, seed=0))
    assert share == pytest.approx(0.15, rel=0.07)


def test_drift_and_same_predictions():
    before = torch.tensor([[1.0, 4.0], [2.0, 1.0]])
    after = torch.tensor([[1.0, 4.0], [0.0, 1.0]])
    assert measures.drift(before, after) == pytest.approx(0.5)
    assert measures.same_predictions(before, after) == 0.5


def test_a_second_run_does_only_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = ["--results", "r.jsonl", "--out", "p.md", "--seeds", "1"]
    for _ in range(2):
        main([*asked, "--only", "narrow", "vgg", "0.5"], TINY)
    main([*asked, "--budget-seconds", "-1"], TINY)
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 1


def test_results_of_other_recipes_sources_and_broken_lines_are_left_out(tmp_path):
    file = tmp_path / "results.jsonl"
    good = made_up("l1")
    lines = [good, good | {"recipe": "0"}, good | {"sources": "0"}]
    file.write_text("\n".join([*map(json.dumps, lines), '{"key": "l1 v']))
    assert load(file, TINY.recipe) == {"l1 vgg 0.5 0": good}


def test_fingerprints_see_code_but_neither_comments_nor_docstrings():
    plain = "def f():\n    return 1\n"
    assert _code(plain) == _code(
        '"""Why."""\n\n# One.\ndef f():\n    """What\n    for."""\n    return 1\n'
    )
    assert _code(plain) != _code(plain.replace("1", "2"))
    assert fingerprint("l1") == fingerprint("budget") != fingerprint("tp_bn")


@pytest.mark.parametrize(("mine", "word"), [(70.9, "level"), (71.1, "ahead"), (68.9, "behind")])
def test_less_than_a_percent_apart_is_level(mine, word):
    assert standing(mine, 70.0) == word


def test_points_are_means_over_seeds():
    records = [made_up("l1", seed=seed, final=final) for seed, final in enumerate((0.4, 0.6))]
    records.append(made_up("l1", share=0.3, final=0.2))
    assert points(records, "l1", "vgg", "final") == [[0.3, 0.2], [0.5, 0.5]]
    assert points(records, "l1", "vgg", "after_cut") == []
