"""The examples of docs/selecting.md, run in order."""

import re
from pathlib import Path

import pytest
import torch

import gammaslim as gs
from tests.handmade import PlainNet

PAGE = Path(__file__).parents[2] / "docs" / "selecting.md"


@pytest.mark.filterwarnings("ignore:Converting a tensor")
def test_examples_run_in_order(capsys):
    """Half of either layer is near zero."""
    torch.manual_seed(0)
    model = PlainNet([64, 64])
    graph = gs.trace(model, torch.randn(8, 3, 32, 32))
    with torch.no_grad():
        for norm in (model.bn0, model.bn1):
            norm.weight.uniform_(0.5, 1.0)
            norm.weight[::2] *= 1e-4
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    names = {"gs": gs, "model": model, "graph": graph}
    look, gap, widths, time = blocks
    exec(look, names)  # noqa: S102 -- our own page
    assert [row.target for row in names["table"].rows] == [0.8, 0.6]
    exec(gap, names)  # noqa: S102
    kept = [len(k) for (name, _), k in names["plan"].kept.items() if name.startswith("bn0")]
    assert set(kept) == {32}
    exec(widths, names)  # noqa: S102
    assert all(len(kept) % 8 == 0 for kept in names["plan"].kept.values())
    exec(time, names)  # noqa: S102
    assert names["fit"].ratio <= 0.7
    assert model.bn0.num_features % 8 == 0
    assert names["outcome"].after.macs < names["outcome"].before.macs
    assert "thinnest group" in capsys.readouterr().out
