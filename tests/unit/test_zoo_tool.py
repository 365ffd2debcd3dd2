"""The zoo's own tool: what it checks with, what it keeps, and what it says."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gammaslim as gs
from bench.zoo import __main__ as tool
from bench.zoo import law, ours, page, peer, results
from bench.zoo.entries import ENTRIES
from tests import oracle


class Normed(nn.Module):
    """A BatchNorm whose channels two other norms count."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.layer, self.group = nn.LayerNorm(8), nn.GroupNorm(1, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x)).relu().mean((2, 3))
        return self.head(self.group(self.layer(x)))


def cut_in_half(model: nn.Module, inputs: Tensor) -> tuple[nn.Module, gs.Plan]:
    """A cut copy and its plan; channels are removed at random."""
    law.settle(model, inputs, seed=0)
    graph = gs.trace(model, inputs)
    plan = gs.select(graph, oracle.random_scores(graph, 0), remove_channels=0.5)
    cut = copy.deepcopy(model)
    gs.prune(cut, graph, plan, verify=False)
    return cut, plan


@pytest.fixture
def inputs() -> Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_masked_norms_count_what_is_kept(inputs: Tensor) -> None:
    """Without that, the masked network is no reference for LayerNorm and GroupNorm."""
    model = Normed()
    cut, plan = cut_in_half(model, inputs)
    masked = oracle.masked_copy(model, plan)
    assert law.Pair(masked, cut, plan, inputs).compared().holds
    assert oracle.drift(oracle.outputs(masked, inputs), oracle.outputs(cut, inputs)) > 1e-2


def test_rolled_weights_are_caught_and_put_back(inputs: Tensor) -> None:
    model = Normed()
    cut, plan = cut_in_half(model, inputs)
    before = copy.deepcopy(cut.state_dict())
    found = law.Pair(oracle.masked_copy(model, plan), cut, plan, inputs).controls()
    assert found
    assert all(one.caught for one in found)
    assert all(torch.equal(before[name], tensor) for name, tensor in cut.state_dict().items())


def test_a_layer_that_is_not_called_any_more_is_a_drift(inputs: Tensor) -> None:
    model = Normed()
    cut, plan = cut_in_half(model, inputs)
    cut.norm = nn.Identity()
    finding = law.Pair(oracle.masked_copy(model, plan), cut, plan, inputs).compared()
    assert finding.drift == float("inf")
    assert finding.first == "norm"


def test_magnified_rounding_is_judged_in_double_precision(inputs: Tensor) -> None:
    """Large numbers that cancel leave a drift of mere rounding; a rolled weight still shows."""
    model = Normed()
    cut, plan = cut_in_half(model, inputs)
    masked = oracle.masked_copy(model, plan)
    for network in (masked, cut):
        network.conv.bias.data += 1e4  # in steps of 0.001
        network.norm.running_mean += 1e4
    cut.conv.weight.data *= 1 + 1e-5
    pair = law.Pair(masked, cut, plan, inputs)
    assert not pair.compared().holds
    precise, finding = law.judged(pair)
    assert finding.holds
    assert all(one.caught for one in precise.controls())


def test_peer_is_read_by_its_tags() -> None:
    """Kept slices are found whatever their places; mixed ones are no cut."""
    tags = torch.arange(60, dtype=torch.float64).reshape(3, 4, 5)
    part = tags[[0, 2]][:, [1, 2, 3]]
    found = peer.kept_indices(part, tags.shape)
    assert [list(indices) for indices in found] == [[0, 2], [1, 2, 3], [0, 1, 2, 3, 4]]
    mixed = torch.stack((part[0], part[1].roll(1, 0)))
    with pytest.raises(ValueError, match="dimension 1 mixes"):
        peer.kept_indices(mixed, tags.shape)


def test_refilled_network_is_the_original(inputs: Tensor) -> None:
    model = Normed().eval()
    copied = copy.deepcopy(model)
    peer.tagged(copied)
    peer.refill(copied, oracle.named_tensors(model))
    assert torch.equal(copied(inputs), model(inputs))
    assert not peer.plan_of(copied, oracle.named_tensors(model)).kept


def test_reachable_plan_falls_back_on_the_closest(inputs: Tensor) -> None:
    graph = gs.trace(Normed(), inputs)
    assert ours.reachable_plan(graph, 0.5, seed=0)[1] == 0.5
    assert ours.reachable_plan(graph, 1.0, seed=0)[1] == 0.875


