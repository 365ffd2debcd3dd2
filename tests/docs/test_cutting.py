"""The examples of docs/cutting.md, those for one process, run in order."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

import gammaslim as gs
from tests.handmade import PlainNet

PAGE = Path(__file__).parents[2] / "docs" / "cutting.md"
DISTRIBUTED = ("DistributedDataParallel", "StateDictOptions")


def examples():
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [block for block in blocks if not any(word in block for word in DISTRIBUTED)]


@pytest.mark.filterwarnings("ignore:Converting a tensor")
def test_examples_run_in_order(capsys):
    torch.manual_seed(0)
    model = PlainNet([24, 24])
    images = torch.randn(8, 3, 8, 8)
    batches = [(images, torch.arange(8) % 2)] * 24
    graph = gs.trace(model, images[:1])
    with torch.no_grad():
        model.bn0.weight[:6] = 0.0
        model.bn0.bias[:6] = 0.5
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    names = {
        "gs": gs, "model": model, "graph": graph, "optimizer": optimizer, "loader": batches[:2],
        "batches": batches, "loss": functional.cross_entropy, "ema": None,
        "plan": gs.select(graph, gs.scores(model, graph), remove_channels=0.1),
    }  # fmt: skip
    folding, means, _, _, going_on, shrinking = examples()
    exec(folding + means, names)  # noqa: S102 -- our own page
    assert "inputs of 1 layers folded" in capsys.readouterr().out
    handle = gs.attach(model, names["outcome"].graph, optimizer, gs.Proximal(1.0))
    scores = gs.scores(model, handle.graph)
    plan = gs.select(handle.graph, scores, remove_channels=0.2)
    names |= {"handle": handle, "plan": plan}
    exec(going_on, names)  # noqa: S102
    width = model.bn0.num_features
    names["handle"].detach()
    names["handle"] = gs.attach(model, handle.graph, optimizer, gs.Proximal(4.0))
    exec(shrinking.replace("100", "6"), names)  # noqa: S102
    assert model.bn0.num_features < width


def residual():
    """A pre-activation branch on a stream, then a head."""
    torch.manual_seed(0)
    branch = nn.Sequential(
        nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 1)
    )

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.branch = nn.Conv2d(3, 6, 1), branch
            self.norm, self.head = nn.BatchNorm2d(6), nn.Linear(6, 2)

        def forward(self, x):
            x = self.stem(x)
            return self.head(self.norm(x + self.branch(x)).relu().mean((2, 3)))

    return Net().eval()


def test_blocks_and_streams(capsys):
    model, example = residual(), torch.randn(2, 3, 8, 8)
    _, _, blocks, streams, *_ = examples()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    names = {"gs": gs, "model": model, "example_inputs": example, "optimizer": optimizer}
    exec(streams, names)  # noqa: S102 -- our own page
    assert len(names["graph"].selections.each) == 2
    names["handle"].detach()
    graph = gs.trace(model, example)
    scores = gs.scores(model, graph)
    scores[graph.sites[("branch.3.weight", 0)]] = 0
    exec(blocks.replace("0.5", "0.35"), names | {"graph": graph, "scores": scores})  # noqa: S102
    assert "branch.4" in capsys.readouterr().out
