"""Reports say what the graph says, in words and in a picture."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gammaslim.channels.graph import ChannelGraph
from gammaslim.channels.records import Frozen, Group, Work
from gammaslim.channels.tables import (
    TEXT_WIDTH,
    frozen_table,
    groups_table,
    short_count,
    short_source,
)
from gammaslim.errors import GammaslimError, MissingExtraError
from gammaslim.report import plots
from gammaslim.report.plots import scales_picture


def toy_graph() -> ChannelGraph:
    """Conv 3→4, BatchNorm, conv 4→2: four channels may go, two are the output."""
    inner, output = np.arange(4), np.array([4, 5])
    sites = {
        ("conv1.weight", 0): inner,
        ("bn.weight", 0): inner,
        ("bn.bias", 0): inner,
        ("conv2.weight", 1): inner,
        ("conv2.weight", 0): output,
    }
    shapes = {
        "conv1.weight": (4, 3, 1, 1),
        "bn.weight": (4,),
        "bn.bias": (4,),
        "conv2.weight": (2, 4, 1, 1),
    }
    return ChannelGraph(
        shapes=shapes,
        parameters=tuple(shapes),
        aliases={},
        sites=sites,
        scales=("bn.weight",),
        shifts={"bn.weight": "bn.bias"},
        prunable=np.array([True] * 4 + [False] * 2),
        exact=np.array([True] * 6),
        groups=(
            Group(
                name="conv1",
                channels=inner,
                sites=tuple(list(sites)[:4]),
                scales=("bn.weight",),
                prunable=True,
                exact=True,
            ),
            Group(
                name="conv2",
                channels=output,
                sites=(("conv2.weight", 0),),
                scales=(),
                prunable=False,
                exact=True,
                reason="network output [0]",
            ),
        ),
        frozen=(Frozen("network output [0]", "", "conv2", "", channels=2),),
        work=(
            Work("convolution", 100, (inner, np.full(3, -1))),
            Work("conv", 100, (output, inner)),
        ),
        attributes=(),
        notes=("a note of the trace",),
    )


def test_one_row_per_group():
    assert groups_table(toy_graph().groups).row_count == 2


def test_text_holds_what_a_reader_needs():
    """MACs by hand: 100·(4·3 + 2·4) = 2000; parameters: 12 + 4 + 4 + 8 = 28."""
    text = str(toy_graph())
    row = next(line for line in text.splitlines() if "conv1" in line)
    assert [part.strip() for part in row.strip("│┃ ").split("│")][:6] == [
        "conv1",
        "4",
        "4",
        "1",
        "yes",
        "yes",
    ]
    assert "6 channels in 2 groups, 4 of them may go; coverage 100.0% of" in text
    assert "2.00 k MACs for the example batch, 28 parameters" in text
    row = text.split("Frozen channels")[1].splitlines()[4]
    assert [part.strip() for part in row.strip("│").split("│")] == [
        "0",
        "2",
        "network output [0]",
        "",
        "conv2",
        "",
    ]
    assert "a note of the trace" in text


def test_text_is_plain_and_narrow():
    """No colour codes; and brackets in a reason are text, not markup."""
    text = str(toy_graph())
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= TEXT_WIDTH
    assert "network output [0]" in text.split("Frozen channels", maxsplit=1)[0]


def test_frozen_channels_stand_sorted_by_what_they_cost():
    """One line that several modules run is one row; paths are short, those of the data whole."""
    line = f"{Path.cwd() / 'nets' / 'mine.py'}:7"
    frozen = (
        Frozen("too small", "aten.a", "head", "", 5, 2),
        Frozen("sorted", "aten.sort", "stage.0", line, 3, 1),
        Frozen("sorted", "aten.sort", "stage.1", line, 4, 8),
        Frozen("sorted", "aten.sort", "stage.2", "", 6),
    )
    graph = replace(toy_graph(), frozen=frozen)
    cells = [column._cells for column in frozen_table(graph.frozen).columns]
    rows = [[str(cell) for cell in row] for row in zip(*cells, strict=True)]
    assert rows == [
        ["9", "7", "sorted", "aten.sort", "stage.1 and 1 more", f"{Path('nets') / 'mine.py'}:7"],
        ["2", "5", "too small", "aten.a", "head", ""],
        ["0", "6", "sorted", "aten.sort", "stage.2", ""],
    ]


def test_a_source_is_short_as_python_finds_it():
    """A file of an installed package is named as it is imported; an unknown one in full."""
    assert short_source(f"{np.__file__}:3") == f"{Path('numpy') / '__init__.py'}:3"
    assert short_source("/nowhere/else.py:3") == "/nowhere/else.py:3"
    assert short_source("") == ""


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.00 k"),
        (999_999, "1.00 M"),
        (25_557_032, "25.56 M"),
        (4_089_184_256, "4.09 G"),
    ],
)
def test_short_counts(number, text):
    assert short_count(number) == text


def test_picture_is_written_whole(tmp_path):
    before = {f"layer{i}": np.linspace(-1, 1, 8 + i) for i in range(7)}
    after = {name: values[:5] for name, values in before.items() if name != "layer6"}
    path = tmp_path / "scales.png"
    path.write_bytes(b"an older picture")
    scales_picture(before, after, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in tmp_path.iterdir()] == ["scales.png"]


def test_picture_format_follows_the_suffix(tmp_path):
    scales_picture({"bn": [0.0, 0.0]}, {}, tmp_path / "scales.svg")
    assert b"<svg" in (tmp_path / "scales.svg").read_bytes()


def test_picture_leaves_pyplot_alone(tmp_path):
    """Importing pyplot would pick a backend for the whole process."""
    code = (
        "import sys\nfrom gammaslim.report.plots import scales_picture\n"
        f"scales_picture({{'bn': [1.0]}}, {{}}, {str(tmp_path / 'scales.png')!r})\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_picture_of_nothing_is_refused(tmp_path):
    with pytest.raises(GammaslimError, match=r"no layer was given\. Pass the BatchNorm scales"):
        scales_picture({}, {}, tmp_path / "scales.png")


def test_picture_of_unknown_layers_is_refused(tmp_path):
    with pytest.raises(GammaslimError, match=r"not among those before it: \['other'\]"):
        scales_picture({"bn": [1.0]}, {"other": [1.0]}, tmp_path / "scales.png")


def test_picture_without_matplotlib_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'gammaslim\[report\]'"):
        scales_picture({"bn": [1.0]}, {"bn": [1.0]}, tmp_path / "scales.png")


def test_scales_are_sorted_by_magnitude():
    assert plots._sorted([[0.5, -2.0], [1.0, 0.0]]).tolist() == [2.0, 1.0, 0.5, 0.0]
