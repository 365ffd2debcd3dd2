"""The bench of accuracies: tiny runs of every method, what is kept of them, and the page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.accuracy import baselines, glyphs, measures, one
from bench.accuracy.__main__ import arguments, main, wanted
from bench.accuracy.grid import DENSE, METHODS, SHARES, Entry, entries
from bench.accuracy.nets import NETWORKS, build
from bench.accuracy.page import filled, page
from bench.accuracy.plot import points
from bench.accuracy.results import COMMON, _code, fingerprint, load
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
        "recipe": TINY.recipe, "sources": fingerprint(method), "final": 0.5, "wall_s": 2.0,
        "cpu_s": 1.0, "macs": share, "params": share, "widths": [4, 7],
        "latency_ms": {"1": [2.0, 1.0], "32": [9.0, 3.0]},
        "machine": {"cpu": "C", "cores": 2, "threads": 1, "torch": "2"},
    }  # fmt: skip
    return record | values


def unwrapped(text: str) -> str:
    return " ".join(text.split())


def test_the_grid_runs_everything_with_one_seed_before_the_next():
    """And the architecture that is trained from scratch is known by then."""
    found = list(entries(2))
    half = len(found) // 2
    assert len(found) == 2 * len(NETWORKS) * (1 + len(SHARES) * (len(METHODS) - 1))
    assert len(set(found)) == len(found)
    assert {entry.seed for entry in found[:half]} == {0}
    for entry in found:
        if entry.method == "scratch":
            assert found.index(replace(entry, method="budget")) < found.index(entry)


def test_learning_rates_rise_for_a_tenth_and_end_at_zero():
    rates = Setup(train=640, batch=64, epochs=10).rates()
    assert len(rates) == 100
    assert rates[9] == pytest.approx(0.1)
    assert rates.max() == pytest.approx(0.1)
    assert rates[0] == pytest.approx(0.01)
    assert rates[-1] < 1e-4


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


def test_a_second_run_does_only_what_is_missing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = [
        "--results",
        str(tmp_path / "r.jsonl"),
        "--out",
        str(tmp_path / "p.md"),
        "--seeds",
        "1",
    ]
    main([*asked, "--only", "narrow", "vgg", "0.5"], TINY)
    assert "narrow vgg 0.5 0:" in capsys.readouterr().out
    main([*asked, "--only", "narrow", "vgg", "0.5"], TINY)
    assert "narrow vgg 0.5 0:" not in capsys.readouterr().out
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 1
    main([*asked, "--budget-seconds", "-1"], TINY)
    assert "seconds are over" in capsys.readouterr().out
    assert "narrower network from scratch" in (tmp_path / "p.md").read_text()
    assert (tmp_path / "p.png").stat().st_size > 0


def test_only_filters_methods_networks_and_shares():
    found = wanted(arguments(["--only", "l1", "budget", "vgg", "0.3", "--seeds", "2"]))
    assert [entry.key for entry in found] == [
        "budget vgg 0.3 0", "l1 vgg 0.3 0", "budget vgg 0.3 1", "l1 vgg 0.3 1",
    ]  # fmt: skip


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
    assert all((Path(baselines.__file__).parent / f"{name}.py").exists() for name in COMMON)


def test_the_page_states_means_spreads_and_seeds():
    records = [
        made_up("budget", seed=seed, before=0.6, after_cut=0.6, final=final, zero=True, same=1.0,
                drift=1e-7, strength=None)
        for seed, final in enumerate((0.80, 0.82, 0.84))
    ]  # fmt: skip
    text = page([*records, made_up("narrow", final=0.7)], TINY, "p.png")
    row = next(line for line in text.splitlines() if line.startswith("| Budget |"))
    assert "| 3 | 60.0 ± 0.0 | 60.0 ± 0.0 | 82.0 ± 2.0 | 1 / 2 | 0.500 |" in row
    assert "| 2.00 | 3.00 |" in row
    assert "| narrower network from scratch | 1 | – | – | 70.0 |" in text
    said = (
        "- vgg, 0.5: ours ahead: Budget 80.0; best of the others narrower network from scratch 70.0"
    )
    assert said in unwrapped(text)
    assert f"(1 seed, {len(METHODS) - 4} methods missing)" in unwrapped(text)


def test_the_page_says_plainly_where_another_method_is_better():
    records = [made_up("budget", final=0.80), made_up("l1", final=0.81)]
    text = unwrapped(page([*records, made_up("tp_bn", final=0.9)], TINY, "p.png"))
    assert "- vgg, 0.5: ours **behind**: L1 81.0, Budget 80.0; best of the others" in text
    assert "ahead in 0, level in 0, behind in 1 of 1 cells" in text
    assert "Budget against the best of Torch-Pruning" in text
    assert "-10.0 on average" in text


def test_paragraphs_and_bullets_are_broken_apart():
    text = "one\ntwo\n\n- three\nfour\n- five\n\nsix"
    assert filled(text) == "one two\n\n- three four\n- five\n\nsix"


@pytest.mark.parametrize(("mine", "word"), [(70.9, "level"), (71.1, "ahead"), (68.9, "behind")])
def test_less_than_a_percent_apart_is_level(mine, word):
    assert standing(mine, 70.0) == word


def test_a_page_of_nothing_says_so():
    assert "Too little was run" in page([], TINY, "p.png")


def test_points_are_means_over_seeds():
    records = [made_up("l1", seed=seed, final=final) for seed, final in enumerate((0.4, 0.6))]
    records.append(made_up("l1", share=0.3, final=0.2))
    assert points(records, "l1", "vgg", "final") == [[0.3, 0.2], [0.5, 0.5]]
    assert points(records, "l1", "vgg", "after_cut") == []
