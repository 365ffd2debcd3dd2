"""The zoo's tool: how the peer's cut is read, what is kept of a run, and the verdicts."""

from __future__ import annotations

import copy
import json

import pytest
import torch

import gammaslim as gs
from bench import oracle
from bench.zoo import __main__ as tool
from bench.zoo import ours, page, peer, results
from tests.bench.test_oracle import Normed

IMAGE = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_peer_is_read_by_its_tags() -> None:
    """Kept slices are found whatever their places; mixed ones are no cut."""
    tags = torch.arange(60, dtype=torch.float64).reshape(3, 4, 5)
    part = tags[[0, 2]][:, [1, 2, 3]]
    found = peer.kept_indices(part, tags.shape)
    assert [list(indices) for indices in found] == [[0, 2], [1, 2, 3], [0, 1, 2, 3, 4]]
    mixed = torch.stack((part[0], part[1].roll(1, 0)))
    with pytest.raises(ValueError, match="dimension 1 mixes"):
        peer.kept_indices(mixed, tags.shape)


def test_refilled_network_is_the_original() -> None:
    model = Normed().eval()
    copied = copy.deepcopy(model)
    peer.tagged(copied)
    peer.refill(copied, oracle.named_tensors(model))
    assert torch.equal(copied(IMAGE), model(IMAGE))
    assert not peer.plan_of(copied, oracle.named_tensors(model)).kept


def test_reachable_plan_falls_back_on_the_closest() -> None:
    graph = gs.trace(Normed(), IMAGE)
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


OURS = {"coverage": 0.5, "cuts": [CUT, {**CUT, "asked": 0.6, "removed": 0.5}]}


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
    assert (tmp_path / "zoo.md").exists()
    tool.main(options)
    assert (tmp_path / "results.jsonl").read_text().splitlines() == lines


def test_time_limit_is_a_result() -> None:
    assert tool.examined("toy:unet", "ours", limit=0) == {"failed": "over 0 s"}
