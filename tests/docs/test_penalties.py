"""The examples of docs/penalties.md, run in their order, and the tool that writes its table."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import distributed

from bench.pages import write_between
from bench.penalties import __main__ as tool
from bench.penalties import page
from bench.penalties.settings import PENALTIES, PRECISIONS, PROCESSES, Setting, every

PAGE = Path(__file__).resolve().parents[2] / "docs" / "penalties.md"
GOOD = {
    "zeros": 0.25,
    "near": 0.25,
    "accuracy": 0.97,
    "weights": "abc",
    "cut": {"macs": 0.48, "same": True, "drift": 1e-7},
}


@pytest.fixture
def one_process(tmp_path):
    """A process group of one, which DDP and FSDP2 need."""
    meeting = f"file://{tmp_path / 'meeting'}"
    distributed.init_process_group("gloo", init_method=meeting, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_examples_run_in_their_order(one_process, capsys):
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 8
    names = {"__name__": __name__}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for number, block in enumerate(blocks):
            exec(compile(block, f"{PAGE.name}, example {number}", "exec"), names)  # noqa: S102
    said = capsys.readouterr().out
    assert "can move scales by at most" in said
    assert "scales exactly zero" in said


def results(**changed):
    """Good records of one triple, the one under FSDP2 changed."""
    settings = [Setting("Budget", "SGD", "fp32", processes) for processes in PROCESSES]
    found = {setting.key: dict(GOOD) for setting in settings}
    found[settings[2].key] |= changed
    return found


def test_equal_runs_are_one_row():
    assert page.complaints(results()) == []
    assert page.text(results()).count("| Budget | fp32 ") == 1
    assert "equal to the bit" in page.text(results())
    assert "to the last bit in all of them" in page.text(results())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"accuracy": 0.96}, "1 process, DDP and FSDP2 should be equal"),
        ({"zeros": 0.2}, "1 process, DDP and FSDP2 should be equal"),
        ({"zeros": 0.0}, "no scale is exactly zero"),
        ({"cut": {**GOOD["cut"], "same": False}}, "the cut changes predictions"),
        ({"cut": {**GOOD["cut"], "macs": 0.6}}, "0.600 of the MACs are left, above the budget"),
    ],
    ids=["accuracy", "zeros", "none", "predictions", "budget"],
)
def test_what_should_not_be_is_said(changed, said):
    """And the rows stand apart."""
    assert any(said in line for line in page.complaints(results(**changed)))
    assert page.text(results(**changed)).count("| Budget | fp32 ") == 3


def test_the_last_bits_alone_are_no_complaint():
    """Weights may differ by rounding; the table then says no more than equal."""
    assert page.complaints(results(weights="other")) == []
    assert "| equal |" in page.text(results(weights="other"))


def test_runs_have_distinct_keys():
    keys = {setting.key for setting in every()}
    assert len(keys) == len(PENALTIES) * 2 * len(PRECISIONS) * len(PROCESSES)


def test_the_page_shows_the_warning_of_today():
    """The text in the page is what the library says now."""
    assert tool.warning() in PAGE.read_text(encoding="utf-8")


def test_pages_keep_what_is_written_by_hand(tmp_path):
    file = tmp_path / "page.md"
    file.write_text("a\n<!-- x:start -->\nold\n<!-- x:end -->\nb\n", encoding="utf-8")
    write_between(file, "x", "new\n")
    assert file.read_text(encoding="utf-8") == "a\n<!-- x:start -->\nnew\n<!-- x:end -->\nb\n"
    with pytest.raises(SystemExit, match="needs the lines <!-- y:start --> and <!-- y:end -->"):
        write_between(file, "y", "")