def test_interrupted_line_is_left_out(tmp_path) -> None:
    """The next line does not run into it."""
    file = tmp_path / "results.jsonl"
    assert results.load(file, "now") == {}
    results.append(file, {"key": "a", "sources": "now", "ours": 1})
    with file.open("a") as stream:
        stream.write('{"key": "b", "sour')
    results.append(file, {"key": "c", "sources": "now"})
    results.append(file, {"key": "a", "sources": "now", "ours": 2})
    results.append(file, {"key": "d", "sources": "then"})
    found = results.load(file, "now")
    assert set(found) == {"a", "c"}
    assert found["a"]["ours"] == 2


CUT = {
    "asked": 0.3, "removed": 0.3, "drift": 1e-7, "training_error": "",
    "law": {"drift": 1e-6, "first": "", "compared": 3, "holds": True},
    "controls": [{"rolled": "conv.weight", "caught": "conv"}],
}  # fmt: skip
OURS = {
    "params": 5_000_000, "coverage": 0.5, "trace_s": 0.2, "first_trace_s": 0.4,
    "fake_forward_s": 0.1, "peak_mb": 12.0, "notes": [],
    "reasons": [{"text": "why (aten.view, net, net.py:3)", "scales": 7}],
    "cuts": [CUT, {**CUT, "asked": 0.6, "removed": 0.5}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, "verified"),
        ({"failed": "over 600 s"}, "failed"),
        ({"refused": "TraceError: no"}, "refused"),
        ({"cuts": [CUT, {"asked": 0.6, "removed": 0.6, "refused": "no"}]}, "refused"),
        ({"cuts": [{**CUT, "drift": 1e-3}]}, "wrong"),
        ({"cuts": [{**CUT, "drift": float("nan")}]}, "wrong"),
        ({"cuts": [{**CUT, "law": {**CUT["law"], "holds": False, "first": "bn"}}]}, "wrong"),
        ({"cuts": [{**CUT, "training_error": "RuntimeError"}]}, "wrong"),
    ],
)
def test_verdict(change, expected) -> None:
    assert page.verdict({**OURS, **change}) == expected


def test_page_says_what_was_found() -> None:
    """Every row, its reasons, and the summary; a dash where there is nothing."""
    entries = [replace(ENTRIES[0], name=name, library="toy") for name in ("one", "two", "three")]
    right = {"verdict": "right", "text": "", "construction_s": 0.7, "first_construction_s": 1.0}
    found = {
        "toy:one": {"key": "toy:one", "ours": OURS, "peer": right},
        "toy:two": {"key": "toy:two", "ours": {"failed": "over 600 s"},
                    "peer": {"failed": "over 120 s"}},
    }  # fmt: skip
    text = page.page(found, entries)
    assert "2 of 3 networks measured: 1 verified, 0 refused, 0 wrong, 1 failed." in text
    assert "mean 0.500, least 0.500" in text
    assert "0.200 s against its 0.700 s" in text
    assert "1.0e-06 (at 50%)" in text
    assert "7 scales: why (aten.view, net, net.py:3)" in text
    assert "`conv.weight` at conv" in text
    assert "toy:two: over 600 s" in text
    rows = [line for line in text.splitlines() if line.startswith("| toy:")]
    assert len({row.count("|") for row in rows}) == 1


def test_page_hides_the_folders_of_this_machine() -> None:
    said = "frozen (aten.view, net, /home/me/site-packages/timm/models/x.py:3)"
    assert page.without_paths(said) == "frozen (aten.view, net, timm/models/x.py:3)"


def test_one_network_in_its_own_process(tmp_path) -> None:
    """The whole way, without the peer; a second run has nothing left to do."""
    options = ["toy:unet", "--no-peer", "--results", str(tmp_path / "results.jsonl")]
    options += ["--page", str(tmp_path / "zoo.md")]
    tool.main(options)
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert page.verdict(json.loads(lines[0])["ours"]) == "verified"
    assert "| toy:unet | 0.5 M | verified | 1.000 |" in (tmp_path / "zoo.md").read_text()
    tool.main(options)
    assert (tmp_path / "results.jsonl").read_text().splitlines() == lines


def test_time_limit_is_a_result() -> None:
    assert tool.examined("toy:unet", "ours", limit=0) == {"failed": "over 0 s"}


def test_unknown_network_is_refused(capsys) -> None:
    with pytest.raises(SystemExit):
        tool.arguments(["timm:nothing"])
    assert "unknown: timm:nothing" in capsys.readouterr().err


def test_names_are_unique() -> None:
    keys = [entry.key for entry in ENTRIES]
    assert len(set(keys)) == len(keys)
    assert np.all([entry.coverage > 0 for entry in ENTRIES])
